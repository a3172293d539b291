/*
 * top_k.h - the strongest terms of sparse representations: what encoding keeps of a row.
 */
#pragma once

#include "ops/sparse_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Rows with their k largest weights only, of equal ones those of the lowest terms; a row of at most
 * k entries as it is.
 *
 *     entry i of a row is kept if fewer than k entries j of it come before it:
 *     w[j] > w[i], or w[j] = w[i] and term[j] < term[i]
 *
 * Source: docs/method.md 11.
 *
 *   w     in   rows 0 .. rows-1; weights > 0, infinity among them, or NaN, which counts as larger
 *              still, so that a cut never hides one. argmax is not read
 *   k     in   at least 1
 *   out   out  (rows+1) row_ptr or more, the entries, ascending by term; overwritten. Capacity for
 *              rows rows of min(k, V) entries; argmax is not written
 *
 * Aliasing:   none.
 * Precision:  compares without rounding, and copies; the same bits on every run and backend.
 * Stream:     enqueued on be.
 * Errors:     CSP_ERR_SHAPE (also where out has less room), CSP_ERR_ARGUMENT, CSP_ERR_MEMORY,
 *             CSP_ERR_DEVICE. Outputs are untouched then.
 */
CSP_CHECKED csp_status csp_top_k(csp_backend *be, const csp_sparse *w, int64_t rows, int64_t k,
                                 csp_sparse *out);

#ifdef __cplusplus
}
#endif
