/*
 * sparse_pool_fold.cu - a tile of products is folded into the table of its texts: the largest of
 * each (text, term) with its position, or the sum of their logarithms.
 *
 * f32     a thread owns 4 neighbouring terms and walks down the rows of a text, so that the first
 *         row wins a tie; value and position lie in two tables.
 * bf16    value and position are one number: (bits << 16) | (65535 - position), compared as signed.
 *         Positive bf16 order like their bits and negative ones sort below 0, where the table
 *         starts; among equal values the lowest position is the largest number. A NaN of a device
 *         (0x7FFF) lies above infinity, and so is the maximum, as it is in f32. The maximum needs
 *         no order, so a warp reads 4 rows of 64 terms at once, 16 bytes a lane, and its lanes
 *         compare at the end: one bit operation and one maximum for each product.
 * sum     a thread owns 16 bytes of terms and adds in order of rows.
 *
 * A text that the tile's edge cut goes on from what the table holds. No two threads write the same
 * entry. Bound by reading the tile from the second-level cache.
 */
#include "reduce.cuh"
#include "sparse_pool.cuh"
#include "vec.cuh"

#define FOLD_THREADS 128
#define FOLD_TERMS 4 /* f32: terms of a thread                                      */
#define FOLD_ROWS 8  /* f32: loads on their way at once                             */
#define KEY_LANES 8  /* bf16: lanes along the terms, 8 each                         */
#define KEY_TERMS 8
#define KEY_ROWS 4  /* rows that a warp reads at once                               */
#define KEY_AHEAD 4 /* and how often, before it uses them                           */

/* Kept rows of text b in the tile: i .. stop-1. */
static __device__ __forceinline__ void rows_of_text(const pool_fold &a, int64_t b, int64_t *i,
                                                    int64_t *stop)
{
    const int64_t first = a.start[b], end = a.start[b + 1];

    *i = first > a.from ? first : a.from;
    *stop = end < a.from + a.count ? end : a.from + a.count;
}

/* The position in text b of kept row i. */
static __device__ __forceinline__ int32_t position_of(const pool_fold &a, int64_t b, int64_t i)
{
    return a.row != NULL ? a.row[i] - a.seq_start[b] : (int32_t)(i - a.start[b]);
}

/* Whether text b may have rows in the tile; b ascends from the text of the tile's first row. */
static __device__ __forceinline__ bool is_in_tile(const pool_fold &a, int64_t b)
{
    return b < a.texts && a.start[b] < a.from + a.count;
}

/* A row offers its products: they are taken where larger than all before, or the first NaN. */
static __device__ __forceinline__ void offer(const float (&x)[FOLD_TERMS], int32_t position,
                                             float (&best)[FOLD_TERMS], int32_t (&arg)[FOLD_TERMS])
{
#pragma unroll
    for (int j = 0; j < FOLD_TERMS; j++) {
        const bool taken = !(x[j] <= best[j]) && best[j] == best[j];

        arg[j] = taken ? position : arg[j];
        best[j] = taken ? x[j] : best[j];
    }
}

/*
 * table = max(table, z) over the kept rows of each text. Grid: x covers the tile's terms, any y
 * works, its blocks stride over the texts that have rows in the tile.
 */
static __global__ void __launch_bounds__(FOLD_THREADS) pool_fold_max_kernel(pool_fold a)
{
    const int64_t column = grid_thread() * FOLD_TERMS;
    const int left = (int)(a.width - column < FOLD_TERMS ? a.width - column : FOLD_TERMS);

    for (int64_t b = text_of_row_by_warp(a.start, a.texts, a.from) + blockIdx.y;
         left > 0 && is_in_tile(a, b); b += gridDim.y) {
        float best[FOLD_TERMS] = {};
        int32_t arg[FOLD_TERMS] = {};
        int64_t i, stop;

        rows_of_text(a, b, &i, &stop);
        const float *z = (const float *)a.z + (i - a.from) * a.stride + column;
        const int64_t at = b * a.V + column;
#pragma unroll
        for (int j = 0; j < FOLD_TERMS; j++) {
            if (j < left && i < stop) {
                best[j] = a.best[at + j];
                arg[j] = best[j] <= 0.0f ? 0 : a.arg[at + j];
            }
        }
        for (; i + FOLD_ROWS <= stop; i += FOLD_ROWS, z += FOLD_ROWS * a.stride) {
            float x[FOLD_ROWS][FOLD_TERMS];

#pragma unroll
            for (int k = 0; k < FOLD_ROWS; k++) {
                load_vec(z + k * a.stride, x[k]);
            }
#pragma unroll
            for (int k = 0; k < FOLD_ROWS; k++) {
                offer(x[k], position_of(a, b, i + k), best, arg);
            }
        }
        for (; i < stop; i++, z += a.stride) {
            float x[FOLD_TERMS];

            load_vec(z, x);
            offer(x, position_of(a, b, i), best, arg);
        }
#pragma unroll
        for (int j = 0; j < FOLD_TERMS; j++) {
            if (j < left && !(best[j] <= 0.0f)) {
                a.best[at + j] = best[j];
                a.arg[at + j] = arg[j];
            }
        }
    }
}

/* Two neighbouring products in bf16 offer themselves; low: 65535 - position. */
static __device__ __forceinline__ void offer_pair(uint32_t pair, uint32_t low, int32_t &first,
                                                  int32_t &second)
{
    first = max(first, (int32_t)((pair << 16) + low));
    second = max(second, (int32_t)((pair & 0xFFFF0000u) | low));
}

/* Products of KEY_TERMS neighbouring terms. */
typedef struct key_words {
    uint32_t at[KEY_TERMS / 2];
} key_words;

static __device__ __forceinline__ void offer_row(const key_words &x, uint32_t low,
                                                 int32_t (&key)[KEY_TERMS])
{
#pragma unroll
    for (int j = 0; j < KEY_TERMS / 2; j++) {
        offer_pair(x.at[j], low, key[2 * j], key[2 * j + 1]);
    }
}

/* Every KEY_ROWS-th kept row from i to stop - 1 offers its products, which begin at z. */
static __device__ __forceinline__ void offer_rows(const pool_fold &a, const uint16_t *z, int64_t b,
                                                  int64_t i, int64_t stop,
                                                  int32_t (&key)[KEY_TERMS])
{
    /* 65535 and the text's first row or, where rows are listed, its first kept one. */
    const uint32_t above = 65535u + (uint32_t)(a.row != NULL ? a.seq_start[b] : a.start[b]);
    const int64_t step = KEY_ROWS * a.stride;

    for (; i + (KEY_AHEAD - 1) * KEY_ROWS < stop; i += KEY_AHEAD * KEY_ROWS) {
        key_words x[KEY_AHEAD];
        uint32_t row[KEY_AHEAD];

#pragma unroll
        for (int k = 0; k < KEY_AHEAD; k++, z += step) {
            load_words(z, x[k].at);
            row[k] = (uint32_t)i + k * KEY_ROWS;
        }
        if (a.row != NULL) {
#pragma unroll
            for (int k = 0; k < KEY_AHEAD; k++) {
                row[k] = (uint32_t)a.row[i + k * KEY_ROWS];
            }
        }
#pragma unroll
        for (int k = 0; k < KEY_AHEAD; k++) {
            offer_row(x[k], above - row[k], key);
        }
    }
    for (; i < stop; i += KEY_ROWS, z += step) {
        key_words x;

        load_words(z, x.at);
        offer_row(x, above - (uint32_t)(a.row != NULL ? a.row[i] : i), key);
    }
}

/*
 * keys = max(keys, those of z) over the kept rows of each text; a warp for each text and 64 terms.
 * Grid: x covers the tile's terms, any y works, its blocks stride over the texts. 8 blocks: 64
 * registers a thread.
 */
static __global__ void __launch_bounds__(FOLD_THREADS, 8) pool_fold_key_kernel(pool_fold a)
{
    const int lane = (int)(threadIdx.x % 32), own = lane / KEY_LANES;
    const int64_t warp_column = grid_thread() / 32 * (KEY_LANES * KEY_TERMS);
    const int64_t column = warp_column + lane % KEY_LANES * KEY_TERMS;
    /* Lanes behind the tile's last term read the warp's first ones again. */
    const uint16_t *tile = (const uint16_t *)a.z + (column < a.width ? column : warp_column);

    for (int64_t b = text_of_row_by_warp(a.start, a.texts, a.from) + blockIdx.y;
         warp_column < a.width && is_in_tile(a, b); b += gridDim.y) {
        int32_t key[KEY_TERMS] = {};
        int64_t i, stop;

        rows_of_text(a, b, &i, &stop);
        const bool cut = a.start[b] < i, any = i < stop;
        int32_t *const table = a.key + b * a.V + column;
        offer_rows(a, tile + (i + own - a.from) * a.stride, b, i + own, stop, key);
#pragma unroll
        for (int j = 0; j < KEY_TERMS; j++) {
            key[j] = max(key[j], __shfl_xor_sync(FULL_WARP, key[j], KEY_LANES));
            key[j] = max(key[j], __shfl_xor_sync(FULL_WARP, key[j], 2 * KEY_LANES));
            /* All lanes of a column have its maximum: each writes its share of the columns. */
            if (any && j * KEY_ROWS / KEY_TERMS == own && column + j < a.width) {
                table[j] = cut ? max(key[j], table[j]) : key[j];
            }
        }
    }
}

/* table += log(1 + ReLU(scale z)) over the kept rows of each text, in order. Grid as f32. */
template <typename S>
static __global__ void __launch_bounds__(FOLD_THREADS) pool_fold_sum_kernel(pool_fold a)
{
    const int terms = vec_width<S>::value;
    const int64_t column = grid_thread() * terms;
    const int left = (int)(a.width - column < terms ? a.width - column : terms);

    for (int64_t b = text_of_row_by_warp(a.start, a.texts, a.from) + blockIdx.y;
         left > 0 && is_in_tile(a, b); b += gridDim.y) {
        float sum[vec_width<S>::value] = {};
        int64_t i, stop;

        rows_of_text(a, b, &i, &stop);
        const int64_t at = b * a.V + column;
#pragma unroll
        for (int j = 0; j < terms; j++) {
            sum[j] = j < left && i < stop ? a.best[at + j] : 0.0f;
        }
        for (; i < stop; i++) {
            float x[vec_width<S>::value];

            load_vec((const S *)a.z + (i - a.from) * a.stride + column, x);
#pragma unroll
            for (int j = 0; j < terms; j++) {
                sum[j] += x[j] <= 0.0f ? 0.0f : log1pf(a.scale * x[j]); /* keeps a NaN */
            }
        }
#pragma unroll
        for (int j = 0; j < terms; j++) {
            if (j < left && !(sum[j] <= 0.0f)) {
                a.best[at + j] = sum[j];
            }
        }
    }
}

csp_status pool_fold_tile(const pool_fold *a, csp_pool_kind pooling, csp_dtype S,
                          cudaStream_t stream)
{
    const bool halves = S == CSP_BF16, sum = pooling == CSP_POOL_SUM;
    void (*const kernel)(pool_fold) =
        sum      ? halves ? pool_fold_sum_kernel<__nv_bfloat16> : pool_fold_sum_kernel<float>
             : halves ? pool_fold_key_kernel
                 : pool_fold_max_kernel;
    const int64_t threads = halves && !sum ? ceil_div(a->width, KEY_LANES * KEY_TERMS) * 32
                                           : ceil_div(a->width, halves ? 8 : FOLD_TERMS);
    const int64_t most = a->count < a->texts ? a->count : a->texts;
    const dim3 grid((unsigned)ceil_div(threads, FOLD_THREADS),
                    (unsigned)(most < CUDA_GRID_YZ ? most : CUDA_GRID_YZ));

    CUDA_TRY(cu::launch(kernel, grid, FOLD_THREADS, 0, stream, *a));
    return CSP_OK;
}
