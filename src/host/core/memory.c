/* memory.c - allocations that ask the fault driver first. */
#include "core/memory.h"

#include <stdlib.h>
#include <string.h>

#include "core/fault.h"
#include "core/size.h"

static csp_status block_bytes(const char *what, int64_t count, size_t size, size_t *bytes)
{
    int64_t product;

    CSP_TRY(csp_size_mul(what, count, (int64_t)size, &product));
    *bytes = product > 0 ? (size_t)product : 1;
    if (csp_fault_here()) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for %zu bytes (injected)", what, *bytes);
    }
    return CSP_OK;
}

/* out is a `T **`, passed as void * so that callers need no cast; memcpy keeps that legal. */
static csp_status give(const char *what, void *block, size_t bytes, void *out)
{
    if (block == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for %zu bytes", what, bytes);
    }
    memcpy(out, &block, sizeof(block));
    return CSP_OK;
}

csp_status csp_alloc(const char *what, int64_t count, size_t size, void *out)
{
    size_t bytes;

    CSP_TRY(block_bytes(what, count, size, &bytes));
    return give(what, malloc(bytes), bytes, out);
}

csp_status csp_alloc_zero(const char *what, int64_t count, size_t size, void *out)
{
    size_t bytes;

    CSP_TRY(block_bytes(what, count, size, &bytes));
    return give(what, calloc(1, bytes), bytes, out);
}

csp_status csp_realloc(const char *what, int64_t count, size_t size, void *block)
{
    void *old;
    size_t bytes;

    memcpy(&old, block, sizeof(old));
    CSP_TRY(block_bytes(what, count, size, &bytes));
    return give(what, realloc(old, bytes), bytes, block);
}

csp_status csp_reach(const char *what, int64_t index, size_t size, void *block, int64_t *count)
{
    const int64_t before = *count, after = 2 * index + 64;
    char *at;

    if (index < before) {
        return CSP_OK;
    }
    CSP_TRY(csp_realloc(what, after, size, block));
    memcpy(&at, block, sizeof(at));
    memset(at + (size_t)before * size, 0, (size_t)(after - before) * size);
    *count = after;
    return CSP_OK;
}

csp_status csp_strdup(const char *what, const char *text, char **out)
{
    const size_t bytes = strlen(text) + 1;

    CSP_TRY(csp_alloc(what, (int64_t)bytes, 1, out));
    memcpy(*out, text, bytes);
    return CSP_OK;
}
