/*
 * attention.cu - CUDA side of csp_attention_fwd (ops/attention.h); attention_bwd.cu has the other
 * direction, attention_tile.cuh the way a piece is cut into tiles.
 *
 * Short texts: a block loads and rotates all keys and values of a text and key-value head once,
 * then takes tile after tile of the queries of all heads that share them. A warp has whole rows of
 * scores in registers: one pass, maximum and sum as in the equation, no rescaling, and no barrier
 * of the block behind the first. Long texts: a block for each tile of queries; keys and values
 * come by in tiles, and the sums so far are rescaled where the maximum rises (online softmax).
 *
 * Bound by arithmetic in float32; by memory for short texts once products go to tensor cores.
 * No scratch memory.
 */
#include "attention_mma.h"
#include "attention_tile.cuh"
#include "device.h"
#include "launch.cuh"

/* Keys and values of a tile of a text; keys are rotated. */
template <int W> struct key_tile {
    row_tile<W> k, v;
};

/* Shared memory of a block: queries, then outputs; probabilities. Keys lie behind it. */
template <int W> struct fwd_tile {
    row_tile<W> q;
    score_tile<W> p;
};

template <int W> struct long_fwd_tile {
    fwd_tile<W> front;
    key_tile<W> key;
};

/* Where the rows of a softmax stand: the maximum, and this thread's share of the sum. */
template <int W> struct softmax_part {
    float max[tile_of<W>::mine], sum[tile_of<W>::mine];
};

/* Before the first key: what rows r .. of a thread will see, and empty sums. */
template <int W>
static __device__ __forceinline__ void start_rows(const attention_batch &a, const row_list &queries,
                                                  int32_t r, int32_t (&seen)[tile_of<W>::mine],
                                                  softmax_part<W> &row)
{
#pragma unroll
    for (int i = 0; i < tile_of<W>::mine; i++) {
        seen[i] = keys_seen(a, queries, r + i);
        row.max[i] = -INFINITY;
        row.sum[i] = 0.0f;
    }
}

/* Scores of keys that a row does not see become -inf; max rises to the largest of the others. */
template <int W>
static __device__ __forceinline__ void mask_scores(score_part<W> &s, int32_t key,
                                                   const int32_t (&seen)[tile_of<W>::mine],
                                                   const thread_place &p,
                                                   float (&max)[tile_of<W>::mine])
{
#pragma unroll
    for (int i = 0; i < tile_of<W>::mine; i++) {
#pragma unroll
        for (int j = 0; j < tile_of<W>::scores; j++) {
            s.at[i][j] = key + p.lx + 8 * j < seen[i] ? s.at[i][j] : -INFINITY;
            max[i] = fmaxf(max[i], s.at[i][j]);
        }
    }
}

/* s = exp(s - max), added to sum. */
template <int W>
static __device__ __forceinline__ void exp_scores(score_part<W> &s, softmax_part<W> &row)
{
#pragma unroll
    for (int i = 0; i < tile_of<W>::mine; i++) {
#pragma unroll
        for (int j = 0; j < tile_of<W>::scores; j++) {
            s.at[i][j] = expf(s.at[i][j] - row.max[i]);
            row.sum[i] += s.at[i][j];
        }
    }
}

/* o = sum / sum of exponentials, by way of the queries' own rows in q; lse. */
template <typename S, int W>
static __device__ __forceinline__ void finish_rows(const attention_batch &a,
                                                   const row_list &outputs, int32_t r,
                                                   const row_part<W> &sum, softmax_part<W> &row,
                                                   const thread_place &p, row_tile<W> &q, S *o,
                                                   float *lse)
{
    float scale[tile_of<W>::mine];

#pragma unroll
    for (int i = 0; i < tile_of<W>::mine; i++) {
        const float total = row_sum(row.sum[i]);

        scale[i] = 1.0f / total;
        if (p.lx == 0 && r + p.row + i < outputs.rows) {
            lse[lse_offset(a, outputs, r + p.row + i)] = row.max[i] + logf(total);
        }
    }
    put_rows(sum, scale, p, q);
    __syncwarp();
    store_tile(a, outputs, r, q, p, o);
    __syncwarp();
}

/* A warp's rows of the tile of queries at r, of a text whose keys and values all lie in key. */
template <typename S, int W>
static __device__ __forceinline__ void attend_rows(const attention_batch &a,
                                                   const attention_piece &piece, int32_t r,
                                                   const key_tile<W> *key, const thread_place &p,
                                                   fwd_tile<W> &front, S *o, float *lse)
{
    typedef tile_of<W> tile;
    const row_list &queries = piece.queries;
    const int32_t most =
        most_keys_seen(a, queries, r + p.warp * tile::of_warp, (int32_t)tile::of_warp);
    score_part<W> s[tile::held];
    softmax_part<W> row;
    row_part<W> sum = {};
    int32_t seen[tile::mine];

    start_rows(a, queries, r + p.row, seen, row);
#pragma unroll
    for (int j = 0; j < tile::held; j++) {
        if (j * tile::rows < most) {
            dot_rows(front.q, key[j].k, used_width(a.E), p, s[j]);
            mask_scores(s[j], j * tile::rows, seen, p, row.max);
        }
    }
#pragma unroll
    for (int i = 0; i < tile::mine; i++) {
        row.max[i] = row_max(row.max[i]);
    }
#pragma unroll
    for (int j = 0; j < tile::held; j++) {
        if (j * tile::rows < most) {
            exp_scores(s[j], row);
            put_scores(s[j], p, front.p);
            __syncwarp();
            add_product(front.p, key[j].v, rows_left(most, j * tile::rows, tile::rows), p, sum);
            __syncwarp();
        }
    }
    finish_rows(a, piece.outputs, r, sum, row, p, front.q, o, lse);
}

/*
 * Grid (texts * G, split): the blocks of a piece share its tiles of queries; any split works.
 * Dynamic shared memory: fwd_tile and tiles of key_tile.
 */
template <typename S, int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_fwd_short_kernel(attention_batch a, const S *__restrict__ q, /* (N,H*E) */
                               const S *__restrict__ k,                    /* (N,G*E) */
                               const S *__restrict__ v,                    /* (N,G*E) */
                               S *__restrict__ o,                          /* (N,H*E) */
                               float *__restrict__ lse,                    /* (N,H)   */
                               int tiles)
{
    typedef tile_of<W> tile;
    DYN_SHARED(fwd_tile<W>, front);
    key_tile<W> *const key = reinterpret_cast<key_tile<W> *>(&front + 1);
    const attention_piece piece = piece_of_block(a);
    const row_list &queries = piece.queries;
    const thread_place p = place_of_thread<W>();

    if (queries.T > tiles * tile::rows) {
        cu::trap(); /* longer than csp_attention.longest says: there is no room for its keys */
    }
    for (int j = 0; j * tile::rows < queries.T; j++) {
        load_tile_rotated(a, piece.keys, j * tile::rows, k, 1.0f, p, key[j].k);
        load_tile(a, piece.values, j * tile::rows, v, p, key[j].v);
    }
    __syncthreads();
    for (int32_t r = (int32_t)blockIdx.y * tile::rows; r < queries.rows;
         r += (int32_t)gridDim.y * tile::rows) {
        if (r + p.warp * tile::of_warp < queries.rows) {
            load_tile_rotated(a, queries, r, q, a.scale, p, front.q);
            __syncwarp();
            attend_rows(a, piece, r, key, p, front, o, lse);
        }
    }
}

/* One tile of keys, from row key on, is added to a warp's rows; max and the sums follow it. */
template <int W>
static __device__ __forceinline__ void attend_tile(const long_fwd_tile<W> &shared, int32_t key,
                                                   int keys,
                                                   const int32_t (&seen)[tile_of<W>::mine],
                                                   int width, const thread_place &p,
                                                   score_tile<W> &probability, softmax_part<W> &row,
                                                   row_part<W> &sum)
{
    typedef tile_of<W> tile;
    score_part<W> s;
    float before[tile::mine];

#pragma unroll
    for (int i = 0; i < tile::mine; i++) {
        before[i] = row.max[i];
    }
    dot_rows(shared.front.q, shared.key.k, width, p, s);
    mask_scores(s, key, seen, p, row.max);
#pragma unroll
    for (int i = 0; i < tile::mine; i++) {
        row.max[i] = row_max(row.max[i]);

        /* 0 with the first tile, in which every row sees its text's first key. */
        const float shrink = expf(before[i] - row.max[i]);

        row.sum[i] *= shrink;
#pragma unroll
        for (int c = 0; c < tile::chunks; c++) {
#pragma unroll
            for (int x = 0; x < 4; x++) {
                sum.at[i][c][x] *= shrink;
            }
        }
    }
    exp_scores(s, row);
    put_scores(s, p, probability);
    __syncwarp();
    add_product(probability, shared.key.v, keys, p, sum);
}

/* Grid (texts * G, tiles): blocks of a piece stride over its tiles of queries; any tiles work. */
template <typename S, int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_fwd_long_kernel(attention_batch a, const S *__restrict__ q, /* (N,H*E) */
                              const S *__restrict__ k,                    /* (N,G*E) */
                              const S *__restrict__ v,                    /* (N,G*E) */
                              S *__restrict__ o,                          /* (N,H*E) */
                              float *__restrict__ lse)                    /* (N,H)   */
{
    typedef tile_of<W> tile;
    DYN_SHARED(long_fwd_tile<W>, shared);
    const attention_piece piece = piece_of_block(a);
    const row_list &queries = piece.queries;
    const thread_place p = place_of_thread<W>();

    for (int32_t r = (int32_t)blockIdx.y * tile::rows; r < queries.rows;
         r += (int32_t)gridDim.y * tile::rows) {
        const int32_t own = r + p.warp * tile::of_warp;
        const int32_t most = most_keys_seen(a, queries, r, tile::rows);
        const int32_t own_most =
            own < queries.rows ? most_keys_seen(a, queries, own, tile::of_warp) : 0;
        softmax_part<W> row;
        row_part<W> sum = {};
        int32_t seen[tile::mine];

        start_rows(a, queries, r + p.row, seen, row);
        load_tile_rotated(a, queries, r, q, a.scale, p, shared.front.q);
        for (int32_t key = 0; key < most; key += tile::rows) {
            load_tile_rotated(a, piece.keys, key, k, 1.0f, p, shared.key.k);
            load_tile(a, piece.values, key, v, p, shared.key.v);
            __syncthreads();
            if (key < own_most) {
                attend_tile(shared, key, rows_left(own_most, key, tile::rows), seen,
                            used_width(a.E), p, shared.front.p, row, sum);
            }
            __syncthreads();
        }
        if (own < queries.rows) {
            finish_rows(a, piece.outputs, r, sum, row, p, shared.front.q, o, lse);
        }
    }
}

/* What the launches of all widths are given. */
template <typename S> struct fwd_launch {
    csp_backend *be;
    attention_batch batch;
    const S *q, *k, *v;
    S *o;
    float *lse;
    int64_t longest;
};

template <int W, typename S> static csp_status launch_fwd(const fwd_launch<S> &l)
{
    typedef tile_of<W> tile;
    const attention_batch &a = l.batch;
    const cuda_state *state = cuda_state_of(l.be);
    cudaStream_t stream = cuda_stream(l.be, "attention_fwd");
    const int64_t pieces = a.texts * a.G;
    const int64_t query_tiles = ceil_div(l.longest * (a.H / a.G), tile::rows);
    const int tiles = pick_attention_tiles(W, l.longest, false, state->shared_limit);

    if (tiles > 0) {
        const size_t bytes = sizeof(fwd_tile<W>) + (size_t)tiles * sizeof(key_tile<W>);
        const int split = pick_attention_split(pieces, query_tiles, state->processors);

        CUDA_TRY(cu::allow_shared(attention_fwd_short_kernel<S, W>, bytes));
        CUDA_TRY(cu::launch(attention_fwd_short_kernel<S, W>,
                            dim3((unsigned)pieces, (unsigned)split), ATTENTION_THREADS, bytes,
                            stream, a, l.q, l.k, l.v, l.o, l.lse, tiles));
        return CSP_OK;
    }
    const dim3 grid((unsigned)pieces,
                    (unsigned)(query_tiles < CUDA_GRID_YZ ? query_tiles : CUDA_GRID_YZ));
    const size_t bytes = sizeof(long_fwd_tile<W>);

    CSP_TRY(check_attention_room(state->name, state->shared_limit, a.E, bytes));
    CUDA_TRY(cu::allow_shared(attention_fwd_long_kernel<S, W>, bytes));
    CUDA_TRY(cu::launch(attention_fwd_long_kernel<S, W>, grid, ATTENTION_THREADS, bytes, stream, a,
                        l.q, l.k, l.v, l.o, l.lse));
    return CSP_OK;
}

template <typename S>
static fwd_launch<S> fwd_launch_of(csp_backend *be, const csp_attention *a, const csp_tensor *q,
                                   const csp_tensor *k, const csp_tensor *v, const csp_tensor *o,
                                   const csp_tensor *lse)
{
    return { be,
             attention_batch_of(a, q, k, v),
             (const S *)q->data,
             (const S *)k->data,
             (const S *)v->data,
             (S *)o->data,
             (float *)lse->data,
             a->longest };
}

/* The kernels for heads of a width. */
static csp_status launch_width(const fwd_launch<float> &l)
{
    switch (attention_width(l.batch.E)) {
    case 32:
        return launch_fwd<32>(l);
    case 64:
        return launch_fwd<64>(l);
    case 128:
        return launch_fwd<128>(l);
    default:
        return launch_fwd<256>(l);
    }
}

/* Few heads come here as bf16, so that kernels for two widths are enough. */
static csp_status launch_width(const fwd_launch<__nv_bfloat16> &l)
{
    return l.batch.E <= 128 ? launch_fwd<128>(l) : launch_fwd<256>(l);
}

csp_status cuda_attention_fwd(csp_backend *be, const csp_attention *a, const csp_tensor *q,
                              const csp_tensor *k, const csp_tensor *v, csp_tensor *o,
                              csp_tensor *lse)
{
    const csp_tensor *const rows[] = { q, k, v, o };

    CSP_TRY(check_attention(a));
    if (attention_mma_takes(a, rows, 4)) {
        return attention_mma_fwd(be, a, q, k, v, o, lse);
    }
    return q->dtype == CSP_BF16 ? launch_width(fwd_launch_of<__nv_bfloat16>(be, a, q, k, v, o, lse))
                                : launch_width(fwd_launch_of<float>(be, a, q, k, v, o, lse));
}
