/*
 * attention_mma_bwd.cuh - what the tensor core kernels of backward share where queries go by keys:
 * a tile of them on its way into shared memory, and what it adds to dk and dv of a warp's 16 keys.
 *
 * The warp computes the transposed scores S^T of its keys, so that P^T and dS^T come out as left
 * operands of dv += P^T do and dk += dS^T q.
 */
#pragma once

#include "attention_bwd.cuh"
#include "attention_mma.cuh"

typedef bwd_tensors<__nv_bfloat16> bf16_tensors;

/* A tile of queries. */
template <int W> struct mma_query_tile {
    static const int rows = ATTENTION_MMA_QUERIES(W);

    mma_rows<W> q[rows / 16], d_o[rows / 16];
    float lse[rows], delta[rows]; /* lse for powers of 2 */
    int32_t seen[rows];
};

/* Who copies which part of the tile: rows rows from at on, among threads. */
struct query_share {
    int thread, threads;
    int at, rows;
};

/* What a thread holds of a tile of queries that is on its way; rows and warps in the tile's
 * proportion. */
template <int W, int warps> struct query_copy {
    static const int rows = ATTENTION_MMA_QUERIES(W), lanes = MMA_ROW_LANES(W);
    static const int pieces = (rows * lanes + warps * 32 - 1) / (warps * 32);

    vec_of<uint32_t, 4> o[pieces]; /* two bf16 a word: by itself each would fill a register */
    float lse;
    int32_t seen;
};

/* All threads of the share start the copies of the queries from r on, which is at first;
 * finish_queries follows. */
template <int W, int warps>
static __device__ __forceinline__ void start_queries(
    const attention_batch &a, const bf16_tensors &x, const attention_piece &piece, int32_t r,
    row_place first, const query_share &share, mma_query_tile<W> &tile, query_copy<W, warps> &held)
{
    typedef query_copy<W, warps> copy;
    const row_list &queries = piece.queries;
    const int thread = cu::opaque(share.thread);
    const int e = (int)((unsigned)thread % copy::lanes * 8);

    start_rotated(queries, r, first, share.rows, x.q, thread, share.threads,
                  &tile.q[share.at / 16]);
#pragma unroll
    for (int n = 0; n < copy::pieces; n++) {
        const int i = (int)((unsigned)(n * share.threads + thread) / copy::lanes);
        const bool is_row = i < share.rows && e < W && r + i < queries.rows;
        const int64_t from =
            is_row ? place_offset(piece.outputs, row_behind(queries, first, i), W) + e : 0;

        held.o[n] = {};
        if (is_row) {
            held.o[n] = *reinterpret_cast<const vec_of<uint32_t, 4> *>(x.o + from);
        }
        if (i < share.rows && e < W) {
            cu::cp_async16(tile.d_o[share.at / 16].at[0] + i * (W + ATTENTION_MMA_PAD) + e,
                           x.d_o + from, is_row ? 16 : 0);
        }
    }
    cu::cp_commit();
    if (thread < share.rows) {
        const row_place place = row_behind(queries, first, thread);
        const bool is_row = r + thread < queries.rows;
        const int64_t at =
            (queries.first + place.t) * a.H + (queries.head + (is_row ? place.head : 0));

        held.seen = a.causal ? place.t + 1 : queries.T;
        held.lse = is_row ? x.lse[at] * ATTENTION_LOG2E : 0.0f;
    }
}

/* Rotates the queries, and sums δ = rowsum(do ⊙ o) of what each thread copied itself. */
template <int W, int warps>
static __device__ __forceinline__ void finish_queries(const attention_batch &a,
                                                      const row_list &queries, int32_t r,
                                                      row_place first, const query_share &share,
                                                      const query_copy<W, warps> &held,
                                                      mma_query_tile<W> &tile)
{
    typedef query_copy<W, warps> copy;
    const int thread = cu::opaque(share.thread);
    const int e = (int)((unsigned)thread % copy::lanes * 8);

    cu::cp_wait<0>();
#pragma unroll
    for (int n = 0; n < copy::pieces; n++) {
        const int i = (int)((unsigned)(n * share.threads + thread) / copy::lanes);
        float delta = 0.0f;

        if (i < share.rows && e < W) {
            const vec_of<uint32_t, 4> d_o = *reinterpret_cast<const vec_of<uint32_t, 4> *>(
                tile.d_o[share.at / 16].at[0] + i * (W + ATTENTION_MMA_PAD) + e);

#pragma unroll
            for (int j = 0; j < 4; j++) {
                delta += low_of(d_o.at[j]) * low_of(held.o[n].at[j]);
                delta += high_of(d_o.at[j]) * high_of(held.o[n].at[j]);
            }
        }
        delta = lanes_sum<copy::lanes>(delta);
        if (i < share.rows && e == 0) {
            tile.delta[share.at + i] = delta;
        }
    }
    if (thread < share.rows) {
        tile.lse[share.at + thread] = held.lse;
        tile.seen[share.at + thread] = held.seen;
    }
    rotate_rows(a, queries, r, first, share.rows, thread, share.threads, &tile.q[share.at / 16]);
}

/* Starts the copies of 16 * blocks keys and values from row first on; the caller finishes them. */
template <int W>
static __device__ __forceinline__ void start_own_keys(const bf16_tensors &x,
                                                      const attention_piece &piece, int32_t first,
                                                      int blocks, int thread, int threads,
                                                      mma_rows<W> *k, mma_rows<W> *v)
{
    const row_place place = { first, 0 };

    start_rotated(piece.keys, first, place, 16 * blocks, x.k, thread, threads, k);
    start_rows(piece.values, first, place, 16 * blocks, x.v, thread, threads, v);
}

/* Gradients of a warp's 16 keys: this lane's share. */
template <int W> struct mma_key_grads {
    float dk[W / 8][4], dv[W / 8][4];
};

template <int W> static __device__ __forceinline__ void clear(mma_key_grads<W> &grads)
{
#pragma unroll
    for (int j = 0; j < W / 8; j++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            grads.dk[j][c] = 0.0f;
            grads.dv[j][c] = 0.0f;
        }
    }
}

/* sum += 16 rows of each x times chunk rows of y. */
template <int W, int parts, int chunk>
static __device__ __forceinline__ void add_dots(const mma_rows<W> *x, const mma_rows<W> *y,
                                                int lane, float (&sum)[parts][chunk / 8][4])
{
#pragma unroll
    for (int e = 0; e < W / 16; e++) {
        uint32_t left[parts][4], right[4];

#pragma unroll
        for (int p = 0; p < parts; p++) {
            load_left(x[p], 16 * e, lane, left[p]);
        }
#pragma unroll
        for (int n = 0; n < chunk / 16; n++) {
            load_right(y[n], 16 * e, lane, right);
#pragma unroll
            for (int p = 0; p < parts; p++) {
                add_pair(left[p], right, sum[p][2 * n], sum[p][2 * n + 1]);
            }
        }
    }
}

/*
 * P^T = exp(S^T - lse) and dS^T = P^T ⊙ (dP^T - δ) of parts times 16 keys, the first of which is
 * number key, and chunk queries from column i of the tile on; as left operands, rounded. is_whole:
 * each query sees all of the keys.
 */
template <int W, int parts, int chunk>
static __device__ __forceinline__ void score_grads(const mma_rows<W> *k, const mma_rows<W> *v,
                                                   int32_t key, bool is_whole,
                                                   const mma_query_tile<W> &x, int i, float scale,
                                                   int lane,
                                                   uint32_t (&probability)[parts][chunk / 16][4],
                                                   uint32_t (&ds)[parts][chunk / 16][4])
{
    float s[parts][chunk / 8][4] = {}, dp[parts][chunk / 8][4] = {};

    add_dots<W, parts, chunk>(k, &x.q[i / 16], lane, s);
    add_dots<W, parts, chunk>(v, &x.d_o[i / 16], lane, dp);
    if (!is_whole) {
#pragma unroll
        for (int j = 0; j < chunk / 8; j++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int32_t seen =
                    x.seen[i + 8 * j + 2 * (lane % 4) + c % 2] - key - lane / 4 - c / 2 * 8;

#pragma unroll
                for (int p = 0; p < parts; p++) {
                    s[p][j][c] = 16 * p < seen ? s[p][j][c] : -INFINITY;
                }
            }
        }
    }
#pragma unroll
    for (int j = 0; j < chunk / 8; j++) {
        const int column = i + 8 * j + 2 * (lane % 4);
        float lse[2], delta[2];

        load_vec(&x.lse[column], lse);
        load_vec(&x.delta[column], delta);
#pragma unroll
        for (int p = 0; p < parts; p++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const float e = cu::exp2_approx(s[p][j][c] * scale - lse[c % 2]);

                s[p][j][c] = e;
                dp[p][j][c] = e * (dp[p][j][c] - delta[c % 2]);
            }
        }
    }
#pragma unroll
    for (int p = 0; p < parts; p++) {
#pragma unroll
        for (int n = 0; n < chunk / 16; n++) {
            pack_left(s[p][2 * n], s[p][2 * n + 1], probability[p][n]);
            pack_left(dp[p][2 * n], dp[p][2 * n + 1], ds[p][n]);
        }
    }
}

/* dv += P^T do, dk += dS^T q over chunk queries from column i of the tile on. */
template <int W, int parts, int chunk>
static __device__ __forceinline__ void add_key_grads(
    const uint32_t (&probability)[parts][chunk / 16][4], const uint32_t (&ds)[parts][chunk / 16][4],
    const mma_query_tile<W> &x, int i, int lane, mma_key_grads<W> (&grads)[parts])
{
#pragma unroll
    for (int n = 0; n < chunk / 16; n++) {
#pragma unroll
        for (int e = 0; e < W / 16; e++) {
            uint32_t right[4];

            load_right_by_rows(x.d_o[i / 16 + n], 16 * e, lane, right);
#pragma unroll
            for (int p = 0; p < parts; p++) {
                add_pair(probability[p][n], right, grads[p].dv[2 * e], grads[p].dv[2 * e + 1]);
            }
            load_right_by_rows(x.q[i / 16 + n], 16 * e, lane, right);
#pragma unroll
            for (int p = 0; p < parts; p++) {
                add_pair(ds[p][n], right, grads[p].dk[2 * e], grads[p].dk[2 * e + 1]);
            }
        }
    }
}

/* dk and dv of a warp's keys from row first on. */
template <int W>
static __device__ __forceinline__ void store_key_grads(const attention_batch &a,
                                                       const row_list &keys, const row_list &values,
                                                       int32_t first, int lane,
                                                       mma_key_grads<W> &grads, __nv_bfloat16 *dk,
                                                       __nv_bfloat16 *dv)
{
    const row_place place = { first, 0 };

    if (first >= keys.rows) {
        return;
    }
    const out_rows to_dk = rows_to_store(keys, first, place, W, lane, dk);
    const out_rows to_dv = rows_to_store(values, first, place, W, lane, dv);

    store_rotated_back<W>(a, to_dk, a.scale, lane, grads.dk);
#pragma unroll
    for (int j = 0; j < W / 16; j++) {
        store_pair(grads.dv[2 * j], grads.dv[2 * j + 1], to_dv, 16 * j, lane);
    }
}

/* Backward for heads of 64, and of 96 and 128. */
csp_status attention_mma_bwd_64(const bwd_launch<__nv_bfloat16> &l);
csp_status attention_mma_bwd_wide(const bwd_launch<__nv_bfloat16> &l);

/* Texts of more keys than a block has warps for; attention_mma_bwd_long.cu. */
csp_status attention_mma_bwd_long(const bwd_launch<__nv_bfloat16> &l);
