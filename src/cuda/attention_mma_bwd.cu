/*
 * attention_mma_bwd.cu - csp_attention_bwd for bf16 rows on tensor cores; attention_mma.cuh has
 * what heads these kernels take, attention_bwd.cu picks them.
 *
 * Texts of up to as many keys as a block has warps, 16 each: one kernel, a block for each text and
 * key-value head. Warps keep dk and dv of their keys in registers while queries of all heads go by;
 * dS^T also goes to shared memory, and behind a barrier the warps share the tile's dq = dS k among
 * them. While they do, the next tile is on its way. dq, dk and dv are written once. Every sum has
 * one owner and one order; no atomics. Longer texts: attention_mma_bwd_long.cu.
 *
 * Gradients may lie over q, k and v, as in attention_bwd.cu.
 */
#include "attention_mma.h"
#include "attention_mma_bwd.cuh"

/* A warp's keys lie at its number; so does dS^T of them. */
template <int W, int warps> struct mma_bwd_tile {
    mma_query_tile<W> query;
    mma_rows<W> k[warps], v[warps];
    mma_rows<ATTENTION_MMA_QUERIES(W)> ds[warps];
};

/* dS^T of a warp's keys, columns i .. i+31. */
template <int columns>
static __device__ __forceinline__ void put_score_grads(const uint32_t (&ds)[2][4], int i, int lane,
                                                       mma_rows<columns> &to)
{
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            *reinterpret_cast<uint32_t *>(&to.at[lane / 4 + 8 * h][i + 8 * j + 2 * (lane % 4)]) =
                ds[j / 2][j % 2 * 2 + h];
        }
    }
}

/*
 * dq = dS k of the tile of queries at r. A warp takes 16 rows and 32 columns at a time, 16 of the
 * lower half and those they were rotated with (all 16 of the narrowest heads).
 */
template <int W, int warps>
static __device__ __forceinline__ void store_query_grads(const attention_batch &a,
                                                         const row_list &queries, int32_t r,
                                                         const mma_bwd_tile<W, warps> &shared,
                                                         int warp, int lane, __nv_bfloat16 *dq)
{
    const int groups = W <= 32 ? 1 : W / 32, results = W == 16 ? 2 : 4;

    for (int task = warp; task < ATTENTION_MMA_QUERIES(W) / 16 * groups; task += warps) {
        const int i = task / groups * 16, e = task % groups * 16;

        if (r + i >= queries.rows) {
            return;
        }
        const int32_t most = most_keys_seen(a, queries, r + i, 16);
        const out_rows out = rows_to_store(queries, r + i, W, lane, dq);
        float sum[results][4] = {};

#pragma unroll 2
        for (int n = 0; 16 * n < most; n++) {
            uint32_t left[4], right[4];

            load_left_transposed(shared.ds[n], i, lane, left);
#pragma unroll
            for (int half = 0; half < results / 2; half++) {
                load_right_by_rows(shared.k[n], e + half * (W / 2), lane, right);
                add_pair(left, right, sum[2 * half], sum[2 * half + 1]);
            }
        }
#pragma unroll
        for (int j = 0; j < results / 2; j++) {
            rotate_back<W>(a, out, e + 8 * j, a.scale, lane, sum[j], sum[results / 2 + j]);
        }
#pragma unroll
        for (int half = 0; half < results / 2; half++) {
            store_pair(sum[2 * half], sum[2 * half + 1], out, e + half * (W / 2), lane);
        }
    }
}

/* Blocks that are to fit into a multiprocessor: as many as leave registers for sums. */
#define MMA_BWD_BLOCKS(width, warps) ((width) > 64 ? 8 / (warps) : (warps) == 4 ? 3 : 16 / (warps))

/* Grid (texts * G). Dynamic shared memory: mma_bwd_tile. */
template <int W, int warps>
static __global__ void __launch_bounds__(warps * 32, MMA_BWD_BLOCKS(W, warps))
    attention_mma_bwd_short_kernel(attention_batch a, bf16_tensors x)
{
    typedef mma_query_tile<W> tile;
    typedef mma_bwd_tile<W, warps> block_tile;
    DYN_SHARED(block_tile, shared);
    const attention_piece piece = piece_of_block(a);
    const row_list &queries = piece.queries;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int32_t own = warp * ATTENTION_MMA_ROWS;
    const int blocks = (queries.T + 15) / 16;
    const float scale = a.scale * ATTENTION_LOG2E;
    query_copy<W, warps> held;
    mma_key_grads<W> grads;

    if (blocks > warps) {
        cu::trap(); /* longer than csp_attention.longest says: there is no room for its keys */
    }
    if (blocks == 0) {
        return;
    }
    clear(grads);
    start_own_keys(x, piece, 0, blocks, warps * 32, shared.k, shared.v);
    start_queries(a, x, piece, 0, shared.query, held);
    cu::cp_wait<0>();
    rotate_rows(a, piece.keys, 0, 16 * blocks, (int)threadIdx.x, warps * 32, shared.k);
    for (int32_t r = 0; r < queries.rows; r += tile::rows) {
        finish_queries(a, queries, r, held, shared.query);
        __syncthreads();
        for (int i = 0; i < tile::rows && r + i < queries.rows; i += 32) {
            if (own < most_keys_seen(a, queries, r + i, 32)) {
                uint32_t probability[2][4], ds[2][4];

                score_grads(shared.k[warp], shared.v[warp], own, shared.query, i, scale, lane,
                            probability, ds);
                put_score_grads(ds, i, lane, shared.ds[warp]);
                add_key_grads(probability, ds, shared.query, i, lane, grads);
            }
        }
        __syncthreads();
        if (r + tile::rows < queries.rows) {
            start_queries(a, x, piece, r + tile::rows, shared.query, held);
        }
        store_query_grads(a, queries, r, shared, warp, lane, x.dq);
    }
    store_key_grads(a, piece.keys, piece.values, own, lane, grads, x.dk, x.dv);
}

template <int W, int warps> static csp_status launch_short(const bwd_launch<__nv_bfloat16> &l)
{
    const size_t bytes = sizeof(mma_bwd_tile<W, warps>);
    const unsigned pieces = (unsigned)(l.batch.texts * l.batch.G);

    static_assert(sizeof(mma_bwd_tile<W, warps>) == ATTENTION_MMA_BWD_BYTES(W, warps),
                  "attention_pick.h says the same");
    CUDA_TRY(cu::allow_shared(attention_mma_bwd_short_kernel<W, warps>, bytes));
    CUDA_TRY(cu::launch(attention_mma_bwd_short_kernel<W, warps>, dim3(pieces), warps * 32, bytes,
                        l.stream, l.batch, l.tensors));
    return CSP_OK;
}

template <int W> static csp_status launch_bwd(const bwd_launch<__nv_bfloat16> &l)
{
    const int warps = pick_attention_mma_warps(W, l.longest, cuda_state_of(l.be)->shared_limit);

    if constexpr (W > 32) {
        if (warps == 4) {
            return launch_short<W, 4>(l);
        }
        if (warps == 8) {
            return launch_short<W, 8>(l);
        }
    }
    if constexpr (W <= 64) {
        if (warps == 16) {
            return launch_short<W, 16>(l);
        }
    }
    return attention_mma_bwd_long(l);
}

csp_status attention_mma_bwd(csp_backend *be, const csp_attention *a, const csp_attention_grad *g)
{
    const bwd_launch<__nv_bfloat16> l = bwd_launch_of<__nv_bfloat16>(be, a, g);

    switch (a->E) {
    case 16:
        return launch_bwd<16>(l);
    case 32:
        return launch_bwd<32>(l);
    case 64:
        return launch_bwd<64>(l);
    case 96:
        return launch_bwd<96>(l);
    default:
        return launch_bwd<128>(l);
    }
}
