/*
 * intrinsics_cpu.cuh - CUDA's scalar device functions that host headers lack, for the emulator.
 *
 * Included by portable_cpu.cuh only. The approximate functions are the exact ones here.
 */
#pragma once

#include <cmath>
#include <cstring>

#include <cuda_bf16.h>

/* glibc declares functions of these names, so only macros can take them. */
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __sincosf(x, s, c) sincosf(x, s, c)

static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

static inline double rsqrt(double x)
{
    return 1.0 / sqrt(x);
}

static inline float __frsqrt_rn(float x)
{
    return (float)(1.0 / sqrt((double)x));
}

static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}

static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}

static inline float __fdividef(float x, float y)
{
    return x / y;
}

static inline float __fdiv_rn(float x, float y)
{
    return x / y;
}

static inline float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}

/* Through volatile: these must not be contracted with a neighbouring operation. */
static inline float __fadd_rn(float x, float y)
{
    const volatile float sum = x + y;

    return sum;
}

static inline float __fsub_rn(float x, float y)
{
    const volatile float difference = x - y;

    return difference;
}

static inline float __fmul_rn(float x, float y)
{
    const volatile float product = x * y;

    return product;
}

static inline float __saturatef(float x)
{
    return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}

template <typename T, typename F> static inline T emu_same_bits(F from)
{
    static_assert(sizeof(T) == sizeof(F), "the same size");
    T to;

    memcpy(&to, &from, sizeof(to));
    return to;
}

static inline float __int_as_float(int bits)
{
    return emu_same_bits<float>(bits);
}

static inline float __uint_as_float(unsigned bits)
{
    return emu_same_bits<float>(bits);
}

static inline int __float_as_int(float value)
{
    return emu_same_bits<int>(value);
}

static inline unsigned __float_as_uint(float value)
{
    return emu_same_bits<unsigned>(value);
}

static inline double __longlong_as_double(long long bits)
{
    return emu_same_bits<double>(bits);
}

static inline long long __double_as_longlong(double value)
{
    return emu_same_bits<long long>(value);
}

/* Conversions saturate and turn a NaN into 0, as on the device. */
static inline int __float2int_rn(float x)
{
    const float whole = rintf(x);

    if (!(whole >= -0x1p31f)) {
        return x != x ? 0 : INT32_MIN;
    }
    return whole >= 0x1p31f ? INT32_MAX : (int)whole;
}

static inline unsigned __float2uint_rn(float x)
{
    const float whole = rintf(x);

    if (!(whole > 0.0f)) {
        return 0;
    }
    return whole >= 0x1p32f ? UINT32_MAX : (unsigned)whole;
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}

static inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz((unsigned)x);
}

static inline int __clzll(long long x)
{
    return x == 0 ? 64 : __builtin_clzll((unsigned long long)x);
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}

static inline unsigned __brev(unsigned x)
{
    unsigned y = 0;

    for (int i = 0; i < 32; i++) {
        y |= ((x >> i) & 1u) << (31 - i);
    }
    return y;
}

static inline unsigned __umulhi(unsigned x, unsigned y)
{
    return (unsigned)(((uint64_t)x * y) >> 32);
}

static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    return (unsigned long long)(((unsigned __int128)x * y) >> 64);
}

/* Loads and stores with a cache hint: the hint is nothing here. */
template <typename T> static inline T __ldg(const T *p)
{
    return *p;
}

template <typename T> static inline T __ldcg(const T *p)
{
    return *p;
}

template <typename T> static inline T __ldcs(const T *p)
{
    return *p;
}

template <typename T> static inline void __stcg(T *p, T value)
{
    *p = value;
}

template <typename T> static inline void __stcs(T *p, T value)
{
    *p = value;
}

#define EMU_MIN_MAX(T)            \
    static inline T min(T x, T y) \
    {                             \
        return y < x ? y : x;     \
    }                             \
    static inline T max(T x, T y) \
    {                             \
        return x < y ? y : x;     \
    }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#undef EMU_MIN_MAX

/* Of floating-point numbers the one that is not a NaN. */
static inline float min(float x, float y)
{
    return fminf(x, y);
}

static inline float max(float x, float y)
{
    return fmaxf(x, y);
}

static inline double min(double x, double y)
{
    return fmin(x, y);
}

static inline double max(double x, double y)
{
    return fmax(x, y);
}

/* bf16 functions that cuda_bf16.h has for the device only: computed in f32, rounded once. */
static inline __nv_bfloat16 __hfma(__nv_bfloat16 x, __nv_bfloat16 y, __nv_bfloat16 z)
{
    return __float2bfloat16_rn(fmaf(__bfloat162float(x), __bfloat162float(y), __bfloat162float(z)));
}

static inline __nv_bfloat162 __hfma2(__nv_bfloat162 x, __nv_bfloat162 y, __nv_bfloat162 z)
{
    return __halves2bfloat162(__hfma(__low2bfloat16(x), __low2bfloat16(y), __low2bfloat16(z)),
                              __hfma(__high2bfloat16(x), __high2bfloat16(y), __high2bfloat16(z)));
}

static inline __nv_bfloat16 hexp(__nv_bfloat16 x)
{
    return __float2bfloat16_rn(expf(__bfloat162float(x)));
}

static inline __nv_bfloat16 hrsqrt(__nv_bfloat16 x)
{
    return __float2bfloat16_rn(rsqrtf(__bfloat162float(x)));
}

static inline __nv_bfloat16 hsqrt(__nv_bfloat16 x)
{
    return __float2bfloat16_rn(sqrtf(__bfloat162float(x)));
}
