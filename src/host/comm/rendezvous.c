/* rendezvous.c - from the address of rank 0 to a mesh of connections. */
#include "comm/rendezvous.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "comm/hello.h"
#include "core/log.h"
#include "core/machine.h"
#include "core/memory.h"

/* After so long a rank says that it does not find rank 0. */
static const double TELL_S = 5.0;

/* What rank 0 tells the others, behind an answer: the token, then a hello of each. */
typedef struct meeting {
    const csp_launch *launch;
    double timeout_s, deadline;
    int listener;      /* of this rank; rank 0's is the port of the job */
    int *fds;          /* (size) */
    csp_hello *hellos; /* (size) */
    csp_hello own;
} meeting;

static csp_status host_ranks(meeting *m)
{
    const csp_launch *launch = m->launch;
    const size_t bytes = (size_t)launch->size * sizeof(csp_hello);
    int bound;
    uint8_t token[CSP_TOKEN_BYTES];

    if (csp_socket_listen(launch->port, &m->listener, &bound) != CSP_OK) {
        return CSP_FAIL(CSP_ERR_COMM,
                        "rank 0 cannot listen at port %d: %s: give another MASTER_PORT",
                        launch->port, csp_error_text());
    }
    csp_log(CSP_LOG_INFO, "comm", "rank 0 waits at port %d for %d more, %g s at most", launch->port,
            launch->size - 1, m->timeout_s);
    if (getrandom(token, sizeof(token), 0) != (ssize_t)sizeof(token)) {
        return CSP_FAIL(CSP_ERR_IO, "the system gives no random bytes");
    }
    CSP_TRY(csp_hello_accept(m->listener, &m->own, 1, m->deadline, m->fds, m->hellos));
    m->hellos[0] = m->own;
    for (int r = 0; r < launch->size; r++) {
        memcpy(m->hellos[r].token, token, sizeof(token));
    }
    for (int r = 1; r < launch->size; r++) {
        csp_hello_answer(m->fds[r], CSP_OK, "");
        if (csp_socket_send(m->fds[r], m->hellos, bytes, m->deadline) != CSP_OK) {
            return CSP_FAIL(CSP_ERR_COMM, "rank %d went away while the ranks met: %s", r,
                            csp_error_text());
        }
    }
    return CSP_OK;
}

/* The connection to rank 0, which may not be there yet. */
static csp_status reach_master(meeting *m)
{
    const csp_launch *launch = m->launch;
    struct timespec pause = { .tv_nsec = 2 * 1000 * 1000 };
    bool told = false;

    while (csp_socket_connect_name(launch->master, launch->port, m->deadline, &m->fds[0]) !=
           CSP_OK) {
        if (csp_machine_seconds() + 1e-9 * (double)pause.tv_nsec >= m->deadline) {
            return CSP_FAIL(CSP_ERR_COMM,
                            "rank %d could not reach rank 0 at %s port %d within %.3g s (%s): is "
                            "rank 0 started, is MASTER_ADDR its machine, is the port open?",
                            launch->rank, launch->master, launch->port, m->timeout_s,
                            csp_error_text());
        }
        if (!told && csp_machine_seconds() > m->deadline - m->timeout_s + TELL_S) {
            csp_log(CSP_LOG_WARN, "comm",
                    "rank %d cannot reach rank 0 at %s port %d yet (%s), and tries for %g s",
                    launch->rank, launch->master, launch->port, csp_error_text(), m->timeout_s);
            told = true;
        }
        (void)nanosleep(&pause, NULL);
        pause.tv_nsec = pause.tv_nsec < 50 * 1000 * 1000 ? 2 * pause.tv_nsec : pause.tv_nsec;
    }
    return CSP_OK;
}

static csp_status visit_master(meeting *m)
{
    const csp_launch *launch = m->launch;
    const size_t bytes = (size_t)launch->size * sizeof(csp_hello);
    csp_status status;
    bool answered;

    CSP_TRY(reach_master(m));
    /* Rank 0 answers when it has given up, too: it may have started this much later. */
    status = csp_hello_send(m->fds[0], &m->own, m->deadline + m->timeout_s, &answered);
    if (status == CSP_OK) {
        status = csp_socket_receive(m->fds[0], m->hellos, bytes, m->deadline + m->timeout_s);
    }
    if (status == CSP_ERR_CONFIG) {
        return status;
    }
    if (status != CSP_OK) {
        return CSP_FAIL(status, "rank %d at the rendezvous of %s port %d: %s%s", launch->rank,
                        launch->master, launch->port, csp_error_text(),
                        answered ? ""
                                 : ": is what listens there rank 0 of this job, and has it not "
                                   "ended? Else give MASTER_ADDR and another MASTER_PORT");
    }
    memcpy(m->own.token, m->hellos[0].token, CSP_TOKEN_BYTES);
    return CSP_OK;
}

/* Connections between the ranks above 0: to the lower ones, from the higher ones. */
static csp_status mesh(meeting *m)
{
    const int rank = m->launch->rank, size = m->launch->size;
    int *accepted = NULL;
    csp_status status;

    m->own.kind = CSP_HELLO_DATA;
    m->deadline = csp_machine_seconds() + m->timeout_s;
    for (int r = 1; r < rank; r++) {
        if (csp_hello_connect(&m->hellos[r], &m->own, m->deadline, &m->fds[r]) != CSP_OK) {
            return CSP_FAIL(CSP_ERR_COMM,
                            "rank %d cannot connect to rank %d: %s: all machines must reach each "
                            "other at any port",
                            rank, r, csp_error_text());
        }
    }
    if (rank + 1 == size) {
        return CSP_OK;
    }
    CSP_TRY(csp_alloc("ranks", size, sizeof(int), &accepted));
    status = csp_hello_accept(m->listener, &m->own, rank + 1, m->deadline, accepted, NULL);
    for (int r = rank + 1; r < size && status == CSP_OK; r++) {
        m->fds[r] = accepted[r];
    }
    free(accepted);
    return status;
}

csp_status csp_rendezvous(const csp_launch *launch, double timeout_s, int *fds)
{
    meeting m = { .launch = launch,
                  .timeout_s = timeout_s,
                  .deadline = csp_machine_seconds() + timeout_s,
                  .listener = -1,
                  .fds = fds };
    csp_status status;
    int port = launch->port;

    for (int r = 0; r < launch->size; r++) {
        fds[r] = -1;
    }
    csp_hello_fill(&m.own, CSP_HELLO_RENDEZVOUS, launch->rank, launch->size, NULL);
    csp_socket_own_addresses(m.own.addresses);
    CSP_TRY(csp_alloc("ranks", launch->size, sizeof(csp_hello), &m.hellos));
    if (launch->rank == 0) {
        CSP_TRY_GOTO(host_ranks(&m));
    } else {
        if (csp_socket_listen(0, &m.listener, &port) != CSP_OK) {
            status =
                CSP_FAIL(CSP_ERR_COMM, "rank %d cannot listen: %s", launch->rank, csp_error_text());
            goto fail;
        }
        m.own.port = port;
        CSP_TRY_GOTO(visit_master(&m));
        CSP_TRY_GOTO(mesh(&m));
    }
    close(m.listener);
    free(m.hellos);
    return CSP_OK;

fail:
    for (int r = 0; r < launch->size; r++) {
        if (fds[r] >= 0) {
            close(fds[r]);
            fds[r] = -1;
        }
    }
    if (m.listener >= 0) {
        close(m.listener);
    }
    free(m.hellos);
    return status;
}
