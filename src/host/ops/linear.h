/*
 * linear.h - y = x W^T (+ bias) (+ LoRA), of several maps of one input at once, and its gradients.
 */
#pragma once

#include "ops/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Dropout of the LoRA branch's input. The mask element of row n, channel c is kept where
 *     csp_rng_uniform(rng, row_key[n] * 65536 * 4 + c) >= p,
 *     rng = {seed, CSP_DRAW_DROPOUT, key, step},
 * so it depends on the text and position, never on the row, the rank or the micro-batch. Kept
 * elements are multiplied by 1/(1-p).
 */
typedef struct csp_dropout {
    float p; /* 0: no dropout, the rest is not read                        */
    uint64_t seed;
    uint64_t step;
    uint32_t key;       /* layer * 8 + matrix                                         */
    csp_tensor row_key; /* (N) i64: text index in the global batch * 2^20 + position  */
} csp_dropout;

/*
 * Operands of one linear map; I inputs, O outputs, R the adapter rank. S, the storage type of a
 * call, is f32, or bf16 where the backend has it (csp_backend.bf16).
 */
typedef struct csp_linear {
    csp_tensor w;       /* (O,I) S, or e4m3 where the backend has it (csp_backend.fp8): then O and I
                          are multiples of 16, w and w_scale of all parts of a group lie below one
                          another, and there are no tails and no dW                  */
    csp_tensor w_scale; /* (O) f32 of the rows of an e4m3 w: W = w_scale w; none else */
    csp_tensor bias;    /* (O) S, or none                                             */
    csp_tensor lora_a;  /* (R,I) S, or none: no adapter                               */
    csp_tensor lora_b;  /* (O,R) S                                                    */
    float lora_scale;   /* s = alpha/R, or alpha/sqrt(R)                              */
    csp_dropout dropout;
} csp_linear;

enum {
    CSP_LINEAR_PARTS = 3, /* maps of one group at most              */
    CSP_LINEAR_TAIL = 8   /* a tail is a multiple of this many wide */
};

/*
 * Maps of one input, applied together: q, k, v, or gate, up, or one alone. They agree in I, S and
 * the dropout of those that have an adapter, but for its key; part i has O_i outputs and rank R_i.
 *
 * Tails are room behind and below operands for the adapters, with which the sum of a product with W
 * and of the branch is one product, and its result is written once:
 *
 *     y = [x | u] [W | s B]^T;   dx = [dy | du] [W ; A]
 *
 * A tail is T >= sum of R_i wide, a multiple of CSP_LINEAR_TAIL. w_tail and a_tail must lie where
 * their names say: the w of all parts below one another, w_tail beside them, a_tail below them, all
 * with the same distance of rows. A call that uses them writes them again, so nobody has to keep
 * them in step with A and B.
 */
typedef struct csp_linear_group {
    int32_t count; /* 1 .. CSP_LINEAR_PARTS */
    csp_linear part[CSP_LINEAR_PARTS];
    csp_tensor w_tail; /* (sum of O_i,T) S  work memory, or none */
    csp_tensor a_tail; /* (T,I)          S  work memory, or none */
} csp_linear_group;

/* What a group is applied to. */
typedef struct csp_linear_rows {
    csp_tensor x;                   /* in  (N,I)    S                                          */
    csp_fp8_rows x8;                /* in  (N,I)       what csp_quantize_rows makes of x, where
                                            whoever made x made that too and w is in e4m3; else
                                            none                                               */
    csp_tensor x_tail;              /* out (N,T)    S  work memory beside x, or none           */
    csp_tensor u[CSP_LINEAR_PARTS]; /* out (N,R_i)  S  kept for the backward pass; overwritten;
                                            none where part i has no adapter                   */
    csp_tensor y[CSP_LINEAR_PARTS]; /* out (N,O_i)  S  overwritten                             */
} csp_linear_rows;

/* Where gradients are added; none = not wanted (frozen). Shapes as in csp_linear, f32 always. */
typedef struct csp_linear_grad {
    csp_tensor dw;
    csp_tensor dbias;
    csp_tensor dlora_a;
    csp_tensor dlora_b;
} csp_linear_grad;

/* What the gradients of a group need and give. */
typedef struct csp_linear_group_grad {
    csp_tensor x;                    /* in  (N,I)  S  as in forward; may be none where neither
                                                   dw nor dlora_a of any part is wanted         */
    csp_tensor u[CSP_LINEAR_PARTS];  /* in  (N,R_i)  S  of forward                        */
    csp_tensor dy[CSP_LINEAR_PARTS]; /* in  (N,O_i)  S                                    */
    csp_tensor dy_tail;              /* out (N,T)    S  work memory beside the last dy, or
                                                   none                                         */
    csp_linear_grad part[CSP_LINEAR_PARTS]; /* where to add; the tensors in it are in,out       */
    csp_tensor dx;                          /* out (N,I)  S  overwritten; none: not wanted       */
} csp_linear_group_grad;

/*
 * Applies the maps of a group to packed rows.
 *
 *     u_i = (m_i ⊙ x) A_i^T                  m = 1 without dropout
 *     y_i = x W_i^T + bias_i + s_i u_i B_i^T
 *
 * Source: LoRA (arXiv 2106.09685); docs/method.md 8.5.
 *
 * Where w is in e4m3, x W^T is q(x) q(W)^T with the scales of their rows: x is rounded to e4m3 as
 * csp_quantize_rows does, or x8 is taken (docs/method.md 8.6, also of how precisely a device adds).
 *
 * Rows of x, y and w may lie apart where be has that (csp_backend.apart). Parts whose w lie below
 * and whose y lie beside one another are one product.
 *
 * Aliasing:   none, but y and tails may be columns of one matrix.
 * Precision:  f32 products, f32 sums in an order that depends on shapes, on which operands are
 *             neighbours and be->threads only. In bf16 what is stored is rounded: m ⊙ x and u; with
 *             tails s B, and y (with a bias, it is added to before); without them the branch
 *             s u B^T, its sum with x W^T, and that with the bias, one after the other.
 * Errors:     CSP_ERR_SHAPE (also tails that are not where they belong), CSP_ERR_UNSUPPORTED (S, or
 *             rows apart), CSP_ERR_DEVICE. Outputs are untouched after the first two.
 */
CSP_CHECKED csp_status csp_linear_group_fwd(csp_backend *be, const csp_linear_group *group,
                                            csp_linear_rows *rows);

/*
 * Gradients of csp_linear_group_fwd.
 *
 *     du_i = s_i dy_i B_i;   dx = sum over i of dy_i W_i + m_i ⊙ (du_i A_i)
 *     dW_i += dy_i^T x;   dbias_i += sum of rows of dy_i
 *     dA_i += du_i^T (m_i ⊙ x);   dB_i += s_i dy_i^T u_i
 *
 * Where w is in e4m3, the sum over i of dy_i W_i is q(t) w with the scales of q(t), where t is
 * [dy_1 ⊙ w_scale_1 | dy_2 ⊙ w_scale_2 | ...] and w all parts: their rows are rounded as one.
 *
 * Rows of x, dy and w may lie apart where be has that.
 *
 * Aliasing:   none, but dy and dy_tail may be columns of one matrix.
 * Precision:  as forward. In bf16 du, m ⊙ x, du A and dx are rounded, dx once more for each product
 *             that adds to it; gradients of parameters are f32 sums.
 */
CSP_CHECKED csp_status csp_linear_group_bwd(csp_backend *be, const csp_linear_group *group,
                                            csp_linear_group_grad *grad);

/* The same of one map without tails. u, and in backward x, u and dx, may be NULL for none. */
CSP_CHECKED csp_status csp_linear_fwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                                      csp_tensor *u, csp_tensor *y);
CSP_CHECKED csp_status csp_linear_bwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                                      const csp_tensor *u, const csp_tensor *dy,
                                      const csp_linear_grad *grad, csp_tensor *dx);

#ifdef __cplusplus
}
#endif
