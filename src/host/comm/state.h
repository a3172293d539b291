/*
 * state.h - what a communicator consists of. For the files of comm/ only.
 *
 * The caller's thread puts jobs into a list; one worker thread takes them in order and runs them
 * over the transport. A communicator of one rank has neither: its jobs are run as they are started.
 *
 * A group is a communicator whose jobs go into the list of the whole one, and whose pieces take the
 * places of its ranks in an exchange in which the other ranks get none.
 */
#pragma once

#include <pthread.h>

#include "comm/comm.h"
#include "comm/transport.h"

typedef enum csp_job_kind {
    CSP_JOB_REDUCE,
    CSP_JOB_GATHER,
    CSP_JOB_COLLECT,
    CSP_JOB_SCATTER_SUM,
    CSP_JOB_BROADCAST,
    CSP_JOB_BARRIER
} csp_job_kind;

typedef struct csp_job {
    struct csp_job *next;
    csp_comm *comm; /* whose ranks run it: the whole communicator, or a group of it */
    int64_t ticket;
    csp_job_kind kind;
    const void *in; /* gather, collect: own; scatter_sum: data */
    void *out;      /* reduce, broadcast: data                 */
    csp_dtype dtype;
    csp_comm_op op;
    int64_t count; /* elements; broadcast: bytes */
    int root;
    const char *what;
    bool done;
    csp_status status;
    char text[1024]; /* of a failure */
    int64_t parts[]; /* (size) bytes or counts of each rank */
} csp_job;

/* What ranks tell one another of themselves when they meet. */
typedef struct csp_rank_card {
    char version[96];
    char machine[128]; /* the same for ranks of one machine only */
    char host[64];
    char devices[sizeof(((csp_launch *)0)->devices)];
    int64_t pid;
} csp_rank_card;

/* What csp_comm_post has brought. */
typedef struct csp_post {
    int64_t number; /* -1: nothing */
    char text[CSP_COMM_POST_BYTES];
} csp_post;

typedef struct csp_control csp_control;

struct csp_comm {
    csp_launch launch;
    csp_comm_options options;
    int rank, size, local_rank, local_size;
    csp_comm *whole;      /* of a group: the one it is of; else itself              */
    int *member;          /* (size) of a group: its ranks in whole, ascending; else NULL */
    csp_comm *groups;     /* of whole: the groups that have been asked for          */
    csp_comm *next_group; /* of a group: the next of whole->groups                  */
    csp_rank_card *cards; /* (size) */

    /* The worker's own. Of a group only send, recv and exchanges are used. */
    csp_transport *transport;
    csp_piece *send, *recv; /* (size) */
    bool *late;             /* (size) */
    char *scratch;          /* (size - 1) slots of slot_bytes */
    int64_t slot_bytes;
    const void **inputs; /* (size) */
    uint32_t exchanges;

    bool is_left; /* its worker does not come back, so its memory stays; the process is to end */
    csp_control *control; /* NULL before it is made, and for one rank */
    _Atomic int64_t came; /* to collectives elsewhere: csp_comm_count */
    _Atomic bool *gone;   /* (size) whose control connection has ended */
    csp_stop stop;
    pthread_t worker;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    csp_job *first, *last; /* not waited for yet, in order */
    csp_job *next;         /* the first that has not been run */
    int64_t tickets;
    bool quit, opened, worker_ended;
    csp_status open_status;
    char open_text[1024];
    csp_comm_traffic traffic;
    int failed_rank; /* -1: none has */
    int failed_code;
    double failed_at; /* csp_machine_seconds()         */
    double hold_s;    /* after failed_at: csp_comm_hold */
    csp_post *posts;  /* (size, 2) of rank 0: by number % 2 */
    char failed_reason[800];
};

/* Runs what has been started, in order, until comm->quit. The worker calls it. */
void csp_queue_run(csp_comm *comm);

/*
 * Whether the worker, for which a thread waits since begin, should long be back after a failure: it
 * is then left behind with what it holds. With the lock held.
 */
bool csp_queue_is_stuck(const csp_comm *comm, double begin);

/* On rank 0: what a rank has posted. */
void csp_post_keep(csp_comm *comm, int rank, int64_t number, const char *text);

/* A group's own memory. Takes NULL. */
void csp_group_free(csp_comm *group);

/* Waits until something below comm->lock has changed, a second at most. With the lock held. */
void csp_comm_wait_change(csp_comm *comm, double seconds);

/*
 * Runs a job in the worker (or, for one rank, in the caller's thread). Text as CSP_FAIL leaves it.
 */
CSP_CHECKED csp_status csp_job_run(csp_comm *comm, const csp_job *job);

/* Bytes that the collectives need beside their arguments, for each rank but this one. */
int64_t csp_job_slot_bytes(int size);

/*
 * out[i] := inputs[0][i] op inputs[1][i] op ..., in this order; rules of csp_comm_op.
 *
 * Aliasing: out may be one of the inputs.
 */
void csp_combine(csp_dtype dtype, csp_comm_op op, const void *const *inputs, int size,
                 int64_t count, void *out);
