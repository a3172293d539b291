/*
 * swiglu.cu - CUDA side of ops/swiglu.h.
 *
 * Bound by memory: every element is read and written once, 16 bytes at a time where all addresses
 * and the length of rows allow. Outputs may be inputs: a thread reads what it needs of an
 * element before it writes it, and nobody else touches that element.
 *
 * Where m in e4m3 is asked for, too, which needs the largest element of a row, a row is a block's,
 * whose threads keep what they made of it in registers between the maximum and the rounding; only
 * what is wider than that is read again.
 */
#include "device.h"
#include "launch.cuh"
#include "quantize.cuh"
#include "reduce.cuh"
#include "vec.cuh"

enum {
    SWIGLU_THREADS = 256,
    BLOCKS_OF_SM = 8,
    ROW_THREADS = 512,       /* of a block with a row of its own, at most               */
    ROW_THREADS_OF_SM = 1024 /* aimed at: a thread has up to 64 registers' worth of a row */
};

/*
 * σ(x); 0 where exp overflows. Of bf16 numbers by the units that give 2^x to 22 bits and 1/x to 23,
 * four operations in place of some twenty, which are more than memory leaves time for. The relative
 * error, most of it from rounding x log2(e), which is up to 128 where σ is not 0 yet, is below
 * 2^-16 beside bf16's 2^-9.
 */
template <typename T> static __device__ __forceinline__ float sigmoid(float x)
{
    if constexpr (sizeof(T) == 2) {
        return cu::reciprocal_approx(1.0f + cu::exp2_approx(x * -1.442695041f));
    } else {
        return 1.0f / (1.0f + expf(-x));
    }
}

/* A matrix, and how many elements lie from one of its rows to the next. */
template <typename T> struct swiglu_rows {
    T *at;
    int64_t row;
};

/*
 * Any grid works: threads stride over pieces of W elements, 16 bytes or one, in x over those of a
 * row, `pieces` of them, in y over N rows. Matrices whose rows do not lie apart are one long row.
 */
template <typename T, int W>
static __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_fwd_kernel(swiglu_rows<const T> gate, /* (N,F) may be m */
                      swiglu_rows<const T> up,   /* (N,F) may be m */
                      swiglu_rows<T> m,          /* (N,F)          */
                      int64_t N, int64_t pieces)
{
    for (int64_t n = blockIdx.y; n < N; n += gridDim.y) {
        for (int64_t i = grid_thread(); i < pieces; i += grid_threads()) {
            float g[W], u[W];

            load_vec(gate.at + n * gate.row + i * W, g);
            load_vec(up.at + n * up.row + i * W, u);
#pragma unroll
            for (int c = 0; c < W; c++) {
                u[c] = g[c] * sigmoid<T>(g[c]) * u[c];
            }
            store_vec(m.at + n * m.row + i * W, u);
        }
    }
}

/* Pieces of a row that a thread keeps: 32 numbers, or 4 single ones. */
template <int W> struct swiglu_held_pieces {
    static const int value = W > 1 ? 32 / W : 4;
};

/* m, and what it is in e4m3. */
template <typename T> struct swiglu_fp8_call {
    swiglu_rows<const T> gate; /* (N,F) may be m */
    swiglu_rows<const T> up;   /* (N,F) may be m */
    swiglu_rows<T> m;          /* (N,F)          */
    uint8_t *q;                /* (N,F)          */
    float *scale;              /* (N)            */
    int64_t N, F;
};

/* Writes W elements of m, and leaves in out what is stored. */
template <typename T, int W>
static __device__ __forceinline__ void gated_piece(const swiglu_fp8_call<T> &call, int64_t n,
                                                   int64_t f, float (&out)[W])
{
    float g[W];

    load_vec(call.gate.at + n * call.gate.row + f, g);
    load_vec(call.up.at + n * call.up.row + f, out);
#pragma unroll
    for (int c = 0; c < W; c++) {
        out[c] = g[c] * sigmoid<T>(g[c]) * out[c];
    }
    round_vec(call.m.at + n * call.m.row + f, out);
}

/* Any grid works: blocks stride over rows, their threads over pieces of W elements. */
template <typename T, int W>
static __global__ void __launch_bounds__(ROW_THREADS) swiglu_fp8_kernel(swiglu_fp8_call<T> call)
{
    const int HELD = swiglu_held_pieces<W>::value;
    const int64_t first = (int64_t)threadIdx.x * W, step = (int64_t)blockDim.x * W;
    float held[HELD][W];

    for (int64_t n = blockIdx.x; n < call.N; n += gridDim.x) {
        const T *m = call.m.at + n * call.m.row;
        uint8_t *q = call.q + n * call.F;
        float most = 0.0f, scale;

#pragma unroll
        for (int j = 0; j < HELD; j++) {
            if (first + j * step < call.F) {
                gated_piece(call, n, first + j * step, held[j]);
                most = quantize_largest(held[j], most);
            }
        }
        for (int64_t f = first + HELD * step; f < call.F; f += step) {
            float piece[W];

            gated_piece(call, n, f, piece);
            most = quantize_largest(piece, most);
        }
        scale = quantize_scale(block_max(most));
        if (threadIdx.x == 0) {
            call.scale[n] = scale;
        }
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            if (first + j * step < call.F) {
                quantize_store(held[j], 1.0f / scale, q + first + j * step);
            }
        }
        /* Written by this very thread: no barrier is needed before it reads them again. */
        for (int64_t f = first + HELD * step; f < call.F; f += step) {
            float piece[W];

            load_vec(m + f, piece);
            quantize_store(piece, 1.0f / scale, q + f);
        }
    }
}

/* Any grid works, as of swiglu_fwd_kernel. */
template <typename T, int W>
static __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_bwd_kernel(swiglu_rows<const T> gate, /* (N,F) may be dgate        */
                      swiglu_rows<const T> up,   /* (N,F) may be dup          */
                      swiglu_rows<const T> dm,   /* (N,F) may be dgate or dup */
                      swiglu_rows<T> dgate,      /* (N,F)                     */
                      swiglu_rows<T> dup,        /* (N,F)                     */
                      int64_t N, int64_t pieces)
{
    for (int64_t n = blockIdx.y; n < N; n += gridDim.y) {
        for (int64_t i = grid_thread(); i < pieces; i += grid_threads()) {
            float g[W], u[W], d[W];

            load_vec(gate.at + n * gate.row + i * W, g);
            load_vec(up.at + n * up.row + i * W, u);
            load_vec(dm.at + n * dm.row + i * W, d);
#pragma unroll
            for (int c = 0; c < W; c++) {
                const float x = g[c], s = sigmoid<T>(x);

                g[c] = d[c] * u[c] * s * (1.0f + x * (1.0f - s));
                u[c] = d[c] * (x * s);
            }
            store_vec(dgate.at + n * dgate.row + i * W, g);
            store_vec(dup.at + n * dup.row + i * W, u);
        }
    }
}

/* Blocks that fill the device: in x those of a row, in y rows. */
static dim3 swiglu_grid(csp_backend *be, int64_t N, int64_t pieces)
{
    const int64_t most = (int64_t)cuda_state_of(be)->processors * BLOCKS_OF_SM;
    dim3 grid = stride_grid(pieces, SWIGLU_THREADS, most);

    grid.y = stride_grid(N, 1, ceil_div(most, grid.x)).x;
    return grid;
}

template <typename T> static swiglu_rows<T> rows_of(const csp_tensor *t)
{
    return { (T *)t->data, csp_tensor_row(t) };
}

/* How count matrices of one shape are walked over. */
struct swiglu_walk {
    int64_t N, F; /* rows and elements in each: one row where all are contiguous */
    bool wide;    /* by 16 bytes */
};

template <typename T> static swiglu_walk walk_over(const csp_tensor *const *t, int count)
{
    swiglu_walk walk = { 1, csp_tensor_count(t[0]), true };

    for (int i = 0; i < count; i++) {
        if (t[i]->apart > 0) {
            walk.N = t[0]->dim[0];
            walk.F = t[0]->dim[1];
        }
    }
    for (int i = 0; i < count; i++) {
        walk.wide = walk.wide && is_vec_row((const T *)t[i]->data, walk.F) &&
                    (walk.N == 1 || is_vec_row((const T *)t[i]->data, csp_tensor_row(t[i])));
    }
    return walk;
}

template <typename T>
static csp_status swiglu_fwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                             csp_tensor *m)
{
    const int W = vec_width<T>::value;
    const csp_tensor *const all[] = { gate, up, m };
    const swiglu_walk walk = walk_over<T>(all, 3);
    const int64_t pieces = walk.wide ? walk.F / W : walk.F;

    CUDA_TRY(cu::launch(walk.wide ? swiglu_fwd_kernel<T, W> : swiglu_fwd_kernel<T, 1>,
                        swiglu_grid(be, walk.N, pieces), SWIGLU_THREADS, 0,
                        cuda_stream(be, "swiglu_fwd"), rows_of<const T>(gate), rows_of<const T>(up),
                        rows_of<T>(m), walk.N, pieces));
    return CSP_OK;
}

template <typename T>
static csp_status swiglu_fp8(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                             csp_tensor *m, csp_fp8_rows *m8)
{
    const int W = vec_width<T>::value;
    const csp_tensor *const all[] = { gate, up, m };
    const swiglu_fp8_call<T> call = {
        rows_of<const T>(gate),  rows_of<const T>(up), rows_of<T>(m), (uint8_t *)m8->q.data,
        (float *)m8->scale.data, gate->dim[0],         gate->dim[1]
    };
    bool wide = (uintptr_t)call.q % W == 0 && call.F % W == 0;

    for (int i = 0; i < 3; i++) {
        wide = wide && is_vec_row((const T *)all[i]->data, csp_tensor_row(all[i]));
    }
    const int64_t keeping = ceil_div(call.F, 32 * (wide ? 32 : 4)) * 32; /* that keep a whole row */
    const int threads = keeping < ROW_THREADS ? (int)keeping : (int)ROW_THREADS;

    CUDA_TRY(cu::launch(
        wide ? swiglu_fp8_kernel<T, W> : swiglu_fp8_kernel<T, 1>,
        stride_grid(call.N, 1,
                    (int64_t)cuda_state_of(be)->processors * (ROW_THREADS_OF_SM / threads)),
        threads, 0, cuda_stream(be, "swiglu_fwd"), call));
    return CSP_OK;
}

csp_status cuda_swiglu_fwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                           csp_tensor *m, csp_fp8_rows *m8)
{
    if (m8 != NULL && m8->q.ndim > 0) {
        return gate->dtype == CSP_BF16 ? swiglu_fp8<__nv_bfloat16>(be, gate, up, m, m8)
                                       : swiglu_fp8<float>(be, gate, up, m, m8);
    }
    return gate->dtype == CSP_BF16 ? swiglu_fwd<__nv_bfloat16>(be, gate, up, m)
                                   : swiglu_fwd<float>(be, gate, up, m);
}

template <typename T>
static csp_status swiglu_bwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                             const csp_tensor *dm, csp_tensor *dgate, csp_tensor *dup)
{
    const int W = vec_width<T>::value;
    const csp_tensor *const all[] = { gate, up, dm, dgate, dup };
    const swiglu_walk walk = walk_over<T>(all, 5);
    const int64_t pieces = walk.wide ? walk.F / W : walk.F;

    CUDA_TRY(cu::launch(walk.wide ? swiglu_bwd_kernel<T, W> : swiglu_bwd_kernel<T, 1>,
                        swiglu_grid(be, walk.N, pieces), SWIGLU_THREADS, 0,
                        cuda_stream(be, "swiglu_bwd"), rows_of<const T>(gate), rows_of<const T>(up),
                        rows_of<const T>(dm), rows_of<T>(dgate), rows_of<T>(dup), walk.N, pieces));
    return CSP_OK;
}

csp_status cuda_swiglu_bwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                           const csp_tensor *dm, csp_tensor *dgate, csp_tensor *dup)
{
    return gate->dtype == CSP_BF16 ? swiglu_bwd<__nv_bfloat16>(be, gate, up, dm, dgate, dup)
                                   : swiglu_bwd<float>(be, gate, up, dm, dgate, dup);
}
