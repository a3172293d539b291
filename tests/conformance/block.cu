/*
 * block.cu - conformance of what threads of a block and blocks do together: barriers that count,
 * atomics, order of memory between blocks, dynamic shared memory, asynchronous copies.
 *
 * Of atomics the end is compared, which no order of the threads changes.
 */
#include "cases.h"

enum { THREADS = 128, BLOCKS = 4, N = BLOCKS * THREADS };

static __global__ void barrier_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();

    out[3 * i] = (uint32_t)__syncthreads_count(in[i] % 3 == 0);
    out[3 * i + 1] = (uint32_t)(__syncthreads_or(in[i] % 200 == 0) != 0);
    out[3 * i + 2] = (uint32_t)(__syncthreads_and(in[i] % 200 != 0) != 0);
}

/* Cells 0 to 15 of out, 0 before; 64 bits take two. */
static __global__ void atomic_kernel(const uint32_t *in, uint32_t *out)
{
    const uint32_t x = in[conform_thread()];

    atomicAdd(&out[0], x);
    atomicAdd((int *)&out[1], (int)x);
    atomicSub(&out[2], x);
    atomicMax(&out[3], x);
    atomicMax((int *)&out[4], (int)x);
    atomicMin((int *)&out[5], (int)x);
    atomicOr(&out[6], x & 0x11111111u);
    atomicXor(&out[7], x);
    atomicInc(&out[8], 99u);
    /* Integers: no order of additions rounds. */
    atomicAdd((float *)&out[9], (float)(x % 1000));
    cu::atomic_add_u64((uint64_t *)&out[10], (uint64_t)x << 7);
    cu::atomic_max_u64((uint64_t *)&out[12], (uint64_t)x << 32 | ~x);
    atomicAdd((double *)&out[14], (double)(x % 1000));
}

static __global__ void exchange_kernel(const uint32_t *in, uint32_t *out)
{
    const int i = conform_thread();
    uint32_t *own = out + 3 * i;

    own[0] = in[i];
    own[1] = atomicExch(&own[0], in[i] + 1u);
    own[2] = atomicCAS(&own[0], i % 2 == 0 ? in[i] + 1u : in[i], 7u);
}

/* The block that finishes last adds up what all of them wrote: out[0] the sum, out[1] the count. */
static __global__ void last_block_kernel(const uint32_t *in, uint32_t *out)
{
    SHARED(is_last, uint32_t);
    uint32_t *partial = out + 2;

    if (threadIdx.x == 0) {
        uint32_t sum = 0;

        for (int j = 0; j < THREADS; j++) {
            sum += in[(int)blockIdx.x * THREADS + j];
        }
        partial[blockIdx.x] = sum;
        __threadfence();
        is_last = atomicAdd(&out[1], 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (is_last != 0 && threadIdx.x == 0) {
        uint32_t sum = 0;

        __threadfence();
        for (unsigned block = 0; block < gridDim.x; block++) {
            sum += partial[block];
        }
        out[0] = sum;
    }
}

/* Warp 0 releases, the others wait and read what it wrote before. out[0] is the flag. */
static __global__ void release_kernel(const uint32_t *in, uint32_t *out)
{
    const int thread = (int)threadIdx.x;

    if (thread == 0) {
        for (int j = 0; j < THREADS; j++) {
            out[1 + j] = in[j] * 3u;
        }
        cu::store_release(&out[0], 5u);
    } else if (thread >= 32) {
        cu::wait_at_least(&out[0], 5u);
        out[1 + THREADS + thread] = out[1 + (thread * 7) % THREADS] + cu::load_acquire(&out[0]);
    }
}

/* 96 KiB, written forwards and read backwards. */
enum { LARGE = 96 * 1024 / 4 };

static __global__ void large_shared_kernel(const uint32_t *in, uint32_t *out)
{
    DYN_SHARED_ARRAY(uint32_t, words);

    for (int j = (int)threadIdx.x; j < LARGE; j += THREADS) {
        words[j] = in[j % N] ^ (uint32_t)j;
    }
    __syncthreads();
    for (int j = (int)threadIdx.x * 64; j < LARGE; j += THREADS * 64) {
        out[j / 64] = words[LARGE - 1 - j];
    }
}

struct copy_tile {
    alignas(16) uint32_t wide[THREADS][4];
    alignas(16) uint32_t middle[THREADS][2];
    uint32_t narrow[THREADS];
};

/*
 * Each thread copies 16, 8 and 4 bytes, of which 0 up to all are valid, and reads what its
 * neighbour got: valid bytes, then zeros.
 */
static __global__ void copy_kernel(const uint32_t *in, uint32_t *out)
{
    DYN_SHARED(copy_tile, tile);
    const int thread = (int)threadIdx.x, other = THREADS - 1 - thread;
    const uint32_t *from = in + 8 * thread;

    cu::cp_async16(tile.wide[thread], from, thread % 17);
    cu::cp_async8(tile.middle[thread], from + 4, thread % 9);
    cu::cp_async4(&tile.narrow[thread], from + 6, thread % 5);
    cu::cp_commit();
    cu::cp_wait<0>();
    __syncthreads();
    for (int j = 0; j < 4; j++) {
        out[7 * thread + j] = tile.wide[other][j];
    }
    out[7 * thread + 4] = tile.middle[other][0];
    out[7 * thread + 5] = tile.middle[other][1];
    out[7 * thread + 6] = tile.narrow[other];
}

struct copy_ring {
    alignas(16) uint32_t at[2][THREADS][4];
};

/* Two buffers: one is read while the next is on its way; an empty group at the end. */
static __global__ void pipeline_kernel(const uint32_t *in, uint32_t *out)
{
    enum { STEPS = 6 };
    DYN_SHARED(copy_ring, ring);
    const int thread = (int)threadIdx.x;
    uint32_t sum = 0;

    cu::cp_async16(ring.at[0][thread], in + 4 * thread);
    cu::cp_commit();
    for (int step = 0; step < STEPS; step++) {
        if (step + 1 < STEPS) {
            cu::cp_async16(ring.at[(step + 1) % 2][thread],
                           in + 4 * ((step + 1) * THREADS + thread));
        }
        cu::cp_commit();
        cu::cp_wait<1>();
        __syncthreads();
        for (int j = 0; j < 4; j++) {
            sum = sum * 31u + ring.at[step % 2][(thread + 5 * step) % THREADS][j];
        }
        __syncthreads();
    }
    cu::cp_wait<0>();
    out[thread] = sum;
}

static const conform_case cases[] = {
    { "barriers that count", barrier_kernel, BLOCKS, THREADS, 0, N, 3 * N, INPUT_BITS, RULE_BITS,
      0 },
    { "atomics", atomic_kernel, BLOCKS, THREADS, 0, N, 16, INPUT_BITS, RULE_BITS, 0 },
    { "exchanges", exchange_kernel, BLOCKS, THREADS, 0, N, 3 * N, INPUT_BITS, RULE_BITS, 0 },
    { "the last block", last_block_kernel, BLOCKS, THREADS, 0, N, 2 + BLOCKS, INPUT_BITS, RULE_BITS,
      0 },
    { "release and acquire", release_kernel, 1, THREADS, 0, THREADS, 1 + 2 * THREADS, INPUT_BITS,
      RULE_BITS, 0 },
    { "96 KiB of shared memory", large_shared_kernel, 1, THREADS, LARGE * 4, N, LARGE / 64,
      INPUT_BITS, RULE_BITS, 0 },
    { "partial copies", copy_kernel, 1, THREADS, sizeof(copy_tile), 8 * THREADS, 7 * THREADS,
      INPUT_BITS, RULE_BITS, 0 },
    { "copies in a pipeline", pipeline_kernel, 1, THREADS, sizeof(copy_ring), 24 * THREADS, THREADS,
      INPUT_BITS, RULE_BITS, 0 },
};

conform_group conform_block_cases(void)
{
    return CONFORM_GROUP(cases);
}
