/*
 * loss.h - token cross-entropy of the adaptation phase; scores, InfoNCE and sparsity terms of the
 * contrastive phase. Gradients of representations live on their own support only.
 */
#pragma once

#include "ops/sparse_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What csp_token_loss reads and writes. */
typedef struct csp_token_loss_args {
    csp_head head;     /* pooling is not read; excluded terms are left out of both softmaxes */
    csp_tensor h;      /* in  (N,D) S, the storage type of head.e                            */
    csp_tensor target; /* in  (N) i32   next token, not an excluded term; -1: no prediction  */
    int64_t predicted; /* in  rows with a target: whoever made target has counted them       */
    float lambda_relu; /* weight of the saturated loss                                       */
    float coefficient; /* 1/n_tok of the whole step: multiplies gradients, not the sums      */
    csp_tensor dh;     /* out (N,D) S,   or none: losses only; overwritten                   */
    csp_tensor de;     /* in,out (V,D) f32, or none: head not trained; added to              */
    csp_tensor loss;   /* out (2) f64   the sums below, not divided by n_tok                 */
    csp_tensor bad;    /* out (2) i64   -1, or the first row whose target is an excluded term;
                          -1, or the first whose logits are not finite                       */
} csp_token_loss_args;

/*
 * Both adaptation losses and their gradients from one tile of logits.
 *
 *     z = k h e^T;  V' = number of terms not excluded;  S_i = sum over j of ReLU(z_ij)
 *     loss[0] = sum over rows with a target y of   logsumexp_j z_ij - z_iy
 *     loss[1] = sum over rows with a target y of   log(V' + S_i) - log(1 + ReLU(z_iy))
 *     dz_ij = coefficient · { softmax_ij - 1[j=y]
 *                             + lambda_relu · (1[z_ij>0]/(V'+S_i) - 1[j=y, z_iy>0]/(1+z_iy)) }
 *     dh = k dz e;   de += k dz^T h
 *
 * Source: CSPLADE (arXiv 2504.10816), adaptation phase; docs/method.md 5.
 *
 * Where bad names a row, loss, dh and de are undefined.
 * Stream:     enqueued on be.
 * Precision:  f32 logits; the sums over the vocabulary in f32 by blocks, combined in double; those
 *             over rows in double. bf16: products are added in f32; logits are rounded to bf16
 *             once, so are dz and dh.
 * Errors:     CSP_ERR_SHAPE, CSP_ERR_ARGUMENT, CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_token_loss(csp_backend *be, csp_token_loss_args *args);

/*
 * Scores of all queries against all passages.
 *
 *     s[q,p] = scale · <query q, passage p>
 *
 *   q, p   in    sparse rows over one vocabulary; rows = their row counts Q, P
 *   scale  in    1/temperature
 *   s      out   (Q,P) f32   overwritten
 *
 * Stream:     enqueued on be.
 * Precision:  many entries: products added in f32 by blocks of the vocabulary; few entries: in
 *             double, rounded once. Which, is a function of shapes and of q->active and p->active.
 */
CSP_CHECKED csp_status csp_scores_fwd(csp_backend *be, const csp_sparse *q, int64_t Q,
                                      const csp_sparse *p, int64_t P, float scale, csp_tensor *s);

/*
 * Gradients of csp_scores_fwd on the supports.
 *
 *     dq[e] = scale · sum over p of ds[q,p] · passage_p[term e]     for each stored entry e of q
 *     dp[e] = scale · sum over q of ds[q,p] · query_q[term e]       for each stored entry e of p
 *
 *   ds       in    (Q,P) f32
 *   dq, dp   out   (cap of q), (cap of p) f32   overwritten for entries of the first Q, P rows
 */
CSP_CHECKED csp_status csp_scores_bwd(csp_backend *be, const csp_tensor *ds, const csp_sparse *q,
                                      const csp_sparse *p, float scale, csp_tensor *dq,
                                      csp_tensor *dp);

/*
 * Softmax cross-entropy of each query's positive among all unmasked passages, in three parts,
 * because a rank has only some of the passages. What each part writes is combined over the ranks
 * before the next: own and best by their maximum, sum by addition.
 *
 *     own[q]  = s[q,positive[q]];   best[q] = max over other unmasked p of s[q,p]     (part 1)
 *     top[q]  = max(own[q], best[q])
 *     sum[q]  = sum over unmasked p of exp(s[q,p] - top[q])                           (part 2)
 *     loss[q] = log sum[q] + top[q] - own[q];   L = 1/M sum over q of loss[q]         (part 3)
 *     ds[q,p] = (exp(s[q,p] - top[q]) / sum[q] - 1[p = positive[q]]) / M;   0 where masked
 *
 * Source: docs/method.md 6 (InfoNCE) and 14 (ranks).
 *
 *   s         in    (Q,P)  f32   scores of Q queries and the P passages of this rank
 *   positive  in    (Q)    i32   column of each query's positive, never masked; -1: another rank
 *                                has it
 *   mask      in    (Q,P)  u8    not 0 = left out (a known positive but the query's own), or
 *                                none
 *   row       out   (Q,2)  f64   own and best; -inf where this rank has none
 *
 * Stream:     enqueued on be.
 * Precision:  the row's maximum, exponentials and sum in double; ds rounded once.
 */
CSP_CHECKED csp_status csp_nce_scores(csp_backend *be, const csp_tensor *s,
                                      const csp_tensor *positive, const csp_tensor *mask,
                                      csp_tensor *row);

/*
 * Part 2.
 *
 *   row   in    (Q,2)  f64   of all ranks
 *   sum   out   (Q)    f64   over this rank's passages
 */
CSP_CHECKED csp_status csp_nce_sum(csp_backend *be, const csp_tensor *s, const csp_tensor *mask,
                                   const csp_tensor *row, csp_tensor *sum);

/*
 * Part 3.
 *
 *   row, sum   in    (Q,2), (Q)  f64   of all ranks
 *   M          in    queries of the whole step: Q, but where others are compared elsewhere
 *   ds         out   (Q,P)       f32   overwritten; may be s
 *   loss       out   (Q)         f64   each query's loss
 */
CSP_CHECKED csp_status csp_nce_grad(csp_backend *be, const csp_tensor *s,
                                    const csp_tensor *positive, const csp_tensor *mask,
                                    const csp_tensor *row, const csp_tensor *sum, int64_t M,
                                    csp_tensor *ds, csp_tensor *loss);

/*
 * Column sums and counts of sparse rows, for FLOPS and for the health panel.
 *
 *     sum[v] += sum over rows of w[row,v];   count[v] += number of rows with w[row,v] > 0
 *
 *   w      in       rows 0 .. rows-1
 *   sum    in,out   (V) f64   in double, rows ascending
 *   count  in,out   (V) i32, or none
 */
CSP_CHECKED csp_status csp_column_sums(csp_backend *be, const csp_sparse *w, int64_t rows,
                                       csp_tensor *sum, csp_tensor *count);

/* Positions that csp_position_counts tells apart. */
#define CSP_POSITIONS 4096

/*
 * How many maxima fall on each position of a text, for the health panel.
 *
 *     count[t] += number of entries with argmax t
 *
 *   w      in       rows 0 .. rows-1, with argmax
 *   count  in,out   (n) i64   n <= CSP_POSITIONS; positions from n on are not counted
 */
CSP_CHECKED csp_status csp_position_counts(csp_backend *be, const csp_sparse *w, int64_t rows,
                                           csp_tensor *count);

typedef enum csp_reg_kind { CSP_REG_FLOPS = 0, CSP_REG_L1 = 1 } csp_reg_kind;

/*
 * The sparsity term of one side and its gradient.
 *
 *     FLOPS = sum over v of (sum[v] / M)^2        dw[e] += lambda · 2/M · sum[term e]/M
 *     L1    = 1/M sum over v of sum[v]            dw[e] += lambda / M
 *
 * Source: FLOPS (arXiv 2004.05665); docs/method.md 6.
 *
 *   w      in       rows 0 .. rows-1
 *   sum    in       (V) f64   csp_column_sums of the whole gathered batch of M rows
 *   dw     in,out   (cap) f32 added to
 *   value  out      (1) f64   the term before lambda
 *
 * Stream:     enqueued on be.
 */
CSP_CHECKED csp_status csp_regularize(csp_backend *be, csp_reg_kind kind, const csp_sparse *w,
                                      int64_t rows, const csp_tensor *sum, int64_t M, float lambda,
                                      csp_tensor *dw, csp_tensor *value);

#ifdef __cplusplus
}
#endif
