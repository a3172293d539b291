/*
 * attention.h - grouped-query attention on packed texts, rotary embedding included.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What both directions need beside q, k, v. Query head h uses key-value head h / (H/G). */
typedef struct csp_attention {
    csp_tensor seq_start; /* (B+1) i32   first row of each text; seq_start[B] is N             */
    csp_tensor order;     /* (B) i32     every text once, in the order in which work on them   */
                          /* begins: longest first, so that none is left alone at the end;     */
                          /* none: as they lie. Results do not depend on it                    */
    csp_tensor cos;       /* (P,E/2) f32 csp_rope_table; P at least the longest text           */
    csp_tensor sin;       /* (P,E/2) f32                                                       */
    int64_t H;            /* query heads, a multiple of G                                      */
    int64_t G;            /* key-value heads                                                   */
    int64_t E;            /* head width, even; on CUDA devices up to 256                       */
    int64_t longest;      /* rows of the longest text of this batch, or more                   */
    bool causal;          /* key position <= query position; false: all positions of the text  */
} csp_attention;

/*
 * Scaled dot-product attention inside each text.
 *
 *     q', k' = rotated q, k at the row's position in its text
 *     S = q' k'^T / sqrt(E), masked;   lse = logsumexp over keys of S;   o = exp(S - lse) v
 *
 * Source: docs/method.md 8.2 and 8.3.
 *
 * Rows of q, k and v may lie apart where be has that (csp_backend.apart).
 *
 *   q    in    (N,H*E)  elem  not rotated; elem is f32 or, on CUDA devices, bf16
 *   k    in    (N,G*E)  elem  not rotated
 *   v    in    (N,G*E)  elem
 *   o    out   (N,H*E)  elem  overwritten
 *   lse  out   (N,H)    f32   kept for the backward pass; overwritten
 *
 * Aliasing:   none.
 * Precision:  in f32, softmax with the row maximum subtracted; with bf16 storage a number up to 5.6
 *             below it, and rotated rows and exponentials may be rounded once more before products.
 */
CSP_CHECKED csp_status csp_attention_fwd(csp_backend *be, const csp_attention *a,
                                         const csp_tensor *q, const csp_tensor *k,
                                         const csp_tensor *v, csp_tensor *o, csp_tensor *lse);

/* What the backward pass reads and writes. */
typedef struct csp_attention_grad {
    csp_tensor q, k, v, o, lse; /* in:  of the forward pass                           */
    csp_tensor d_o;             /* in:  (N,H*E) elem                                  */
    csp_tensor dq, dk, dv;      /* out: gradients of the q, k, v given, whose rows lie
                                        as far apart as theirs; overwritten           */
} csp_attention_grad;

/*
 * Gradients of csp_attention_fwd.
 *
 *     δ = rowsum(do ⊙ o);  dP = do v^T;  dS = P ⊙ (dP - δ);  dq' = dS k'/sqrt(E);
 *     dk' = sum over the group's heads of dS^T q'/sqrt(E);  dv = sum over the group of P^T do
 *
 * Aliasing:   dq may be q, dk may be k, dv may be v.
 * Precision:  as forward, with P and dS for the exponentials there; sums over the heads of a group
 *             in head order.
 */
CSP_CHECKED csp_status csp_attention_bwd(csp_backend *be, const csp_attention *a,
                                         csp_attention_grad *g);

#ifdef __cplusplus
}
#endif
