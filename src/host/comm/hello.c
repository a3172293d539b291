/* hello.c - ranks that have connected make sure of each other. */
#include "comm/hello.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/machine.h"
#include "core/memory.h"

static const char magic[8] = "csplade";

/* Seconds for one address of several, of which some may lead nowhere. */
static const double address_s = 2.0;

/* A connection that has not said all of its hello yet. */
typedef struct caller {
    int fd;
    size_t bytes;
    csp_hello hello;
} caller;

enum { CALLERS = 64 };

typedef struct reception {
    int listener;
    const csp_hello *own;
    int first;
    int *fds;
    csp_hello *hellos;
    int missing;
    double looked_at; /* for those who have gone */
    int callers;
    caller caller[CALLERS];
    struct pollfd entries[CALLERS + 1];
} reception;

void csp_hello_fill(csp_hello *hello, csp_hello_kind kind, int rank, int size, const uint8_t *token)
{
    memset(hello, 0, sizeof(*hello));
    memcpy(hello->magic, magic, sizeof(magic));
    hello->protocol = CSP_PROTOCOL;
    hello->kind = kind;
    hello->rank = rank;
    hello->size = size;
    if (token != NULL) {
        memcpy(hello->token, token, CSP_TOKEN_BYTES);
    }
}

const char *csp_hello_list(const bool *absent, int size, char *text, size_t bytes)
{
    enum { NAMED = 8 };
    int count = 0, named = 0;
    size_t at = 0;

    for (int r = 0; r < size; r++) {
        count += absent[r] ? 1 : 0;
    }
    at = (size_t)snprintf(text, bytes, "rank%s", count == 1 ? "" : "s");
    for (int r = 0; r < size && at < bytes; r++) {
        if (!absent[r]) {
            continue;
        }
        named++;
        at += (size_t)snprintf(text + at, bytes - at, "%s%d",
                               named == 1                         ? " "
                               : named == count && count <= NAMED ? " and "
                                                                  : ", ",
                               r);
        if (named == NAMED && count > NAMED && at < bytes) {
            (void)snprintf(text + at, bytes - at, " and %d others", count - NAMED);
            break;
        }
    }
    return text;
}

void csp_hello_answer(int fd, csp_status status, const char *text)
{
    csp_answer answer = { .status = (int32_t)status };

    memcpy(answer.magic, magic, sizeof(magic));
    (void)snprintf(answer.text, sizeof(answer.text), "%s", text);
    (void)(csp_socket_send(fd, &answer, sizeof(answer), csp_machine_seconds() + 1.0) == CSP_OK);
}

/* Tells all who are there why nothing comes of it. Returns status. */
static csp_status refuse_all(reception *r, csp_status status)
{
    char text[500];

    (void)snprintf(text, sizeof(text), "%s", csp_error_text());
    for (int i = 0; i < r->own->size; i++) {
        if (r->fds[i] >= 0) {
            if (r->own->kind != CSP_HELLO_DATA) {
                csp_hello_answer(r->fds[i], status, text);
            }
            close(r->fds[i]);
            r->fds[i] = -1;
        }
    }
    return CSP_FAIL(status, "%s", text);
}

/* What a whole hello says against its sender, as a failure; CSP_OK if nothing. */
static csp_status check(const reception *r, const csp_hello *hello)
{
    const csp_hello *own = r->own;

    if (hello->size != own->size) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "rank %d was started as one of %d ranks, and rank %d as one of %d: "
                        "give all of them the same WORLD_SIZE",
                        (int)hello->rank, (int)hello->size, (int)own->rank, (int)own->size);
    }
    if (hello->rank < r->first || hello->rank >= own->size) {
        return CSP_FAIL(CSP_ERR_CONFIG, "another process was started as rank %d too",
                        (int)hello->rank);
    }
    if (r->fds[hello->rank] >= 0) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "two processes were started as rank %d: give each a RANK of its own",
                        (int)hello->rank);
    }
    return CSP_OK;
}

/* The address that the sender was seen at comes first, whatever it thinks of itself. */
static void put_seen_first(int fd, csp_hello *hello)
{
    csp_address seen;
    int at = 0;

    if (!csp_socket_peer(fd, &seen)) {
        return;
    }
    while (at < CSP_ADDRESSES - 1 && !csp_address_is_same(&hello->addresses[at], &seen)) {
        at++;
    }
    memmove(&hello->addresses[1], &hello->addresses[0], (size_t)at * sizeof(seen));
    hello->addresses[0] = seen;
}

/* A whole hello: takes the connection, or closes it. */
static csp_status receive_rank(reception *r, caller *from)
{
    csp_hello *hello = &from->hello;
    csp_status status;

    if (memcmp(hello->magic, magic, sizeof(magic)) != 0) {
        close(from->fd);
        return CSP_OK;
    }
    if (hello->protocol != CSP_PROTOCOL) {
        status =
            CSP_FAIL(CSP_ERR_CONFIG,
                     "a rank speaks protocol %u and this one %d: start the same csplade on all "
                     "machines",
                     hello->protocol, CSP_PROTOCOL);
    } else if (hello->kind != r->own->kind ||
               memcmp(hello->token, r->own->token, CSP_TOKEN_BYTES) != 0) {
        close(from->fd); // of another job
        return CSP_OK;
    } else {
        status = check(r, hello);
    }
    if (status != CSP_OK) {
        csp_hello_answer(from->fd, status, csp_error_text());
        close(from->fd);
        return refuse_all(r, status);
    }
    if (r->own->kind == CSP_HELLO_DATA) {
        csp_hello_answer(from->fd, CSP_OK, "");
    }
    put_seen_first(from->fd, hello);
    r->fds[hello->rank] = from->fd;
    if (r->hellos != NULL) {
        r->hellos[hello->rank] = *hello;
    }
    r->missing--;
    return CSP_OK;
}

/* Reads on; *gone once the caller is no longer one. */
static csp_status read_caller(reception *r, caller *from, bool *gone)
{
    const ssize_t n =
        recv(from->fd, (char *)&from->hello + from->bytes, sizeof(csp_hello) - from->bytes, 0);

    *gone = false;
    if (n > 0) {
        from->bytes += (size_t)n;
        if (from->bytes == sizeof(csp_hello)) {
            *gone = true;
            return receive_rank(r, from);
        }
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        close(from->fd);
        *gone = true;
    }
    return CSP_OK;
}

static void forget(reception *r, int i)
{
    r->callers--;
    memmove(&r->caller[i], &r->caller[i + 1], (size_t)(r->callers - i) * sizeof(caller));
}

/*
 * Those who wait for the answer say nothing; a connection of theirs that ends is a rank that has
 * gone, and the others need not wait for it.
 */
static csp_status look_for_gone(reception *r)
{
    const double now = csp_machine_seconds();
    char byte;

    if (r->own->kind == CSP_HELLO_DATA || now - r->looked_at < 0.1) {
        return CSP_OK;
    }
    r->looked_at = now;
    for (int i = r->first; i < r->own->size; i++) {
        if (r->fds[i] >= 0 && recv(r->fds[i], &byte, 1, MSG_PEEK) == 0) {
            return CSP_FAIL(CSP_ERR_COMM,
                            "rank %d of %d has gone without a word while the others came: killed, "
                            "or crashed",
                            i, r->own->size);
        }
    }
    return CSP_OK;
}

/* One turn: new connections, and what the others have to say. */
static csp_status receive_some(reception *r, double deadline)
{
    const double left = deadline - csp_machine_seconds();
    const int before = r->callers;
    int fd;

    for (int i = 0; i < before; i++) {
        r->entries[i] = (struct pollfd) { .fd = r->caller[i].fd, .events = POLLIN };
    }
    r->entries[before] = (struct pollfd) { .fd = r->listener, .events = POLLIN };
    if (poll(r->entries, (nfds_t)before + 1,
             left > 0.2 ? 200
             : left > 0 ? (int)(left * 1e3) + 1
                        : 0) <= 0) {
        return CSP_OK;
    }
    if (r->entries[before].revents != 0) {
        CSP_TRY(csp_socket_accept(r->listener, 0.0, &fd));
        if (fd >= 0) {
            r->caller[r->callers].fd = fd;
            r->caller[r->callers++].bytes = 0;
        }
    }
    for (int i = before - 1; i >= 0; i--) {
        bool gone = false;
        csp_status status = CSP_OK;

        if (r->entries[i].revents != 0) {
            status = read_caller(r, &r->caller[i], &gone);
        }
        if (gone) {
            forget(r, i);
        }
        CSP_TRY(status);
    }
    if (r->callers == CALLERS) { // silent ones shall not keep the others out
        close(r->caller[0].fd);
        forget(r, 0);
    }
    return CSP_OK;
}

csp_status csp_hello_accept(int listener, const csp_hello *own, int first, double deadline,
                            int *fds, csp_hello *hellos)
{
    const double start = csp_machine_seconds();
    reception *r = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero("ranks", 1, sizeof(*r), &r));
    *r = (reception) { .listener = listener,
                       .own = own,
                       .first = first,
                       .fds = fds,
                       .hellos = hellos,
                       .missing = own->size - first };
    for (int i = 0; i < own->size; i++) {
        fds[i] = -1;
    }
    status = CSP_OK;
    while (status == CSP_OK && r->missing > 0 && csp_machine_seconds() < deadline) {
        status = receive_some(r, deadline);
        if (status == CSP_OK) {
            status = look_for_gone(r);
        }
    }
    for (int i = 0; i < r->callers; i++) {
        close(r->caller[i].fd);
    }
    if (status == CSP_OK && r->missing > 0) {
        bool *absent = NULL;
        char list[160];

        status = csp_alloc_zero("ranks", own->size, sizeof(bool), &absent);
        if (status == CSP_OK) {
            for (int i = first; i < own->size; i++) {
                absent[i] = fds[i] < 0;
            }
            status = CSP_FAIL(CSP_ERR_COMM, "%s of %d did not come to rank %d within %.1f s: %s",
                              csp_hello_list(absent, own->size, list, sizeof(list)), own->size,
                              own->rank, deadline - start,
                              own->kind == CSP_HELLO_RENDEZVOUS
                                  ? "are they started, with the same MASTER_ADDR and MASTER_PORT, "
                                    "and does a firewall let them through?"
                                  : "all machines must reach each other at any port");
        }
        free(absent);
    }
    free(r);
    return status == CSP_OK ? CSP_OK : refuse_all(&(reception) { .own = own, .fds = fds }, status);
}

csp_status csp_hello_send(int fd, const csp_hello *own, double deadline, bool *answered)
{
    csp_answer answer;

    *answered = false;
    CSP_TRY(csp_socket_send(fd, own, sizeof(*own), deadline));
    CSP_TRY(csp_socket_receive(fd, &answer, sizeof(answer), deadline));
    if (memcmp(answer.magic, magic, sizeof(magic)) != 0) {
        return CSP_FAIL(CSP_ERR_COMM, "what listens there is no csplade");
    }
    *answered = true;
    if (answer.status != CSP_OK) {
        answer.text[sizeof(answer.text) - 1] = '\0';
        return CSP_FAIL((csp_status)answer.status, "%s", answer.text);
    }
    return CSP_OK;
}

csp_status csp_hello_connect(const csp_hello *to, const csp_hello *own, double deadline, int *out)
{
    int count = 0;
    bool answered = false;
    csp_status status = CSP_FAIL(CSP_ERR_COMM, "it has told no address");

    while (count < CSP_ADDRESSES && to->addresses[count].family != 0) {
        count++;
    }
    for (int i = 0; i < count && status != CSP_OK && !answered; i++) {
        const double soon = csp_machine_seconds() + address_s;
        int fd = -1;

        status = csp_socket_connect(&to->addresses[i], to->port,
                                    soon < deadline && i + 1 < count ? soon : deadline, &fd);
        if (status == CSP_OK) {
            status = csp_hello_send(fd, own, deadline, &answered);
        }
        if (status == CSP_OK) {
            *out = fd;
        } else if (fd >= 0) {
            close(fd);
        }
    }
    return status;
}
