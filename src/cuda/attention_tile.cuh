/*
 * attention_tile.cuh - what the attention kernels are made of: tiles of rotated rows in shared
 * memory, and products of tiles. S is the type that tensors are stored in; tiles are float32.
 *
 * A piece is a text and a key-value head. The query heads that share it are one list of rows, head
 * after head: tiles of queries are full even where texts are a few tokens long, and gradients of
 * keys and values are sums over that list in its order.
 *
 * A tile has 64 rows (32 of heads wider than 128), a block 8 warps. Warp w owns the rows 8w .. 8w+7
 * of a tile: it loads them, and of a product of two tiles it computes those rows. Within a warp
 * lane = 8 ly + lx; a thread has 2 rows at 2 ly, of scores the columns lx + 8j, of anything as wide
 * as a head the columns 4 lx + 32 c .. + 3. So a row of scores lies in 8 neighbouring lanes, as it
 * would in the accumulators of tensor core products.
 */
#pragma once

#include "attention_pick.h"
#include "ops/attention.h"
#include "portable.cuh"
#include "reduce.cuh"
#include "vec.cuh"

#define ATTENTION_THREADS (ATTENTION_WARPS * 32)
#define ATTENTION_LOG2E 1.44269504088896340736f
/* Leaves room above for a row number to grow by a grid's stride. */
#define ATTENTION_MOST_ROWS (1 << 30)

/* Sizes that follow from the width of shared rows. */
template <int W> struct tile_of {
    static const int rows = ATTENTION_TILE(W);
    static const int of_warp = rows / ATTENTION_WARPS;
    static const int mine = of_warp / 4; /* rows of a thread              */
    static const int scores = rows / 8;  /* columns of scores of a thread */
    static const int chunks = W / 32;    /* of 4 columns of a thread      */
    static const int held = ATTENTION_HELD(W);
};

/* Rows of queries, keys, values or gradients. */
template <int W> struct row_tile {
    float at[ATTENTION_TILE(W)][W + ATTENTION_PAD];
};

/* Scores of a tile of queries against a tile of keys, or what backward makes of them. */
template <int W> struct score_tile {
    float at[ATTENTION_TILE(W)][ATTENTION_TILE(W) + ATTENTION_PAD];
};

/* A thread's part of a tile of scores, and of a tile of rows. */
template <int W> struct score_part {
    float at[tile_of<W>::mine][tile_of<W>::scores];
};

template <int W> struct row_part {
    float at[tile_of<W>::mine][tile_of<W>::chunks][4];
};

/* What every attention kernel is told of its batch. */
struct attention_batch {
    const int32_t *seq_start; /* (texts+1), from the first text of this launch on */
    const int32_t *order;     /* (texts) the text of each place, or null          */
    const float *cos, *sin;   /* (P,E/2)                                          */
    int64_t texts;            /* of this launch                                   */
    int64_t H, G, E;
    int64_t stride_q, stride_k, stride_v; /* elements from a row to the next        */
    int64_t stride_o;
    int32_t group;    /* H/G                              */
    float scale;      /* 1/sqrt(E)                        */
    float log2_scale; /* the same for exponents of 2      */
    bool causal;
};

/*
 * Rows of several heads of one text as one list: row r is row r % T of the text in head r / T.
 * Launchers check that a list has at most ATTENTION_MOST_ROWS rows.
 */
struct row_list {
    int32_t first;   /* the text's first row in the batch            */
    int32_t T, rows; /* rows of the text; T times heads              */
    int32_t head;    /* the list's first head                        */
    int64_t stride;  /* elements from a row of the batch to the next */
};

/* The same rows of queries in q and dq, and in o and do; of keys in k and dk, and in v and dv. */
struct attention_piece {
    row_list queries, outputs, keys, values;
};

/* Piece number index of texts * G; one without rows beyond them. */
static __device__ __forceinline__ attention_piece piece_of(const attention_batch &a, int64_t index)
{
    const bool is_piece = index < a.texts * a.G;
    const int64_t place = is_piece ? index / a.G : 0,
                  b = a.order != nullptr ? a.order[place] : place;
    const int32_t first = a.seq_start[b], T = is_piece ? a.seq_start[b + 1] - first : 0;
    const int32_t g = is_piece ? (int32_t)(index - place * a.G) : 0;

    return { { first, T, a.group * T, g * a.group, a.stride_q },
             { first, T, a.group * T, g * a.group, a.stride_o },
             { first, T, T, g, a.stride_k },
             { first, T, T, g, a.stride_v } };
}

/* The piece of block x of a grid of texts * G. */
static __device__ __forceinline__ attention_piece piece_of_block(const attention_batch &a)
{
    return piece_of(a, blockIdx.x);
}

/* The first element of row r of a list. */
static __device__ __forceinline__ int64_t row_offset(const row_list &list, int32_t r, int64_t E)
{
    return (list.first + r % list.T) * list.stride + (list.head + r / list.T) * E;
}

/* Where lse of query row r of the list is. */
static __device__ __forceinline__ int64_t lse_offset(const attention_batch &a, const row_list &list,
                                                     int32_t r)
{
    return (list.first + r % list.T) * a.H + (list.head + r / list.T);
}

/* Keys that query row r of the list sees. Rows beyond the list are zero: any number will do. */
static __device__ __forceinline__ int32_t keys_seen(const attention_batch &a, const row_list &list,
                                                    int32_t r)
{
    return a.causal && r < list.rows ? r % list.T + 1 : list.T;
}

/* The most keys that any of count rows from r on sees. */
static __device__ __forceinline__ int32_t most_keys_seen(const attention_batch &a,
                                                         const row_list &list, int32_t r,
                                                         int32_t count)
{
    const int32_t t = r % list.T;

    return a.causal && t + count < list.T ? t + count : list.T;
}

struct thread_place {
    int warp, lane, ly, lx;
    int row; /* the first of this thread's rows in a tile */
};

template <int W> static __device__ __forceinline__ thread_place place_of_thread()
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;

    return { warp, lane, lane / 8, lane % 8,
             warp * tile_of<W>::of_warp + lane / 8 * tile_of<W>::mine };
}

/* Row i of a tile is x, the columns behind E are 0. Called by a warp. */
template <typename S, int W>
static __device__ __forceinline__ void load_row(row_tile<W> &tile, int i, const S *x, int64_t E,
                                                int lane)
{
    for (int e = lane; e < W; e += 32) {
        tile.at[i][e] = e < E ? to_f32(x[e]) : 0.0f;
    }
}

/* Row i of a tile is x rotated by the angles with cosines c and sines s, times scale. By a warp. */
template <typename S, int W>
static __device__ __forceinline__ void load_row_rotated(row_tile<W> &tile, int i, const S *x,
                                                        const float *c, const float *s, float scale,
                                                        int64_t E, int lane)
{
    const int half = (int)(E / 2);

    for (int e = lane; e < half; e += 32) {
        const float low = to_f32(x[e]), high = to_f32(x[e + half]);

        tile.at[i][e] = (low * c[e] - high * s[e]) * scale;
        tile.at[i][e + half] = (high * c[e] + low * s[e]) * scale;
    }
    for (int e = 2 * half + lane; e < W; e += 32) {
        tile.at[i][e] = 0.0f;
    }
}

template <int W>
static __device__ __forceinline__ void clear_row(row_tile<W> &tile, int i, int lane)
{
    for (int e = lane; e < W; e += 32) {
        tile.at[i][e] = 0.0f;
    }
}

/* Every warp loads its own rows of the tile that begins at row r of the list, zero beyond it. */
template <typename S, int W>
static __device__ __forceinline__ void load_tile(const attention_batch &a, const row_list &list,
                                                 int32_t r, const S *x, const thread_place &p,
                                                 row_tile<W> &tile)
{
    for (int k = 0; k < tile_of<W>::of_warp; k++) {
        const int i = p.warp * tile_of<W>::of_warp + k;

        if (r + i < list.rows) {
            load_row(tile, i, x + row_offset(list, r + i, a.E), a.E, p.lane);
        } else {
            clear_row(tile, i, p.lane);
        }
    }
}

/* The same rotated by each row's position in its text, times scale. */
template <typename S, int W>
static __device__ __forceinline__ void load_tile_rotated(const attention_batch &a,
                                                         const row_list &list, int32_t r,
                                                         const S *x, float scale,
                                                         const thread_place &p, row_tile<W> &tile)
{
    for (int k = 0; k < tile_of<W>::of_warp; k++) {
        const int i = p.warp * tile_of<W>::of_warp + k;

        if (r + i < list.rows) {
            const int64_t angle = (r + i) % list.T * (a.E / 2);

            load_row_rotated(tile, i, x + row_offset(list, r + i, a.E), a.cos + angle,
                             a.sin + angle, scale, a.E, p.lane);
        } else {
            clear_row(tile, i, p.lane);
        }
    }
}

/* Every warp stores its own rows of the tile that begins at row r of the list. */
template <typename S, int W>
static __device__ __forceinline__ void store_tile(const attention_batch &a, const row_list &list,
                                                  int32_t r, const row_tile<W> &tile,
                                                  const thread_place &p, S *y)
{
    for (int k = 0; k < tile_of<W>::of_warp; k++) {
        const int i = p.warp * tile_of<W>::of_warp + k;

        if (r + i < list.rows) {
            S *const row = y + row_offset(list, r + i, a.E);

            for (int e = p.lane; e < a.E; e += 32) {
                row[e] = from_f32<S>(tile.at[i][e]);
            }
        }
    }
}

/* The same rotated back by each row's position, times scale. */
template <typename S, int W>
static __device__ __forceinline__ void store_tile_rotated_back(const attention_batch &a,
                                                               const row_list &list, int32_t r,
                                                               const row_tile<W> &tile, float scale,
                                                               const thread_place &p, S *y)
{
    const int half = (int)(a.E / 2);

    for (int k = 0; k < tile_of<W>::of_warp; k++) {
        const int i = p.warp * tile_of<W>::of_warp + k;

        if (r + i < list.rows) {
            const int64_t angle = (r + i) % list.T * half;
            const float *const c = a.cos + angle, *const s = a.sin + angle;
            S *const row = y + row_offset(list, r + i, a.E);

            for (int e = p.lane; e < half; e += 32) {
                const float low = tile.at[i][e], high = tile.at[i][e + half];

                row[e] = from_f32<S>((low * c[e] + high * s[e]) * scale);
                row[e + half] = from_f32<S>((high * c[e] - low * s[e]) * scale);
            }
        }
    }
}

static __device__ __forceinline__ float4 load4(const float *p)
{
    return *reinterpret_cast<const float4 *>(p);
}

static __device__ __forceinline__ void add4(float x, const float4 &y, float (&sum)[4])
{
    sum[0] += x * y.x;
    sum[1] += x * y.y;
    sum[2] += x * y.z;
    sum[3] += x * y.w;
}

/* s = this thread's rows of x times its columns' rows of y, over the first width columns (of 4). */
template <int W>
static __device__ __forceinline__ void dot_rows(const row_tile<W> &x, const row_tile<W> &y,
                                                int width, const thread_place &p, score_part<W> &s)
{
    s = {};
#pragma unroll 1 /* a step has loads enough for its products; more only take registers */
    for (int e = 0; e < width; e += 4) {
        float4 mine[tile_of<W>::mine];

#pragma unroll
        for (int i = 0; i < tile_of<W>::mine; i++) {
            mine[i] = load4(&x.at[p.row + i][e]);
        }
#pragma unroll
        for (int j = 0; j < tile_of<W>::scores; j++) {
            const float4 other = load4(&y.at[p.lx + 8 * j][e]);

#pragma unroll
            for (int i = 0; i < tile_of<W>::mine; i++) {
                s.at[i][j] += mine[i].x * other.x + mine[i].y * other.y + mine[i].z * other.z +
                              mine[i].w * other.w;
            }
        }
    }
}

/* Row i of sum += factor[i] times row j of x, in this thread's columns. */
template <int W>
static __device__ __forceinline__ void add_row(const float (&factor)[tile_of<W>::mine],
                                               const row_tile<W> &x, int j, const thread_place &p,
                                               row_part<W> &sum)
{
#pragma unroll
    for (int c = 0; c < tile_of<W>::chunks; c++) {
        const float4 row = load4(&x.at[j][4 * p.lx + 32 * c]);

#pragma unroll
        for (int i = 0; i < tile_of<W>::mine; i++) {
            add4(factor[i], row, sum.at[i][c]);
        }
    }
}

/* sum += this thread's rows of s times x, over the first rows rows of x. */
template <int W>
static __device__ __forceinline__ void add_product(const score_tile<W> &s, const row_tile<W> &x,
                                                   int rows, const thread_place &p,
                                                   row_part<W> &sum)
{
#pragma unroll 4
    for (int j = 0; j < rows; j++) {
        float factor[tile_of<W>::mine];

#pragma unroll
        for (int i = 0; i < tile_of<W>::mine; i++) {
            factor[i] = s.at[p.row + i][j];
        }
        add_row(factor, x, j, p, sum);
    }
}

/* sum += this thread's columns of s, taken as rows, times x: rows of s^T x. */
template <int W>
static __device__ __forceinline__ void add_transposed(const score_tile<W> &s, const row_tile<W> &x,
                                                      int rows, const thread_place &p,
                                                      row_part<W> &sum)
{
#pragma unroll 4
    for (int j = 0; j < rows; j++) {
        float factor[tile_of<W>::mine];

#pragma unroll
        for (int i = 0; i < tile_of<W>::mine; i++) {
            factor[i] = s.at[j][p.row + i];
        }
        add_row(factor, x, j, p, sum);
    }
}

/* This thread's part of a tile of scores. */
template <int W>
static __device__ __forceinline__ void put_scores(const score_part<W> &s, const thread_place &p,
                                                  score_tile<W> &tile)
{
#pragma unroll
    for (int i = 0; i < tile_of<W>::mine; i++) {
#pragma unroll
        for (int j = 0; j < tile_of<W>::scores; j++) {
            tile.at[p.row + i][p.lx + 8 * j] = s.at[i][j];
        }
    }
}

/* This thread's part of a tile of rows, row i times scale[i]. */
template <int W>
static __device__ __forceinline__ void put_rows(const row_part<W> &x,
                                                const float (&scale)[tile_of<W>::mine],
                                                const thread_place &p, row_tile<W> &tile)
{
#pragma unroll
    for (int i = 0; i < tile_of<W>::mine; i++) {
#pragma unroll
        for (int c = 0; c < tile_of<W>::chunks; c++) {
            const float4 row = { x.at[i][c][0] * scale[i], x.at[i][c][1] * scale[i],
                                 x.at[i][c][2] * scale[i], x.at[i][c][3] * scale[i] };

            *reinterpret_cast<float4 *>(&tile.at[p.row + i][4 * p.lx + 32 * c]) = row;
        }
    }
}

/* Over the 8 lanes that have a row of scores. */
static __device__ __forceinline__ float row_sum(float x)
{
    return lanes_sum<8>(x);
}

static __device__ __forceinline__ float row_max(float x)
{
    return lanes_max<8>(x);
}

/* Columns of a shared row that hold something: E up to a multiple of 4. */
static __device__ __forceinline__ int used_width(int64_t E)
{
    return (int)((E + 3) / 4 * 4);
}

/* Rows of a tile that begins at row r of total and has at most most rows. */
static __device__ __forceinline__ int rows_left(int32_t total, int32_t r, int most)
{
    return total - r < most ? total - r : most;
}

static inline attention_batch attention_batch_of(const csp_attention *a, const csp_tensor *q,
                                                 const csp_tensor *k, const csp_tensor *v)
{
    const float scale = 1.0f / sqrtf((float)a->E);

    return { (const int32_t *)a->seq_start.data,
             (const int32_t *)a->order.data,
             (const float *)a->cos.data,
             (const float *)a->sin.data,
             a->seq_start.dim[0] - 1,
             a->H,
             a->G,
             a->E,
             csp_tensor_row(q),
             csp_tensor_row(k),
             csp_tensor_row(v),
             a->H * a->E,
             (int32_t)(a->H / a->G),
             scale,
             scale * ATTENTION_LOG2E,
             a->causal };
}

/* Errors: CSP_ERR_UNSUPPORTED for heads wider than a tile, and lists of rows beyond 32 bits. */
static inline csp_status check_attention(const csp_attention *a)
{
    if (a->longest > ATTENTION_MOST_ROWS / (a->H / a->G)) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "attention: a text of %lld rows for %lld query heads of a key-value head: "
                        "CUDA devices take up to %d rows together",
                        (long long)a->longest, (long long)(a->H / a->G), ATTENTION_MOST_ROWS);
    }
    if (attention_width(a->E) == 0) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "attention: heads of width %lld: CUDA devices take up to %d",
                        (long long)a->E, (int)ATTENTION_WIDEST);
    }
    return CSP_OK;
}

/* Errors: CSP_ERR_UNSUPPORTED where a device has too little shared memory for the long kernels. */
static inline csp_status check_attention_room(const char *device, size_t limit, int64_t E,
                                              size_t bytes)
{
    if (bytes > limit) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "attention: long texts and heads of width %lld take %zu bytes of shared "
                        "memory for a block, and %s lets one have %zu; in bf16 (device.precision) "
                        "heads of 16, 32, 64, 96 or 128 take less",
                        (long long)E, bytes, device, limit);
    }
    return CSP_OK;
}
