/* control.c - the channel by which ranks learn that one has failed. */
#include "comm/control.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "comm/failure.h"
#include "comm/hello.h"
#include "core/log.h"
#include "core/machine.h"
#include "core/memory.h"
#include "core/thread.h"

/*
 * Seconds that a word may take to leave, that ranks wait for one another's goodbye, for an answer.
 */
static const double send_s = 1.0, goodbye_s = 5.0, tell_s = 2.0;

typedef enum word_kind { WORD_HERE = 1, WORD_FAILED, WORD_GOODBYE, WORD_LATE, WORD_POST } word_kind;

/* All that is ever said; of one length, so that its end is known. */
typedef struct word {
    uint32_t kind;
    int32_t rank, exit_code;
    int64_t came;                 /* to collectives elsewhere: WORD_HERE and WORD_LATE */
    int64_t number;               /* WORD_POST                                         */
    char reason[800];             /* WORD_LATE: the collective; WORD_POST: the text    */
    int32_t first, last, members; /* WORD_LATE: of the group that is in it             */
} word;

/* A connection of the star. */
typedef struct peer {
    int fd;          /* -1: none, or no more */
    bool is_gone;    /* has said goodbye */
    double heard_at; /* of csp_control.clock */
    int64_t came;    /* to collectives elsewhere, when it was last heard of */
    size_t bytes;
    word in;
} peer;

struct csp_control {
    csp_comm *comm;
    peer *links;            /* (size) rank 0 has all, the others that of rank 0 */
    struct pollfd *entries; /* (size + 1), the last is wake */
    int wake;
    pthread_t thread;
    double beat_s;
    csp_patience clock;   /* the thread's own */
    bool is_over;         /* the thread's own: a failure is known, nothing is said any more */
    bool says_bye;        /* the thread's own: it has */
    pthread_mutex_t lock; /* of what follows */
    bool has_told, quit, orderly;
    word told;       /* by csp_control_tell, until the thread takes it */
    csp_post out[2]; /* by number % 2, until the thread takes them: number -1 */
};

static void drop(csp_control *c, int rank)
{
    close(c->links[rank].fd);
    c->links[rank].fd = -1;
    atomic_store(&c->comm->gone[rank], true);
}

static void say(csp_control *c, peer *l, const word *w)
{
    if (l->fd >= 0 &&
        csp_socket_send(l->fd, w, sizeof(*w), csp_machine_seconds() + send_s) != CSP_OK) {
        l->bytes = 0; // what is wrong with it is found by reading
        (void)shutdown(l->fd, SHUT_RDWR);
    }
}

static void say_all(csp_control *c, word_kind kind, const word *about)
{
    word w = { .kind = (uint32_t)kind };

    if (about != NULL) {
        w = *about;
        w.kind = (uint32_t)kind;
    }
    w.came = atomic_load(&c->comm->came);
    for (int r = 0; r < c->comm->size; r++) {
        say(c, &c->links[r], &w);
    }
}

/* What this rank has seen, or was told by another: rank 0 decides, the others ask it. */
static void consider(csp_control *c, const word *failure)
{
    csp_comm *comm = c->comm;

    if (c->is_over) {
        return;
    }
    if (comm->rank == 0) {
        say_all(c, WORD_FAILED, failure);
    } else if (c->links[0].fd >= 0) {
        say(c, &c->links[0], failure);
        return; // rank 0 answers
    }
    c->is_over = true;
    csp_failure_set(comm, failure->rank, failure->exit_code, failure->reason);
}

static void consider_seen(csp_control *c, int rank, const char *reason)
{
    word w = { .kind = WORD_FAILED, .rank = rank, .exit_code = 1 };

    (void)snprintf(w.reason, sizeof(w.reason), "%s", reason);
    consider(c, &w);
}

/*
 * Whether a rank is of the group of a late one. A group has all ranks from its first to its last,
 * or those of them that are on one machine (csp_comm_group, csp_comm_group_local).
 */
static bool is_member(const csp_comm *comm, const word *w, int r)
{
    return r >= w->first && r <= w->last &&
           (w->members == w->last - w->first + 1 ||
            strcmp(comm->cards[r].machine, comm->cards[w->rank].machine) == 0);
}

/* Rank 0: who of a group has come to the fewest collectives is the one that its others wait for. */
static void find_late(csp_control *c, const word *w)
{
    csp_comm *comm = c->comm;
    int64_t fewest = w->came;
    int late = w->rank;
    char reason[sizeof(w->reason)];

    for (int r = 0; r < comm->size; r++) {
        const int64_t came = r == 0 ? atomic_load(&comm->came) : c->links[r].came;

        if (came < fewest && is_member(comm, w, r)) {
            fewest = came;
            late = r;
        }
    }
    if (fewest < w->came) {
        (void)snprintf(reason, sizeof(reason), "did not come to \"%.400s\" within %g s", w->reason,
                       comm->options.timeout_s);
    } else {
        (void)snprintf(reason, sizeof(reason),
                       "has waited for %g s in \"%.400s\", to which all ranks have come: a device, "
                       "or what connects them, hangs",
                       comm->options.timeout_s, w->reason);
    }
    consider_seen(c, late, reason);
}

/* Of this rank or, where this is rank 0, of any. */
static void consider_late(csp_control *c, const word *w)
{
    if (c->is_over) {
        return;
    }
    if (c->comm->rank == 0) {
        find_late(c, w);
    } else if (c->links[0].fd >= 0) {
        say(c, &c->links[0], w);
    }
}

static void hear(csp_control *c, int from, word *w)
{
    csp_comm *comm = c->comm;

    w->reason[sizeof(w->reason) - 1] = '\0';
    switch (w->kind) {
    case WORD_HERE:
        c->links[from].came = w->came;
        break;
    case WORD_LATE:
        if (comm->rank == 0) {
            c->links[from].came = w->came;
            w->rank = from;
            find_late(c, w);
        }
        break;
    case WORD_GOODBYE:
        c->links[from].is_gone = true;
        break;
    case WORD_POST:
        if (comm->rank == 0 && w->number >= 0) {
            csp_post_keep(comm, from, w->number, w->reason);
        }
        break;
    default:
        if (w->rank < 0 || w->rank >= comm->size) {
            break;
        }
        if (comm->rank == 0) {
            consider(c, w);
        } else if (!c->is_over) {
            c->is_over = true;
            csp_failure_set(comm, w->rank, w->exit_code, w->reason);
        }
    }
}

/* Who was stopped alone for too long finds that the others have gone. */
static void say_gone(csp_control *c, int rank)
{
    char reason[200] = "has gone without a word: killed, or crashed";

    if (c->clock.lost_s > 0.0) {
        (void)snprintf(reason, sizeof(reason),
                       "has gone without a word, while rank %d was stopped for %.0f s or before",
                       c->comm->rank, c->clock.lost_s);
    }
    consider_seen(c, rank, reason);
}

/* Takes what a connection has; an end of it that was not announced is a failure. */
static void listen_to(csp_control *c, int from)
{
    peer *l = &c->links[from];

    for (;;) {
        const ssize_t n = recv(l->fd, (char *)&l->in + l->bytes, sizeof(word) - l->bytes, 0);

        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n <= 0) {
            drop(c, from);
            if (!l->is_gone && !c->says_bye) {
                say_gone(c, from);
            }
            return;
        }
        l->heard_at = c->clock.waited_s;
        l->bytes += (size_t)n;
        if (l->bytes == sizeof(word)) {
            l->bytes = 0;
            hear(c, from, &l->in);
        }
    }
}

static void look_for_silence(csp_control *c)
{
    const double limit_s = c->comm->options.timeout_s;
    const double now = csp_patience_turn(&c->clock, limit_s);
    char reason[200];

    for (int r = 0; r < c->comm->size; r++) {
        const peer *l = &c->links[r];

        if (l->fd >= 0 && !l->is_gone && now - l->heard_at > limit_s) {
            (void)snprintf(reason, sizeof(reason),
                           "has not been heard of for %g s: stopped, or not to be reached",
                           limit_s);
            if (r == 0) {
                drop(c, 0); // there is nobody to ask
            }
            consider_seen(c, r, reason);
            if (r > 0) {
                drop(c, r); // nothing is waited for that it has not said; it has been told
            }
        }
    }
}

/* Ends the process when it had its time after a failure. */
static void watch_grace(const csp_control *c, double now)
{
    csp_comm *comm = c->comm;
    int rank, exit_code;
    double since;

    pthread_mutex_lock(&comm->lock);
    rank = comm->failed_rank;
    exit_code = comm->failed_code;
    since = comm->failed_at + comm->hold_s;
    pthread_mutex_unlock(&comm->lock);
    if (rank >= 0 && comm->options.grace_s > 0.0 && now - since > comm->options.grace_s) {
        (void)(csp_failure_say(comm, "this process ends") == CSP_OK);
        csp_log(CSP_LOG_WARN, "comm", "%s; it did not stop by itself within %g s", csp_error_text(),
                comm->options.grace_s);
        _exit(exit_code > 0 ? exit_code : 1);
    }
}

/* Sends what this rank has posted, the older one first. */
static void send_posts(csp_control *c, csp_post *posts)
{
    const int first = posts[1].number >= 0 && posts[1].number < posts[0].number;

    for (int i = 0; i < 2; i++) {
        const csp_post *post = &posts[(first + i) % 2];
        word w = { .kind = WORD_POST, .rank = c->comm->rank, .number = post->number };

        if (post->number >= 0) {
            (void)snprintf(w.reason, sizeof(w.reason), "%s", post->text);
            say(c, &c->links[0], &w);
        }
    }
}

/* What other threads want. Returns false when the thread is to end. */
static bool take_orders(csp_control *c)
{
    uint64_t count;
    csp_post posts[2];
    word told;
    bool has_told, quit, orderly;

    (void)(read(c->wake, &count, sizeof(count)) == sizeof(count));
    pthread_mutex_lock(&c->lock);
    memcpy(posts, c->out, sizeof(posts));
    c->out[0].number = c->out[1].number = -1;
    has_told = c->has_told;
    told = c->told;
    quit = c->quit;
    orderly = c->orderly;
    c->has_told = false;
    pthread_mutex_unlock(&c->lock);
    send_posts(c, posts);
    if (has_told && told.kind == WORD_LATE) {
        consider_late(c, &told);
    } else if (has_told) {
        consider(c, &told);
    }
    if (quit && orderly && !c->is_over && !c->says_bye) {
        c->says_bye = true;
        say_all(c, WORD_GOODBYE, NULL);
    }
    return !quit || c->says_bye;
}

/* Whether somebody has not said goodbye yet. */
static bool is_awaited(const csp_control *c)
{
    for (int r = 0; r < c->comm->size; r++) {
        if (c->links[r].fd >= 0 && !c->links[r].is_gone) {
            return true;
        }
    }
    return false;
}

static void *watch(void *argument)
{
    csp_control *c = argument;
    const int size = c->comm->size;
    const int turn_ms = c->beat_s < 0.5 ? (int)(c->beat_s * 500.0) + 1 : 250;
    double beat_at = csp_machine_seconds(), bye_at = 0.0;

    for (;;) {
        const double now = csp_machine_seconds();

        if (c->says_bye) {
            bye_at = bye_at > 0.0 ? bye_at : now;
            if (!is_awaited(c) || now - bye_at > goodbye_s) {
                return NULL;
            }
        }
        if (!c->is_over && !c->says_bye && now >= beat_at) {
            say_all(c, WORD_HERE, NULL);
            beat_at = now + c->beat_s;
        }
        watch_grace(c, now);
        for (int r = 0; r < size; r++) {
            c->entries[r] = (struct pollfd) { .fd = c->links[r].fd, .events = POLLIN };
        }
        c->entries[size] = (struct pollfd) { .fd = c->wake, .events = POLLIN };
        if (poll(c->entries, (nfds_t)size + 1, turn_ms) < 0) {
            continue;
        }
        for (int r = 0; r < size; r++) {
            if (c->entries[r].fd >= 0 && c->entries[r].revents != 0) {
                listen_to(c, r);
            }
        }
        /* After the reading: a process that was stopped itself finds the others' words here. */
        if (!c->is_over) {
            look_for_silence(c);
        }
        if (c->entries[size].revents != 0 && !take_orders(c)) {
            return NULL;
        }
    }
}

static void wake(csp_control *c)
{
    const uint64_t one = 1;

    (void)(write(c->wake, &one, sizeof(one)) == sizeof(one));
}

/* Hands a word to the thread, and waits until it has come to a failure of all. */
static bool hand_over(csp_control *c, const word *w)
{
    pthread_mutex_lock(&c->lock);
    if (!c->has_told) {
        c->has_told = true;
        c->told = *w;
    }
    pthread_mutex_unlock(&c->lock);
    wake(c);
    return csp_failure_await(c->comm, tell_s);
}

void csp_control_tell(csp_comm *comm, int rank, int exit_code, const char *reason)
{
    word w = { .kind = WORD_FAILED, .rank = rank, .exit_code = exit_code };

    (void)snprintf(w.reason, sizeof(w.reason), "%s", reason);
    if (comm->control == NULL || !hand_over(comm->control, &w)) {
        csp_failure_set(comm, rank, exit_code, reason);
    }
}

void csp_control_tell_late(const csp_comm *of, const char *what)
{
    csp_comm *comm = of->whole;
    word w = { .kind = WORD_LATE,
               .rank = comm->rank,
               .came = atomic_load(&comm->came),
               .first = of->member != NULL ? of->member[0] : 0,
               .last = of->member != NULL ? of->member[of->size - 1] : of->size - 1,
               .members = of->size };

    (void)snprintf(w.reason, sizeof(w.reason), "%s", what);
    if (comm->control == NULL || !hand_over(comm->control, &w)) {
        csp_failure_set(comm, comm->rank, 1, "was late in a collective, and could not tell rank 0");
    }
}

void csp_control_post(csp_comm *comm, int64_t number, const char *text)
{
    csp_control *c = comm->control;
    csp_post *post = &c->out[number % 2];

    pthread_mutex_lock(&c->lock);
    post->number = number;
    (void)snprintf(post->text, sizeof(post->text), "%s", text);
    pthread_mutex_unlock(&c->lock);
    wake(c);
}

static void destroy(csp_control *c)
{
    for (int r = 0; c->links != NULL && r < c->comm->size; r++) {
        if (c->links[r].fd >= 0) {
            close(c->links[r].fd);
        }
    }
    if (c->wake >= 0) {
        close(c->wake);
    }
    pthread_mutex_destroy(&c->lock);
    free(c->links);
    free(c->entries);
    free(c);
}

/* Rank 0 tells over the transport where it listens; the others come. */
static csp_status connect_star(csp_control *c, csp_hello *zero, int *fds)
{
    csp_comm *comm = c->comm;
    const double timeout_s = comm->options.timeout_s;
    csp_hello own;
    int listener = -1;
    csp_status status, listened = CSP_OK;

    csp_hello_fill(zero, CSP_HELLO_CONTROL, 0, comm->size, NULL);
    if (comm->rank == 0) {
        int port = 0;

        csp_socket_own_addresses(zero->addresses);
        listened = csp_socket_listen(0, &listener, &port);
        if (listened == CSP_OK &&
            getrandom(zero->token, CSP_TOKEN_BYTES, 0) != (ssize_t)CSP_TOKEN_BYTES) {
            listened = CSP_FAIL(CSP_ERR_IO, "the system gives no random bytes");
        }
        zero->port = listened == CSP_OK ? port : 0;
    }
    /* Also where rank 0 has no port: the others wait for it. */
    status = csp_comm_broadcast(comm, zero, sizeof(*zero), 0, "the control channel");
    if (status == CSP_OK) {
        status = listened;
    }
    if (status == CSP_OK && zero->port == 0) {
        status = CSP_FAIL(CSP_ERR_COMM, "rank 0 cannot listen for the control channel");
    }
    if (status == CSP_OK && comm->rank == 0) {
        status = csp_hello_accept(listener, zero, 1, csp_machine_seconds() + timeout_s, fds, NULL);
        for (int r = 1; r < comm->size && status == CSP_OK; r++) {
            csp_hello_answer(fds[r], CSP_OK, "");
        }
    } else if (status == CSP_OK) {
        csp_hello_fill(&own, CSP_HELLO_CONTROL, comm->rank, comm->size, zero->token);
        /* Rank 0 answers when all have come, or when it does not wait any longer. */
        if (csp_hello_connect(zero, &own, csp_machine_seconds() + 2.0 * timeout_s, &fds[0]) !=
            CSP_OK) {
            status = CSP_FAIL(CSP_ERR_COMM, "rank %d cannot join rank 0 on %s: %s", comm->rank,
                              comm->cards[0].host, csp_error_text());
        }
    }
    if (listener >= 0) {
        close(listener);
    }
    return status;
}

csp_status csp_control_start(csp_comm *comm)
{
    const double timeout_s = comm->options.timeout_s;
    csp_control *c = NULL;
    csp_hello zero;
    csp_status status;
    int *fds = NULL;

    CSP_TRY(csp_alloc_zero("control channel", 1, sizeof(*c), &c));
    c->comm = comm;
    c->out[0].number = c->out[1].number = -1;
    c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->beat_s = timeout_s / 8.0 < 5.0 ? timeout_s / 8.0 : 5.0;
    pthread_mutex_init(&c->lock, NULL);
    if (c->wake < 0) {
        status = CSP_FAIL(CSP_ERR_IO, "control channel: %s", strerror(errno));
        goto fail;
    }
    CSP_TRY_GOTO(csp_alloc("control channel", comm->size, sizeof(int), &fds));
    CSP_TRY_GOTO(
        csp_alloc_zero("control channel", comm->size + 1, sizeof(struct pollfd), &c->entries));
    CSP_TRY_GOTO(csp_alloc_zero("control channel", comm->size, sizeof(peer), &c->links));
    for (int r = 0; r < comm->size; r++) {
        fds[r] = -1;
        c->links[r].fd = -1;
    }
    CSP_TRY_GOTO(connect_star(c, &zero, fds));
    for (int r = 0; r < comm->size; r++) {
        c->links[r].fd = fds[r];
    }
    CSP_TRY_GOTO(csp_thread_start("communication", &c->thread, watch, c));
    free(fds);
    comm->control = c;
    return CSP_OK;

fail:
    free(fds);
    destroy(c);
    return status;
}

void csp_control_end(csp_comm *comm, bool orderly)
{
    csp_control *c = comm->control;

    if (c == NULL) {
        return;
    }
    pthread_mutex_lock(&c->lock);
    c->quit = true;
    c->orderly = orderly;
    pthread_mutex_unlock(&c->lock);
    wake(c);
    pthread_join(c->thread, NULL);
    comm->control = NULL;
    destroy(c);
}
