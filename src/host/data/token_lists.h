/*
 * token_lists.h - the token ids of several texts in one block, and a cache of those already
 * encoded.
 */
#pragma once

#include "core/status.h"

/* List i is ids[start[i]] .. ids[start[i + 1] - 1]. Start from { 0 }; memory is kept by reset. */
typedef struct csp_token_lists {
    int32_t *ids;
    int64_t *start; /* count + 1 of them once a list was added */
    int64_t count;
    int64_t id_room, list_room;
} csp_token_lists;

/* Empties the lists without giving memory back, or with. */
void csp_token_lists_reset(csp_token_lists *lists);
void csp_token_lists_clear(csp_token_lists *lists);

/* Appends a list of count >= 0 ids. Errors: CSP_ERR_MEMORY; the lists are as they were. */
CSP_CHECKED csp_status csp_token_lists_add(csp_token_lists *lists, const int32_t *ids,
                                           int64_t count);

/* The ids of list i and how many; valid until the next add. */
const int32_t *csp_token_lists_get(const csp_token_lists *lists, int64_t i, int64_t *count);

/*
 * Token lists by text ordinal, so that a text is tokenised once in a training run. Ids take two
 * bytes each where the vocabulary allows. When the limit is reached the cache takes nothing more
 * and goes on serving what it has: results never depend on it.
 */
typedef struct csp_token_cache csp_token_cache;

/*
 *   texts        in  ordinals are 0..texts-1
 *   vocab_size   in  ids are below it
 *   limit_bytes  in  for everything; 0 or less than 12 bytes a text: nothing is kept
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_token_cache_create(int64_t texts, int64_t vocab_size,
                                              int64_t limit_bytes, csp_token_cache **out);
void csp_token_cache_destroy(csp_token_cache *cache);

/* Appends the ids of a text to lists, if the cache has them: *found tells. Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_token_cache_get(const csp_token_cache *cache, int64_t text,
                                           csp_token_lists *lists, bool *found);

/* Keeps the ids of a text, if there is room. Each text once. */
void csp_token_cache_put(csp_token_cache *cache, int64_t text, const int32_t *ids, int64_t count);

/* Texts held and bytes used. */
int64_t csp_token_cache_held(const csp_token_cache *cache);
int64_t csp_token_cache_bytes(const csp_token_cache *cache);
