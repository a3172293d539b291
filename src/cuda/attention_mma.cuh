/*
 * attention_mma.cuh - what the tensor core kernels of attention are made of: bf16 rows of heads in
 * shared memory, and the operands and results of products of 16 of them.
 *
 * For heads of 16, 32, 64, 96 or 128 columns and tensors that begin at a multiple of 16 bytes;
 * attention_tile.cuh has the kernels for all others, and what a piece and its lists of rows are.
 * Rows come by asynchronous copies of 16 bytes. Who copied a piece of the lower half of a row and
 * the one it is rotated with rotates both where they lie, so that only one barrier is needed.
 *
 * Texts of up to 64 rows would leave most of a block without work, so in the short kernels a block
 * has several pieces, mostly the heads of one text or of a few neighbours: its warps work in teams,
 * and a team of as many warps as its piece has blocks of 16 keys shares nothing with the others but
 * the block's barriers; a team of one warp needs none. The other way, rows of several texts in one
 * tile with a mask between them, reads as many bytes, but multiplies what the mask then drops, and
 * the order in which keys and queries of a text are added would depend on where its neighbours let
 * it begin in the tile; here a text's sums are the same in every team, block and batch.
 *
 * Blocks are not persistent: a device hands them out in the order of the grid, the longest texts
 * first where csp_attention.order says so, each to the first place that is free. Blocks that stride
 * over pieces would fix beforehand who takes what.
 *
 * In a warp g = lane / 4, t = lane % 4. Of a result of 16 x 8 a lane has (g, 2t), (g, 2t+1),
 * (g+8, 2t), (g+8, 2t+1); two neighbouring results are, rounded, the left operand of the next
 * product (cu::mma_bf16), so scores never pass through shared memory on their way to P V.
 */
#pragma once

#include "attention_tile.cuh"

/* Steps of 32 keys of a tile, between which sums are rescaled: as many as registers allow. */
#define MMA_STEPS(width) ((width) <= 64 ? 2 : 1)
#define ATTENTION_LOG2E 1.44269504088896340736f

/* 16 rows of a head. Behind each lie 16 bytes, for the reason of ATTENTION_PAD. */
template <int W> struct mma_rows {
    alignas(16) __nv_bfloat16 at[ATTENTION_MMA_ROWS][W + ATTENTION_MMA_PAD];
};

/* A thread's place in its team: the team's number in the block; the warp's and the thread's in the
 * team, which has threads. */
struct team_place {
    int number, count; /* of teams of the block */
    int warp, thread, threads;
};

static __device__ __forceinline__ team_place place_in_team(int warps, int team)
{
    /* A block that is one team by its type needs no division. */
    const int warp = (int)threadIdx.x / 32, number = warps == team ? 0 : warp / team;

    return { number, warps / team, warp - number * team, (int)threadIdx.x - number * team * 32,
             team * 32 };
}

/* Its piece: grid x goes by the teams of a block. */
static __device__ __forceinline__ attention_piece piece_of_team(const attention_batch &a,
                                                                const team_place &p)
{
    return piece_of(a, (int64_t)blockIdx.x * p.count + p.number);
}

/* All warps of the block wait for one another, but those that are teams of their own. */
static __device__ __forceinline__ void team_barrier(int team)
{
    if (team == 1) {
        __syncwarp();
    } else {
        __syncthreads();
    }
}

/* Where a row of a list is: in its text, and in which of the list's heads. */
struct row_place {
    int32_t t, head;
};

static __device__ __forceinline__ row_place place_of_row(const row_list &list, int32_t r)
{
    return { r % list.T, r / list.T };
}

/* The row i rows behind; for texts of 16 rows and more that is one comparison for 16 rows. */
static __device__ __forceinline__ row_place row_behind(const row_list &list, row_place place, int i)
{
    place.t += i;
    while (place.t >= list.T) {
        place.t -= list.T;
        place.head++;
    }
    return place;
}

static __device__ __forceinline__ int64_t place_offset(const row_list &list, row_place place,
                                                       int64_t E)
{
    return (list.first + place.t) * list.stride + (list.head + place.head) * E;
}

/* The fewest keys that any of count rows from r on sees. */
static __device__ __forceinline__ int32_t fewest_keys_seen(const attention_batch &a,
                                                           const row_list &list, int32_t r,
                                                           int32_t count)
{
    const int32_t t = r % list.T;

    return !a.causal ? list.T : t + count <= list.T ? t + 1 : 1;
}

/*
 * Thread `thread` of `threads` starts its share of the copies of rows rows, from row r of the list
 * on: zeros beyond its end. cu::cp_commit is the caller's.
 */
template <int W>
static __device__ __forceinline__ void start_rows(const row_list &list, int32_t r, int rows,
                                                  const __nv_bfloat16 *x, int thread, int threads,
                                                  mma_rows<W> *to)
{
    const row_place first = place_of_row(list, r);

#pragma unroll 1 /* registers are for sums */
    for (int n = thread; n < rows * (W / 8); n += threads) {
        const int i = n / (W / 8), e = n % (W / 8) * 8;
        const bool is_row = r + i < list.rows;
        const int64_t from = is_row ? place_offset(list, row_behind(list, first, i), W) + e : 0;

        cu::cp_async16(&to[i / 16].at[i % 16][e], x + from, is_row ? 16 : 0);
    }
}

/* The same for rows that the same threads will rotate. */
template <int W>
static __device__ __forceinline__ void start_rotated(const row_list &list, int32_t r, int rows,
                                                     const __nv_bfloat16 *x, int thread,
                                                     int threads, mma_rows<W> *to)
{
    const row_place first = place_of_row(list, r);

#pragma unroll 1
    for (int n = thread; n < rows * (W / 16); n += threads) {
        const int i = n / (W / 16), e = n % (W / 16) * 8;
        const bool is_row = r + i < list.rows;
        const int64_t from = is_row ? place_offset(list, row_behind(list, first, i), W) + e : 0;
        __nv_bfloat16 *const row = &to[i / 16].at[i % 16][e];

        cu::cp_async16(row, x + from, is_row ? 16 : 0);
        cu::cp_async16(row + W / 2, x + from + (is_row ? W / 2 : 0), is_row ? 16 : 0);
    }
}

static __device__ __forceinline__ void load8(const float *p, float (&x)[8])
{
    float low[4], high[4];

    load_vec(p, low);
    load_vec(p + 4, high);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[i] = low[i];
        x[i + 4] = high[i];
    }
}

/* Rotates what the same threads started with start_rotated, once cu::cp_wait says it is there. */
template <int W>
static __device__ __forceinline__ void rotate_rows(const attention_batch &a, const row_list &list,
                                                   int32_t r, int rows, int thread, int threads,
                                                   mma_rows<W> *x)
{
    const row_place first = place_of_row(list, r);

#pragma unroll 1
    for (int n = thread; n < rows * (W / 16) && r + n / (W / 16) < list.rows; n += threads) {
        const int i = n / (W / 16), e = n % (W / 16) * 8;
        const int64_t angle = (int64_t)row_behind(list, first, i).t * (W / 2) + e;
        __nv_bfloat16 *const row = &x[i / 16].at[i % 16][e];
        float low[8], high[8], c[8], s[8];

        load_vec(row, low);
        load_vec(row + W / 2, high);
        load8(a.cos + angle, c);
        load8(a.sin + angle, s);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float x_low = low[j], x_high = high[j];

            low[j] = x_low * c[j] - x_high * s[j];
            high[j] = x_high * c[j] + x_low * s[j];
        }
        store_vec(row, low);
        store_vec(row + W / 2, high);
    }
}

/* 16 rows, columns e .. e+15, as the left operand of products over columns. */
template <int W>
static __device__ __forceinline__ void load_left(const mma_rows<W> &x, int e, int lane,
                                                 uint32_t (&to)[4])
{
    cu::ldmatrix_x4(to, &x.at[lane % 16][e + lane / 16 * 8]);
}

/* The same of the transposed: 16 columns from e on are the rows. */
template <int W>
static __device__ __forceinline__ void load_left_transposed(const mma_rows<W> &x, int e, int lane,
                                                            uint32_t (&to)[4])
{
    cu::ldmatrix_x4_trans(to, &x.at[lane / 16 * 8 + lane % 8][e + lane / 8 % 2 * 8]);
}

/* 16 rows, columns e .. e+15, as the right operands of two products over columns: 8 rows each. */
template <int W>
static __device__ __forceinline__ void load_right(const mma_rows<W> &x, int e, int lane,
                                                  uint32_t (&to)[4])
{
    cu::ldmatrix_x4(to, &x.at[lane / 16 * 8 + lane % 8][e + lane / 8 % 2 * 8]);
}

/* 16 rows, columns e .. e+15, as the right operands of two products over rows: 8 columns each. */
template <int W>
static __device__ __forceinline__ void load_right_by_rows(const mma_rows<W> &x, int e, int lane,
                                                          uint32_t (&to)[4])
{
    cu::ldmatrix_x4_trans(to, &x.at[lane % 16][e + lane / 16 * 8]);
}

/* Two neighbouring results += left times each half of right. */
static __device__ __forceinline__ void add_pair(const uint32_t (&left)[4],
                                                const uint32_t (&right)[4], float (&first)[4],
                                                float (&second)[4])
{
    const uint32_t low[2] = { right[0], right[1] }, high[2] = { right[2], right[3] };

    cu::mma_bf16(first, left, low);
    cu::mma_bf16(second, left, high);
}

static __device__ __forceinline__ uint32_t pack(float low, float high)
{
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);

    return *reinterpret_cast<const uint32_t *>(&both);
}

/* Two neighbouring results as a left operand of 16 x 16. */
static __device__ __forceinline__ void pack_left(const float (&first)[4], const float (&second)[4],
                                                 uint32_t (&to)[4])
{
    to[0] = pack(first[0], first[1]);
    to[1] = pack(first[2], first[3]);
    to[2] = pack(second[0], second[1]);
    to[3] = pack(second[2], second[3]);
}

/* Where a lane's two rows of a result go: rows g and g+8 behind row r of a list. */
struct out_rows {
    __nv_bfloat16 *at[2]; /* null beyond the end of the list */
    int32_t t[2];
};

static __device__ __forceinline__ out_rows rows_to_store(const row_list &list, int32_t r, int64_t E,
                                                         int lane, __nv_bfloat16 *y)
{
    out_rows out;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int32_t row = r + lane / 4 + 8 * h;
        const bool is_row = row < list.rows;
        const row_place place = is_row ? place_of_row(list, row) : row_place { 0, 0 };

        out.at[h] = is_row ? y + place_offset(list, place, E) : nullptr;
        out.t[h] = place.t;
    }
    return out;
}

/* Results of the columns from e and from e + W/2 on become (R^T x) scale. */
template <int W>
static __device__ __forceinline__ void rotate_back(const attention_batch &a, const out_rows &out,
                                                   int e, float scale, int lane, float (&low)[4],
                                                   float (&high)[4])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int64_t angle = (int64_t)out.t[h] * (W / 2) + e + 2 * (lane % 4);
        float c[2], s[2];

        load_vec(a.cos + angle, c);
        load_vec(a.sin + angle, s);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float x_low = low[2 * h + j], x_high = high[2 * h + j];

            low[2 * h + j] = (x_low * c[j] + x_high * s[j]) * scale;
            high[2 * h + j] = (x_high * c[j] - x_low * s[j]) * scale;
        }
    }
}

/*
 * Stores two neighbouring results, columns e .. e+15. Neighbouring lanes trade, so that each has 8
 * bytes of one result and a row's 32 bytes go out together.
 */
static __device__ __forceinline__ void store_pair(const float (&first)[4], const float (&second)[4],
                                                  const out_rows &out, int e, int lane)
{
    const bool is_odd = lane % 2 != 0;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t low = pack(first[2 * h], first[2 * h + 1]);
        const uint32_t high = pack(second[2 * h], second[2 * h + 1]);
        const uint32_t other = __shfl_xor_sync(FULL_WARP, is_odd ? low : high, 1);

        if (out.at[h] != nullptr) {
            *reinterpret_cast<uint2 *>(out.at[h] + e + (is_odd ? 8 : 0) + lane % 4 / 2 * 4) =
                is_odd ? uint2 { other, high } : uint2 { low, other };
        }
    }
}

/* Stores all columns of 16 rows of gradients of rotated rows, rotated back, times scale. */
template <int W>
static __device__ __forceinline__ void store_rotated_back(const attention_batch &a,
                                                          const out_rows &out, float scale,
                                                          int lane, float (&x)[W / 8][4])
{
#pragma unroll
    for (int j = 0; j < W / 16; j++) {
        rotate_back<W>(a, out, 8 * j, scale, lane, x[j], x[j + W / 16]);
    }
#pragma unroll
    for (int j = 0; j < W / 16; j++) {
        store_pair(x[2 * j], x[2 * j + 1], out, 16 * j, lane);
    }
}

/* A tile of keys, rotated, and values. */
template <int W> struct mma_key_tile {
    mma_rows<W> k[2 * MMA_STEPS(W)], v[2 * MMA_STEPS(W)];
};

/* All threads of the block start the copies of a tile of keys from row first on. */
template <int W>
static __device__ __forceinline__ void start_keys(const attention_piece &piece, int32_t first,
                                                  const __nv_bfloat16 *k, const __nv_bfloat16 *v,
                                                  mma_key_tile<W> &tile)
{
    start_rotated(piece.keys, first, 32 * MMA_STEPS(W), k, (int)threadIdx.x, ATTENTION_THREADS,
                  tile.k);
    start_rows(piece.values, first, 32 * MMA_STEPS(W), v, (int)threadIdx.x, ATTENTION_THREADS,
               tile.v);
    cu::cp_commit();
}

/* Rotates the tile's keys, once cu::cp_wait says they are there. */
template <int W>
static __device__ __forceinline__ void rotate_keys(const attention_batch &a, const row_list &keys,
                                                   int32_t first, mma_key_tile<W> &tile)
{
    rotate_rows(a, keys, first, 32 * MMA_STEPS(W), (int)threadIdx.x, ATTENTION_THREADS, tile.k);
}
