/*
 * norm_bwd.cu - the backward pass of ops/norm.h.
 *
 * Bound by memory: reads x, dy and dsum and writes dx, each once, by rows as norm.cuh says.
 *
 * dg in two stages: a part (a warp or a block) adds the rows part, part + parts, ... in registers,
 * the same columns by the same threads; a second kernel adds the parts in a fixed order.
 * Scratch: parts * D floats, as many parts as the device has room for, at most N.
 */
#include "norm.cuh"
#include "reduce.cuh"

enum {
    GAIN_COLUMNS = 32, /* columns of dg that a block of the second stage adds ...  */
    GAIN_CHAINS = 8    /* ... each in as many chains                               */
};

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
             a.dsum + n * a.dsum_row, /* none and 0: none */
             a.dx + n * a.dx_row,
             a.partial != nullptr ? a.partial + part * a.D : nullptr,
             a.D / vec,
             a.rstd[n],
             n == part };
}

/* What a thread keeps of a row, and of its part's gradient of the gain over all its rows. */
template <int VEC, typename T> struct norm_held {
    static const int pieces = norm_held_pieces<VEC>::value;
    vec_raw<T, VEC> x[pieces], dy[pieces], dsum[pieces];
    norm_piece<VEC> gain[pieces];
};

/* x becomes xh = rstd x; adds g dy xh. */
template <int VEC>
static __device__ __forceinline__ void project_piece(float rstd, bool there,
                                                     const norm_piece<VEC> &g,
                                                     const norm_piece<VEC> &dy, norm_piece<VEC> &x,
                                                     float &sum)
{
#pragma unroll
    for (int c = 0; c < VEC; c++) {
        x.at[c] *= rstd;
        sum = there ? sum + g.at[c] * dy.at[c] * x.at[c] : sum;
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

/*
 * This thread's share of the sum of v ⊙ xh. All that is read of the row is on its way before any of
 * it is used, dsum too, which is used only when the sum is known.
 */
template <int VEC, typename T>
static __device__ __forceinline__ float project_row(const norm_bwd_row<T> &row, norm_team team,
                                                    norm_held<VEC, T> &held)
{
    const int pieces = norm_held_pieces<VEC>::value;
    vec_raw<T, VEC> g[pieces];
    float sum = 0.0f;

    load_all_held<VEC>(row.x, team, row.pieces, held.x);
    load_all_held<VEC>(row.dy, team, row.pieces, held.dy);
    load_all_held<VEC>(row.g, team, row.pieces, g);
    load_all_held<VEC>(row.dsum, team, row.dsum != nullptr ? row.pieces : 0, held.dsum);
#pragma unroll
    for (int j = 0; j < pieces; j++) {
        const int64_t i = team.thread + j * team.threads;
        const norm_piece<VEC> dy = piece_of<VEC>(held.dy[j]);
        norm_piece<VEC> xh = piece_of<VEC>(held.x[j]);

        project_piece<VEC>(row.rstd, i < row.pieces, piece_of<VEC>(g[j]), dy, xh, sum);
        add_gain<VEC>(xh, dy, held.gain[j]);
    }
    for (int64_t i = team.thread + pieces * team.threads; i < row.pieces; i += team.threads) {
        const norm_piece<VEC> dy = load_piece<VEC>(row.dy, i);
        norm_piece<VEC> xh = load_piece<VEC>(row.x, i), gain = {};

        project_piece<VEC>(row.rstd, true, load_piece<VEC>(row.g, i), dy, xh, sum);
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

/* dx of piece i, where the row has it. dx comes as dsum, or zeros. */
template <int VEC, typename T>
static __device__ __forceinline__ void grad_piece(const norm_bwd_row<T> &row, int64_t i, float mean,
                                                  const norm_piece<VEC> &g,
                                                  const norm_piece<VEC> &x,
                                                  const norm_piece<VEC> &dy, norm_piece<VEC> &dx)
{
#pragma unroll
    for (int c = 0; c < VEC; c++) {
        const float xh = row.rstd * x.at[c];

        dx.at[c] = row.rstd * (g.at[c] * dy.at[c] - xh * mean) + dx.at[c];
    }
    if (i < row.pieces) {
        store_piece(row.dx, i, dx);
    }
}

template <int VEC, typename T>
static __device__ __forceinline__ void grad_row(const norm_bwd_row<T> &row, norm_team team,
                                                float mean, const norm_held<VEC, T> &held)
{
    const int pieces = norm_held_pieces<VEC>::value;
    vec_raw<T, VEC> g[pieces];

    load_all_held<VEC>(row.g, team, row.pieces, g);
#pragma unroll
    for (int j = 0; j < pieces; j++) {
        const int64_t i = team.thread + j * team.threads;
        norm_piece<VEC> dx = piece_of<VEC>(held.dsum[j]);

        grad_piece<VEC>(row, i, mean, piece_of<VEC>(g[j]), piece_of<VEC>(held.x[j]),
                        piece_of<VEC>(held.dy[j]), dx);
    }
    for (int64_t i = team.thread + pieces * team.threads; i < row.pieces; i += team.threads) {
        norm_piece<VEC> dx = {};

        if (row.dsum != nullptr) {
            dx = load_piece<VEC>(row.dsum, i);
        }
        grad_piece<VEC>(row, i, mean, load_piece<VEC>(row.g, i), load_piece<VEC>(row.x, i),
                        load_piece<VEC>(row.dy, i), dx);
    }
}

/* The held pieces of a part's gradient of the gain, after its last row. */
template <int VEC, typename T>
static __device__ __forceinline__ void store_gain(const norm_bwd_args<T> &a, int64_t part,
                                                  norm_team team, const norm_held<VEC, T> &held)
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
    norm_held<VEC, T> held = {};

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
    norm_held<VEC, T> held = {};

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
