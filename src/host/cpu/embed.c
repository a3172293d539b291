/*
 * embed.c - CPU side of ops/embed.h. Backward gives each thread its own columns, so that rows of a
 * repeated token are added in their order without any lock.
 */
#include <string.h>

#include "cpu/cpu.h"

csp_status cpu_embed_fwd(csp_backend *be, const csp_tensor *table, const csp_tensor *token,
                         csp_tensor *x)
{
    const int64_t N = x->dim[0], D = x->dim[1];
    const int32_t *id = token->data;
    const float *from = table->data;
    float *to = x->data;

#pragma omp parallel for num_threads(cpu_parts(be, N *D)) schedule(static)
    for (int64_t n = 0; n < N; n++) {
        memcpy(to + n * D, from + (int64_t)id[n] * D, (size_t)D * sizeof(float));
    }
    return CSP_OK;
}

CPU_CLONES static void add_columns(const float *dx, const int32_t *id, int64_t N, int64_t D,
                                   int64_t first, int64_t end, float *dtable)
{
    for (int64_t n = 0; n < N; n++) {
        const float *from = dx + n * D;
        float *to = dtable + (int64_t)id[n] * D;

#pragma omp simd
        for (int64_t d = first; d < end; d++) {
            to[d] += from[d];
        }
    }
}

csp_status cpu_embed_bwd(csp_backend *be, const csp_tensor *token, const csp_tensor *dx,
                         csp_tensor *dtable)
{
    const int64_t N = dx->dim[0], D = dx->dim[1];
    const int32_t *id = token->data;
    const float *from = dx->data;
    float *to = dtable->data;
    const int parts = cpu_parts(be, N * D);

#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        add_columns(from, id, N, D, cpu_cut(D, 16, parts, part), cpu_cut(D, 16, parts, part + 1),
                    to);
    }
    return CSP_OK;
}
