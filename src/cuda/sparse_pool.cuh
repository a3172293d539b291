/*
 * sparse_pool.cuh - what both directions of the retrieval head share: the tile of logits, the list
 * of kernels' grids, and finding a row's text.
 */
#pragma once

#include "device.h"
#include "launch.cuh"
#include "sparse_rows.cuh"

/* A tile of logits is formed by one product and used at once. */
typedef struct pool_tile {
    int64_t rows, terms; /* most of each                                       */
    int64_t stride;      /* distance of its rows: terms, rounded up to 16 bytes */
} pool_tile;

/* Elements of a tile: 32 MiB of f32, which stay in the second-level cache of an H100 (50 MB). */
#define POOL_TILE_ELEMENTS ((int64_t)8 << 20)
#define POOL_TILE_ROWS ((int64_t)4096)

/* The tile for N rows of V logits: as many terms as the rows leave room for. */
static inline pool_tile pick_pool_tile(int64_t N, int64_t V)
{
    pool_tile t;

    t.rows = N < 1 ? 1 : N < POOL_TILE_ROWS ? N : POOL_TILE_ROWS;
    t.terms = POOL_TILE_ELEMENTS / t.rows / 256 * 256;
    t.terms = t.terms < V ? t.terms : V;
    t.stride = ceil_div(t.terms, 4) * 4;
    return t;
}

static inline int64_t tile_elements(const pool_tile *t)
{
    return t->rows * t->stride;
}

/* A grid of blocks that stride over items of one thread each, enough to fill the device. */
static inline dim3 pool_grid(csp_backend *be, int64_t items, int threads)
{
    return stride_grid(items, threads, (int64_t)cuda_state_of(be)->processors * (2048 / threads));
}

/* The text of row n, 0 <= n < seq_start[B]: the last one that begins at or before n. */
static __device__ __forceinline__ int64_t text_of_row(const int32_t *seq_start, int64_t B,
                                                      int64_t n)
{
    int64_t low = 0, high = B;

    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;

        if (seq_start[middle] <= n) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/*
 * Rows of a table (texts,V) become entries (sparse_pool_rows.cu). What is stored is value =
 * table · scale where it is positive and the term not excluded; its weight is log1p(value) for max
 * pooling (argmax not NULL), value itself for sum pooling.
 */
typedef struct pool_table {
    const float *best;      /* (texts,V)                                                       */
    const int32_t *arg;     /* (texts,V), NULL: sum                                            */
    const uint8_t *exclude; /* (V), NULL: none                                                 */
    float scale;
    int64_t texts, V;
} pool_table;

/* Scratch memory of the conversion, for texts rows. */
typedef struct pool_counts {
    int32_t *slice;     /* (texts,slices) entries of each; then entries of the row before it   */
    int64_t *row_start; /* (texts+1) place of each row's first entry                           */
    int64_t *row_size;  /* (texts)                                                             */
} pool_counts;

CSP_CHECKED csp_status pool_counts_place(csp_arena *arena, int64_t texts, int64_t V,
                                         pool_counts *out);

/* Counts: fills all of counts. before is the place of the end of the rows before, NULL: 0. */
CSP_CHECKED csp_status pool_rows_count(csp_backend *be, const pool_table *table,
                                       const int64_t *before, const pool_counts *counts);

/* Writes the entries of rows first .. first+texts-1 of what was counted; table holds these only. */
CSP_CHECKED csp_status pool_rows_write(csp_backend *be, const pool_table *table, int64_t first,
                                       const pool_counts *counts, csp_sparse *out);

/* The two halves of cuda_sparse_pool_bwd, in sparse_pool_bwd.cu and sparse_pool_sum.cu. */
CSP_CHECKED csp_status cuda_sparse_pool_max_bwd(csp_backend *be, const csp_head *head,
                                                csp_sparse_pool_grad *g);
CSP_CHECKED csp_status cuda_sparse_pool_sum_bwd(csp_backend *be, const csp_head *head,
                                                csp_sparse_pool_grad *g);

/* The address in a piece of scratch that was placed as an array of T. */
template <typename T> static inline csp_status pool_take(csp_arena *arena, int64_t count, T **out)
{
    void *at;

    CSP_TRY(csp_arena_take(arena, (size_t)count * sizeof(T), &at));
    *out = (T *)at;
    return CSP_OK;
}
