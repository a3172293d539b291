/*
 * attention_bwd.cu - CUDA side of csp_attention_bwd (ops/attention.h); attention.cu has the other
 * direction, attention_tile.cuh the way a piece is cut into tiles.
 *
 * P comes again from q, k and lse, and δ from do and o, so nothing else is kept of forward. Short
 * texts: one kernel, a block for each text and key-value head, which holds all keys and values in
 * shared memory and their gradients in registers while the queries of all heads go by; dq, dk and
 * dv are written once. Long texts: one kernel with a block for each tile of keys (dk, dv), one
 * with a block for each tile of queries (dq). Every sum has one owner and one order; no atomics.
 *
 * Gradients may lie over q, k and v. A short piece has read its keys before it writes, and every
 * tile of queries before it writes that tile. For long ones dk and dv go first, into scratch
 * memory where they would lie over k or v, dq next, and then the scratch over k and v; texts are
 * taken in chunks to bound that memory.
 * Scratch: 2 G*E floats for each row of a chunk, at most CHUNK_BYTES or what one text needs.
 */
#include "attention_tile.cuh"
#include "device.h"
#include "launch.cuh"

#define CHUNK_BYTES ((int64_t)64 << 20)
enum { COPY_THREADS = 256, COPY_BLOCKS_OF_SM = 8 };

/* What backward reads and writes. dq may be q, dk may be k, dv may be v. */
struct bwd_tensors {
    const float *q;   /* (N,H*E) */
    const float *k;   /* (N,G*E) */
    const float *v;   /* (N,G*E) */
    const float *o;   /* (N,H*E) */
    const float *lse; /* (N,H)   */
    const float *d_o; /* (N,H*E) */
    float *dq;        /* (N,H*E) */
    float *dk;        /* (N,G*E) */
    float *dv;        /* (N,G*E) */
};

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
template <int W>
static __device__ __forceinline__ void load_queries(const attention_batch &a, const bwd_tensors &x,
                                                    const row_list &queries, int32_t r,
                                                    const thread_place &p, bwd_tile<W> &front)
{
    load_tile_rotated(a, queries, r, x.q, a.scale, p, front.q);
    load_tile(a, queries, r, x.d_o, p, front.d_o);
    for (int n = 0; n < tile_of<W>::of_warp; n++) {
        const int i = p.warp * tile_of<W>::of_warp + n;
        const bool is_row = r + i < queries.rows;
        float delta = 0.0f;

        if (is_row) {
            const int64_t at = row_offset(queries, r + i, a.E);

            for (int e = p.lane; e < a.E; e += 32) {
                delta += x.d_o[at + e] * x.o[at + e];
            }
        }
        delta = warp_sum(delta);
        if (p.lane == 0) {
            front.delta[i] = delta;
            front.lse[i] = is_row ? x.lse[row_offset(queries, r + i, 1)] : 0.0f;
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
template <int W>
static __device__ __forceinline__ void store_key_grads(const attention_batch &a,
                                                       const row_list &keys, int32_t first,
                                                       const key_grads<W> &grads,
                                                       const thread_place &p, bwd_key_tile<W> &key,
                                                       float *dk, float *dv)
{
    put_rows_as_they_are(grads.dk, p, key.k);
    store_tile_rotated_back(a, keys, first, key.k, 1.0f, p, dk); /* q came with the scale */
    put_rows_as_they_are(grads.dv, p, key.v);
    store_tile(a, keys, first, key.v, p, dv);
    __syncwarp();
}

/* dq of the queries at r, by way of the tile that held them. */
template <int W>
static __device__ __forceinline__ void store_query_grads(const attention_batch &a,
                                                         const row_list &queries, int32_t r,
                                                         const row_part<W> &dq,
                                                         const thread_place &p, row_tile<W> &q,
                                                         float *out)
{
    put_rows_as_they_are(dq, p, q);
    store_tile_rotated_back(a, queries, r, q, a.scale, p, out);
    __syncwarp();
}

/* Grid (texts * G). Dynamic shared memory: bwd_tile and tiles of bwd_key_tile. */
template <int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_bwd_short_kernel(attention_batch a, bwd_tensors x, int tiles)
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
        load_tile(a, piece.keys, j * tile::rows, x.v, p, key[j].v);
    }
    for (int32_t r = 0; r < queries.rows; r += tile::rows) {
        const int32_t most = most_keys_seen(a, queries, r, tile::rows);
        row_part<W> dq = {};

        load_queries(a, x, queries, r, p, front);
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
            store_key_grads(a, piece.keys, j * tile::rows, grads[j], p, key[j], x.dk, x.dv);
        }
    }
}

/*
 * Grid (texts * G, tiles): blocks of a piece stride over its tiles of keys; any tiles work. With
 * capacity 0 dk and dv have the rows of the batch; otherwise they are scratch memory of that many
 * rows, the first of which is the first row of this launch's texts.
 */
template <int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_bwd_keys_kernel(attention_batch a, bwd_tensors x, int64_t capacity)
{
    typedef tile_of<W> tile;
    DYN_SHARED(long_bwd_tile<W>, shared);
    const attention_piece piece = piece_of_block(a);
    const thread_place p = place_of_thread<W>();
    row_list out = piece.keys;

    if (capacity > 0) {
        out.first -= a.seq_start[0];
        if (out.first + out.T > capacity) {
            cu::trap(); /* longer than csp_attention.longest says: there is no room for dk, dv */
        }
    }
    for (int32_t first = (int32_t)blockIdx.y * tile::rows; first < piece.keys.rows;
         first += (int32_t)gridDim.y * tile::rows) {
        key_grads<W> grads = {};

        load_tile_rotated(a, piece.keys, first, x.k, 1.0f, p, shared.key.k);
        load_tile(a, piece.keys, first, x.v, p, shared.key.v);
        for (int32_t r = 0; r < piece.queries.rows; r += tile::rows) {
            if (first < most_keys_seen(a, piece.queries, r, tile::rows)) {
                load_queries(a, x, piece.queries, r, p, shared.front);
                __syncthreads();
                add_key_grads(a, piece, r, first, shared.key, p, shared.front, grads);
                __syncthreads();
            }
        }
        store_key_grads(a, out, first, grads, p, shared.key, x.dk, x.dv);
    }
}

/* Grid (texts * G, tiles): blocks of a piece stride over its tiles of queries; any tiles work. */
template <int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_bwd_queries_kernel(attention_batch a, bwd_tensors x)
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
        load_queries(a, x, queries, r, p, shared.front);
        for (int32_t first = 0; first < most; first += tile::rows) {
            load_tile_rotated(a, piece.keys, first, x.k, 1.0f, p, shared.key.k);
            load_tile(a, piece.keys, first, x.v, p, shared.key.v);
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

/* dk and dv of the texts seq_start[0 .. texts] from scratch to their place. Any grid works. */
static __global__ void __launch_bounds__(COPY_THREADS)
    attention_copy_kernel(const int32_t *__restrict__ seq_start, /* (texts+1)                  */
                          const float *__restrict__ from_dk,     /* (rows,width), rows of texts */
                          const float *__restrict__ from_dv,     /* (rows,width)               */
                          float *__restrict__ dk,                /* (N,width)                  */
                          float *__restrict__ dv,                /* (N,width)                  */
                          int64_t texts, int64_t width)
{
    const int64_t begin = seq_start[0] * width, n = seq_start[texts] * width - begin;

    for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
        dk[begin + i] = from_dk[i];
        dv[begin + i] = from_dv[i];
    }
}

/* What the launches of all widths are given. */
struct bwd_launch {
    csp_backend *be;
    cudaStream_t stream;
    attention_batch batch;
    bwd_tensors tensors;
    int64_t texts, longest, N;
};

template <int W> static csp_status launch_short(const bwd_launch &l, int tiles)
{
    const size_t bytes = sizeof(bwd_tile<W>) + (size_t)tiles * sizeof(bwd_key_tile<W>);

    CUDA_TRY(cu::allow_shared(attention_bwd_short_kernel<W>, bytes));
    CUDA_TRY(cu::launch(attention_bwd_short_kernel<W>, dim3((unsigned)(l.texts * l.batch.G)),
                        ATTENTION_THREADS, bytes, l.stream, l.batch, l.tensors, tiles));
    return CSP_OK;
}

/* The grid of tiles of up to rows rows for each piece. */
static dim3 tile_grid(int64_t texts, int64_t G, int64_t rows, int tile)
{
    const int64_t tiles = ceil_div(rows, tile);

    return dim3((unsigned)(texts * G), (unsigned)(tiles < CUDA_GRID_YZ ? tiles : CUDA_GRID_YZ));
}

/* Rows that texts of the batch have together at most. */
static int64_t chunk_rows(const bwd_launch &l, int64_t texts)
{
    return texts * l.longest < l.N ? texts * l.longest : l.N;
}

/* texts texts from text number first on; dk and dv by way of scratch if there is some. */
template <int W>
static csp_status launch_chunk(const bwd_launch &l, int64_t first, int64_t texts, float *scratch)
{
    const int tile = tile_of<W>::rows;
    const size_t bytes = sizeof(long_bwd_tile<W>);
    const int64_t width = l.batch.G * l.batch.E, rows = chunk_rows(l, texts);
    attention_batch a = l.batch;
    bwd_tensors x = l.tensors;

    a.seq_start += first;
    if (scratch != nullptr) {
        x.dk = scratch;
        x.dv = scratch + rows * width;
    }
    CUDA_TRY(cu::launch(attention_bwd_keys_kernel<W>, tile_grid(texts, a.G, l.longest, tile),
                        ATTENTION_THREADS, bytes, l.stream, a, x, scratch != nullptr ? rows : 0));
    CUDA_TRY(cu::launch(attention_bwd_queries_kernel<W>,
                        tile_grid(texts, a.G, l.longest * (a.H / a.G), tile), ATTENTION_THREADS,
                        bytes, l.stream, a, x));
    if (scratch != nullptr) {
        const dim3 grid = stride_grid(rows * width, COPY_THREADS,
                                      (int64_t)cuda_state_of(l.be)->processors * COPY_BLOCKS_OF_SM);

        CUDA_TRY(cu::launch(attention_copy_kernel, grid, COPY_THREADS, 0, l.stream, a.seq_start,
                            x.dk, x.dv, l.tensors.dk, l.tensors.dv, texts, width));
    }
    return CSP_OK;
}

template <int W> static csp_status launch_bwd(const bwd_launch &l)
{
    const int tiles = pick_attention_tiles(W, l.longest, true, cuda_state_of(l.be)->shared_limit);
    const bool aliased = l.tensors.dk == l.tensors.k || l.tensors.dv == l.tensors.v;
    const int64_t row_bytes = 2 * l.batch.G * l.batch.E * (int64_t)sizeof(float);
    int64_t chunk = l.texts;
    void *scratch = nullptr;

    if (tiles > 0) {
        return launch_short<W>(l, tiles);
    }
    if (aliased) {
        chunk = pick_attention_chunk(l.texts, l.longest, row_bytes, CHUNK_BYTES);
        CSP_TRY(cuda_scratch(l.be, (size_t)(chunk_rows(l, chunk) * row_bytes), &scratch));
    }
    CUDA_TRY(cu::allow_shared(attention_bwd_keys_kernel<W>, sizeof(long_bwd_tile<W>)));
    CUDA_TRY(cu::allow_shared(attention_bwd_queries_kernel<W>, sizeof(long_bwd_tile<W>)));
    for (int64_t first = 0; first < l.texts; first += chunk) {
        const int64_t left = l.texts - first;

        CSP_TRY(launch_chunk<W>(l, first, left < chunk ? left : chunk, (float *)scratch));
    }
    return CSP_OK;
}

csp_status cuda_attention_bwd(csp_backend *be, const csp_attention *a, csp_attention_grad *g)
{
    CSP_TRY(check_attention(a));
    const bwd_launch l = { be,
                           cuda_stream(be, "attention_bwd"),
                           attention_batch_of(a),
                           { (const float *)g->q.data, (const float *)g->k.data,
                             (const float *)g->v.data, (const float *)g->o.data,
                             (const float *)g->lse.data, (const float *)g->d_o.data,
                             (float *)g->dq.data, (float *)g->dk.data, (float *)g->dv.data },
                           a->seq_start.dim[0] - 1,
                           a->longest,
                           g->q.dim[0] };

    switch (attention_width(a->E)) {
    case 32:
        return launch_bwd<32>(l);
    case 64:
        return launch_bwd<64>(l);
    case 128:
        return launch_bwd<128>(l);
    default:
        return launch_bwd<256>(l);
    }
}
