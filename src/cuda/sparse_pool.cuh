/*
 * sparse_pool.cuh - what both directions of the retrieval head share: the tile of logits, the list
 * of kernels' grids, and finding a row's text.
 */
#pragma once

#include "device.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "sparse_pool_pick.h"
#include "sparse_rows.cuh"

/* A tile of logits is formed by one product and used at once. */
typedef struct pool_tile {
    int64_t rows, terms; /* most of each                                       */
    int64_t stride;      /* distance of its rows: terms, rounded up to 16 bytes */
} pool_tile;

/* Bytes of a tile, which stay in the second-level cache of an H100 (50 MB), and its least width. */
#define POOL_TILE_BYTES ((int64_t)32 << 20)
#define POOL_TILE_TERMS ((int64_t)2048)

/* The tile of at most room bytes for rows of V logits stored as S: as many terms as rows leave. */
static inline pool_tile pick_pool_tile(int64_t rows, int64_t V, csp_dtype S, int64_t room)
{
    const int64_t bytes = (int64_t)csp_dtype_bytes(S), most = room / bytes;
    pool_tile t;

    t.rows = rows < 1 ? 1 : rows < most / POOL_TILE_TERMS ? rows : most / POOL_TILE_TERMS;
    t.terms = most / t.rows / 256 * 256;
    t.terms = t.terms < V ? t.terms : V;
    t.stride = ceil_div(t.terms * bytes, 16) * 16 / bytes;
    return t;
}

/*
 * Tiles of half as much, two of them, for a pass that works on one while cuBLAS works on the other;
 * one where all terms fit into it.
 */
static inline pool_tile pick_pool_tiles(int64_t rows, int64_t V, csp_dtype S, int *tiles)
{
    const pool_tile half = pick_pool_tile(rows, V, S, POOL_TILE_BYTES / 2);

    *tiles = V > half.terms ? 2 : 1;
    return half;
}

static inline int64_t tile_elements(const pool_tile *t)
{
    return t->rows * t->stride;
}

/* The kept rows of a batch, in order. */
typedef struct pool_kept {
    int64_t count;
    int32_t *start; /* (B+1) kept rows before each text              */
    int32_t *row;   /* (count) the row of each, NULL: all are kept   */
    int32_t *place; /* (N) kept rows before each row, NULL: as above */
} pool_kept;

/* Places the lists in scratch memory, then fills them. */
CSP_CHECKED csp_status pool_kept_place(csp_arena *arena, const csp_pool_texts *texts,
                                       pool_kept *out);
CSP_CHECKED csp_status pool_kept_list(csp_backend *be, const csp_pool_texts *texts,
                                      const pool_kept *kept);

/* Kept rows from .. from+count-1 of h, bytes each: where they are, or copied together to room. */
CSP_CHECKED csp_status pool_kept_rows(csp_backend *be, const pool_kept *kept, const void *h,
                                      int64_t from, int64_t count, int64_t bytes, void *room,
                                      const void **out);

/* A tile of products and the table it is folded into (sparse_pool_fold.cu). */
typedef struct pool_fold {
    const void *z;            /* (count,stride) S, of kept rows from.., terms v..   */
    const int32_t *seq_start; /* (texts+1)                                          */
    const int32_t *start;     /* (texts+1) of pool_kept, as is row                  */
    const int32_t *row;
    float *best;  /* (texts,V) from column v on; f32 max and sum        */
    int32_t *arg; /* the same; f32 max                                  */
    int32_t *key; /* the same; bf16 max                                 */
    int64_t stride, from, count, width, texts, V;
    float scale; /* sum                                                */
} pool_fold;

CSP_CHECKED csp_status pool_fold_tile(const pool_fold *a, csp_pool_kind pooling, csp_dtype S,
                                      cudaStream_t stream);

/*
 * Products and fold in one kernel (sparse_pool_sm90.cu): keys of the table become the larger of
 * themselves and those of e h^T over the kept rows of each text, whose positions are counted among
 * its kept rows. bf16 and the maximum only; the device has compute capability 9.0
 * (cuda_state.hopper), D is a multiple of 8, h and e lie at multiples of 16 bytes.
 */
typedef struct pool_fused {
    const void *h;        /* (count,D) bf16, kept rows from ..                   */
    const void *e;        /* (V,D) bf16                                          */
    const int32_t *start; /* (texts+1) of pool_kept                              */
    int32_t *key;         /* (texts,V)                                           */
    int32_t *tile_text;   /* scratch, pool_fused_tiles(count)                    */
    int64_t from, count, texts, V, D;
} pool_fused;

int64_t pool_fused_tiles(int64_t rows);
CSP_CHECKED csp_status pool_fold_fused(csp_backend *be, const pool_fused *f);

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
 * The same by all lanes of a warp for one row: they look at 32 places at a time, so that of 512
 * texts two trips to memory find it, not nine in a row.
 */
static __device__ __forceinline__ int64_t text_of_row_by_warp(const int32_t *seq_start, int64_t B,
                                                              int64_t n)
{
    int64_t low = 0, high = B;

    while (high - low > 1) {
        const int64_t step = ceil_div(high - low, 32), at = low + threadIdx.x % 32 * step;
        const uint32_t begun = __ballot_sync(FULL_WARP, at < high && seq_start[at] <= n);

        low += (__popc(begun) - 1) * step;
        high = low + step < high ? low + step : high;
    }
    return low;
}

/*
 * Rows of a table (texts,V) become entries (sparse_pool_rows.cu). What is stored is value =
 * table · scale where it is positive, or NaN, and the term not excluded; its weight is log1p(value)
 * for max pooling, value itself for sum pooling.
 */
typedef struct pool_table {
    const float *best;      /* (texts,V), NULL: bf16 max                                       */
    const int32_t *arg;     /* (texts,V) f32 max, else NULL                                    */
    const int32_t *key;     /* (texts,V) bf16 max (sparse_pool_fold.cu), else NULL             */
    const uint8_t *exclude; /* (V), NULL: none                                                 */
    /* Positions are those of rows in their text; among kept rows where row is not NULL.       */
    const int32_t *row;       /* of pool_kept                                                  */
    const int32_t *start;     /* (texts+1) of pool_kept                                        */
    const int32_t *seq_start; /* (texts+1)                                                     */
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

/* Consecutive texts and their entries. */
typedef struct pool_entries {
    const int64_t *row_ptr;   // (texts+1)
    const int32_t *seq_start; // (texts+1)
    const int32_t *term;      // (cap)
    const int32_t *argmax;    // (cap)
    const float *weight;      // (cap)
    const float *dw;          // (cap)
    int64_t texts;
    float scale;
    bool zeros; // entries whose dw is 0 are listed too
} pool_entries;

/* All of a call, zeros left out. */
static inline pool_entries pool_entries_of(const csp_head *head, const csp_sparse_pool_grad *g)
{
    const pool_entries all = { (const int64_t *)g->rows->row_ptr.data + g->first_row,
                               (const int32_t *)g->texts.seq_start.data,
                               (const int32_t *)g->rows->term.data,
                               (const int32_t *)g->rows->argmax.data,
                               (const float *)g->rows->weight.data,
                               (const float *)g->dw.data,
                               g->texts.seq_start.dim[0] - 1,
                               head->scale,
                               false };

    return all;
}

static __device__ __forceinline__ bool is_listed(const pool_entries &p, int64_t i)
{
    return p.zeros || p.dw[i] != 0.0f;
}

/* k dz of entry i: k dw exp(-w). */
static __device__ __forceinline__ float gradient_of(const pool_entries &p, int64_t i)
{
    return p.scale * p.dw[i] * expf(-p.weight[i]);
}

/* Texts whose entries are listed at once, and terms that are spread at once: a piece, or one. */
static inline int64_t pool_at_once(int64_t all, int64_t others)
{
    const int64_t fit = POOL_PIECE / others > 1 ? POOL_PIECE / others : 1;

    return fit < all ? fit : all;
}

/*
 * Entries of consecutive texts, sorted by the token that won them and by term
 * (sparse_pool_bwd.cu): token n, of those of the texts, has entries start[n] ..
 * cursor[n,POOL_SLICES-1]-1. Where zeros are listed too there is nothing in between, and start has
 * one more element, the number of entries.
 */
#define POOL_SLICES 16
typedef struct token_lists {
    int32_t *start;  // (N+1)
    int32_t *cursor; // (N,POOL_SLICES)
    int32_t *term;   // (entries)
    float *dz;       // (entries)
} token_lists;

CSP_CHECKED csp_status pool_lists_place(csp_arena *arena, int64_t N, int64_t entries,
                                        token_lists *out);
CSP_CHECKED csp_status pool_lists_fill(csp_backend *be, const pool_entries *p, int64_t N,
                                       const token_lists *lists);

/* A block of the vocabulary: for each of its terms and each text dz and the winning row. */
typedef struct term_table {
    float *dz;    // (width,texts) 0: nothing
    int32_t *row; // (width,texts) unset where dz is 0
    int64_t v, width;
} term_table;

CSP_CHECKED csp_status pool_table_place(csp_arena *arena, int64_t pairs, term_table *out);
CSP_CHECKED csp_status pool_table_fill(csp_backend *be, const pool_entries *p,
                                       const term_table *table);

/*
 * The ways of cuda_sparse_pool_bwd: dh of max pooling by lists of entries or streaming e, de by
 * lists; both by cuSPARSE; both by dense tiles, which is the way of sum pooling too.
 */
CSP_CHECKED csp_status pool_dh_lists(csp_backend *be, const csp_head *head,
                                     csp_sparse_pool_grad *g);
CSP_CHECKED csp_status pool_de_lists(csp_backend *be, const csp_head *head,
                                     csp_sparse_pool_grad *g);
CSP_CHECKED csp_status pool_dh_stream(csp_backend *be, const csp_head *head,
                                      csp_sparse_pool_grad *g);
CSP_CHECKED csp_status pool_dh_cusparse(csp_backend *be, const csp_head *head,
                                        csp_sparse_pool_grad *g);
CSP_CHECKED csp_status pool_de_cusparse(csp_backend *be, const csp_head *head,
                                        csp_sparse_pool_grad *g);
CSP_CHECKED csp_status pool_bwd_tiles(csp_backend *be, const csp_head *head,
                                      csp_sparse_pool_grad *g);

/* The address in a piece of scratch that was placed as an array of T. */
template <typename T> static inline csp_status pool_take(csp_arena *arena, int64_t count, T **out)
{
    void *at;

    CSP_TRY(csp_arena_take(arena, (size_t)count * sizeof(T), &at));
    *out = (T *)at;
    return CSP_OK;
}
