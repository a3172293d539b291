/*
 * portable.cuh - the one header kernels include.
 *
 * The same kernel source is compiled by nvcc for a GPU and by g++ for the emulator, which runs it
 * on the CPU (docs/emulator.md). What plain CUDA C++ says without inline assembly (shuffles, votes,
 * barriers, atomics, __ldg, bf16) is written as in CUDA. What it cannot say is here, in namespace
 * cu, with a body for each side: here for the GPU, in tests/emulator/portable_cpu.cuh for the CPU.
 * Rules for kernels: no <<<>>>, no asm, no __shared__ and no extern __shared__, explicit masks,
 * barriers at one textual place.
 *
 *   SHARED(name, type);          a static shared variable: SHARED(sums, float[32]);
 *   DYN_SHARED(type, name);      all dynamic shared memory as one struct: DYN_SHARED(Tile, tile);
 *   DYN_SHARED_ARRAY(type, name) the same as an array whose length only the launch knows
 */
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <utility>

#include "core/scalar.h"

#ifndef __CUDACC__
#include "emulator/portable_cpu.cuh"
#else

#define SHARED(name, ...) __shared__ typename cu::shared_type<__VA_ARGS__>::type name
#define DYN_SHARED(type, name) type &name = *reinterpret_cast<type *>(cu::dynamic_shared())
#define DYN_SHARED_ARRAY(type, name) \
    type *const name = reinterpret_cast<type *>(cu::dynamic_shared())

namespace cu
{

template <typename T> struct shared_type {
    typedef T type;
};

static __device__ __forceinline__ void *dynamic_shared()
{
    extern __shared__ __align__(128) unsigned char cu_dynamic_shared[];

    return cu_dynamic_shared;
}

/*
 * Enqueues a kernel. A bad configuration is returned here; a fault inside surfaces at the next
 * synchronisation. Arguments are converted to the kernel's parameter types.
 */
template <typename... P, typename... A>
static inline cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                                 cudaStream_t stream, A &&...args)
{
    cudaLaunchConfig_t config = {};

    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...);
}

/* Allows launches of kernel with up to bytes of dynamic shared memory; needed above 48 KiB. */
template <typename... P> static inline cudaError_t allow_shared(void (*kernel)(P...), size_t bytes)
{
    return cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)bytes);
}

/* Ends the kernel with an error that every later call on the device returns. */
static __device__ __forceinline__ void trap()
{
    __trap();
}

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/*
 * c (16,8) += a (16,16) b (16,8), bf16 products added in f32, by the 32 lanes of a warp together.
 * With g = lane / 4 and t = lane % 4 a lane holds, two bf16 a word, the lower index below:
 *   a[0] a(g, 2t..)  a[1] a(g+8, 2t..)  a[2] a(g, 2t+8..)  a[3] a(g+8, 2t+8..)
 *   b[0] b(2t.., g)  b[1] b(2t+8.., g)
 *   c[0] c(g, 2t)  c[1] c(g, 2t+1)  c[2] c(g+8, 2t)  c[3] c(g+8, 2t+1)
 */
static __device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/*
 * c (16,8) += a (16,8) b (8,8), tf32 products (to_tf32) added in f32. A lane holds
 *   a[0] a(g, t)  a[1] a(g+8, t)  a[2] a(g, t+4)  a[3] a(g+8, t+4)    b[0] b(t, g)  b[1] b(t+4, g)
 * and c as in mma_bf16.
 */
static __device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Rounds to tf32 (10 bits of fraction; to nearest, ties away from zero). */
static __device__ __forceinline__ uint32_t to_tf32(float value)
{
    uint32_t bits;

    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

/*
 * Loads 1, 2 or 4 matrices of 8 x 8 bf16 from shared memory. Lane 8m + i gives the address of row i
 * (16 bytes, aligned) of matrix m; lanes beyond the matrices give any valid address. Lane l gets
 * elements (l/4, 2(l%4)) and the next of each matrix; of the transposed matrix with _trans.
 */
static __device__ __forceinline__ void ldmatrix_x1(uint32_t (&r)[1], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x1_trans(uint32_t (&r)[1], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/*
 * Starts a copy of 4, 8 or 16 bytes from global to shared memory, both aligned to that size. Only
 * the first valid bytes are read (src may be anything if 0), the rest of dst becomes zero. This
 * thread may read dst after cp_commit and cp_wait, others after a barrier behind those.
 */
static __device__ __forceinline__ void cp_async16(void *dst, const void *src, int valid = 16)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(dst)), "l"(__cvta_generic_to_global(src)), "r"(valid)
                 : "memory");
}

static __device__ __forceinline__ void cp_async8(void *dst, const void *src, int valid = 8)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;"
                 :
                 : "r"(shared_address(dst)), "l"(__cvta_generic_to_global(src)), "r"(valid)
                 : "memory");
}

static __device__ __forceinline__ void cp_async4(void *dst, const void *src, int valid = 4)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :
                 : "r"(shared_address(dst)), "l"(__cvta_generic_to_global(src)), "r"(valid)
                 : "memory");
}

/* Closes the group of this thread's copies started since the last commit; it may be empty. */
static __device__ __forceinline__ void cp_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most the groups latest groups of this thread are still under way. */
template <int groups> static __device__ __forceinline__ void cp_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

/*
 * x, of which the compiler no longer knows that it is x: what is computed from it is computed
 * behind this place, and takes no registers in a loop before it.
 */
static __device__ __forceinline__ int opaque(int x)
{
    asm volatile("" : "+r"(x));
    return x;
}

/* Between blocks: what was written before store_release is visible after load_acquire saw it. */
static __device__ __forceinline__ uint32_t load_acquire(const uint32_t *p)
{
    uint32_t value;

    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
    return value;
}

static __device__ __forceinline__ void store_release(uint32_t *p, uint32_t value)
{
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}

/* Waits until *p >= value; the only spin loop kernels may have. */
static __device__ __forceinline__ void wait_at_least(const uint32_t *p, uint32_t value)
{
    while (load_acquire(p) < value) {
        __nanosleep(40);
    }
}

/* 64-bit atomics under the names of stdint. Return the value before. */
static __device__ __forceinline__ uint64_t atomic_max_u64(uint64_t *p, uint64_t value)
{
    return atomicMax((unsigned long long *)p, (unsigned long long)value);
}

static __device__ __forceinline__ uint64_t atomic_add_u64(uint64_t *p, uint64_t value)
{
    return atomicAdd((unsigned long long *)p, (unsigned long long)value);
}

/* csp_f32_to_e4m3 of two numbers, the first in the lower byte; the sign of a NaN is undefined. */
static __device__ __forceinline__ uint16_t to_e4m3x2(float low, float high)
{
#if __CUDA_ARCH__ >= 890
    uint16_t bits;

    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(bits) : "f"(low), "f"(high));
    return bits;
#else
    return (uint16_t)(csp_f32_to_e4m3(low) | csp_f32_to_e4m3(high) << 8);
#endif
}

/* 2^x with a relative error of about 2^-22; subnormal results become 0. */
static __device__ __forceinline__ float exp2_approx(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 1/x with a relative error of at most 2^-23; subnormal numbers count as 0 and become 0. */
static __device__ __forceinline__ float reciprocal_approx(float x)
{
    float y;

    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

} // namespace cu

#endif
