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

/*
 * Makes a block long enough for element index, in steps that double it; fresh elements are 0.
 *
 *   block   in,out   T **; NULL inside where count is 0
 *   count   in,out   its elements
 */
CSP_CHECKED csp_status csp_reach(const char *what, int64_t index, size_t size, void *block,
                                 int64_t *count);

/* A copy of text. Owner: the caller frees it. */
CSP_CHECKED csp_status csp_strdup(const char *what, const char *text, char **out);

#ifdef __cplusplus
}
#endif
