/*
 * id_table.h - a set of ids in memory, each with its ordinal: which document or query is "MED-10"?
 *
 * Ids lie one after another in one block; a hash table of ordinals finds them, and a hit is
 * compared byte by byte, so two ids never stand for each other. Memory is the ids themselves and
 * about 20 bytes each, whatever the texts are.
 */
#pragma once

#include "data/image.h"

typedef struct csp_id_table csp_id_table;

/* Errors: CSP_ERR_MEMORY. *out is written only on success. */
CSP_CHECKED csp_status csp_id_table_create(csp_id_table **out);
void csp_id_table_destroy(csp_id_table *table);

/*
 * Puts an id in, unless it is there.
 *
 *   id      in   bytes bytes, without a NUL byte
 *   index   out  its ordinal: 0 for the first new id, then 1, ...
 *   is_new  out  false when the id was there before
 *
 * Errors: CSP_ERR_MEMORY, also beyond 2^31 - 1 ids; the table is as it was.
 */
CSP_CHECKED csp_status csp_id_table_add(csp_id_table *table, const char *id, int64_t bytes,
                                        int64_t *index, bool *is_new);

/* The ordinal of an id, -1 if it is not there. */
int64_t csp_id_table_find(const csp_id_table *table, const char *id, int64_t bytes);

/* The id at an ordinal in 0..count-1, NUL-terminated; valid until the next add. */
const char *csp_id_table_id(const csp_id_table *table, int64_t index);
int64_t csp_id_table_count(const csp_id_table *table);

/*
 * Visits the parts of a table (data/image.h), which is made where *table is NULL. Nothing is added
 * to one that has become an image's. Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_id_table_share(csp_image *image, csp_id_table **table);

/* A 64-bit hash of some bytes, the same on every machine. Not for keeping strangers out. */
uint64_t csp_hash_bytes(const char *bytes, int64_t count);
