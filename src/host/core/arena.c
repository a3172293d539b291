/* arena.c - bump allocation. */
#include "core/arena.h"

#include "core/size.h"

csp_status csp_arena_take(csp_arena *arena, size_t bytes, void **out)
{
    const size_t start = arena->used;
    const size_t end = start + csp_size_round_up(bytes, CSP_ARENA_ALIGN);

    if (end < start) {
        return CSP_FAIL(CSP_ERR_MEMORY, "arena: a block of %zu bytes overflows", bytes);
    }
    if (arena->base != NULL && end > arena->capacity) {
        return CSP_FAIL(CSP_ERR_MEMORY, "arena: %zu bytes needed, %zu of %zu left", bytes,
                        arena->capacity - start, arena->capacity);
    }
    arena->used = end;
    if (end > arena->peak) {
        arena->peak = end;
    }
    *out = arena->base != NULL ? arena->base + start : NULL;
    return CSP_OK;
}

csp_status csp_arena_tensor(csp_arena *arena, csp_dtype dtype, int ndim, const int64_t *dims,
                            csp_tensor *out)
{
    csp_tensor t = csp_tensor_view(NULL, dtype, ndim, dims);
    int64_t count = 1;

    for (int i = 0; i < ndim; i++) {
        CSP_TRY(csp_size_mul("arena tensor", count, dims[i], &count));
    }
    CSP_TRY(csp_size_mul("arena tensor", count, (int64_t)csp_dtype_bytes(dtype), &count));
    CSP_TRY(csp_arena_take(arena, (size_t)count, &t.data));
    *out = t;
    return CSP_OK;
}
