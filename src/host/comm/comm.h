/*
 * comm.h - what the ranks of a job can do together, as an interface: collectives on host memory,
 * and one way to fail for all of them. A single rank is a real implementation, so that callers
 * have one path.
 *
 * Every rank calls the same collectives in the same order; what differs only in time may be started
 * early: csp_comm_*_start returns at once, work goes on in a thread of the communicator, and memory
 * that was handed over must stay as it is until csp_comm_wait of its ticket. Collectives run in the
 * order in which they were started.
 *
 *     int64_t ticket;
 *     CSP_TRY(csp_comm_gather_start(comm, own, all, bytes, "queries", &ticket));
 *     ... work that does not touch own or all ...
 *     CSP_TRY(csp_comm_wait(comm, ticket));
 *
 * Sums are formed in ascending order of ranks: the same bits on all ranks, on every run, over every
 * transport.
 *
 * Failure: where a rank fails, leaves, or does not come to a collective in time, every other rank's
 * next (or present) wait returns CSP_ERR_COMM with a sentence that names that rank, its process and
 * machine, and its reason; csp_comm_failure tells rank and exit code, and they are the same on all
 * ranks. A report and a killed process are known within a second, a rank that hangs and a machine
 * that is stopped after the timeout. After that only csp_comm_destroy may be called.
 *
 * what, in all calls: the name of the collective in messages, "queries", "gradients"; kept by
 * pointer until it has been waited for.
 */
#pragma once

#include "comm/launch.h"
#include "core/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct csp_comm csp_comm;

typedef enum csp_comm_op {
    CSP_COMM_SUM, /* f32 sums are added in double, rounded once */
    CSP_COMM_MAX, /* NaN where any rank has one                 */
    CSP_COMM_MIN  /* NaN where any rank has one                 */
} csp_comm_op;

typedef struct csp_comm_options {
    /*
     * That a rank waits for another in a collective with nothing moving, for its first connection,
     * or for any sign of its machine; > 0. Longer than one rank may work while the others wait.
     */
    double timeout_s;
    /*
     * After the failure of a rank, that this process has to end: its own thread may be in work that
     * does not come back, or in a file system that hangs. Then the communicator logs why and ends
     * it with the exit code of the failure. 0: never.
     */
    double grace_s;
    const char *version; /* of the program, the same on all ranks; NULL: that of this build */
} csp_comm_options;

/* What has gone through a communicator, for metrics and for tests that assert it. */
typedef struct csp_comm_traffic {
    int64_t sent;     /* bytes to other ranks, of all groups                       */
    int64_t received; /* bytes from other ranks                                    */
    int64_t calls;    /* collectives                                               */
    double busy_s;    /* seconds of the thread in collectives                      */
    double waited_s;  /* seconds of callers in csp_comm_wait: what was not hidden  */
} csp_comm_traffic;

/*
 * Joins the ranks of the job; returns when all are there.
 *
 *   launch   in   from csp_launch_find; one rank needs no library and no network
 *
 * Errors: CSP_ERR_COMM (a rank did not come in time, the rendezvous cannot be reached: where, and
 *         what to do); CSP_ERR_UNSUPPORTED (the library of MPI is not there: what brings it);
 *         CSP_ERR_CONFIG (ranks of different versions of csplade).
 */
CSP_CHECKED csp_status csp_comm_create(const csp_launch *launch, const csp_comm_options *options,
                                       csp_comm **out);

/* Orderly where no rank has failed: waits for the others, so that none is cut off. Takes NULL. */
void csp_comm_destroy(csp_comm *comm);

int csp_comm_rank(const csp_comm *comm);
int csp_comm_size(const csp_comm *comm);

double csp_comm_timeout_s(const csp_comm *comm);

/*
 * Seconds after which a rank for whose work others wait lets them know that it goes on: one, or
 * less where the timeout is short.
 */
double csp_comm_sign_s(const csp_comm *comm);

/* Among the ranks of this machine, found by asking them and not from variables; of a group, too. */
int csp_comm_local_rank(const csp_comm *comm);
int csp_comm_local_size(const csp_comm *comm);

/*
 * The number of the device that is this rank's alone: its place among the ranks of its machine that
 * are shown the same devices. A launcher may show all of a machine to each rank, or each its own.
 */
int csp_comm_device(const csp_comm *comm);

/*
 * Some of comm's ranks as a communicator of their own: consecutive ones, of which this is one, or
 * all those on this machine. Its ranks count from 0 in comm's order.
 *
 * Everything below works on it, of its ranks alone, and shares thread, connections, tickets and
 * failures with the whole: collectives of one rank run in the order in which it started them,
 * whichever group they are of, and for any two ranks those of both must have one order. Ranks of
 * messages and of csp_comm_failure, and what csp_comm_traffic_of counts, are those of the whole.
 *
 * Ranks:  local; asked for again, it is the same one.
 * Owner:  the whole communicator; it lives as long, and is not destroyed by itself.
 * Errors: CSP_ERR_ARGUMENT (not ranks of comm, or this is none of them), CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_comm_group(csp_comm *comm, int first, int count, csp_comm **out);
CSP_CHECKED csp_status csp_comm_group_local(csp_comm *comm, csp_comm **out);

/*
 * Combines an array over all ranks, in place.
 *
 *   data    in,out   (count) of dtype f32, f64, i32 or i64
 *
 * Errors: CSP_ERR_ARGUMENT (dtype); CSP_ERR_MEMORY; others come from csp_comm_wait.
 */
CSP_CHECKED csp_status csp_comm_reduce_start(csp_comm *comm, void *data, csp_dtype dtype,
                                             int64_t count, csp_comm_op op, const char *what,
                                             int64_t *ticket);

/*
 * Every rank gets what every rank has, in the order of ranks.
 *
 *   own     in    (bytes[rank]) may be this rank's place in all, and not elsewhere overlap it
 *   all     out   (sum of bytes)
 *   bytes   in    (size) of each rank, the same on all of them; copied
 */
CSP_CHECKED csp_status csp_comm_gather_start(csp_comm *comm, const void *own, void *all,
                                             const int64_t *bytes, const char *what,
                                             int64_t *ticket);

/* The same for rank root alone: all is not looked at elsewhere. */
CSP_CHECKED csp_status csp_comm_collect_start(csp_comm *comm, const void *own, void *all,
                                              const int64_t *bytes, int root, const char *what,
                                              int64_t *ticket);

/*
 * Every rank gets its part of the sum over all ranks (reduce-scatter).
 *
 *   data     in    (sum of counts) f32 or f64, parts in the order of ranks
 *   out      out   (counts[rank]) may be this rank's place in data
 *   counts   in    (size) elements of each part, the same on all ranks; copied
 */
CSP_CHECKED csp_status csp_comm_scatter_sum_start(csp_comm *comm, const void *data, void *out,
                                                  csp_dtype dtype, const int64_t *counts,
                                                  const char *what, int64_t *ticket);

/* Ends on no rank before it was started on all. */
CSP_CHECKED csp_status csp_comm_barrier_start(csp_comm *comm, const char *what, int64_t *ticket);

/* Rank root's bytes go to all. data: in on root, out elsewhere. */
CSP_CHECKED csp_status csp_comm_broadcast_start(csp_comm *comm, void *data, int64_t bytes, int root,
                                                const char *what, int64_t *ticket);

/*
 * Waits for a collective. Each ticket is waited for once.
 *
 * Errors: CSP_ERR_COMM in the sentence above.
 */
CSP_CHECKED csp_status csp_comm_wait(csp_comm *comm, int64_t ticket);

/* Whether csp_comm_wait of a ticket, which it still wants, would return at once. */
bool csp_comm_is_done(csp_comm *comm, int64_t ticket);

/* Start and wait in one, for what nothing can hide. */
CSP_CHECKED csp_status csp_comm_reduce(csp_comm *comm, void *data, csp_dtype dtype, int64_t count,
                                       csp_comm_op op, const char *what);
CSP_CHECKED csp_status csp_comm_gather(csp_comm *comm, const void *own, void *all,
                                       const int64_t *bytes, const char *what);
CSP_CHECKED csp_status csp_comm_collect(csp_comm *comm, const void *own, void *all,
                                        const int64_t *bytes, int root, const char *what);
CSP_CHECKED csp_status csp_comm_broadcast(csp_comm *comm, void *data, int64_t bytes, int root,
                                          const char *what);
CSP_CHECKED csp_status csp_comm_barrier(csp_comm *comm, const char *what);

/*
 * Whether text is the same on all ranks; for configs, data and versions, before the first step.
 *
 *   what   in   "the config"
 *
 * Errors: CSP_ERR_CONFIG on every rank, naming the first rank that differs from rank 0 and the
 *         first line that does, as each has it.
 */
CSP_CHECKED csp_status csp_comm_agree(csp_comm *comm, const char *text, const char *what);

/*
 * Tells the other ranks that this one fails with the exit code, and why; they learn it within a
 * second, whatever they wait for. Call it once, before the process ends; it returns when rank 0 has
 * it, after two seconds at the latest. Nothing on one rank, or after the failure of another.
 */
void csp_comm_report(csp_comm *comm, int exit_code, const char *reason);

/*
 * After a failure, this rank's own having been reported: returns when no collective that was
 * started and not waited for touches memory any more, after two seconds at the latest. Call it
 * before such memory is freed.
 */
void csp_comm_settle(csp_comm *comm);

/*
 * Who failed first, once a call has returned CSP_ERR_COMM.
 *
 *   rank        out   -1: none has
 *   exit_code   out   to end with; 1 where the rank did not say one
 */
void csp_comm_failure(const csp_comm *comm, int *rank, int *exit_code);

/*
 * Something is under way that is to be finished also after a failure, and needs no collective for
 * that: the time that options.grace_s gives begins so many seconds after the failure, or from now
 * where one is known already, and on other ranks than 0 csp_comm_destroy waits as long for the end
 * of rank 0's communicator, because a launcher that sees one process end kills the others.
 *
 *   seconds   in   0: nothing is under way any more
 */
void csp_comm_hold(csp_comm *comm, double seconds);

/* Seconds that are left of that after a failure, 0 or less: none; INFINITY before one. */
double csp_comm_hold_left(const csp_comm *comm);

enum { CSP_COMM_POST_BYTES = 128 };

/*
 * Tells rank 0 something in passing, from any thread: neither waits for the other, and it comes
 * also after a failure, as long as both communicators live. Rank 0 may tell itself.
 *
 *   number   in   0 or more; rank 0 keeps one that is even and one that is odd of each rank, until
 *                 they are taken or others come
 *   text     in   shorter than CSP_COMM_POST_BYTES
 */
void csp_comm_post(csp_comm *comm, int64_t number, const char *text);

/* On rank 0: takes what a rank has posted under a number. Returns whether it has come. */
bool csp_comm_take_post(csp_comm *comm, int rank, int64_t number, char text[CSP_COMM_POST_BYTES]);

/*
 * Whether a rank's communicator has ended, with its process or by csp_comm_destroy. Rank 0 knows it
 * of all others, these of rank 0; what nobody knows is false.
 */
bool csp_comm_is_gone(const csp_comm *comm, int rank);

/* Waits until a failure is known, at most so long. Returns whether one is. */
bool csp_comm_await_failure(csp_comm *comm, double seconds);

/*
 * Whether another rank has failed first with the same exit code and reason: what all ranks find for
 * themselves, such as a wrong setting, need not be said by each.
 */
bool csp_comm_failed_alike(const csp_comm *comm, int exit_code, const char *reason);

/* Since csp_comm_create came back. What each collective sends stands in comm/collectives.c. */
csp_comm_traffic csp_comm_traffic_of(const csp_comm *comm);

/*
 * What follows is for collectives that run elsewhere, on devices, of the same ranks: the
 * communicator counts them, knows of failures meanwhile, and finds out who is late.
 */

/* This rank has come to a collective elsewhere, in which it sends and receives so many bytes. */
void csp_comm_count(csp_comm *comm, int64_t sent, int64_t received);

/* It has waited in them for so long. */
void csp_comm_count_wait(csp_comm *comm, double seconds);

/* Whether a rank is known to have failed. Takes no time: to be asked while waiting elsewhere. */
bool csp_comm_has_failed(const csp_comm *comm);

typedef enum csp_comm_trouble {
    CSP_COMM_FAILED, /* csp_comm_has_failed                                                  */
    CSP_COMM_LATE,   /* nothing has come for timeout_s: whoever has come to the fewest is it */
    CSP_COMM_BROKEN  /* what carries the collective has failed here, or lost another rank    */
} csp_comm_trouble;

/*
 * Makes trouble in a collective elsewhere the failure of all ranks, unless there is one already,
 * and says it.
 *
 *   words   in   of CSP_COMM_BROKEN: the library's; else not looked at
 *
 * Errors: CSP_ERR_COMM, always, in the sentence above.
 */
CSP_CHECKED csp_status csp_comm_raise(csp_comm *comm, csp_comm_trouble trouble, const char *what,
                                      const char *words);

#ifdef __cplusplus
}
#endif
