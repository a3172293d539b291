/*
 * norm.h - RMSNorm, fused with the residual addition before it.
 */
#pragma once

#include "ops/quantize.h"

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
 *   x      in    (N,D)  S
 *   delta  in    (N,D)  S, or none
 *   g      in    (D)    S
 *   eps    in    inside the root, > 0
 *   sum    out   (N,D)  S     x + delta, overwritten; none exactly where delta is none
 *   rstd   out   (N)    f32   kept for the backward pass; overwritten
 *   y      out   (N,D)  S     overwritten
 *
 * S is f32, or bf16 where be has it (csp_backend.bf16). Rows of delta and y, and in backward of
 * dsum and dx, may lie apart where be has that (csp_backend.apart).
 *
 * Aliasing:   sum may be x or, where its rows do not lie apart, delta; y may be delta, nothing
 *             else.
 * Precision:  f32, S rounded once; rstd and y are those of sum as it is stored. The mean of squares
 *             is added in f32, D <= 65,536 terms in 8 or more chains.
 * Errors:     CSP_ERR_SHAPE, CSP_ERR_ARGUMENT (eps), CSP_ERR_UNSUPPORTED (S), CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_norm_fwd(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                                    const csp_tensor *g, float eps, csp_tensor *sum,
                                    csp_tensor *rstd, csp_tensor *y);

/*
 * The same, and in the same pass over a row what it is in e4m3, for a product with a matrix of such
 * numbers.
 *
 *   y8     out   (N,D)  what csp_quantize_rows makes of y as it is stored, to the same bits;
 *                       overwritten. NULL or of none: csp_norm_fwd
 *
 * Aliasing:   y8 overlaps nothing else.
 */
CSP_CHECKED csp_status csp_norm_fp8_fwd(csp_backend *be, const csp_tensor *x,
                                        const csp_tensor *delta, const csp_tensor *g, float eps,
                                        csp_tensor *sum, csp_tensor *rstd, csp_tensor *y,
                                        csp_fp8_rows *y8);

/*
 * Gradients of csp_norm_fwd.
 *
 *     xh = rstd · x;  v = g ⊙ dy
 *     dx = rstd · (v - xh · mean(v ⊙ xh)) + dsum       dg += sum over rows of dy ⊙ xh
 *
 *   x     in       (N,D)  S     what was normalised: sum of the forward pass
 *   g     in       (D)    S
 *   rstd  in       (N)    f32
 *   dy    in       (N,D)  S
 *   dsum  in       (N,D)  S, or none     gradient that reaches sum by the residual path
 *   dx    out      (N,D)  S     overwritten
 *   dg    in,out   (D)    f32, or none   whatever S; added to, in a fixed order of rows
 *
 * Aliasing:   dx may be dsum or, where its rows do not lie apart, dy.
 */
CSP_CHECKED csp_status csp_norm_bwd(csp_backend *be, const csp_tensor *x, const csp_tensor *g,
                                    const csp_tensor *rstd, const csp_tensor *dy,
                                    const csp_tensor *dsum, csp_tensor *dx, csp_tensor *dg);

/*
 * Looks for a NaN or an infinity in what csp_norm_fwd wrote, from N + D numbers of it.
 *
 *     row = the first n with rstd[n] no positive number, else 0 where y[0,:] is not finite, or -1
 *
 * The norm has read all of a row: rstd is no positive number where the row holds a NaN or an
 * infinity (it is 0 then), or squares that overflow float32. Where it is one, y is finite unless
 * the gain is not, and that shows in any row.
 *
 *   rstd   in    (N)    f32
 *   y      in    (N,D)  S     S is f32, or bf16 where be has it
 *   row    out   (1)    i64   overwritten
 *
 * Stream:     enqueued on be.
 */
CSP_CHECKED csp_status csp_norm_bad_row(csp_backend *be, const csp_tensor *rstd,
                                        const csp_tensor *y, csp_tensor *row);

#ifdef __cplusplus
}
#endif
