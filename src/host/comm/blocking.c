/* blocking.c - collectives that are started and waited for in one, and what is made of several. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/state.h"
#include "core/memory.h"

csp_status csp_comm_reduce(csp_comm *comm, void *data, csp_dtype dtype, int64_t count,
                           csp_comm_op op, const char *what)
{
    int64_t ticket;

    CSP_TRY(csp_comm_reduce_start(comm, data, dtype, count, op, what, &ticket));
    return csp_comm_wait(comm, ticket);
}

csp_status csp_comm_gather(csp_comm *comm, const void *own, void *all, const int64_t *bytes,
                           const char *what)
{
    int64_t ticket;

    CSP_TRY(csp_comm_gather_start(comm, own, all, bytes, what, &ticket));
    return csp_comm_wait(comm, ticket);
}

csp_status csp_comm_collect(csp_comm *comm, const void *own, void *all, const int64_t *bytes,
                            int root, const char *what)
{
    int64_t ticket;

    CSP_TRY(csp_comm_collect_start(comm, own, all, bytes, root, what, &ticket));
    return csp_comm_wait(comm, ticket);
}

csp_status csp_comm_broadcast(csp_comm *comm, void *data, int64_t bytes, int root, const char *what)
{
    int64_t ticket;

    CSP_TRY(csp_comm_broadcast_start(comm, data, bytes, root, what, &ticket));
    return csp_comm_wait(comm, ticket);
}

csp_status csp_comm_barrier(csp_comm *comm, const char *what)
{
    int64_t ticket;

    CSP_TRY(csp_comm_barrier_start(comm, what, &ticket));
    return csp_comm_wait(comm, ticket);
}

/* Line `line` of text, from 0, cut for a message. */
static void copy_line(const char *text, int64_t line, char *out, size_t bytes)
{
    for (; line > 0 && *text != '\0'; line--) {
        text += strcspn(text, "\n");
        text += *text == '\n';
    }
    (void)snprintf(out, bytes, "%.*s", (int)strcspn(text, "\n"), text);
}

/* The sentence about the first line in which two texts differ. */
static void describe_difference(const char *zero, const char *own, int rank, const char *what,
                                char *out, size_t bytes)
{
    char left[300], right[300];
    int64_t line = 0;

    for (size_t i = 0; zero[i] != '\0' && zero[i] == own[i]; i++) {
        line += zero[i] == '\n';
    }
    copy_line(zero, line, left, sizeof(left));
    copy_line(own, line, right, sizeof(right));
    (void)snprintf(out, bytes,
                   "%s differs between ranks, first in line %lld: rank 0 has \"%s\", rank %d has "
                   "\"%s\"",
                   what, (long long)line + 1, left, rank, right);
}

static csp_status agree(csp_comm *comm, const char *text, const char *what, char *zero)
{
    char sentence[1024] = "";
    int32_t differs;

    CSP_TRY(csp_comm_broadcast(comm, zero, (int64_t)strlen(zero), 0, what));
    differs = strcmp(zero, text) != 0 ? comm->rank : comm->size;
    CSP_TRY(csp_comm_reduce(comm, &differs, CSP_I32, 1, CSP_COMM_MIN, what));
    if (differs == comm->size) {
        return CSP_OK;
    }
    if (differs == comm->rank) {
        describe_difference(zero, text, comm->rank, what, sentence, sizeof(sentence));
    }
    CSP_TRY(csp_comm_broadcast(comm, sentence, sizeof(sentence), differs, what));
    return CSP_FAIL(CSP_ERR_CONFIG, "%s", sentence);
}

csp_status csp_comm_agree(csp_comm *comm, const char *text, const char *what)
{
    int64_t bytes = (int64_t)strlen(text);
    char *zero = NULL;
    csp_status status;

    if (comm->size == 1) {
        return CSP_OK;
    }
    CSP_TRY(csp_comm_broadcast(comm, &bytes, sizeof(bytes), 0, what));
    CSP_TRY(csp_alloc(what, bytes + 1, 1, &zero));
    memset(zero, comm->rank == 0 ? 0 : ' ', (size_t)bytes);
    if (comm->rank == 0) {
        memcpy(zero, text, (size_t)bytes);
    }
    zero[bytes] = '\0';
    status = agree(comm, text, what, zero);
    free(zero);
    return status;
}
