/*
 * quantize.cuh - how a row becomes e4m3 (ops/quantize.h), for all kernels that make such rows: the
 * same operations in the same order, so the same bits.
 */
#pragma once

#include "core/scalar.h"
#include "ops/quantize.h"
#include "portable.cuh"
#include "vec.cuh"

/* The larger of most and the largest |t|; a NaN does not count. */
template <int W>
static __device__ __forceinline__ float quantize_largest(const float (&t)[W], float most)
{
#pragma unroll
    for (int i = 0; i < W; i++) {
        most = fmaxf(most, fabsf(t[i]));
    }
    return most;
}

/* The scale of a row whose largest |t| is most. */
static __device__ __forceinline__ float quantize_scale(float most)
{
    return fmaxf(most / CSP_E4M3_MAX, CSP_QUANTIZE_LEAST_SCALE);
}

/* Writes W neighbours of a row whose scale is 1 / inverse to q, a multiple of W bytes. */
template <int W>
static __device__ __forceinline__ void quantize_store(const float (&t)[W], float inverse,
                                                      uint8_t *q)
{
    if constexpr (W == 1) {
        *q = (uint8_t)cu::to_e4m3x2(t[0] * inverse, 0.0f);
    } else {
        uint32_t word[W / 4];

#pragma unroll
        for (int i = 0; i < W / 4; i++) {
            const float *four = t + 4 * i;

            word[i] = (uint32_t)cu::to_e4m3x2(four[0] * inverse, four[1] * inverse) |
                      (uint32_t)cu::to_e4m3x2(four[2] * inverse, four[3] * inverse) << 16;
        }
        store_words(q, word);
    }
}
