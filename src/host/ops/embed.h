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
 *   table  in    (V,D)  f32
 *   token  in    (N)    i32   0 <= token < V; the caller has checked (batches come from the host)
 *   x      out   (N,D)  f32   overwritten. Exact.
 */
CSP_CHECKED csp_status csp_embed_fwd(csp_backend *be, const csp_tensor *table,
                                     const csp_tensor *token, csp_tensor *x);

/*
 *     dtable[token[n],:] += dx[n,:]
 *
 * Precision:  f32; rows of one token are added in order of n: the same bits on every run.
 */
CSP_CHECKED csp_status csp_embed_bwd(csp_backend *be, const csp_tensor *token, const csp_tensor *dx,
                                     csp_tensor *dtable);

#ifdef __cplusplus
}
#endif
