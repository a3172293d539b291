/*
 * warp.cu - conformance of operations between the lanes of a warp: shuffles of every kind, width
 * and size, votes, matches and reductions, by whole warps and by the halves of one.
 */
#include "cases.h"

enum { THREADS = 64, BLOCKS = 4, N = BLOCKS * THREADS };

#define ALL 0xFFFFFFFFu

static __device__ __forceinline__ uint32_t own_half()
{
    return threadIdx.x % 32 < 16 ? 0x0000FFFFu : 0xFFFF0000u;
}

/* Width 32, 16, 8, ... by block, so that it is the same for all lanes that meet. */
static __global__ void shuffle_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread(), width = 32 >> blockIdx.x;
    const uint32_t x = in[2 * i], any = in[2 * i + 1];

    out[4 * i] = __shfl_sync(ALL, x, (int)(any % 64), width);
    out[4 * i + 1] = __shfl_xor_sync(ALL, x, (int)(blockIdx.x + 1), width);
    out[4 * i + 2] = __shfl_up_sync(ALL, x, blockIdx.x + 1, width);
    out[4 * i + 3] = __shfl_down_sync(ALL, x, blockIdx.x + 1, width);
}

static __global__ void wide_shuffle_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const uint64_t wide = (uint64_t)in[2 * i] << 32 | in[2 * i + 1];
    const uint64_t got = __shfl_xor_sync(ALL, (unsigned long long)wide, 5);
    const float real = __shfl_sync(ALL, __uint_as_float(in[2 * i]), 31 - (int)(threadIdx.x % 32));

    out[3 * i] = (uint32_t)(got >> 32);
    out[3 * i + 1] = (uint32_t)got;
    out[3 * i + 2] = __float_as_uint(real);
}

static __global__ void vote_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread(), warp = i / 32;
    const int rare = in[i] % 16 == 0, common = in[i] % 64 != 0;

    out[5 * i] = __ballot_sync(ALL, rare);
    out[5 * i + 1] = (uint32_t)(__any_sync(ALL, rare && warp % 2 == 0) != 0);
    out[5 * i + 2] = (uint32_t)(__all_sync(ALL, common || warp % 2 == 0) != 0);
    out[5 * i + 3] = __match_any_sync(ALL, in[i] % 5);
    out[5 * i + 4] = __match_any_sync(ALL, (unsigned long long)(in[i] % 3) << 40);
}

static __global__ void reduction_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const uint32_t x = in[i];

    out[8 * i] = __reduce_add_sync(ALL, x);
    out[8 * i + 1] = __reduce_min_sync(ALL, x);
    out[8 * i + 2] = __reduce_max_sync(ALL, x);
    out[8 * i + 3] = (uint32_t)__reduce_add_sync(ALL, (int)x);
    out[8 * i + 4] = (uint32_t)__reduce_min_sync(ALL, (int)x);
    out[8 * i + 5] = (uint32_t)__reduce_max_sync(ALL, (int)x);
    out[8 * i + 6] = __reduce_and_sync(ALL, x | 0xF0F0F0F0u);
    out[8 * i + 7] = __reduce_or_sync(ALL, x & 0x0F0F0F0Fu);
}

/* Both halves of a warp at the same operation, each among its own. */
static __global__ void half_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    const uint32_t mask = own_half();

    out[4 * i] = __shfl_xor_sync(mask, in[i], 3);
    out[4 * i + 1] = __ballot_sync(mask, in[i] % 2 == 0);
    out[4 * i + 2] = __reduce_add_sync(mask, in[i]);
    out[4 * i + 3] = __match_any_sync(mask, in[i] % 4);
}

/* Through shared memory, ordered by __syncwarp alone. */
static __global__ void syncwarp_kernel(const uint32_t *in, uint32_t *out)
{
    SHARED(slot, uint32_t[THREADS]);
    const int i = conform_thread(), lane = (int)threadIdx.x % 32, first = (int)threadIdx.x - lane;
    uint32_t sum = 0;

    for (int step = 0; step < 8; step++) {
        slot[threadIdx.x] = in[i] + (uint32_t)step * sum;
        __syncwarp();
        sum += slot[first + (lane + 2 * step + 1) % 32];
        __syncwarp();
    }
    out[i] = sum;
}

static const conform_case cases[] = {
    { "shuffles", shuffle_kernel, BLOCKS, THREADS, 0, 2 * N, 4 * N, INPUT_BITS, RULE_BITS, 0 },
    { "shuffles of 64 bits and floats", wide_shuffle_kernel, BLOCKS, THREADS, 0, 2 * N, 3 * N,
      INPUT_BITS, RULE_BITS, 0 },
    { "votes", vote_kernel, BLOCKS, THREADS, 0, N, 5 * N, INPUT_BITS, RULE_BITS, 0 },
    { "reductions", reduction_kernel, BLOCKS, THREADS, 0, N, 8 * N, INPUT_BITS, RULE_BITS, 0 },
    { "halves of a warp", half_kernel, BLOCKS, THREADS, 0, N, 4 * N, INPUT_BITS, RULE_BITS, 0 },
    { "__syncwarp", syncwarp_kernel, BLOCKS, THREADS, 0, N, N, INPUT_BITS, RULE_BITS, 0 },
};

conform_group conform_warp_cases(void)
{
    return CONFORM_GROUP(cases);
}
