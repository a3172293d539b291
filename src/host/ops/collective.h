/*
 * collective.h - what the devices of several ranks do together, each a process of its own: sums and
 * copies that go from device to device and never through the memory of the host.
 *
 * What is begun runs beside the backend's other work: it starts when what was enqueued before is
 * done, and only csp_collective_join makes what is enqueued behind it wait. Nothing here waits on
 * the host, but opening and closing.
 *
 *     csp_collective_start(be, c, &call, &ticket);
 *     ...                                  enqueue work that does not touch in or out
 *     csp_collective_join(be, c, ticket);  what comes now finds out written
 *
 * Every rank starts the same calls in the same order. A CPU has none: csp_backend.host_memory says
 * that its tensors are within reach of comm/.
 *
 * Failure: while a group is open, whatever waits for the backend also asks the group's watch
 * whether another rank has failed, and for how long nothing came. Then the group is ended, so that
 * the device becomes free, and the wait and every later call return what the watch says.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CSP_COLLECTIVE_ID_BYTES = 128 };

/* By which the ranks of a group find each other; any bytes. */
typedef struct csp_collective_id {
    char bytes[CSP_COLLECTIVE_ID_BYTES];
} csp_collective_id;

/* Why a group asks for words. */
typedef enum csp_watch_reason {
    CSP_WATCH_FAILED, /* has_failed was true                                             */
    CSP_WATCH_LATE,   /* nothing came for timeout_s                                      */
    CSP_WATCH_BROKEN  /* the library, or a connection that it holds, failed: words       */
} csp_watch_reason;

/* Who knows the ranks of a group. */
typedef struct csp_watch {
    bool (*has_failed)(void *context); /* asked often: takes no time */
    /*
     * The failure in words, made known to the other ranks if they do not know it.
     *
     *   what    in   the collective
     *   words   in   of CSP_WATCH_BROKEN, else ""
     */
    csp_status (*say)(void *context, csp_watch_reason reason, const char *what, const char *words);
    void *context;
    double timeout_s; /* that the device waits for another in a collective */
} csp_watch;

typedef struct csp_collective_group {
    int rank, size;
    csp_collective_id id; /* the same on all ranks */
    csp_watch watch;
} csp_collective_group;

/* A group of devices; what a backend knows of it lies behind this. */
typedef struct csp_collective {
    int rank, size;
} csp_collective;

typedef enum csp_collective_kind {
    CSP_COLLECTIVE_SUM,         /* in place: in is out                                */
    CSP_COLLECTIVE_MAX,         /* the same; NaN where any rank has one               */
    CSP_COLLECTIVE_MIN,         /* the same                                           */
    CSP_COLLECTIVE_GATHER,      /* out: every rank's in, one after the other          */
    CSP_COLLECTIVE_SCATTER_SUM, /* out: this rank's part of the sum of in             */
    CSP_COLLECTIVE_BROADCAST    /* in place: root's go to all                         */
} csp_collective_kind;

typedef struct csp_collective_call {
    csp_collective_kind kind;
    csp_tensor in, out;
    const int64_t *counts; /* (size) elements of each rank's part: of gather and scatter_sum */
    int root;              /* of broadcast                                                   */
    const char *what;      /* its name in messages; kept by pointer while the group is open  */
} csp_collective_call;

/*
 * Opens the library of collectives, if it was not, and says which it is; nothing else opens it. It
 * stays open as long as be.
 *
 *   name   out   "NCCL 2.28.9"; valid as long as be
 *
 * Errors: CSP_ERR_DEVICE (there is none, or one too old: what to install), CSP_ERR_UNSUPPORTED (a
 *         backend without collectives), CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_collective_library(csp_backend *be, const char **name);

/* Makes an id, which the ranks of a group must be told. Errors: the same. */
CSP_CHECKED csp_status csp_collective_make_id(csp_backend *be, csp_collective_id *out);

/*
 * Joins the ranks of a group; each has a device of its own. Also of one rank.
 *
 * Ranks:  collective. Waits for the others; ends when the watch knows of a failure.
 * Owner:  csp_collective_close ends it, before be goes.
 * Errors: as above; CSP_ERR_DEVICE (two ranks have one device; the library's words); CSP_ERR_COMM
 *         as the watch says it.
 */
CSP_CHECKED csp_status csp_collective_open(csp_backend *be, const csp_collective_group *group,
                                           csp_collective **out);

/*
 * Waits for the other ranks unless one has failed, or something begun is not done: then what is
 * under way is dropped. Takes NULL.
 */
void csp_collective_close(csp_backend *be, csp_collective *collective);

/*
 * Drops what is under way, so that the device becomes free: after a failure of this rank, before
 * anything waits for the device. Later calls return an error. Takes NULL.
 */
void csp_collective_abort(csp_backend *be, csp_collective *collective);

/*
 * Enqueues a collective, beside what is enqueued later.
 *
 *   in    in    (count) of f32, f64, i32 or i64; gather and broadcast: of any dtype
 *   out   out   (count) of in's dtype; scatter_sum: f32 or f64
 *
 * in and out by kind, with n[r] = counts[r], N = the sum of them, r = this rank:
 *
 *     sum, max, min, broadcast   in is out
 *     gather                     in (n[r])  out (N)       in may be its place in out
 *     scatter_sum                in (N)     out (n[r])    out may be its place in in
 *
 * Precision: sums of f32 are formed in f32, in an order that the library chooses; every rank gets
 *            the same bits. Of one group the same calls give the same bits on every run where the
 *            library chooses the same way (docs/method.md 14).
 * Stream:    enqueued, beside be; not inside csp_graph_run.
 * Errors:    CSP_ERR_SHAPE, CSP_ERR_ARGUMENT, CSP_ERR_DEVICE, CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_collective_start(csp_backend *be, csp_collective *collective,
                                            const csp_collective_call *call, int64_t *ticket);

/* What is enqueued on be from now on waits for a collective. Errors: CSP_ERR_COMM. */
CSP_CHECKED csp_status csp_collective_join(csp_backend *be, csp_collective *collective,
                                           int64_t ticket);

/*
 * Seconds that be's own work has waited in joins since this was last asked, all of which must have
 * passed: wait for be first.
 */
CSP_CHECKED csp_status csp_collective_waited(csp_backend *be, csp_collective *collective,
                                             double *seconds);

#ifdef __cplusplus
}
#endif
