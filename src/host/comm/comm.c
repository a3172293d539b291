/* comm.c - communicators: made and ended, and what they know of themselves. */
#include "comm/comm.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "comm/control.h"
#include "comm/failure.h"
#include "comm/meet.h"
#include "comm/mpi_plugin.h"
#include "core/log.h"
#include "core/machine.h"
#include "core/memory.h"
#include "core/thread.h"

static csp_status open_transport(csp_comm *comm, csp_transport **out)
{
    const csp_mpi_plugin *plugin;

    if (comm->launch.kind != CSP_LAUNCH_MPI) {
        return csp_tcp_open(&comm->launch, comm->options.timeout_s, &comm->stop, out);
    }
    CSP_TRY(csp_mpi_plugin_get(comm->launch.mpi_plugin, &plugin, NULL));
    return plugin->open(&comm->launch, &comm->stop, out);
}

/* The worker: opens the transport, runs what is in the list, closes the transport. */
static void *work(void *argument)
{
    csp_comm *comm = argument;
    csp_transport *transport = NULL;
    const csp_status status = open_transport(comm, &transport);
    bool orderly;

    pthread_mutex_lock(&comm->lock);
    comm->transport = transport;
    comm->open_status = status;
    (void)snprintf(comm->open_text, sizeof(comm->open_text), "%s",
                   status != CSP_OK ? csp_error_text() : "");
    comm->opened = true;
    pthread_cond_broadcast(&comm->changed);
    pthread_mutex_unlock(&comm->lock);
    if (status == CSP_OK) {
        csp_queue_run(comm);
    }
    pthread_mutex_lock(&comm->lock);
    orderly = comm->failed_rank < 0;
    pthread_mutex_unlock(&comm->lock);
    if (transport != NULL) {
        transport->close(transport, orderly);
    }
    pthread_mutex_lock(&comm->lock);
    comm->worker_ended = true;
    pthread_cond_broadcast(&comm->changed);
    pthread_mutex_unlock(&comm->lock);
    return NULL;
}

void csp_comm_wait_change(csp_comm *comm, double seconds)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)((seconds < 1.0 ? seconds : 1.0) * 1e9);
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    (void)pthread_cond_timedwait(&comm->changed, &comm->lock, &until);
}

static void destroy_parts(csp_comm *comm)
{
    if (comm->is_left) {
        return;
    }
    while (comm->first != NULL) {
        csp_job *job = comm->first;

        comm->first = job->next;
        free(job);
    }
    while (comm->groups != NULL) {
        csp_comm *group = comm->groups;

        comm->groups = group->next_group;
        csp_group_free(group);
    }
    pthread_cond_destroy(&comm->changed);
    pthread_mutex_destroy(&comm->lock);
    if (comm->stop.fd >= 0) {
        close(comm->stop.fd);
    }
    free(comm->cards);
    free(comm->send);
    free(comm->recv);
    free(comm->late);
    free(comm->gone);
    free(comm->posts);
    free(comm->inputs);
    free(comm->scratch);
    free(comm);
}

static csp_status alloc_parts(csp_comm *comm)
{
    const int size = comm->size;

    comm->slot_bytes = csp_job_slot_bytes(size);
    comm->stop.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (comm->stop.fd < 0) {
        return CSP_FAIL(CSP_ERR_IO, "communicator: %s", strerror(errno));
    }
    CSP_TRY(csp_alloc_zero("ranks", size, sizeof(csp_rank_card), &comm->cards));
    CSP_TRY(csp_alloc_zero("ranks", size, sizeof(csp_piece), &comm->send));
    CSP_TRY(csp_alloc_zero("ranks", size, sizeof(csp_piece), &comm->recv));
    CSP_TRY(csp_alloc_zero("ranks", size, sizeof(bool), &comm->late));
    CSP_TRY(csp_alloc_zero("ranks", size, sizeof(*comm->gone), &comm->gone));
    CSP_TRY(csp_alloc_zero("ranks", (comm->rank == 0 ? 2 : 0) * (int64_t)size, sizeof(csp_post),
                           &comm->posts));
    for (int i = 0; comm->rank == 0 && i < 2 * size; i++) {
        comm->posts[i].number = -1;
    }
    CSP_TRY(csp_alloc_zero("ranks", size, sizeof(void *), &comm->inputs));
    return csp_alloc("buffers of collectives", size - 1, (size_t)comm->slot_bytes, &comm->scratch);
}

/* Starts the worker and waits until it has joined the other ranks. */
static csp_status join(csp_comm *comm)
{
    const double begin = csp_machine_seconds();
    csp_status status;
    bool opened;

    CSP_TRY(csp_thread_start("communication", &comm->worker, work, comm));
    pthread_mutex_lock(&comm->lock);
    while (!comm->opened && (comm->launch.kind != CSP_LAUNCH_MPI ||
                             csp_machine_seconds() - begin < comm->options.timeout_s)) {
        csp_comm_wait_change(comm, 1.0);
    }
    opened = comm->opened;
    status = comm->open_status;
    pthread_mutex_unlock(&comm->lock);
    if (!opened) {
        comm->is_left = true; // MPI_Init has no deadline, and its thread is in it
        return CSP_FAIL(CSP_ERR_COMM,
                        "MPI_Init of rank %d has not come back within %g s: have all %d ranks "
                        "been started?",
                        comm->rank, comm->options.timeout_s, comm->size);
    }
    if (status != CSP_OK) {
        pthread_join(comm->worker, NULL);
        return CSP_FAIL(status, "%s", comm->open_text);
    }
    return CSP_OK;
}

csp_status csp_comm_create(const csp_launch *launch, const csp_comm_options *options,
                           csp_comm **out)
{
    csp_comm *comm = NULL;
    pthread_condattr_t monotonic;
    csp_status status;

    if (!(options->timeout_s > 0.0)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "communicator: a timeout of %g s", options->timeout_s);
    }
    CSP_TRY(csp_alloc_zero("communicator", 1, sizeof(*comm), &comm));
    comm->launch = *launch;
    comm->options = *options;
    comm->rank = launch->rank;
    comm->size = launch->size;
    comm->local_size = 1;
    comm->whole = comm;
    comm->failed_rank = -1;
    comm->stop.fd = -1;
    pthread_mutex_init(&comm->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&comm->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (comm->size > 1) {
        CSP_TRY_GOTO(alloc_parts(comm));
        CSP_TRY_GOTO(join(comm));
        status = csp_meet(comm);
        if (status != CSP_OK) {
            char text[1024];

            (void)snprintf(text, sizeof(text), "%s", csp_error_text());
            if (status != CSP_ERR_CONFIG) { // which is the same on all ranks
                csp_failure_set(comm, comm->rank, 1, "could not join the others");
            }
            csp_comm_destroy(comm);
            return CSP_FAIL(status, "%s", text);
        }
    }
    comm->traffic = (csp_comm_traffic) { 0 };
    *out = comm;
    return CSP_OK;

fail:
    destroy_parts(comm);
    return status;
}

/* Whether the worker has ended; after a failure it may be in a library that does not come back. */
static bool end_worker(csp_comm *comm)
{
    const double begin = csp_machine_seconds();
    bool ended;

    pthread_mutex_lock(&comm->lock);
    comm->quit = true;
    pthread_cond_broadcast(&comm->changed);
    while (!comm->worker_ended && !csp_queue_is_stuck(comm, begin)) {
        csp_comm_wait_change(comm, 1.0);
    }
    ended = comm->worker_ended;
    pthread_mutex_unlock(&comm->lock);
    if (ended) {
        pthread_join(comm->worker, NULL);
    }
    return ended;
}

void csp_comm_hold(csp_comm *of, double seconds)
{
    csp_comm *comm = of->whole;

    pthread_mutex_lock(&comm->lock);
    comm->hold_s = seconds;
    if (comm->failed_rank >= 0) {
        comm->hold_s += csp_machine_seconds() - comm->failed_at;
    }
    pthread_mutex_unlock(&comm->lock);
}

/* With the lock held. */
static double hold_left(const csp_comm *comm)
{
    return comm->failed_rank < 0 ? INFINITY
                                 : comm->failed_at + comm->hold_s - csp_machine_seconds();
}

double csp_comm_hold_left(const csp_comm *of)
{
    csp_comm *comm = of->whole;
    double left;

    pthread_mutex_lock(&comm->lock);
    left = hold_left(comm);
    pthread_mutex_unlock(&comm->lock);
    return left;
}

void csp_post_keep(csp_comm *comm, int rank, int64_t number, const char *text)
{
    csp_post *post = &comm->posts[2 * rank + number % 2];

    pthread_mutex_lock(&comm->lock);
    post->number = number;
    (void)snprintf(post->text, sizeof(post->text), "%s", text);
    pthread_mutex_unlock(&comm->lock);
}

void csp_comm_post(csp_comm *of, int64_t number, const char *text)
{
    csp_comm *comm = of->whole;

    if (comm->size > 1 && comm->rank > 0) {
        csp_control_post(comm, number, text);
    } else if (comm->size > 1) {
        csp_post_keep(comm, 0, number, text);
    }
}

bool csp_comm_take_post(csp_comm *of, int rank, int64_t number, char text[CSP_COMM_POST_BYTES])
{
    csp_comm *comm = of->whole;
    const int of_whole = of->member != NULL ? of->member[rank] : rank;
    csp_post *post = &comm->posts[2 * of_whole + number % 2];
    bool is_there;

    pthread_mutex_lock(&comm->lock);
    is_there = post->number == number;
    if (is_there) {
        memcpy(text, post->text, sizeof(post->text));
        post->number = -1;
    }
    pthread_mutex_unlock(&comm->lock);
    return is_there;
}

bool csp_comm_is_gone(const csp_comm *comm, int rank)
{
    const csp_comm *whole = comm->whole;
    const int of_whole = comm->member != NULL ? comm->member[rank] : rank;

    return whole->gone != NULL && atomic_load(&whole->gone[of_whole]);
}

/* What csp_comm_hold asks for. */
static void stay_for_rank_0(csp_comm *comm)
{
    pthread_mutex_lock(&comm->lock);
    while (comm->rank != 0 && comm->failed_rank >= 0 && comm->control != NULL &&
           !atomic_load(&comm->gone[0]) && hold_left(comm) > 0.0) {
        csp_comm_wait_change(comm, 0.05);
    }
    pthread_mutex_unlock(&comm->lock);
}

void csp_comm_destroy(csp_comm *comm)
{
    int rank, exit_code;

    if (comm == NULL) {
        return;
    }
    CSP_ASSERT(comm->whole == comm);
    if (comm->size > 1) {
        csp_comm_failure(comm, &rank, &exit_code);
        if (rank < 0 && csp_comm_barrier(comm, "the end") != CSP_OK) {
            csp_log(CSP_LOG_DEBUG, "comm", "%s", csp_error_text());
        }
        stay_for_rank_0(comm);
        comm->is_left = !end_worker(comm);
        if (!comm->is_left) {
            csp_comm_failure(comm, &rank, &exit_code);
            csp_control_end(comm, rank < 0);
        }
    }
    destroy_parts(comm);
}

/* What a failure that a rank reports itself is to the others. */
static void say_report(int exit_code, const char *reason, char *text, size_t bytes)
{
    (void)snprintf(text, bytes, "failed with exit code %d: %s", exit_code, reason);
}

void csp_comm_report(csp_comm *of, int exit_code, const char *reason)
{
    csp_comm *comm = of->whole;
    char text[sizeof(comm->failed_reason)];

    if (comm->size > 1 && !atomic_load(&comm->stop.set)) {
        say_report(exit_code, reason, text, sizeof(text));
        csp_control_tell(comm, comm->rank, exit_code, text);
    }
}

bool csp_comm_await_failure(csp_comm *comm, double seconds)
{
    return comm->whole->size > 1 && csp_failure_await(comm->whole, seconds);
}

bool csp_comm_failed_alike(const csp_comm *comm, int exit_code, const char *reason)
{
    csp_comm *whole = comm->whole;
    char text[sizeof(whole->failed_reason)];
    bool alike;

    say_report(exit_code, reason, text, sizeof(text));
    pthread_mutex_lock(&whole->lock);
    alike = whole->failed_rank >= 0 && whole->failed_rank != whole->rank &&
            strcmp(whole->failed_reason, text) == 0;
    pthread_mutex_unlock(&whole->lock);
    return alike;
}

int csp_comm_rank(const csp_comm *comm)
{
    return comm->rank;
}

int csp_comm_size(const csp_comm *comm)
{
    return comm->size;
}

double csp_comm_timeout_s(const csp_comm *comm)
{
    return comm->whole->options.timeout_s;
}

double csp_comm_sign_s(const csp_comm *comm)
{
    const double eighth = csp_comm_timeout_s(comm) / 8.0;

    return eighth < 1.0 ? eighth : 1.0;
}

int csp_comm_local_rank(const csp_comm *comm)
{
    return comm->whole->local_rank;
}

int csp_comm_local_size(const csp_comm *comm)
{
    return comm->whole->local_size;
}

int csp_comm_device(const csp_comm *comm)
{
    const csp_comm *whole = comm->whole;
    const csp_rank_card *own = &whole->cards[whole->rank];
    int device = 0;

    for (int r = 0; r < whole->rank; r++) {
        device += strcmp(whole->cards[r].machine, own->machine) == 0 &&
                  strcmp(whole->cards[r].devices, own->devices) == 0;
    }
    return device;
}

void csp_comm_failure(const csp_comm *comm, int *rank, int *exit_code)
{
    csp_comm *whole = comm->whole;

    pthread_mutex_lock(&whole->lock);
    *rank = whole->failed_rank;
    *exit_code = whole->failed_code;
    pthread_mutex_unlock(&whole->lock);
}

csp_comm_traffic csp_comm_traffic_of(const csp_comm *comm)
{
    csp_comm *whole = comm->whole;
    csp_comm_traffic traffic;

    pthread_mutex_lock(&whole->lock);
    traffic = whole->traffic;
    pthread_mutex_unlock(&whole->lock);
    return traffic;
}

void csp_comm_count(csp_comm *of, int64_t sent, int64_t received)
{
    csp_comm *comm = of->whole;

    atomic_fetch_add(&comm->came, 1);
    pthread_mutex_lock(&comm->lock);
    comm->traffic.calls++;
    comm->traffic.sent += sent;
    comm->traffic.received += received;
    pthread_mutex_unlock(&comm->lock);
}

void csp_comm_count_wait(csp_comm *of, double seconds)
{
    csp_comm *comm = of->whole;

    pthread_mutex_lock(&comm->lock);
    comm->traffic.waited_s += seconds;
    pthread_mutex_unlock(&comm->lock);
}

bool csp_comm_has_failed(const csp_comm *comm)
{
    return atomic_load(&comm->whole->stop.set);
}
