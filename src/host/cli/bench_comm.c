/*
 * bench_comm.c - csplade bench comm: what a training step sends between ranks, by size, with the
 * columns of nccl-tests. Every rank of the job runs it, rank 0 prints.
 *
 * Tensors of the backend go the way that training takes (train/ranks.h): over host memory on a CPU,
 * over whatever a device has. A time is that of the slowest rank, one call of many in a row behind
 * a barrier, median of the samples. Bandwidths are those of nccl-tests:
 *
 *     algbw = size / time      busbw = algbw x  all_reduce                   2 (R-1)/R
 *                                               all_gather, reduce_scatter   (R-1)/R
 *                                               broadcast                    1
 *                                               exchange                     (R-1)/R
 *
 * size of all_gather and reduce_scatter is that of all ranks' parts together, count one rank's.
 * The exchange is that of queries (train/exchange.h): 8 bytes of each entry go to all ranks, 4 come
 * back as a sum.
 *
 * Values are small whole numbers, whose sums are exact: #wrong counts on all ranks what is not what
 * it must be, bit for bit, after a call on fresh values.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "core/exit_code.h"
#include "core/machine.h"
#include "core/memory.h"
#include "model/param_values.h"
#include "train/exchange.h"

/* Seconds that a rank waits for another. */
#define TIMEOUT_S 60.0
/* A sample takes at least this long, where that is no more than SAMPLE_CALLS calls. */
#define SAMPLE_S 0.02
#define SAMPLE_CALLS 1000
/* Values repeat after this many elements, a prime: a block that lands elsewhere is seen. */
enum { PERIOD = 61, QUERIES = 16, ENTRY_BYTES = 12 };

typedef struct comm_bench {
    csp_bench b;
    csp_launch launch;
    csp_comm *comm;
    csp_ranks ranks;
    csp_arena arena;
    csp_tensor in, out; /* (max elements) f32; out is in on one rank   */
    csp_sparse own;     /* of the exchange: this rank's queries        */
    csp_tensor dw;      /* (cap of own) f32                            */
    csp_exchange exchange;
    csp_pending pending;
    float *host;     /* (max elements)                                 */
    int64_t *counts; /* (ranks) elements of each                       */
    int64_t bytes;   /* asked for in this row; then what it came to    */
    int64_t count;   /* of the row                                     */
    int64_t wrong;   /* over all rows                                  */
} comm_bench;

typedef struct operation {
    const char *name, *type, *redop;
    int root;
    bool in_place;
    double busy; /* busbw / algbw, times R/(R-1); 0: they are the same */
    /* Sets count and bytes of the row; false where the size is too small to be shared. */
    bool (*size)(comm_bench *c);
    csp_status (*fill)(comm_bench *c);
    csp_status (*run)(comm_bench *c);
    csp_status (*check)(comm_bench *c, int64_t *wrong);
} operation;

static float value(int rank, int64_t i)
{
    return (float)((i + 17 * (int64_t)rank) % PERIOD + 1);
}

/* What the ranks' values at i add up to. */
static float sum_of(const comm_bench *c, int64_t i)
{
    double sum = 0.0;

    for (int r = 0; r < c->ranks.size; r++) {
        sum += (double)value(r, i);
    }
    return (float)sum;
}

/* This rank's values, from the number `from`, into the first elements of t. */
static csp_status put(comm_bench *c, csp_tensor *t, int64_t count, int64_t from)
{
    for (int64_t i = 0; i < count; i++) {
        c->host[i] = value(c->ranks.rank, from + i);
    }
    return csp_tensor_upload(c->b.be, t, 0, count, c->host);
}

static csp_status get(comm_bench *c, const csp_tensor *t, int64_t count)
{
    const csp_tensor part = csp_tensor_rows(t, 0, count);

    return csp_backend_download(c->b.be, &part, c->host);
}

static int64_t count_sums(const comm_bench *c, int64_t count, int64_t from)
{
    float sums[PERIOD];
    int64_t wrong = 0;

    for (int i = 0; i < PERIOD; i++) {
        sums[i] = sum_of(c, i);
    }
    for (int64_t i = 0; i < count; i++) {
        wrong += c->host[i] == sums[(from + i) % PERIOD] ? 0 : 1;
    }
    return wrong;
}

static bool size_whole(comm_bench *c)
{
    c->count = c->bytes / (int64_t)sizeof(float);
    c->bytes = c->count * (int64_t)sizeof(float);
    return c->count > 0;
}

static csp_status fill_whole(comm_bench *c)
{
    return put(c, &c->in, c->count, 0);
}

static csp_status run_reduce(comm_bench *c)
{
    const csp_tensor t = csp_tensor_rows(&c->in, 0, c->count);

    return csp_ranks_reduce(&c->ranks, &t, CSP_COMM_SUM, "bench: all_reduce");
}

static csp_status check_reduce(comm_bench *c, int64_t *wrong)
{
    CSP_TRY(get(c, &c->in, c->count));
    *wrong = count_sums(c, c->count, 0);
    return CSP_OK;
}

static csp_status fill_broadcast(comm_bench *c)
{
    CSP_TRY(put(c, &c->in, c->count, 0));
    return c->ranks.rank == 0 ? CSP_OK : csp_backend_zero(c->b.be, &c->in);
}

static csp_status run_broadcast(comm_bench *c)
{
    const csp_tensor t = csp_tensor_rows(&c->in, 0, c->count);

    return csp_ranks_broadcast(&c->ranks, &t, 0, "bench: broadcast");
}

static csp_status check_broadcast(comm_bench *c, int64_t *wrong)
{
    CSP_TRY(get(c, &c->in, c->count));
    *wrong = 0;
    for (int64_t i = 0; i < c->count; i++) {
        *wrong += c->host[i] == value(0, i) ? 0 : 1;
    }
    return CSP_OK;
}

static bool size_parts(comm_bench *c)
{
    c->count = c->bytes / (int64_t)sizeof(float) / c->ranks.size;
    c->bytes = c->count * (int64_t)sizeof(float) * c->ranks.size;
    for (int r = 0; r < c->ranks.size; r++) {
        c->counts[r] = c->count;
    }
    return c->count > 0;
}

static csp_status run_gather(comm_bench *c)
{
    const csp_tensor own = csp_tensor_rows(&c->in, 0, c->count);
    const csp_tensor all = csp_tensor_rows(&c->out, 0, c->count * c->ranks.size);

    CSP_TRY(
        csp_ranks_gather_start(&c->ranks, &own, &all, c->counts, "bench: all_gather", &c->pending));
    return csp_ranks_finish(&c->ranks, &c->pending);
}

static csp_status check_gather(comm_bench *c, int64_t *wrong)
{
    CSP_TRY(get(c, &c->out, c->count * c->ranks.size));
    *wrong = 0;
    for (int r = 0; r < c->ranks.size; r++) {
        for (int64_t i = 0; i < c->count; i++) {
            *wrong += c->host[r * c->count + i] == value(r, i) ? 0 : 1;
        }
    }
    return CSP_OK;
}

static csp_status fill_parts(comm_bench *c)
{
    return put(c, &c->in, c->count * c->ranks.size, 0);
}

static csp_status run_scatter(comm_bench *c)
{
    const csp_tensor all = csp_tensor_rows(&c->in, 0, c->count * c->ranks.size);
    const csp_tensor own = csp_tensor_rows(&c->out, 0, c->count);

    return csp_ranks_scatter_sum(&c->ranks, &all, &own, c->counts, "bench: reduce_scatter");
}

static csp_status check_scatter(comm_bench *c, int64_t *wrong)
{
    CSP_TRY(get(c, &c->out, c->count));
    *wrong = count_sums(c, c->count, c->ranks.rank * c->count);
    return CSP_OK;
}

/* Entries of query q of a rank: not as many in all, and not on all ranks. */
static int64_t entries_of(const comm_bench *c, int rank, int64_t q)
{
    return c->count + (q + rank) % 2;
}

static bool size_exchange(comm_bench *c)
{
    int64_t entries = 0;

    c->count = c->bytes / ENTRY_BYTES / (QUERIES * (int64_t)c->ranks.size);
    for (int r = 0; r < c->ranks.size; r++) {
        for (int64_t q = 0; q < QUERIES; q++) {
            entries += entries_of(c, r, q);
        }
    }
    c->bytes = entries * ENTRY_BYTES;
    return c->count > 0;
}

static int64_t entries_before(const comm_bench *c, int rank)
{
    int64_t entries = 0;

    for (int r = 0; r < rank; r++) {
        for (int64_t q = 0; q < QUERIES; q++) {
            entries += entries_of(c, r, q);
        }
    }
    return entries;
}

static csp_status fill_exchange(comm_bench *c)
{
    const int64_t before = entries_before(c, c->ranks.rank), all = c->bytes / ENTRY_BYTES;
    int64_t starts[QUERIES + 1] = { 0 };
    csp_tensor term, dw = c->ranks.size > 1 ? c->exchange.dw : c->dw;

    for (int64_t q = 0; q < QUERIES; q++) {
        starts[q + 1] = starts[q] + entries_of(c, c->ranks.rank, q);
    }
    CSP_TRY(csp_backend_upload(c->b.be, starts, &c->own.row_ptr));
    for (int64_t q = 0; q < QUERIES; q++) {
        for (int64_t j = starts[q]; j < starts[q + 1]; j++) {
            ((int32_t *)c->host)[j] = (int32_t)(j - starts[q]);
        }
    }
    term = csp_tensor_rows(&c->own.term, 0, starts[QUERIES]);
    CSP_TRY(csp_backend_upload(c->b.be, c->host, &term));
    CSP_TRY(put(c, &c->own.weight, starts[QUERIES], before));
    return put(c, &dw, all, 0);
}

static csp_status run_exchange(comm_bench *c)
{
    CSP_TRY(csp_exchange_lengths(&c->exchange, &c->own, QUERIES, &c->dw));
    CSP_TRY(csp_exchange_entries(&c->exchange));
    CSP_TRY(csp_exchange_arrive(&c->exchange));
    return csp_exchange_return(&c->exchange, &c->dw);
}

static csp_status check_exchange(comm_bench *c, int64_t *wrong)
{
    const int64_t all = c->bytes / ENTRY_BYTES, before = entries_before(c, c->ranks.rank);
    const csp_tensor term = csp_tensor_rows(&c->exchange.all.term, 0, all);
    int64_t at = 0, bad = 0;

    CSP_TRY(get(c, &c->exchange.all.weight, all));
    for (int r = 0; r < c->ranks.size; r++) {
        for (const int64_t end = entries_before(c, r + 1); at < end; at++) {
            bad += c->host[at] == value(r, at) ? 0 : 1;
        }
    }
    CSP_TRY(csp_backend_download(c->b.be, &term, c->host));
    at = 0;
    for (int r = 0; r < c->ranks.size; r++) {
        for (int64_t q = 0; q < QUERIES; q++) {
            for (int64_t j = 0; j < entries_of(c, r, q); j++) {
                bad += ((const int32_t *)c->host)[at++] == (int32_t)j ? 0 : 1;
            }
        }
    }
    at = entries_before(c, c->ranks.rank + 1) - before;
    CSP_TRY(get(c, &c->dw, at));
    *wrong = bad + count_sums(c, at, before);
    return CSP_OK;
}

static const operation operations[] = {
    { "all_reduce", "float", "sum", -1, true, 2.0, size_whole, fill_whole, run_reduce,
      check_reduce },
    { "all_gather", "float", "none", -1, false, 1.0, size_parts, fill_whole, run_gather,
      check_gather },
    { "reduce_scatter", "float", "sum", -1, false, 1.0, size_parts, fill_parts, run_scatter,
      check_scatter },
    { "broadcast", "float", "none", 0, true, 0.0, size_whole, fill_broadcast, run_broadcast,
      check_broadcast },
    { "exchange", "sparse", "sum", -1, false, 1.0, size_exchange, fill_exchange, run_exchange,
      check_exchange },
};

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Seconds of one of `calls` calls in a row, on the slowest rank; the same number on all ranks. */
static csp_status take_sample(comm_bench *c, const operation *op, int64_t calls, double *seconds)
{
    double start;

    CSP_TRY(op->fill(c)); // sums of sums grow: not over all samples
    CSP_TRY(csp_backend_sync(c->b.be));
    CSP_TRY(csp_comm_barrier(c->comm, "bench: the start of a sample"));
    start = csp_machine_seconds();
    for (int64_t i = 0; i < calls; i++) {
        CSP_TRY(op->run(c));
    }
    CSP_TRY(csp_backend_sync(c->b.be));
    *seconds = (csp_machine_seconds() - start) / (double)calls;
    return csp_comm_reduce(c->comm, seconds, CSP_F64, 1, CSP_COMM_MAX, "bench: a time");
}

static csp_status measure(comm_bench *c, const operation *op, double *seconds)
{
    double *samples = NULL, once = 0.0;
    int64_t calls = 1;
    csp_status status;

    CSP_TRY(csp_alloc("bench", c->b.repeats, sizeof(*samples), &samples));
    for (int64_t i = 0; i < c->b.warmup; i++) {
        CSP_TRY_GOTO(take_sample(c, op, 1, &once));
    }
    CSP_TRY_GOTO(take_sample(c, op, 1, &once));
    if (!c->b.tiny && once < SAMPLE_S) {
        calls = 1 + (int64_t)(SAMPLE_S / (once + SAMPLE_S / SAMPLE_CALLS));
    }
    for (int64_t i = 0; i < c->b.repeats; i++) {
        CSP_TRY_GOTO(take_sample(c, op, calls, &samples[i]));
    }
    qsort(samples, (size_t)c->b.repeats, sizeof(*samples), by_value);
    *seconds = samples[c->b.repeats / 2];

fail:
    free(samples);
    return status;
}

static bool is_json(const comm_bench *c)
{
    return strcmp(csp_args_text(c->b.args, "format"), "json") == 0;
}

static const char *transport_of(const comm_bench *c)
{
    return c->launch.kind == CSP_LAUNCH_ALONE ? "alone"
           : c->ranks.devices != NULL         ? "nccl"
           : c->launch.kind == CSP_LAUNCH_MPI ? "mpi"
                                              : "tcp";
}

static void print_head(const comm_bench *c, const operation *op)
{
    if (c->ranks.rank == 0 && !is_json(c)) {
        printf("#\n# %s, %s\n", op->name, op->in_place ? "in-place" : "out-of-place");
        printf("#%11s %13s %9s %7s %7s %9s %7s %7s %7s\n", "size", "count", "type", "redop", "root",
               "time", "algbw", "busbw", "#wrong");
        printf("#%11s %13s %9s %7s %7s %9s %7s %7s %7s\n", "(B)", "(elements)", "", "", "", "(us)",
               "(GB/s)", "(GB/s)", "");
    }
}

static void print_row(const comm_bench *c, const operation *op, double seconds, int64_t wrong)
{
    const double R = c->ranks.size, algbw = (double)c->bytes / seconds * 1e-9;
    const double busbw = op->busy > 0.0 ? algbw * op->busy * (R - 1.0) / R : algbw;

    if (c->ranks.rank != 0) {
        return;
    }
    if (is_json(c)) {
        printf("{\"case\":\"comm\",\"what\":\"%s\",\"side\":\"csplade\",\"device\":\"%s\","
               "\"transport\":\"%s\",\"ranks\":%d,\"local_ranks\":%d,\"in_place\":%s,"
               "\"size\":%lld,\"count\":%lld,\"type\":\"%s\",\"redop\":\"%s\",\"root\":%d,"
               "\"time_us\":%.6g,\"algbw\":%.6g,\"busbw\":%.6g,\"wrong\":%lld}\n",
               op->name, c->b.be->name, transport_of(c), c->ranks.size,
               csp_comm_local_size(c->comm), op->in_place ? "true" : "false", (long long)c->bytes,
               (long long)c->count, op->type, op->redop, op->root, 1e6 * seconds, algbw, busbw,
               (long long)wrong);
    } else {
        printf("%12lld %13lld %9s %7s %7d %9.2f %7.2f %7.2f %7lld\n", (long long)c->bytes,
               (long long)c->count, op->type, op->redop, op->root, 1e6 * seconds, algbw, busbw,
               (long long)wrong);
    }
    (void)fflush(stdout);
}

static csp_status run_row(comm_bench *c, const operation *op)
{
    double seconds;
    int64_t wrong;

    CSP_TRY(measure(c, op, &seconds));
    CSP_TRY(op->fill(c));
    CSP_TRY(op->run(c));
    CSP_TRY(op->check(c, &wrong));
    CSP_TRY(csp_comm_reduce(c->comm, &wrong, CSP_I64, 1, CSP_COMM_SUM, "bench: wrong values"));
    c->wrong += wrong;
    print_row(c, op, seconds, wrong);
    return CSP_OK;
}

static csp_status run_operation(comm_bench *c, const operation *op)
{
    const int64_t least = csp_args_i64(c->b.args, "min-bytes"),
                  factor = csp_args_i64(c->b.args, "factor");
    int64_t most = csp_args_i64(c->b.args, "max-bytes");

    most = c->b.tiny && most > 4096 ? 4096 : most;
    print_head(c, op);
    for (int64_t bytes = least; bytes <= most; bytes *= factor) {
        c->bytes = bytes;
        if (op->size(c)) {
            CSP_TRY(run_row(c, op));
        }
    }
    return CSP_OK;
}

static csp_status open_backend(comm_bench *c)
{
    CSP_TRY(csp_ranks_backend(c->comm, csp_args_text(c->b.args, "device"),
                              (int)csp_args_i64(c->b.args, "threads"), &c->b.be));
    return csp_ranks_open(c->comm, c->b.be, &c->ranks);
}

/* Elements of the largest row of `in`, and entries of the longest query. */
static int64_t largest(const comm_bench *c, int64_t *vocab)
{
    const int64_t most = csp_args_i64(c->b.args, "max-bytes"), size = c->ranks.size;

    *vocab = most / ENTRY_BYTES / (QUERIES * size) + 2;
    return most / (int64_t)sizeof(float) + 1 > QUERIES * size * *vocab
               ? most / (int64_t)sizeof(float) + 1
               : QUERIES * size * *vocab;
}

static csp_status place(comm_bench *c, csp_arena *arena)
{
    const int64_t starts = QUERIES + 1;
    int64_t vocab, cap;
    const int64_t elements = largest(c, &vocab);

    cap = QUERIES * vocab;
    c->own.vocab = vocab;
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &elements, &c->in));
    c->out = c->in;
    if (c->ranks.size > 1) {
        CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &elements, &c->out));
    }
    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &starts, &c->own.row_ptr));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &cap, &c->own.term));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &cap, &c->own.weight));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &cap, &c->dw));
    return csp_exchange_place(&c->exchange, vocab, arena);
}

/* What decides which collectives are called. */
static csp_status agree_on_options(comm_bench *c)
{
    const int64_t least = csp_args_i64(c->b.args, "min-bytes"),
                  most = csp_args_i64(c->b.args, "max-bytes");
    static const char *const names[] = { "min-bytes", "max-bytes", "factor", "steps", "warmup" };
    char text[400] = "";
    size_t used = 0;

    if (least > most) {
        return CSP_FAIL(CSP_ERR_CONFIG, "bench: --min-bytes %lld is above --max-bytes %lld",
                        (long long)least, (long long)most);
    }
    for (int i = 0; i < CSP_COUNT(names); i++) {
        used += (size_t)snprintf(text + used, sizeof(text) - used, "--%s %lld\n", names[i],
                                 (long long)csp_args_i64(c->b.args, names[i]));
    }
    (void)snprintf(text + used, sizeof(text) - used, "--tiny %s\n", c->b.tiny ? "yes" : "no");
    return csp_comm_agree(c->comm, text, "the options");
}

static csp_status open_all(comm_bench *c)
{
    const csp_comm_options wait = { .timeout_s = TIMEOUT_S, .grace_s = TIMEOUT_S };
    int64_t vocab;

    CSP_TRY(csp_launch_find(&c->launch));
    CSP_TRY(csp_comm_create(&c->launch, &wait, &c->comm));
    c->ranks = (csp_ranks) { .comm = c->comm,
                             .rank = csp_comm_rank(c->comm),
                             .size = csp_comm_size(c->comm) };
    CSP_TRY(agree_on_options(c));
    CSP_TRY(open_backend(c));
    CSP_TRY(csp_exchange_open(c->b.be, &c->ranks, QUERIES * (int64_t)c->ranks.size, &c->exchange));
    CSP_TRY(csp_alloc("bench", largest(c, &vocab), sizeof(*c->host), &c->host));
    CSP_TRY(csp_alloc("bench", c->ranks.size, sizeof(*c->counts), &c->counts));
    CSP_TRY(place(c, &c->arena));
    CSP_TRY(csp_backend_reserve(c->b.be, c->arena.peak, &c->arena));
    return place(c, &c->arena);
}

static csp_status run_all(comm_bench *c)
{
    CSP_TRY(open_all(c));
    if (c->ranks.rank == 0 && !is_json(c)) {
        printf("# csplade bench comm: %d rank%s (%d on this machine), %s, %s\n", c->ranks.size,
               c->ranks.size > 1 ? "s" : "", csp_comm_local_size(c->comm), transport_of(c),
               c->b.be->name);
    }
    for (int i = 0; i < CSP_COUNT(operations); i++) {
        CSP_TRY(run_operation(c, &operations[i]));
    }
    return c->wrong == 0
               ? CSP_OK
               : CSP_FAIL(CSP_ERR_DEVICE, "bench comm: %lld values are not what they must be",
                          (long long)c->wrong);
}

csp_status csp_bench_comm(const csp_arguments *args)
{
    comm_bench c = { .b = { .args = args,
                            .repeats = csp_args_i64(args, "steps"),
                            .warmup = csp_args_i64(args, "warmup"),
                            .tiny = csp_args_flag(args, "tiny") } };
    csp_status status = run_all(&c);
    char text[1024];
    int rank, code;

    (void)snprintf(text, sizeof(text), "%s", csp_error_text());
    if (c.comm != NULL && status != CSP_OK && c.wrong == 0) { // wrong values are known to all
        csp_ranks_abort(&c.ranks, status);
    }
    if (c.comm != NULL && status == CSP_ERR_COMM) { // all end with the code of the one that failed
        csp_comm_failure(c.comm, &rank, &code);
        status = csp_status_of_exit_code(code);
    }
    if (c.b.be != NULL) {
        csp_exchange_close(&c.exchange);
        csp_backend_release(c.b.be, &c.arena);
        csp_ranks_close(&c.ranks);
        csp_backend_destroy(c.b.be);
    }
    free(c.host);
    free(c.counts);
    csp_comm_destroy(c.comm);
    return status == CSP_OK ? CSP_OK : CSP_FAIL(status, "%s", text);
}
