/*
 * engine.h - what the device twin of portable.cuh asks of the emulator's engine.
 *
 * The engine (block.cc, warp.cc, memory.cc, stream.cc ...) is compiled without sanitizers, kernels
 * and portable_cpu.cuh with them. Only plain functions and data cross this border: a template
 * instantiated on both sides would be instrumented or not by chance of the linker.
 */
#pragma once

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

namespace emu
{

/* A place in a source file: which barrier or collective a thread is at. */
struct Place {
    const char *file;
    int line;
};

/* What the lanes of a warp do together; a lane brings a struct of the kind named beside each. */
enum Collective {
    COLLECTIVE_SYNC,     /* nothing                                     */
    COLLECTIVE_SHUFFLE,  /* Shuffle: value, source lane -> result       */
    COLLECTIVE_BALLOT,   /* Vote: predicate -> mask of lanes where true */
    COLLECTIVE_MATCH,    /* Vote: value -> mask of lanes with the same  */
    COLLECTIVE_REDUCE,   /* Vote: value, operation -> result            */
    COLLECTIVE_MMA_BF16, /* Mma                                         */
    COLLECTIVE_MMA_TF32, /* Mma                                         */
    COLLECTIVE_LDMATRIX, /* Ldmatrix                                    */
};

struct Shuffle {
    uint64_t value, result;
    int source; /* lane of the warp, or -1: keep the own value */
};

enum Reduction {
    REDUCE_ADD,
    REDUCE_MIN,
    REDUCE_MAX,
    REDUCE_MIN_I,
    REDUCE_MAX_I,
    REDUCE_AND,
    REDUCE_OR
};

struct Vote {
    uint64_t value;
    uint32_t result;
    Reduction operation;
};

struct Mma {
    float c[4];
    uint32_t a[4], b[2];
};

struct Ldmatrix {
    uint16_t row[8]; /* what this lane's address points to */
    uint32_t result[4];
    int matrices;
    int transposed;
};

/* Calls of a running kernel thread. */
void collective(Collective kind, uint32_t mask, void *lane, Place at);
void barrier(Place at);
/* All predicates of the block: how many are true. */
int barrier_count(int predicate, Place at);
void fence();
void fence_block();
void spin(Place at);
[[noreturn]] void trap();
int lane_index();
uint32_t warp_mask();

/* The variable of this block that key names: fresh and poisoned on first use. */
void *shared_slot(const void *key, size_t bytes, size_t alignment, Place at);
/* The dynamic shared memory, of which the kernel's type needs bytes. */
void *dynamic_shared(size_t bytes, Place at);
/* Ends the process unless p is an address of this block's shared memory. */
void check_shared(const void *p, const char *who, Place at);

/* Copies under way of this thread, oldest first. take returns false when no more are to be done. */
struct Copy {
    void *dst;
    const void *src;
    int bytes, valid;
};
void copy_push(Copy copy, Place at);
void copy_commit();
bool copy_take(int groups_left, Copy *out);
void poison(const void *p, size_t bytes);
void unpoison(const void *p, size_t bytes);

/*
 * What a Hopper has besides (portable_sm90_cpu.cuh): barriers in shared memory, copies of tiles
 * that nobody waits for by itself (async.cc), products of four warps (wgmma.cc).
 */
uint32_t shared_address(const void *p); /* within this block's shared memory */
void mbarrier_init(void *barrier, uint32_t arrivals, Place at);
void mbarrier_arrive(void *barrier, uint32_t expected_bytes, Place at);
void mbarrier_wait(void *barrier, uint32_t parity, Place at);
void async_fence(); /* what this thread has initialised is there for the copies, too */
void tile_load(const void *map, void *dst, int x, int y, void *barrier, Place at);

/* One product of a warpgroup as a lane brings it: d (64,columns) += a (64,16) b (16,columns). */
struct Wgmma {
    float *d; /* this lane's part */
    int columns;
    uint64_t a, b;   /* descriptors of the matrices in shared memory */
    bool accumulate; /* else d = a b                                 */
};
void wgmma_fence();
void wgmma_issue(const Wgmma *lane, Place at);
void wgmma_commit();
void wgmma_wait(int groups_left, Place at);

/* Says what is wrong and where, and ends the process with status 70. */
[[noreturn]] void fail(Place at, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A kernel with its arguments: invoke runs it as the current thread, destroy frees self. */
struct Kernel {
    const void *function;
    void (*invoke)(void *self);
    void (*destroy)(void *self);
    void *self;
};
/*
 * A pointer that a kernel is given: to device memory or to pinned host memory, or the process ends.
 */
void check_argument(const void *p);
cudaError_t launch(Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream);

} // namespace emu

/* Set by the engine whenever a thread goes on. */
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
constexpr int warpSize = 32;
