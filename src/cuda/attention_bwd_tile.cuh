/*
 * attention_bwd_tile.cuh - the kernels of csp_attention_bwd in float32, of rows of either storage
 * type: attention_bwd.cu makes those for f32, attention_bwd_bf16.cu those for bf16.
 *
 * P comes again from q, k and lse, and δ from do and o, so nothing else is kept of forward. Short
 * texts: one kernel, a block for each text and key-value head, which holds all keys and values in
 * shared memory and their gradients in registers while the queries of all heads go by; dq, dk and
 * dv are written once. Long texts: one kernel with a block for each tile of keys (dk, dv), one
 * with a block for each tile of queries (dq). Every sum has one owner and one order; no atomics.
 *
 * Gradients may lie over q, k and v. A short piece has read its keys before it writes, and every
 * tile of queries before it writes that tile; for long ones see attention_bwd.cuh.
 */
#pragma once

#include "attention_bwd.cuh"

/* Shared memory of a block: the query side; P or dS. Keys lie behind it. */
template <int W> struct bwd_tile {
    row_tile<W> q, d_o;
    score_tile<W> s;
    float lse[ATTENTION_TILE(W)], delta[ATTENTION_TILE(W)];
};

/* Keys, rotated, and values; then their gradients on the way out. */
template <int W> struct bwd_key_tile {
    row_tile<W> k, v;
};

template <int W> struct long_bwd_tile {
    bwd_tile<W> front;
    bwd_key_tile<W> key;
};

/* Gradients of a thread's rows of a tile of keys. */
template <int W> struct key_grads {
    row_part<W> dk, dv;
};

/* Every warp loads its rows of the queries at r, of do, lse and δ = rowsum(do ⊙ o). */
template <typename S, int W>
static __device__ __forceinline__ void load_queries(const attention_batch &a,
                                                    const bwd_tensors<S> &x,
                                                    const attention_piece &piece, int32_t r,
                                                    const thread_place &p, bwd_tile<W> &front)
{
    const row_list &outputs = piece.outputs;

    load_tile_rotated(a, piece.queries, r, x.q, a.scale, p, front.q);
    load_tile(a, outputs, r, x.d_o, p, front.d_o);
    for (int n = 0; n < tile_of<W>::of_warp; n++) {
        const int i = p.warp * tile_of<W>::of_warp + n;
        const bool is_row = r + i < outputs.rows;
        float delta = 0.0f;

        if (is_row) {
            const int64_t at = row_offset(outputs, r + i, a.E);

            for (int e = p.lane; e < a.E; e += 32) {
                delta += to_f32(x.d_o[at + e]) * to_f32(x.o[at + e]);
            }
        }
        delta = warp_sum(delta);
        if (p.lane == 0) {
            front.delta[i] = delta;
            front.lse[i] = is_row ? x.lse[lse_offset(a, outputs, r + i)] : 0.0f;
        }
    }
}

/* P = exp(S - lse) and dS = P ⊙ (dP - δ) of the queries against the keys from row first on. */
template <int W>
static __device__ __forceinline__ void score_grads(const bwd_tile<W> &front,
                                                   const bwd_key_tile<W> &key, int32_t first,
                                                   const int32_t (&seen)[tile_of<W>::mine],
                                                   int width, const thread_place &p,
                                                   score_part<W> &probability, score_part<W> &ds)
{
    dot_rows(front.q, key.k, width, p, probability);
    dot_rows(front.d_o, key.v, width, p, ds);
#pragma unroll
    for (int i = 0; i < tile_of<W>::mine; i++) {
        const float lse = front.lse[p.row + i], delta = front.delta[p.row + i];

#pragma unroll
        for (int j = 0; j < tile_of<W>::scores; j++) {
            const bool is_seen = first + p.lx + 8 * j < seen[i];
            const float e = is_seen ? expf(probability.at[i][j] - lse) : 0.0f;

            probability.at[i][j] = e;
            ds.at[i][j] = is_seen ? e * (ds.at[i][j] - delta) : 0.0f;
        }
    }
}

template <int W>
static __device__ __forceinline__ void find_seen(const attention_batch &a, const row_list &queries,
                                                 int32_t r, const thread_place &p,
                                                 int32_t (&seen)[tile_of<W>::mine])
{
#pragma unroll
    for (int i = 0; i < tile_of<W>::mine; i++) {
        seen[i] = keys_seen(a, queries, r + p.row + i);
    }
}

/*
 * Adds what the tile of queries at r gives to the gradients of the keys from row first on: dv +=
 * P^T do, dk += dS^T q. P and dS take turns in front.s, where dS stays until the next call; a
 * barrier ends the call's own reading of it.
 */
template <int W>
static __device__ __forceinline__ void add_key_grads(const attention_batch &a,
                                                     const attention_piece &piece, int32_t r,
                                                     int32_t first, const bwd_key_tile<W> &key,
                                                     const thread_place &p, bwd_tile<W> &front,
                                                     key_grads<W> &grads)
{
    typedef tile_of<W> tile;
    const bool has_queries = r + p.warp * tile::of_warp < piece.queries.rows;
    const bool has_keys = first + p.warp * tile::of_warp < piece.keys.rows;
    const int rows = rows_left(piece.queries.rows, r, tile::rows);
    score_part<W> probability, ds = {};
    int32_t seen[tile::mine];

    if (has_queries) {
        find_seen<W>(a, piece.queries, r, p, seen);
        score_grads(front, key, first, seen, used_width(a.E), p, probability, ds);
        put_scores(probability, p, front.s);
    }
    __syncthreads();
    if (has_keys) {
        add_transposed(front.s, front.d_o, rows, p, grads.dv);
    }
    __syncthreads();
    if (has_queries) {
        put_scores(ds, p, front.s);
    }
    __syncthreads();
    if (has_keys) {
        add_transposed(front.s, front.q, rows, p, grads.dk);
    }
}

/* A tile of rows as it is, not scaled. */
template <int W>
static __device__ __forceinline__ void put_rows_as_they_are(const row_part<W> &x,
                                                            const thread_place &p,
                                                            row_tile<W> &tile)
{
    float one[tile_of<W>::mine];

#pragma unroll
    for (int i = 0; i < tile_of<W>::mine; i++) {
        one[i] = 1.0f;
    }
    put_rows(x, one, p, tile);
    __syncwarp();
}

/* dk and dv of the keys from row first on, by way of the tile that held them. */
template <typename S, int W>
static __device__ __forceinline__ void store_key_grads(const attention_batch &a,
                                                       const row_list &keys, const row_list &values,
                                                       int32_t first, const key_grads<W> &grads,
                                                       const thread_place &p, bwd_key_tile<W> &key,
                                                       S *dk, S *dv)
{
    put_rows_as_they_are(grads.dk, p, key.k);
    store_tile_rotated_back(a, keys, first, key.k, 1.0f, p, dk); /* q came with the scale */
    put_rows_as_they_are(grads.dv, p, key.v);
    store_tile(a, values, first, key.v, p, dv);
    __syncwarp();
}

/* dq of the queries at r, by way of the tile that held them. */
template <typename S, int W>
static __device__ __forceinline__ void store_query_grads(const attention_batch &a,
                                                         const row_list &queries, int32_t r,
                                                         const row_part<W> &dq,
                                                         const thread_place &p, row_tile<W> &q,
                                                         S *out)
{
    put_rows_as_they_are(dq, p, q);
    store_tile_rotated_back(a, queries, r, q, a.scale, p, out);
    __syncwarp();
}

/* Grid (texts * G). Dynamic shared memory: bwd_tile and tiles of bwd_key_tile. */
template <typename S, int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_bwd_short_kernel(attention_batch a, bwd_tensors<S> x, int tiles)
{
    typedef tile_of<W> tile;
    DYN_SHARED(bwd_tile<W>, front);
    bwd_key_tile<W> *const key = reinterpret_cast<bwd_key_tile<W> *>(&front + 1);
    const attention_piece piece = piece_of_block(a);
    const row_list &queries = piece.queries;
    const thread_place p = place_of_thread<W>();
    key_grads<W> grads[tile::held] = {};

    if (queries.T > tiles * tile::rows) {
        cu::trap(); /* longer than csp_attention.longest says: there is no room for its keys */
    }
    for (int j = 0; j * tile::rows < queries.T; j++) {
        load_tile_rotated(a, piece.keys, j * tile::rows, x.k, 1.0f, p, key[j].k);
        load_tile(a, piece.values, j * tile::rows, x.v, p, key[j].v);
    }
    for (int32_t r = 0; r < queries.rows; r += tile::rows) {
        const int32_t most = most_keys_seen(a, queries, r, tile::rows);
        row_part<W> dq = {};

        load_queries(a, x, piece, r, p, front);
        __syncthreads();
#pragma unroll
        for (int j = 0; j < tile::held; j++) {
            if (j * tile::rows < most) {
                add_key_grads(a, piece, r, j * tile::rows, key[j], p, front, grads[j]);
                if (r + p.warp * tile::of_warp < queries.rows) {
                    add_product(front.s, key[j].k, rows_left(most, j * tile::rows, tile::rows), p,
                                dq);
                }
                __syncthreads();
            }
        }
        store_query_grads(a, queries, r, dq, p, front.q, x.dq);
    }
#pragma unroll
    for (int j = 0; j < tile::held; j++) {
        if (j * tile::rows < queries.T) {
            store_key_grads(a, piece.keys, piece.values, j * tile::rows, grads[j], p, key[j], x.dk,
                            x.dv);
        }
    }
}

/* Grid (texts * G, tiles): blocks of a piece stride over its tiles of keys; any tiles work. */
template <typename S, int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_bwd_keys_kernel(attention_batch a, bwd_tensors<S> x, int64_t capacity)
{
    typedef tile_of<W> tile;
    DYN_SHARED(long_bwd_tile<W>, shared);
    const attention_piece piece = piece_of_block(a);
    const thread_place p = place_of_thread<W>();
    const row_list dk_rows = key_grad_rows(a, piece.keys, capacity);
    const row_list dv_rows = key_grad_rows(a, piece.values, capacity);

    for (int32_t first = (int32_t)blockIdx.y * tile::rows; first < piece.keys.rows;
         first += (int32_t)gridDim.y * tile::rows) {
        key_grads<W> grads = {};

        load_tile_rotated(a, piece.keys, first, x.k, 1.0f, p, shared.key.k);
        load_tile(a, piece.values, first, x.v, p, shared.key.v);
        for (int32_t r = 0; r < piece.queries.rows; r += tile::rows) {
            if (first < most_keys_seen(a, piece.queries, r, tile::rows)) {
                load_queries(a, x, piece, r, p, shared.front);
                __syncthreads();
                add_key_grads(a, piece, r, first, shared.key, p, shared.front, grads);
                __syncthreads();
            }
        }
        store_key_grads(a, dk_rows, dv_rows, first, grads, p, shared.key, x.dk, x.dv);
    }
}

/* Grid (texts * G, tiles): blocks of a piece stride over its tiles of queries; any tiles work. */
template <typename S, int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_bwd_queries_kernel(attention_batch a, bwd_tensors<S> x)
{
    typedef tile_of<W> tile;
    DYN_SHARED(long_bwd_tile<W>, shared);
    const attention_piece piece = piece_of_block(a);
    const row_list &queries = piece.queries;
    const thread_place p = place_of_thread<W>();

    for (int32_t r = (int32_t)blockIdx.y * tile::rows; r < queries.rows;
         r += (int32_t)gridDim.y * tile::rows) {
        const int32_t most = most_keys_seen(a, queries, r, tile::rows);
        row_part<W> dq = {};
        int32_t seen[tile::mine];

        find_seen<W>(a, queries, r, p, seen);
        load_queries(a, x, piece, r, p, shared.front);
        for (int32_t first = 0; first < most; first += tile::rows) {
            load_tile_rotated(a, piece.keys, first, x.k, 1.0f, p, shared.key.k);
            load_tile(a, piece.values, first, x.v, p, shared.key.v);
            __syncthreads();
            if (r + p.warp * tile::of_warp < queries.rows) {
                score_part<W> probability, ds;

                score_grads(shared.front, shared.key, first, seen, used_width(a.E), p, probability,
                            ds);
                put_scores(ds, p, shared.front.s);
                __syncwarp();
                add_product(shared.front.s, shared.key.k, rows_left(most, first, tile::rows), p,
                            dq);
            }
            __syncthreads();
        }
        store_query_grads(a, queries, r, dq, p, shared.front.q, x.dq);
    }
}

template <int W, typename S> static csp_status launch_short(const bwd_launch<S> &l, int tiles)
{
    const size_t bytes = sizeof(bwd_tile<W>) + (size_t)tiles * sizeof(bwd_key_tile<W>);

    CUDA_TRY(cu::allow_shared(attention_bwd_short_kernel<S, W>, bytes));
    CUDA_TRY(cu::launch(attention_bwd_short_kernel<S, W>,
                        dim3((unsigned)(l.batch.texts * l.batch.G)), ATTENTION_THREADS, bytes,
                        l.stream, l.batch, l.tensors, tiles));
    return CSP_OK;
}

template <int W, typename S> static csp_status launch_long(const bwd_launch<S> &l)
{
    const attention_batch &a = l.batch;
    const int tile = tile_of<W>::rows;
    const size_t bytes = sizeof(long_bwd_tile<W>);
    const cuda_state *state = cuda_state_of(l.be);

    CSP_TRY(check_attention_room(state->name, state->shared_limit, a.E, bytes));
    CUDA_TRY(cu::allow_shared(attention_bwd_keys_kernel<S, W>, bytes));
    CUDA_TRY(cu::allow_shared(attention_bwd_queries_kernel<S, W>, bytes));
    CUDA_TRY(cu::launch(attention_bwd_keys_kernel<S, W>, tile_grid(a.texts, a.G, l.longest, tile),
                        ATTENTION_THREADS, bytes, l.stream, a, l.tensors, l.capacity));
    CUDA_TRY(cu::launch(attention_bwd_queries_kernel<S, W>,
                        tile_grid(a.texts, a.G, l.longest * (a.H / a.G), tile), ATTENTION_THREADS,
                        bytes, l.stream, a, l.tensors));
    return CSP_OK;
}

template <int W, typename S> static csp_status launch_bwd(const bwd_launch<S> &l)
{
    const int tiles = pick_attention_tiles(W, l.longest, true, cuda_state_of(l.be)->shared_limit);

    return tiles > 0 ? launch_short<W>(l, tiles) : launch_chunks<S>(l, launch_long<W, S>);
}

/* attention_bwd.cu's for bf16 rows that the tensor core kernels do not take. */
csp_status attention_bwd_bf16(csp_backend *be, const csp_attention *a, const csp_attention_grad *g);
