/*
 * arena.h - bump allocation with mark and release; measures when it has no memory.
 *
 * Run the function that places tensors once on an arena without memory, read `peak`, get that many
 * bytes once, and run the same function again: there is no second list of sizes to keep in step.
 */
#pragma once

#include "core/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every block starts at a multiple of this: a cache line, and what 16-byte loads need. */
enum { CSP_ARENA_ALIGN = 64 };

typedef struct csp_arena {
    char *base;      /* NULL: the arena only measures */
    size_t capacity; /* bytes at base                 */
    size_t used;
    size_t peak; /* highest `used` since the start */
} csp_arena;

/*
 * Takes bytes from the arena, aligned to CSP_ARENA_ALIGN; contents undefined.
 *
 *   out   out   the block; NULL if the arena only measures
 *
 * Errors: CSP_ERR_MEMORY with needed and present sizes; the arena is unchanged then.
 */
CSP_CHECKED csp_status csp_arena_take(csp_arena *arena, size_t bytes, void **out);

/* Takes a tensor. Errors as csp_arena_take; *out is written only on success. */
CSP_CHECKED csp_status csp_arena_tensor(csp_arena *arena, csp_dtype dtype, int ndim,
                                        const int64_t *dims, csp_tensor *out);

/* Remembers how much is used, for csp_arena_release, which gives everything after it back. */
static inline size_t csp_arena_mark(const csp_arena *arena)
{
    return arena->used;
}

static inline void csp_arena_release(csp_arena *arena, size_t mark)
{
    CSP_ASSERT(mark <= arena->used);
    arena->used = mark;
}

#ifdef __cplusplus
}
#endif
