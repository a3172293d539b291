/*
 * vexp.h - exp in float32 without branches or tables, so that a loop over it becomes vector code.
 *
 *     exp(x) = 2^n · exp(r),   n = round(x / ln 2),   r = x - n ln 2,   |r| <= 0.35
 *
 * exp(r) is 1 + r + r² p(r) with p of degree 5 (the minimax coefficients of the Cephes library's
 * expf, S. Moshier). Within 2 units in the last place of the true value (tests/cpu/test_vexp.c goes
 * through every 97th float); above 88.72 infinity, below -87.33 gradually down to 0; NaN stays NaN.
 */
#pragma once

#include <stdint.h>
#include <string.h>

static inline float cpu_float_of_bits(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof(x));
    return x;
}

static inline uint32_t cpu_bits_of_float(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static inline float cpu_expf(float x)
{
    /* Adding 1.5·2^23 rounds to an integer, which then stands in the low bits. */
    const float shift = 12582912.0f;
    const float high = x > 89.0f ? 89.0f : x; /* comparisons that keep a NaN */
    const float clamped = high < -104.0f ? -104.0f : high;
    const float shifted = clamped * 1.44269504088896341f + shift;
    const float n = shifted - shift;
    /* ln 2 in two parts; the first has 15 trailing zero bits: n times it is exact. */
    const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
    const int32_t i = (int32_t)(cpu_bits_of_float(shifted) - cpu_bits_of_float(shift));
    /* 2^n in two factors, each a normal number, so that both ends of the range come out right. */
    const int32_t half = i >> 1;
    const float a = cpu_float_of_bits((uint32_t)(half + 127) << 23);
    const float b = cpu_float_of_bits((uint32_t)(i - half + 127) << 23);
    float p = 1.9875691500e-4f;

    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * a * b;
}
