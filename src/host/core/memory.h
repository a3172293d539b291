/*
 * memory.h - host allocation with checked products and failure as a value.
 */
#pragma once

#include <stddef.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * malloc, calloc and realloc with checked products, a failure as a value, and the fault driver.
 * Memory is given back with free(). count 0 gives a block that may be freed. what is for the text:
 * "corpus: no memory for 123 bytes". *out is written only on success. csp_realloc keeps *block.
 */
CSP_CHECKED csp_status csp_alloc(const char *what, int64_t count, size_t size, void *out);
CSP_CHECKED csp_status csp_alloc_zero(const char *what, int64_t count, size_t size, void *out);
CSP_CHECKED csp_status csp_realloc(const char *what, int64_t count, size_t size, void *block);

/* A copy of text. Owner: the caller frees it. */
CSP_CHECKED csp_status csp_strdup(const char *what, const char *text, char **out);

#ifdef __cplusplus
}
#endif
