/*
 * collective_group.cu - groups of devices: joined, watched, ended. Communicators of NCCL do not
 * block here: whatever takes long goes on beside the caller, who asks how far it is, and meanwhile
 * whether another rank has failed. Only so can a rank leave that waits for one which does not come.
 */
#include "collective_group.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/machine.h"
#include "core/memory.h"
#include "launch.cuh"

/* The name of what comes before all collectives. */
static const char joining[] = "joining of devices";

static const nccl_table *library_of(const cuda_state *state)
{
    const nccl_table *t = NULL;

    /* A group is open, so the library is. */
    return cuda_nccl((cuda_state *)state, &t) == CSP_OK ? t : NULL;
}

bool cuda_collective_any(const cuda_state *state)
{
    for (const cuda_collective *c = state->collectives.first; c != NULL; c = c->next) {
        if (c->comm != NULL) {
            return true;
        }
    }
    return false;
}

/*
 * The device goes on as if what is under way had been done; what it was to write is not said. NCCL
 * leaves the thread the device that it had, so it is ours from the beginning.
 */
static csp_status abort_one(void *argument)
{
    const cuda_collective *c = (const cuda_collective *)argument;

    (void)cudaSetDevice(c->state->device);
    (void)library_of(c->state)->abort(c->comm);
    return CSP_OK;
}

/*
 * All: they share a stream, and whatever waits behind one of them must get free. And all at once,
 * each in a thread: an abort has the kernels of its own group quit, and then frees memory of the
 * device, for which the driver waits for those of the others, too.
 */
static void end_all(csp_backend *be)
{
    const cuda_state *state = cuda_state_of(be);

    for (cuda_collective *c = state->collectives.first; c != NULL; c = c->next) {
        if (c->comm != NULL &&
            csp_task_start(&c->ending, "ending devices' groups", abort_one, c) != CSP_OK) {
            (void)(abort_one(c) == CSP_OK);
        }
    }
    for (cuda_collective *c = state->collectives.first; c != NULL; c = c->next) {
        csp_task_drop(&c->ending);
        c->comm = NULL;
    }
}

csp_status cuda_collective_fail(csp_backend *be, cuda_collective *c, csp_watch_reason reason,
                                const char *what, const char *words)
{
    const csp_status status = c->watch.say(c->watch.context, reason, what, words);

    end_all(be);
    return status;
}

csp_status cuda_collective_alive(csp_backend *be, cuda_collective *c, const char *what)
{
    (void)be;
    if (c->comm != NULL) {
        return CSP_OK;
    }
    if (c->watch.has_failed(c->watch.context)) {
        return c->watch.say(c->watch.context, CSP_WATCH_FAILED, what, "");
    }
    return CSP_FAIL(CSP_ERR_COMM, "%s: the devices' group has been ended", what);
}

/* NCCL's words for a state, as "unhandled system error (Connection refused)". */
static void describe_state(const nccl_table *t, const cuda_collective *c, nccl_result state,
                           char *words, size_t bytes)
{
    const char *last = t->last_error(c->comm);
    const bool has_more = last != NULL && last[0] != '\0';

    (void)snprintf(words, bytes, "NCCL: %s%s%.*s%s", t->error_string(state), has_more ? " (" : "",
                   has_more ? (int)strcspn(last, "\n") : 0, has_more ? last : "",
                   has_more ? ")" : "");
}

/* Counts what has been done of a group. */
static int64_t look(cuda_collective *c)
{
    if (c->begun - c->passed > CUDA_COLLECTIVES_KNOWN) {
        c->passed = c->begun - CUDA_COLLECTIVES_KNOWN;
    }
    while (c->passed < c->begun &&
           cudaEventQuery(c->known[c->passed % CUDA_COLLECTIVES_KNOWN].done) == cudaSuccess) {
        c->passed++;
    }
    return c->passed;
}

/* The first that is under way; the joining, if there is none. */
static const char *present(const cuda_collective *c)
{
    return c->passed < c->begun ? c->known[c->passed % CUDA_COLLECTIVES_KNOWN].what : joining;
}

/* One that has failed, by the word of other ranks or of NCCL. */
static csp_status check_one(csp_backend *be, cuda_collective *c)
{
    const nccl_table *t = library_of(cuda_state_of(be));
    nccl_result state = NCCL_OK;
    char words[512];

    if (c->watch.has_failed(c->watch.context)) {
        return cuda_collective_fail(be, c, CSP_WATCH_FAILED, present(c), "");
    }
    if (t->state(c->comm, &state) != NCCL_OK || (state != NCCL_OK && state != NCCL_IN_PROGRESS)) {
        describe_state(t, c, state, words, sizeof(words));
        return cuda_collective_fail(be, c, CSP_WATCH_BROKEN, present(c), words);
    }
    return CSP_OK;
}

csp_status cuda_collective_check(csp_backend *be, cuda_patience *patience)
{
    const double now = csp_machine_seconds();
    cuda_collective *first = cuda_state_of(be)->collectives.first;
    int64_t passed = 0;

    for (cuda_collective *c = first; c != NULL; c = c->next) {
        if (c->comm != NULL) {
            CSP_TRY(check_one(be, c));
        }
        passed += look(c);
    }
    if (!patience->begun || passed != patience->passed) {
        *patience = { true, now, passed };
        return CSP_OK;
    }
    for (cuda_collective *c = first; c != NULL; c = c->next) {
        if (c->comm != NULL && c->passed < c->begun && now - patience->since > c->watch.timeout_s) {
            return cuda_collective_fail(be, c, CSP_WATCH_LATE, present(c), "");
        }
    }
    return CSP_OK;
}

/* Asks until NCCL has taken what it was given, or has failed: state says which. */
static csp_status await_taken(csp_backend *be, cuda_collective *c, const char *what,
                              nccl_result *state)
{
    const nccl_table *t = library_of(cuda_state_of(be));
    const double begin = csp_machine_seconds();

    for (int64_t turn = 0;; turn++) {
        *state = NCCL_IN_PROGRESS;
        if (t->state(c->comm, state) != NCCL_OK) {
            *state = NCCL_INTERNAL_ERROR;
        }
        if (*state != NCCL_IN_PROGRESS) {
            return CSP_OK;
        }
        if (c->watch.has_failed(c->watch.context)) {
            return cuda_collective_fail(be, c, CSP_WATCH_FAILED, what, "");
        }
        if (csp_machine_seconds() - begin > c->watch.timeout_s) {
            return cuda_collective_fail(be, c, CSP_WATCH_LATE, what, "");
        }
        cuda_pause(turn);
    }
}

csp_status cuda_collective_settle(csp_backend *be, cuda_collective *c, const char *what)
{
    nccl_result state;
    char words[512];

    CSP_TRY(await_taken(be, c, what, &state));
    if (state == NCCL_OK) {
        return CSP_OK;
    }
    describe_state(library_of(cuda_state_of(be)), c, state, words, sizeof(words));
    return cuda_collective_fail(be, c, CSP_WATCH_BROKEN, what, words);
}

/* Takes a group out of the list and frees it. */
static void leave(cuda_state *state, cuda_collective *c)
{
    cuda_collective **place = &state->collectives.first;

    while (*place != c) {
        place = &(*place)->next;
    }
    *place = c->next;
    for (int i = 0; i < CUDA_COLLECTIVES_KNOWN; i++) {
        if (c->known[i].done != NULL) {
            (void)cudaEventDestroy(c->known[i].done);
        }
    }
    for (int64_t i = 0; i < c->join_events; i++) {
        if (c->joins[i] != NULL) {
            (void)cudaEventDestroy(c->joins[i]);
        }
    }
    free(c->joins);
    free(c);
}

/* What all groups of a backend share. */
static csp_status open_shared(cuda_collectives *shared)
{
    int least, greatest;

    if (shared->stream == NULL) {
        CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
        CUDA_TRY(cudaStreamCreateWithPriority(&shared->stream, cudaStreamNonBlocking, greatest));
    }
    if (shared->ready == NULL) {
        CUDA_TRY(cudaEventCreateWithFlags(&shared->ready, cudaEventDisableTiming));
    }
    return CSP_OK;
}

/* What fails here fails on this rank, and is said of it; others learn that it ended. */
static csp_status join(csp_backend *be, cuda_collective *c, const csp_collective_group *group)
{
    const cuda_state *state = cuda_state_of(be);
    const nccl_table *t = library_of(state);
    nccl_config config = { sizeof(config), NCCL_CONFIG_MAGIC, NCCL_OLDEST, 0 };
    nccl_result result;
    nccl_id id;
    char words[512];

    memcpy(id.bytes, group->id.bytes, sizeof(id.bytes));
    result = t->init(&c->comm, group->size, id, group->rank, &config);
    if (c->comm != NULL && (result == NCCL_OK || result == NCCL_IN_PROGRESS)) {
        CSP_TRY(await_taken(be, c, joining, &result));
    }
    if (result == NCCL_OK) {
        return CSP_OK;
    }
    describe_state(t, c, result, words, sizeof(words));
    return CSP_FAIL(CSP_ERR_DEVICE,
                    "%s: %d devices cannot be joined: %s: each rank needs a GPU of its own; "
                    "NCCL_DEBUG=INFO says more",
                    state->name, group->size, words);
}

csp_status cuda_collective_open(csp_backend *be, const csp_collective_group *group,
                                csp_collective **out)
{
    cuda_state *state = cuda_state_of(be);
    const nccl_table *t;
    cuda_collective *c;
    csp_status status;

    CSP_TRY(cuda_nccl(state, &t));
    CSP_TRY(open_shared(&state->collectives));
    CSP_TRY(csp_alloc_zero("group of devices", 1, sizeof(*c), &c));
    c->base = { group->rank, group->size };
    c->state = state;
    c->watch = group->watch;
    c->next = state->collectives.first;
    state->collectives.first = c; /* so that a failure of another rank ends it, too */
    status = join(be, c, group);
    if (status != CSP_OK && c->comm != NULL) {
        (void)(abort_one(c) == CSP_OK);
        c->comm = NULL;
    }
    if (status != CSP_OK) {
        leave(state, c);
        return status;
    }
    *out = &c->base;
    return CSP_OK;
}

/* Whether the other ranks have come to the end, too, so that the communicator can go in peace. */
static bool ends_together(csp_backend *be, cuda_collective *c)
{
    cuda_state *state = cuda_state_of(be);
    const nccl_table *t = library_of(state);
    const double begin = csp_machine_seconds();
    nccl_result now;

    if (c->watch.has_failed(c->watch.context) ||
        cudaStreamQuery(state->collectives.stream) != cudaSuccess) {
        return false;
    }
    now = t->finalize(c->comm);
    for (int64_t turn = 0; now == NCCL_IN_PROGRESS; turn++) {
        if (t->state(c->comm, &now) != NCCL_OK || c->watch.has_failed(c->watch.context) ||
            csp_machine_seconds() - begin > c->watch.timeout_s) {
            return false;
        }
        cuda_pause(turn);
    }
    return now == NCCL_OK;
}

void cuda_collective_close(csp_backend *be, csp_collective *collective)
{
    cuda_state *state = cuda_state_of(be);
    cuda_collective *c = (cuda_collective *)collective;

    if (c->comm != NULL && ends_together(be, c)) {
        (void)library_of(state)->destroy(c->comm);
        c->comm = NULL;
    }
    if (c->comm != NULL) {
        end_all(be); /* what is under way may be another's */
    }
    leave(state, c);
}

void cuda_collective_abort(csp_backend *be, csp_collective *collective)
{
    (void)collective;
    end_all(be);
}

void cuda_collectives_close(csp_backend *be)
{
    cuda_state *state = cuda_state_of(be);
    cuda_collectives *shared = &state->collectives;

    while (shared->first != NULL) {
        cuda_collective_close(be, &shared->first->base);
    }
    if (shared->ready != NULL) {
        (void)cudaEventDestroy(shared->ready);
    }
    if (shared->stream != NULL) {
        (void)cudaStreamDestroy(shared->stream);
    }
    cuda_nccl_close(state);
}
