/*
 * embed.h - token embedding.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 *     x[n,:] = table[token[n],:]
 *
 *   table  in    (V,D)  S
 *   token  in    (N)    i32   0 <= token < V; the caller has checked (batches come from the host)
 *   x      out   (N,D)  S     overwritten. Exact.
 *
 * S is f32, or bf16 where be has it (csp_backend.bf16).
 *
 * Errors: CSP_ERR_SHAPE, CSP_ERR_UNSUPPORTED (S), CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_embed_fwd(csp_backend *be, const csp_tensor *table,
                                     const csp_tensor *token, csp_tensor *x);

/*
 *     dtable[token[n],:] += dx[n,:]
 *
 *   dx      in       (N,D)  S
 *   dtable  in,out   (V,D)  f32, whatever S
 *
 * Precision:  f32; rows of one token are added in order of n: the same bits on every run.
 */
CSP_CHECKED csp_status csp_embed_bwd(csp_backend *be, const csp_tensor *token, const csp_tensor *dx,
                                     csp_tensor *dtable);

#ifdef __cplusplus
}
#endif
