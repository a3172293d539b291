/*
 * prune_row.h - the k largest weights of one sparse row in host memory.
 */
#pragma once

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Keeps the k largest weights of a row in place (k >= 0), ties by the lowest term, order of terms
 * kept; returns how many are left. Terms ascending; a NaN counts as larger than any number.
 * Allocates nothing.
 */
int64_t csp_prune_row(int32_t *term, float *weight, int64_t nnz, int64_t k);

#ifdef __cplusplus
}
#endif
