/*
 * ranks.h - collectives on tensors of a backend. On a CPU they work on the memory itself; on a
 * device the tensor is brought to the host and what comes out back to the device.
 *
 * A NULL csp_ranks is one rank: every call returns at once, and what it would have brought is
 * where it is wanted already.
 *
 *     csp_pending sums = { 0 };
 *     CSP_TRY(csp_ranks_reduce_start(ranks, &sum, CSP_COMM_SUM, "term sums", &sums));
 *     ...                          work that neither reads nor writes sum
 *     CSP_TRY(csp_ranks_finish(ranks, &sums));
 *     csp_pending_clear(ranks, &sums);    when the phase ends
 *
 * Errors of all: those of comm/comm.h, and CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
#pragma once

#include "comm/comm.h"
#include "ops/backend.h"

typedef struct csp_ranks {
    csp_comm *comm;  /* not owned */
    csp_backend *be; /* not owned */
    int rank, size;
} csp_ranks;

/* One that has begun and not ended. Start from { 0 }; its memory serves the next one. */
typedef struct csp_pending {
    csp_tensor out; /* where what comes out goes; none: nothing is under way */
    csp_download stage;
    void *host; /* what comes out, on the host */
    int64_t ticket;
} csp_pending;

static inline int csp_ranks_size(const csp_ranks *ranks)
{
    return ranks != NULL ? ranks->size : 1;
}

static inline int csp_ranks_rank(const csp_ranks *ranks)
{
    return ranks != NULL ? ranks->rank : 0;
}

void csp_pending_clear(const csp_ranks *ranks, csp_pending *pending);

/* t in place: csp_comm_reduce_start. */
CSP_CHECKED csp_status csp_ranks_reduce_start(const csp_ranks *ranks, const csp_tensor *t,
                                              csp_comm_op op, const char *what,
                                              csp_pending *pending);
CSP_CHECKED csp_status csp_ranks_reduce(const csp_ranks *ranks, const csp_tensor *t, csp_comm_op op,
                                        const char *what, csp_pending *pending);

/*
 * Every rank's elements one after the other: csp_comm_gather_start.
 *
 *   own     in    (counts[rank])
 *   all     out   (sum of counts) of own's dtype; on one rank the caller lets it be own
 *   counts  in    (ranks) elements
 */
CSP_CHECKED csp_status csp_ranks_gather_start(const csp_ranks *ranks, const csp_tensor *own,
                                              const csp_tensor *all, const int64_t *counts,
                                              const char *what, csp_pending *pending);

/*
 * This rank's part of the sum of data over the ranks: csp_comm_scatter_sum_start.
 *
 *   data    in    (sum of counts) f32
 *   out     out   (counts[rank]) may be this rank's place in data; on one rank the caller lets it
 *                 be data
 *   counts  in    (ranks) elements
 */
CSP_CHECKED csp_status csp_ranks_scatter_sum_start(const csp_ranks *ranks, const csp_tensor *data,
                                                   const csp_tensor *out, const int64_t *counts,
                                                   const char *what, csp_pending *pending);
CSP_CHECKED csp_status csp_ranks_scatter_sum(const csp_ranks *ranks, const csp_tensor *data,
                                             const csp_tensor *out, const int64_t *counts,
                                             const char *what, csp_pending *pending);

/* Waits for what is under way, if anything is. */
CSP_CHECKED csp_status csp_ranks_finish(const csp_ranks *ranks, csp_pending *pending);

/* The same of numbers of the host, at once. */
CSP_CHECKED csp_status csp_ranks_reduce_host(const csp_ranks *ranks, void *data, csp_dtype dtype,
                                             int64_t count, csp_comm_op op, const char *what);
CSP_CHECKED csp_status csp_ranks_gather_host(const csp_ranks *ranks, const void *own, void *all,
                                             int64_t bytes_each, const char *what);
