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
    int64_t stride_q;     /* elements from a row of q, and of dq, to the next; 0: H*E (dense)  */
    int64_t stride_k;     /* of k and dk; 0: G*E                                               */
    int64_t stride_v;     /* of v and dv; 0: G*E                                               */
} csp_attention;

/* The distances of rows, with what 0 stands for. */
static inline int64_t csp_attention_stride_q(const csp_attention *a)
{
    return a->stride_q > 0 ? a->stride_q : a->H * a->E;
}

static inline int64_t csp_attention_stride_k(const csp_attention *a)
{
    return a->stride_k > 0 ? a->stride_k : a->G * a->E;
}

static inline int64_t csp_attention_stride_v(const csp_attention *a)
{
    return a->stride_v > 0 ? a->stride_v : a->G * a->E;
}

/*
 * Scaled dot-product attention inside each text.
 *
 *     q', k' = rotated q, k at the row's position in its text
 *     S = q' k'^T / sqrt(E), masked;   lse = logsumexp over keys of S;   o = exp(S - lse) v
 *
 * Source: docs/method.md 8.2 and 8.3.
 *
 * q, k and v may be columns of one wider tensor: each is given as a tensor of the shape below that
 * begins at its first column, and a row of it follows at its stride.
 *
 *   q    in    (N,H*E)  elem  not rotated; elem is f32 or, on CUDA devices, bf16
 *   k    in    (N,G*E)  elem  not rotated
 *   v    in    (N,G*E)  elem
 *   o    out   (N,H*E)  elem  overwritten
 *   lse  out   (N,H)    f32   kept for the backward pass; overwritten
 *
 * Aliasing:   none.
 * Precision:  computed and added in f32, softmax with the row maximum subtracted. With bf16 storage
 *             rotated rows and exponentials may be rounded to bf16 once more before products.
 */
CSP_CHECKED csp_status csp_attention_fwd(csp_backend *be, const csp_attention *a,
                                         const csp_tensor *q, const csp_tensor *k,
                                         const csp_tensor *v, csp_tensor *o, csp_tensor *lse);

/* What the backward pass reads and writes. */
typedef struct csp_attention_grad {
    csp_tensor q, k, v, o, lse; /* in:  of the forward pass                           */
    csp_tensor d_o;             /* in:  (N,H*E) elem                                  */
    csp_tensor dq, dk, dv;      /* out: gradients of the q, k, v given; overwritten   */
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
