/*
 * nccl_terms.cc - compares what src/cuda/nccl.cuh declares of NCCL with NVIDIA's header, where this
 * machine has it. No code: it compiles or it does not.
 */
#if __has_include(<nccl.h>)

#include <nccl.h>
#include <stddef.h>

#include "nccl.cuh"

#define SAME(own, genuine) static_assert((int)(own) == (int)(genuine), #own)

SAME(NCCL_OK, ncclSuccess);
SAME(NCCL_CUDA_ERROR, ncclUnhandledCudaError);
SAME(NCCL_SYSTEM_ERROR, ncclSystemError);
SAME(NCCL_INTERNAL_ERROR, ncclInternalError);
SAME(NCCL_INVALID_ARGUMENT, ncclInvalidArgument);
SAME(NCCL_INVALID_USAGE, ncclInvalidUsage);
SAME(NCCL_REMOTE_ERROR, ncclRemoteError);
SAME(NCCL_IN_PROGRESS, ncclInProgress);
SAME(NCCL_BYTE, ncclInt8);
SAME(NCCL_I32, ncclInt32);
SAME(NCCL_I64, ncclInt64);
SAME(NCCL_F32, ncclFloat32);
SAME(NCCL_F64, ncclFloat64);
SAME(NCCL_SUM, ncclSum);
SAME(NCCL_MAX, ncclMax);
SAME(NCCL_MIN, ncclMin);
SAME(sizeof(nccl_id), sizeof(ncclUniqueId));
SAME(offsetof(nccl_config, magic), offsetof(ncclConfig_t, magic));
SAME(offsetof(nccl_config, version), offsetof(ncclConfig_t, version));
SAME(offsetof(nccl_config, blocking), offsetof(ncclConfig_t, blocking));
SAME(NCCL_OLDEST, NCCL_VERSION(2, 14, 0));

/* As many arguments, each of the size of the genuine one's and passed alike. */
template <typename own, typename genuine> struct alike;
template <typename R, typename... A, typename S, typename... B>
struct alike<R (*)(A...), S (*)(B...)> {
    static constexpr bool value =
        sizeof...(A) == sizeof...(B) && sizeof(R) == sizeof(S) && ((sizeof(A) == sizeof(B)) && ...);
};
#define ALIKE(member, genuine)                                                      \
    static_assert(alike<decltype(nccl_table::member), decltype(&::genuine)>::value, \
                  #genuine " has other arguments")

ALIKE(version, ncclGetVersion);
ALIKE(make_id, ncclGetUniqueId);
ALIKE(init, ncclCommInitRankConfig);
ALIKE(finalize, ncclCommFinalize);
ALIKE(destroy, ncclCommDestroy);
ALIKE(abort, ncclCommAbort);
ALIKE(state, ncclCommGetAsyncError);
ALIKE(last_error, ncclGetLastError);
ALIKE(error_string, ncclGetErrorString);
ALIKE(group_start, ncclGroupStart);
ALIKE(group_end, ncclGroupEnd);
ALIKE(all_reduce, ncclAllReduce);
ALIKE(reduce, ncclReduce);
ALIKE(reduce_scatter, ncclReduceScatter);
ALIKE(all_gather, ncclAllGather);
ALIKE(broadcast, ncclBroadcast);

#endif
