/*
 * nccl_fake.h - the functions of the fake NCCL, by the genuine names and the types that src/cuda
 * declares (nccl.cuh).
 */
#pragma once

#include "nccl.cuh"

extern "C" {
nccl_result ncclGetVersion(int *version);
nccl_result ncclGetUniqueId(nccl_id *id);
nccl_result ncclCommInitRankConfig(nccl_comm *comm, int size, nccl_id id, int rank,
                                   nccl_config *config);
nccl_result ncclCommFinalize(nccl_comm comm);
nccl_result ncclCommDestroy(nccl_comm comm);
nccl_result ncclCommAbort(nccl_comm comm);
nccl_result ncclCommGetAsyncError(nccl_comm comm, nccl_result *state);
const char *ncclGetLastError(nccl_comm comm);
const char *ncclGetErrorString(nccl_result result);
nccl_result ncclGroupStart(void);
nccl_result ncclGroupEnd(void);
nccl_result ncclAllReduce(const void *in, void *out, size_t count, nccl_type type, nccl_op op,
                          nccl_comm comm, cudaStream_t stream);
nccl_result ncclReduce(const void *in, void *out, size_t count, nccl_type type, nccl_op op,
                       int root, nccl_comm comm, cudaStream_t stream);
nccl_result ncclReduceScatter(const void *in, void *out, size_t out_count, nccl_type type,
                              nccl_op op, nccl_comm comm, cudaStream_t stream);
nccl_result ncclAllGather(const void *in, void *out, size_t in_count, nccl_type type,
                          nccl_comm comm, cudaStream_t stream);
nccl_result ncclBroadcast(const void *in, void *out, size_t count, nccl_type type, int root,
                          nccl_comm comm, cudaStream_t stream);
}
