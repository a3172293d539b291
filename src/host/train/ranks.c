/* ranks.c - bringing tensors to where the ranks can reach them. */
#include "train/ranks.h"

#include <stdlib.h>

#include "core/memory.h"

/* Most ranks whose part sizes lie on the stack. */
enum { FEW = 64 };

static bool alone(const csp_ranks *ranks)
{
    return ranks == NULL || ranks->size == 1;
}

void csp_pending_clear(const csp_ranks *ranks, csp_pending *pending)
{
    if (ranks != NULL) {
        csp_download_clear(ranks->be, &pending->stage);
    }
    *pending = (csp_pending) { 0 };
}

/*
 * Host memory for `in` and `out`: the tensors' own where the host can reach them, else of the
 * stage, with in's content in it. out may be in.
 */
static csp_status bring(const csp_ranks *ranks, const csp_tensor *in, const csp_tensor *out,
                        csp_pending *pending, void **host_in)
{
    const bool apart = in->data != out->data;
    const csp_tensor parts[] = { *in, *out };
    void *at[2];

    pending->out = *out;
    if (ranks->be->host_memory) {
        *host_in = in->data;
        pending->host = out->data;
        return CSP_OK;
    }
    CSP_TRY(csp_download_mark(ranks->be, &pending->stage));
    CSP_TRY(csp_download_start(ranks->be, &pending->stage, parts, apart ? 2 : 1, at));
    CSP_TRY(csp_download_wait(ranks->be, &pending->stage));
    *host_in = at[0];
    pending->host = apart ? at[1] : at[0];
    return CSP_OK;
}

csp_status csp_ranks_reduce_start(const csp_ranks *ranks, const csp_tensor *t, csp_comm_op op,
                                  const char *what, csp_pending *pending)
{
    void *host;

    if (alone(ranks)) {
        return CSP_OK;
    }
    CSP_TRY(bring(ranks, t, t, pending, &host));
    return csp_comm_reduce_start(ranks->comm, host, t->dtype, csp_tensor_count(t), op, what,
                                 &pending->ticket);
}

csp_status csp_ranks_reduce(const csp_ranks *ranks, const csp_tensor *t, csp_comm_op op,
                            const char *what, csp_pending *pending)
{
    CSP_TRY(csp_ranks_reduce_start(ranks, t, op, what, pending));
    return csp_ranks_finish(ranks, pending);
}

/* counts in bytes; few of them need no memory. Owner: the caller frees *out unless it is few. */
static csp_status bytes_of(const csp_ranks *ranks, const int64_t *counts, size_t size, int64_t *few,
                           int64_t **out)
{
    *out = few;
    if (ranks->size > FEW) {
        CSP_TRY(csp_alloc("ranks", ranks->size, sizeof(**out), out));
    }
    for (int r = 0; r < ranks->size; r++) {
        (*out)[r] = counts[r] * (int64_t)size;
    }
    return CSP_OK;
}

csp_status csp_ranks_gather_start(const csp_ranks *ranks, const csp_tensor *own,
                                  const csp_tensor *all, const int64_t *counts, const char *what,
                                  csp_pending *pending)
{
    int64_t few[FEW], *bytes;
    csp_status status;
    void *host;

    if (alone(ranks)) {
        return CSP_OK;
    }
    CSP_TRY(bring(ranks, own, all, pending, &host));
    CSP_TRY(bytes_of(ranks, counts, csp_dtype_bytes(own->dtype), few, &bytes));
    status = csp_comm_gather_start(ranks->comm, host, pending->host, bytes, what, &pending->ticket);
    if (bytes != few) {
        free(bytes);
    }
    return status;
}

csp_status csp_ranks_scatter_sum_start(const csp_ranks *ranks, const csp_tensor *data,
                                       const csp_tensor *out, const int64_t *counts,
                                       const char *what, csp_pending *pending)
{
    void *host;

    if (alone(ranks)) {
        return CSP_OK;
    }
    CSP_TRY(bring(ranks, data, out, pending, &host));
    return csp_comm_scatter_sum_start(ranks->comm, host, pending->host, data->dtype, counts, what,
                                      &pending->ticket);
}

csp_status csp_ranks_scatter_sum(const csp_ranks *ranks, const csp_tensor *data,
                                 const csp_tensor *out, const int64_t *counts, const char *what,
                                 csp_pending *pending)
{
    CSP_TRY(csp_ranks_scatter_sum_start(ranks, data, out, counts, what, pending));
    return csp_ranks_finish(ranks, pending);
}

csp_status csp_ranks_finish(const csp_ranks *ranks, csp_pending *pending)
{
    csp_tensor out = pending->out;

    if (alone(ranks) || out.ndim == 0) {
        return CSP_OK;
    }
    pending->out = csp_tensor_none();
    CSP_TRY(csp_comm_wait(ranks->comm, pending->ticket));
    return ranks->be->host_memory ? CSP_OK : csp_backend_upload(ranks->be, pending->host, &out);
}

csp_status csp_ranks_reduce_host(const csp_ranks *ranks, void *data, csp_dtype dtype, int64_t count,
                                 csp_comm_op op, const char *what)
{
    return alone(ranks) ? CSP_OK : csp_comm_reduce(ranks->comm, data, dtype, count, op, what);
}

csp_status csp_ranks_gather_host(const csp_ranks *ranks, const void *own, void *all,
                                 int64_t bytes_each, const char *what)
{
    int64_t few[FEW], *bytes = few;
    csp_status status;

    if (alone(ranks)) {
        return CSP_OK;
    }
    if (ranks->size > FEW) {
        CSP_TRY(csp_alloc("ranks", ranks->size, sizeof(*bytes), &bytes));
    }
    for (int r = 0; r < ranks->size; r++) {
        bytes[r] = bytes_each;
    }
    status = csp_comm_gather(ranks->comm, own, all, bytes, what);
    if (bytes != few) {
        free(bytes);
    }
    return status;
}
