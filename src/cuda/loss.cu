/*
 * loss.cu - CUDA side of ops/loss.h: InfoNCE, column sums and the sparsity terms.
 *
 * All are small beside the head and read their input once or twice. Rows, terms and entries have
 * one owner each and every sum has a fixed order, so there are no atomics and the bits repeat.
 *
 * Scratch: REG_BLOCKS doubles (sparsity terms).
 */
#include "device.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "sparse_rows.cuh"

#define LOSS_THREADS 256
#define BLOCKS_EACH 16 /* blocks for a processor                                            */
#define SUM_TERMS 256  /* terms of a block, one a thread                                    */
#define SUM_ROWS 32    /* rows staged in shared memory at a time                            */
#define REG_BLOCKS 64  /* partial sums of a sparsity term: fixed, and so is their order     */

/* The parts of InfoNCE: a block takes a query. top is the larger of its own and its best score. */
static __device__ double top_of(const double *row, int64_t q)
{
    return fmax(row[2 * q], row[2 * q + 1]);
}

static __global__ void __launch_bounds__(LOSS_THREADS)
    nce_scores_kernel(const float *__restrict__ s,          // (Q,P)
                      const int32_t *__restrict__ positive, // (Q), -1: not here
                      const uint8_t *__restrict__ mask,     // (Q,P) or NULL
                      int64_t Q, int64_t P,
                      double *__restrict__ row) // (Q,2)
{
    for (int64_t q = blockIdx.x; q < Q; q += gridDim.x) {
        const int64_t own = positive[q];
        float best = -INFINITY;

        for (int64_t p = threadIdx.x; p < P; p += LOSS_THREADS) {
            if (p != own && (mask == NULL || mask[q * P + p] == 0)) {
                best = fmaxf(best, s[q * P + p]);
            }
        }
        best = block_max(best);
        if (threadIdx.x == 0) {
            row[2 * q] = own >= 0 ? (double)s[q * P + own] : -INFINITY;
            row[2 * q + 1] = (double)best;
        }
    }
}

/* 4 blocks: 64 registers a thread. Left to itself nvcc spills to reach 40. */
static __global__ void __launch_bounds__(LOSS_THREADS, 4)
    nce_sum_kernel(const float *__restrict__ s,      // (Q,P)
                   const uint8_t *__restrict__ mask, // (Q,P) or NULL
                   const double *__restrict__ row,   // (Q,2)
                   int64_t Q, int64_t P,
                   double *__restrict__ sum) // (Q)
{
    for (int64_t q = blockIdx.x; q < Q; q += gridDim.x) {
        const double top = top_of(row, q);
        double total = 0.0;

        for (int64_t p = threadIdx.x; p < P; p += LOSS_THREADS) {
            if (mask == NULL || mask[q * P + p] == 0) {
                total += exp((double)s[q * P + p] - top);
            }
        }
        total = block_sum(total);
        if (threadIdx.x == 0) {
            sum[q] = total;
        }
    }
}

/* ds may be s: each thread writes what it alone reads. */
static __global__ void __launch_bounds__(LOSS_THREADS)
    nce_grad_kernel(const float *s,                       // (Q,P)
                    const int32_t *__restrict__ positive, // (Q), -1: not here
                    const uint8_t *__restrict__ mask,     // (Q,P) or NULL
                    const double *__restrict__ row,       // (Q,2)
                    const double *__restrict__ sum,       // (Q)
                    int64_t Q, int64_t P, int64_t M,
                    float *ds,                 // (Q,P)
                    double *__restrict__ loss) // (Q)
{
    for (int64_t q = blockIdx.x; q < Q; q += gridDim.x) {
        const int64_t own = positive[q];
        const double top = top_of(row, q), total = sum[q];

        if (threadIdx.x == 0) {
            loss[q] = log(total) + (top - row[2 * q]);
        }
        for (int64_t p = threadIdx.x; p < P; p += LOSS_THREADS) {
            const bool left_out = mask != NULL && mask[q * P + p] != 0;
            const double share = left_out ? 0.0 : exp((double)s[q * P + p] - top) / total;

            ds[q * P + p] = (float)((share - (p == own ? 1.0 : 0.0)) / (double)M);
        }
    }
}

static const uint8_t *mask_of(const csp_tensor *mask)
{
    return mask != NULL && mask->ndim > 0 ? (const uint8_t *)mask->data : NULL;
}

static dim3 nce_grid(csp_backend *be, int64_t Q)
{
    return stride_grid(Q, 1, (int64_t)cuda_state_of(be)->processors * BLOCKS_EACH);
}

csp_status cuda_nce_scores(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                           const csp_tensor *mask, csp_tensor *row)
{
    CUDA_TRY(cu::launch(nce_scores_kernel, nce_grid(be, s->dim[0]), LOSS_THREADS, 0,
                        cuda_stream(be, "nce_scores"), (const float *)s->data,
                        (const int32_t *)positive->data, mask_of(mask), s->dim[0], s->dim[1],
                        (double *)row->data));
    return CSP_OK;
}

csp_status cuda_nce_sum(csp_backend *be, const csp_tensor *s, const csp_tensor *mask,
                        const csp_tensor *row, csp_tensor *sum)
{
    CUDA_TRY(cu::launch(nce_sum_kernel, nce_grid(be, s->dim[0]), LOSS_THREADS, 0,
                        cuda_stream(be, "nce_sum"), (const float *)s->data, mask_of(mask),
                        (const double *)row->data, s->dim[0], s->dim[1], (double *)sum->data));
    return CSP_OK;
}

csp_status cuda_nce_grad(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                         const csp_tensor *mask, const csp_tensor *row, const csp_tensor *sum,
                         int64_t M, csp_tensor *ds, csp_tensor *loss)
{
    CUDA_TRY(cu::launch(nce_grad_kernel, nce_grid(be, s->dim[0]), LOSS_THREADS, 0,
                        cuda_stream(be, "nce_grad"), (const float *)s->data,
                        (const int32_t *)positive->data, mask_of(mask), (const double *)row->data,
                        (const double *)sum->data, s->dim[0], s->dim[1], M, (float *)ds->data,
                        (double *)loss->data));
    return CSP_OK;
}

/*
 * A block owns SUM_TERMS terms. Of SUM_ROWS rows at a time it writes its stretch densely into
 * shared memory, a warp a row; then each thread adds its term's column, rows ascending. Where the
 * stretch begins in each row is searched for SUM_TERMS rows at once, a row a thread.
 */
static __global__ void __launch_bounds__(SUM_TERMS)
    column_sums_kernel(const sparse_rows w, int64_t V,
                       double *__restrict__ sum,    // (V) added to
                       int32_t *__restrict__ count) // (V) added to, or NULL
{
    SHARED(tile, float[SUM_ROWS][SUM_TERMS]);
    SHARED(first, int64_t[SUM_TERMS]);
    SHARED(end, int64_t[SUM_TERMS]);
    const int thread = (int)threadIdx.x, warp = thread / 32, lane = thread % 32;

    for (int64_t v = (int64_t)blockIdx.x * SUM_TERMS; v < V; v += (int64_t)gridDim.x * SUM_TERMS) {
        const bool owns = v + thread < V;
        double total = owns ? sum[v + thread] : 0.0;
        int32_t seen = 0;

        for (int64_t row = 0; row < w.rows; row += SUM_ROWS) {
            const int from = (int)(row % SUM_TERMS);
            const int rows = (int)(w.rows - row < SUM_ROWS ? w.rows - row : SUM_ROWS);

            if (from == 0 && row + thread < w.rows) {
                const int64_t last = w.row_ptr[row + thread + 1];

                first[thread] = entry_of_term(w.term, w.row_ptr[row + thread], last, v);
                end[thread] = entry_of_term(w.term, first[thread], last, v + SUM_TERMS);
            }
            for (int i = 0; i < rows; i++) {
                tile[i][thread] = 0.0f;
            }
            __syncthreads();
            for (int i = warp; i < rows; i += SUM_TERMS / 32) {
                for (int64_t j = first[from + i] + lane; j < end[from + i]; j += 32) {
                    tile[i][w.term[j] - v] = w.weight[j];
                }
            }
            __syncthreads();
            for (int i = 0; i < rows; i++) {
                total += (double)tile[i][thread];
                seen += tile[i][thread] > 0.0f;
            }
        }
        if (owns) {
            sum[v + thread] = total;
        }
        if (owns && count != NULL) {
            count[v + thread] += seen;
        }
    }
}

csp_status cuda_column_sums(csp_backend *be, const csp_sparse *w, int64_t rows, csp_tensor *sum,
                            csp_tensor *count)
{
    const dim3 grid =
        stride_grid(w->vocab, SUM_TERMS, (int64_t)cuda_state_of(be)->processors * BLOCKS_EACH);
    int32_t *seen = count != NULL && count->ndim > 0 ? (int32_t *)count->data : NULL;

    CUDA_TRY(cu::launch(column_sums_kernel, grid, SUM_TERMS, 0, cuda_stream(be, "column_sums"),
                        sparse_rows_of(w, 0, rows), w->vocab, (double *)sum->data, seen));
    return CSP_OK;
}

/*
 * Each block counts in shared memory and adds its counts to count: whole numbers, in any order the
 * same. Most maxima may fall on one position, so that all lanes would wait for one another: those
 * that have the same position as the first count themselves at once.
 */
static __global__ void __launch_bounds__(LOSS_THREADS)
    position_counts_kernel(const sparse_rows w, const int32_t *__restrict__ argmax,
                           int n,                                  // positions
                           unsigned long long *__restrict__ count) // (n)
{
    SHARED(table, int[CSP_POSITIONS]);
    const int64_t entries = w.row_ptr[w.rows];
    const int lane = (int)(threadIdx.x % 32);

    for (int t = (int)threadIdx.x; t < n; t += LOSS_THREADS) {
        table[t] = 0;
    }
    __syncthreads();
    for (int64_t first = grid_thread() / 32 * 32; first < entries; first += grid_threads()) {
        const int position = first + lane < entries ? argmax[first + lane] : -1;
        const bool counts = position >= 0 && position < n;
        const uint32_t all = __ballot_sync(FULL_WARP, counts);
        const int leader = all != 0 ? __ffs((int)all) - 1 : 0;
        const int common = __shfl_sync(FULL_WARP, position, leader);
        const uint32_t alike = __ballot_sync(FULL_WARP, counts && position == common);

        if (counts && position != common) {
            atomicAdd(&table[position], 1);
        } else if (counts && lane == leader) {
            atomicAdd(&table[position], __popc(alike));
        }
    }
    __syncthreads();
    for (int t = (int)threadIdx.x; t < n; t += LOSS_THREADS) {
        if (table[t] != 0) {
            atomicAdd(&count[t], (unsigned long long)table[t]);
        }
    }
}

csp_status cuda_position_counts(csp_backend *be, const csp_sparse *w, int64_t rows,
                                csp_tensor *count)
{
    const dim3 grid = stride_grid(w->term.dim[0], LOSS_THREADS,
                                  (int64_t)cuda_state_of(be)->processors * BLOCKS_EACH);

    CUDA_TRY(cu::launch(position_counts_kernel, grid, LOSS_THREADS, 0,
                        cuda_stream(be, "position_counts"), sparse_rows_of(w, 0, rows),
                        (const int32_t *)w->argmax.data, (int)count->dim[0],
                        (unsigned long long *)count->data));
    return CSP_OK;
}

/* partial[block] = sum over this block's terms of sum[v]^2 (FLOPS) or sum[v] (L1). */
template <csp_reg_kind kind>
static __global__ void __launch_bounds__(LOSS_THREADS)
    regularize_value_kernel(const double *__restrict__ sum, // (V)
                            int64_t V,
                            double *__restrict__ partial) // (REG_BLOCKS)
{
    double total = 0.0;

    for (int64_t v = grid_thread(); v < V; v += grid_threads()) {
        total += kind == CSP_REG_FLOPS ? sum[v] * sum[v] : sum[v];
    }
    total = block_sum(total);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = total;
    }
}

/* value = (partial[0] + partial[1] + ...) / divisor, in that order. One warp. */
static __global__ void __launch_bounds__(32)
    regularize_total_kernel(const double *__restrict__ partial, // (REG_BLOCKS)
                            double divisor,
                            double *__restrict__ value) // (1)
{
    if (threadIdx.x == 0) {
        double total = 0.0;

        for (int i = 0; i < REG_BLOCKS; i++) {
            total += partial[i];
        }
        *value = total / divisor;
    }
}

/* dw[i] += factor · sum[term i] (FLOPS) or factor (L1) for the stored entries. Any grid works. */
template <csp_reg_kind kind>
static __global__ void __launch_bounds__(LOSS_THREADS)
    regularize_kernel(const sparse_rows w,
                      const double *__restrict__ sum, // (V)
                      double factor,
                      float *__restrict__ dw) // beside the entries
{
    const int64_t entries = w.row_ptr[w.rows];

    for (int64_t i = grid_thread(); i < entries; i += grid_threads()) {
        dw[i] += (float)(kind == CSP_REG_FLOPS ? factor * sum[w.term[i]] : factor);
    }
}

template <csp_reg_kind kind>
static csp_status enqueue_regularize(csp_backend *be, const csp_sparse *w, int64_t rows,
                                     const double *sum, double factor, float *dw, double *partial)
{
    cudaStream_t stream = cuda_stream(be, "regularize");
    const dim3 grid = stride_grid(w->term.dim[0], LOSS_THREADS,
                                  (int64_t)cuda_state_of(be)->processors * BLOCKS_EACH);

    CUDA_TRY(cu::launch(regularize_value_kernel<kind>, REG_BLOCKS, LOSS_THREADS, 0, stream, sum,
                        w->vocab, partial));
    CUDA_TRY(cu::launch(regularize_kernel<kind>, grid, LOSS_THREADS, 0, stream,
                        sparse_rows_of(w, 0, rows), sum, factor, dw));
    return CSP_OK;
}

csp_status cuda_regularize(csp_backend *be, csp_reg_kind kind, const csp_sparse *w, int64_t rows,
                           const csp_tensor *sum, int64_t M, float lambda, csp_tensor *dw,
                           csp_tensor *value)
{
    const double m = (double)M, weight = (double)lambda;
    const double *total = (const double *)sum->data;
    void *partial;

    CSP_TRY(cuda_scratch(be, REG_BLOCKS * sizeof(double), &partial));
    if (kind == CSP_REG_FLOPS) {
        CSP_TRY(enqueue_regularize<CSP_REG_FLOPS>(be, w, rows, total, 2.0 * weight / (m * m),
                                                  (float *)dw->data, (double *)partial));
    } else {
        CSP_TRY(enqueue_regularize<CSP_REG_L1>(be, w, rows, total, weight / m, (float *)dw->data,
                                               (double *)partial));
    }
    CUDA_TRY(cu::launch(regularize_total_kernel, 1, 32, 0, cuda_stream(be, "regularize"),
                        (const double *)partial, kind == CSP_REG_FLOPS ? m * m : m,
                        (double *)value->data));
    return CSP_OK;
}
