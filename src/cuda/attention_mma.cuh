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

/* The row i rows behind; for texts of 32 rows and more that is one comparison for 32 rows. */
static __device__ __forceinline__ row_place row_behind(const row_list &list, row_place place, int i)
{
    place.t += i;
    while (place.t >= list.T) {
        place.t -= list.T;
        place.head++;
    }
    return place;
}

/* Of rows rows from r on, which is at place, how many at the front lie one behind the other. */
static __device__ __forceinline__ int rows_together(const row_list &list, int32_t r,
                                                    row_place place, int rows)
{
    const int32_t left = r < list.rows ? list.T - place.t : 0;

    return left < rows ? (int)left : rows;
}

static __device__ __forceinline__ int64_t place_offset(const row_list &list, row_place place,
                                                       int64_t E)
{
    return (list.first + place.t) * list.stride + (list.head + place.head) * E;
}

/* The fewest and the most keys that any of count rows from first on sees. */
static __device__ __forceinline__ int32_t fewest_keys_seen(const attention_batch &a,
                                                           const row_list &list, row_place first,
                                                           int32_t count)
{
    return !a.causal ? list.T : first.t + count <= list.T ? first.t + 1 : 1;
}

static __device__ __forceinline__ int32_t most_keys_seen(const attention_batch &a,
                                                         const row_list &list, row_place first,
                                                         int32_t count)
{
    return a.causal && first.t + count < list.T ? first.t + count : list.T;
}

/* Lanes that share a row when it is copied: a power of 2, each with 8 columns; those of a head of
 * 96 that would be beyond its end have none. */
#define MMA_ROW_LANES(width) ((width) == 96 ? 16 : (width) / 8)

/*
 * Thread `thread` of `threads` starts its share of the copies of rows rows, from row r of the list
 * on, which is at first: zeros beyond its end. cu::cp_commit is the caller's. Rows of one head need
 * no more than their distance; only behind it is each looked up.
 */
template <int W>
static __device__ __forceinline__ void start_rows(const row_list &list, int32_t r, row_place first,
                                                  int rows, const __nv_bfloat16 *x, int thread,
                                                  int threads, mma_rows<W> *to)
{
    const unsigned lanes = MMA_ROW_LANES(W);
    const int e = (int)((unsigned)thread % lanes * 8), step = (int)((unsigned)threads / lanes);
    const int together = rows_together(list, r, first, rows);
    int i = (int)((unsigned)thread / lanes);
    __nv_bfloat16 *row = to->at[0] + i * (W + ATTENTION_MMA_PAD) + e;
    const __nv_bfloat16 *from = x + place_offset(list, first, W) + i * list.stride + e;

    if (W == 96 && e >= W) {
        return;
    }
#pragma unroll 1 /* registers are for sums */
    for (; i < together; i += step) {
        cu::cp_async16(row, from);
        row += step * (W + ATTENTION_MMA_PAD);
        from += step * list.stride;
    }
#pragma unroll 1
    for (; i < rows; i += step) {
        const bool is_row = r + i < list.rows;
        const int64_t at = is_row ? place_offset(list, row_behind(list, first, i), W) + e : 0;

        cu::cp_async16(row, x + at, is_row ? 16 : 0);
        row += step * (W + ATTENTION_MMA_PAD);
    }
}

/*
 * The row that a thread's pieces of start_rotated begin with. Heads of 64 have half a row for every
 * four threads; that eight neighbours, which access shared memory together, meet all of its banks,
 * these have a row and the one four behind it.
 */
template <int W> static __device__ __forceinline__ int rotated_row(int thread)
{
    const unsigned i = (unsigned)thread / (MMA_ROW_LANES(W) / 2);

    return (int)(W == 64 ? i / 8 * 8 + i % 2 * 4 + i % 8 / 2 : i);
}

/* The same for rows that the same threads will rotate: each has 8 columns of the lower half and
 * those that they are rotated with. */
template <int W>
static __device__ __forceinline__ void start_rotated(const row_list &list, int32_t r,
                                                     row_place first, int rows,
                                                     const __nv_bfloat16 *x, int thread,
                                                     int threads, mma_rows<W> *to)
{
    const unsigned lanes = MMA_ROW_LANES(W) / 2;
    const int e = (int)((unsigned)thread % lanes * 8), step = (int)((unsigned)threads / lanes);
    const int together = rows_together(list, r, first, rows);
    int i = rotated_row<W>(thread);
    __nv_bfloat16 *row = to->at[0] + i * (W + ATTENTION_MMA_PAD) + e;
    const __nv_bfloat16 *from = x + place_offset(list, first, W) + i * list.stride + e;

    if (W == 96 && e >= W / 2) {
        return;
    }
#pragma unroll 1
    for (; i < together; i += step) {
        cu::cp_async16(row, from);
        cu::cp_async16(row + W / 2, from + W / 2);
        row += step * (W + ATTENTION_MMA_PAD);
        from += step * list.stride;
    }
#pragma unroll 1
    for (; i < rows; i += step) {
        const bool is_row = r + i < list.rows;
        const int64_t at = is_row ? place_offset(list, row_behind(list, first, i), W) + e : 0;

        cu::cp_async16(row, x + at, is_row ? 16 : 0);
        cu::cp_async16(row + W / 2, x + at + (is_row ? W / 2 : 0), is_row ? 16 : 0);
        row += step * (W + ATTENTION_MMA_PAD);
    }
}

static __device__ __forceinline__ uint32_t pack(float low, float high)
{
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);

    return *reinterpret_cast<const uint32_t *>(&both);
}

/* The two bf16 of a word: each is the upper half of a float32. */
static __device__ __forceinline__ float low_of(uint32_t x)
{
    return __uint_as_float(x << 16);
}

static __device__ __forceinline__ float high_of(uint32_t x)
{
    return __uint_as_float(x & 0xffff0000u);
}

/* Two neighbouring columns in x and those of the other half in y are rotated where they are. */
static __device__ __forceinline__ void rotate_pair(const float *c, const float *s, uint32_t &x,
                                                   uint32_t &y)
{
    const float x_low = low_of(x), x_high = high_of(x), y_low = low_of(y), y_high = high_of(y);

    x = pack(x_low * c[0] - y_low * s[0], x_high * c[1] - y_high * s[1]);
    y = pack(y_low * c[0] + x_low * s[0], y_high * c[1] + x_high * s[1]);
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
                                                   int32_t r, row_place first, int rows, int thread,
                                                   int threads, mma_rows<W> *x)
{
    const unsigned lanes = MMA_ROW_LANES(W) / 2;
    const int e = (int)((unsigned)thread % lanes * 8), step = (int)((unsigned)threads / lanes);
    const int together = rows_together(list, r, first, rows);
    int i = rotated_row<W>(thread);
    __nv_bfloat16 *row = x->at[0] + i * (W + ATTENTION_MMA_PAD) + e;

    if (W == 96 && e >= W / 2) {
        return;
    }
#pragma unroll 1
    for (; i < rows && r + i < list.rows; i += step) {
        const int32_t t = i < together ? first.t + i : row_behind(list, first, i).t;
        const int64_t angle = (int64_t)t * (W / 2) + e;
        vec_of<uint32_t, 4> low = *reinterpret_cast<const vec_of<uint32_t, 4> *>(row);
        vec_of<uint32_t, 4> high = *reinterpret_cast<const vec_of<uint32_t, 4> *>(row + W / 2);
        float c[8], s[8];

        load8(a.cos + angle, c);
        load8(a.sin + angle, s);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            rotate_pair(c + 2 * j, s + 2 * j, low.at[j], high.at[j]);
        }
        *reinterpret_cast<vec_of<uint32_t, 4> *>(row) = low;
        *reinterpret_cast<vec_of<uint32_t, 4> *>(row + W / 2) = high;
        row += step * (W + ATTENTION_MMA_PAD);
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
    row_place place[2];
};

/* The same where first is where row r is; null rows have some row's place. */
static __device__ __forceinline__ out_rows rows_to_store(const row_list &list, int32_t r,
                                                         row_place first, int64_t E, int lane,
                                                         __nv_bfloat16 *y)
{
    out_rows out;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int i = lane / 4 + 8 * h;
        const row_place place = row_behind(list, first, i);

        out.at[h] = r + i < list.rows ? y + place_offset(list, place, E) : nullptr;
        out.place[h] = place;
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
        const int64_t angle = (int64_t)out.place[h].t * (W / 2) + e + 2 * (lane % 4);
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

/* The block starts the copies of a tile of keys and one of values, 16 * blocks rows from row first
 * of the text on; the values lie behind the keys. */
template <int W>
static __device__ __forceinline__ void start_keys(const attention_piece &piece, int32_t first,
                                                  int blocks, const __nv_bfloat16 *k,
                                                  const __nv_bfloat16 *v, mma_rows<W> *tile)
{
    const row_place place = { first, 0 };
    const int thread = cu::opaque((int)threadIdx.x);

    start_rotated(piece.keys, first, place, 16 * blocks, k, thread, (int)blockDim.x, tile);
    start_rows(piece.values, first, place, 16 * blocks, v, thread, (int)blockDim.x, tile + blocks);
    cu::cp_commit();
}

/* Rotates the tile's keys, once cu::cp_wait says they are there. */
template <int W>
static __device__ __forceinline__ void rotate_keys(const attention_batch &a, const row_list &keys,
                                                   int32_t first, int blocks, mma_rows<W> *tile)
{
    const row_place place = { first, 0 };
    const int thread = cu::opaque((int)threadIdx.x);

    rotate_rows(a, keys, first, place, 16 * blocks, thread, (int)blockDim.x, tile);
}
