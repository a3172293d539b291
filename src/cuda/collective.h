/*
 * collective.h - CUDA side of ops/collective.h: groups of devices joined by NCCL. Private to this
 * folder.
 */
#pragma once

#include <cuda_runtime.h>

#include "ops/collective.h"

struct nccl_state;
typedef struct cuda_collective cuda_collective;

/*
 * All groups share one stream: their collectives are begun in the same order on every rank, and so
 * none can hold up another's (NCCL asks for that order of groups that are used side by side).
 */
typedef struct cuda_collectives {
    struct nccl_state *nccl; /* NULL until it is asked for (nccl.cuh)          */
    cudaStream_t stream;     /* NULL until a group is opened                    */
    cudaEvent_t ready;       /* what was enqueued before a collective           */
    cuda_collective *first;  /* the groups that are open                        */
} cuda_collectives;

/* Ends what csp_collective_close was not called for, and gives back stream and library. */
void cuda_collectives_close(csp_backend *be);

/* The entries of csp_ops. */
csp_status cuda_collective_library(csp_backend *be, const char **name);
csp_status cuda_collective_make_id(csp_backend *be, csp_collective_id *out);
csp_status cuda_collective_open(csp_backend *be, const csp_collective_group *group,
                                csp_collective **out);
void cuda_collective_close(csp_backend *be, csp_collective *collective);
void cuda_collective_abort(csp_backend *be, csp_collective *collective);
csp_status cuda_collective_start(csp_backend *be, csp_collective *collective,
                                 const csp_collective_call *call, int64_t *ticket);
csp_status cuda_collective_join(csp_backend *be, csp_collective *collective, int64_t ticket);
csp_status cuda_collective_waited(csp_backend *be, csp_collective *collective, double *seconds);
