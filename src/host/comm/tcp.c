/*
 * tcp.c - the transport over TCP: one connection between each two ranks, driven by poll.
 *
 * A piece goes as a frame, { tag u32, 0 u32, bytes u64 } and then the bytes; a piece of no bytes
 * does not go at all. What arrives is read up to the end of this exchange's frame and no further,
 * so a rank that is ahead waits in the system's buffers.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "comm/rendezvous.h"
#include "comm/transport.h"
#include "core/machine.h"
#include "core/memory.h"

typedef struct frame {
    uint32_t tag, zero;
    uint64_t bytes;
} frame;

/* One direction of one connection in one exchange: the frame's head, then its bytes. */
typedef struct stream {
    frame head;
    char *data;
    size_t bytes, done; /* of head and data together */
} stream;

typedef struct tcp {
    csp_transport transport; /* first: a csp_transport * of ours is a tcp * */
    const csp_stop *stop;
    int *fds;               /* (size), -1 for this rank */
    stream *out, *in;       /* (size)                   */
    struct pollfd *entries; /* (size + 1), the last is the stop */
} tcp;

static void stream_begin(stream *s, const csp_piece *piece, uint32_t tag)
{
    s->head = (frame) { .tag = tag, .bytes = (uint64_t)piece->bytes };
    s->data = piece->data;
    s->bytes = piece->bytes > 0 ? sizeof(frame) + (size_t)piece->bytes : 0;
    s->done = 0;
}

static bool is_busy(const stream *s)
{
    return s->done < s->bytes;
}

static csp_exchange_end lose(csp_exchange *x, int rank, const char *words)
{
    x->rank = rank;
    (void)snprintf(x->text, sizeof(x->text), "%s", words);
    return CSP_EXCHANGE_LOST;
}

/* What of a stream is still to go, as at most two runs of memory. Returns their number. */
static int runs_of(stream *s, struct iovec run[2])
{
    const size_t head = sizeof(frame);

    if (s->done >= head) {
        run[0] = (struct iovec) { s->data + (s->done - head), s->bytes - s->done };
        return 1;
    }
    run[0] = (struct iovec) { (char *)&s->head + s->done, head - s->done };
    run[1] = (struct iovec) { s->data, s->bytes - head };
    return 2;
}

/* Sends what the system takes; *moved if it took any. */
static csp_exchange_end push(tcp *t, csp_exchange *x, int rank, bool *moved)
{
    stream *s = &t->out[rank];

    while (is_busy(s)) {
        struct iovec run[2];
        struct msghdr message = { .msg_iov = run, .msg_iovlen = (size_t)runs_of(s, run) };
        const ssize_t n = sendmsg(t->fds[rank], &message, MSG_NOSIGNAL);

        if (n < 0) {
            return errno == EAGAIN || errno == EINTR ? CSP_EXCHANGE_DONE
                                                     : lose(x, rank, strerror(errno));
        }
        s->done += (size_t)n;
        *moved = true;
    }
    return CSP_EXCHANGE_DONE;
}

/* Receives what is there; *moved if there was any. */
static csp_exchange_end pull(tcp *t, csp_exchange *x, int rank, bool *moved)
{
    stream *s = &t->in[rank];

    while (is_busy(s)) {
        const bool in_head = s->done < sizeof(frame);
        struct iovec run[2];
        ssize_t n;

        (void)runs_of(s, run);
        n = recv(t->fds[rank], run[0].iov_base, run[0].iov_len, 0);
        if (n == 0) {
            return lose(x, rank, "its connection was closed");
        }
        if (n < 0) {
            return errno == EAGAIN || errno == EINTR ? CSP_EXCHANGE_DONE
                                                     : lose(x, rank, strerror(errno));
        }
        s->done += (size_t)n;
        *moved = true;
        /* Nothing goes into data before the head is known to announce just that. */
        if (in_head && s->done >= sizeof(frame) &&
            (s->head.tag != x->tag || s->head.bytes != s->bytes - sizeof(frame))) {
            x->rank = rank;
            return CSP_EXCHANGE_DIFFERENT;
        }
    }
    return CSP_EXCHANGE_DONE;
}

/* One turn of the loop: waits until something can move, and moves it. */
static csp_exchange_end turn(tcp *t, csp_exchange *x, double wait_s, bool *moved)
{
    const int size = t->transport.size;

    for (int r = 0; r < size; r++) {
        struct pollfd *entry = &t->entries[r];

        entry->events =
            (short)((is_busy(&t->out[r]) ? POLLOUT : 0) | (is_busy(&t->in[r]) ? POLLIN : 0));
        entry->fd = entry->events != 0 ? t->fds[r] : -1;
        entry->revents = 0;
    }
    if (poll(t->entries, (nfds_t)size + 1, wait_s > 1.0 ? 1000 : (int)(wait_s * 1e3) + 1) <= 0) {
        return CSP_EXCHANGE_DONE;
    }
    if (t->entries[size].revents != 0) {
        return CSP_EXCHANGE_STOPPED;
    }
    for (int r = 0; r < size; r++) {
        csp_exchange_end end = CSP_EXCHANGE_DONE;

        if (t->entries[r].revents != 0) {
            end = push(t, x, r, moved);
            /* A rank that failed may have sent what was asked for, or its reason, before. */
            if (end == CSP_EXCHANGE_DONE) {
                end = pull(t, x, r, moved);
            }
        }
        if (end != CSP_EXCHANGE_DONE) {
            return end;
        }
    }
    return CSP_EXCHANGE_DONE;
}

static csp_exchange_end tcp_exchange(csp_transport *transport, csp_exchange *x)
{
    tcp *t = (tcp *)transport;
    const csp_piece none = { 0 };
    csp_patience patience = { 0 };
    bool busy = true;

    for (int r = 0; r < transport->size; r++) {
        const bool own = r == transport->rank;

        stream_begin(&t->out[r], own ? &none : &x->send[r], x->tag);
        stream_begin(&t->in[r], own ? &none : &x->recv[r], x->tag);
    }
    /* What can move at once does, without asking whether it can. */
    for (int i = 1; i < transport->size; i++) {
        const int r = (transport->rank + i) % transport->size;
        bool moved = false;
        const csp_exchange_end end = push(t, x, r, &moved);

        if (end != CSP_EXCHANGE_DONE) {
            return end;
        }
    }
    for (;;) {
        const double waited_s = csp_patience_turn(&patience, x->timeout_s);
        bool moved = false;
        csp_exchange_end end;

        busy = false;
        for (int r = 0; r < transport->size; r++) {
            x->late[r] = is_busy(&t->in[r]) || is_busy(&t->out[r]);
            busy = busy || x->late[r];
        }
        if (!busy) {
            return CSP_EXCHANGE_DONE;
        }
        if (waited_s >= x->timeout_s) {
            return CSP_EXCHANGE_LATE;
        }
        end = turn(t, x, x->timeout_s - waited_s, &moved);
        if (end != CSP_EXCHANGE_DONE) {
            return end;
        }
        if (moved) {
            patience = (csp_patience) { 0 };
        }
    }
}

static void tcp_close(csp_transport *transport, bool orderly)
{
    tcp *t = (tcp *)transport;

    for (int r = 0; t->fds != NULL && r < transport->size; r++) {
        if (t->fds[r] >= 0) {
            close(t->fds[r]);
        }
    }
    free(t->fds);
    free(t->out);
    free(t->in);
    free(t->entries);
    free(t);
}

/* Two connections to each rank may be more files than a process may open unless it asks. */
static void allow_files(int size)
{
    const rlim_t wanted = 2 * (rlim_t)size + 256;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < wanted) {
        limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

csp_status csp_tcp_open(const csp_launch *launch, double timeout_s, const csp_stop *stop,
                        csp_transport **out)
{
    const int size = launch->size;
    csp_status status;
    tcp *t = NULL;

    CSP_TRY(csp_alloc_zero("ranks", 1, sizeof(*t), &t));
    t->transport = (csp_transport) { .rank = launch->rank,
                                     .size = size,
                                     .local_rank = -1,
                                     .local_size = -1,
                                     .exchange = tcp_exchange,
                                     .close = tcp_close };
    t->stop = stop;
    CSP_TRY_GOTO(csp_alloc_zero("ranks", size, sizeof(stream), &t->out));
    CSP_TRY_GOTO(csp_alloc_zero("ranks", size, sizeof(stream), &t->in));
    CSP_TRY_GOTO(csp_alloc_zero("ranks", size + 1, sizeof(struct pollfd), &t->entries));
    CSP_TRY_GOTO(csp_alloc("ranks", size, sizeof(int), &t->fds));
    allow_files(size);
    status = csp_rendezvous(launch, timeout_s, t->fds);
    if (status != CSP_OK) {
        free(t->fds);
        t->fds = NULL;
        goto fail;
    }
    t->entries[size] = (struct pollfd) { .fd = stop->fd, .events = POLLIN };
    *out = &t->transport;
    return CSP_OK;

fail:
    tcp_close(&t->transport, false);
    return status;
}
