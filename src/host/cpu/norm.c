/*
 * norm.c - CPU side of ops/norm.h. Bound by memory: each row is read once and stays in cache.
 *
 * dg adds rows: every thread adds its own contiguous rows, then the partial sums are added in the
 * order of the threads.
 */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/quantize.h"

CPU_CLONES static float add_row(const float *x, const float *delta, float *sum, int64_t D)
{
    float squares = 0.0f;

#pragma omp simd reduction(+ : squares)
    for (int64_t d = 0; d < D; d++) {
        const float value = x[d] + delta[d];

        sum[d] = value;
        squares += value * value;
    }
    return squares;
}

CPU_CLONES static float square_row(const float *x, int64_t D)
{
    float squares = 0.0f;

#pragma omp simd reduction(+ : squares)
    for (int64_t d = 0; d < D; d++) {
        squares += x[d] * x[d];
    }
    return squares;
}

CPU_CLONES static void scale_row(const float *x, const float *g, float rstd, float *y, int64_t D)
{
#pragma omp simd
    for (int64_t d = 0; d < D; d++) {
        y[d] = g[d] * (rstd * x[d]);
    }
}

csp_status cpu_norm_fwd(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                        const csp_tensor *g, float eps, csp_tensor *sum, csp_tensor *rstd,
                        csp_tensor *y, csp_fp8_rows *y8)
{
    const int64_t N = x->dim[0], D = x->dim[1];
    const bool has_delta = delta != NULL && delta->ndim > 0, rounded = y8 != NULL && y8->q.ndim > 0;
    const float *in = x->data, *branch = has_delta ? delta->data : NULL;
    float *total = has_delta ? sum->data : NULL, *r = rstd->data, *out = y->data;

#pragma omp parallel for num_threads(cpu_parts(be, N *D)) schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const float *row = has_delta ? total + n * D : in + n * D;
        const float squares =
            has_delta ? add_row(in + n * D, branch + n * D, total + n * D, D) : square_row(row, D);

        r[n] = 1.0f / sqrtf(squares / (float)D + eps);
        scale_row(row, g->data, r[n], out + n * D, D);
        if (rounded) {
            cpu_quantize_some(y, n, n + 1, y8);
        }
    }
    return CSP_OK;
}

/* mean of v ⊙ xh, without the division: sum over d of g dy · rstd x. */
CPU_CLONES static float project_row(const float *x, const float *g, const float *dy, float rstd,
                                    int64_t D)
{
    float sum = 0.0f;

#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < D; d++) {
        sum += g[d] * dy[d] * (rstd * x[d]);
    }
    return sum;
}

CPU_CLONES static void grad_row(const float *x, const float *g, const float *dy, const float *dsum,
                                float rstd, float mean, float *dx, int64_t D)
{
    if (dsum != NULL) {
#pragma omp simd
        for (int64_t d = 0; d < D; d++) {
            dx[d] = rstd * (g[d] * dy[d] - rstd * x[d] * mean) + dsum[d];
        }
    } else {
#pragma omp simd
        for (int64_t d = 0; d < D; d++) {
            dx[d] = rstd * (g[d] * dy[d] - rstd * x[d] * mean);
        }
    }
}

CPU_CLONES static void add_gain(const float *x, const float *dy, float rstd, float *dg, int64_t D)
{
#pragma omp simd
    for (int64_t d = 0; d < D; d++) {
        dg[d] += dy[d] * (rstd * x[d]);
    }
}

CPU_CLONES static void add_into(const float *from, float *to, int64_t D)
{
#pragma omp simd
    for (int64_t d = 0; d < D; d++) {
        to[d] += from[d];
    }
}

csp_status cpu_norm_bwd(csp_backend *be, const csp_tensor *x, const csp_tensor *g,
                        const csp_tensor *rstd, const csp_tensor *dy, const csp_tensor *dsum,
                        csp_tensor *dx, csp_tensor *dg)
{
    const int64_t N = x->dim[0], D = x->dim[1];
    const float *in = x->data, *r = rstd->data, *d_out = dy->data, *gain = g->data;
    const float *residual = dsum != NULL && dsum->ndim > 0 ? dsum->data : NULL;
    float *d_gain = dg != NULL && dg->ndim > 0 ? dg->data : NULL, *d_in = dx->data, *partial = NULL;
    const int parts = cpu_parts(be, N * D);

    if (d_gain != NULL) {
        CSP_TRY(cpu_shared(be, (size_t)(parts * D) * sizeof(float), (void **)&partial));
        memset(partial, 0, (size_t)(parts * D) * sizeof(float));
    }
#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        const int64_t end = cpu_cut(N, 1, parts, part + 1);

        for (int64_t n = cpu_cut(N, 1, parts, part); n < end; n++) {
            const float *row = in + n * D, *d_row = d_out + n * D;
            const float mean = project_row(row, gain, d_row, r[n], D) / (float)D;

            if (d_gain != NULL) {
                add_gain(row, d_row, r[n], partial + part * D, D);
            }
            grad_row(row, gain, d_row, residual != NULL ? residual + n * D : NULL, r[n], mean,
                     d_in + n * D, D);
        }
    }
    for (int part = 0; d_gain != NULL && part < parts; part++) {
        add_into(partial + part * D, d_gain, D);
    }
    return CSP_OK;
}

/* Whether all of x is finite: a NaN or an infinity times 0 is no 0. */
CPU_CLONES static bool is_finite_row(const float *x, int64_t D)
{
    float nothing = 0.0f;

#pragma omp simd reduction(+ : nothing)
    for (int64_t d = 0; d < D; d++) {
        nothing += x[d] * 0.0f;
    }
    return nothing == 0.0f;
}

csp_status cpu_norm_bad_row(csp_backend *be, const csp_tensor *rstd, const csp_tensor *y,
                            csp_tensor *row)
{
    const int64_t N = y->dim[0], D = y->dim[1];
    const float *r = rstd->data;
    int64_t first = 0;

    (void)be;
    while (first < N && isfinite(r[first]) && r[first] > 0.0f) {
        first++;
    }
    if (first == N) {
        first = N > 0 && !is_finite_row(y->data, D) ? 0 : -1;
    }
    *(int64_t *)row->data = first;
    return CSP_OK;
}
