/*
 * vlog1p.h - log(1 + x) for x >= 0 in float32 without branches or tables, so that a loop over it
 * becomes vector code.
 *
 *     u = 1 + x rounded, u = 2^k m, sqrt(1/2) <= m < sqrt(2), f = m - 1
 *     log(1 + x) = k ln 2 + log(1 + f) + c / u,   c = (1 + x) - u, what rounding u lost
 *     log(1 + f) = f - s (f - R),   s = f / (2 + f),   R = z (2/3 + z (2/5 + z (2/7 + z 2/9))),   z
 * = s²
 *
 * The last line is the series of the inverse hyperbolic tangent, cut where |s| <= 0.172 leaves
 * 3e-9. Within 1 unit in the last place (tests/cpu/test_vlog1p.c); infinity stays infinity and NaN
 * a NaN.
 */
#pragma once

#include "cpu/vexp.h"

static inline float cpu_log1pf(float x)
{
    const float u = 1.0f + x;
    const float lost = x < 1.0f ? x - (u - 1.0f) : 1.0f - (u - x);
    /* Moves the exponent's step from 1 to sqrt(1/2). */
    const uint32_t moved = cpu_bits_of_float(u) + (0x3F800000u - 0x3F3504F3u);
    const float k = (float)((int32_t)(moved >> 23) - 127);
    const float f = cpu_float_of_bits((moved & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
    const float s = f / (2.0f + f);
    const float z = s * s;
    const float R = z * (0.66666667f + z * (0.4f + z * (0.28571429f + z * 0.22222222f)));
    /* ln 2 in two parts; the first has enough trailing zero bits for k times it to be exact. */
    const float low = k * -2.12194440e-4f + lost / u;
    const float value = k * 0.693359375f + (f - (s * (f - R) - low));

    /* Infinity has lost = NaN; a NaN fails the comparison too. */
    return x <= 3.40282347e+38f ? value : x;
}
