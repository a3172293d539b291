/*
 * swiglu.h - the gated activation of the MLP.
 */
#pragma once

#include "ops/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 *     m = silu(gate) ⊙ up,   silu(g) = g / (1 + exp(-g))
 *
 * Source: arXiv 2002.05202; docs/method.md 8.4.
 *
 *   gate, up  in    (N,F)  S
 *   m         out   (N,F)  S   overwritten
 *
 * S is f32, or bf16 where be has it (csp_backend.bf16). Rows of all matrices, here and in backward,
 * may lie apart where be has that (csp_backend.apart).
 *
 * Aliasing:   m may be gate or up.
 * Precision:  in f32, one exp within 4 units of rounding; rounded once where S is bf16.
 * Errors:     CSP_ERR_SHAPE, CSP_ERR_UNSUPPORTED (S), CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_swiglu_fwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                                      csp_tensor *m);

/*
 * The same, and in the same pass over a row what it is in e4m3, for a product with a matrix of such
 * numbers.
 *
 *   m8   out   (N,F)  what csp_quantize_rows makes of m as it is stored, to the same bits;
 *                     overwritten. NULL or of none: csp_swiglu_fwd
 *
 * Aliasing:   m8 overlaps nothing else.
 */
CSP_CHECKED csp_status csp_swiglu_fp8_fwd(csp_backend *be, const csp_tensor *gate,
                                          const csp_tensor *up, csp_tensor *m, csp_fp8_rows *m8);

/*
 *     dup = dm ⊙ silu(gate);   dgate = dm ⊙ up ⊙ σ(gate) (1 + gate (1 - σ(gate)))
 *
 *   dm           in    (N,F)  S
 *   dgate, dup   out   (N,F)  S   overwritten
 *
 * Aliasing:   dgate may be gate or dm, dup may be up or dm; dgate and dup are different.
 */
CSP_CHECKED csp_status csp_swiglu_bwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                                      const csp_tensor *dm, csp_tensor *dgate, csp_tensor *dup);

#ifdef __cplusplus
}
#endif
