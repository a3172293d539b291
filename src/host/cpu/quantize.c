/* quantize.c - CPU side of ops/quantize.h: two passes over a row, which the cache holds. */
#include "cpu/quantize.h"

#include <math.h>

#include "core/scalar.h"
#include "cpu/cpu.h"

/* The largest |x c| of a row; a NaN loses against any number. */
CPU_CLONES static float largest(const float *x, const float *c, int64_t K)
{
    float most = 0.0f;

#pragma omp simd reduction(max : most)
    for (int64_t k = 0; k < K; k++) {
        const float size = fabsf(c != NULL ? x[k] * c[k] : x[k]);

        most = size > most ? size : most;
    }
    return most;
}

CPU_CLONES static void round_row(const float *x, const float *c, float inverse, uint8_t *q,
                                 int64_t K)
{
    for (int64_t k = 0; k < K; k++) {
        const float t = c != NULL ? x[k] * c[k] : x[k];

        q[k] = csp_f32_to_e4m3(t * inverse);
    }
}

static void quantize_row(const csp_tensor *x, int count, const float *c, int64_t n, uint8_t *q,
                         float *scale)
{
    float most = 0.0f, s;

    for (int64_t i = 0, first = 0; i < count; first += x[i++].dim[1]) {
        const float *row = (const float *)x[i].data + n * x[i].dim[1];
        const float of_part = largest(row, c != NULL ? c + first : NULL, x[i].dim[1]);

        most = of_part > most ? of_part : most;
    }
    s = most / CSP_E4M3_MAX > CSP_QUANTIZE_LEAST_SCALE ? most / CSP_E4M3_MAX
                                                       : CSP_QUANTIZE_LEAST_SCALE;
    for (int64_t i = 0, first = 0; i < count; first += x[i++].dim[1]) {
        const float *row = (const float *)x[i].data + n * x[i].dim[1];

        round_row(row, c != NULL ? c + first : NULL, 1.0f / s, q + first, x[i].dim[1]);
    }
    *scale = s;
}

void cpu_quantize(const csp_backend *be, const csp_tensor *x, int count, const csp_tensor *c,
                  csp_tensor *q, csp_tensor *scale)
{
    const int64_t N = q->dim[0], K = q->dim[1];
    const float *factor = c->ndim > 0 ? c->data : NULL;
    uint8_t *out = q->data;
    float *scales = scale->data;
    const int parts = cpu_parts(be, N * K * 4);

#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        for (int64_t n = cpu_cut(N, 1, parts, part); n < cpu_cut(N, 1, parts, part + 1); n++) {
            quantize_row(x, count, factor, n, out + n * K, scales + n);
        }
    }
}

void cpu_quantize_some(const csp_tensor *x, int64_t first, int64_t end, csp_fp8_rows *to)
{
    for (int64_t n = first; n < end; n++) {
        quantize_row(x, 1, NULL, n, (uint8_t *)to->q.data + n * x->dim[1],
                     (float *)to->scale.data + n);
    }
}

csp_status cpu_quantize_rows(csp_backend *be, const csp_tensor *x, const csp_tensor *c,
                             csp_tensor *q, csp_tensor *scale)
{
    cpu_quantize(be, x, 1, c, q, scale);
    return CSP_OK;
}
