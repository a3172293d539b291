/*
 * norm_bad_row.cu - CUDA side of csp_norm_bad_row: one block reads N numbers of rstd and the first
 * row of y. Only whole numbers are atomic.
 */
#include "device.h"
#include "launch.cuh"
#include "vec.cuh"

#define CHECK_THREADS 1024

template <typename T>
static __global__ void __launch_bounds__(CHECK_THREADS)
    norm_bad_row_kernel(const float *__restrict__ rstd, // (N)
                        const T *__restrict__ y,        // (N,D)
                        int64_t N, int64_t D,
                        int64_t *__restrict__ row) // (1)
{
    SHARED(first, unsigned long long);
    SHARED(spoilt, int); /* elements of the first row */
    int mine = 0;

    if (threadIdx.x == 0) {
        first = (unsigned long long)N;
        spoilt = 0;
    }
    __syncthreads();
    for (int64_t n = threadIdx.x; n < N; n += CHECK_THREADS) {
        if (!(rstd[n] > 0.0f && isfinite(rstd[n]))) {
            atomicMin(&first, (unsigned long long)n);
            break;
        }
    }
    for (int64_t d = threadIdx.x; N > 0 && d < D; d += CHECK_THREADS) {
        mine += !isfinite(to_f32(y[d]));
    }
    if (mine > 0) {
        atomicAdd(&spoilt, mine);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        *row = (int64_t)first < N ? (int64_t)first : spoilt > 0 ? 0 : -1;
    }
}

csp_status cuda_norm_bad_row(csp_backend *be, const csp_tensor *rstd, const csp_tensor *y,
                             csp_tensor *row)
{
    cudaStream_t stream = cuda_stream(be, "norm_bad_row");
    const float *r = (const float *)rstd->data;
    const int64_t N = y->dim[0], D = y->dim[1];

    if (y->dtype == CSP_BF16) {
        CUDA_TRY(cu::launch(norm_bad_row_kernel<__nv_bfloat16>, 1, CHECK_THREADS, 0, stream, r,
                            (const __nv_bfloat16 *)y->data, N, D, (int64_t *)row->data));
    } else {
        CUDA_TRY(cu::launch(norm_bad_row_kernel<float>, 1, CHECK_THREADS, 0, stream, r,
                            (const float *)y->data, N, D, (int64_t *)row->data));
    }
    return CSP_OK;
}
