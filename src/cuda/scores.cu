/*
 * scores.cu - CUDA side of csp_scores_fwd and _bwd: products of sparse rows with sparse rows.
 *
 * Two ways, picked by the numbers of entries that are expected (scores_pick.h):
 *
 *   gathered   few entries. One side lies dense and transposed, a row for each term; each entry of
 *              the other side fetches the row of its term, neighbouring threads its neighbours.
 *              Bound by the L2 cache. Sums in double.
 *   dense      many. Pieces of the vocabulary of both sides are written out and multiplied by
 *              cuBLAS; the backward pass reads its products at the entries only.
 *
 * No sum is shared between blocks and nothing is added atomically: the same bits on every run. How
 * many entries there really are stays on the device: nothing is waited for.
 *
 * Scratch: pieces of 32 MiB (at least 32 rows of the vocabulary, or 64 terms of all rows): one
 * gathered, one or two in sum dense; the gathered backward pass also holds ds transposed.
 */
#include "core/size.h"
#include "gemm.cuh"
#include "launch.cuh"
#include "reduce.cuh"
#include "scores_pick.h"
#include "sparse_rows.cuh"

#define SCORE_THREADS 256
#define SCORE_WARPS (SCORE_THREADS / 32)
#define ENTRY_LANES 8  /* threads that add up one gradient */
#define ROW_SPLITS 8   /* blocks that may share a row      */
#define BLOCKS_EACH 16 /* blocks for a processor           */

/* Both sides of one product. */
typedef struct score_sides {
    sparse_rows q, p;
    int64_t V;
} score_sides;

/* Entries of one row with v <= term < v + width, and this block's and thread's share of them. */
typedef struct entry_share {
    int64_t first, end, step;
} entry_share;

static __device__ __forceinline__ entry_share share_of_row(const sparse_rows &w, int64_t row,
                                                           int64_t v, int64_t width)
{
    const int64_t end = w.row_ptr[row + 1];
    const int64_t first = entry_of_term(w.term, w.row_ptr[row], end, v);
    const entry_share share = { first + (int64_t)blockIdx.y * blockDim.x + threadIdx.x,
                                entry_of_term(w.term, first, end, v + width),
                                (int64_t)gridDim.y * blockDim.x };

    return share;
}

/* Blocks in x stride over rows, blocks in y share a row's entries. dense is all zero before. */
static __global__ void __launch_bounds__(SCORE_THREADS)
    scores_spread_kernel(const sparse_rows w,
                         int64_t v,          // first term of the piece
                         int64_t width,      // its terms
                         int64_t row_stride, // dense[row * row_stride + (term-v) * term_stride]
                         int64_t term_stride, float *__restrict__ dense)
{
    for (int64_t row = blockIdx.x; row < w.rows; row += gridDim.x) {
        const entry_share share = share_of_row(w, row, v, width);

        for (int64_t i = share.first; i < share.end; i += share.step) {
            dense[row * row_stride + (w.term[i] - v) * term_stride] = w.weight[i];
        }
    }
}

/* The other way round: reads a dense piece at the entries. Grid as scores_spread_kernel. */
static __global__ void __launch_bounds__(SCORE_THREADS)
    scores_sample_kernel(const sparse_rows w, int64_t v, int64_t width,
                         const float *__restrict__ dense, // (rows,width)
                         float *__restrict__ d)           // beside the entries
{
    for (int64_t row = blockIdx.x; row < w.rows; row += gridDim.x) {
        const entry_share share = share_of_row(w, row, v, width);

        for (int64_t i = share.first; i < share.end; i += share.step) {
            d[i] = dense[row * width + (w.term[i] - v)];
        }
    }
}

/* A block adds up 32 scores of a passage: each warp takes every eighth entry, its lanes a query. */
static __global__ void __launch_bounds__(SCORE_THREADS)
    scores_gather_fwd_kernel(const sparse_rows p,
                             const float *__restrict__ queries, // (V,count)
                             int64_t count, double scale,
                             float *__restrict__ s) // (count,P)
{
    SHARED(partial, double[SCORE_WARPS][32]);
    const int64_t tiles = ceil_div(count, 32);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;

    for (int64_t item = blockIdx.x; item < p.rows * tiles; item += gridDim.x) {
        const int64_t at = item / tiles, q = item % tiles * 32 + lane;
        double sum = 0.0;

        if (q < count) {
            for (int64_t i = p.row_ptr[at] + warp; i < p.row_ptr[at + 1]; i += SCORE_WARPS) {
                sum += (double)p.weight[i] * (double)queries[(int64_t)p.term[i] * count + q];
            }
        }
        partial[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && q < count) {
            for (int other = 1; other < SCORE_WARPS; other++) {
                sum += partial[other][lane];
            }
            s[q * p.rows + at] = (float)(scale * sum);
        }
        __syncthreads();
    }
}

/*
 * d[i] = scale · <ds row, other row of the entry's term>: eight lanes an entry, so that a row of
 * the other side is read in whole sectors. Grid as scores_spread_kernel.
 */
static __global__ void __launch_bounds__(SCORE_THREADS)
    scores_gather_bwd_kernel(const sparse_rows w, int64_t v, int64_t width,
                             const float *__restrict__ ds,    // (rows,n)
                             const float *__restrict__ other, // (width,n)
                             int64_t n, double scale, float *__restrict__ d)
{
    const int64_t group = threadIdx.x / ENTRY_LANES, lane = threadIdx.x % ENTRY_LANES;
    const int64_t groups = SCORE_THREADS / ENTRY_LANES;

    for (int64_t row = blockIdx.x; row < w.rows; row += gridDim.x) {
        const int64_t row_end = w.row_ptr[row + 1];
        const int64_t first = entry_of_term(w.term, w.row_ptr[row], row_end, v);
        const int64_t end = entry_of_term(w.term, first, row_end, v + width);

        for (int64_t base = first + blockIdx.y * groups; base < end; base += gridDim.y * groups) {
            const int64_t i = base + group;
            double sum = 0.0;

            if (i < end) {
                const float *there = other + (w.term[i] - v) * n;

                for (int64_t j = lane; j < n; j += ENTRY_LANES) {
                    sum += (double)ds[row * n + j] * (double)there[j];
                }
            }
#pragma unroll
            for (int offset = ENTRY_LANES / 2; offset > 0; offset /= 2) {
                sum += __shfl_xor_sync(FULL_WARP, sum, offset);
            }
            if (i < end && lane == 0) {
                d[i] = (float)(scale * sum);
            }
        }
    }
}

/* A block moves tiles of 32 x 32 through shared memory, whose odd rows keep banks apart. */
static __global__ void __launch_bounds__(SCORE_THREADS)
    scores_transpose_kernel(const float *__restrict__ from, // (rows,columns)
                            int64_t rows, int64_t columns,
                            float *__restrict__ to) // (columns,rows)
{
    SHARED(tile, float[32][33]);
    const int64_t across = ceil_div(columns, 32), tiles = ceil_div(rows, 32) * across;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;

    for (int64_t item = blockIdx.x; item < tiles; item += gridDim.x) {
        const int64_t row = item / across * 32, column = item % across * 32;

        for (int i = warp; i < 32; i += SCORE_WARPS) {
            if (row + i < rows && column + lane < columns) {
                tile[i][lane] = from[(row + i) * columns + column + lane];
            }
        }
        __syncthreads();
        for (int i = warp; i < 32; i += SCORE_WARPS) {
            if (column + i < columns && row + lane < rows) {
                to[(column + i) * rows + row + lane] = tile[lane][i];
            }
        }
        __syncthreads();
    }
}

static int64_t most_blocks(csp_backend *be)
{
    return (int64_t)cuda_state_of(be)->processors * BLOCKS_EACH;
}

/* Blocks in x for rows; where rows alone do not fill the device, up to ROW_SPLITS in y. */
static dim3 row_grid(csp_backend *be, int64_t rows)
{
    const int64_t most = most_blocks(be), splits = ceil_div(most, rows);
    dim3 grid = stride_grid(rows, 1, most);

    grid.y = (unsigned)(splits < ROW_SPLITS ? splits : ROW_SPLITS);
    return grid;
}

/* Writes out a piece of w: by rows, (rows,width), or by terms, (width,rows). */
static csp_status spread(csp_backend *be, const sparse_rows *w, int64_t v, int64_t width,
                         bool by_term, float *dense)
{
    cudaStream_t stream = cuda_state_of(be)->stream;

    if (w->rows == 0) {
        return CSP_OK;
    }
    CUDA_TRY(cudaMemsetAsync(dense, 0, (size_t)(w->rows * width) * sizeof(float), stream));
    CUDA_TRY(cu::launch(scores_spread_kernel, row_grid(be, w->rows), SCORE_THREADS, 0, stream, *w,
                        v, width, by_term ? 1 : width, by_term ? w->rows : 1, dense));
    return CSP_OK;
}

static csp_status gather_fwd(csp_backend *be, const csp_sparse *q, const score_sides *x,
                             float scale, float *s)
{
    const int64_t Q = x->q.rows, P = x->p.rows, most = pick_scores_rows(Q, x->V);
    cudaStream_t stream = cuda_stream(be, "scores_fwd");
    void *dense;

    CSP_TRY(cuda_scratch(be, (size_t)(x->V * most) * sizeof(float), &dense));
    for (int64_t first = 0; first < Q; first += most) {
        const int64_t count = Q - first < most ? Q - first : most;
        const sparse_rows part = sparse_rows_of(q, first, count);

        CSP_TRY(spread(be, &part, 0, x->V, true, (float *)dense));
        CUDA_TRY(cu::launch(scores_gather_fwd_kernel,
                            stride_grid(P * ceil_div(count, 32), 1, most_blocks(be)), SCORE_THREADS,
                            0, stream, x->p, (const float *)dense, count, (double)scale,
                            s + first * P));
    }
    return CSP_OK;
}

static csp_status dense_fwd(csp_backend *be, const score_sides *x, float scale, float *s)
{
    const int64_t Q = x->q.rows, P = x->p.rows, most = pick_scores_terms(Q + P, x->V);
    void *scratch;
    float *queries, *passages;

    CSP_TRY(cuda_scratch(be, (size_t)((Q + P) * most) * sizeof(float), &scratch));
    queries = (float *)scratch;
    passages = queries + Q * most;
    (void)cuda_stream(be, "scores_fwd");
    for (int64_t v = 0; v < x->V; v += most) {
        const int64_t width = x->V - v < most ? x->V - v : most;

        CSP_TRY(spread(be, &x->q, v, width, false, queries));
        CSP_TRY(spread(be, &x->p, v, width, false, passages));
        CSP_TRY(cuda_gemm(be, false, true, Q, P, width, scale, queries, width, passages, width,
                          v > 0 ? 1.0f : 0.0f, s, P));
    }
    return CSP_OK;
}

/* d of the entries of w. ds is (rows of w, rows of other). */
static csp_status gather_side(csp_backend *be, const sparse_rows *w, const sparse_rows *other,
                              int64_t V, const float *ds, float scale, float *dense, float *d)
{
    const int64_t n = other->rows, most = pick_scores_terms(n, V);

    for (int64_t v = 0; v < V && w->rows > 0; v += most) {
        const int64_t width = V - v < most ? V - v : most;

        CSP_TRY(spread(be, other, v, width, true, dense));
        CUDA_TRY(cu::launch(scores_gather_bwd_kernel, row_grid(be, w->rows), SCORE_THREADS, 0,
                            cuda_state_of(be)->stream, *w, v, width, ds, (const float *)dense, n,
                            (double)scale, d));
    }
    return CSP_OK;
}

static csp_status gather_bwd(csp_backend *be, const score_sides *x, const float *ds, float scale,
                             float *dq, float *dp)
{
    const int64_t Q = x->q.rows, P = x->p.rows;
    const int64_t of_p = pick_scores_terms(P, x->V) * P, of_q = pick_scores_terms(Q, x->V) * Q;
    const size_t turned = csp_size_round_up((size_t)(Q * P) * sizeof(float), 256);
    cudaStream_t stream = cuda_stream(be, "scores_bwd");
    char *scratch;

    CSP_TRY(cuda_scratch(be, turned + (size_t)(of_p > of_q ? of_p : of_q) * sizeof(float),
                         (void **)&scratch));
    if (Q > 0 && P > 0) {
        CUDA_TRY(cu::launch(scores_transpose_kernel,
                            stride_grid(ceil_div(Q, 32) * ceil_div(P, 32), 1, most_blocks(be)),
                            SCORE_THREADS, 0, stream, ds, Q, P, (float *)scratch));
    }
    CSP_TRY(gather_side(be, &x->q, &x->p, x->V, ds, scale, (float *)(scratch + turned), dq));
    return gather_side(be, &x->p, &x->q, x->V, (const float *)scratch, scale,
                       (float *)(scratch + turned), dp);
}

static csp_status dense_bwd(csp_backend *be, const score_sides *x, const float *ds, float scale,
                            float *dq, float *dp)
{
    const int64_t Q = x->q.rows, P = x->p.rows, most = pick_scores_terms(Q + P, x->V);
    cudaStream_t stream = cuda_stream(be, "scores_bwd");
    float *queries, *passages, *dqueries, *dpassages;
    void *scratch;

    CSP_TRY(cuda_scratch(be, (size_t)(2 * (Q + P) * most) * sizeof(float), &scratch));
    queries = (float *)scratch;
    passages = queries + Q * most;
    dqueries = passages + P * most;
    dpassages = dqueries + Q * most;
    for (int64_t v = 0; v < x->V; v += most) {
        const int64_t width = x->V - v < most ? x->V - v : most;

        CSP_TRY(spread(be, &x->q, v, width, false, queries));
        CSP_TRY(spread(be, &x->p, v, width, false, passages));
        CSP_TRY(cuda_gemm(be, false, false, Q, width, P, scale, ds, P, passages, width, 0.0f,
                          dqueries, width));
        CSP_TRY(cuda_gemm(be, true, false, P, width, Q, scale, ds, P, queries, width, 0.0f,
                          dpassages, width));
        CUDA_TRY(cu::launch(scores_sample_kernel, row_grid(be, Q), SCORE_THREADS, 0, stream, x->q,
                            v, width, (const float *)dqueries, dq));
        CUDA_TRY(cu::launch(scores_sample_kernel, row_grid(be, P), SCORE_THREADS, 0, stream, x->p,
                            v, width, (const float *)dpassages, dp));
    }
    return CSP_OK;
}

static bool is_gathered(const csp_sparse *q, const csp_sparse *p, const score_sides *x)
{
    const int64_t Q = x->q.rows, P = x->p.rows;

    return Q == 0 || P == 0 ||
           pick_scores_gathered(Q, P, x->V, q->active * (double)Q, p->active * (double)P);
}

csp_status cuda_scores_fwd(csp_backend *be, const csp_sparse *q, int64_t Q, const csp_sparse *p,
                           int64_t P, float scale, csp_tensor *s)
{
    const score_sides x = { sparse_rows_of(q, 0, Q), sparse_rows_of(p, 0, P), q->vocab };

    return is_gathered(q, p, &x) ? gather_fwd(be, q, &x, scale, (float *)s->data)
                                 : dense_fwd(be, &x, scale, (float *)s->data);
}

csp_status cuda_scores_bwd(csp_backend *be, const csp_tensor *ds, const csp_sparse *q,
                           const csp_sparse *p, float scale, csp_tensor *dq, csp_tensor *dp)
{
    const score_sides x = { sparse_rows_of(q, 0, ds->dim[0]), sparse_rows_of(p, 0, ds->dim[1]),
                            q->vocab };

    return is_gathered(q, p, &x) ? gather_bwd(be, &x, (const float *)ds->data, scale,
                                              (float *)dq->data, (float *)dp->data)
                                 : dense_bwd(be, &x, (const float *)ds->data, scale,
                                             (float *)dq->data, (float *)dp->data);
}
