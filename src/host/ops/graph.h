/*
 * graph.h - passes that a device replays: what a pass enqueues is recorded once, as a graph, and
 * later enqueued by one call.
 *
 * A small pass is bound by its launches: the host enqueues some thousand kernels that take less
 * time than their launches do. A device that can (CUDA) records such a pass when it is asked for
 * the second time and replays it from then on; others enqueue it each time. The same bits either
 * way: a graph holds the very launches that were enqueued before.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Token rows up to which launching a pass takes a share of its time worth a graph: by the model of
 * 2 to 3 us a launch, some 1000 launches a pass, 10 to 30 % of it up to here. Not measured.
 */
enum { CSP_GRAPH_ROWS = 4096 };

/*
 * Sizes of small passes on devices that replay them, so that they repeat though batches differ: the
 * rows of a pass, its texts, and the rows of the longest of them, each the next of a few. Rows cost
 * arithmetic: multiples of 8, above 64 of an eighth of the power of two below, so that at most an
 * eighth is added. Texts without rows, and a longest text that is not there, cost next to nothing:
 * powers of two, the latter multiples of 64 above 64.
 */
static inline int64_t csp_graph_bucket_rows(int64_t rows)
{
    int64_t step = 8;

    while (step * 16 <= rows) {
        step *= 2;
    }
    return (rows + step - 1) / step * step;
}

static inline int64_t csp_graph_bucket_texts(int64_t texts)
{
    int64_t bucket = 8;

    while (bucket < texts) {
        bucket *= 2;
    }
    return bucket;
}

static inline int64_t csp_graph_bucket_longest(int64_t longest)
{
    int64_t bucket = 16;

    while (bucket < 64 && bucket < longest) {
        bucket *= 2;
    }
    return longest <= 64 ? bucket : (longest + 63) / 64 * 64;
}

/* Chooses which passes are replayed. Errors: CSP_ERR_UNSUPPORTED: ON, and be replays none. */
CSP_CHECKED csp_status csp_graph_choose(csp_backend *be, csp_graphs graphs);

typedef struct csp_graph_call {
    const char *name;    /* of the pass, for messages                                       */
    const uint64_t *key; /* (key_count) see below                                           */
    int64_t key_count;
    int64_t rows;  /* token rows: CSP_GRAPHS_AUTO replays small passes only                 */
    uint64_t step; /* csp_dropout.step of all that is enqueued; not part of the key         */
    csp_status (*enqueue)(void *context); /* enqueues the pass on be                        */
    void *context;
} csp_graph_call;

/*
 * Enqueues a pass: by call->enqueue, or by replaying what that enqueued under the same key.
 *
 * The key holds all that decides what enqueue enqueues: every address, every size, every choice of
 * the host, but for the step. Two calls with equal keys must mean the same work on the same memory.
 * What is remembered of a key is forgotten when memory of be is released.
 *
 * enqueue is called once, not at all, or, where recording fails, twice, of which the first time
 * leaves no work behind; it changes nothing on the host, neither waits nor allocates once it has
 * been run, and uploads nothing. Where ops are waited for one by one (csp_backend.sync_every_op) or
 * profiled, it is always called, and nothing is recorded.
 *
 * Stream:  enqueued on be.
 * Errors:  those of enqueue; CSP_ERR_DEVICE. A pass that cannot be recorded is enqueued as it is.
 */
CSP_CHECKED csp_status csp_graph_run(csp_backend *be, const csp_graph_call *call);

#ifdef __cplusplus
}
#endif
