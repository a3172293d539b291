/* failure.c - the one failure that all ranks agree on. */
#include "comm/failure.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "comm/control.h"
#include "comm/hello.h"
#include "core/machine.h"

/* Seconds that a word on the control channel may come later than the end of a connection. */
static const double word_s = 1.0;

void csp_failure_set(csp_comm *comm, int rank, int exit_code, const char *reason)
{
    const uint64_t one = 1;

    pthread_mutex_lock(&comm->lock);
    if (comm->failed_rank < 0) {
        comm->failed_rank = rank;
        comm->failed_code = exit_code;
        comm->failed_at = csp_machine_seconds();
        (void)snprintf(comm->failed_reason, sizeof(comm->failed_reason), "%s", reason);
        atomic_store(&comm->stop.set, true);
        (void)(write(comm->stop.fd, &one, sizeof(one)) == sizeof(one));
        pthread_cond_broadcast(&comm->changed);
    }
    pthread_mutex_unlock(&comm->lock);
}

bool csp_failure_await(csp_comm *comm, double seconds)
{
    const double deadline = csp_machine_seconds() + seconds;
    bool failed;

    pthread_mutex_lock(&comm->lock);
    while (comm->failed_rank < 0 && csp_machine_seconds() < deadline) {
        csp_comm_wait_change(comm, deadline - csp_machine_seconds());
    }
    failed = comm->failed_rank >= 0;
    pthread_mutex_unlock(&comm->lock);
    return failed;
}

csp_status csp_failure_say(csp_comm *comm, const char *what)
{
    const csp_rank_card *card;
    char reason[sizeof(comm->failed_reason)];
    int rank;

    pthread_mutex_lock(&comm->lock);
    rank = comm->failed_rank;
    memcpy(reason, comm->failed_reason, sizeof(reason));
    pthread_mutex_unlock(&comm->lock);
    card = &comm->cards[rank];
    if (card->pid == 0) { // before the ranks have met
        return CSP_FAIL(CSP_ERR_COMM, "%s: rank %d %s", what, rank, reason);
    }
    return CSP_FAIL(CSP_ERR_COMM, "%s: rank %d (process %lld on %s) %s", what, rank,
                    (long long)card->pid, card->host, reason);
}

/* The first of the ranks that are late, and what to say of it. */
static int describe_late(csp_comm *comm, const char *what, const csp_exchange *x, char *reason,
                         size_t bytes)
{
    char others[160];
    bool more = false;
    int first = 0;

    while (!x->late[first]) {
        first++;
    }
    for (int r = first + 1; r < comm->size; r++) {
        more = more || x->late[r];
    }
    x->late[first] = false;
    (void)snprintf(reason, bytes, "did not come to \"%s\" within %g s%s%s", what,
                   comm->options.timeout_s, more ? ", nor did " : "",
                   more ? csp_hello_list(x->late, comm->size, others, sizeof(others)) : "");
    return first;
}

csp_status csp_failure_raise(csp_comm *comm, const char *what, csp_exchange_end end,
                             const csp_exchange *x)
{
    char reason[sizeof(comm->failed_reason)] = "";
    int rank = x->rank;

    switch (end) {
    case CSP_EXCHANGE_DONE:
    case CSP_EXCHANGE_STOPPED:
        return csp_failure_say(comm, what);
    case CSP_EXCHANGE_LATE:
        rank = describe_late(comm, what, x, reason, sizeof(reason));
        break;
    case CSP_EXCHANGE_LOST:
        /* A rank that says why it goes says it on the control channel, which may be behind. */
        if (comm->control != NULL && csp_failure_await(comm, word_s)) {
            return csp_failure_say(comm, what);
        }
        (void)snprintf(reason, sizeof(reason), "has gone without a word (%s): killed, or crashed",
                       x->text);
        break;
    case CSP_EXCHANGE_DIFFERENT:
        (void)snprintf(reason, sizeof(reason),
                       "sent what belongs to another collective than \"%s\", in which rank %d is",
                       what, comm->rank);
        break;
    case CSP_EXCHANGE_BROKEN:
        rank = comm->rank;
        (void)snprintf(reason, sizeof(reason), "could not communicate: %s", x->text);
        break;
    }
    csp_control_tell(comm, rank, 1, reason);
    return csp_failure_say(comm, what);
}

csp_status csp_comm_raise(csp_comm *of, csp_comm_trouble trouble, const char *what,
                          const char *words)
{
    csp_comm *comm = of->whole;
    char reason[sizeof(comm->failed_reason)];

    if (csp_comm_has_failed(comm)) {
        return csp_failure_say(comm, what);
    }
    if (trouble == CSP_COMM_LATE) {
        csp_control_tell_late(of, what);
    } else if (comm->control == NULL || !csp_failure_await(comm, word_s)) {
        (void)snprintf(reason, sizeof(reason), "could not communicate: %s", words);
        csp_control_tell(comm, comm->rank, 1, reason);
    }
    return csp_failure_say(comm, what);
}
