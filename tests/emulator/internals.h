/*
 * internals.h - what the files of the emulator's engine share: settings, blocks, memory, streams.
 */
#pragma once

#include <functional>

#include "emulator/engine.h"

namespace emu
{

/*
 * CSP_EMU_SEED, CSP_EMU_ORDER, CSP_EMU_EAGER, CSP_EMU_WARP_CLOCKS, CSP_EMU_MEMORY_MB,
 * CSP_EMU_FAULT_KERNEL; read once (docs/emulator.md).
 */
enum Order { ORDER_RANDOM, ORDER_FORWARD, ORDER_REVERSE };

struct Settings {
    uint64_t seed;
    Order order;
    bool eager;       /* work is done when it is enqueued, to debug              */
    bool warp_clocks; /* to TSan the threads of a warp are one                   */
    size_t memory;    /* bytes of the pretended device                           */
    uint64_t faulty;  /* the kernel of the process that faults; 0: none does      */
    uint8_t fill;     /* of fresh memory: 0xFF (NaN) or 0x7F (huge), by the seed */
};
const Settings &settings();

/* Uniform in 0 .. below-1, from the seed. */
uint32_t draw(uint32_t below);
/* Counts a call that may fail; true if a test wants this one to. */
bool planned_failure();

/* The limits of the pretended device, those of an H100 (CSP_EMU_CAPABILITY: of another). */
enum {
    MAX_THREADS = 1024,
    MAX_SHARED = 227 * 1024,       /* a block may use, with permission */
    MAX_SHARED_FREELY = 48 * 1024, /* without                          */
    MULTIPROCESSORS = 3,           /* few: emulated threads are dear, and grids must stride */
};

/*
 * One running block (block.cc). start and done order its threads with what is before and after,
 * fence those of the kernel's blocks that pass a __threadfence.
 */
struct BlockJob {
    const Kernel *kernel;
    dim3 grid, block;
    uint3 index;
    size_t dynamic_bytes;
    void *start, *done, *fence;
    int actor; /* whose work it is: that of odd and of even ones shares no TSan fiber */
};
/* False if the kernel trapped. */
bool run_block(const BlockJob &job);

/*
 * What async.cc and wgmma.cc ask of the block that runs (block.cc). A thread sleeps on an address
 * until somebody wakes it; as is what it is said to wait for in a deadlock.
 */
int running_thread();
int block_threads();
void sleep_on(const void *what, const char *as, Place at);
void wake(const void *what, int thread);
/* Ends the process unless all of the bytes are of this block's shared memory. */
void check_shared_range(const void *p, size_t bytes, const char *who, Place at);
/* The address as an offset, and back; the offset's alignment is the address's, up to 1024 bytes. */
char *shared_memory(uint32_t address);

/* Barriers in shared memory and copies of a block; clocks are MBARRIERS of this block, 2 each. */
enum { MBARRIERS = 64 };
void async_begin(char *clocks);
/* Some thread waits: a copy may be completed; must, where stuck is set. False if none was. */
bool async_progress(bool stuck);
/* A copy that is under way to any of these bytes ends the process. */
void check_no_copy(const void *p, size_t bytes, const char *who, Place at);
void async_end();
void wgmma_begin();
void wgmma_thread_leaves(int thread, Place at);

/* Device memory (memory.cc): it can be touched between open and close only. */
bool is_device(const void *p);
/* The same, or page-locked memory of the host. */
bool is_device_visible(const void *p);
void memory_open();
void memory_close();
/* A library or a copy is about to read or write: ends the process if that is not allowed. */
void check_read(const void *p, size_t bytes, const char *who);
void check_write(const void *p, size_t bytes, const char *who);

/* Streams (stream.cc): enqueues work, which runs when somebody waits. */
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work, const char *who);
/*
 * The same of work that may have to wait for another process: poll goes on with it as far as it
 * can, and returns true when it is done. Not inside a graph.
 */
cudaError_t enqueue_poll(cudaStream_t stream, std::function<bool()> poll, const char *who);
/* True while any stream is being captured into a graph: waiting and allocating are refused then. */
bool is_capturing();
/* Device work says how long it would have taken: events see it. */
void pass_time(double seconds);
/* Does all enqueued work. */
void run_everything();
/* Remembers an error for cudaGetLastError and returns it. */
cudaError_t remember(cudaError_t error);
/* The first error that came up in device work; it stays. */
cudaError_t fault();
void set_fault(cudaError_t error);

/* The device's compute capability, 90 for 9.0; how much shared memory its blocks may use, and how
 * much dynamic a kernel has permission for. */
int capability();
size_t most_shared();
size_t shared_allowed(const void *function);
/* Ends the process on a device that has no such operation. */
void need_hopper(const char *who);

/* The current device of this thread. */
int current_device();
/* Its number in the machine, which CUDA_VISIBLE_DEVICES may show as another. */
int device_of_machine();
/*
 * Something is done on the current device, which each thread has of its own: ends the process where
 * another thread has set one and this has not.
 */
void need_device(const char *who);
/* The host waits here, or would on a GPU: counted for emu_synchronisations. */
void count_wait();

} // namespace emu
