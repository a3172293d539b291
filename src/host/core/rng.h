/*
 * rng.h - counter-based random numbers (Philox4x32-10).
 *
 * A draw is a pure function of seed, purpose, step and index: no state is saved, and CPU, CUDA, any
 * thread count and a resumed run agree.
 *
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x32-10).
 */
#pragma once

#include <math.h>
#include <stdint.h>

#include "core/scalar.h"

/* What a number is drawn for. Never renumber: checkpoints and fixtures depend on it. */
typedef enum csp_draw {
    CSP_DRAW_INIT_LORA = 0,
    CSP_DRAW_SHUFFLE = 1,
    CSP_DRAW_NEGATIVES = 2,
    CSP_DRAW_DROPOUT = 3,
    CSP_DRAW_INIT_MODEL = 4,
    CSP_DRAW_POSITIVE = 5,
    CSP_DRAW_TEST = 6,
    CSP_DRAW_ROUNDING = 7
} csp_draw;

/* One sequence of numbers. key distinguishes sequences of one purpose (a tensor, a layer). */
typedef struct csp_rng {
    uint64_t seed;
    uint32_t draw; /* a csp_draw */
    uint32_t key;
    uint64_t step;
} csp_rng;

/* Four independent uniform 32-bit words: number index of the sequence rng. Host and device. */
static inline CSP_HD void csp_rng_u32x4(csp_rng rng, uint64_t index, uint32_t out[4])
{
    /* index and step fill the 128-bit counter; purpose and key are folded into the 64-bit key. */
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)rng.step, c3 = (uint32_t)(rng.step >> 32);
    uint32_t k0 = (uint32_t)rng.seed ^ (rng.key * 0x85EBCA6Bu);
    uint32_t k1 = (uint32_t)(rng.seed >> 32) ^ ((rng.draw + 1u) * 0xC2B2AE35u);

    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        const uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;

        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Word number index of the sequence: four indices share one Philox block. */
static inline CSP_HD uint32_t csp_rng_u32(csp_rng rng, uint64_t index)
{
    uint32_t words[4];

    csp_rng_u32x4(rng, index >> 2, words);
    return words[index & 3];
}

/* Uniform in [0, 1), 24 bits. */
static inline CSP_HD float csp_rng_uniform(csp_rng rng, uint64_t index)
{
    return (float)(csp_rng_u32(rng, index) >> 8) * 0x1p-24f;
}

/* Uniform integer in [0, n), n >= 1: the high half of (64 random bits) * n, bias below n / 2^64. */
static inline CSP_HD uint64_t csp_rng_below(csp_rng rng, uint64_t index, uint64_t n)
{
    const uint64_t n_hi = n >> 32, n_lo = n & 0xFFFFFFFFu;
    uint32_t w[4];
    uint64_t lo_lo, hi_lo, lo_hi, middle;

    csp_rng_u32x4(rng, index, w);
    /* In 32-bit halves, because device compilers lack a portable 128-bit product. */
    lo_lo = (uint64_t)w[1] * n_lo;
    hi_lo = (uint64_t)w[0] * n_lo;
    lo_hi = (uint64_t)w[1] * n_hi;
    middle = (lo_lo >> 32) + (hi_lo & 0xFFFFFFFFu) + (lo_hi & 0xFFFFFFFFu);
    return (uint64_t)w[0] * n_hi + (hi_lo >> 32) + (lo_hi >> 32) + (middle >> 32);
}

/* Standard normal by Box-Muller in double, rounded once: numbers index of the sequence. */
static inline CSP_HD float csp_rng_normal(csp_rng rng, uint64_t index)
{
    uint32_t w[4];
    double u, angle;

    csp_rng_u32x4(rng, index, w);
    u = ((double)w[0] + 1.0) * 0x1p-32; /* (0, 1]: the logarithm is finite */
    angle = 6.283185307179586 * ((double)w[1] * 0x1p-32);
    return (float)(sqrt(-2.0 * log(u)) * cos(angle));
}

/*
 * Position `index` of a pseudo-random permutation of 0..n-1, n >= 1, without a table: a four-round
 * Feistel network over the next even power of two, walked until it lands inside. Constant memory,
 * and any position can be asked for, which is what makes a shuffle resumable.
 */
static inline CSP_HD uint64_t csp_rng_permute(csp_rng rng, uint64_t index, uint64_t n)
{
    uint32_t width = 1;
    uint64_t x = index;

    while (width < 32 && ((uint64_t)1 << (2 * width)) < n) {
        width++;
    }
    do {
        const uint64_t mask = ((uint64_t)1 << width) - 1;
        uint64_t left = x >> width, right = x & mask;

        for (uint32_t round = 0; round < 4; round++) {
            uint32_t w[4];
            uint64_t next;

            csp_rng_u32x4(rng, (right << 3) | round, w);
            next = left ^ ((((uint64_t)w[0] << 32) | w[1]) & mask);
            left = right;
            right = next;
        }
        x = (left << width) | right;
    } while (x >= n);
    return x;
}
