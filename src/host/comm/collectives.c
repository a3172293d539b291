/*
 * collectives.c - the collectives of comm.h out of exchanges (transport.h).
 *
 * With R ranks and n bytes, a rank sends to the others
 *
 *     gather        x its own bytes
 *     collect       its own bytes; root nothing
 *     scatter_sum   n less its own part: every part goes to the rank that adds it up
 *     reduce        a scatter_sum of R equal parts, then their gather: 2 n (R-1)/R; up to
 *                   SMALL_BYTES every rank sends all it has, n, and adds it up itself: one
 *                   round
 *     broadcast     root its parts to their ranks, then a gather: about 2 n from root, n from
 *                   others; up to DIRECT_BYTES root sends all to everybody
 *     barrier       one byte to each
 *
 * Sums need memory for what comes in. They are formed in blocks, so that a slot for each other
 * rank is enough whatever the size.
 */
#include <string.h>

#include "comm/failure.h"
#include "comm/state.h"
#include "core/size.h"

enum {
    SMALL_BYTES = 8 << 10,
    DIRECT_BYTES = 64 << 10,
    SLOT_BYTES_MIN = 64 << 10,
    SLOT_BYTES_MAX = 1 << 20,
    SLOTS_BYTES = 16 << 20
};

int64_t csp_job_slot_bytes(int size)
{
    const int64_t even = size > 1 ? SLOTS_BYTES / (size - 1) / 64 * 64 : 0;

    return even < SLOT_BYTES_MIN ? SLOT_BYTES_MIN : even > SLOT_BYTES_MAX ? SLOT_BYTES_MAX : even;
}

static uint32_t mix(uint32_t digest, const void *data, size_t bytes)
{
    const unsigned char *at = data;

    for (size_t i = 0; i < bytes; i++) {
        digest = (digest ^ at[i]) * 16777619u; // FNV-1a
    }
    return digest;
}

/* What tells this exchange from all that another rank could be in by mistake. */
static uint32_t tag_of(const csp_comm *comm, const csp_job *job)
{
    uint32_t tag = mix(2166136261u, job->what, strlen(job->what));
    const int64_t numbers[] = { comm->exchanges, job->kind,  job->dtype,
                                job->op,         job->count, job->root };

    tag = mix(tag, numbers, sizeof(numbers));
    if (comm->member != NULL) {
        tag = mix(tag, comm->member, (size_t)comm->size * sizeof(*comm->member));
    }
    if (job->kind == CSP_JOB_GATHER || job->kind == CSP_JOB_COLLECT ||
        job->kind == CSP_JOB_SCATTER_SUM) {
        tag = mix(tag, job->parts, (size_t)comm->size * sizeof(int64_t));
    }
    return tag;
}

static void clear_pieces(csp_comm *comm)
{
    memset(comm->send, 0, (size_t)comm->size * sizeof(csp_piece));
    memset(comm->recv, 0, (size_t)comm->size * sizeof(csp_piece));
}

/* Puts the pieces of a group to the places of its ranks; all others have none. */
static void spread_pieces(const csp_comm *group)
{
    csp_comm *whole = group->whole;

    clear_pieces(whole);
    for (int r = 0; r < group->size; r++) {
        whole->send[group->member[r]] = group->send[r];
        whole->recv[group->member[r]] = group->recv[r];
    }
}

/* One exchange of comm->send and comm->recv. */
static csp_status exchange(csp_comm *comm, const csp_job *job)
{
    csp_comm *whole = comm->whole;
    csp_exchange x = { .send = whole->send,
                       .recv = whole->recv,
                       .tag = tag_of(comm, job),
                       .timeout_s = whole->options.timeout_s,
                       .late = whole->late,
                       .rank = -1 };
    int64_t sent = 0, received = 0;
    csp_exchange_end end;

    for (int r = 0; r < comm->size; r++) {
        sent += r != comm->rank ? comm->send[r].bytes : 0;
        received += r != comm->rank ? comm->recv[r].bytes : 0;
    }
    if (comm != whole) {
        spread_pieces(comm);
    }
    comm->exchanges++;
    memset(whole->late, 0, (size_t)whole->size * sizeof(bool));
    end = atomic_load(&whole->stop.set) ? CSP_EXCHANGE_STOPPED
                                        : whole->transport->exchange(whole->transport, &x);
    if (end != CSP_EXCHANGE_DONE) {
        return csp_failure_raise(whole, job->what, end, &x);
    }
    pthread_mutex_lock(&whole->lock);
    whole->traffic.sent += sent;
    whole->traffic.received += received;
    pthread_mutex_unlock(&whole->lock);
    return CSP_OK;
}

/* Part r of count in size parts that differ by one at most. */
static int64_t part_start(int64_t count, int size, int r)
{
    const int64_t rest = count % size;

    return count / size * r + (r < rest ? r : rest);
}

/*
 * The parts of all ranks, which lie in `all` in the order of ranks, to everybody but `known`, who
 * has them (-1: nobody).
 */
static csp_status gather_even(csp_comm *comm, const csp_job *job, char *all, int64_t count,
                              size_t element, int known)
{
    clear_pieces(comm);
    for (int r = 0; r < comm->size; r++) {
        const int64_t start = part_start(count, comm->size, r);
        const int64_t own = part_start(count, comm->size, comm->rank);
        const int64_t own_end = part_start(count, comm->size, comm->rank + 1);

        if (comm->rank != known) {
            comm->recv[r].data = all + start * (int64_t)element;
            comm->recv[r].bytes = (part_start(count, comm->size, r + 1) - start) * (int64_t)element;
        }
        if (r != known) {
            comm->send[r].data = all + own * (int64_t)element;
            comm->send[r].bytes = (own_end - own) * (int64_t)element;
        }
    }
    return exchange(comm, job);
}

/* What a rank has goes to all, or, of a collect, to root alone. */
static csp_status run_gather(csp_comm *comm, const csp_job *job)
{
    const bool to_all = job->kind == CSP_JOB_GATHER;
    const bool gets = to_all || comm->rank == job->root;
    char *place = gets ? job->out : NULL;

    clear_pieces(comm);
    for (int r = 0; r < comm->size; r++) {
        if (r == comm->rank) {
            if (gets && place != job->in && job->parts[r] > 0) {
                memcpy(place, job->in, (size_t)job->parts[r]);
            }
        } else {
            comm->recv[r].data = place;
            comm->recv[r].bytes = gets ? job->parts[r] : 0;
            comm->send[r].data = (void *)job->in;
            comm->send[r].bytes = to_all || r == job->root ? job->parts[comm->rank] : 0;
        }
        place = gets ? place + job->parts[r] : NULL;
    }
    return exchange(comm, job);
}

/* Memory for what rank r sends, and then the list of what all ranks have of n bytes at own. */
static char *slot_of(const csp_comm *comm, int r)
{
    return comm->whole->scratch + (r < comm->rank ? r : r - 1) * comm->whole->slot_bytes;
}

static const void *const *inputs_with(csp_comm *comm, const void *own)
{
    const void **inputs = comm->whole->inputs;

    for (int r = 0; r < comm->size; r++) {
        inputs[r] = r == comm->rank ? own : slot_of(comm, r);
    }
    return inputs;
}

static int64_t within(int64_t value, int64_t limit)
{
    return value < 0 ? 0 : value > limit ? limit : value;
}

/* Every rank's part of data combined into out. counts == NULL: parts as part_start has them. */
static csp_status scatter(csp_comm *comm, const csp_job *job, const char *data, char *out,
                          int64_t total, const int64_t *counts)
{
    const int64_t element = (int64_t)csp_dtype_bytes(job->dtype);
    const int64_t block = comm->whole->slot_bytes / element;
    int64_t longest = 0;

    for (int r = 0; r < comm->size; r++) {
        const int64_t n = counts != NULL ? counts[r]
                                         : part_start(total, comm->size, r + 1) -
                                               part_start(total, comm->size, r);
        longest = n > longest ? n : longest;
    }
    for (int64_t done = 0; done < longest; done += block) {
        int64_t start = 0, own = 0, own_n = 0;

        clear_pieces(comm);
        for (int r = 0; r < comm->size; r++) {
            const int64_t n =
                counts != NULL ? counts[r] : part_start(total, comm->size, r + 1) - start;
            const int64_t now = within(n - done, block);

            comm->send[r].data = (void *)(data + (start + done) * element);
            comm->send[r].bytes = now * element;
            if (r == comm->rank) {
                own = start + done;
                own_n = now;
            }
            start += n;
        }
        for (int r = 0; r < comm->size; r++) {
            if (r != comm->rank) {
                comm->recv[r].data = slot_of(comm, r);
                comm->recv[r].bytes = own_n * element;
            }
        }
        CSP_TRY(exchange(comm, job));
        csp_combine(job->dtype, job->op, inputs_with(comm, data + own * element), comm->size, own_n,
                    out + done * element);
    }
    return CSP_OK;
}

static csp_status run_scatter_sum(csp_comm *comm, const csp_job *job)
{
    return scatter(comm, job, job->in, job->out, 0, job->parts);
}

static csp_status run_reduce(csp_comm *comm, const csp_job *job)
{
    const size_t element = csp_dtype_bytes(job->dtype);
    char *data = job->out;

    if (job->count == 0) {
        return CSP_OK;
    }
    if (job->count <= SMALL_BYTES / (int64_t)element) {
        clear_pieces(comm);
        for (int r = 0; r < comm->size; r++) {
            if (r != comm->rank) {
                comm->send[r].data = data;
                comm->recv[r].data = slot_of(comm, r);
                comm->send[r].bytes = comm->recv[r].bytes = job->count * (int64_t)element;
            }
        }
        CSP_TRY(exchange(comm, job));
        csp_combine(job->dtype, job->op, inputs_with(comm, data), comm->size, job->count, data);
        return CSP_OK;
    }
    CSP_TRY(scatter(comm, job, data,
                    data + part_start(job->count, comm->size, comm->rank) * (int64_t)element,
                    job->count, NULL));
    return gather_even(comm, job, data, job->count, element, -1);
}

static csp_status run_broadcast(csp_comm *comm, const csp_job *job)
{
    const bool direct = job->count <= DIRECT_BYTES;
    char *data = job->out;

    if (job->count == 0) {
        return CSP_OK;
    }
    clear_pieces(comm);
    for (int r = 0; r < comm->size; r++) {
        const int64_t start = direct ? 0 : part_start(job->count, comm->size, r);
        const int64_t end = direct ? job->count : part_start(job->count, comm->size, r + 1);

        if (comm->rank == job->root && r != comm->rank) {
            comm->send[r].data = data + start;
            comm->send[r].bytes = end - start;
        } else if (comm->rank != job->root && r == comm->rank) {
            comm->recv[job->root].data = data + start;
            comm->recv[job->root].bytes = end - start;
        }
    }
    CSP_TRY(exchange(comm, job));
    return direct ? CSP_OK : gather_even(comm, job, data, job->count, 1, job->root);
}

static csp_status run_barrier(csp_comm *comm, const csp_job *job)
{
    char here = 0;

    clear_pieces(comm);
    for (int r = 0; r < comm->size; r++) {
        if (r != comm->rank) {
            comm->send[r].data = &here;
            comm->recv[r].data = slot_of(comm, r);
            comm->send[r].bytes = comm->recv[r].bytes = 1;
        }
    }
    return exchange(comm, job);
}

/* What a single rank's collectives come to: its own numbers, where they are wanted. */
static void run_alone(const csp_job *job)
{
    const bool bytes = job->kind == CSP_JOB_GATHER || job->kind == CSP_JOB_COLLECT;
    const bool copies = bytes || job->kind == CSP_JOB_SCATTER_SUM;
    const size_t element = bytes ? 1 : csp_dtype_bytes(job->dtype);

    if (copies && job->out != job->in && job->parts[0] > 0) {
        memcpy(job->out, job->in, (size_t)job->parts[0] * element);
    }
}

csp_status csp_job_run(csp_comm *comm, const csp_job *job)
{
    if (comm->size == 1) {
        run_alone(job);
        return CSP_OK;
    }
    switch (job->kind) {
    case CSP_JOB_REDUCE:
        return run_reduce(comm, job);
    case CSP_JOB_GATHER:
    case CSP_JOB_COLLECT:
        return run_gather(comm, job);
    case CSP_JOB_SCATTER_SUM:
        return run_scatter_sum(comm, job);
    case CSP_JOB_BROADCAST:
        return run_broadcast(comm, job);
    case CSP_JOB_BARRIER:
        return run_barrier(comm, job);
    }
    return CSP_OK;
}
