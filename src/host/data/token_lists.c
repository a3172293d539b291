/* token_lists.c - growing lists of ids; the cache carves its lists out of chunks of a megabyte. */
#include "data/token_lists.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

#define CHUNK_BYTES ((int64_t)1 << 20)

/* count + 1 lists and ids more ids fit afterwards. */
static csp_status reserve(csp_token_lists *lists, int64_t ids)
{
    const int64_t used = lists->count > 0 ? lists->start[lists->count] : 0;

    if (lists->count + 2 > lists->list_room) {
        const int64_t room = (lists->count + 2) * 3 / 2 + 64;

        CSP_TRY(csp_realloc("token lists", room, sizeof(*lists->start), &lists->start));
        lists->list_room = room;
    }
    if (used + ids > lists->id_room) {
        const int64_t room = (used + ids) * 3 / 2 + 1024;

        CSP_TRY(csp_realloc("token lists", room, sizeof(*lists->ids), &lists->ids));
        lists->id_room = room;
    }
    lists->start[0] = 0;
    return CSP_OK;
}

void csp_token_lists_reset(csp_token_lists *lists)
{
    lists->count = 0;
}

void csp_token_lists_clear(csp_token_lists *lists)
{
    free(lists->ids);
    free(lists->start);
    *lists = (csp_token_lists) { 0 };
}

csp_status csp_token_lists_add(csp_token_lists *lists, const int32_t *ids, int64_t count)
{
    int64_t used;

    CSP_TRY(reserve(lists, count));
    used = lists->start[lists->count];
    if (count > 0) {
        memcpy(lists->ids + used, ids, (size_t)count * sizeof(*ids));
    }
    lists->start[++lists->count] = used + count;
    return CSP_OK;
}

const int32_t *csp_token_lists_get(const csp_token_lists *lists, int64_t i, int64_t *count)
{
    *count = lists->start[i + 1] - lists->start[i];
    return lists->ids + lists->start[i];
}

typedef struct chunk {
    struct chunk *next;
    int64_t used, room; /* bytes */
    char bytes[];
} chunk;

struct csp_token_cache {
    int64_t texts, limit, used, held;
    size_t width;    /* bytes of an id: 2 or 4               */
    void **list;     /* by text; NULL arrays if nothing fits */
    int32_t *counts; /* by text, -1 = not held               */
    chunk *chunks;   /* the newest first                     */
};

csp_status csp_token_cache_create(int64_t texts, int64_t vocab_size, int64_t limit_bytes,
                                  csp_token_cache **out)
{
    const int64_t index_bytes = texts * (int64_t)(sizeof(void *) + sizeof(int32_t));
    csp_status status;
    csp_token_cache *cache = NULL;

    CSP_TRY(csp_alloc_zero("token cache", 1, sizeof(*cache), &cache));
    cache->texts = texts;
    cache->limit = limit_bytes;
    cache->width = vocab_size <= 65536 ? sizeof(uint16_t) : sizeof(int32_t);
    if (index_bytes <= limit_bytes) {
        CSP_TRY_GOTO(csp_alloc_zero("token cache", texts, sizeof(void *), &cache->list));
        CSP_TRY_GOTO(csp_alloc("token cache", texts, sizeof(int32_t), &cache->counts));
        for (int64_t i = 0; i < texts; i++) {
            cache->counts[i] = -1;
        }
        cache->used = index_bytes;
    }
    *out = cache;
    return CSP_OK;

fail:
    csp_token_cache_destroy(cache);
    return status;
}

void csp_token_cache_destroy(csp_token_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    while (cache->chunks != NULL) {
        chunk *next = cache->chunks->next;

        free(cache->chunks);
        cache->chunks = next;
    }
    free(cache->list);
    free(cache->counts);
    free(cache);
}

csp_status csp_token_cache_get(const csp_token_cache *cache, int64_t text, csp_token_lists *lists,
                               bool *found)
{
    int32_t count;

    if (cache->counts == NULL || cache->counts[text] < 0) {
        *found = false;
        return CSP_OK;
    }
    count = cache->counts[text];
    if (cache->width == sizeof(int32_t)) {
        CSP_TRY(csp_token_lists_add(lists, cache->list[text], count));
    } else {
        const uint16_t *narrow = cache->list[text];
        int32_t *ids;

        CSP_TRY(reserve(lists, count));
        ids = lists->ids + lists->start[lists->count];
        for (int32_t i = 0; i < count; i++) {
            ids[i] = narrow[i];
        }
        lists->start[lists->count + 1] = lists->start[lists->count] + count;
        lists->count++;
    }
    *found = true;
    return CSP_OK;
}

/* Room for bytes (a multiple of the id width), or NULL when the limit or the memory says no. */
static void *carve(csp_token_cache *cache, int64_t bytes)
{
    chunk *c = cache->chunks;

    if (c == NULL || c->used + bytes > c->room) {
        const int64_t room = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        const int64_t all = (int64_t)sizeof(chunk) + room;

        if (cache->used + all > cache->limit || csp_alloc("token cache", all, 1, &c) != CSP_OK) {
            return NULL;
        }
        *c = (chunk) { .next = cache->chunks, .room = room };
        cache->chunks = c;
        cache->used += all;
    }
    c->used += bytes;
    return c->bytes + c->used - bytes;
}

void csp_token_cache_put(csp_token_cache *cache, int64_t text, const int32_t *ids, int64_t count)
{
    void *place;

    if (cache->counts == NULL || cache->counts[text] >= 0 || count > INT32_MAX) {
        return;
    }
    place = carve(cache, (count * (int64_t)cache->width + 3) & ~(int64_t)3);
    if (place == NULL) {
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        if (cache->width == sizeof(int32_t)) {
            ((int32_t *)place)[i] = ids[i];
        } else {
            ((uint16_t *)place)[i] = (uint16_t)ids[i];
        }
    }
    cache->list[text] = place;
    cache->counts[text] = (int32_t)count;
    cache->held++;
}

int64_t csp_token_cache_held(const csp_token_cache *cache)
{
    return cache->held;
}

int64_t csp_token_cache_bytes(const csp_token_cache *cache)
{
    return cache->used;
}
