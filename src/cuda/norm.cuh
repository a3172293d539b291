/*
 * norm.cuh - how both directions of ops/norm.h work on rows: a row is a warp's or, if it is wide, a
 * block's, whose threads keep a few pieces of it in registers between the reduction and the second
 * use; only what is wider than that is read again. Neighbouring threads own neighbouring pieces of
 * 16 bytes where addresses and D allow, else single elements.
 */
#pragma once

#include "device.h"
#include "launch.cuh"
#include "vec.cuh"

enum {
    WARP_KERNEL = 256,    /* threads of a block of the kernels with a warp for a row  */
    MOST_THREADS = 512,   /* of a block of the others: up to 128 registers each       */
    THREADS_OF_SM = 1024, /* aimed at where threads hold rows in registers            */
};

/* VEC neighbouring elements of a row, 16 bytes or one, in registers. */
template <int VEC> struct norm_piece {
    float at[VEC];
};

/* Pieces of a row that a thread keeps: 16 numbers, or 4 single ones. */
template <int VEC> struct norm_held_pieces {
    static const int value = VEC == 8 ? 2 : 4;
};

template <int VEC, typename T>
static __device__ __forceinline__ norm_piece<VEC> load_piece(const T *row, int64_t i)
{
    norm_piece<VEC> piece;

    load_vec(row + i * VEC, piece.at);
    return piece;
}

/*
 * Piece i as it is stored, zeros where the row has no such piece. Nothing else, so that it is one
 * load with a predicate, and all pieces that a thread keeps are on their way at once. No other
 * piece may be read instead: its thread may be writing it, in place.
 */
template <int VEC, typename T>
static __device__ __forceinline__ vec_raw<T, VEC> load_held(const T *row, int64_t i, int64_t pieces)
{
    vec_raw<T, VEC> raw = {};

    if (i < pieces) {
        raw = load_raw<T, VEC>(row + i * VEC);
    }
    return raw;
}

/* The threads that share a row, and which of them this is. */
struct norm_team {
    int64_t thread, threads;
};

/* The pieces of a row of pieces that a thread keeps. */
template <int VEC, typename T>
static __device__ __forceinline__ void load_all_held(
    const T *row, norm_team team, int64_t pieces,
    vec_raw<T, VEC> (&raw)[norm_held_pieces<VEC>::value])
{
#pragma unroll
    for (int j = 0; j < norm_held_pieces<VEC>::value; j++) {
        raw[j] = load_held<VEC>(row, team.thread + j * team.threads, pieces);
    }
}

template <int VEC, typename T>
static __device__ __forceinline__ norm_piece<VEC> piece_of(const vec_raw<T, VEC> &raw)
{
    norm_piece<VEC> piece;

    unpack_raw(raw, piece.at);
    return piece;
}

template <int VEC, typename T>
static __device__ __forceinline__ void store_piece(T *row, int64_t i, const norm_piece<VEC> &piece)
{
    store_vec(row + i * VEC, piece.at);
}

/* Writes piece i where the row has it; leaves in piece what is stored. */
template <int VEC, typename T>
static __device__ __forceinline__ void round_piece(T *row, int64_t i, int64_t pieces,
                                                   norm_piece<VEC> &piece)
{
    const vec_raw<T, VEC> raw = pack_raw<T, VEC>(piece.at);

    unpack_raw(raw, piece.at);
    if (i < pieces) {
        store_raw(row + i * VEC, raw);
    }
}

/* How the rows of an op are cut. */
struct norm_plan {
    bool wide;    /* pieces of 16 bytes    */
    bool by_warp; /* a warp for each row   */
    int threads;  /* of a block            */
    int64_t rows; /* that a block has at a time */
};

static norm_plan pick_norm(int64_t D, bool wide)
{
    const int64_t threads = ceil_div(D, (wide ? 16 : 4) * 32) * 32; /* that keep a whole row */

    if (threads <= 32) {
        return { wide, true, WARP_KERNEL, WARP_KERNEL / 32 };
    }
    return { wide, false, threads < MOST_THREADS ? (int)threads : (int)MOST_THREADS, 1 };
}

/* Blocks for N rows that keep every multiprocessor busy with threads_of_sm threads. */
static dim3 norm_grid(csp_backend *be, const norm_plan &plan, int64_t N, int threads_of_sm)
{
    return stride_grid(N, (int)plan.rows,
                       (int64_t)cuda_state_of(be)->processors * (threads_of_sm / plan.threads));
}

static bool is_given(const csp_tensor *t)
{
    return t != NULL && t->ndim > 0;
}
