/*
 * ranks.h - collectives on tensors of a backend. On a CPU comm/ works on the memory itself; devices
 * exchange it among themselves (ops/collective.h), beside other work and without the host.
 *
 * A NULL csp_ranks is one rank: every call returns at once, and what it would have brought is
 * where it is wanted already.
 *
 *     csp_ranks ranks;
 *     CSP_TRY(csp_ranks_open(comm, be, &ranks));
 *     csp_pending sums = { 0 };
 *     CSP_TRY(csp_ranks_reduce_start(&ranks, &sum, CSP_COMM_SUM, "term sums", &sums));
 *     ...                          work that neither reads nor writes sum
 *     CSP_TRY(csp_ranks_finish(&ranks, &sums));
 *     csp_ranks_close(&ranks);
 *
 * Stream: on a device, what is started begins when what was enqueued before is done, and finish
 *         makes what is enqueued behind it wait; the host waits for neither. Functions with _host
 *         in their names work on numbers of the host, over comm/, and wait.
 * Ranks:  every rank calls the same, in the same order: all that exchange tensors, and all that go
 *         over comm/.
 * Errors of all: those of comm/comm.h, CSP_ERR_MEMORY, CSP_ERR_DEVICE. A rank that fails while
 *         devices are in a collective is found by whatever waits for the backend.
 */
#pragma once

#include "comm/comm.h"
#include "ops/collective.h"

typedef struct csp_ranks {
    csp_comm *comm;  /* not owned */
    csp_backend *be; /* not owned */
    int rank, size;
    csp_collective *devices; /* NULL: one rank, or be's memory is the host's */
} csp_ranks;

/* One that may be under way. Start from { 0 }. */
typedef struct csp_pending {
    bool under_way;
    int64_t ticket; /* of whatever carries it */
} csp_pending;

static inline int csp_ranks_size(const csp_ranks *ranks)
{
    return ranks != NULL ? ranks->size : 1;
}

static inline int csp_ranks_rank(const csp_ranks *ranks)
{
    return ranks != NULL ? ranks->rank : 0;
}

/*
 * Opens the backend of this rank, of the same kind on all; of "cuda" and "auto" its own device
 * (csp_comm_device).
 *
 *   asked, threads   in   as of csp_backend_create
 *
 * Ranks:  collective.
 * Owner:  csp_backend_destroy; also after an error, where *out is not NULL.
 * Errors: CSP_ERR_DEVICE (there are fewer devices than ranks), CSP_ERR_CONFIG (the kinds differ),
 *         and those of csp_backend_create.
 */
CSP_CHECKED csp_status csp_ranks_backend(csp_comm *comm, const char *asked, int threads,
                                         csp_backend **out);

/*
 * Joins the backends of comm's ranks, which are of one kind. Devices need a library (NCCL), which
 * is not looked for where comm has one rank.
 *
 *   comm, be   in   kept
 *
 * Ranks:  collective.
 * Owner:  csp_ranks_close, before be and comm go.
 * Errors: CSP_ERR_DEVICE, with the same sentence on all ranks where one of them has no such library
 *         or one too old; where two ranks have one device.
 */
CSP_CHECKED csp_status csp_ranks_open(csp_comm *comm, csp_backend *be, csp_ranks *out);

/* Waits for the other ranks, but not after a failure. Takes one that is all 0. */
void csp_ranks_close(csp_ranks *ranks);

/*
 * After a failure of this rank, before anything waits for the backend or frees what takes part in a
 * collective: the other ranks are told (csp_comm_report, with csp_error_text), and nothing that was
 * started goes on. Only csp_ranks_close may follow.
 */
void csp_ranks_abort(const csp_ranks *ranks, csp_status status);

/* t in place: csp_comm_reduce_start. On devices f32 is added in f32. */
CSP_CHECKED csp_status csp_ranks_reduce_start(const csp_ranks *ranks, const csp_tensor *t,
                                              csp_comm_op op, const char *what,
                                              csp_pending *pending);
CSP_CHECKED csp_status csp_ranks_reduce(const csp_ranks *ranks, const csp_tensor *t, csp_comm_op op,
                                        const char *what);

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
 *   data    in    (sum of counts) f32 or f64
 *   out     out   (counts[rank]) may be this rank's place in data; on one rank the caller lets it
 *                 be data
 *   counts  in    (ranks) elements
 */
CSP_CHECKED csp_status csp_ranks_scatter_sum_start(const csp_ranks *ranks, const csp_tensor *data,
                                                   const csp_tensor *out, const int64_t *counts,
                                                   const char *what, csp_pending *pending);
CSP_CHECKED csp_status csp_ranks_scatter_sum(const csp_ranks *ranks, const csp_tensor *data,
                                             const csp_tensor *out, const int64_t *counts,
                                             const char *what);

/* Rank root's t goes to all: csp_comm_broadcast_start. */
CSP_CHECKED csp_status csp_ranks_broadcast(const csp_ranks *ranks, const csp_tensor *t, int root,
                                           const char *what);

/* What comes now finds what is under way done, if anything is. */
CSP_CHECKED csp_status csp_ranks_finish(const csp_ranks *ranks, csp_pending *pending);

/*
 * Counts how long devices have waited for one another since this was last called into comm's
 * traffic, after a csp_backend_sync.
 */
CSP_CHECKED csp_status csp_ranks_count_waits(const csp_ranks *ranks);

/* The same of numbers of the host, at once. */
CSP_CHECKED csp_status csp_ranks_reduce_host(const csp_ranks *ranks, void *data, csp_dtype dtype,
                                             int64_t count, csp_comm_op op, const char *what);
CSP_CHECKED csp_status csp_ranks_gather_host(const csp_ranks *ranks, const void *own, void *all,
                                             int64_t bytes_each, const char *what);
