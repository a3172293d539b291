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

/* What e4m3 ends at: 1.75 * 2^8. */
#define CSP_E4M3_MAX 448.0f

/*
 * OCP 8-bit float e4m3 (1 sign, 4 exponent, 3 fraction bits, bias 7; no infinities, both patterns
 * of ones are NaN) to float32. Exact, subnormals included.
 */
static inline CSP_HD float csp_e4m3_to_f32(uint8_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x80u) << 24;
    const uint32_t magnitude = bits & 0x7Fu;
    uint32_t wide;
    float value;

    if (magnitude < 8) {
        value = (float)magnitude * 0x1p-9f;
        return sign != 0 ? -value : value;
    }
    wide = magnitude == 0x7Fu ? sign | 0x7FC00000u : sign | ((magnitude + (120u << 3)) << 20);
    memcpy(&value, &wide, sizeof(value));
    return value;
}

/*
 * Rounds to nearest, ties to even; what is beyond the largest number, infinity too, becomes that
 * number; a NaN stays a NaN.
 */
static inline CSP_HD uint8_t csp_f32_to_e4m3(float value)
{
    uint32_t bits, magnitude, rounded;
    float size;

    memcpy(&bits, &value, sizeof(bits));
    magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) {
        rounded = 0x7Fu;
    } else if (magnitude >= 0x43E00000u) { /* CSP_E4M3_MAX */
        rounded = 0x7Eu;
    } else if (magnitude < 0x3C800000u) { /* 2^-6: subnormal, in steps of 2^-9 */
        memcpy(&size, &magnitude, sizeof(size));
        size += 0x1p14f; /* whose own steps are those */
        memcpy(&rounded, &size, sizeof(rounded));
        rounded &= 0xFu;
    } else {
        rounded = magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u);
        rounded = (rounded >> 20) - (120u << 3);
    }
    return (uint8_t)(rounded | (bits >> 24 & 0x80u));
}
