/*
 * scalar.h - pure functions of one number, shared by host and device code.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define CSP_HD __host__ __device__
#else
#define CSP_HD
#endif

/* bfloat16 is the upper half of a float32. Exact. */
static inline CSP_HD float csp_bf16_to_f32(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;

    memcpy(&value, &wide, sizeof(value));
    return value;
}

/* Rounds to nearest, ties to even; a NaN stays a (quiet) NaN. */
static inline CSP_HD uint16_t csp_f32_to_bf16(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
        return (uint16_t)((bits >> 16) | 0x0040u);
    }
    bits += 0x7FFFu + ((bits >> 16) & 1u);
    return (uint16_t)(bits >> 16);
}

/*
 * Rounds away from zero with the probability that makes the mean of the result the value, given 16
 * uniform random bits. What is not finite is as above.
 */
static inline CSP_HD uint16_t csp_f32_to_bf16_random(float value, uint32_t random)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7F800000u) == 0x7F800000u) {
        return csp_f32_to_bf16(value);
    }
    return (uint16_t)((bits + (random & 0xFFFFu)) >> 16);
}

/* IEEE half precision to float32. Exact, subnormals included. */
static inline CSP_HD float csp_f16_to_f32(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    const uint32_t exponent = (bits >> 10) & 0x1Fu;
    const uint32_t fraction = bits & 0x3FFu;
    uint32_t wide;
    float value;

    if (exponent == 0) {
        value = (float)fraction * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    wide = exponent == 31 ? sign | 0x7F800000u | (fraction << 13)
                          : sign | ((exponent + 112u) << 23) | (fraction << 13);
    memcpy(&value, &wide, sizeof(value));
    return value;
}
