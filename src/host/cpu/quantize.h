/*
 * quantize.h - csp_quantize_rows of matrices side by side. Private to this folder.
 */
#pragma once

#include "ops/quantize.h"

/*
 * As csp_quantize_rows of [x[0] | x[1] | ...], rows of which are rounded as one.
 *
 *   x   in   count matrices (N,K_i), f32     c, q   of sum of K_i columns
 */
void cpu_quantize(const csp_backend *be, const csp_tensor *x, int count, const csp_tensor *c,
                  csp_tensor *q, csp_tensor *scale);

/* The same of rows first .. end-1 of x (N,K) alone, by the caller's thread. */
void cpu_quantize_some(const csp_tensor *x, int64_t first, int64_t end, csp_fp8_rows *to);
