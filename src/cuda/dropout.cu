/*
 * dropout.cu - counter-based masks. One Philox block gives the four neighbouring channels of a
 * thread, so a row begins at a multiple of four of its sequence. Memory bound: about 100 integer
 * operations for every 32 bytes moved.
 */
#include "dropout.cuh"

#include "core/rng.h"
#include "launch.cuh"

#define DROPOUT_THREADS 256
/* Blocks for each multiprocessor: enough to hide memory latency. */
#define DROPOUT_BLOCKS 8
/* Blocks of four words in the sequence between the rows of two neighbouring keys. */
#define BLOCKS_PER_KEY 65536

typedef struct mask_source {
    csp_rng rng;
    float p, scale; /* scale = 1/(1-p) */
} mask_source;

static __device__ __forceinline__ void draw(const mask_source &source, int64_t key, int64_t block,
                                            float (&m)[4])
{
    uint32_t word[4];

    csp_rng_u32x4(source.rng, (uint64_t)key * BLOCKS_PER_KEY + (uint64_t)block, word);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        m[j] = (float)(word[j] >> 8) * 0x1p-24f >= source.p ? source.scale : 0.0f;
    }
}

/* Any grid works: threads stride over the groups of four channels of all rows. */
static __global__ void __launch_bounds__(DROPOUT_THREADS)
    dropout_kernel(mask_source source, const int64_t *__restrict__ row_key, // (rows)
                   const float *__restrict__ in,                            // (rows,I)
                   float *__restrict__ out,                                 // (rows,I)
                   int64_t rows, int64_t I)
{
    const int64_t groups = ceil_div(I, 4);

    for (int64_t i = grid_thread(); i < rows * groups; i += grid_threads()) {
        const int64_t n = i / groups, c = i % groups * 4;
        float m[4];

        draw(source, row_key[n], c / 4, m);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (c + j < I) {
                out[n * I + c + j] = m[j] * in[n * I + c + j];
            }
        }
    }
}

/* Any grid works: threads stride over the groups of four channels of all rows. */
static __global__ void __launch_bounds__(DROPOUT_THREADS)
    dropout_acc_kernel(mask_source source, const int64_t *__restrict__ row_key, // (rows)
                       const float *__restrict__ in,                            // (rows,I)
                       float *__restrict__ out,                                 // (rows,I)
                       int64_t rows, int64_t I)
{
    const int64_t groups = ceil_div(I, 4);

    for (int64_t i = grid_thread(); i < rows * groups; i += grid_threads()) {
        const int64_t n = i / groups, c = i % groups * 4;
        float m[4];

        draw(source, row_key[n], c / 4, m);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (c + j < I) {
                out[n * I + c + j] += m[j] * in[n * I + c + j];
            }
        }
    }
}

static mask_source source_of(const csp_dropout *d)
{
    const mask_source source = { { d->seed, CSP_DRAW_DROPOUT, d->key, d->step },
                                 d->p,
                                 1.0f / (1.0f - d->p) };

    return source;
}

static dim3 grid_for(csp_backend *be, int64_t rows, int64_t I)
{
    return stride_grid(rows * ceil_div(I, 4), DROPOUT_THREADS,
                       (int64_t)cuda_state_of(be)->processors * DROPOUT_BLOCKS);
}

csp_status cuda_dropout(csp_backend *be, const csp_dropout *d, int64_t first, int64_t rows,
                        int64_t I, const float *in, float *out)
{
    const int64_t *row_key = (const int64_t *)d->row_key.data + first;

    CUDA_TRY(cu::launch(dropout_kernel, grid_for(be, rows, I), DROPOUT_THREADS, 0,
                        cuda_state_of(be)->stream, source_of(d), row_key, in, out, rows, I));
    return CSP_OK;
}

csp_status cuda_dropout_acc(csp_backend *be, const csp_dropout *d, int64_t first, int64_t rows,
                            int64_t I, const float *in, float *out)
{
    const int64_t *row_key = (const int64_t *)d->row_key.data + first;

    CUDA_TRY(cu::launch(dropout_acc_kernel, grid_for(be, rows, I), DROPOUT_THREADS, 0,
                        cuda_state_of(be)->stream, source_of(d), row_key, in, out, rows, I));
    return CSP_OK;
}
