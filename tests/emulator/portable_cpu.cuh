/*
 * portable_cpu.cuh - the device side of CUDA as kernels use it, on the CPU: twin of portable.cuh.
 *
 * Supplies what the CUDA headers lack under a host compiler (built-in variables, barriers, warp
 * operations, atomics, intrinsics) and the wrappers of namespace cu. Included by portable.cuh only.
 */
#pragma once

#include <cstring>
#include <tuple>
#include <type_traits>

#include "emulator/engine.h"

#undef __shared__
#define __shared__ static_assert(false, "shared memory is SHARED, DYN_SHARED or DYN_SHARED_ARRAY")
#undef __constant__
#define __constant__ static_assert(false, "constants are kernel arguments")
/* A wish here: obeyed everywhere, it trebles the time that instrumented kernels take to compile. */
#undef __forceinline__
#define __forceinline__ inline
#undef __launch_bounds__
#define __launch_bounds__(...)

#define EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* One key for each declaration and template instantiation, as nvcc has one variable for each. */
#define EMU_KEY                    \
    ([]() -> const void * {        \
        static const char key = 0; \
        return &key;               \
    }())
#define SHARED(name, ...)                                                                  \
    typename cu::shared_type<__VA_ARGS__>::type &name =                                    \
        *static_cast<typename cu::shared_type<__VA_ARGS__>::type *>(                       \
            emu::shared_slot(EMU_KEY, sizeof(typename cu::shared_type<__VA_ARGS__>::type), \
                             alignof(typename cu::shared_type<__VA_ARGS__>::type),         \
                             emu::Place { __FILE__, __LINE__ }))
#define DYN_SHARED(type, name) \
    type &name =               \
        *static_cast<type *>(emu::dynamic_shared(sizeof(type), emu::Place { __FILE__, __LINE__ }))
#define DYN_SHARED_ARRAY(type, name) \
    type *const name =               \
        static_cast<type *>(emu::dynamic_shared(0, emu::Place { __FILE__, __LINE__ }))

/* ---- barriers and fences ---- */

static inline void __syncthreads(EMU_HERE)
{
    emu::barrier({ file, line });
}

static inline int __syncthreads_count(int predicate, EMU_HERE)
{
    return emu::barrier_count(predicate, { file, line });
}

static inline int __syncthreads_or(int predicate, EMU_HERE)
{
    return emu::barrier_count(predicate, { file, line }) != 0;
}

static inline int __syncthreads_and(int predicate, EMU_HERE)
{
    return emu::barrier_count(predicate == 0, { file, line }) == 0;
}

static inline void __syncwarp(uint32_t mask = 0xFFFFFFFFu, EMU_HERE)
{
    emu::collective(emu::COLLECTIVE_SYNC, mask, nullptr, { file, line });
}

static inline void __threadfence()
{
    emu::fence();
}

static inline void __threadfence_block()
{
    emu::fence_block();
}

/* ---- warp operations ---- */

namespace emu
{

template <typename T> static inline T shuffle(uint32_t mask, T value, int source, Place at)
{
    static_assert(std::is_trivially_copyable<T>::value &&
                      (sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8),
                  "shuffles move 2, 4 or 8 bytes");
    Shuffle lane = { 0, 0, source };

    memcpy(&lane.value, &value, sizeof(T));
    collective(COLLECTIVE_SHUFFLE, mask, &lane, at);
    memcpy(&value, &lane.result, sizeof(T));
    return value;
}

static inline uint32_t vote(Collective kind, uint32_t mask, uint64_t value, Place at,
                            Reduction operation = REDUCE_ADD)
{
    Vote lane = { value, 0, operation };

    collective(kind, mask, &lane, at);
    return lane.result;
}

} // namespace emu

template <typename T>
static inline T __shfl_sync(uint32_t mask, T value, int source, int width = 32, EMU_HERE)
{
    const int base = emu::lane_index() & ~(width - 1);

    return emu::shuffle(mask, value, base + (source & (width - 1)), { file, line });
}

template <typename T>
static inline T __shfl_xor_sync(uint32_t mask, T value, int flip, int width = 32, EMU_HERE)
{
    const int lane = emu::lane_index(), source = lane ^ flip;

    return emu::shuffle(mask, value, (source | (width - 1)) > (lane | (width - 1)) ? -1 : source,
                        { file, line });
}

template <typename T>
static inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, EMU_HERE)
{
    const int lane = emu::lane_index(), source = lane + (int)delta;

    return emu::shuffle(mask, value, (lane & (width - 1)) + (int)delta >= width ? -1 : source,
                        { file, line });
}

template <typename T>
static inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, EMU_HERE)
{
    const int lane = emu::lane_index(), source = lane - (int)delta;

    return emu::shuffle(mask, value, (lane & (width - 1)) < (int)delta ? -1 : source,
                        { file, line });
}

static inline uint32_t __ballot_sync(uint32_t mask, int predicate, EMU_HERE)
{
    return emu::vote(emu::COLLECTIVE_BALLOT, mask, predicate != 0, { file, line });
}

static inline int __any_sync(uint32_t mask, int predicate, EMU_HERE)
{
    return emu::vote(emu::COLLECTIVE_BALLOT, mask, predicate != 0, { file, line }) != 0;
}

static inline int __all_sync(uint32_t mask, int predicate, EMU_HERE)
{
    return emu::vote(emu::COLLECTIVE_BALLOT, mask, predicate == 0, { file, line }) == 0;
}

template <typename T> static inline uint32_t __match_any_sync(uint32_t mask, T value, EMU_HERE)
{
    uint64_t bits = 0;

    memcpy(&bits, &value, sizeof(T));
    return emu::vote(emu::COLLECTIVE_MATCH, mask, bits, { file, line });
}

static inline uint32_t __reduce_add_sync(uint32_t mask, uint32_t value, EMU_HERE)
{
    return emu::vote(emu::COLLECTIVE_REDUCE, mask, value, { file, line }, emu::REDUCE_ADD);
}

static inline uint32_t __reduce_min_sync(uint32_t mask, uint32_t value, EMU_HERE)
{
    return emu::vote(emu::COLLECTIVE_REDUCE, mask, value, { file, line }, emu::REDUCE_MIN);
}

static inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t value, EMU_HERE)
{
    return emu::vote(emu::COLLECTIVE_REDUCE, mask, value, { file, line }, emu::REDUCE_MAX);
}

static inline int __reduce_add_sync(uint32_t mask, int value, EMU_HERE)
{
    return (int)emu::vote(emu::COLLECTIVE_REDUCE, mask, (uint32_t)value, { file, line },
                          emu::REDUCE_ADD);
}

static inline int __reduce_min_sync(uint32_t mask, int value, EMU_HERE)
{
    return (int)emu::vote(emu::COLLECTIVE_REDUCE, mask, (uint32_t)value, { file, line },
                          emu::REDUCE_MIN_I);
}

static inline int __reduce_max_sync(uint32_t mask, int value, EMU_HERE)
{
    return (int)emu::vote(emu::COLLECTIVE_REDUCE, mask, (uint32_t)value, { file, line },
                          emu::REDUCE_MAX_I);
}

static inline uint32_t __reduce_and_sync(uint32_t mask, uint32_t value, EMU_HERE)
{
    return emu::vote(emu::COLLECTIVE_REDUCE, mask, value, { file, line }, emu::REDUCE_AND);
}

static inline uint32_t __reduce_or_sync(uint32_t mask, uint32_t value, EMU_HERE)
{
    return emu::vote(emu::COLLECTIVE_REDUCE, mask, value, { file, line }, emu::REDUCE_OR);
}

/* ---- atomics: relaxed, so that they order nothing but themselves ---- */

namespace emu
{

/* value := change(value) in one step; returns the value before. */
template <typename T, typename F> static inline T atomic_change(T *p, F change)
{
    typedef typename std::conditional<sizeof(T) == 4, uint32_t, uint64_t>::type Bits;
    Bits before = __atomic_load_n((Bits *)p, __ATOMIC_RELAXED), after;
    T old, fresh;

    do {
        memcpy(&old, &before, sizeof(T));
        fresh = change(old);
        memcpy(&after, &fresh, sizeof(T));
    } while (!__atomic_compare_exchange_n((Bits *)p, &before, after, true, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return old;
}

} // namespace emu

#define EMU_ATOMIC(name, T, expression)                                       \
    static inline T name(T *p, T value)                                       \
    {                                                                         \
        return emu::atomic_change(p, [=](T old) -> T { return expression; }); \
    }
EMU_ATOMIC(atomicAdd, int, (int)((unsigned)old + (unsigned)value))
EMU_ATOMIC(atomicAdd, unsigned, old + value)
EMU_ATOMIC(atomicAdd, unsigned long long, old + value)
EMU_ATOMIC(atomicAdd, float, old + value)
EMU_ATOMIC(atomicAdd, double, old + value)
EMU_ATOMIC(atomicSub, int, (int)((unsigned)old - (unsigned)value))
EMU_ATOMIC(atomicSub, unsigned, old - value)
EMU_ATOMIC(atomicMax, int, old > value ? old : value)
EMU_ATOMIC(atomicMax, unsigned, old > value ? old : value)
EMU_ATOMIC(atomicMax, long long, old > value ? old : value)
EMU_ATOMIC(atomicMax, unsigned long long, old > value ? old : value)
EMU_ATOMIC(atomicMin, int, old < value ? old : value)
EMU_ATOMIC(atomicMin, unsigned, old < value ? old : value)
EMU_ATOMIC(atomicMin, long long, old < value ? old : value)
EMU_ATOMIC(atomicMin, unsigned long long, old < value ? old : value)
EMU_ATOMIC(atomicOr, int, old | value)
EMU_ATOMIC(atomicOr, unsigned, old | value)
EMU_ATOMIC(atomicOr, unsigned long long, old | value)
EMU_ATOMIC(atomicAnd, int, old &value)
EMU_ATOMIC(atomicAnd, unsigned, old &value)
EMU_ATOMIC(atomicAnd, unsigned long long, old &value)
EMU_ATOMIC(atomicXor, unsigned, old ^ value)
EMU_ATOMIC(atomicExch, int, ((void)old, value))
EMU_ATOMIC(atomicExch, unsigned, ((void)old, value))
EMU_ATOMIC(atomicExch, unsigned long long, ((void)old, value))
EMU_ATOMIC(atomicExch, float, ((void)old, value))
/* Counts up to value and then from 0 again. */
EMU_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1u)
#undef EMU_ATOMIC

#define EMU_ATOMIC_CAS(T)                                                         \
    static inline T atomicCAS(T *p, T expected, T value)                          \
    {                                                                             \
        __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_RELAXED, \
                                    __ATOMIC_RELAXED);                            \
        return expected;                                                          \
    }
EMU_ATOMIC_CAS(int)
EMU_ATOMIC_CAS(unsigned)
EMU_ATOMIC_CAS(unsigned long long)
#undef EMU_ATOMIC_CAS

#include "emulator/intrinsics_cpu.cuh"

/* ---- namespace cu: see portable.cuh ---- */

namespace cu
{

template <typename T> struct shared_type {
    static_assert(std::is_trivially_default_constructible<T>::value,
                  "shared variables have no constructor");
    typedef T type;
};

template <typename T> static inline void check_argument(const T &value)
{
    if constexpr (std::is_pointer<T>::value) {
        emu::check_argument((const void *)value);
    }
}

template <typename... P> struct BoundKernel {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> arguments;

    static void invoke(void *self)
    {
        BoundKernel *bound = (BoundKernel *)self;

        std::apply(bound->kernel, bound->arguments);
    }
    static void destroy(void *self)
    {
        delete (BoundKernel *)self;
    }
};

template <typename... P, typename... A>
static inline cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                                 cudaStream_t stream, A &&...args)
{
    static_assert(sizeof...(P) == sizeof...(A), "as many arguments as the kernel has parameters");
    auto *bound = new BoundKernel<P...> { kernel, { static_cast<P>(std::forward<A>(args))... } };

    std::apply([](const auto &...each) { (check_argument(each), ...); }, bound->arguments);
    return emu::launch(
        { (const void *)kernel, BoundKernel<P...>::invoke, BoundKernel<P...>::destroy, bound },
        grid, block, shared_bytes, stream);
}

template <typename... P> static inline cudaError_t allow_shared(void (*kernel)(P...), size_t bytes)
{
    return cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)bytes);
}

[[noreturn]] static inline void trap()
{
    emu::trap();
}

static inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_HERE)
{
    emu::Mma lane;

    memcpy(lane.c, c, sizeof(c));
    memcpy(lane.a, a, sizeof(a));
    memcpy(lane.b, b, sizeof(b));
    emu::collective(emu::COLLECTIVE_MMA_BF16, 0xFFFFFFFFu, &lane, { file, line });
    memcpy(c, lane.c, sizeof(c));
}

static inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_HERE)
{
    emu::Mma lane;

    memcpy(lane.c, c, sizeof(c));
    memcpy(lane.a, a, sizeof(a));
    memcpy(lane.b, b, sizeof(b));
    emu::collective(emu::COLLECTIVE_MMA_TF32, 0xFFFFFFFFu, &lane, { file, line });
    memcpy(c, lane.c, sizeof(c));
}

static inline uint32_t to_tf32(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7F800000u) != 0x7F800000u) {
        bits += 0x1000u;
    }
    return bits & 0xFFFFE000u;
}

template <int matrices>
static inline void load_matrices(uint32_t (&r)[matrices], const void *row, bool transposed,
                                 emu::Place at)
{
    emu::Ldmatrix lane;

    if (((uintptr_t)row & 15u) != 0) {
        emu::fail(at, "ldmatrix: the address of a row is not a multiple of 16");
    }
    memset(&lane, 0, sizeof(lane));
    if (emu::lane_index() < 8 * matrices) {
        emu::check_shared(row, "ldmatrix", at);
        memcpy(lane.row, row, sizeof(lane.row));
    }
    lane.matrices = matrices;
    lane.transposed = transposed;
    emu::collective(emu::COLLECTIVE_LDMATRIX, 0xFFFFFFFFu, &lane, at);
    memcpy(r, lane.result, sizeof(r));
}

static inline void ldmatrix_x1(uint32_t (&r)[1], const void *row, EMU_HERE)
{
    load_matrices(r, row, false, { file, line });
}

static inline void ldmatrix_x2(uint32_t (&r)[2], const void *row, EMU_HERE)
{
    load_matrices(r, row, false, { file, line });
}

static inline void ldmatrix_x4(uint32_t (&r)[4], const void *row, EMU_HERE)
{
    load_matrices(r, row, false, { file, line });
}

static inline void ldmatrix_x1_trans(uint32_t (&r)[1], const void *row, EMU_HERE)
{
    load_matrices(r, row, true, { file, line });
}

static inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row, EMU_HERE)
{
    load_matrices(r, row, true, { file, line });
}

static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, EMU_HERE)
{
    load_matrices(r, row, true, { file, line });
}

/*
 * The copy itself is done by cp_wait. Until then dst holds garbage for whoever reads it too early,
 * and in the ASan build it may not be touched at all.
 */
static inline void copy_async(void *dst, const void *src, int bytes, int valid, emu::Place at)
{
    if ((((uintptr_t)dst | (valid > 0 ? (uintptr_t)src : 0)) & (uintptr_t)(bytes - 1)) != 0) {
        emu::fail(at, "cp.async: an address is not a multiple of %d", bytes);
    }
    if (valid < 0 || valid > bytes) {
        emu::fail(at, "cp.async: %d valid bytes of %d", valid, bytes);
    }
    emu::check_shared(dst, "cp.async", at);
    for (int i = 0; i < valid; i++) {
        (void)((const volatile unsigned char *)src)[i];
    }
    for (int i = 0; i < bytes; i++) {
        ((volatile unsigned char *)dst)[i] = 0xFF;
    }
    emu::copy_push({ dst, src, bytes, valid }, at);
}

static inline void cp_async16(void *dst, const void *src, int valid = 16, EMU_HERE)
{
    copy_async(dst, src, 16, valid, { file, line });
}

static inline void cp_async8(void *dst, const void *src, int valid = 8, EMU_HERE)
{
    copy_async(dst, src, 8, valid, { file, line });
}

static inline void cp_async4(void *dst, const void *src, int valid = 4, EMU_HERE)
{
    copy_async(dst, src, 4, valid, { file, line });
}

static inline void cp_commit()
{
    emu::copy_commit();
}

template <int groups> static inline void cp_wait()
{
    emu::Copy copy;

    while (emu::copy_take(groups, &copy)) {
        memset(copy.dst, 0, (size_t)copy.bytes);
        memcpy(copy.dst, copy.src, (size_t)copy.valid);
    }
}

static inline uint32_t load_acquire(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void store_release(uint32_t *p, uint32_t value)
{
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

static inline void wait_at_least(const uint32_t *p, uint32_t value, EMU_HERE)
{
    while (load_acquire(p) < value) {
        emu::spin({ file, line });
    }
}

static inline uint64_t atomic_max_u64(uint64_t *p, uint64_t value)
{
    return atomicMax((unsigned long long *)p, (unsigned long long)value);
}

static inline uint64_t atomic_add_u64(uint64_t *p, uint64_t value)
{
    return atomicAdd((unsigned long long *)p, (unsigned long long)value);
}

static inline uint16_t to_e4m3x2(float low, float high)
{
    return (uint16_t)(csp_f32_to_e4m3(low) | csp_f32_to_e4m3(high) << 8);
}

static inline int opaque(int x)
{
    return x;
}

static inline float exp2_approx(float x)
{
    const float y = exp2f(x);

    return y < 0x1p-126f ? 0.0f : y;
}

static inline float reciprocal_approx(float x)
{
    const float y = 1.0f / (fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x);

    return fabsf(y) < 0x1p-126f ? copysignf(0.0f, y) : y;
}

} // namespace cu

#undef EMU_HERE
