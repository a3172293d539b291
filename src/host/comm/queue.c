/*
 * queue.c - the list of collectives that have been started, which the worker runs in order and the
 * callers wait for.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/failure.h"
#include "comm/state.h"
#include "core/machine.h"
#include "core/memory.h"

/* Seconds after a failure in which the worker should have come back from the transport. */
static const double worker_s = 2.0;

static void job_done(csp_job *job, csp_status status)
{
    job->status = status;
    (void)snprintf(job->text, sizeof(job->text), "%s", status != CSP_OK ? csp_error_text() : "");
    job->done = true;
}

void csp_queue_run(csp_comm *comm)
{
    pthread_mutex_lock(&comm->lock);
    for (;;) {
        csp_job *job;
        csp_status end;
        double begin;

        while (comm->next == NULL && !comm->quit) {
            pthread_cond_wait(&comm->changed, &comm->lock);
        }
        job = comm->next;
        if (job == NULL) {
            break;
        }
        pthread_mutex_unlock(&comm->lock);
        begin = csp_machine_seconds();
        /* After a failure memory that was handed over may be gone. */
        end = atomic_load(&comm->stop.set) ? csp_failure_say(comm, job->what)
                                           : csp_job_run(job->comm, job);
        pthread_mutex_lock(&comm->lock);
        comm->traffic.calls++;
        comm->traffic.busy_s += csp_machine_seconds() - begin;
        comm->next = job->next;
        while (comm->next != NULL && comm->next->done) { // of a group of one rank
            comm->next = comm->next->next;
        }
        job_done(job, end);
        pthread_cond_broadcast(&comm->changed);
    }
    pthread_mutex_unlock(&comm->lock);
}

bool csp_queue_is_stuck(const csp_comm *comm, double begin)
{
    const double since = comm->failed_at > begin ? comm->failed_at : begin;

    return comm->failed_rank >= 0 && csp_machine_seconds() - since > worker_s;
}

static csp_status start(csp_comm *comm, const csp_job *asked, const int64_t *parts, int64_t *ticket)
{
    const size_t bytes = parts != NULL ? (size_t)comm->size * sizeof(int64_t) : 0;
    csp_comm *whole = comm->whole;
    csp_job *job = NULL;

    if (asked->count < 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: %lld elements", asked->what,
                        (long long)asked->count);
    }
    for (int r = 0; parts != NULL && r < comm->size; r++) {
        if (parts[r] < 0) {
            return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: rank %d has %lld elements", asked->what, r,
                            (long long)parts[r]);
        }
    }
    CSP_TRY(csp_alloc_zero(asked->what, 1, sizeof(*job) + bytes, &job));
    *job = *asked;
    job->comm = comm;
    if (parts != NULL) {
        memcpy(job->parts, parts, bytes);
    }
    if (comm->size == 1) {
        job_done(job, csp_job_run(comm, job));
    }
    pthread_mutex_lock(&whole->lock);
    job->ticket = ++whole->tickets;
    *ticket = job->ticket;
    if (whole->first == NULL) {
        whole->first = job;
    } else {
        whole->last->next = job;
    }
    whole->last = job;
    if (comm->size == 1) {
        whole->traffic.calls++;
    } else if (whole->next == NULL) {
        whole->next = job;
        pthread_cond_broadcast(&whole->changed);
    }
    pthread_mutex_unlock(&whole->lock);
    return CSP_OK;
}

csp_status csp_comm_reduce_start(csp_comm *comm, void *data, csp_dtype dtype, int64_t count,
                                 csp_comm_op op, const char *what, int64_t *ticket)
{
    const csp_job job = {
        .kind = CSP_JOB_REDUCE, .out = data, .dtype = dtype, .op = op, .count = count, .what = what
    };

    if (dtype != CSP_F32 && dtype != CSP_F64 && dtype != CSP_I32 && dtype != CSP_I64) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: ranks combine f32, f64, i32 and i64, not %s", what,
                        csp_dtype_name(dtype));
    }
    return start(comm, &job, NULL, ticket);
}

csp_status csp_comm_gather_start(csp_comm *comm, const void *own, void *all, const int64_t *bytes,
                                 const char *what, int64_t *ticket)
{
    const csp_job job = { .kind = CSP_JOB_GATHER, .in = own, .out = all, .what = what };

    return start(comm, &job, bytes, ticket);
}

static csp_status check_root(const csp_comm *comm, int root, const char *what)
{
    return root >= 0 && root < comm->size
               ? CSP_OK
               : CSP_FAIL(CSP_ERR_ARGUMENT, "%s: root is rank %d of %d", what, root, comm->size);
}

csp_status csp_comm_collect_start(csp_comm *comm, const void *own, void *all, const int64_t *bytes,
                                  int root, const char *what, int64_t *ticket)
{
    const csp_job job = {
        .kind = CSP_JOB_COLLECT, .in = own, .out = all, .root = root, .what = what
    };

    CSP_TRY(check_root(comm, root, what));
    return start(comm, &job, bytes, ticket);
}

csp_status csp_comm_scatter_sum_start(csp_comm *comm, const void *data, void *out, csp_dtype dtype,
                                      const int64_t *counts, const char *what, int64_t *ticket)
{
    const csp_job job = { .kind = CSP_JOB_SCATTER_SUM,
                          .in = data,
                          .out = out,
                          .dtype = dtype,
                          .op = CSP_COMM_SUM,
                          .what = what };

    if (dtype != CSP_F32 && dtype != CSP_F64) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: scattered sums are of f32 and f64, not %s", what,
                        csp_dtype_name(dtype));
    }
    return start(comm, &job, counts, ticket);
}

csp_status csp_comm_broadcast_start(csp_comm *comm, void *data, int64_t bytes, int root,
                                    const char *what, int64_t *ticket)
{
    const csp_job job = {
        .kind = CSP_JOB_BROADCAST, .out = data, .count = bytes, .root = root, .what = what
    };

    CSP_TRY(check_root(comm, root, what));
    return start(comm, &job, NULL, ticket);
}

csp_status csp_comm_barrier_start(csp_comm *comm, const char *what, int64_t *ticket)
{
    const csp_job job = { .kind = CSP_JOB_BARRIER, .what = what };

    return start(comm, &job, NULL, ticket);
}

/* The job of a ticket, and where the list points to it; NULL if there is none. */
static csp_job *find_job(csp_comm *comm, int64_t ticket, csp_job **before)
{
    csp_job *job = comm->first;

    *before = NULL;
    while (job != NULL && job->ticket != ticket) {
        *before = job;
        job = job->next;
    }
    return job;
}

bool csp_comm_is_done(csp_comm *of, int64_t ticket)
{
    csp_comm *comm = of->whole;
    const csp_job *job;
    csp_job *before;
    bool done;

    pthread_mutex_lock(&comm->lock);
    job = find_job(comm, ticket, &before);
    done = job == NULL || job->done;
    pthread_mutex_unlock(&comm->lock);
    return done;
}

void csp_comm_settle(csp_comm *of)
{
    csp_comm *comm = of->whole;
    const double begin = csp_machine_seconds();

    pthread_mutex_lock(&comm->lock);
    while (comm->next != NULL && !csp_queue_is_stuck(comm, begin)) {
        csp_comm_wait_change(comm, 1.0);
    }
    pthread_mutex_unlock(&comm->lock);
}

csp_status csp_comm_wait(csp_comm *of, int64_t ticket)
{
    csp_comm *comm = of->whole;
    const double begin = csp_machine_seconds();
    csp_job *job, *before;
    csp_status status = CSP_OK;
    bool done;

    pthread_mutex_lock(&comm->lock);
    job = find_job(comm, ticket, &before);
    if (job == NULL) {
        pthread_mutex_unlock(&comm->lock);
        return CSP_FAIL(CSP_ERR_ARGUMENT, "ticket %lld is of no collective that runs",
                        (long long)ticket);
    }
    while (!job->done && !csp_queue_is_stuck(comm, begin)) {
        csp_comm_wait_change(comm, 1.0);
    }
    done = job->done;
    if (done) {
        job = find_job(comm, ticket, &before); // others may have been taken out meanwhile
        if (before == NULL) {
            comm->first = job->next;
        } else {
            before->next = job->next;
        }
        if (comm->last == job) {
            comm->last = before;
        }
        status = job->status;
    }
    comm->traffic.waited_s += csp_machine_seconds() - begin;
    pthread_mutex_unlock(&comm->lock);
    if (!done) {
        return csp_failure_say(comm, job->what);
    }
    if (status != CSP_OK) {
        status = CSP_FAIL(status, "%s", job->text);
    }
    free(job);
    return status;
}
