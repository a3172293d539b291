/*
 * optim.h - global gradient norm and AdamW over many tensors at once.
 */
#pragma once

#include <float.h>
#include <math.h>

#include "core/scalar.h"
#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * One trained tensor, or the elements of one from first on: the part of a rank that shares its
 * moments out with others. All have the same shape and are f32, but for value.
 */
typedef struct csp_optim_tensor {
    csp_tensor value;  /* in,out; f32, or bf16 where be has it (csp_backend.bf16)     */
    csp_tensor grad;   /* in; cleared to 0 by csp_adamw                               */
    csp_tensor m;      /* in,out first moment                                         */
    csp_tensor v;      /* in,out second moment                                        */
    csp_tensor master; /* in,out; what a bf16 value is the rounding of. None where value is f32 or
                          rounding is stochastic. Not looked at by csp_grad_squares   */
    int64_t first;     /* which element of the whole tensor is the first here, a multiple of 4: what
                          is rounded at random is rounded as in the whole             */
    bool decay;        /* false for norms and biases                                  */
} csp_optim_tensor;

/*
 * Sum of squares of each gradient.
 *
 *   squares   out   (count) f64   a NaN or an infinity in a gradient shows in its sum
 *
 * Precision:  squares and sums in double, in a fixed order. Stream: enqueued on be.
 */
CSP_CHECKED csp_status csp_grad_squares(csp_backend *be, const csp_optim_tensor *tensors,
                                        int64_t count, csp_tensor *squares);

/* κ, what clips gradients whose squares are total in sum: min(1, max_norm / (norm + 1e-6)). */
static inline CSP_HD double csp_clip_factor(double total, double max_norm)
{
    const double norm = sqrt(total) + 1e-6;

    return max_norm > 0.0 && norm > max_norm ? max_norm / norm : 1.0;
}

/*
 * Whether a gradient whose squares are this in sum may enter an update. It may not where it is not
 * finite, nor where nothing clips it and its squares overflow float32: v would be infinite, and its
 * weights would never move again.
 */
static inline CSP_HD bool csp_squares_fit(double squares, double max_norm)
{
    const bool clipped = max_norm > 0.0 && max_norm * max_norm <= (double)FLT_MAX;

    return squares <= (clipped ? DBL_MAX : (double)FLT_MAX);
}

typedef struct csp_adamw_args {
    int64_t t; /* 1, 2, ...: which update this is                                                 */
    double lr, beta1, beta2, eps, weight_decay;
    double max_norm; /* of all gradients together; 0: they are not clipped                     */
    bool stochastic; /* bf16 values have no master: each update is rounded at random, see below */
    uint64_t seed;   /* of that                                                                */
    int64_t tensor;  /* number of tensors[0] where several calls make an update of more        */
    csp_tensor squares; /* in f64 from csp_grad_squares of all tensors of the update, at least
                           (tensor + count); none where max_norm is 0 and gradients are finite    */
    csp_tensor faults;  /* in (n) i64, or none: a number but -1 makes no update                   */
} csp_adamw_args;

/*
 * One update, and clears the gradients. Where squares has a number that does not fit
 * (csp_squares_fit), or faults one but -1, it only clears the gradients.
 *
 *     κ = csp_clip_factor(sum of squares, max_norm)
 *     g <- κ g;  θ <- θ (1 - η wd);  m <- β1 m + (1-β1) g;  v <- β2 v + (1-β2) g²
 *     θ <- θ - η (m / (1-β1^t)) / (sqrt(v) / sqrt(1-β2^t) + eps);   g <- 0
 *
 * Source: arXiv 1711.05101 in PyTorch's order; docs/method.md 9.
 *
 * Where value is bf16, θ is master, and value becomes θ rounded to nearest. Where rounding is
 * stochastic, θ is value itself, and csp_f32_to_bf16_random rounds element e of tensors[k] with the
 * upper 16 bits of csp_rng_u32({seed, CSP_DRAW_ROUNDING, tensor + k, t}, tensors[k].first + e):
 * updates below the spacing of bf16 then count in the mean, and the same call gives the same bits.
 * An update in several calls gives those of one.
 *
 * Precision:  f32 element-wise; the scalars are computed in double, squares being added up in their
 *             order, and rounded once.
 * Stream:     enqueued on be, which reads squares and faults: the host need not know them.
 * Errors:     CSP_ERR_SHAPE, CSP_ERR_ARGUMENT (scalars), CSP_ERR_UNSUPPORTED (bf16),
 *             CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_adamw(csp_backend *be, csp_optim_tensor *tensors, int64_t count,
                                 const csp_adamw_args *args);

#ifdef __cplusplus
}
#endif
