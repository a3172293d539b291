/*
 * linear_bias.cu - the bias of a linear map, and its gradient: sums over rows in two stages, each
 * column by one thread in the order of rows.
 *
 * Scratch: partial sums of dbias.
 */
#include "launch.cuh"
#include "linear.cuh"
#include "vec.cuh"

#define BIAS_THREADS 128
/* Rows that a partial sum of dbias takes at least, and how many partial sums there are at most. */
#define BIAS_ROWS 32
#define BIAS_PARTS 256

/* y = bias, or y + bias. Any grid works: threads stride over the elements of y. */
template <typename T, bool added>
static __global__ void __launch_bounds__(BIAS_THREADS)
    linear_bias_fwd_kernel(const T *__restrict__ bias, // (O)
                           linear_matrix<T> y,         // (N,O)
                           int64_t N, int64_t O)
{
    for (int64_t i = grid_thread(); i < N * O; i += grid_threads()) {
        const int64_t o = i % O;
        T *at = y.at + i / O * y.row + o;

        *at = added ? from_f32<T>(to_f32(*at) + to_f32(bias[o])) : bias[o];
    }
}

template <typename T>
csp_status cuda_linear_bias_fwd(csp_backend *be, bool add, const T *bias, int64_t N, int64_t O,
                                linear_matrix<T> y)
{
    const cuda_state *state = cuda_state_of(be);
    const dim3 grid = stride_grid(N * O, BIAS_THREADS, (int64_t)state->processors * 16);

    CUDA_TRY(cu::launch(add ? linear_bias_fwd_kernel<T, true> : linear_bias_fwd_kernel<T, false>,
                        grid, BIAS_THREADS, 0, state->stream, bias, y, N, O));
    return CSP_OK;
}

/*
 * partial[p,o] = sum of dy over the rows of part p. Grid: x over columns, y the parts; each thread
 * one column of one part, neighbours neighbouring columns.
 */
template <typename T>
static __global__ void __launch_bounds__(BIAS_THREADS)
    linear_bias_parts_kernel(linear_matrix<const T> dy,   // (N,O)
                             float *__restrict__ partial, // (parts,O)
                             int64_t N, int64_t O, int64_t rows)
{
    const int64_t o = grid_thread();
    const int64_t first = (int64_t)blockIdx.y * rows;
    const int64_t end = first + rows < N ? first + rows : N;
    float sum = 0.0f;

    if (o < O) {
        for (int64_t n = first; n < end; n++) {
            sum += to_f32(dy.at[n * dy.row + o]);
        }
        partial[(int64_t)blockIdx.y * O + o] = sum;
    }
}

/* dbias += partial sums in their order; a thread for each column. */
static __global__ void __launch_bounds__(BIAS_THREADS)
    linear_bias_sum_kernel(const float *__restrict__ partial, // (parts,O)
                           float *__restrict__ dbias,         // (O)
                           int64_t parts, int64_t O)
{
    const int64_t o = grid_thread();
    float sum = 0.0f;

    if (o < O) {
        for (int64_t p = 0; p < parts; p++) {
            sum += partial[p * O + o];
        }
        dbias[o] += sum;
    }
}

template <typename T>
csp_status cuda_linear_bias_bwd(csp_backend *be, int64_t N, int64_t O, linear_matrix<const T> dy,
                                float *dbias)
{
    const cudaStream_t stream = cuda_state_of(be)->stream;
    const int64_t least = ceil_div(N, BIAS_PARTS);
    const int64_t rows = least < BIAS_ROWS ? BIAS_ROWS : least;
    const int64_t parts = ceil_div(N, rows);
    const unsigned columns = (unsigned)ceil_div(O, BIAS_THREADS);
    void *partial;

    CSP_TRY(cuda_scratch(be, (size_t)(parts * O) * sizeof(float), &partial));
    CUDA_TRY(cu::launch(linear_bias_parts_kernel<T>, dim3(columns, (unsigned)parts), BIAS_THREADS,
                        0, stream, dy, (float *)partial, N, O, rows));
    CUDA_TRY(cu::launch(linear_bias_sum_kernel, dim3(columns), BIAS_THREADS, 0, stream,
                        (const float *)partial, dbias, parts, O));
    return CSP_OK;
}

template csp_status cuda_linear_bias_fwd<float>(csp_backend *, bool, const float *, int64_t,
                                                int64_t, linear_matrix<float>);
template csp_status cuda_linear_bias_fwd<__nv_bfloat16>(csp_backend *, bool, const __nv_bfloat16 *,
                                                        int64_t, int64_t,
                                                        linear_matrix<__nv_bfloat16>);
template csp_status cuda_linear_bias_bwd<float>(csp_backend *, int64_t, int64_t,
                                                linear_matrix<const float>, float *);
template csp_status cuda_linear_bias_bwd<__nv_bfloat16>(csp_backend *, int64_t, int64_t,
                                                        linear_matrix<const __nv_bfloat16>,
                                                        float *);
