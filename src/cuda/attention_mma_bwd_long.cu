/*
 * attention_mma_bwd_long.cu - csp_attention_bwd on tensor cores for texts whose keys one block has
 * no registers for; attention_mma_bwd.cu has the others.
 *
 * One kernel with a block for each 128 keys (dk, dv), by which all queries go; one with a block for
 * each 128 rows of queries (dq), by which the keys go in two buffers: there a warp owns 16 rows,
 * and dS is the left operand of dq += dS k without leaving registers.
 *
 * Scratch: attention_bwd.cuh.
 */
#include "attention_mma_bwd.cuh"

template <int W> struct mma_bwd_keys_tile {
    mma_query_tile<W> query;
    mma_rows<W> k[ATTENTION_WARPS], v[ATTENTION_WARPS];
};

/* Blocks of 16 keys, and of values, that go by a block of queries at a time. */
#define MMA_KEY_BLOCKS(width) ((width) <= 64 ? 4 : 2)

template <int W> struct mma_bwd_queries_tile {
    mma_rows<W> rows[ATTENTION_WARPS]; /* of each warp, on their way to registers */
    float delta[ATTENTION_WARPS][ATTENTION_MMA_ROWS];
    mma_rows<W> keys[2][2 * MMA_KEY_BLOCKS(W)]; /* and behind each buffer's its values */
};

/* Grid (texts * G, tiles): blocks of a piece stride over its 128 keys; any tiles work. */
template <int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS, W <= 64 ? 2 : 1)
    attention_mma_bwd_keys_kernel(attention_batch a, bf16_tensors x, int64_t capacity)
{
    typedef mma_query_tile<W> tile;
    DYN_SHARED(mma_bwd_keys_tile<W>, shared);
    const attention_piece piece = piece_of_block(a);
    const row_list &queries = piece.queries;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int32_t step = ATTENTION_WARPS * ATTENTION_MMA_ROWS;
    const query_share share = { (int)threadIdx.x, ATTENTION_THREADS, 0, tile::rows };

    for (int32_t first = (int32_t)blockIdx.y * step; first < piece.keys.rows;
         first += (int32_t)gridDim.y * step) {
        const int32_t own = first + warp * ATTENTION_MMA_ROWS;
        mma_key_grads<W> grads[1];

        clear(grads[0]);
        start_own_keys(x, piece, first, ATTENTION_WARPS, (int)threadIdx.x, ATTENTION_THREADS,
                       shared.k, shared.v);
        cu::cp_commit();
        cu::cp_wait<0>();
        rotate_keys(a, piece.keys, first, ATTENTION_WARPS, shared.k);
        for (int32_t r = 0; r < queries.rows; r += tile::rows) {
            query_copy<W, ATTENTION_WARPS> held;

            const row_place place = place_of_row(queries, r);

            if (first >= most_keys_seen(a, queries, place, tile::rows)) {
                continue;
            }
            start_queries(a, x, piece, r, place, share, shared.query, held);
            finish_queries(a, queries, r, place, share, held, shared.query);
            __syncthreads();
            for (int i = 0; i < tile::rows && r + i < queries.rows; i += 32) {
                const row_place at = row_behind(queries, place, i);

                if (own < most_keys_seen(a, queries, at, 32)) {
                    const bool is_whole = own + 16 <= fewest_keys_seen(a, queries, at, 32);
                    uint32_t probability[1][2][4], ds[1][2][4];

                    score_grads<W, 1, 32>(&shared.k[warp], &shared.v[warp], own, is_whole,
                                          shared.query, i, a.log2_scale, lane, probability, ds);
                    add_key_grads<W, 1, 32>(probability, ds, shared.query, i, lane, grads);
                }
            }
            __syncthreads();
        }
        store_key_grads(a, key_grad_rows(a, piece.keys, capacity),
                        key_grad_rows(a, piece.values, capacity), own, cu::opaque(lane), grads[0],
                        x.dk, x.dv);
    }
}

/* A warp's 16 rows of queries: this lane's share. */
template <int W> struct query_grads {
    uint32_t q[W / 16][4], d_o[W / 16][4];
    float dq[W / 8][4];
    float lse[2], delta[2];
    int32_t seen[2];
};

/* Loads a warp's rows from r on; delta by way of shared memory. */
template <int W>
static __device__ __forceinline__ void load_queries(const attention_batch &a, const bf16_tensors &x,
                                                    const attention_piece &piece, int32_t r,
                                                    int lane, mma_rows<W> &rows, float (&delta)[16],
                                                    query_grads<W> &own)
{
    const row_list &queries = piece.queries;
    const row_place first = place_of_row(queries, r);
    const int lanes = MMA_ROW_LANES(W), e = lane % lanes * 8;

    start_rotated(queries, r, first, 16, x.q, lane, 32, &rows);
    cu::cp_commit();
#pragma unroll
    for (int n = 0; n < lanes / 2; n++) {
        const int i = n * (32 / lanes) + lane / lanes;
        float d_o[8], o[8], sum = 0.0f;

        if (e < W && r + i < queries.rows) {
            const int64_t at = place_offset(piece.outputs, row_behind(queries, first, i), W) + e;

            load_vec(x.d_o + at, d_o);
            load_vec(x.o + at, o);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                sum += d_o[j] * o[j];
            }
        }
        sum = lanes_sum<lanes>(sum);
        if (e == 0) {
            delta[i] = sum;
        }
    }
    cu::cp_wait<0>();
    rotate_rows(a, queries, r, first, 16, lane, 32, &rows);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < W / 16; j++) {
        load_left(rows, 16 * j, lane, own.q[j]);
    }
    __syncwarp();
    start_rows(piece.outputs, r, first, 16, x.d_o, lane, 32, &rows);
    cu::cp_commit();
    cu::cp_wait<0>();
    __syncwarp();
#pragma unroll
    for (int j = 0; j < W / 16; j++) {
        load_left(rows, 16 * j, lane, own.d_o[j]);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int32_t row = r + lane / 4 + 8 * h;

        own.delta[h] = delta[lane / 4 + 8 * h];
        own.lse[h] =
            row < queries.rows ? x.lse[lse_offset(a, queries, row)] * ATTENTION_LOG2E : 0.0f;
        own.seen[h] = keys_seen(a, queries, row);
    }
    __syncwarp();
}

/* dq += dS k over 32 keys, the first of which is number key; is_whole: all rows see all of them. */
template <int W>
static __device__ __forceinline__ void add_query_grads(const mma_rows<W> *k, const mma_rows<W> *v,
                                                       int32_t key, bool is_whole, float scale,
                                                       int lane, query_grads<W> &own)
{
    float s[4][4] = {}, dp[4][4] = {};

#pragma unroll
    for (int e = 0; e < W / 16; e++) {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            uint32_t right[4];

            load_right(k[n], 16 * e, lane, right);
            add_pair(own.q[e], right, s[2 * n], s[2 * n + 1]);
            load_right(v[n], 16 * e, lane, right);
            add_pair(own.d_o[e], right, dp[2 * n], dp[2 * n + 1]);
        }
    }
    if (!is_whole) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                s[j][c] =
                    key + 8 * j + 2 * (lane % 4) + c % 2 < own.seen[c / 2] ? s[j][c] : -INFINITY;
            }
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const float e = cu::exp2_approx(s[j][c] * scale - own.lse[c / 2]);

            dp[j][c] = e * (dp[j][c] - own.delta[c / 2]);
        }
    }
#pragma unroll
    for (int n = 0; n < 2; n++) {
        uint32_t ds[4];

        pack_left(dp[2 * n], dp[2 * n + 1], ds);
#pragma unroll
        for (int e = 0; e < W / 16; e++) {
            uint32_t right[4];

            load_right_by_rows(k[n], 16 * e, lane, right);
            add_pair(ds, right, own.dq[2 * e], own.dq[2 * e + 1]);
        }
    }
}

/* Grid (texts * G, tiles): blocks of a piece stride over 128 rows of queries; any tiles work. */
template <int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_mma_bwd_queries_kernel(attention_batch a, bf16_tensors x)
{
    const int blocks = MMA_KEY_BLOCKS(W);
    const int32_t tile = ATTENTION_WARPS * ATTENTION_MMA_ROWS, step = 16 * blocks;
    DYN_SHARED(mma_bwd_queries_tile<W>, shared);
    const attention_piece piece = piece_of_block(a);
    const row_list &queries = piece.queries;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;

    for (int32_t r = (int32_t)blockIdx.y * tile; r < queries.rows; r += (int32_t)gridDim.y * tile) {
        const int32_t first = r + warp * ATTENTION_MMA_ROWS;
        const int32_t most = most_keys_seen(a, queries, r, tile);
        const int32_t own_most =
            first < queries.rows ? most_keys_seen(a, queries, first, ATTENTION_MMA_ROWS) : 0;
        const int32_t fewest =
            fewest_keys_seen(a, queries, place_of_row(queries, first), ATTENTION_MMA_ROWS);
        query_grads<W> own = {};

        start_keys(piece, 0, blocks, x.k, x.v, shared.keys[0]);
        load_queries(a, x, piece, first, lane, shared.rows[warp], shared.delta[warp], own);
        rotate_keys(a, piece.keys, 0, blocks, shared.keys[0]);
        __syncthreads();
        for (int32_t key = 0; key < most; key += step) {
            const mma_rows<W> *const now = shared.keys[key / step % 2];
            mma_rows<W> *const next = shared.keys[(key / step + 1) % 2];

            if (key + step < most) {
                start_keys(piece, key + step, blocks, x.k, x.v, next);
            }
#pragma unroll
            for (int n = 0; n < blocks / 2; n++) {
                if (key + 32 * n < own_most) {
                    add_query_grads(&now[2 * n], &now[blocks + 2 * n], key + 32 * n,
                                    key + 32 * n + 32 <= fewest, a.log2_scale, lane, own);
                }
            }
            cu::cp_wait<0>();
            if (key + step < most) {
                rotate_keys(a, piece.keys, key + step, blocks, next);
            }
            __syncthreads();
        }
        if (first < queries.rows) {
            store_rotated_back<W>(
                a, rows_to_store(queries, first, place_of_row(queries, first), W, lane, x.dq),
                a.scale, lane, own.dq);
        }
    }
}

template <int W> static csp_status launch_long(const bwd_launch<__nv_bfloat16> &l)
{
    const attention_batch &a = l.batch;
    const int tile = ATTENTION_WARPS * ATTENTION_MMA_ROWS;
    const size_t keys_bytes = sizeof(mma_bwd_keys_tile<W>);
    const size_t queries_bytes = sizeof(mma_bwd_queries_tile<W>);

    CUDA_TRY(cu::allow_shared(attention_mma_bwd_keys_kernel<W>, keys_bytes));
    CUDA_TRY(cu::allow_shared(attention_mma_bwd_queries_kernel<W>, queries_bytes));
    CUDA_TRY(cu::launch(attention_mma_bwd_keys_kernel<W>, tile_grid(a.texts, a.G, l.longest, tile),
                        ATTENTION_THREADS, keys_bytes, l.stream, a, l.tensors, l.capacity));
    CUDA_TRY(cu::launch(attention_mma_bwd_queries_kernel<W>,
                        tile_grid(a.texts, a.G, l.longest * (a.H / a.G), tile), ATTENTION_THREADS,
                        queries_bytes, l.stream, a, l.tensors));
    return CSP_OK;
}

csp_status attention_mma_bwd_long(const bwd_launch<__nv_bfloat16> &l)
{
    switch (l.batch.E) {
    case 16:
        return launch_chunks<__nv_bfloat16>(l, launch_long<16>);
    case 32:
        return launch_chunks<__nv_bfloat16>(l, launch_long<32>);
    case 64:
        return launch_chunks<__nv_bfloat16>(l, launch_long<64>);
    case 96:
        return launch_chunks<__nv_bfloat16>(l, launch_long<96>);
    default:
        return launch_chunks<__nv_bfloat16>(l, launch_long<128>);
    }
}
