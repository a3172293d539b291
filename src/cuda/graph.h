/*
 * graph.h - passes recorded as CUDA graphs (ops/graph.h). Private to this folder and its tests.
 *
 * A pass is enqueued as it is when its key is seen first: scratch grows then, products are planned
 * and timed, kernels are loaded. At the second sight it is recorded, and replayed from then on.
 * Keys stand in a table of CUDA_GRAPHS; the one used longest ago gives its place away, whether it
 * has been recorded or not, so that passes which never repeat are never recorded.
 */
#pragma once

#include <cuda_runtime.h>

#include "ops/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Both passes of some micro-batches of a step, in two or three sizes. */
enum { CUDA_GRAPHS = 32 };

typedef struct cuda_graph {
    uint64_t *key; /* NULL: the place is free */
    int64_t key_count;
    cudaGraphExec_t exec; /* NULL: not recorded                              */
    bool refused;         /* it could not be recorded, and is not tried again */
    bool reads_step;      /* it has dropout                                  */
    int64_t used;         /* cuda_graphs.clock of its last use               */
} cuda_graph;

/* The part of cuda_state that graphs own. */
typedef struct cuda_graphs {
    cuda_graph place[CUDA_GRAPHS];
    int64_t clock;
    uint64_t *step;         /* on the device: csp_dropout.step of what is replayed  */
    uint64_t step_there;    /* what it holds, or will when what is enqueued is done */
    bool step_known;        /* whether it holds anything                            */
    bool recording;         /* no waiting, no allocating, no planning               */
    uint64_t step_recorded; /* of the pass that is being recorded                   */
    bool step_read;         /* by what is being recorded                            */
    bool said;
    int64_t recorded, dropped; /* so far: a test watches them */
} cuda_graphs;

#ifdef __cplusplus
}

struct cuda_state;

/* Close accepts half-opened graphs. */
CSP_CHECKED csp_status cuda_graphs_open(struct cuda_state *state);
void cuda_graphs_close(cuda_graphs *graphs);

/* Drops what was recorded, which no longer is what would be enqueued; it is recorded anew. */
void cuda_graphs_drop(cuda_graphs *graphs);

/* Forgets keys, too: what they stand for may be something else. */
void cuda_graphs_forget(cuda_graphs *graphs);

/* The entry of csp_ops, contract in ops/graph.h. */
csp_status cuda_graph_run(csp_backend *be, const csp_graph_call *call);
#endif
