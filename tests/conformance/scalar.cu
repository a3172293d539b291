/*
 * scalar.cu - conformance of functions of one element: integer intrinsics, conversions, rounding,
 * and how far the device's exp, log and roots are from the CPU's.
 *
 * Limits of RULE_RELATIVE: the error that the CUDA C++ Programming Guide states for the device,
 * plus one unit (2^-23) for the CPU's function and one for the difference of two roundings.
 */
#include "cases.h"

enum { N = 512, THREADS = 128, BLOCKS = N / THREADS };

#define UNIT 0x1p-23

static __global__ void integer_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const uint32_t x = in[2 * i], y = in[2 * i + 1];
    const uint64_t wide = (uint64_t)x << 32 | y;
    uint32_t *to = out + 8 * i;

    to[0] = (uint32_t)__popc(x);
    to[1] = (uint32_t)__clz((int)(x >> (y & 31)));
    to[2] = (uint32_t)__ffs((int)(x << (y & 31)));
    to[3] = __brev(x);
    to[4] = __umulhi(x, y);
    to[5] = (uint32_t)__popcll(wide);
    to[6] = (uint32_t)__clzll((long long)(wide >> (x & 63)));
    to[7] = (uint32_t)__ffsll((long long)(wide << (y & 63)));
}

static __global__ void to_integer_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const float x = __uint_as_float(in[i]);

    out[2 * i] = (uint32_t)__float2int_rn(x);
    out[2 * i + 1] = __float2uint_rn(x);
}

static __global__ void rounding_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const float x = __uint_as_float(in[3 * i]), y = __uint_as_float(in[3 * i + 1]);
    const float z = __uint_as_float(in[3 * i + 2]);
    uint32_t *to = out + 8 * i;

    to[0] = __float_as_uint(__fadd_rn(x, y));
    to[1] = __float_as_uint(__fsub_rn(x, y));
    to[2] = __float_as_uint(__fmul_rn(x, y));
    to[3] = __float_as_uint(__fdiv_rn(x, y));
    to[4] = __float_as_uint(__fmaf_rn(x, y, z));
    to[5] = __float_as_uint(__fsqrt_rn(fabsf(x)));
    to[6] = __float_as_uint(__frcp_rn(y));
    to[7] = __float_as_uint(x / y);
}

/* Largest and smallest, with NaN and both zeros among the inputs. */
static __global__ void extreme_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const float nan = __uint_as_float(0x7FC00000u);
    const float x = i % 5 == 0 ? nan : __uint_as_float(in[2 * i]);
    const float y = i % 7 == 0 ? nan : __uint_as_float(in[2 * i + 1]);

    out[4 * i] = __float_as_uint(fmaxf(x, y));
    out[4 * i + 1] = __float_as_uint(fminf(x, y));
    out[4 * i + 2] = __float_as_uint(max(x, y));
    out[4 * i + 3] = __float_as_uint(min(x, y));
}

static __global__ void tf32_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();

    out[i] = cu::to_tf32(__uint_as_float(in[i])) & 0xFFFFE000u;
}

/* Of all sizes, around the range of e4m3, and within it; no NaN, whose sign is undefined. */
static __global__ void e4m3_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const float x = __uint_as_float(in[2 * i]), y = __uint_as_float(in[2 * i + 1]);
    const float scale = i % 3 == 0 ? 0x1p-8f : i % 3 == 1 ? 100.0f : 1.0f;

    out[2 * i] = cu::to_e4m3x2(x * scale, y * scale);
    out[2 * i + 1] = cu::to_e4m3x2(y, -x);
}

static __global__ void exp2_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    /* All of 2^-126 .. 2^128, and beyond both ends. */
    const float x = 40.0f * __uint_as_float(in[i]);

    out[i] = __float_as_uint(cu::exp2_approx(i % 4 == 0 ? x : x * 0.05f));
}

static __global__ void reciprocal_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const float x = __uint_as_float(in[i]);

    /* Of ordinary numbers, of large ones, and of 0, infinity and what counts as 0. */
    out[2 * i] = __float_as_uint(cu::reciprocal_approx(i % 2 == 0 ? x : x * 0x1p120f));
    out[2 * i + 1] = __float_as_uint(cu::reciprocal_approx(i % 3 == 0   ? copysignf(0.0f, x)
                                                           : i % 3 == 1 ? copysignf(INFINITY, x)
                                                                        : x * 0x1p-140f));
}

static __global__ void exp_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();

    out[i] = __float_as_uint(expf(5.0f * __uint_as_float(in[i])));
}

/* Its error grows with the exponent: 2 + 1.173 |x| units, |x| at most 8 here. */
static __global__ void exp_intrinsic_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();

    out[i] = __float_as_uint(__expf(fminf(fmaxf(__uint_as_float(in[i]), -8.0f), 8.0f)));
}

static __global__ void log1p_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();

    out[i] = __float_as_uint(log1pf(__uint_as_float(in[i])));
}

/* Away from 1, where the logarithm has no size to be relative to. */
static __global__ void log_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();

    out[i] = __float_as_uint(logf(2.0f + __uint_as_float(in[i])));
}

static __global__ void root_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const float x = __uint_as_float(in[i]);

    out[2 * i] = __float_as_uint(rsqrtf(x));
    out[2 * i + 1] = __float_as_uint(__frsqrt_rn(x));
}

static __global__ void square_root_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();

    out[i] = __float_as_uint(sqrtf(__uint_as_float(in[i])));
}

/* The functions in double that losses and norms use, seen as floats. */
static __global__ void double_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const double x = (double)__uint_as_float(in[i]);

    out[4 * i] = __float_as_uint((float)exp(-0.5 * x));
    out[4 * i + 1] = __float_as_uint((float)log(2.0 + x));
    out[4 * i + 2] = __float_as_uint((float)log1p(x));
    out[4 * i + 3] = __float_as_uint((float)sqrt(x));
}

static const conform_case cases[] = {
    { "integers", integer_kernel, BLOCKS, THREADS, 0, 2 * N, 8 * N, INPUT_BITS, RULE_BITS, 0 },
    { "to integers", to_integer_kernel, BLOCKS, THREADS, 0, N, 2 * N, INPUT_BITS, RULE_BITS, 0 },
    { "rounded operations", rounding_kernel, BLOCKS, THREADS, 0, 3 * N, 8 * N, INPUT_FLOATS,
      RULE_FLOATS, 0 },
    { "largest and smallest", extreme_kernel, BLOCKS, THREADS, 0, 2 * N, 4 * N, INPUT_FLOATS,
      RULE_FLOATS, 0 },
    { "to tf32", tf32_kernel, BLOCKS, THREADS, 0, N, N, INPUT_FLOATS, RULE_BITS, 0 },
    { "to e4m3", e4m3_kernel, BLOCKS, THREADS, 0, 2 * N, 2 * N, INPUT_NORMALS, RULE_BITS, 0 },
    { "exp2_approx", exp2_kernel, BLOCKS, THREADS, 0, N, N, INPUT_NORMALS, RULE_RELATIVE,
      0x1p-22 + 2 * UNIT },
    { "reciprocal_approx", reciprocal_kernel, BLOCKS, THREADS, 0, N, 2 * N, INPUT_NORMALS,
      RULE_RELATIVE, 2 * UNIT },
    { "expf", exp_kernel, BLOCKS, THREADS, 0, N, N, INPUT_NORMALS, RULE_RELATIVE, 4 * UNIT },
    { "__expf", exp_intrinsic_kernel, BLOCKS, THREADS, 0, N, N, INPUT_NORMALS, RULE_RELATIVE,
      (4 + 1.173 * 8) * UNIT },
    { "log1pf", log1p_kernel, BLOCKS, THREADS, 0, N, N, INPUT_POSITIVE, RULE_RELATIVE, 3 * UNIT },
    { "logf", log_kernel, BLOCKS, THREADS, 0, N, N, INPUT_POSITIVE, RULE_RELATIVE, 3 * UNIT },
    { "rsqrtf", root_kernel, BLOCKS, THREADS, 0, N, 2 * N, INPUT_POSITIVE, RULE_RELATIVE,
      4 * UNIT },
    { "sqrtf", square_root_kernel, BLOCKS, THREADS, 0, N, N, INPUT_POSITIVE, RULE_FLOATS, 0 },
    { "functions in double", double_kernel, BLOCKS, THREADS, 0, N, 4 * N, INPUT_POSITIVE,
      RULE_RELATIVE, UNIT },
};

conform_group conform_scalar_cases(void)
{
    return CONFORM_GROUP(cases);
}
