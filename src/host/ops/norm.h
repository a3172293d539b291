/*
 * norm.h - RMSNorm, fused with the residual addition before it.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Adds a residual branch and normalises.
 *
 *     sum = x + delta                                  (sum = x where delta is none)
 *     rstd = 1 / sqrt(mean(sum^2) + eps);   y = g ⊙ rstd · sum
 *
 * Source: RMSNorm (arXiv 1910.07467); docs/method.md 8.1.
 *
 *   x      in    (N,D)  f32
 *   delta  in    (N,D)  f32, or none
 *   g      in    (D)    f32
 *   eps    in    inside the root, > 0
 *   sum    out   (N,D)  f32   x + delta, overwritten; none exactly where delta is none
 *   rstd   out   (N)    f32   kept for the backward pass; overwritten
 *   y      out   (N,D)  f32   overwritten
 *
 * Aliasing:   sum may be x or delta; y may be delta, nothing else.
 * Precision:  f32; the mean of squares is added in f32, D <= 65,536 terms in 8 or more chains.
 */
CSP_CHECKED csp_status csp_norm_fwd(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                                    const csp_tensor *g, float eps, csp_tensor *sum,
                                    csp_tensor *rstd, csp_tensor *y);

/*
 * Gradients of csp_norm_fwd.
 *
 *     xh = rstd · x;  v = g ⊙ dy
 *     dx = rstd · (v - xh · mean(v ⊙ xh)) + dsum       dg += sum over rows of dy ⊙ xh
 *
 *   x     in       (N,D)  f32   what was normalised: sum of the forward pass
 *   rstd  in       (N)    f32
 *   dy    in       (N,D)  f32
 *   dsum  in       (N,D)  f32, or none   gradient that reaches sum by the residual path
 *   dx    out      (N,D)  f32   overwritten
 *   dg    in,out   (D)    f32, or none   added to, in a fixed order of rows
 *
 * Aliasing:   dx may be dy or dsum.
 */
CSP_CHECKED csp_status csp_norm_bwd(csp_backend *be, const csp_tensor *x, const csp_tensor *g,
                                    const csp_tensor *rstd, const csp_tensor *dy,
                                    const csp_tensor *dsum, csp_tensor *dx, csp_tensor *dg);

#ifdef __cplusplus
}
#endif
