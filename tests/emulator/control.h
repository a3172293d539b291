/*
 * control.h - what tests ask of the emulator besides CUDA itself. Plain C.
 */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of the calls from now on that may fail (runtime, libraries) the n-th does; 0: none. */
void emu_fail_call(int n);
/* Such calls since emu_fail_call. */
int emu_calls(void);
/* The n-th kernel that runs from now on ends in a fault, which the next wait reports; 0: none. */
void emu_fault_kernel(int n);
/* Restarts the random choices from another seed. */
void emu_reseed(uint64_t seed);
/* Bytes of device memory in use; allocations (device and pinned host) since the start. */
uint64_t emu_device_bytes(void);
uint64_t emu_allocations(void);
/*
 * Times since the start that the host waited (for streams, events, the device), or would on a GPU:
 * in copies of pageable memory, and where memory is freed. Kernels run since the start.
 */
uint64_t emu_synchronisations(void);
uint64_t emu_kernels(void);
/* Launches of kernels since the start; one that was captured runs in every replay. */
uint64_t emu_launches(void);
/* cuBLASLt has no algorithm for anything from now on; 0: it has them again. */
void emu_blaslt_refuse(int refuses);
/* All algorithms of cuBLASLt but this one take longer by what events say; -1: none does. */
void emu_blaslt_favour(int number);
/* Every product of cuSPARSE asks for a buffer of so many bytes; 0: of what it needs. */
void emu_cusparse_ask(uint64_t bytes);
/* NCCL loses the other ranks in the n-th collective that it is given from now on; 0: never. */
void emu_nccl_break(int n);
/* Heuristics that cuBLASLt was asked since the start. */
uint64_t emu_blaslt_heuristics(void);

#ifdef __cplusplus
}
#endif
