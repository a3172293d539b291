/*
 * dropout.cu - counter-based masks. One Philox block gives four neighbouring channels, so a row
 * begins at a multiple of four of its sequence; a thread takes 16 bytes where rows allow. Memory
 * bound in f32: about 100 integer operations for every 32 bytes moved.
 */
#include "dropout.cuh"

#include "core/rng.h"
#include "launch.cuh"
#include "vec.cuh"

#define DROPOUT_THREADS 256
/* Blocks for each multiprocessor: enough to hide memory latency. */
#define DROPOUT_BLOCKS 8
/* Blocks of four words in the sequence between the rows of two neighbouring keys. */
#define BLOCKS_PER_KEY 65536

typedef struct mask_source {
    csp_rng rng;
    float p, scale;       /* scale = 1/(1-p)                                        */
    const uint64_t *step; /* not NULL: rng.step lies there, for graphs are replayed */
} mask_source;

/* m = the mask of channels 4 block .. 4 block + 3 of a row. */
static __device__ __forceinline__ void draw(const mask_source &source, int64_t key, int64_t block,
                                            float *m)
{
    uint32_t word[4];

    csp_rng_u32x4(source.rng, (uint64_t)key * BLOCKS_PER_KEY + (uint64_t)block, word);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        m[j] = (float)(word[j] >> 8) * 0x1p-24f >= source.p ? source.scale : 0.0f;
    }
}

/* out = m x, or out + m x where added, of one group of four channels at the end of an odd row. */
template <typename T, bool added>
static __device__ __forceinline__ void mask_some(const T *in, T *out, int64_t count,
                                                 const float (&m)[4])
{
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (j < count) {
            const float x = m[j] * to_f32(in[j]);

            out[j] = from_f32<T>(added ? to_f32(out[j]) + x : x);
        }
    }
}

/* The same of W channels, 16 bytes. */
template <typename T, int W, bool added>
static __device__ __forceinline__ void mask_vec(const T *in, T *out, const float (&m)[W])
{
    float x[W], y[W];

    load_vec(in, x);
    if (added) {
        load_vec(out, y);
    }
#pragma unroll
    for (int j = 0; j < W; j++) {
        x[j] = added ? y[j] + m[j] * x[j] : m[j] * x[j];
    }
    store_vec(out, x);
}

/* Any grid works: threads stride over the groups of channels of all rows: of 16 bytes if wide. */
template <typename T, bool wide, bool added>
static __global__ void __launch_bounds__(DROPOUT_THREADS)
    dropout_kernel(mask_source source, const int64_t *__restrict__ row_key, // (rows)
                   const T *__restrict__ in, // (rows,I), in_row from one to the next
                   int64_t in_row,
                   T *__restrict__ out, // (rows,I)
                   int64_t rows, int64_t I)
{
    const int W = wide ? vec_width<T>::value : 4;
    const int64_t groups = ceil_div(I, W);

    if (source.step != NULL) {
        source.rng.step = *source.step;
    }
    for (int64_t i = grid_thread(); i < rows * groups; i += grid_threads()) {
        const int64_t n = i / groups, c = i % groups * W;
        float m[W];

#pragma unroll
        for (int j = 0; j < W; j += 4) {
            draw(source, row_key[n], (c + j) / 4, m + j);
        }
        if constexpr (wide) {
            mask_vec<T, W, added>(in + n * in_row + c, out + n * I + c, m);
        } else {
            mask_some<T, added>(in + n * in_row + c, out + n * I + c, I - c, m);
        }
    }
}

/* What is recorded reads the step of its replay; the pass has one for all its ops. */
static csp_status source_of(csp_backend *be, const csp_dropout *d, mask_source *out)
{
    cuda_graphs *graphs = &cuda_state_of(be)->graphs;

    *out = { { d->seed, CSP_DRAW_DROPOUT, d->key, d->step }, d->p, 1.0f / (1.0f - d->p), NULL };
    if (!graphs->recording) {
        return CSP_OK;
    }
    if (d->step != graphs->step_recorded) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "dropout of step %llu in a graph of step %llu",
                        (unsigned long long)d->step, (unsigned long long)graphs->step_recorded);
    }
    graphs->step_read = true;
    out->step = graphs->step;
    return CSP_OK;
}

template <typename T, bool added>
static csp_status launch(csp_backend *be, const csp_dropout *d, int64_t first, int64_t rows,
                         int64_t I, const T *in, int64_t in_row, T *out)
{
    const int64_t *row_key = (const int64_t *)d->row_key.data + first;
    const bool wide = is_vec_row(in, I) && is_vec_row(in, in_row) && is_vec_row(out, I);
    const dim3 grid =
        stride_grid(rows * ceil_div(I, wide ? vec_width<T>::value : 4), DROPOUT_THREADS,
                    (int64_t)cuda_state_of(be)->processors * DROPOUT_BLOCKS);
    mask_source source;

    CSP_TRY(source_of(be, d, &source));
    CUDA_TRY(cu::launch(wide ? dropout_kernel<T, true, added> : dropout_kernel<T, false, added>,
                        grid, DROPOUT_THREADS, 0, cuda_state_of(be)->stream, source, row_key, in,
                        in_row, out, rows, I));
    return CSP_OK;
}

csp_status cuda_dropout(csp_backend *be, const csp_dropout *d, int64_t first, int64_t rows,
                        int64_t I, bool add, const float *in, int64_t in_row, float *out)
{
    return add ? launch<float, true>(be, d, first, rows, I, in, in_row, out)
               : launch<float, false>(be, d, first, rows, I, in, in_row, out);
}

csp_status cuda_dropout(csp_backend *be, const csp_dropout *d, int64_t first, int64_t rows,
                        int64_t I, bool add, const __nv_bfloat16 *in, int64_t in_row,
                        __nv_bfloat16 *out)
{
    return add ? launch<__nv_bfloat16, true>(be, d, first, rows, I, in, in_row, out)
               : launch<__nv_bfloat16, false>(be, d, first, rows, I, in, in_row, out);
}
