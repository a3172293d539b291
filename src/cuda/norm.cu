/*
 * norm.cu - the forward pass of ops/norm.h on CUDA.
 *
 * Bound by memory: reads x and delta and writes sum and y, each once, by rows as norm.cuh says, and
 * where a product with a matrix in e4m3 follows, writes y in e4m3 before the row is out of hand.
 * What is normalised is the sum as it is stored: that is what backward reads.
 */
#include "norm.cuh"
#include "quantize.cuh"
#include "reduce.cuh"

/* One row of the forward pass. sum is x where delta is none. */
template <typename T> struct norm_fwd_row {
    const T *x, *delta, *g;
    T *sum, *y;
    uint8_t *q; /* y in e4m3 with its scale, or none */
    float *scale;
    int64_t pieces;
};

/* x + delta as it is stored where the row has piece i; x where there is no delta. */
template <int VEC, typename T>
static __device__ __forceinline__ void add_delta(const norm_fwd_row<T> &row, int64_t i,
                                                 const norm_piece<VEC> &delta, norm_piece<VEC> &x)
{
#pragma unroll
    for (int c = 0; c < VEC; c++) {
        x.at[c] += delta.at[c];
    }
    round_piece(row.sum, i, row.pieces, x);
}

template <int VEC>
static __device__ __forceinline__ void add_squares(const norm_piece<VEC> &x, bool there,
                                                   float &squares)
{
#pragma unroll
    for (int c = 0; c < VEC; c++) {
        squares = there ? squares + x.at[c] * x.at[c] : squares;
    }
}

/* This thread's squares of the row; what it can keep of the row goes into held. */
template <int VEC, typename T>
static __device__ __forceinline__ float square_row(
    const norm_fwd_row<T> &row, norm_team team,
    norm_piece<VEC> (&held)[norm_held_pieces<VEC>::value])
{
    const int pieces = norm_held_pieces<VEC>::value;
    vec_raw<T, VEC> x[pieces], delta[pieces];
    float squares = 0.0f;

    load_all_held<VEC>(row.x, team, row.pieces, x);
    load_all_held<VEC>(row.delta, team, row.delta != nullptr ? row.pieces : 0, delta);
#pragma unroll
    for (int j = 0; j < pieces; j++) {
        const int64_t i = team.thread + j * team.threads;

        held[j] = piece_of<VEC>(x[j]);
        if (row.delta != nullptr) {
            add_delta<VEC>(row, i, piece_of<VEC>(delta[j]), held[j]);
        }
        add_squares<VEC>(held[j], i < row.pieces, squares);
    }
    for (int64_t i = team.thread + pieces * team.threads; i < row.pieces; i += team.threads) {
        norm_piece<VEC> one = load_piece<VEC>(row.x, i);

        if (row.delta != nullptr) {
            add_delta<VEC>(row, i, load_piece<VEC>(row.delta, i), one);
        }
        add_squares<VEC>(one, true, squares);
    }
    return squares;
}

/* y = g (rstd x); leaves in x what is stored. */
template <int VEC, typename T>
static __device__ __forceinline__ void scale_piece(const norm_fwd_row<T> &row, int64_t i,
                                                   float rstd, const norm_piece<VEC> &g,
                                                   norm_piece<VEC> &x)
{
#pragma unroll
    for (int c = 0; c < VEC; c++) {
        x.at[c] = g.at[c] * (rstd * x.at[c]);
    }
    round_piece(row.y, i, row.pieces, x);
}

/* Writes y; held has what is stored of it then. */
template <int VEC, typename T>
static __device__ __forceinline__ void scale_row(
    const norm_fwd_row<T> &row, norm_team team, float rstd,
    norm_piece<VEC> (&held)[norm_held_pieces<VEC>::value])
{
    const int pieces = norm_held_pieces<VEC>::value;
    vec_raw<T, VEC> g[pieces];

    load_all_held<VEC>(row.g, team, row.pieces, g);
#pragma unroll
    for (int j = 0; j < pieces; j++) {
        scale_piece<VEC>(row, team.thread + j * team.threads, rstd, piece_of<VEC>(g[j]), held[j]);
    }
    /* Written by this very thread if it was: no barrier is needed before it reads them again. */
    for (int64_t i = team.thread + pieces * team.threads; i < row.pieces; i += team.threads) {
        norm_piece<VEC> x = load_piece<VEC>(row.sum, i);

        scale_piece<VEC>(row, i, rstd, load_piece<VEC>(row.g, i), x);
    }
}

/* The largest of this thread's share of y. */
template <int VEC, typename T>
static __device__ __forceinline__ float largest_of_row(
    const norm_fwd_row<T> &row, norm_team team,
    const norm_piece<VEC> (&held)[norm_held_pieces<VEC>::value])
{
    float most = 0.0f;

#pragma unroll
    for (int j = 0; j < norm_held_pieces<VEC>::value; j++) {
        if (team.thread + j * team.threads < row.pieces) {
            most = quantize_largest(held[j].at, most);
        }
    }
    for (int64_t i = team.thread + norm_held_pieces<VEC>::value * team.threads; i < row.pieces;
         i += team.threads) {
        most = quantize_largest(load_piece<VEC>(row.y, i).at, most);
    }
    return most;
}

/* Writes row n of y, whose largest element is most, in e4m3. */
template <int VEC, typename T>
static __device__ __forceinline__ void round_row(
    const norm_fwd_row<T> &row, norm_team team, float most,
    const norm_piece<VEC> (&held)[norm_held_pieces<VEC>::value])
{
    const float scale = quantize_scale(most), inverse = 1.0f / scale;

    if (team.thread == 0) {
        *row.scale = scale;
    }
#pragma unroll
    for (int j = 0; j < norm_held_pieces<VEC>::value; j++) {
        const int64_t i = team.thread + j * team.threads;

        if (i < row.pieces) {
            quantize_store(held[j].at, inverse, row.q + i * VEC);
        }
    }
    for (int64_t i = team.thread + norm_held_pieces<VEC>::value * team.threads; i < row.pieces;
         i += team.threads) {
        quantize_store(load_piece<VEC>(row.y, i).at, inverse, row.q + i * VEC);
    }
}

/* Arguments of the forward kernels. sum is x where delta is none: then it is only read. */
template <typename T> struct norm_fwd_args {
    const T *x;                     /* (N,D) may be sum             */
    const T *delta;                 /* (N,D) or none; may be sum, y */
    const T *g;                     /* (D)                          */
    T *sum;                         /* (N,D)                        */
    float *rstd;                    /* (N)                          */
    T *y;                           /* (N,D)                        */
    uint8_t *q;                     /* (N,D) or none                */
    float *scale;                   /* (N)   the same               */
    int64_t N, D, delta_row, y_row; /* _row: elements from one row to the next; 0 of none */
    float eps;
};

template <typename T>
static __device__ __forceinline__ norm_fwd_row<T> fwd_row(const norm_fwd_args<T> &a, int64_t n,
                                                          int vec)
{
    return { a.x + n * a.D,
             a.delta + n * a.delta_row, /* none and 0: none */
             a.g,
             a.sum + n * a.D,
             a.y + n * a.y_row,
             a.q != nullptr ? a.q + n * a.D : nullptr,
             a.q != nullptr ? a.scale + n : nullptr,
             a.D / vec };
}

/*
 * Blocks of a multiprocessor at least, which is how nvcc is told of registers: what is kept and on
 * its way fits into 64 a thread, of f32 into 128. Left to itself it spills to reach 48.
 */
template <typename T> struct norm_fwd_blocks {
    static const int of_warps = sizeof(T) == 2 ? 4 : 2;
    static const int of_rows = sizeof(T) == 2 ? 2 : 1;
};

/* Any grid of WARP_KERNEL threads works: warps stride over rows. rounded: y in e4m3, too. */
template <int VEC, bool rounded, typename T>
static __global__ void __launch_bounds__(WARP_KERNEL, norm_fwd_blocks<T>::of_warps)
    norm_fwd_warp_kernel(norm_fwd_args<T> a)
{
    const norm_team team = { threadIdx.x % 32, 32 };
    norm_piece<VEC> held[norm_held_pieces<VEC>::value];

    for (int64_t n = grid_thread() / 32; n < a.N; n += grid_threads() / 32) {
        const norm_fwd_row<T> row = fwd_row(a, n, VEC);
        const float squares = warp_sum(square_row<VEC>(row, team, held));
        const float rstd = 1.0f / sqrtf(squares / (float)a.D + a.eps);

        if (team.thread == 0) {
            a.rstd[n] = rstd;
        }
        scale_row<VEC>(row, team, rstd, held);
        if constexpr (rounded) {
            round_row<VEC>(row, team, warp_max(largest_of_row<VEC>(row, team, held)), held);
        }
    }
}

/* Any grid works: blocks stride over rows. */
template <int VEC, bool rounded, typename T>
static __global__ void __launch_bounds__(MOST_THREADS, norm_fwd_blocks<T>::of_rows)
    norm_fwd_block_kernel(norm_fwd_args<T> a)
{
    const norm_team team = { threadIdx.x, blockDim.x };
    norm_piece<VEC> held[norm_held_pieces<VEC>::value];

    for (int64_t n = blockIdx.x; n < a.N; n += gridDim.x) {
        const norm_fwd_row<T> row = fwd_row(a, n, VEC);
        const float squares = block_sum(square_row<VEC>(row, team, held));
        const float rstd = 1.0f / sqrtf(squares / (float)a.D + a.eps);

        if (team.thread == 0) {
            a.rstd[n] = rstd;
        }
        scale_row<VEC>(row, team, rstd, held);
        if constexpr (rounded) {
            round_row<VEC>(row, team, block_max(largest_of_row<VEC>(row, team, held)), held);
        }
    }
}

template <typename T> using norm_fwd_kernel = void (*)(norm_fwd_args<T>);

template <bool rounded, typename T> static norm_fwd_kernel<T> fwd_kernel_of(const norm_plan &plan)
{
    const int W = vec_width<T>::value;

    if (plan.by_warp) {
        return plan.wide ? norm_fwd_warp_kernel<W, rounded, T>
                         : norm_fwd_warp_kernel<1, rounded, T>;
    }
    return plan.wide ? norm_fwd_block_kernel<W, rounded, T> : norm_fwd_block_kernel<1, rounded, T>;
}

template <typename T>
static csp_status norm_fwd(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                           const csp_tensor *g, float eps, csp_tensor *sum, csp_tensor *rstd,
                           csp_tensor *y, csp_fp8_rows *y8)
{
    const int W = vec_width<T>::value;
    const bool added = is_given(delta), rounded = y8 != NULL && is_given(&y8->q);
    const norm_fwd_args<T> a = { (const T *)x->data,
                                 added ? (const T *)delta->data : nullptr,
                                 (const T *)g->data,
                                 (T *)(added ? sum->data : x->data),
                                 (float *)rstd->data,
                                 (T *)y->data,
                                 rounded ? (uint8_t *)y8->q.data : nullptr,
                                 rounded ? (float *)y8->scale.data : nullptr,
                                 x->dim[0],
                                 x->dim[1],
                                 added ? csp_tensor_row(delta) : 0,
                                 csp_tensor_row(y),
                                 eps };
    const bool wide = is_vec_row(a.x, a.D) && is_vec_row(a.delta, a.delta_row) &&
                      is_vec_row(a.g, a.D) && is_vec_row(a.sum, a.D) && is_vec_row(a.y, a.y_row) &&
                      (uintptr_t)a.q % W == 0;
    const norm_plan plan = pick_norm(a.D, wide);

    CUDA_TRY(cu::launch(rounded ? fwd_kernel_of<true, T>(plan) : fwd_kernel_of<false, T>(plan),
                        norm_grid(be, plan, a.N, 2 * THREADS_OF_SM), plan.threads, 0,
                        cuda_stream(be, "norm_fwd"), a));
    return CSP_OK;
}

csp_status cuda_norm_fwd(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                         const csp_tensor *g, float eps, csp_tensor *sum, csp_tensor *rstd,
                         csp_tensor *y, csp_fp8_rows *y8)
{
    return x->dtype == CSP_BF16 ? norm_fwd<__nv_bfloat16>(be, x, delta, g, eps, sum, rstd, y, y8)
                                : norm_fwd<float>(be, x, delta, g, eps, sum, rstd, y, y8);
}
