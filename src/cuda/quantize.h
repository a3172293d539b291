/* quantize.h - csp_quantize_rows for other ops: no name for the last op. Private to this folder. */
#pragma once

#include "core/tensor.h"
#include "ops/backend.h"

enum { CUDA_QUANTIZE_PARTS = 3 };

/*
 * As csp_quantize_rows of [x[0] | x[1] | ...], rows of which are rounded as one.
 *
 *   x   in   count matrices (N,K_i), at most CUDA_QUANTIZE_PARTS, whose rows may lie apart
 *   c, q     of sum of K_i columns
 */
CSP_CHECKED csp_status cuda_quantize(csp_backend *be, const csp_tensor *x, int count,
                                     const csp_tensor *c, csp_tensor *q, csp_tensor *scale);
