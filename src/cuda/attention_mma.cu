/*
 * attention_mma.cu - csp_attention_fwd for bf16 rows on tensor cores; attention_mma.cuh has what
 * heads these kernels take, attention.cu picks them.
 *
 * A warp owns 16 rows of queries, with scores, probabilities and sums in registers; keys go by 32
 * or 64 at a time, and sums are rescaled where a maximum rises. Texts whose keys fit into shared
 * memory: a team of warps loads them once for all heads of the group, and behind one barrier its
 * warps take 16 rows after another, each copying the next ones while it computes. Other texts: a
 * block for each 128 rows of queries; tiles of keys come by in two buffers.
 *
 * The teams of a block are attention_mma.cuh's.
 *
 * Bound by memory for short texts, by products for long ones. No scratch memory.
 */
#include "attention_mma.cuh"
#include "attention_mma.h"
#include "device.h"
#include "launch.cuh"

/* A warp's 16 rows of queries: this lane's share. */
template <int W> struct query_part {
    uint32_t q[W / 16][4];
    float o[W / 8][4];    /* sums of exponentials times values        */
    float max[2], sum[2]; /* of rows g and g+8; sum: of this lane only */
    int32_t seen[2];      /* keys that they see                        */
    int32_t most, fewest; /* keys that any of the 16 rows sees         */
};

/* Begins with the rows from r on, rotated, in q. */
template <int W>
static __device__ __forceinline__ void begin_rows(const attention_batch &a, const row_list &queries,
                                                  int32_t r, const mma_rows<W> &q, int lane,
                                                  query_part<W> &x)
{
#pragma unroll
    for (int e = 0; e < W / 16; e++) {
        load_left(q, 16 * e, lane, x.q[e]);
    }
#pragma unroll
    for (int j = 0; j < W / 8; j++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            x.o[j][c] = 0.0f;
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        x.max[h] = -INFINITY;
        x.sum[h] = 0.0f;
        x.seen[h] = keys_seen(a, queries, r + lane / 4 + 8 * h);
    }
    x.most = most_keys_seen(a, queries, r, ATTENTION_MMA_ROWS);
    x.fewest = fewest_keys_seen(a, queries, r, ATTENTION_MMA_ROWS);
}

/* Scores of the keys from number key on, 32 * steps of them or what k holds; -inf where none is
 * seen. */
template <int W, int steps>
static __device__ __forceinline__ void score_rows(const mma_rows<W> *k, int32_t key, int lane,
                                                  const query_part<W> &x, float (&s)[4 * steps][4])
{
#pragma unroll
    for (int n = 0; n < steps; n++) {
        const bool is_first_seen = key + 32 * n < x.most, is_seen = key + 32 * n + 16 < x.most;

#pragma unroll
        for (int j = 4 * n; j < 4 * n + 4; j++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                s[j][c] = (j < 4 * n + 2 ? is_first_seen : is_seen) ? 0.0f : -INFINITY;
            }
        }
        if (is_first_seen) {
#pragma unroll
            for (int e = 0; e < W / 16; e++) {
                uint32_t right[4];

                load_right(k[2 * n], 16 * e, lane, right);
                add_pair(x.q[e], right, s[4 * n], s[4 * n + 1]);
                if (is_seen) {
                    load_right(k[2 * n + 1], 16 * e, lane, right);
                    add_pair(x.q[e], right, s[4 * n + 2], s[4 * n + 3]);
                }
            }
        }
    }
    if (key + 32 * steps > x.fewest) {
#pragma unroll
        for (int j = 0; j < 4 * steps; j++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                s[j][c] =
                    key + 8 * j + 2 * (lane % 4) + c % 2 < x.seen[c / 2] ? s[j][c] : -INFINITY;
            }
        }
    }
}

/*
 * s becomes exp(scale s - max), max follows s, what was summed so far follows max; scale and max
 * are for powers of 2. Every row sees its text's first key, so max is a number from there on.
 */
template <int W, int steps>
static __device__ __forceinline__ void exp_rows(float scale, float (&s)[4 * steps][4],
                                                query_part<W> &x)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float max = s[0][2 * h];

#pragma unroll
        for (int j = 0; j < 4 * steps; j++) {
            max = fmaxf(max, fmaxf(s[j][2 * h], s[j][2 * h + 1]));
        }
        max = fmaxf(x.max[h], lanes_max<4>(max) * scale);
        const float shrink = cu::exp2_approx(x.max[h] - max);

        x.max[h] = max;
        x.sum[h] *= shrink;
#pragma unroll
        for (int j = 0; j < W / 8; j++) {
            x.o[j][2 * h] *= shrink;
            x.o[j][2 * h + 1] *= shrink;
        }
#pragma unroll
        for (int j = 0; j < 4 * steps; j++) {
#pragma unroll
            for (int c = 2 * h; c < 2 * h + 2; c++) {
                s[j][c] = cu::exp2_approx(s[j][c] * scale - max);
                x.sum[h] += s[j][c];
            }
        }
    }
}

/* Adds 32 * steps keys and values, from number key on, to a warp's rows. */
template <int W, int steps>
static __device__ __forceinline__ void attend(const mma_rows<W> *k, const mma_rows<W> *v,
                                              int32_t key, float scale, int lane, query_part<W> &x)
{
    float s[4 * steps][4];

    score_rows<W, steps>(k, key, lane, x, s);
    exp_rows<W, steps>(scale, s, x);
#pragma unroll
    for (int n = 0; n < 2 * steps; n++) {
        if (key + 16 * n < x.most) {
            uint32_t probability[4];

            pack_left(s[2 * n], s[2 * n + 1], probability);
#pragma unroll
            for (int e = 0; e < W / 16; e++) {
                uint32_t right[4];

                load_right_by_rows(v[n], 16 * e, lane, right);
                add_pair(probability, right, x.o[2 * e], x.o[2 * e + 1]);
            }
        }
    }
}

/* Stores o and lse of the rows from r on. */
template <int W>
static __device__ __forceinline__ void store_rows(const attention_batch &a, const row_list &outputs,
                                                  int32_t r, int lane, query_part<W> &x,
                                                  __nv_bfloat16 *o, float *lse)
{
    const out_rows out = rows_to_store(outputs, r, W, lane, o);

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float total = lanes_sum<4>(x.sum[h]), scale = 1.0f / total;

        if (lane % 4 == 0 && out.at[h] != nullptr) {
            lse[lse_offset(a, outputs, r + lane / 4 + 8 * h)] =
                x.max[h] * (1.0f / ATTENTION_LOG2E) + logf(total);
        }
#pragma unroll
        for (int j = 0; j < W / 8; j++) {
            x.o[j][2 * h] *= scale;
            x.o[j][2 * h + 1] *= scale;
        }
    }
#pragma unroll
    for (int j = 0; j < W / 16; j++) {
        store_pair(x.o[2 * j], x.o[2 * j + 1], out, 16 * j, lane);
    }
}

/* Shared memory in front of the keys: a warp's queries on their way to registers. */
template <int W> struct mma_fwd_tile {
    mma_rows<W> q[ATTENTION_WARPS];
};

/*
 * Grid (texts * G over teams, split): the blocks of a piece share its rows of queries; any split
 * works. Dynamic shared memory: mma_fwd_tile, and for each team twice `blocks` times mma_rows.
 */
template <int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS, W <= 64 ? 2 : 1)
    attention_mma_fwd_short_kernel(attention_batch a,
                                   const __nv_bfloat16 *__restrict__ q, /* (N,H*E) */
                                   const __nv_bfloat16 *__restrict__ k, /* (N,G*E) */
                                   const __nv_bfloat16 *__restrict__ v, /* (N,G*E) */
                                   __nv_bfloat16 *__restrict__ o,       /* (N,H*E) */
                                   float *__restrict__ lse,             /* (N,H)   */
                                   int blocks, int team)
{
    DYN_SHARED(mma_fwd_tile<W>, front);
    const team_place p = place_in_team(ATTENTION_WARPS, team);
    mma_rows<W> *const keys = reinterpret_cast<mma_rows<W> *>(&front + 1) + p.number * 2 * blocks;
    mma_rows<W> *const values = keys + blocks;
    const attention_piece piece = piece_of_team(a, p);
    const row_list &queries = piece.queries;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int32_t stride = (int32_t)gridDim.y * team * ATTENTION_MMA_ROWS;
    const int32_t used = (queries.T + 15) / 16 * 16;
    const float scale = a.scale * ATTENTION_LOG2E;
    int32_t r = ((int32_t)blockIdx.y * team + p.warp) * ATTENTION_MMA_ROWS;

    if (queries.T > blocks * ATTENTION_MMA_ROWS) {
        cu::trap(); /* longer than csp_attention.longest says: there is no room for its keys */
    }
    if (queries.T > 0) {
        start_rotated(piece.keys, 0, used, k, p.thread, p.threads, keys);
        if (r < queries.rows) {
            start_rotated(queries, r, ATTENTION_MMA_ROWS, q, lane, 32, &front.q[warp]);
        }
        start_rows(piece.values, 0, used, v, p.thread, p.threads, values);
        cu::cp_commit();
        cu::cp_wait<0>();
        rotate_rows(a, piece.keys, 0, used, p.thread, p.threads, keys);
    }
    team_barrier(team);
    while (r < queries.rows) {
        query_part<W> x;

        cu::cp_wait<0>();
        rotate_rows(a, queries, r, ATTENTION_MMA_ROWS, lane, 32, &front.q[warp]);
        __syncwarp();
        begin_rows(a, queries, r, front.q[warp], lane, x);
        __syncwarp();
        if (r + stride < queries.rows) {
            start_rotated(queries, r + stride, ATTENTION_MMA_ROWS, q, lane, 32, &front.q[warp]);
            cu::cp_commit();
        }
        for (int32_t key = 0; key < x.most; key += 32 * MMA_STEPS(W)) {
            attend<W, MMA_STEPS(W)>(&keys[key / 16], &values[key / 16], key, scale, lane, x);
        }
        store_rows(a, piece.outputs, r, lane, x, o, lse);
        r += stride;
    }
}

template <int W> struct mma_long_fwd_tile {
    mma_fwd_tile<W> front;
    mma_key_tile<W> key[2];
};

/*
 * Grid (texts * G, tiles): blocks of a piece stride over its 128 rows of queries; any tiles work.
 */
template <int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS, W <= 64 ? 2 : 1)
    attention_mma_fwd_long_kernel(attention_batch a,
                                  const __nv_bfloat16 *__restrict__ q, /* (N,H*E) */
                                  const __nv_bfloat16 *__restrict__ k, /* (N,G*E) */
                                  const __nv_bfloat16 *__restrict__ v, /* (N,G*E) */
                                  __nv_bfloat16 *__restrict__ o,       /* (N,H*E) */
                                  float *__restrict__ lse)             /* (N,H)   */
{
    const int32_t tile = ATTENTION_WARPS * ATTENTION_MMA_ROWS, step = 32 * MMA_STEPS(W);
    DYN_SHARED(mma_long_fwd_tile<W>, shared);
    const attention_piece piece = piece_of_block(a);
    const row_list &queries = piece.queries;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const float scale = a.scale * ATTENTION_LOG2E;

    for (int32_t r = (int32_t)blockIdx.y * tile; r < queries.rows; r += (int32_t)gridDim.y * tile) {
        const int32_t own = r + warp * ATTENTION_MMA_ROWS;
        const int32_t most = most_keys_seen(a, queries, r, tile);
        query_part<W> x;

        start_rotated(queries, own, ATTENTION_MMA_ROWS, q, lane, 32, &shared.front.q[warp]);
        start_keys(piece, 0, k, v, shared.key[0]);
        cu::cp_wait<0>();
        rotate_rows(a, queries, own, ATTENTION_MMA_ROWS, lane, 32, &shared.front.q[warp]);
        rotate_keys(a, piece.keys, 0, shared.key[0]);
        __syncthreads();
        begin_rows(a, queries, own, shared.front.q[warp], lane, x);
        for (int32_t key = 0; key < most; key += step) {
            const mma_key_tile<W> &now = shared.key[key / step % 2];
            mma_key_tile<W> &next = shared.key[(key / step + 1) % 2];

            if (key + step < most) {
                start_keys(piece, key + step, k, v, next);
            }
            if (own < queries.rows && key < x.most) {
                attend<W, MMA_STEPS(W)>(now.k, now.v, key, scale, lane, x);
            }
            cu::cp_wait<0>();
            if (key + step < most) {
                rotate_keys(a, piece.keys, key + step, next);
            }
            __syncthreads();
        }
        if (own < queries.rows) {
            store_rows(a, piece.outputs, own, lane, x, o, lse);
        }
    }
}

/* What the launches of all widths are given. */
struct mma_fwd_launch {
    csp_backend *be;
    attention_batch batch;
    const __nv_bfloat16 *q, *k, *v;
    __nv_bfloat16 *o;
    float *lse;
    int64_t longest;
};

template <int W> static csp_status launch_fwd(const mma_fwd_launch &l)
{
    const attention_batch &a = l.batch;
    const cuda_state *state = cuda_state_of(l.be);
    cudaStream_t stream = cuda_stream(l.be, "attention_fwd");
    const int64_t pieces = a.texts * a.G;
    const int64_t tiles = ceil_div(l.longest * (a.H / a.G), ATTENTION_WARPS * ATTENTION_MMA_ROWS);
    const int blocks = pick_attention_mma_blocks(W, l.longest, state->shared_limit);

    static_assert(sizeof(mma_rows<W>) == ATTENTION_MMA_BYTES(W), "attention_pick.h says the same");
    if (blocks > 0) {
        const int team = pick_attention_fwd_team(W, blocks, l.longest, pieces, state->processors,
                                                 state->shared_limit);
        const size_t bytes = attention_mma_fwd_bytes(W, blocks, team);
        const int64_t groups = ceil_div(pieces, ATTENTION_WARPS / team);
        const int split = pick_attention_split(groups, tiles, state->processors);

        CUDA_TRY(cu::allow_shared(attention_mma_fwd_short_kernel<W>, bytes));
        CUDA_TRY(cu::launch(attention_mma_fwd_short_kernel<W>,
                            dim3((unsigned)groups, (unsigned)split), ATTENTION_THREADS, bytes,
                            stream, a, l.q, l.k, l.v, l.o, l.lse, blocks, team));
        return CSP_OK;
    }
    const dim3 grid((unsigned)pieces, (unsigned)(tiles < CUDA_GRID_YZ ? tiles : CUDA_GRID_YZ));
    const size_t bytes = sizeof(mma_long_fwd_tile<W>);

    CUDA_TRY(cu::allow_shared(attention_mma_fwd_long_kernel<W>, bytes));
    CUDA_TRY(cu::launch(attention_mma_fwd_long_kernel<W>, grid, ATTENTION_THREADS, bytes, stream, a,
                        l.q, l.k, l.v, l.o, l.lse));
    return CSP_OK;
}

bool attention_mma_takes(const csp_attention *a, const csp_tensor *const *rows, int count)
{
    bool taken = attention_mma_width(a->E) && (uintptr_t)a->cos.data % 16 == 0 &&
                 (uintptr_t)a->sin.data % 16 == 0;

    for (int i = 0; i < count; i++) {
        taken = taken && rows[i]->dtype == CSP_BF16 && (uintptr_t)rows[i]->data % 16 == 0 &&
                csp_tensor_row(rows[i]) % 8 == 0;
    }
    return taken;
}

csp_status attention_mma_fwd(csp_backend *be, const csp_attention *a, const csp_tensor *q,
                             const csp_tensor *k, const csp_tensor *v, csp_tensor *o,
                             csp_tensor *lse)
{
    const mma_fwd_launch l = { be,
                               attention_batch_of(a, q, k, v),
                               (const __nv_bfloat16 *)q->data,
                               (const __nv_bfloat16 *)k->data,
                               (const __nv_bfloat16 *)v->data,
                               (__nv_bfloat16 *)o->data,
                               (float *)lse->data,
                               a->longest };

    switch (a->E) {
    case 16:
        return launch_fwd<16>(l);
    case 32:
        return launch_fwd<32>(l);
    case 64:
        return launch_fwd<64>(l);
    case 96:
        return launch_fwd<96>(l);
    default:
        return launch_fwd<128>(l);
    }
}
