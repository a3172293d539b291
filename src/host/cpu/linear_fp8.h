/*
 * linear_fp8.h - linear maps whose matrix is in e4m3 (docs/method.md 8.6). Private to this folder.
 */
#pragma once

#include "ops/linear.h"

/*
 * y = q(x) q(W)^T with their scales, + bias, and without dropout + s u B^T, u = x A^T, of part i. A
 * branch under dropout is left to the caller.
 */
CSP_CHECKED csp_status cpu_linear_fp8_fwd(csp_backend *be, const csp_linear *l,
                                          const csp_linear_rows *rows, int i);

/* dx = q(t) w of all parts, with the scales of q(t); all branches are left to the caller. */
CSP_CHECKED csp_status cpu_linear_fp8_bwd(csp_backend *be, const csp_linear_group *group,
                                          const csp_linear_group_grad *g);

/*
 * Without dropout: dA += du^T x and dx += du A, du = s dy B.
 *
 *   da, dx   NULL: not wanted; x is read for da only
 */
CSP_CHECKED csp_status cpu_linear_fp8_branch_bwd(csp_backend *be, const csp_linear *l,
                                                 const float *x, const float *dy, int64_t N,
                                                 float *da, float *dx);
