/*
 * test_exchange.c - queries of all ranks arrive whole, their gradients come back added up, and both
 * cost the bytes that their entries have.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/devices.h"
#include "support/ranks.h"

#include "core/rng.h"
#include "train/exchange.h"

enum { V = 3000, ROWS = 6 };

/* Entries of query q of a rank: from none to 200, terms in strides, weights by their numbers. */
static int64_t length_of(int rank, int64_t q)
{
    return q == 1 ? 0 : (rank + 1) * 30 + q * 10;
}

static int32_t term_of(int rank, int64_t q, int64_t i)
{
    return (int32_t)(i * 7 + q + rank * 3);
}

static float weight_of(int rank, int64_t q, int64_t i)
{
    return (float)(1 + rank) + 0.125f * (float)q + 0.001f * (float)i;
}

static void fill(csp_sparse *w, int rank)
{
    int64_t *row_ptr = w->row_ptr.data, at = 0;

    row_ptr[0] = 0;
    for (int64_t q = 0; q < ROWS; q++) {
        for (int64_t i = 0; i < length_of(rank, q); i++, at++) {
            ((int32_t *)w->term.data)[at] = term_of(rank, q, i);
            ((float *)w->weight.data)[at] = weight_of(rank, q, i);
        }
        row_ptr[q + 1] = at;
    }
}

static csp_status place_own(csp_arena *arena, csp_sparse *w, csp_tensor *dw)
{
    const int64_t starts = ROWS + 1, cap = ROWS * V;

    w->vocab = V;
    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &starts, &w->row_ptr));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &cap, &w->term));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &cap, &w->weight));
    return csp_arena_tensor(arena, CSP_F32, 1, &cap, dw);
}

static int64_t entries_of(int rank)
{
    int64_t entries = 0;

    for (int64_t q = 0; q < ROWS; q++) {
        entries += length_of(rank, q);
    }
    return entries;
}

/* Whether x->all is what the ranks have, one after the other. */
static bool all_arrived(const csp_exchange *x, int size)
{
    const int64_t *row_ptr = x->all.row_ptr.data;
    int64_t at = 0;

    for (int64_t n = 0; n < size * ROWS; n++) {
        const int rank = (int)(n / ROWS);
        const int64_t q = n % ROWS;

        if (row_ptr[n] != at) {
            return false;
        }
        for (int64_t i = 0; i < length_of(rank, q); i++, at++) {
            if (((int32_t *)x->all.term.data)[at] != term_of(rank, q, i) ||
                ((float *)x->all.weight.data)[at] != weight_of(rank, q, i)) {
                return false;
            }
        }
    }
    return row_ptr[size * ROWS] == at;
}

/* A rank's gradient of entry i of all queries: whole numbers, so that sums are exact. */
static float gradient_of(int rank, int64_t i)
{
    return (float)((i % 1000) * (rank + 1));
}

/* argument: steps + 16 x ranks of a group, which then exchange among themselves; 0: all do. */
static int exchange(int argument)
{
    const int steps = argument % 16, group = argument / 16;
    const csp_comm_options options = { .timeout_s = 60.0 };
    csp_arena ruler = { 0 }, arena;
    csp_launch launch;
    csp_ranks ranks;
    csp_comm *comm, *near;
    csp_backend *be;
    csp_exchange x;
    csp_sparse own = { 0 };
    csp_tensor dw;
    csp_comm_traffic before, after;
    int64_t total = 0, first = 0, mine;
    int size, rank;

    RANK_TRY(csp_launch_find(&launch));
    RANK_TRY(csp_comm_create(&launch, &options, &comm));
    devices_register();
    RANK_TRY(csp_backend_create("cpu", 1, &be));
    near = comm;
    if (group > 0) {
        RANK_TRY(csp_comm_group(comm, csp_comm_rank(comm) / group * group, group, &near));
    }
    RANK_TRY(csp_ranks_open(near, be, &ranks));
    rank = ranks.rank;
    size = ranks.size;
    RANK_TRY(csp_exchange_open(ranks.be, &ranks, size * ROWS, &x));
    RANK_TRY(place_own(&ruler, &own, &dw));
    RANK_TRY(csp_exchange_place(&x, V, &ruler));
    RANK_TRY(csp_backend_reserve(ranks.be, ruler.peak, &arena));
    RANK_TRY(place_own(&arena, &own, &dw));
    RANK_TRY(csp_exchange_place(&x, V, &arena));
    fill(&own, rank);
    mine = entries_of(rank);
    for (int r = 0; r < size; r++) {
        first += r < rank ? entries_of(r) : 0;
        total += entries_of(r);
    }
    for (int step = 0; step < steps; step++) {
        before = csp_comm_traffic_of(ranks.comm);
        RANK_TRY(csp_exchange_lengths(&x, &own, ROWS, &dw));
        RANK_TRY(csp_exchange_entries(&x));
        RANK_TRY(csp_exchange_arrive(&x));
        RANK_CHECK(all_arrived(&x, size));
        RANK_CHECK(fabs(x.all.active - (double)total / (size * ROWS)) < 1e-9);
        for (int64_t i = 0; i < total; i++) {
            ((float *)x.dw.data)[i] = gradient_of(rank, i);
        }
        RANK_TRY(csp_exchange_return(&x, &dw));
        for (int64_t i = 0; i < mine; i++) {
            const float want = (float)(((first + i) % 1000) * size * (size + 1) / 2);

            RANK_CHECK(((float *)dw.data)[i] == want);
        }
        after = csp_comm_traffic_of(ranks.comm);
        /* Out: a length a query, term and weight an entry, to each; back: a float an entry. */
        RANK_CHECK(after.sent - before.sent ==
                   (size - 1) * (8 * ROWS + 8 * mine) + 4 * (total - mine));
        RANK_CHECK(after.received - before.received ==
                   (size - 1) * 8 * ROWS + 8 * (total - mine) + 4 * (size - 1) * mine);
    }
    csp_exchange_close(&x);
    csp_backend_release(be, &arena);
    csp_ranks_close(&ranks);
    csp_backend_destroy(be);
    csp_comm_destroy(comm);
    return 0;
}

/* One rank: all is own, and nothing is placed or moved. */
static int alone(int argument)
{
    csp_arena ruler = { 0 };
    csp_sparse own = { .vocab = V };
    csp_backend *be;
    csp_tensor dw;
    csp_exchange x;

    (void)argument;
    devices_register();
    RANK_TRY(csp_backend_create("cpu", 1, &be));
    RANK_TRY(csp_exchange_open(be, NULL, ROWS, &x));
    RANK_TRY(csp_exchange_place(&x, V, &ruler));
    RANK_CHECK(ruler.peak == 0);
    RANK_TRY(place_own(&ruler, &own, &dw));
    RANK_TRY(csp_exchange_lengths(&x, &own, ROWS, &dw));
    RANK_TRY(csp_exchange_entries(&x));
    RANK_TRY(csp_exchange_arrive(&x));
    RANK_TRY(csp_exchange_return(&x, &dw));
    RANK_CHECK(memcmp(&x.all, &own, sizeof(own)) == 0);
    csp_exchange_close(&x);
    csp_backend_destroy(be);
    return 0;
}

int main(int argc, char **argv)
{
    static const ranks_job jobs[] = {
        { .name = "alone", .body = alone, .size = 1, .argument = 1 },
        { .name = "two", .body = exchange, .size = 2, .argument = 3 },
        { .name = "four", .body = exchange, .size = 4, .argument = 2 },
        { .name = "pairs of four", .body = exchange, .size = 4, .argument = 2 + 16 * 2 },
    };

    return ranks_main(argc, argv, jobs, sizeof(jobs) / sizeof(jobs[0]));
}
