/*
 * vec.cuh - elements of either storage type as float, and loads and stores of 16 bytes at once.
 */
#pragma once

#include <string.h>

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

/*
 * 4, 8 or 16 bytes at p, a multiple of as many, in one access. CUDA's own vectors, because of other
 * structs nvcc now and then makes one access for each member.
 */
template <int words>
static __device__ __forceinline__ void load_words(const void *p, uint32_t (&out)[words])
{
    static_assert(words == 1 || words == 2 || words == 4, "what one access takes");
    if constexpr (words == 4) {
        const uint4 v = *reinterpret_cast<const uint4 *>(p);

        out[0] = v.x;
        out[1] = v.y;
        out[2] = v.z;
        out[3] = v.w;
    } else if constexpr (words == 2) {
        const uint2 v = *reinterpret_cast<const uint2 *>(p);

        out[0] = v.x;
        out[1] = v.y;
    } else {
        out[0] = *reinterpret_cast<const uint32_t *>(p);
    }
}

template <int words>
static __device__ __forceinline__ void store_words(void *p, const uint32_t (&in)[words])
{
    static_assert(words == 1 || words == 2 || words == 4, "what one access takes");
    if constexpr (words == 4) {
        *reinterpret_cast<uint4 *>(p) = make_uint4(in[0], in[1], in[2], in[3]);
    } else if constexpr (words == 2) {
        *reinterpret_cast<uint2 *>(p) = make_uint2(in[0], in[1]);
    } else {
        *reinterpret_cast<uint32_t *>(p) = in[0];
    }
}

/* Words of elements as floats: of bf16 two a word, the first below. */
template <typename T> static __device__ __forceinline__ void unpack_word(uint32_t word, float *out)
{
    if constexpr (sizeof(T) == 2) {
        out[0] = __uint_as_float(word << 16);
        out[1] = __uint_as_float(word & 0xFFFF0000u);
    } else {
        out[0] = __uint_as_float(word);
    }
}

template <typename T> static __device__ __forceinline__ uint32_t pack_word(const float *in)
{
    if constexpr (sizeof(T) == 2) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(in[0], in[1]);
        uint32_t word;

        memcpy(&word, &pair, sizeof(word));
        return word;
    } else {
        return __float_as_uint(in[0]);
    }
}

/* Elements in 4 bytes; of W elements the words that one load or store takes, 0: less than one. */
template <typename T, int W> struct vec_part {
    static const int of_word = (int)(4 / sizeof(T));
    static const int words = W * sizeof(T) > 16 ? 4 : W / of_word;
};

/*
 * W elements as they are stored, in as few registers: what waits there for its use, or is still on
 * its way. A single one that is less than a word is a float.
 */
template <typename T, int W> struct vec_raw {
    static const int words = vec_part<T, W>::words > 0 ? W / vec_part<T, W>::of_word : 1;
    uint32_t word[words];
};

/* W elements at p, a multiple of their bytes (of 16 where they are more). */
template <typename T, int W> static __device__ __forceinline__ vec_raw<T, W> load_raw(const T *p)
{
    typedef vec_part<T, W> part;
    vec_raw<T, W> raw;

    if constexpr (part::words == 0) {
        raw.word[0] = __float_as_uint(to_f32(*p));
    } else {
#pragma unroll
        for (int from = 0; from < raw.words; from += part::words) {
            uint32_t word[part::words];

            load_words(p + from * part::of_word, word);
#pragma unroll
            for (int i = 0; i < part::words; i++) {
                raw.word[from + i] = word[i];
            }
        }
    }
    return raw;
}

template <typename T, int W>
static __device__ __forceinline__ void unpack_raw(const vec_raw<T, W> &raw, float (&out)[W])
{
    if constexpr (vec_part<T, W>::words == 0) {
        out[0] = __uint_as_float(raw.word[0]);
    } else {
#pragma unroll
        for (int i = 0; i < raw.words; i++) {
            unpack_word<T>(raw.word[i], out + i * vec_part<T, W>::of_word);
        }
    }
}

/* W elements at p, a multiple of their bytes (of 16 where they are more), as floats; and back. */
template <typename T, int W>
static __device__ __forceinline__ void load_vec(const T *p, float (&out)[W])
{
    unpack_raw(load_raw<T, W>(p), out);
}

/* Rounds to how it is stored; and writes that to p, a multiple as of load_raw. */
template <typename T, int W>
static __device__ __forceinline__ vec_raw<T, W> pack_raw(const float (&in)[W])
{
    vec_raw<T, W> raw;

    if constexpr (vec_part<T, W>::words == 0) {
        raw.word[0] = __float_as_uint(to_f32(from_f32<T>(in[0])));
    } else {
#pragma unroll
        for (int i = 0; i < raw.words; i++) {
            raw.word[i] = pack_word<T>(in + i * vec_part<T, W>::of_word);
        }
    }
    return raw;
}

template <typename T, int W>
static __device__ __forceinline__ void store_raw(T *p, const vec_raw<T, W> &raw)
{
    typedef vec_part<T, W> part;

    if constexpr (part::words == 0) {
        *p = from_f32<T>(__uint_as_float(raw.word[0]));
    } else {
#pragma unroll
        for (int from = 0; from < raw.words; from += part::words) {
            uint32_t word[part::words];

#pragma unroll
            for (int i = 0; i < part::words; i++) {
                word[i] = raw.word[from + i];
            }
            store_words(p + from * part::of_word, word);
        }
    }
}

template <typename T, int W>
static __device__ __forceinline__ void store_vec(T *p, const float (&in)[W])
{
    store_raw(p, pack_raw<T, W>(in));
}

/* As store_vec, and leaves in x what is stored: rounded once, in pairs. */
template <typename T, int W> static __device__ __forceinline__ void round_vec(T *p, float (&x)[W])
{
    const vec_raw<T, W> raw = pack_raw<T, W>(x);

    store_raw(p, raw);
    unpack_raw(raw, x);
}

/* May rows of n elements from p on be read 16 bytes at a time? Launchers ask, to pick a kernel. */
template <typename T> static inline bool is_vec_row(const T *p, int64_t n)
{
    return (uintptr_t)p % 16 == 0 && n % vec_width<T>::value == 0;
}
