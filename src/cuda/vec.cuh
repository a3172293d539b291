/*
 * vec.cuh - elements of either storage type as float, and loads and stores of 16 bytes at once.
 */
#pragma once

#include "portable.cuh"

static __host__ __device__ __forceinline__ float to_f32(float x)
{
    return x;
}

static __host__ __device__ __forceinline__ float to_f32(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

/* Rounds to nearest, ties to even. */
template <typename T> static __host__ __device__ __forceinline__ T from_f32(float x);

template <> __host__ __device__ __forceinline__ float from_f32<float>(float x)
{
    return x;
}

template <> __host__ __device__ __forceinline__ __nv_bfloat16 from_f32<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}

/* Elements in 16 bytes. */
template <typename T> struct vec_width {
    static const int value = (int)(16 / sizeof(T));
};

/* W neighbouring elements, loaded and stored as one. */
template <typename T, int W> struct alignas(W * sizeof(T)) vec_of {
    T at[W];
};

/* Of W elements, as many as one load or store takes. */
template <typename T, int W> struct vec_part {
    static const int value = W * sizeof(T) > 16 ? (int)(16 / sizeof(T)) : W;
};

/* W elements at p, a multiple of their bytes (of 16 where they are more), as floats; and back. */
template <typename T, int W>
static __device__ __forceinline__ void load_vec(const T *p, float (&out)[W])
{
    const int part = vec_part<T, W>::value;

#pragma unroll
    for (int from = 0; from < W; from += part) {
        const vec_of<T, part> v = *reinterpret_cast<const vec_of<T, part> *>(p + from);

#pragma unroll
        for (int i = 0; i < part; i++) {
            out[from + i] = to_f32(v.at[i]);
        }
    }
}

template <typename T, int W>
static __device__ __forceinline__ void store_vec(T *p, const float (&in)[W])
{
    const int part = vec_part<T, W>::value;

#pragma unroll
    for (int from = 0; from < W; from += part) {
        vec_of<T, part> v;

#pragma unroll
        for (int i = 0; i < part; i++) {
            v.at[i] = from_f32<T>(in[from + i]);
        }
        *reinterpret_cast<vec_of<T, part> *>(p + from) = v;
    }
}

/* May rows of n elements from p on be read 16 bytes at a time? Launchers ask, to pick a kernel. */
template <typename T> static inline bool is_vec_row(const T *p, int64_t n)
{
    return (uintptr_t)p % 16 == 0 && n % vec_width<T>::value == 0;
}
