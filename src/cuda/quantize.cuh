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
    vec_of<uint8_t, W> out;

#pragma unroll
    for (int i = 0; i < W; i += 2) {
        const uint16_t pair = cu::to_e4m3x2(t[i] * inverse, i + 1 < W ? t[i + 1] * inverse : 0.0f);

        out.at[i] = (uint8_t)pair;
        if (i + 1 < W) {
            out.at[i + 1] = (uint8_t)(pair >> 8);
        }
    }
    *reinterpret_cast<vec_of<uint8_t, W> *>(q) = out;
}
