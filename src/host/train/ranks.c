/*
 * ranks.c - bringing tensors to the other ranks: over comm/ where the host can reach them, by the
 * devices themselves where it cannot.
 *
 * What devices send is counted by what a rank contributes, with R ranks and n bytes, as an ideal
 * algorithm would send it; NCCL chooses which it takes:
 *
 *     reduce        2 n (R-1)/R
 *     gather        x its own bytes
 *     scatter_sum   n less its own part
 *     broadcast     root n
 */
#include "train/ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/exit_code.h"
#include "core/log.h"
#include "core/memory.h"

/* Most ranks whose part sizes lie on the stack. */
enum { FEW = 64 };

/* Numbers of each rank; few of them need no memory. */
typedef struct part_sizes {
    int64_t few[FEW];
    int64_t *of; /* (ranks) */
} part_sizes;

static bool alone(const csp_ranks *ranks)
{
    return ranks == NULL || ranks->size == 1;
}

static csp_status open_sizes(const csp_ranks *ranks, part_sizes *out)
{
    out->of = out->few;
    return ranks->size > FEW ? csp_alloc("ranks", ranks->size, sizeof(*out->of), &out->of) : CSP_OK;
}

static void close_sizes(part_sizes *sizes)
{
    if (sizes->of != sizes->few) {
        free(sizes->of);
    }
}

static bool has_failed(void *context)
{
    return csp_comm_has_failed(context);
}

static csp_status say(void *context, csp_watch_reason reason, const char *what, const char *words)
{
    switch (reason) {
    case CSP_WATCH_FAILED:
        return csp_comm_raise(context, CSP_COMM_FAILED, what, words);
    case CSP_WATCH_LATE:
        return csp_comm_raise(context, CSP_COMM_LATE, what, words);
    case CSP_WATCH_BROKEN:
        break;
    }
    return csp_comm_raise(context, CSP_COMM_BROKEN, what, words);
}

/* What a rank says of its part in getting ready. */
typedef struct readiness {
    int32_t status;
    char text[800];
    csp_collective_id id; /* rank 0's */
} readiness;

/* Opens the library on this rank, and on rank 0 makes the id. */
static void get_ready(const csp_ranks *ranks, const char **library, readiness *out)
{
    out->status = (int32_t)csp_collective_library(ranks->be, library);
    if (out->status == CSP_OK && ranks->rank == 0) {
        out->status = (int32_t)csp_collective_make_id(ranks->be, &out->id);
    }
    if (out->status != CSP_OK) {
        (void)snprintf(out->text, sizeof(out->text), "%s", csp_error_text());
    }
}

/* The first rank that is not ready says why, and all end with that. */
static csp_status agree_on_readiness(const csp_ranks *ranks, readiness *own)
{
    int32_t first = own->status != CSP_OK ? ranks->rank : ranks->size;

    CSP_TRY(csp_comm_reduce(ranks->comm, &first, CSP_I32, 1, CSP_COMM_MIN, "devices"));
    CSP_TRY(csp_comm_broadcast(ranks->comm, own, sizeof(*own), first < ranks->size ? first : 0,
                               "devices"));
    if (first < ranks->size) {
        return CSP_FAIL((csp_status)own->status, "rank %d: %s", first, own->text);
    }
    return CSP_OK;
}

static csp_status open_devices(csp_ranks *ranks)
{
    csp_collective_group group = { .rank = ranks->rank,
                                   .size = ranks->size,
                                   .watch = { .has_failed = has_failed,
                                              .say = say,
                                              .context = ranks->comm,
                                              .timeout_s = csp_comm_timeout_s(ranks->comm) } };
    readiness own = { 0 };
    const char *library;

    get_ready(ranks, &library, &own);
    CSP_TRY(agree_on_readiness(ranks, &own));
    group.id = own.id;
    csp_comm_count(ranks->comm, 0, 0); /* who does not come to be joined is found like others */
    CSP_TRY(csp_collective_open(ranks->be, &group, &ranks->devices));
    csp_log(CSP_LOG_INFO, "train", "%d devices joined by %s", ranks->size, library);
    return CSP_OK;
}

csp_status csp_ranks_open(csp_comm *comm, csp_backend *be, csp_ranks *out)
{
    csp_ranks ranks = {
        .comm = comm, .be = be, .rank = csp_comm_rank(comm), .size = csp_comm_size(comm)
    };

    if (ranks.size > 1 && !be->host_memory) {
        CSP_TRY(open_devices(&ranks));
    }
    *out = ranks;
    return CSP_OK;
}

csp_status csp_ranks_backend(csp_comm *comm, const char *asked, int threads, csp_backend **out)
{
    const bool any = strcmp(asked, "auto") == 0;
    char name[32], kind[16];

    if (!any && strcmp(asked, "cuda") != 0) {
        CSP_TRY(csp_backend_create(asked, threads, out));
    } else {
        snprintf(name, sizeof(name), "cuda:%d", csp_comm_device(comm));
        if (csp_backend_create(name, threads, out) != CSP_OK) {
            if (!any) {
                return CSP_FAIL(CSP_ERR_DEVICE,
                                "rank %d of %d on this machine wants %s, which is not there: start "
                                "one rank for each device (%s)",
                                csp_comm_local_rank(comm), csp_comm_local_size(comm), name,
                                csp_error_text());
            }
            CSP_TRY(csp_backend_create("cpu", threads, out));
        }
    }
    snprintf(kind, sizeof(kind), "%.*s", (int)strcspn((*out)->name, ":"), (*out)->name);
    return csp_comm_agree(comm, kind,
                          any ? "the device that auto finds (start one rank for each device, or "
                                "say device.name=cpu)"
                              : "the kind of device");
}

void csp_ranks_close(csp_ranks *ranks)
{
    if (ranks->devices != NULL) {
        csp_collective_close(ranks->be, ranks->devices);
    }
    *ranks = (csp_ranks) { 0 };
}

void csp_ranks_abort(const csp_ranks *ranks, csp_status status)
{
    char reason[1024];

    if (alone(ranks)) {
        return;
    }
    (void)snprintf(reason, sizeof(reason), "%s", csp_error_text());
    if (ranks->devices != NULL) {
        csp_collective_abort(ranks->be, ranks->devices);
    }
    if (status != CSP_ERR_COMM) {
        csp_comm_report(ranks->comm, csp_exit_code(status), reason);
    }
    csp_comm_settle(ranks->comm);
    (void)CSP_FAIL(status, "%s", reason); /* as it was */
}

static csp_status start(const csp_ranks *ranks, const csp_collective_call *call, int64_t sent,
                        int64_t received, csp_pending *pending)
{
    /* Before it can be waited for. */
    csp_comm_count(ranks->comm, sent, received);
    CSP_TRY(csp_collective_start(ranks->be, ranks->devices, call, &pending->ticket));
    pending->under_way = true;
    return CSP_OK;
}

static csp_status reduce_devices(const csp_ranks *ranks, const csp_tensor *t, csp_comm_op op,
                                 const char *what, csp_pending *pending)
{
    static const csp_collective_kind kinds[] = { [CSP_COMM_SUM] = CSP_COLLECTIVE_SUM,
                                                 [CSP_COMM_MAX] = CSP_COLLECTIVE_MAX,
                                                 [CSP_COMM_MIN] = CSP_COLLECTIVE_MIN };
    const csp_collective_call call = { .kind = kinds[op], .in = *t, .out = *t, .what = what };
    const int64_t bytes = 2 * (int64_t)csp_tensor_bytes(t) * (ranks->size - 1) / ranks->size;

    return start(ranks, &call, bytes, bytes, pending);
}

csp_status csp_ranks_reduce_start(const csp_ranks *ranks, const csp_tensor *t, csp_comm_op op,
                                  const char *what, csp_pending *pending)
{
    if (alone(ranks)) {
        return CSP_OK;
    }
    if (ranks->devices != NULL) {
        return reduce_devices(ranks, t, op, what, pending);
    }
    CSP_TRY(csp_comm_reduce_start(ranks->comm, t->data, t->dtype, csp_tensor_count(t), op, what,
                                  &pending->ticket));
    pending->under_way = true;
    return CSP_OK;
}

csp_status csp_ranks_reduce(const csp_ranks *ranks, const csp_tensor *t, csp_comm_op op,
                            const char *what)
{
    csp_pending pending = { 0 };

    CSP_TRY(csp_ranks_reduce_start(ranks, t, op, what, &pending));
    return csp_ranks_finish(ranks, &pending);
}

csp_status csp_ranks_gather_start(const csp_ranks *ranks, const csp_tensor *own,
                                  const csp_tensor *all, const int64_t *counts, const char *what,
                                  csp_pending *pending)
{
    part_sizes bytes;
    csp_status status;

    if (alone(ranks)) {
        return CSP_OK;
    }
    if (ranks->devices != NULL) {
        const csp_collective_call call = {
            .kind = CSP_COLLECTIVE_GATHER, .in = *own, .out = *all, .counts = counts, .what = what
        };
        const int64_t mine = (int64_t)csp_tensor_bytes(own);

        return start(ranks, &call, (ranks->size - 1) * mine, (int64_t)csp_tensor_bytes(all) - mine,
                     pending);
    }
    CSP_TRY(open_sizes(ranks, &bytes));
    for (int r = 0; r < ranks->size; r++) {
        bytes.of[r] = counts[r] * (int64_t)csp_dtype_bytes(own->dtype);
    }
    status =
        csp_comm_gather_start(ranks->comm, own->data, all->data, bytes.of, what, &pending->ticket);
    pending->under_way = status == CSP_OK;
    close_sizes(&bytes);
    return status;
}

csp_status csp_ranks_scatter_sum_start(const csp_ranks *ranks, const csp_tensor *data,
                                       const csp_tensor *out, const int64_t *counts,
                                       const char *what, csp_pending *pending)
{
    if (alone(ranks)) {
        return CSP_OK;
    }
    if (ranks->devices != NULL) {
        const csp_collective_call call = { .kind = CSP_COLLECTIVE_SCATTER_SUM,
                                           .in = *data,
                                           .out = *out,
                                           .counts = counts,
                                           .what = what };
        const int64_t mine = (int64_t)csp_tensor_bytes(out);

        return start(ranks, &call, (int64_t)csp_tensor_bytes(data) - mine, (ranks->size - 1) * mine,
                     pending);
    }
    CSP_TRY(csp_comm_scatter_sum_start(ranks->comm, data->data, out->data, data->dtype, counts,
                                       what, &pending->ticket));
    pending->under_way = true;
    return CSP_OK;
}

csp_status csp_ranks_scatter_sum(const csp_ranks *ranks, const csp_tensor *data,
                                 const csp_tensor *out, const int64_t *counts, const char *what)
{
    csp_pending pending = { 0 };

    CSP_TRY(csp_ranks_scatter_sum_start(ranks, data, out, counts, what, &pending));
    return csp_ranks_finish(ranks, &pending);
}

csp_status csp_ranks_broadcast(const csp_ranks *ranks, const csp_tensor *t, int root,
                               const char *what)
{
    const int64_t bytes = (int64_t)csp_tensor_bytes(t);
    csp_pending pending = { 0 };

    if (alone(ranks)) {
        return CSP_OK;
    }
    if (ranks->devices != NULL) {
        const csp_collective_call call = {
            .kind = CSP_COLLECTIVE_BROADCAST, .in = *t, .out = *t, .root = root, .what = what
        };
        const bool sends = ranks->rank == root;

        CSP_TRY(start(ranks, &call, sends ? bytes : 0, sends ? 0 : bytes, &pending));
        return csp_ranks_finish(ranks, &pending);
    }
    return csp_comm_broadcast(ranks->comm, t->data, bytes, root, what);
}

csp_status csp_ranks_finish(const csp_ranks *ranks, csp_pending *pending)
{
    if (!pending->under_way) {
        return CSP_OK;
    }
    pending->under_way = false;
    return ranks->devices != NULL ? csp_collective_join(ranks->be, ranks->devices, pending->ticket)
                                  : csp_comm_wait(ranks->comm, pending->ticket);
}

csp_status csp_ranks_count_waits(const csp_ranks *ranks)
{
    double seconds;

    if (ranks != NULL && ranks->devices != NULL) {
        CSP_TRY(csp_collective_waited(ranks->be, ranks->devices, &seconds));
        csp_comm_count_wait(ranks->comm, seconds);
    }
    return CSP_OK;
}

csp_status csp_ranks_reduce_host(const csp_ranks *ranks, void *data, csp_dtype dtype, int64_t count,
                                 csp_comm_op op, const char *what)
{
    return alone(ranks) ? CSP_OK : csp_comm_reduce(ranks->comm, data, dtype, count, op, what);
}

csp_status csp_ranks_gather_host(const csp_ranks *ranks, const void *own, void *all,
                                 int64_t bytes_each, const char *what)
{
    part_sizes bytes;
    csp_status status;

    if (alone(ranks)) {
        return CSP_OK;
    }
    CSP_TRY(open_sizes(ranks, &bytes));
    for (int r = 0; r < ranks->size; r++) {
        bytes.of[r] = bytes_each;
    }
    status = csp_comm_gather(ranks->comm, own, all, bytes.of, what);
    close_sizes(&bytes);
    return status;
}
