/*
 * dropout.c - counter-based masks, bound by arithmetic.
 *
 * Philox multiplies 32-bit numbers to 64 bits, which AVX2 does for four blocks at a time if each
 * number has a 64-bit lane of its own; the compiler does not find that by itself. The words are
 * those of csp_rng_u32x4, bit for bit, on every path; the sanitizer build takes the plain one.
 */
#include "cpu/dropout.h"

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#include <immintrin.h>
#endif

#include "core/rng.h"
#include "cpu/cpu.h"

enum { BLOCKS = 16, CHANNELS = 4 * BLOCKS };

/* What turns words of a sequence into mask elements. */
typedef struct mask_source {
    csp_rng rng;
    float p, scale; /* scale = 1/(1-p) */
} mask_source;

/* m[0..CHANNELS) = 0 or scale, from blocks first, first + 1, ... of the sequence. */
static void draw(const mask_source *s, uint64_t first, float *m)
{
    for (int block = 0; block < BLOCKS; block++) {
        uint32_t word[4];

        csp_rng_u32x4(s->rng, first + (uint64_t)block, word);
        for (int j = 0; j < 4; j++) {
            m[4 * block + j] = (float)(word[j] >> 8) * 0x1p-24f >= s->p ? s->scale : 0.0f;
        }
    }
}

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)

/* Eight words to eight mask elements. */
__attribute__((target("avx2"))) static inline __m256 keep_words(__m256i word, __m256 p,
                                                                __m256 scale)
{
    const __m256 x =
        _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(word, 8)), _mm256_set1_ps(0x1p-24f));

    return _mm256_and_ps(_mm256_cmp_ps(x, p, _CMP_GE_OQ), scale);
}

/* Four blocks, one in each 64-bit lane; only the low halves of lanes count until the end. */
__attribute__((target("avx2"))) static void draw_four(const mask_source *s, uint64_t first,
                                                      float *m)
{
    const __m256i low = _mm256_set1_epi64x(0xFFFFFFFF);
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    const __m256 p = _mm256_set1_ps(s->p), scale = _mm256_set1_ps(s->scale);
    __m256i c0 =
        _mm256_add_epi64(_mm256_set1_epi64x((int64_t)first), _mm256_set_epi64x(3, 2, 1, 0));
    __m256i c1 = _mm256_srli_epi64(c0, 32);
    __m256i c2 = _mm256_set1_epi64x((int64_t)s->rng.step), c3 = _mm256_srli_epi64(c2, 32);
    uint32_t k0 = (uint32_t)s->rng.seed ^ (s->rng.key * 0x85EBCA6Bu);
    uint32_t k1 = (uint32_t)(s->rng.seed >> 32) ^ ((s->rng.draw + 1u) * 0xC2B2AE35u);
    __m256i a, b;

    for (int round = 0; round < 10; round++) {
        const __m256i p0 = _mm256_mul_epu32(c0, m0), p1 = _mm256_mul_epu32(c2, m1);

        c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1),
                              _mm256_set1_epi64x(k0));
        c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3),
                              _mm256_set1_epi64x(k1));
        c1 = p1;
        c3 = p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    /* Words 0 and 1 of each block into one lane, 2 and 3 into another, then blocks in order. */
    c0 = _mm256_or_si256(_mm256_and_si256(c0, low), _mm256_slli_epi64(c1, 32));
    c2 = _mm256_or_si256(_mm256_and_si256(c2, low), _mm256_slli_epi64(c3, 32));
    a = _mm256_unpacklo_epi64(c0, c2);
    b = _mm256_unpackhi_epi64(c0, c2);
    _mm256_storeu_ps(m, keep_words(_mm256_permute2x128_si256(a, b, 0x20), p, scale));
    _mm256_storeu_ps(m + 8, keep_words(_mm256_permute2x128_si256(a, b, 0x31), p, scale));
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

#else

/* Never called: keeps the one caller free of conditions on the processor. */
static void draw_four(const mask_source *s, uint64_t first, float *m)
{
    draw(s, first, m);
}

static bool has_avx2(void)
{
    return false;
}

#endif

static void draw_chunk(const mask_source *s, uint64_t first, bool four, float *m)
{
    if (!four) {
        draw(s, first, m);
        return;
    }
    for (int block = 0; block < BLOCKS; block += 4) {
        draw_four(s, first + (uint64_t)block, m + 4 * block);
    }
}

/* out = m ⊙ in, or out += m ⊙ in. */
CPU_CLONES static void apply(const float *m, const float *in, bool add, float *out, int64_t n)
{
    if (add) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            out[i] += m[i] * in[i];
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            out[i] = m[i] * in[i];
        }
    }
}

/* One row; first is row_key * 262144, a multiple of 4: each block gives four neighbours. */
static void mask_row(const mask_source *s, uint64_t first, int64_t I, const float *in, float *out,
                     const float *branch, float *sum)
{
    const bool four = has_avx2();
    float m[CHANNELS];

    for (int64_t start = 0; start < I; start += CHANNELS) {
        const int64_t n = I - start < CHANNELS ? I - start : CHANNELS;

        draw_chunk(s, (first + (uint64_t)start) / 4, four, m);
        if (out != NULL) {
            apply(m, in + start, false, out + start, n);
        }
        if (sum != NULL) {
            apply(m, branch + start, true, sum + start, n);
        }
    }
}

void cpu_dropout_rows(csp_backend *be, const csp_dropout *d, int64_t first, int64_t rows, int64_t I,
                      const float *in, float *out, const float *branch, float *sum)
{
    const int64_t *row_key = (const int64_t *)d->row_key.data + first;
    const mask_source source = { { d->seed, CSP_DRAW_DROPOUT, d->key, d->step },
                                 d->p,
                                 1.0f / (1.0f - d->p) };

#pragma omp parallel for num_threads(cpu_parts(be, rows *I * 4)) schedule(static)
    for (int64_t n = 0; n < rows; n++) {
        mask_row(&source, (uint64_t)row_key[n] * 65536 * 4, I, in != NULL ? in + n * I : NULL,
                 out != NULL ? out + n * I : NULL, branch != NULL ? branch + n * I : NULL,
                 sum != NULL ? sum + n * I : NULL);
    }
}
