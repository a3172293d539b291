/*
 * reduce.cuh - sums (of floats, doubles or integers) and maxima over a warp and over a block,
 * the same bits on every run.
 *
 * All threads of the warp or block must call; all get the result. Blocks are whole warps.
 */
#pragma once

#include "portable.cuh"

#define FULL_WARP 0xFFFFFFFFu

/* Each run of `lanes` neighbours, a power of two, sums on its own; all lanes of the warp call. */
template <int lanes, typename T> static __device__ __forceinline__ T lanes_sum(T x)
{
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(FULL_WARP, x, offset);
    }
    return x;
}

/* A NaN loses against any number. */
template <int lanes> static __device__ __forceinline__ float lanes_max(float x)
{
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, offset));
    }
    return x;
}

template <typename T> static __device__ __forceinline__ T warp_sum(T x)
{
    return lanes_sum<32>(x);
}

static __device__ __forceinline__ float warp_max(float x)
{
    return lanes_max<32>(x);
}

/* The sum of x over this lane and those below. */
template <typename T> static __device__ __forceinline__ T warp_running_sum(T x)
{
    const unsigned lane = threadIdx.x % 32;

#pragma unroll
    for (unsigned offset = 1; offset < 32; offset *= 2) {
        const T below = __shfl_up_sync(FULL_WARP, x, offset);

        x += lane >= offset ? below : 0;
    }
    return x;
}

/*
 * Two barriers: behind the first all partial results are there for warp 0, behind the second
 * the total is. The next call may follow at once: it writes partial results, which warp 0 has read,
 * and its total behind its first barrier, when everybody has read this one.
 */
template <typename T> static __device__ __forceinline__ T block_sum(T x)
{
    SHARED(partial, T[32]);
    SHARED(total, T);
    const unsigned warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    x = warp_sum(x);
    if (lane == 0) {
        partial[warp] = x;
    }
    __syncthreads();
    if (warp == 0) {
        x = warp_sum(lane < warps ? partial[lane] : T(0));
        if (lane == 0) {
            total = x;
        }
    }
    __syncthreads();
    return total;
}

/* A NaN loses against any number. */
static __device__ __forceinline__ float block_max(float x)
{
    SHARED(partial, float[32]);
    SHARED(total, float);
    const unsigned warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    x = warp_max(x);
    if (lane == 0) {
        partial[warp] = x;
    }
    __syncthreads();
    if (warp == 0) {
        x = warp_max(lane < warps ? partial[lane] : -INFINITY);
        if (lane == 0) {
            total = x;
        }
    }
    __syncthreads();
    return total;
}
