/*
 * norm.cu - CUDA side of ops/norm.h.
 *
 * Bound by memory: forward reads x and delta and writes sum and y, backward reads x, dy and dsum
 * and writes dx, each once. A row is worked on by a warp or, if it is wide, by a block, whose
 * threads keep a few pieces of it in registers between the reduction and the second use; only what
 * is wider than that is read again. Neighbouring threads own neighbouring pieces of 16 bytes where
 * addresses and D allow, else single elements. What is normalised is the sum as it is stored: that
 * is what backward reads.
 *
 * dg in two stages: a part (a warp or a block) adds the rows part, part + parts, ... in registers,
 * the same columns by the same threads; a second kernel adds the parts in a fixed order.
 * Scratch: parts * D floats, as many parts as the device has room for, at most N.
 */
#include "device.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

enum {
    WARP_KERNEL = 256,    /* threads of a block of the kernels with a warp for a row  */
    MOST_THREADS = 512,   /* of a block of the others: up to 128 registers each       */
    GAIN_COLUMNS = 32,    /* columns of dg that a block of the second stage adds ...  */
    GAIN_CHAINS = 8,      /* ... each in as many chains                               */
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

template <int VEC, typename T>
static __device__ __forceinline__ void store_piece(T *row, int64_t i, const norm_piece<VEC> &piece)
{
    store_vec(row + i * VEC, piece.at);
}

/* The threads that share a row, and which of them this is. */
struct norm_team {
    int64_t thread, threads;
};

/* One row of the forward pass. sum is x where delta is none. */
template <typename T> struct norm_fwd_row {
    const T *x, *delta, *g;
    T *sum, *y;
    int64_t pieces;
};

/* x + delta, stored; adds its squares. */
template <int VEC, typename T>
static __device__ __forceinline__ norm_piece<VEC> add_piece(const norm_fwd_row<T> &row, int64_t i,
                                                            float &squares)
{
    norm_piece<VEC> x = load_piece<VEC>(row.x, i);

    if (row.delta != nullptr) {
        const norm_piece<VEC> delta = load_piece<VEC>(row.delta, i);

#pragma unroll
        for (int c = 0; c < VEC; c++) {
            x.at[c] = to_f32(from_f32<T>(x.at[c] + delta.at[c]));
        }
        store_piece(row.sum, i, x);
    }
#pragma unroll
    for (int c = 0; c < VEC; c++) {
        squares += x.at[c] * x.at[c];
    }
    return x;
}

/* This thread's squares of the row; what it can keep of the row goes into held. */
template <int VEC, typename T>
static __device__ __forceinline__ float square_row(
    const norm_fwd_row<T> &row, norm_team team,
    norm_piece<VEC> (&held)[norm_held_pieces<VEC>::value])
{
    float squares = 0.0f;

#pragma unroll
    for (int j = 0; j < norm_held_pieces<VEC>::value; j++) {
        const int64_t i = team.thread + j * team.threads;

        if (i < row.pieces) {
            held[j] = add_piece<VEC>(row, i, squares);
        }
    }
    for (int64_t i = team.thread + norm_held_pieces<VEC>::value * team.threads; i < row.pieces;
         i += team.threads) {
        (void)add_piece<VEC>(row, i, squares);
    }
    return squares;
}

template <int VEC, typename T>
static __device__ __forceinline__ void scale_piece(const norm_fwd_row<T> &row, int64_t i,
                                                   float rstd, norm_piece<VEC> x)
{
    const norm_piece<VEC> g = load_piece<VEC>(row.g, i);

#pragma unroll
    for (int c = 0; c < VEC; c++) {
        x.at[c] = g.at[c] * (rstd * x.at[c]);
    }
    store_piece(row.y, i, x);
}

template <int VEC, typename T>
static __device__ __forceinline__ void scale_row(
    const norm_fwd_row<T> &row, norm_team team, float rstd,
    const norm_piece<VEC> (&held)[norm_held_pieces<VEC>::value])
{
#pragma unroll
    for (int j = 0; j < norm_held_pieces<VEC>::value; j++) {
        const int64_t i = team.thread + j * team.threads;

        if (i < row.pieces) {
            scale_piece<VEC>(row, i, rstd, held[j]);
        }
    }
    /* Written by this very thread if it was: no barrier is needed before it reads them again. */
    for (int64_t i = team.thread + norm_held_pieces<VEC>::value * team.threads; i < row.pieces;
         i += team.threads) {
        scale_piece<VEC>(row, i, rstd, load_piece<VEC>(row.sum, i));
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
    int64_t N, D, delta_row, y_row; /* _row: elements from one row to the next; 0 of none */
    float eps;
};

template <typename T>
static __device__ __forceinline__ norm_fwd_row<T> fwd_row(const norm_fwd_args<T> &a, int64_t n,
                                                          int vec)
{
    return { a.x + n * a.D,
             a.delta != nullptr ? a.delta + n * a.delta_row : nullptr,
             a.g,
             a.sum + n * a.D,
             a.y + n * a.y_row,
             a.D / vec };
}

/* Any grid of WARP_KERNEL threads works: warps stride over rows. */
template <int VEC, typename T>
static __global__ void __launch_bounds__(WARP_KERNEL) norm_fwd_warp_kernel(norm_fwd_args<T> a)
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
    }
}

/* Any grid works: blocks stride over rows. */
template <int VEC, typename T>
static __global__ void __launch_bounds__(MOST_THREADS) norm_fwd_block_kernel(norm_fwd_args<T> a)
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

template <typename T>
static csp_status norm_fwd(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                           const csp_tensor *g, float eps, csp_tensor *sum, csp_tensor *rstd,
                           csp_tensor *y)
{
    const int W = vec_width<T>::value;
    const bool added = is_given(delta);
    const norm_fwd_args<T> a = { (const T *)x->data,
                                 added ? (const T *)delta->data : nullptr,
                                 (const T *)g->data,
                                 (T *)(added ? sum->data : x->data),
                                 (float *)rstd->data,
                                 (T *)y->data,
                                 x->dim[0],
                                 x->dim[1],
                                 added ? csp_tensor_row(delta) : 0,
                                 csp_tensor_row(y),
                                 eps };
    const bool wide = is_vec_row(a.x, a.D) && is_vec_row(a.delta, a.delta_row) &&
                      is_vec_row(a.g, a.D) && is_vec_row(a.sum, a.D) && is_vec_row(a.y, a.y_row);
    const norm_plan plan = pick_norm(a.D, wide);
    void (*const kernel)(norm_fwd_args<T>) =
        plan.by_warp ? (plan.wide ? norm_fwd_warp_kernel<W, T> : norm_fwd_warp_kernel<1, T>)
                     : (plan.wide ? norm_fwd_block_kernel<W, T> : norm_fwd_block_kernel<1, T>);

    CUDA_TRY(cu::launch(kernel, norm_grid(be, plan, a.N, 2 * THREADS_OF_SM), plan.threads, 0,
                        cuda_stream(be, "norm_fwd"), a));
    return CSP_OK;
}

csp_status cuda_norm_fwd(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                         const csp_tensor *g, float eps, csp_tensor *sum, csp_tensor *rstd,
                         csp_tensor *y)
{
    return x->dtype == CSP_BF16 ? norm_fwd<__nv_bfloat16>(be, x, delta, g, eps, sum, rstd, y)
                                : norm_fwd<float>(be, x, delta, g, eps, sum, rstd, y);
}

/* Arguments of the backward kernels. */
template <typename T> struct norm_bwd_args {
    const T *x;                     /* (N,D)                               */
    const T *g;                     /* (D)                                 */
    const float *rstd;              /* (N)                                 */
    const T *dy;                    /* (N,D) may be dx                     */
    const T *dsum;                  /* (N,D) or none; may be dx            */
    T *dx;                          /* (N,D)                               */
    float *partial;                 /* (parts,D), written; none without dg */
    int64_t N, D, dsum_row, dx_row; /* _row: elements from one row to the next; 0 of none */
};

/* One row of the backward pass. */
template <typename T> struct norm_bwd_row {
    const T *x, *g, *dy, *dsum;
    T *dx;
    float *gain; /* the part's row of partial, or none */
    int64_t pieces;
    float rstd;
    bool first; /* of its part: gain is written, not added to */
};

template <typename T>
static __device__ __forceinline__ norm_bwd_row<T> bwd_row(const norm_bwd_args<T> &a, int64_t n,
                                                          int64_t part, int vec)
{
    return { a.x + n * a.D,
             a.g,
             a.dy + n * a.D,
             a.dsum != nullptr ? a.dsum + n * a.dsum_row : nullptr,
             a.dx + n * a.dx_row,
             a.partial != nullptr ? a.partial + part * a.D : nullptr,
             a.D / vec,
             a.rstd[n],
             n == part };
}

/* What a thread keeps of a row, and of its part's gradient of the gain over all its rows. */
template <int VEC> struct norm_held {
    static const int pieces = norm_held_pieces<VEC>::value;
    norm_piece<VEC> xh[pieces], dy[pieces], gain[pieces];
};

/* xh = rstd x and dy of piece i; adds g dy xh. */
template <int VEC, typename T>
static __device__ __forceinline__ void project_piece(const norm_bwd_row<T> &row, int64_t i,
                                                     norm_piece<VEC> &xh, norm_piece<VEC> &dy,
                                                     float &sum)
{
    const norm_piece<VEC> g = load_piece<VEC>(row.g, i);

    xh = load_piece<VEC>(row.x, i);
    dy = load_piece<VEC>(row.dy, i);
#pragma unroll
    for (int c = 0; c < VEC; c++) {
        xh.at[c] *= row.rstd;
        sum += g.at[c] * dy.at[c] * xh.at[c];
    }
}

/* gain += dy ⊙ xh. */
template <int VEC>
static __device__ __forceinline__ void add_gain(const norm_piece<VEC> &xh,
                                                const norm_piece<VEC> &dy, norm_piece<VEC> &gain)
{
#pragma unroll
    for (int c = 0; c < VEC; c++) {
        gain.at[c] += dy.at[c] * xh.at[c];
    }
}

/* This thread's share of the sum of v ⊙ xh. */
template <int VEC, typename T>
static __device__ __forceinline__ float project_row(const norm_bwd_row<T> &row, norm_team team,
                                                    norm_held<VEC> &held)
{
    float sum = 0.0f;

#pragma unroll
    for (int j = 0; j < norm_held_pieces<VEC>::value; j++) {
        const int64_t i = team.thread + j * team.threads;

        if (i < row.pieces) {
            project_piece<VEC>(row, i, held.xh[j], held.dy[j], sum);
            add_gain<VEC>(held.xh[j], held.dy[j], held.gain[j]);
        }
    }
    for (int64_t i = team.thread + norm_held_pieces<VEC>::value * team.threads; i < row.pieces;
         i += team.threads) {
        norm_piece<VEC> xh, dy, gain = {};

        project_piece<VEC>(row, i, xh, dy, sum);
        if (row.gain != nullptr) {
            if (!row.first) {
                gain = load_piece<VEC>(row.gain, i);
            }
            add_gain<VEC>(xh, dy, gain);
            store_piece(row.gain, i, gain);
        }
    }
    return sum;
}

template <int VEC, typename T>
static __device__ __forceinline__ void grad_piece(const norm_bwd_row<T> &row, int64_t i, float mean,
                                                  const norm_piece<VEC> &xh,
                                                  const norm_piece<VEC> &dy)
{
    const norm_piece<VEC> g = load_piece<VEC>(row.g, i);
    norm_piece<VEC> dx = {};

    if (row.dsum != nullptr) {
        dx = load_piece<VEC>(row.dsum, i);
    }
#pragma unroll
    for (int c = 0; c < VEC; c++) {
        dx.at[c] = row.rstd * (g.at[c] * dy.at[c] - xh.at[c] * mean) + dx.at[c];
    }
    store_piece(row.dx, i, dx);
}

template <int VEC, typename T>
static __device__ __forceinline__ void grad_row(const norm_bwd_row<T> &row, norm_team team,
                                                float mean, const norm_held<VEC> &held)
{
#pragma unroll
    for (int j = 0; j < norm_held_pieces<VEC>::value; j++) {
        const int64_t i = team.thread + j * team.threads;

        if (i < row.pieces) {
            grad_piece<VEC>(row, i, mean, held.xh[j], held.dy[j]);
        }
    }
    for (int64_t i = team.thread + norm_held_pieces<VEC>::value * team.threads; i < row.pieces;
         i += team.threads) {
        norm_piece<VEC> xh, dy;
        float again = 0.0f;

        project_piece<VEC>(row, i, xh, dy, again);
        grad_piece<VEC>(row, i, mean, xh, dy);
    }
}

/* The held pieces of a part's gradient of the gain, after its last row. */
template <int VEC, typename T>
static __device__ __forceinline__ void store_gain(const norm_bwd_args<T> &a, int64_t part,
                                                  norm_team team, const norm_held<VEC> &held)
{
    if (a.partial == nullptr || part >= a.N) {
        return;
    }
#pragma unroll
    for (int j = 0; j < norm_held_pieces<VEC>::value; j++) {
        const int64_t i = team.thread + j * team.threads;

        if (i < a.D / VEC) {
            store_piece(a.partial + part * a.D, i, held.gain[j]);
        }
    }
}

/* Any grid of WARP_KERNEL threads works; a warp is a part. */
template <int VEC, typename T>
static __global__ void __launch_bounds__(WARP_KERNEL) norm_bwd_warp_kernel(norm_bwd_args<T> a)
{
    const norm_team team = { threadIdx.x % 32, 32 };
    const int64_t part = grid_thread() / 32;
    norm_held<VEC> held = {};

    for (int64_t n = part; n < a.N; n += grid_threads() / 32) {
        const norm_bwd_row<T> row = bwd_row(a, n, part, VEC);
        const float sum = warp_sum(project_row<VEC>(row, team, held));

        grad_row<VEC>(row, team, sum / (float)a.D, held);
    }
    store_gain<VEC>(a, part, team, held);
}

/* Any grid works; a block is a part. */
template <int VEC, typename T>
static __global__ void __launch_bounds__(MOST_THREADS) norm_bwd_block_kernel(norm_bwd_args<T> a)
{
    const norm_team team = { threadIdx.x, blockDim.x };
    const int64_t part = blockIdx.x;
    norm_held<VEC> held = {};

    for (int64_t n = part; n < a.N; n += gridDim.x) {
        const norm_bwd_row<T> row = bwd_row(a, n, part, VEC);
        const float sum = block_sum(project_row<VEC>(row, team, held));

        grad_row<VEC>(row, team, sum / (float)a.D, held);
    }
    store_gain<VEC>(a, part, team, held);
}

/*
 * dg += the parts: chain c of a column adds the parts c, c + GAIN_CHAINS, ..., then the chains are
 * added in order. A block has GAIN_COLUMNS columns.
 */
static __global__ void __launch_bounds__(GAIN_COLUMNS *GAIN_CHAINS)
    norm_gain_kernel(const float *__restrict__ partial, /* (parts,D) */
                     float *__restrict__ dg,            /* (D)       */
                     int64_t parts, int64_t D)
{
    SHARED(chain, float[GAIN_CHAINS][GAIN_COLUMNS]);
    const int column = (int)threadIdx.x % GAIN_COLUMNS, mine = (int)threadIdx.x / GAIN_COLUMNS;
    const int64_t d = (int64_t)blockIdx.x * GAIN_COLUMNS + column;
    float sum = 0.0f;

    if (d < D) {
#pragma unroll 4
        for (int64_t part = mine; part < parts; part += GAIN_CHAINS) {
            sum += partial[part * D + d];
        }
    }
    chain[mine][column] = sum;
    __syncthreads();
    if (mine == 0 && d < D) {
        for (int c = 1; c < GAIN_CHAINS; c++) {
            sum += chain[c][column];
        }
        dg[d] += sum;
    }
}

template <typename T>
static csp_status norm_bwd(csp_backend *be, const csp_tensor *x, const csp_tensor *g,
                           const csp_tensor *rstd, const csp_tensor *dy, const csp_tensor *dsum,
                           csp_tensor *dx, csp_tensor *dg)
{
    const int W = vec_width<T>::value;
    norm_bwd_args<T> a = { (const T *)x->data,
                           (const T *)g->data,
                           (const float *)rstd->data,
                           (const T *)dy->data,
                           is_given(dsum) ? (const T *)dsum->data : nullptr,
                           (T *)dx->data,
                           nullptr,
                           x->dim[0],
                           x->dim[1],
                           is_given(dsum) ? csp_tensor_row(dsum) : 0,
                           csp_tensor_row(dx) };
    const bool wide = is_vec_row(a.x, a.D) && is_vec_row(a.g, a.D) && is_vec_row(a.dy, a.D) &&
                      is_vec_row(a.dsum, a.dsum_row) && is_vec_row(a.dx, a.dx_row);
    const norm_plan plan = pick_norm(a.D, wide);
    const dim3 grid = norm_grid(be, plan, a.N, THREADS_OF_SM);
    const int64_t room = (int64_t)grid.x * plan.rows, parts = room < a.N ? room : a.N;
    void (*const kernel)(norm_bwd_args<T>) =
        plan.by_warp ? (plan.wide ? norm_bwd_warp_kernel<W, T> : norm_bwd_warp_kernel<1, T>)
                     : (plan.wide ? norm_bwd_block_kernel<W, T> : norm_bwd_block_kernel<1, T>);
    cudaStream_t stream = cuda_stream(be, "norm_bwd");

    if (is_given(dg)) {
        void *scratch;

        CSP_TRY(cuda_scratch(be, (size_t)(parts * a.D) * sizeof(float), &scratch));
        a.partial = (float *)scratch;
    }
    CUDA_TRY(cu::launch(kernel, grid, plan.threads, 0, stream, a));
    if (a.partial != nullptr) {
        CUDA_TRY(cu::launch(norm_gain_kernel, dim3((unsigned)ceil_div(a.D, GAIN_COLUMNS)),
                            GAIN_COLUMNS * GAIN_CHAINS, 0, stream, a.partial, (float *)dg->data,
                            parts, a.D));
    }
    return CSP_OK;
}

csp_status cuda_norm_bwd(csp_backend *be, const csp_tensor *x, const csp_tensor *g,
                         const csp_tensor *rstd, const csp_tensor *dy, const csp_tensor *dsum,
                         csp_tensor *dx, csp_tensor *dg)
{
    return x->dtype == CSP_BF16 ? norm_bwd<__nv_bfloat16>(be, x, g, rstd, dy, dsum, dx, dg)
                                : norm_bwd<float>(be, x, g, rstd, dy, dsum, dx, dg);
}
