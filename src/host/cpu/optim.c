/*
 * optim.c - CPU side of ops/optim.h. Bound by memory: one pass reads and writes each of the four
 * arrays once, the gradient's clearing included.
 *
 * All tensors are seen as one long array cut into shares of equal size, so that threads are busy
 * alike whatever the sizes of tensors are. Sums of squares go over blocks that do not depend on the
 * number of threads.
 */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"

enum { BLOCK = 8192 }; /* elements per partial sum of squares */

CPU_CLONES static double square_block(const float *g, int64_t n)
{
    double sum = 0.0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        sum += (double)g[i] * (double)g[i];
    }
    return sum;
}

static int64_t blocks_of(const csp_tensor *t)
{
    return (csp_tensor_count(t) + BLOCK - 1) / BLOCK;
}

/* Partial sums number first .. end-1 of the blocks of all tensors, counted through. */
static void square_share(const csp_optim_tensor *tensors, int64_t count, int64_t first, int64_t end,
                         double *partial)
{
    int64_t at = 0;

    for (int64_t i = 0; i < count && at < end; i++) {
        const csp_tensor *t = &tensors[i].grad;
        const int64_t n = csp_tensor_count(t), blocks = blocks_of(t);
        const int64_t from = first > at ? first - at : 0;
        const int64_t to = end - at < blocks ? end - at : blocks;

        for (int64_t b = from; b < to; b++) {
            const int64_t start = b * BLOCK;

            partial[at + b] =
                square_block((const float *)t->data + start, n - start < BLOCK ? n - start : BLOCK);
        }
        at += blocks;
    }
}

csp_status cpu_grad_squares(csp_backend *be, const csp_optim_tensor *tensors, int64_t count,
                            csp_tensor *squares)
{
    double *total = squares->data;
    int64_t blocks = 0, at = 0;
    double *partial;
    int parts;

    for (int64_t i = 0; i < count; i++) {
        blocks += blocks_of(&tensors[i].grad);
    }
    CSP_TRY(cpu_shared(be, (size_t)blocks * sizeof(double), (void **)&partial));
    parts = cpu_parts(be, blocks * BLOCK);
#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        square_share(tensors, count, cpu_cut(blocks, 1, parts, part),
                     cpu_cut(blocks, 1, parts, part + 1), partial);
    }
    for (int64_t i = 0; i < count; i++) {
        const int64_t end = at + blocks_of(&tensors[i].grad);

        total[i] = 0.0;
        for (; at < end; at++) {
            total[i] += partial[at];
        }
    }
    return CSP_OK;
}

/* The scalars of one update, computed in double and rounded once. */
typedef struct adamw_factors {
    float grad_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
    float step, rsqrt_correction, eps; /* η/(1-β1^t), 1/sqrt(1-β2^t) */
    float keep;                        /* 1 - η wd                  */
} adamw_factors;

CPU_CLONES static void update(const adamw_factors *f, float keep, float *value, float *grad,
                              float *m, float *v, int64_t n)
{
    const float b1 = f->beta1, c1 = f->one_minus_beta1, b2 = f->beta2, c2 = f->one_minus_beta2;
    const float scale = f->grad_scale, step = f->step, root = f->rsqrt_correction, eps = f->eps;

#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float g = scale * grad[i];
        const float mi = b1 * m[i] + c1 * g;
        const float vi = b2 * v[i] + c2 * (g * g);

        m[i] = mi;
        v[i] = vi;
        value[i] = value[i] * keep - step * (mi / (sqrtf(vi) * root + eps));
        grad[i] = 0.0f;
    }
}

/* Elements first .. end-1 of all tensors seen as one array. */
static void update_share(const adamw_factors *f, csp_optim_tensor *tensors, int64_t count,
                         int64_t first, int64_t end)
{
    int64_t at = 0;

    for (int64_t i = 0; i < count; i++) {
        csp_optim_tensor *t = &tensors[i];
        const int64_t n = csp_tensor_count(&t->value);
        const int64_t from = first > at ? first - at : 0;
        const int64_t to = end - at < n ? end - at : n;

        if (from < to) {
            update(f, t->decay ? f->keep : 1.0f, (float *)t->value.data + from,
                   (float *)t->grad.data + from, (float *)t->m.data + from,
                   (float *)t->v.data + from, to - from);
        }
        at += n;
    }
}

/* Whether an update is to be made, and its κ. */
static bool find_scale(const csp_adamw_args *a, double *scale)
{
    const double *squares = a->squares.data;
    const int64_t *faults = a->faults.data;
    double total = 0.0;

    for (int64_t i = 0; a->squares.ndim > 0 && i < a->squares.dim[0]; i++) {
        if (!csp_squares_fit(squares[i], a->max_norm)) {
            return false;
        }
        total += squares[i];
    }
    for (int64_t i = 0; a->faults.ndim > 0 && i < a->faults.dim[0]; i++) {
        if (faults[i] != -1) {
            return false;
        }
    }
    *scale = csp_clip_factor(total, a->max_norm);
    return true;
}

csp_status cpu_adamw(csp_backend *be, csp_optim_tensor *tensors, int64_t count,
                     const csp_adamw_args *a)
{
    const double t = (double)a->t;
    double scale = 1.0;
    const bool made = find_scale(a, &scale);
    const adamw_factors f = {
        .grad_scale = (float)scale,
        .beta1 = (float)a->beta1,
        .one_minus_beta1 = (float)(1.0 - a->beta1),
        .beta2 = (float)a->beta2,
        .one_minus_beta2 = (float)(1.0 - a->beta2),
        .step = (float)(a->lr / (1.0 - pow(a->beta1, t))),
        .rsqrt_correction = (float)(1.0 / sqrt(1.0 - pow(a->beta2, t))),
        .eps = (float)a->eps,
        .keep = (float)(1.0 - a->lr * a->weight_decay),
    };
    int64_t total = 0;
    int parts;

    for (int64_t i = 0; i < count; i++) {
        total += csp_tensor_count(&tensors[i].value);
        if (!made) {
            memset(tensors[i].grad.data, 0, csp_tensor_bytes(&tensors[i].grad));
        }
    }
    if (!made) {
        return CSP_OK;
    }
    parts = cpu_parts(be, total);
#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        update_share(&f, tensors, count, cpu_cut(total, 16, parts, part),
                     cpu_cut(total, 16, parts, part + 1));
    }
    return CSP_OK;
}
