/*
 * block.h - one decoder block, forward and backward.
 *
 *     n1 = RMS(x);   q, k, v = n1 Wq^T, n1 Wk^T, n1 Wv^T   (each its bias and adapter; q, k: RMS
 * over E) y  = x + attention(q, k, v) Wo^T n2 = RMS(y);   out = y + (silu(n2 Wgate^T) ⊙ n2 Wup^T)
 * Wdown^T
 *
 * The residual addition at the end of a block is left to the norm that follows it, which does both
 * in one pass: a block hands on y and the branch that is still to be added.
 *
 * Source: docs/method.md 3 and 8.
 */
#pragma once

#include "model/params.h"
#include "ops/attention.h"
#include "ops/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the backward pass of one block needs of its forward pass. Consumed by csp_block_bwd. */
typedef struct csp_block_saved {
    csp_tensor x;        /* (N,D)   the block's input                                   */
    csp_tensor rstd1;    /* (N)     of the first norm                                   */
    csp_tensor q, k, v;  /* (N,H*E) (N,G*E) (N,G*E) before q and k norm and rotation; beside one
                            another where rows may lie apart and there are no such norms */
    csp_tensor v_tail;   /* (N,T)   beside v, or none                                   */
    csp_tensor rq, rk;   /* (N*H) (N*G) of the norms of q and k; none without them      */
    csp_tensor o;        /* (N,H*E) of attention                                        */
    csp_tensor lse;      /* (N,H)                                                       */
    csp_tensor y;        /* (N,D)   after attention                                     */
    csp_tensor rstd2;    /* (N)     of the second norm                                  */
    csp_tensor gate, up; /* (N,F)   beside one another where rows may lie apart          */
    csp_tensor up_tail;  /* (N,T)   beside up, or none                                  */
    csp_tensor u[CSP_MATRIX_COUNT]; /* (N,R) x A^T of each adapter; none without it         */
} csp_block_saved;

/*
 * Working memory that the blocks of a pass share. Tails (ops/linear.h) lie beside what they are
 * called after, and are none where no adapter needs them.
 */
typedef struct csp_block_work {
    csp_tensor t, t_tail;   /* (N,D) (N,T) branch to add, or the normalised input             */
    csp_fp8_rows t8;        /* (N,D)   that input in e4m3; none but where matrices are            */
    csp_tensor qn, kn;      /* (N,H*E) (N,G*E) normalised q and k; none without the norms        */
    csp_tensor m;           /* (N,F)   product of the gate; forward without backward: is gate    */
    csp_tensor m_tail;      /* (N,T)   the same                                                  */
    csp_fp8_rows m8;        /* (N,F)   m in e4m3, like t8 and in its place                       */
    csp_tensor dm;          /* (N,F)   backward only, like the rest; forward has t8 or m8 there  */
    csp_tensor d_o;         /* (N,H*E)                                                           */
    csp_tensor dt;          /* (N,D)   gradient of a normalised input; set by the caller         */
    csp_tensor dx, dx_tail; /* (N,D) (N,T) gradient of the residual stream; without a tail dx is
                               set by the caller                                            */
    csp_tensor r;           /* (N*max(H,1)) rstd computed once more                              */
} csp_block_work;

/* What is the same for all blocks of one pass. */
typedef struct csp_block_pass {
    csp_backend *be;
    const csp_params *params;
    csp_attention attention;
    csp_dropout dropout; /* p = 0: none; key is set by the block */
    double eps;
} csp_block_pass;

/*
 * The one description of what a block keeps for its backward pass; x is placed by the caller, and
 * so are gate, up and up_tail where wide is false.
 */
CSP_CHECKED csp_status csp_block_saved_place(const csp_params *params, int64_t N, bool wide,
                                             csp_arena *step, csp_block_saved *out);

/* Working memory; backward false leaves out what only csp_block_bwd uses. */
CSP_CHECKED csp_status csp_block_work_place(const csp_params *params, int64_t N, bool backward,
                                            csp_arena *step, csp_block_work *out);

/*
 * Runs block `layer` as far as its backward pass needs it (finish false), or to its end.
 *
 *   before  in       (N,D)  residual stream to which w->t is still to be added, or none: s->x is
 *                           the input already
 *   s       in,out   s->x is written unless before is none; the rest is written
 *   w       in,out   w->t: branch to add before; afterwards the branch to add to s->y
 *
 * Aliasing: before may be s->y of the previous block, or the s->y of this one.
 */
CSP_CHECKED csp_status csp_block_fwd(const csp_block_pass *pass, int64_t layer, bool finish,
                                     const csp_tensor *before, csp_block_saved *s,
                                     csp_block_work *w);

/*
 * Computes s->gate and s->up of a forward pass again, from s->y, to the same bits.
 *
 *   w   in,out   w->t and w->r are overwritten
 */
CSP_CHECKED csp_status csp_block_wide_again(const csp_block_pass *pass, int64_t layer,
                                            csp_block_saved *s, csp_block_work *w);

/*
 * Adds the gradients of the block's trained parameters and propagates.
 *
 *   input_wanted   in       false: dx of the block's input is not needed (nothing below is trained)
 *   s              in,out   of the forward pass; overwritten
 *   w              in,out   w->dx: gradient of the block's output; then of its input
 */
CSP_CHECKED csp_status csp_block_bwd(const csp_block_pass *pass, int64_t layer, bool input_wanted,
                                     csp_block_saved *s, csp_block_work *w);

#ifdef __cplusplus
}
#endif
