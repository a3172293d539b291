/*
 * bfloat.cu - conformance of bf16: conversions and the intrinsics of cuda_bf16.h.
 *
 * Sums and products of two bf16 are the same rounded once or by way of f32; __hfma is not, and the
 * functions are approximations: those may be one unit of bf16 apart.
 */
#include "cases.h"

enum { N = 512, THREADS = 128, BLOCKS = N / THREADS };

#define UNIT_BF16 0x1p-7

static __device__ __forceinline__ uint32_t bits_of(__nv_bfloat16 x)
{
    return __bfloat16_as_ushort(x);
}

static __device__ __forceinline__ uint32_t bits_of(__nv_bfloat162 x)
{
    return bits_of(__low2bfloat16(x)) | bits_of(__high2bfloat16(x)) << 16;
}

/* The upper half of a word that is a float, as bf16: numbers of all sizes, or normal ones. */
static __device__ __forceinline__ __nv_bfloat16 bfloat_of(uint32_t word)
{
    return __ushort_as_bfloat16((unsigned short)(word >> 16));
}

static __global__ void from_float_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const float x = __uint_as_float(in[2 * i]), y = __uint_as_float(in[2 * i + 1]);

    out[2 * i] = bits_of(__float2bfloat16_rn(x));
    out[2 * i + 1] = bits_of(__floats2bfloat162_rn(x, y));
}

/* Halfway between two bf16 or just beside: ties go to the even one. */
static __global__ void tie_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const uint32_t tie = (in[i] & 0xFFFF0000u) | (0x7FFFu + (uint32_t)(i % 3));

    out[i] = bits_of(__float2bfloat16_rn(__uint_as_float(tie)));
}

static __global__ void to_float_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const __nv_bfloat162 pair = __halves2bfloat162(bfloat_of(in[i]), bfloat_of(in[i] << 16));
    const float2 both = __bfloat1622float2(pair);

    out[3 * i] = __float_as_uint(__bfloat162float(bfloat_of(in[i])));
    out[3 * i + 1] = __float_as_uint(both.x);
    out[3 * i + 2] = __float_as_uint(both.y);
}

static __global__ void arithmetic_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const __nv_bfloat16 x = bfloat_of(in[2 * i]), y = bfloat_of(in[2 * i + 1]);
    const __nv_bfloat162 pair = __halves2bfloat162(x, y), other = __halves2bfloat162(y, y);

    out[6 * i] = bits_of(__hadd(x, y));
    out[6 * i + 1] = bits_of(__hsub(x, y));
    out[6 * i + 2] = bits_of(__hmul(x, y));
    out[6 * i + 3] = bits_of(__hmax(x, y)) | bits_of(__hmin(x, y)) << 16;
    out[6 * i + 4] = (uint32_t)__hgt(x, y) | (uint32_t)__heq(x, y) << 1;
    out[6 * i + 5] = bits_of(__hmul2(pair, other));
}

static __global__ void fused_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const __nv_bfloat16 x = bfloat_of(in[3 * i]), y = bfloat_of(in[3 * i + 1]);
    const __nv_bfloat16 z = bfloat_of(in[3 * i + 2]);

    /* All positive: nothing cancels, so that a unit of the result is one of each term. */
    out[i] = bits_of(__hfma2(__halves2bfloat162(__habs(x), __habs(y)),
                             __halves2bfloat162(__habs(y), __habs(z)),
                             __halves2bfloat162(__habs(z), __habs(x))));
}

static __global__ void function_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const __nv_bfloat16 x = bfloat_of(in[i]);

    out[2 * i] = bits_of(hexp(x));
    out[2 * i + 1] = bits_of(hrsqrt(__habs(x))) | bits_of(hsqrt(__habs(x))) << 16;
}

static const conform_case cases[] = {
    { "float to bf16", from_float_kernel, BLOCKS, THREADS, 0, 2 * N, 2 * N, INPUT_FLOATS, RULE_BITS,
      0 },
    { "any bits to bf16", from_float_kernel, BLOCKS, THREADS, 0, 2 * N, 2 * N, INPUT_BITS,
      RULE_BITS, 0 },
    { "ties to bf16", tie_kernel, BLOCKS, THREADS, 0, N, N, INPUT_FLOATS, RULE_BITS, 0 },
    { "bf16 to float", to_float_kernel, BLOCKS, THREADS, 0, N, 3 * N, INPUT_FLOATS, RULE_BITS, 0 },
    { "bf16 arithmetic", arithmetic_kernel, BLOCKS, THREADS, 0, 2 * N, 6 * N, INPUT_NORMALS,
      RULE_BITS, 0 },
    { "bf16 fma", fused_kernel, BLOCKS, THREADS, 0, 3 * N, N, INPUT_NORMALS, RULE_BFLOATS,
      UNIT_BF16 },
    { "bf16 functions", function_kernel, BLOCKS, THREADS, 0, N, 2 * N, INPUT_NORMALS, RULE_BFLOATS,
      2 * UNIT_BF16 },
};

conform_group conform_bfloat_cases(void)
{
    return CONFORM_GROUP(cases);
}
