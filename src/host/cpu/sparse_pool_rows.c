/* sparse_pool_rows.c - the kept rows of a packed batch, and the product of a tile of them. */
#include <string.h>

#include "core/size.h"
#include "cpu/gemm.h"
#include "cpu/sparse_pool.h"

static size_t list_bytes(int64_t n)
{
    return csp_size_round_up((size_t)n * sizeof(int32_t), CSP_ARENA_ALIGN);
}

size_t cpu_pool_rows_bytes(const csp_pool_texts *texts, int64_t D, int64_t *count)
{
    const int64_t N = texts->keep.dim[0];
    const uint8_t *kept = texts->keep.data;
    int64_t n = 0;

    for (int64_t i = 0; i < N; i++) {
        n += kept[i] != 0;
    }
    *count = n;
    return list_bytes(texts->seq_start.dim[0]) + list_bytes(n) +
           (n < N ? (size_t)(n * D) * sizeof(float) : 0);
}

void cpu_pool_rows_make(csp_backend *be, const csp_tensor *h, const csp_pool_texts *texts,
                        void *block, cpu_pool_rows *out)
{
    const int64_t B = texts->seq_start.dim[0] - 1, N = h->dim[0], D = h->dim[1];
    const int32_t *from = texts->seq_start.data;
    const uint8_t *kept = texts->keep.data;
    const float *source = h->data;
    cpu_pool_rows r = { .B = B, .count = 0, .D = D };

    r.start = block;
    r.row = (int32_t *)((char *)block + list_bytes(B + 1));
    for (int64_t b = 0; b < B; b++) {
        r.start[b] = (int32_t)r.count;
        for (int32_t n = from[b]; n < from[b + 1]; n++) {
            if (kept[n] != 0) {
                r.row[r.count++] = n;
            }
        }
    }
    r.start[B] = (int32_t)r.count;
    if (r.count < N) {
        float *copy = (float *)((char *)r.row + list_bytes(r.count));

#pragma omp parallel for num_threads(cpu_parts(be, r.count *D)) schedule(static)
        for (int64_t i = 0; i < r.count; i++) {
            memcpy(copy + i * D, source + (int64_t)r.row[i] * D, (size_t)D * sizeof(float));
        }
        source = copy;
    }
    r.h = source;
    *out = r;
}

void cpu_pool_tile(const float *h, int64_t rows, const float *e, int64_t terms, int64_t D, float *z)
{
    cpu_gemm_serial(false, true, rows, terms, D, 1.0f, h, D, e, D, 0.0f, z, terms);
}
