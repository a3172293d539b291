/*
 * linear.h - y = x W^T (+ bias) (+ LoRA), and its gradients.
 */
#pragma once

#include "ops/backend.h"

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
    csp_tensor w;      /* (O,I) S                                                    */
    csp_tensor bias;   /* (O) S, or none                                             */
    csp_tensor lora_a; /* (R,I) S, or none: no adapter                               */
    csp_tensor lora_b; /* (O,R) S                                                    */
    float lora_scale;  /* s = alpha/R, or alpha/sqrt(R)                              */
    csp_dropout dropout;
} csp_linear;

/* Where gradients are added; none = not wanted (frozen). Shapes as in csp_linear, f32 always. */
typedef struct csp_linear_grad {
    csp_tensor dw;
    csp_tensor dbias;
    csp_tensor dlora_a;
    csp_tensor dlora_b;
} csp_linear_grad;

/*
 * Applies a linear map to packed rows.
 *
 *     u = (m ⊙ x) A^T                        m = 1 without dropout
 *     y = x W^T + bias + s u B^T
 *
 * Source: LoRA (arXiv 2106.09685); docs/method.md 8.5.
 *
 *   l    in    operands
 *   x    in    (N,I)  S
 *   u    out   (N,R)  S   kept for the backward pass; overwritten; none where l has no adapter
 *   y    out   (N,O)  S   overwritten
 *
 * Aliasing:   none.
 * Precision:  f32 products, f32 sums in an order that depends on shapes and be->threads only. In
 *             bf16 what is stored is rounded: m ⊙ x, u, the branch s u B^T, its sum with x W^T, and
 *             that with the bias, one after the other.
 * Errors:     CSP_ERR_SHAPE, CSP_ERR_UNSUPPORTED (S), CSP_ERR_DEVICE. Outputs are untouched after
 *             the first two.
 */
CSP_CHECKED csp_status csp_linear_fwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                                      csp_tensor *u, csp_tensor *y);

/*
 * Gradients of csp_linear_fwd.
 *
 *     du = s dy B;   dx = dy W + m ⊙ (du A)
 *     dw += dy^T x;   dbias += sum of rows of dy;   dA += du^T (m ⊙ x);   dB += s dy^T u
 *
 *   x, u  in     as in forward; x may be none where neither dw nor dlora_a is wanted
 *   dy    in     (N,O)  S
 *   grad  in     where to add; the tensors in it are in,out
 *   dx    out    (N,I)  S     overwritten by csp_linear_bwd, added to by csp_linear_bwd_acc;
 *                             none: not wanted
 *
 * Aliasing:   none.
 * Precision:  as forward. In bf16 du, m ⊙ x, du A, its sum with what dx holds, and dx are rounded;
 *             gradients of parameters are f32 sums.
 */
CSP_CHECKED csp_status csp_linear_bwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                                      const csp_tensor *u, const csp_tensor *dy,
                                      const csp_linear_grad *grad, csp_tensor *dx);
CSP_CHECKED csp_status csp_linear_bwd_acc(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                                          const csp_tensor *u, const csp_tensor *dy,
                                          const csp_linear_grad *grad, csp_tensor *dx);

#ifdef __cplusplus
}
#endif
