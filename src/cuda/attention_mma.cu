/*
 * attention_mma.cu - csp_attention_fwd for bf16 rows on tensor cores; attention_mma.cuh has what
 * heads these kernels take, attention.cu picks them.
 *
 * A warp owns 32 rows of queries, with scores, probabilities and sums in registers; keys go by 32
 * or 64 at a time. What is subtracted from a row's scores before they become exponents is not their
 * maximum so far, but follows it only where it rises by a factor of 2^8, so that sums are hardly
 * ever rescaled. Texts whose keys fit into shared memory: a team of warps loads them once for all
 * heads of the group, and behind one barrier its warps take 32 rows after another, those of narrow
 * heads copying the next ones while they compute. Other texts: a block for each 256 rows of
 * queries; tiles of keys come by in two buffers.
 *
 * The teams of a block are attention_mma.cuh's.
 *
 * Bound by memory for short texts, by products for long ones. No scratch memory.
 */
#include "attention_mma.cuh"
#include "attention_mma.h"
#include "device.h"
#include "launch.cuh"

/* 16 rows of queries a warp has two of: each load of keys and values then serves twice as many
 * products, which shared memory's bandwidth would bound otherwise. */
enum { PARTS = ATTENTION_FWD_ROWS / ATTENTION_MMA_ROWS };

/* Are queries held in registers, or read from shared memory with every step of keys? */
#define MMA_HOLDS_QUERIES(width) ((width) <= 64)
/* Keys of a step, between which maxima are looked at: as many as registers allow. */
#define MMA_STEP(width) (MMA_HOLDS_QUERIES(width) ? 32 : 64)
/* Threads that leave as many registers for each as a width needs. */
#define MMA_FWD_THREADS(width) ((width) <= 32 ? 512 : (width) <= 64 ? 384 : 256)
/*
 * How far, in powers of 2, a row's scores may rise above the number that is subtracted from them
 * before that follows and sums are rescaled: exponentials stay below 256, far from where f32 ends.
 */
#define MMA_SLACK 8.0f

/* A warp's rows of queries: this lane's share. */
template <int W> struct query_part {
    uint32_t q[PARTS][MMA_HOLDS_QUERIES(W) ? W / 16 : 1][4];
    float o[PARTS][W / 8][4];           /* sums of exponentials times values        */
    float max[PARTS][2], sum[PARTS][2]; /* of rows g and g+8; sum: of this lane only */
    int32_t most;                       /* keys that any of the warp's rows sees    */
};

/* Left operands of 16 rows, of which place says where g and g+8 are, are rotated where they are:
 * the 16 columns of one with those of the other half (the 8 with the other 8 of the narrowest). */
template <int W>
static __device__ __forceinline__ void rotate_left(const attention_batch &a,
                                                   const row_place (&place)[2], int lane,
                                                   uint32_t (*q)[4])
{
    const int half = W / 32, words = W == 16 ? 1 : 2;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int64_t angle = (int64_t)place[h].t * (W / 2) + 2 * (lane % 4);

#pragma unroll
        for (int e = 0; e < (W + 16) / 32; e++) {
#pragma unroll
            for (int n = 0; n < words; n++) {
                float c[2], s[2];

                load_vec(a.cos + angle + 16 * e + 8 * n, c);
                load_vec(a.sin + angle + 16 * e + 8 * n, s);
                rotate_pair(c, s, q[e][h + 2 * n], q[e + half][W == 16 ? h + 2 : h + 2 * n]);
            }
        }
    }
}

/* Begins with the rows from r on, which is at first; they lie in q, and behind this rotated there
 * or in registers. */
template <int W>
static __device__ __forceinline__ void begin_rows(const attention_batch &a, const row_list &queries,
                                                  int32_t r, row_place first, int lane,
                                                  mma_rows<W> *q, query_part<W> &x)
{
    if constexpr (!MMA_HOLDS_QUERIES(W)) {
        rotate_rows(a, queries, r, first, ATTENTION_FWD_ROWS, lane, 32, q);
    }
    __syncwarp();
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        row_place place[2];

#pragma unroll
        for (int h = 0; h < 2; h++) {
            place[h] = row_behind(queries, first, 16 * p + 8 * h + lane / 4);
            x.max[p][h] = -INFINITY;
            x.sum[p][h] = 0.0f;
        }
        if constexpr (MMA_HOLDS_QUERIES(W)) {
#pragma unroll
            for (int e = 0; e < W / 16; e++) {
                load_left(q[p], 16 * e, lane, x.q[p][e]);
            }
            rotate_left<W>(a, place, lane, x.q[p]);
        }
#pragma unroll
        for (int j = 0; j < W / 8; j++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                x.o[p][j][c] = 0.0f;
            }
        }
    }
    x.most = most_keys_seen(a, queries, first, ATTENTION_FWD_ROWS);
}

/* Scores of the keys in k. */
template <int W, int keys>
static __device__ __forceinline__ void score_rows(const mma_rows<W> *k, int lane,
                                                  const mma_rows<W> *q, const query_part<W> &x,
                                                  float (&s)[PARTS][keys / 8][4])
{
#pragma unroll
    for (int e = 0; e < W / 16; e++) {
        uint32_t left[PARTS][4];

        if constexpr (!MMA_HOLDS_QUERIES(W)) {
#pragma unroll
            for (int p = 0; p < PARTS; p++) {
                load_left(q[p], 16 * e, lane, left[p]);
            }
        }
#pragma unroll
        for (int n = 0; n < keys / 16; n++) {
            uint32_t right[4];

            load_right(k[n], 16 * e, lane, right);
#pragma unroll
            for (int p = 0; p < PARTS; p++) {
                if constexpr (MMA_HOLDS_QUERIES(W)) {
                    add_pair(x.q[p][e], right, s[p][2 * n], s[p][2 * n + 1]);
                } else {
                    add_pair(left[p], right, s[p][2 * n], s[p][2 * n + 1]);
                }
            }
        }
    }
}

/* Those of keys, from number key on, that a row does not see become -inf; the rows' first is at
 * first. */
template <int keys>
static __device__ __forceinline__ void mask_rows(const attention_batch &a, const row_list &queries,
                                                 row_place first, int32_t key, int lane,
                                                 float (&s)[PARTS][keys / 8][4])
{
    if (key + keys <= fewest_keys_seen(a, queries, first, ATTENTION_FWD_ROWS)) {
        return;
    }
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const row_place place = row_behind(queries, first, 16 * p + 8 * h + lane / 4);
            const int32_t seen = (a.causal ? place.t + 1 : queries.T) - key - 2 * (lane % 4);

#pragma unroll
            for (int j = 0; j < keys / 8; j++) {
                s[p][j][2 * h] = 8 * j < seen ? s[p][j][2 * h] : -INFINITY;
                s[p][j][2 * h + 1] = 8 * j + 1 < seen ? s[p][j][2 * h + 1] : -INFINITY;
            }
        }
    }
}

/*
 * max follows scores that are more than MMA_SLACK above it, and what was summed so far follows max;
 * all are for powers of 2. Every row sees its text's first key, so max is a number from there on.
 */
template <int W, int keys>
static __device__ __forceinline__ void raise_max(const float (&s)[PARTS][keys / 8][4], float scale,
                                                 bool is_first, query_part<W> &x)
{
    float shrink[PARTS][2];
    bool rises = false;

#pragma unroll
    for (int p = 0; p < PARTS; p++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float max = s[p][0][2 * h];

#pragma unroll
            for (int j = 0; j < keys / 8; j++) {
                max = fmaxf(max, fmaxf(s[p][j][2 * h], s[p][j][2 * h + 1]));
            }
            max = lanes_max<4>(max) * scale;
            shrink[p][h] = x.max[p][h];
            if (max > x.max[p][h] + MMA_SLACK) {
                x.max[p][h] = max;
                rises = true;
            }
        }
    }
    if (is_first || !__any_sync(FULL_WARP, rises)) {
        return; /* nothing is summed yet, or nothing to be rescaled */
    }
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            shrink[p][h] = cu::exp2_approx(shrink[p][h] - x.max[p][h]);
            x.sum[p][h] *= shrink[p][h];
        }
#pragma unroll
        for (int j = 0; j < W / 8; j++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                x.o[p][j][c] *= shrink[p][c / 2];
            }
        }
    }
}

/* Adds keys keys and values, from number key on, to a warp's rows. */
template <int W, int keys>
static __device__ __forceinline__ void attend(const attention_batch &a, const row_list &queries,
                                              row_place first, const mma_rows<W> *k,
                                              const mma_rows<W> *v, int32_t key, int lane,
                                              const mma_rows<W> *q, query_part<W> &x)
{
    float s[PARTS][keys / 8][4] = {};

    score_rows<W, keys>(k, lane, q, x, s);
    mask_rows<keys>(a, queries, first, key, lane, s);
    raise_max<W, keys>(s, a.log2_scale, key == 0, x);
#pragma unroll
    for (int n = 0; n < keys / 16; n++) {
        uint32_t probability[PARTS][4];

#pragma unroll
        for (int p = 0; p < PARTS; p++) {
#pragma unroll
            for (int j = 2 * n; j < 2 * n + 2; j++) {
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    s[p][j][c] = cu::exp2_approx(s[p][j][c] * a.log2_scale - x.max[p][c / 2]);
                    x.sum[p][c / 2] += s[p][j][c];
                }
            }
            pack_left(s[p][2 * n], s[p][2 * n + 1], probability[p]);
        }
#pragma unroll
        for (int e = 0; e < W / 16; e++) {
            uint32_t right[4];

            load_right_by_rows(v[n], 16 * e, lane, right);
#pragma unroll
            for (int p = 0; p < PARTS; p++) {
                add_pair(probability[p], right, x.o[p][2 * e], x.o[p][2 * e + 1]);
            }
        }
    }
}

/* The same of those keys up to number end that any of the rows sees, at most MMA_STEP; blocks of 16
 * that none sees are left out. */
template <int W>
static __device__ __forceinline__ void attend_step(const attention_batch &a,
                                                   const row_list &queries, row_place first,
                                                   const mma_rows<W> *k, const mma_rows<W> *v,
                                                   int32_t key, int32_t end, int lane,
                                                   const mma_rows<W> *q, query_part<W> &x)
{
    const int step = MMA_STEP(W);

    if (end > x.most) {
        end = x.most;
    }
    if (end - key > step - 16) {
        attend<W, step>(a, queries, first, k, v, key, lane, q, x);
        return;
    }
    if (step > 32 && end - key > 16) {
        attend<W, 32>(a, queries, first, k, v, key, lane, q, x);
        key += 32;
        k += 2;
        v += 2;
    }
    if (end > key) {
        attend<W, 16>(a, queries, first, k, v, key, lane, q, x);
    }
}

/* Stores o and lse of the rows from r on, which is at first. */
template <int W>
static __device__ __forceinline__ void store_rows(const attention_batch &a, const row_list &outputs,
                                                  int32_t r, row_place first, int lane,
                                                  query_part<W> &x, __nv_bfloat16 *o, float *lse)
{
    float own_max = 0.0f, own_total = 1.0f;

#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        const out_rows out =
            rows_to_store(outputs, r + 16 * p, row_behind(outputs, first, 16 * p), W, lane, o);

#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float total = lanes_sum<4>(x.sum[p][h]), scale = 1.0f / total;

            own_max = lane % 4 == 2 * p + h ? x.max[p][h] : own_max;
            own_total = lane % 4 == 2 * p + h ? total : own_total;
#pragma unroll
            for (int j = 0; j < W / 8; j++) {
                x.o[p][j][2 * h] *= scale;
                x.o[p][j][2 * h + 1] *= scale;
            }
        }
#pragma unroll
        for (int j = 0; j < W / 16; j++) {
            store_pair(x.o[p][2 * j], x.o[p][2 * j + 1], out, 16 * j, lane);
        }
    }

    /* Of the four lanes that share a row each takes one of the lane's four rows. */
    const int own = lane / 4 + 8 * (lane % 4);

    if (r + own < outputs.rows) {
        const row_place place = row_behind(outputs, first, own);

        lse[(outputs.first + place.t) * a.H + (outputs.head + place.head)] =
            own_max * (1.0f / ATTENTION_LOG2E) + logf(own_total);
    }
}

/* A warp starts the copies of its rows of queries from r on, which is at first. */
template <int W>
static __device__ __forceinline__ void start_queries(const row_list &queries, int32_t r,
                                                     row_place first, const __nv_bfloat16 *q,
                                                     int lane, mma_rows<W> *to)
{
    if constexpr (MMA_HOLDS_QUERIES(W)) {
        start_rows(queries, r, first, ATTENTION_FWD_ROWS, q, lane, 32, to);
    } else {
        start_rotated(queries, r, first, ATTENTION_FWD_ROWS, q, lane, 32, to);
    }
    cu::cp_commit();
}

/*
 * Grid (texts * G over teams, split): the blocks of a piece share its rows of queries, of which the
 * next of a warp are stride rows on; any split works. Dynamic shared memory, in blocks of mma_rows:
 * two of queries for each warp; for each team `blocks` of keys and as many of values.
 */
template <int W>
static __global__ void __launch_bounds__(MMA_FWD_THREADS(W))
    attention_mma_fwd_short_kernel(attention_batch a,
                                   const __nv_bfloat16 *__restrict__ q, /* (N,H*E) */
                                   const __nv_bfloat16 *__restrict__ k, /* (N,G*E) */
                                   const __nv_bfloat16 *__restrict__ v, /* (N,G*E) */
                                   __nv_bfloat16 *__restrict__ o,       /* (N,H*E) */
                                   float *__restrict__ lse,             /* (N,H)   */
                                   int blocks, int team, int32_t stride)
{
    DYN_SHARED_ARRAY(mma_rows<W>, shared);
    const int warps = (int)blockDim.x / 32, lane = (int)threadIdx.x % 32;
    const team_place p = place_in_team(warps, team);
    mma_rows<W> *const keys = shared + PARTS * warps + p.number * 2 * blocks;
    mma_rows<W> *const values = keys + blocks;
    const attention_piece piece = piece_of_team(a, p);
    const row_list &queries = piece.queries;
    const int32_t used = (queries.T + 15) / 16 * 16;
    int32_t r = ((int32_t)blockIdx.y * team + p.warp) * ATTENTION_FWD_ROWS;

    if (queries.T > blocks * ATTENTION_MMA_ROWS) {
        cu::trap(); /* longer than csp_attention.longest says: there is no room for its keys */
    }
    if (queries.T > 0) {
        const row_place first = { 0, 0 };

        start_rotated(piece.keys, 0, first, used, k, p.thread, p.threads, keys);
        start_rows(piece.values, 0, first, used, v, p.thread, p.threads, values);
        start_queries(queries, r, place_of_row(queries, r), q, lane,
                      shared + PARTS * ((int)threadIdx.x / 32));
        cu::cp_wait<0>();
        rotate_rows(a, piece.keys, 0, first, used, p.thread, p.threads, keys);
    }
    team_barrier(team);
    for (; r < queries.rows; r += stride) {
        const row_place place = place_of_row(queries, r);
        mma_rows<W> *const own = shared + PARTS * (cu::opaque((int)threadIdx.x) / 32);
        query_part<W> x;

        cu::cp_wait<0>();
        begin_rows(a, queries, r, place, cu::opaque(lane), own, x);
        if (MMA_HOLDS_QUERIES(W) && r + stride < queries.rows) {
            __syncwarp();
            start_queries(queries, r + stride, row_behind(queries, place, stride), q,
                          cu::opaque(lane), own);
        }
        for (int32_t key = 0; key < x.most; key += MMA_STEP(W)) {
            attend_step<W>(a, queries, place, &keys[key / 16], &values[key / 16], key,
                           key + MMA_STEP(W), lane, own, x);
        }
        if (!MMA_HOLDS_QUERIES(W) && r + stride < queries.rows) {
            __syncwarp();
            start_queries(queries, r + stride, row_behind(queries, place, stride), q, lane, own);
        }
        const int32_t row = cu::opaque(r);

        store_rows(a, piece.outputs, row, place_of_row(queries, row), cu::opaque(lane), x, o, lse);
    }
}

/*
 * Grid (texts * G, tiles): blocks of a piece stride over its queries, 32 rows for each warp; any
 * tiles work. Dynamic shared memory, in blocks of mma_rows: two of queries for each warp, and
 * two buffers of `blocks` of keys and as many of values.
 */
template <int W>
static __global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_mma_fwd_long_kernel(attention_batch a,
                                  const __nv_bfloat16 *__restrict__ q, /* (N,H*E) */
                                  const __nv_bfloat16 *__restrict__ k, /* (N,G*E) */
                                  const __nv_bfloat16 *__restrict__ v, /* (N,G*E) */
                                  __nv_bfloat16 *__restrict__ o,       /* (N,H*E) */
                                  float *__restrict__ lse,             /* (N,H)   */
                                  int blocks)
{
    DYN_SHARED_ARRAY(mma_rows<W>, shared);
    const int warps = (int)blockDim.x / 32, warp = (int)threadIdx.x / 32;
    const int lane = (int)threadIdx.x % 32;
    const int32_t rows = warps * ATTENTION_FWD_ROWS, tile = 16 * blocks;
    mma_rows<W> *const own = shared + PARTS * warp;
    const attention_piece piece = piece_of_block(a);
    const row_list &queries = piece.queries;

    for (int32_t r = (int32_t)blockIdx.y * rows; r < queries.rows; r += (int32_t)gridDim.y * rows) {
        const int32_t at = r + warp * ATTENTION_FWD_ROWS;
        const row_place first = place_of_row(queries, at);
        const int32_t most = most_keys_seen(a, queries, place_of_row(queries, r), rows);
        mma_rows<W> *now = shared + PARTS * warps, *next = now + 2 * blocks;
        query_part<W> x;

        start_queries(queries, at, first, q, lane, own);
        start_keys(piece, 0, blocks, k, v, now);
        cu::cp_wait<0>();
        rotate_keys(a, piece.keys, 0, blocks, now);
        begin_rows(a, queries, at, first, lane, own, x);
        __syncthreads();
        for (int32_t key = 0; key < most; key += tile) {
            mma_rows<W> *const last = now;

            if (key + tile < most) {
                start_keys(piece, key + tile, blocks, k, v, next);
            }
            if (at < queries.rows) {
                for (int32_t i = 0; i < tile && key + i < x.most; i += MMA_STEP(W)) {
                    attend_step<W>(a, queries, first, &now[i / 16], &now[blocks + i / 16], key + i,
                                   key + tile, lane, own, x);
                }
            }
            cu::cp_wait<0>();
            if (key + tile < most) {
                rotate_keys(a, piece.keys, key + tile, blocks, next);
            }
            __syncthreads();
            now = next;
            next = last;
        }
        if (at < queries.rows) {
            const int32_t row = cu::opaque(at);

            store_rows(a, piece.outputs, row, place_of_row(queries, row), cu::opaque(lane), x, o,
                       lse);
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

template <int W> static csp_status launch_short(const mma_fwd_launch &l, int blocks)
{
    const attention_batch &a = l.batch;
    const cuda_state *state = cuda_state_of(l.be);
    const int64_t pieces = a.texts * a.G;
    const int warps = pick_attention_fwd_warps(W, blocks, state->shared_limit);
    const int team = pick_attention_fwd_team(W, blocks, warps, l.longest, pieces, state->processors,
                                             state->shared_limit);
    const size_t bytes = attention_mma_fwd_bytes(W, blocks, warps, team);
    const int64_t groups = ceil_div(pieces, warps / team);
    const int split = pick_attention_split(
        groups, ceil_div(l.longest * (a.H / a.G), warps * ATTENTION_FWD_ROWS), state->processors);

    CUDA_TRY(cu::allow_shared(attention_mma_fwd_short_kernel<W>, bytes));
    CUDA_TRY(cu::launch(attention_mma_fwd_short_kernel<W>, dim3((unsigned)groups, (unsigned)split),
                        32 * warps, bytes, cuda_stream(l.be, "attention_fwd"), a, l.q, l.k, l.v,
                        l.o, l.lse, blocks, team, split * team * ATTENTION_FWD_ROWS));
    return CSP_OK;
}

template <int W> static csp_status launch_long(const mma_fwd_launch &l)
{
    const attention_batch &a = l.batch;
    const attention_fwd_tile tile = pick_attention_fwd_tile(W, cuda_state_of(l.be)->shared_limit);
    const size_t bytes = attention_fwd_tile_bytes(W, tile);
    const int64_t tiles = ceil_div(l.longest * (a.H / a.G), tile.warps * ATTENTION_FWD_ROWS);
    const dim3 grid((unsigned)(a.texts * a.G),
                    (unsigned)(tiles < CUDA_GRID_YZ ? tiles : CUDA_GRID_YZ));

    CUDA_TRY(cu::allow_shared(attention_mma_fwd_long_kernel<W>, bytes));
    CUDA_TRY(cu::launch(attention_mma_fwd_long_kernel<W>, grid, 32 * tile.warps, bytes,
                        cuda_stream(l.be, "attention_fwd"), a, l.q, l.k, l.v, l.o, l.lse,
                        tile.blocks));
    return CSP_OK;
}

template <int W> static csp_status launch_fwd(const mma_fwd_launch &l)
{
    const int blocks = pick_attention_mma_blocks(W, l.longest, cuda_state_of(l.be)->shared_limit);

    static_assert(sizeof(mma_rows<W>) == ATTENTION_MMA_BYTES(W), "attention_pick.h says the same");
    return blocks > 0 ? launch_short<W>(l, blocks) : launch_long<W>(l);
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
