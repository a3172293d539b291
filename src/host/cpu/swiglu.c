/* swiglu.c - CPU side of ops/swiglu.h: one exp per element, everything else is memory. */
#include "cpu/cpu.h"
#include "cpu/quantize.h"
#include "cpu/vexp.h"

/* σ(g): exp(-g) overflows to infinity for g < -88.7, and 1/(1+inf) is the right 0. */
static inline float sigmoid(float g)
{
    return 1.0f / (1.0f + cpu_expf(-g));
}

CPU_CLONES static void forward(const float *gate, const float *up, float *m, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        m[i] = gate[i] * sigmoid(gate[i]) * up[i];
    }
}

CPU_CLONES static void backward(const float *gate, const float *up, const float *dm, float *dgate,
                                float *dup, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float g = gate[i], u = up[i], d = dm[i];
        const float s = sigmoid(g);

        dup[i] = d * (g * s);
        dgate[i] = d * u * (s * (1.0f + g * (1.0f - s)));
    }
}

csp_status cpu_swiglu_fwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                          csp_tensor *m, csp_fp8_rows *m8)
{
    const int64_t n = csp_tensor_count(gate), F = gate->dim[1];
    const bool rounded = m8 != NULL && m8->q.ndim > 0; /* then threads share no row */
    const int64_t unit = rounded ? F : 16;
    const float *g = gate->data, *u = up->data;
    float *out = m->data;
    const int parts = cpu_parts(be, n * 4);

#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        const int64_t first = cpu_cut(n, unit, parts, part);
        const int64_t end = cpu_cut(n, unit, parts, part + 1);

        forward(g + first, u + first, out + first, end - first);
        if (rounded) {
            cpu_quantize_some(m, first / F, end / F, m8);
        }
    }
    return CSP_OK;
}

csp_status cpu_swiglu_bwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                          const csp_tensor *dm, csp_tensor *dgate, csp_tensor *dup)
{
    const int64_t n = csp_tensor_count(gate);
    const float *g = gate->data, *u = up->data, *d = dm->data;
    float *d_gate = dgate->data, *d_up = dup->data;
    const int parts = cpu_parts(be, n * 4);

#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        const int64_t first = cpu_cut(n, 16, parts, part), end = cpu_cut(n, 16, parts, part + 1);

        backward(g + first, u + first, d + first, d_gate + first, d_up + first, end - first);
    }
    return CSP_OK;
}
