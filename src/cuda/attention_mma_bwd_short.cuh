/*
 * attention_mma_bwd_short.cuh - the kernel of csp_attention_bwd on tensor cores for texts of up to
 * as many keys as a block's warps have, 16 or 32 each: all of dq, dk and dv in one.
 *
 * A team of warps for each text and key-value head, a block of several teams where texts are short
 * (attention_mma.cuh). Warps keep dk and dv of their keys in registers while queries of all heads
 * go by; dS^T also goes to shared memory, and behind a barrier the warps share their team's dq = dS
 * k among them. While they do, the next queries are on their way. dq, dk and dv are written once.
 * Every sum has one owner and one order; no atomics.
 *
 * Gradients may lie over q, k and v, as in attention_bwd_tile.cuh.
 */
#pragma once

#include "attention_mma_bwd.cuh"

/* Keys by 16, those of each warp together; dS^T of them. */
template <int W, int blocks> struct mma_bwd_tile {
    mma_query_tile<W> query;
    mma_rows<W> k[blocks], v[blocks];
    mma_rows<ATTENTION_MMA_QUERIES(W)> ds[blocks];
};

/* dS^T of a warp's keys, columns i .. i+chunk-1. */
template <int chunk, int columns>
static __device__ __forceinline__ void put_score_grads(const uint32_t (&ds)[chunk / 16][4], int i,
                                                       int lane, mma_rows<columns> &to)
{
#pragma unroll
    for (int j = 0; j < chunk / 8; j++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            *reinterpret_cast<uint32_t *>(&to.at[lane / 4 + 8 * h][i + 8 * j + 2 * (lane % 4)]) =
                ds[j / 2][j % 2 * 2 + h];
        }
    }
}

/*
 * dq = dS k of a team's queries from r on, which is at first. A warp takes 16 rows and 32 columns
 * at a time, 16 of the lower half and those they were rotated with (all 16 of the narrowest heads).
 */
template <int W>
static __device__ __forceinline__ void store_query_grads(
    const attention_batch &a, const row_list &queries, int32_t r, row_place first,
    const query_share &share, const mma_rows<W> *k,
    const mma_rows<ATTENTION_MMA_QUERIES(W)> *score_grads, int warp, int team, int lane,
    __nv_bfloat16 *dq)
{
    const int groups = W <= 32 ? 1 : W / 32, results = W == 16 ? 2 : 4;

    for (int task = warp; task < share.rows / 16 * groups; task += team) {
        const int i = task / groups * 16, e = task % groups * 16;

        if (r + i >= queries.rows) {
            return;
        }
        const row_place place = row_behind(queries, first, i);
        const int32_t most = most_keys_seen(a, queries, place, 16);
        float sum[results][4] = {};

#pragma unroll 2
        for (int n = 0; 16 * n < most; n++) {
            uint32_t left[4], right[4];

            load_left_transposed(score_grads[n], share.at + i, lane, left);
#pragma unroll
            for (int half = 0; half < results / 2; half++) {
                load_right_by_rows(k[n], e + half * (W / 2), lane, right);
                add_pair(left, right, sum[2 * half], sum[2 * half + 1]);
            }
        }
        const int here = cu::opaque(lane);
        const out_rows out = rows_to_store(queries, r + i, place, W, here, dq);

#pragma unroll
        for (int j = 0; j < results / 2; j++) {
            rotate_back<W>(a, out, e + 8 * j, a.scale, here, sum[j], sum[results / 2 + j]);
        }
#pragma unroll
        for (int half = 0; half < results / 2; half++) {
            store_pair(sum[2 * half], sum[2 * half + 1], out, e + half * (W / 2), here);
        }
    }
}

/* The most rows of queries that a team of the block has: all of it meet at its barriers. */
static __device__ __forceinline__ int32_t most_rows_of_block(const attention_batch &a, int teams)
{
    int32_t most = 0;

    for (int i = 0; i < teams; i++) {
        const int32_t rows = piece_of(a, (int64_t)blockIdx.x * teams + i).queries.rows;

        most = rows > most ? rows : most;
    }
    return most;
}

/* Blocks that are to fit into a multiprocessor: as many as leave registers for sums. */
#define MMA_BWD_BLOCKS(width, warps, parts) \
    ((width) > 64 || (parts) == 2 ? 8 / (warps) : (warps) == 4 ? 3 : 16 / (warps))

/*
 * Grid (texts * G over teams). Dynamic shared memory: mma_bwd_tile.
 *
 * Queries go by 32 at a time where a block has many keys, so that these are read from shared memory
 * half as often; by 16 where it has 64, which leaves registers for a third block. With two parts a
 * warp has 32 keys, and each load of queries serves twice as many products: shared memory's
 * bandwidth bounds heads of 64 otherwise, and wider ones have no registers for it.
 */
template <int W, int warps, int parts, int team>
static __global__ void __launch_bounds__(warps * 32, MMA_BWD_BLOCKS(W, warps, parts))
    attention_mma_bwd_short_kernel(attention_batch a, bf16_tensors x)
{
    typedef mma_bwd_tile<W, warps * parts> block_tile;
    const int chunk = warps * parts == 4 ? 16 : 32, rows = mma_query_tile<W>::rows / warps * team;
    DYN_SHARED(block_tile, shared);
    const team_place p = place_in_team(warps, team);
    const attention_piece piece = piece_of_team(a, p);
    const row_list &queries = piece.queries;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int of_warp = warp * parts, of_team = (warp - p.warp) * parts;
    const int32_t own = p.warp * parts * ATTENTION_MMA_ROWS;
    const int blocks = (queries.T + 15) / 16;
    const int32_t all_rows =
        team == 1 || team == warps ? queries.rows : most_rows_of_block(a, warps / team);
    const query_share share = { p.thread, team * 32, p.number * rows, rows };
    query_copy<W, warps> held;
    mma_key_grads<W> grads[parts];
    row_place place = { 0, 0 }; /* of row r */

    if (blocks > team * parts) {
        cu::trap(); /* longer than csp_attention.longest says: there is no room for its keys */
    }
#pragma unroll
    for (int i = 0; i < parts; i++) {
        clear(grads[i]);
    }
    if (blocks > 0) {
        start_own_keys(x, piece, 0, blocks, p.thread, team * 32, &shared.k[of_team],
                       &shared.v[of_team]);
        start_queries(a, x, piece, 0, place, share, shared.query, held);
        cu::cp_wait<0>();
        rotate_rows(a, piece.keys, 0, place, 16 * blocks, p.thread, team * 32, &shared.k[of_team]);
    }
    for (int32_t r = 0; r < all_rows; r += rows) {
        const bool has_rows = r < queries.rows;

        if (has_rows) {
            finish_queries(a, queries, r, place, share, held, shared.query);
        }
        team_barrier(team);
        for (int i = 0; i < rows && r + i < queries.rows; i += chunk) {
            const row_place at = row_behind(queries, place, i);

            if (own < most_keys_seen(a, queries, at, chunk)) {
                const bool is_whole = own + 16 * parts <= fewest_keys_seen(a, queries, at, chunk);
                uint32_t probability[parts][chunk / 16][4], ds[parts][chunk / 16][4];

                score_grads<W, parts, chunk>(&shared.k[of_warp], &shared.v[of_warp], own, is_whole,
                                             shared.query, share.at + i, a.log2_scale, lane,
                                             probability, ds);
#pragma unroll
                for (int j = 0; j < parts; j++) {
                    put_score_grads<chunk>(ds[j], share.at + i, lane, shared.ds[of_warp + j]);
                }
                add_key_grads<W, parts, chunk>(probability, ds, shared.query, share.at + i, lane,
                                               grads);
            }
        }
        team_barrier(team);
        if (has_rows) {
            const row_place before = place;

            place = row_behind(queries, place, rows);
            held = {}; /* or what it was would take registers up to here */
            if (r + rows < queries.rows) {
                start_queries(a, x, piece, r + rows, place, share, shared.query, held);
            }
            store_query_grads<W>(a, queries, r, before, share, &shared.k[of_team],
                                 &shared.ds[of_team], p.warp, team, cu::opaque(lane), x.dq);
        }
    }
#pragma unroll
    for (int i = 0; i < parts; i++) {
        store_key_grads(a, piece.keys, piece.values, own + 16 * i, lane, grads[i], x.dk, x.dv);
    }
}

template <int W, int warps, int parts, int team>
static csp_status launch_team(const bwd_launch<__nv_bfloat16> &l)
{
    const size_t bytes = sizeof(mma_bwd_tile<W, warps * parts>);
    const int64_t pieces = l.batch.texts * l.batch.G;

    static_assert(sizeof(mma_bwd_tile<W, warps * parts>) ==
                      ATTENTION_MMA_BWD_BYTES(W, warps * parts),
                  "attention_pick.h says the same");
    CUDA_TRY(cu::allow_shared(attention_mma_bwd_short_kernel<W, warps, parts, team>, bytes));
    CUDA_TRY(cu::launch(attention_mma_bwd_short_kernel<W, warps, parts, team>,
                        dim3((unsigned)ceil_div(pieces, warps / team)), warps * 32, bytes, l.stream,
                        l.batch, l.tensors));
    return CSP_OK;
}

/* Blocks of 4 warps, in teams. */
template <int W> static csp_status launch_teams(const bwd_launch<__nv_bfloat16> &l)
{
    const int team = pick_attention_bwd_team(W, l.longest, l.batch.texts * l.batch.G,
                                             cuda_state_of(l.be)->processors);

    if constexpr (ATTENTION_MMA_LEAST_TEAM(W) == 1) {
        if (team == 1) {
            return launch_team<W, 4, 1, 1>(l);
        }
    }
    return team == 2 ? launch_team<W, 4, 1, 2>(l) : launch_team<W, 4, 1, 4>(l);
}

template <int W> static csp_status launch_bwd(const bwd_launch<__nv_bfloat16> &l)
{
    const int parts = W == 64 ? 2 : 1;

    switch (pick_attention_bwd_blocks(W, l.longest, cuda_state_of(l.be)->shared_limit)) {
    case 4:
        return launch_teams<W>(l);
    case 8:
        if constexpr (W > 32) {
            return launch_team<W, 8 / parts, parts, 8 / parts>(l);
        }
        break;
    case 16:
        if constexpr (W <= 64) {
            return launch_team<W, 16 / parts, parts, 16 / parts>(l);
        }
        break;
    default:
        break;
    }
    return attention_mma_bwd_long(l);
}
