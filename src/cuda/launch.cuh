/*
 * launch.cuh - what launchers share: the grid for a number of items, limits, CUDA errors as status.
 */
#pragma once

#include <string.h>

#include "core/status.h"
#include "portable.cuh"

/* Blocks of a grid in x; y and z end at CUDA_GRID_YZ. */
#define CUDA_GRID_X 2147483647
#define CUDA_GRID_YZ 65535
/* Dynamic shared memory that every launch may have; above it cu::allow_shared is needed. */
#define CUDA_SHARED_FREELY (48 * 1024)

/*
 * Use around every call of the CUDA runtime and every cu::launch in a function that returns
 * csp_status. The text names the call up to its first comma, for a launch therefore the kernel.
 */
#define CUDA_TRY(call)                                                \
    do {                                                              \
        const cudaError_t cuda_try_ = (call);                         \
        if (cuda_try_ != cudaSuccess) {                               \
            return cuda_failed(cuda_try_, #call, __FILE__, __LINE__); \
        }                                                             \
    } while (0)

/* Out of memory is CSP_ERR_MEMORY, all else CSP_ERR_DEVICE. Clears an error that is not sticky. */
static inline csp_status cuda_failed(cudaError_t error, const char *call, const char *file,
                                     int line)
{
    const csp_status status = error == cudaErrorMemoryAllocation ? CSP_ERR_MEMORY : CSP_ERR_DEVICE;

    (void)cudaGetLastError();
    return csp_error_set(status, file, line, "%.*s: %s (%s)", (int)strcspn(call, ","), call,
                         cudaGetErrorString(error), cudaGetErrorName(error));
}

static inline __host__ __device__ int64_t ceil_div(int64_t n, int64_t by)
{
    return (n + by - 1) / by;
}

/*
 * The grid for a kernel whose threads stride over items: as many blocks as it takes, at most
 * most_blocks (what fills the device: more would only wait), at least one.
 */
static inline dim3 stride_grid(int64_t items, int threads, int64_t most_blocks)
{
    int64_t blocks = ceil_div(items, threads);

    if (most_blocks > CUDA_GRID_X) {
        most_blocks = CUDA_GRID_X;
    }
    if (blocks > most_blocks) {
        blocks = most_blocks;
    }
    return dim3((unsigned)(blocks < 1 ? 1 : blocks));
}

/* This thread's place in a grid of one dimension, and how many threads the grid has. */
static __device__ __forceinline__ int64_t grid_thread()
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ int64_t grid_threads()
{
    return (int64_t)gridDim.x * blockDim.x;
}
