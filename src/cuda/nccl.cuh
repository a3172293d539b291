/*
 * nccl.cuh - NCCL, which is opened at the first use of several ranks: one device needs none, and no
 * CUDA toolkit brings it. What is used of it is declared here, as NVIDIA's documentation has it and
 * every version since 2.14 keeps it (tests/emulator/nccl.cc compares it with nccl.h where that is).
 */
#pragma once

#include <cuda_runtime.h>

#include "device.h"

/* The first version with communicators that never block: 2.14.0, as ncclGetVersion tells it. */
#define NCCL_OLDEST 21400

typedef struct ncclComm *nccl_comm;

typedef enum nccl_result {
    NCCL_OK = 0,
    NCCL_CUDA_ERROR = 1,
    NCCL_SYSTEM_ERROR = 2,
    NCCL_INTERNAL_ERROR = 3,
    NCCL_INVALID_ARGUMENT = 4,
    NCCL_INVALID_USAGE = 5,
    NCCL_REMOTE_ERROR = 6,
    NCCL_IN_PROGRESS = 7 /* of a communicator that does not block: ask again */
} nccl_result;

typedef enum nccl_type {
    NCCL_BYTE = 0,
    NCCL_I32 = 2,
    NCCL_I64 = 4,
    NCCL_F32 = 7,
    NCCL_F64 = 8
} nccl_type;

typedef enum nccl_op { NCCL_SUM = 0, NCCL_MAX = 2, NCCL_MIN = 3 } nccl_op;

typedef struct nccl_id {
    char bytes[CSP_COLLECTIVE_ID_BYTES];
} nccl_id;

/* As 2.14 has it, and says so in version: later ones take what is not there for standard. */
typedef struct nccl_config {
    size_t size;
    unsigned magic, version;
    int blocking;
} nccl_config;

#define NCCL_CONFIG_MAGIC 0xcafebeefu

/* Its functions that are used here. */
typedef struct nccl_table {
    nccl_result (*version)(int *version);
    nccl_result (*make_id)(nccl_id *id);
    nccl_result (*init)(nccl_comm *comm, int size, nccl_id id, int rank, nccl_config *config);
    nccl_result (*finalize)(nccl_comm comm);
    nccl_result (*destroy)(nccl_comm comm);
    nccl_result (*abort)(nccl_comm comm);
    nccl_result (*state)(nccl_comm comm, nccl_result *state);
    const char *(*last_error)(nccl_comm comm);
    const char *(*error_string)(nccl_result result);
    nccl_result (*group_start)(void);
    nccl_result (*group_end)(void);
    nccl_result (*all_reduce)(const void *in, void *out, size_t count, nccl_type type, nccl_op op,
                              nccl_comm comm, cudaStream_t stream);
    nccl_result (*reduce)(const void *in, void *out, size_t count, nccl_type type, nccl_op op,
                          int root, nccl_comm comm, cudaStream_t stream);
    nccl_result (*reduce_scatter)(const void *in, void *out, size_t out_count, nccl_type type,
                                  nccl_op op, nccl_comm comm, cudaStream_t stream);
    nccl_result (*all_gather)(const void *in, void *out, size_t in_count, nccl_type type,
                              nccl_comm comm, cudaStream_t stream);
    nccl_result (*broadcast)(const void *in, void *out, size_t count, nccl_type type, int root,
                             nccl_comm comm, cudaStream_t stream);
} nccl_table;

/*
 * The functions, the library being open and new enough.
 *
 * Errors: CSP_ERR_DEVICE: it is not found, has not all of them, or is too old: what to install.
 *         CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status cuda_nccl(cuda_state *state, const nccl_table **out);

/* "NCCL 2.28.9" of the library that is open. */
const char *cuda_nccl_name(const cuda_state *state);

/* Writes "2.28.9", or "not found" where the loader has none. Does not keep it open. */
void cuda_nccl_version(char *text, size_t bytes);

/* Frees what is known of it. The library stays loaded: threads of its own may still be in it. */
void cuda_nccl_close(cuda_state *state);
