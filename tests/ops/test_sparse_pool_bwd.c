/*
 * test_sparse_pool_bwd.c - ops/sparse_pool.h, backward: the references against their derivatives,
 * the backend against the references.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/pool.h"
#include "support/sparse.h"

/* Tensors of one backward call. */
typedef struct back {
    csp_sparse rows;
    csp_tensor dw, dh, de;
    double *de_was;
    int64_t entries; /* said to be there, 0: not known */
    csp_pool_way way;
} back;

/* Whether be goes that way from now on: a CPU has its own only, a device may lack cuSPARSE. */
static bool takes(rig *r, csp_pool_way way)
{
    const csp_status status = csp_sparse_pool_choose(r->be, way);

    if (status != CSP_OK) {
        assert_int_equal(status,
                         strcmp(r->be->name, "cpu") == 0 ? CSP_ERR_UNSUPPORTED : CSP_ERR_DEVICE);
        assert_true(way == CSP_POOL_CUSPARSE || strcmp(r->be->name, "cpu") == 0);
    }
    return status == CSP_OK;
}

static back make_back(rig *r, const pool_setup *s, csp_sparse rows)
{
    back g;

    g.rows = rows;
    g.entries = 0;
    g.way = CSP_POOL_AUTO;
    g.dw = rig_normal(r, CSP_F32, 1, rows.term.dim);
    g.dh = rig_output(r, s->h.dtype, 2, s->h.dim);
    g.de = rig_accumulated(r, 2, s->head.e.dim);
    g.de_was = rig_as_doubles(r, &g.de);
    return g;
}

static csp_status backward(csp_backend *be, const pool_setup *s, back *g, bool trained)
{
    csp_sparse_pool_grad grad = { .rows = &g->rows,
                                  .dw = g->dw,
                                  .first_row = 0,
                                  .h = trained || s->head.pooling == CSP_POOL_SUM
                                           ? s->h
                                           : csp_tensor_none(),
                                  .texts = s->texts,
                                  .dh = g->dh,
                                  .de = trained ? g->de : csp_tensor_none(),
                                  .entries = g->entries };

    return csp_sparse_pool_bwd(be, &s->head, &grad);
}

/* Judges dh and de; each element of dh adds at most h_terms numbers, of de e_terms. */
static void check_back(rig *r, const pool_setup *s, const back *g, int64_t h_terms, int64_t e_terms)
{
    const csp_dtype S = s->h.dtype;
    const ref_pool *p = &s->ref;
    const float *got = rig_floats(r, &g->dh);
    const double *w = rig_sparse_dense(r, &g->rows, p->B, NULL);
    const double *dw = rig_sparse_dense(r, &g->rows, p->B, &g->dw);
    double *dh = rig_doubles(r, p->N * p->D), *dh_mag = rig_doubles(r, p->N * p->D);
    double *de = rig_doubles(r, p->V * p->D), *de_mag = rig_doubles(r, p->V * p->D);

    for (int64_t i = 0; i < p->V * p->D; i++) {
        de[i] = g->de_was[i];
        de_mag[i] = fabs(g->de_was[i]);
    }
    if (s->head.pooling == CSP_POOL_MAX) {
        ref_pool_max_bwd(p, w, rig_sparse_argmax(r, &g->rows, p->B), dw, dh, dh_mag, de, de_mag);
    } else {
        ref_pool_sum_bwd(p, dw, dh, dh_mag, de, de_mag);
    }
    /* dz: exp or a quotient (4 units), two products; one more product for each term of the sum. A
     * tile of dz, and what cuSPARSE takes, is stored as S, and so is dh. */
    const bool stored =
        g->way == CSP_POOL_TILES || g->way == CSP_POOL_CUSPARSE || s->head.pooling == CSP_POOL_SUM;
    const double dz = S == CSP_BF16 && stored ? UNIT_BF16 : 0.0;

    assert_true(worst_ratio("dh", got, dh, dh_mag, p->N * p->D,
                            stored_bound(S, (double)(h_terms + 8)) + dz) <= 1.0);
    assert_true(norm_distance(got, dh, p->N * p->D) <= BF16_NORM_LIMIT);
    assert_true(worst_ratio("de", rig_host(r, &g->de), de, de_mag, p->V * p->D,
                            (double)(e_terms + 8) * UNIT_F32 + dz) <= 1.0);
    rig_check_guards(r);
}

/* (N) u8, 1 for every row that wins an entry and some others. */
static csp_tensor keep_of(rig *r, const csp_sparse *w, const csp_tensor *seq_start, int64_t N)
{
    const int64_t B = seq_start->dim[0] - 1;
    const int32_t *start = rig_host(r, seq_start), *arg = rig_sparse_argmax(r, w, B);
    uint8_t *keep = (uint8_t *)rig_ints(r, N);

    for (int64_t n = 0; n < N; n++) {
        keep[n] = n % 3 == 1;
    }
    for (int64_t i = 0; i < B * w->vocab; i++) {
        if (arg[i] >= 0) {
            keep[start[i / w->vocab] + arg[i]] = 1;
        }
    }
    return rig_input(r, CSP_U8, 1, &N, keep);
}

/* Rows as stored, at any density: the saved positions decide, no logit is formed again. */
static void max_gradients_match(rig *r, csp_dtype S, int64_t i, double density, csp_pool_way last)
{
    static const struct {
        int64_t B, T, V, D;
    } shapes[] = { { 1, 1, 1, 1 }, { 3, 7, 5000, 65 }, { 12, 20, 700, 64 }, { 2, 3, 33, 15 } };
    const int64_t B = shapes[i].B, T = shapes[i].T, V = shapes[i].V;
    const int64_t N = B * T, D = shapes[i].D;
    int64_t length[12];

    rig_begin(r, (uint64_t)i);
    for (int64_t b = 0; b < B; b++) {
        length[b] = T;
    }
    const csp_sparse rows = rig_sparse_random(r, B, V, density, T);
    const csp_tensor seq_start = rig_lengths(r, B, length);
    const pool_setup s = pool_of_tensors(
        r, rig_normal(r, S, 2, (int64_t[]) { N, D }), rig_normal(r, S, 2, (int64_t[]) { V, D }),
        seq_start, keep_of(r, &rows, &seq_start, N), csp_tensor_none(), 0.3f, CSP_POOL_MAX);

    for (int way = CSP_POOL_AUTO; way <= (int)last; way++) {
        back g = make_back(r, &s, rows);

        if (!takes(r, (csp_pool_way)way)) {
            continue;
        }
        g.way = (csp_pool_way)way;
        assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
        check_back(r, &s, &g, V, B);
    }
    assert_true(takes(r, CSP_POOL_AUTO));
}

static void max_gradients_match_the_reference_at_any_density_in(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < 4; i++) {
        max_gradients_match(r, S, i, 1.0, CSP_POOL_AUTO);
        max_gradients_match(r, S, i, 0.3, CSP_POOL_CUSPARSE);
        max_gradients_match(r, S, i, 0.01, CSP_POOL_AUTO);
    }
}

static void max_gradients_match_the_reference_at_any_density(void **state)
{
    rig_each_storage(*state, max_gradients_match_the_reference_at_any_density_in);
}

static void entries_without_gradient_are_not_touched_by(rig *r, csp_dtype S, csp_pool_way way)
{
    if (!takes(r, way)) {
        return;
    }
    rig_begin(r, 2);
    pool_setup s = pool_random(r, 1, CSP_POOL_MAX, S);
    back g = make_back(r, &s, rig_sparse_random(r, s.ref.B, s.ref.V, 1.0, 1));
    const csp_tensor de = rig_copy(r, &g.de);
    float *nans = (float *)(void *)rig_ints(r, s.ref.V * s.ref.D);
    const float *dh;

    for (int64_t i = 0; i < s.ref.V * s.ref.D; i++) {
        nans[i] = NAN;
    }
    const csp_tensor e = rig_input(r, CSP_F32, 2, s.head.e.dim, nans),
                     h = rig_input(r, CSP_F32, 2, s.h.dim, nans);
    s.head.e = rig_stored(r, S, &e);
    s.h = rig_stored(r, S, &h);
    g.dw = rig_input(r, CSP_F32, 1, g.dw.dim, rig_doubles(r, g.dw.dim[0])); /* zeros */
    assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
    rig_check_same(r, &g.de, &de);
    dh = rig_floats(r, &g.dh);
    for (int64_t i = 0; i < s.ref.N * s.ref.D; i++) {
        assert_true(dh[i] == 0.0f);
    }
    assert_true(takes(r, CSP_POOL_AUTO));
}

static void entries_without_gradient_are_not_touched_in(rig *r, csp_dtype S)
{
    entries_without_gradient_are_not_touched_by(r, S, CSP_POOL_AUTO);
    entries_without_gradient_are_not_touched_by(r, S, CSP_POOL_STREAM);
}

static void entries_without_gradient_are_not_touched(void **state)
{
    rig_each_storage(*state, entries_without_gradient_are_not_touched_in);
}

/* (N) u8 of 1. */
static csp_tensor all_rows(rig *r, int64_t N)
{
    uint8_t *keep = (uint8_t *)rig_ints(r, N);

    memset(keep, 1, (size_t)N);
    return rig_input(r, CSP_U8, 1, &N, keep);
}

/* Entries of `full` texts, spread over B texts: those of length 0 have none. */
static csp_sparse spread_rows(rig *r, csp_sparse rows, int64_t B, const int64_t *length)
{
    const int64_t *from = rig_host(r, &rows.row_ptr);
    int64_t *row_ptr = (int64_t *)(void *)rig_doubles(r, B + 1), full = 0;

    for (int64_t b = 0; b < B; b++) {
        full += length[b] > 0;
        row_ptr[b + 1] = from[full];
    }
    rows.row_ptr = rig_input(r, CSP_I64, 1, (int64_t[]) { B + 1 }, row_ptr);
    return rows;
}

/*
 * A device streams e past blocks of rows, 64 columns each: texts longer than a block, texts that
 * its edge cuts, more texts than it has rows, columns and terms beyond the last whole ones.
 */
static void streaming_gives_the_bits_of_lists_in(rig *r, csp_dtype S)
{
    static const struct {
        int64_t B, T, every, V, D;
        double density;
    } shapes[] = { { 5, 650, 2, 300, 72, 0.2 },
                   { 2, 800, 1, 97, 64, 0.5 },
                   { 1500, 3, 150, 100, 70, 0.5 },
                   { 40, 13, 1, 193, 65, 0.7 } };
    enum { MOST_TEXTS = 1500 };
    int64_t length[MOST_TEXTS], N, full;

    for (int i = 0; i < 4 && takes(r, CSP_POOL_STREAM); i++) {
        const int64_t B = shapes[i].B, T = shapes[i].T, V = shapes[i].V, D = shapes[i].D;

        rig_begin(r, (uint64_t)i);
        full = 0;
        for (int64_t b = 0; b < B; b++) {
            length[b] = b % shapes[i].every == 0 ? T : 0;
            full += length[b] > 0;
        }
        N = full * T;
        const csp_tensor seq_start = rig_lengths(r, B, length);
        const csp_sparse rows =
            spread_rows(r, rig_sparse_random(r, full, V, shapes[i].density, T), B, length);
        const pool_setup s = pool_of_tensors(
            r, rig_normal(r, S, 2, (int64_t[]) { N, D }), rig_normal(r, S, 2, (int64_t[]) { V, D }),
            seq_start, i == 0 ? keep_of(r, &rows, &seq_start, N) : all_rows(r, N),
            csp_tensor_none(), 0.3f, CSP_POOL_MAX);
        back g = make_back(r, &s, rows), again = g;

        again.dh = rig_output(r, S, 2, s.h.dim);
        assert_int_equal(backward(r->be, &s, &g, false), CSP_OK);
        assert_true(takes(r, CSP_POOL_LISTS));
        assert_int_equal(backward(r->be, &s, &again, false), CSP_OK);
        rig_check_same(r, &g.dh, &again.dh);
        rig_check_guards(r);
    }
    assert_true(takes(r, CSP_POOL_AUTO));
}

static void streaming_gives_the_bits_of_lists(void **state)
{
    rig_each_storage(*state, streaming_gives_the_bits_of_lists_in);
}

/* One text has all entries: more than are sorted at once. */
static void one_full_row_among_empty_ones_matches_in(rig *r, csp_dtype S)
{
    enum { TEXTS = 9, LENGTH = 5, TERMS = 9000, WIDTH = 20 };
    int64_t length[TEXTS], row_ptr[TEXTS + 1] = { 0 };
    csp_sparse rows;

    rig_begin(r, 1);
    rows = rig_sparse_random(r, 1, TERMS, 1.0, LENGTH);
    for (int b = 0; b < TEXTS; b++) {
        length[b] = LENGTH;
        row_ptr[b + 1] = b < 4 ? 0 : TERMS;
    }
    rows.row_ptr = rig_input(r, CSP_I64, 1, (int64_t[]) { TEXTS + 1 }, row_ptr);
    const pool_setup s = pool_of_tensors(
        r, rig_normal(r, S, 2, (int64_t[]) { TEXTS * LENGTH, WIDTH }),
        rig_normal(r, S, 2, (int64_t[]) { TERMS, WIDTH }), rig_lengths(r, TEXTS, length),
        rig_mask(r, TEXTS * LENGTH), csp_tensor_none(), 1.0f, CSP_POOL_MAX);
    back g = make_back(r, &s, rows);

    assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
    check_back(r, &s, &g, TERMS, 1);
}

static void one_full_row_among_empty_ones_matches(void **state)
{
    rig_each_storage(*state, one_full_row_among_empty_ones_matches_in);
}

static void sum_gradients_match_the_reference_in(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < POOL_CASES; i++) {
        rig_begin(r, (uint64_t)i);
        pool_setup s = pool_exact(r, i, CSP_POOL_SUM, S);
        csp_sparse w = rig_sparse_output(r, s.ref.B, s.ref.B * s.ref.V, s.ref.V);
        back g;

        s.ref.bf16 = S == CSP_BF16;
        assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
        g = make_back(r, &s, w);
        assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
        check_back(r, &s, &g, s.ref.V, s.ref.N);
    }
}

static void sum_gradients_match_the_reference(void **state)
{
    rig_each_storage(*state, sum_gradients_match_the_reference_in);
}

/* Rows of a later micro-batch: their places in the arrays, their gradients. */
static void the_gradient_reads_the_rows_it_is_told_in(rig *r, csp_dtype S)
{
    rig_begin(r, 8);
    const pool_setup s = pool_random(r, 1, CSP_POOL_MAX, S);
    const int64_t B = s.ref.B, V = s.ref.V;
    csp_sparse alone = rig_sparse_output(r, B, B * V, V);
    csp_sparse after = rig_sparse_output(r, 2 * B, 2 * B * V, V);
    csp_tensor dh = rig_output(r, S, 2, s.h.dim);
    back g;

    assert_int_equal(pool_forward(r, &s, 0, &alone), CSP_OK);
    assert_int_equal(pool_forward(r, &s, 0, &after), CSP_OK);
    assert_int_equal(pool_forward(r, &s, B, &after), CSP_OK);
    g = make_back(r, &s, alone);
    assert_int_equal(backward(r->be, &s, &g, false), CSP_OK);

    const int64_t entries = rig_sparse_entries(r, &alone, B);
    float *dw = rig_host(r, &after.weight);
    memset(dw, 0x7F, sizeof(float) * (size_t)(2 * B * V)); /* large: seen if read for other rows */
    memcpy(dw + entries, rig_host(r, &g.dw), sizeof(float) * (size_t)entries);
    csp_sparse_pool_grad grad = { .rows = &after,
                                  .dw = rig_input(r, CSP_F32, 1, after.term.dim, dw),
                                  .first_row = B,
                                  .h = csp_tensor_none(),
                                  .texts = s.texts,
                                  .dh = dh,
                                  .de = csp_tensor_none() };
    assert_int_equal(csp_sparse_pool_bwd(r->be, &s.head, &grad), CSP_OK);
    rig_check_same(r, &dh, &g.dh);
    rig_check_guards(r);
}

static void the_gradient_reads_the_rows_it_is_told(void **state)
{
    rig_each_storage(*state, the_gradient_reads_the_rows_it_is_told_in);
}

static void the_number_of_threads_changes_no_bit_of_max_pooling_in(rig *r, csp_dtype S)
{
    csp_backend *other;
    /* A device has no threads to number: one case shows that a second backend is like the first. */
    const int64_t cases = r->be->host_memory ? POOL_CASES : 1;

    for (int64_t i = 0; i < cases; i++) {
        rig_begin(r, (uint64_t)i);
        const pool_setup s = pool_random(r, i, CSP_POOL_MAX, S);
        csp_sparse w = rig_sparse_output(r, s.ref.B, s.ref.B * s.ref.V, s.ref.V);
        back g, g_again;

        assert_int_equal(csp_backend_create(r->be->name, 3, &other), CSP_OK);
        assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
        g = make_back(r, &s, w);
        g_again = g;
        g_again.dh = rig_output(r, S, 2, s.h.dim);
        g_again.de = rig_copy(r, &g.de);
        assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
        assert_int_equal(csp_backend_sync(r->be), CSP_OK); /* other does not wait for r->be */
        assert_int_equal(backward(other, &s, &g_again, true), CSP_OK);
        assert_int_equal(csp_backend_sync(other), CSP_OK);
        rig_check_same(r, &g.dh, &g_again.dh);
        rig_check_same(r, &g.de, &g_again.de);
        csp_backend_destroy(other);
    }
}

static void the_number_of_threads_changes_no_bit_of_max_pooling(void **state)
{
    rig_each_storage(*state, the_number_of_threads_changes_no_bit_of_max_pooling_in);
}

/* What a device's other way of several groups gives, against that of lists. */
static void check_groups_of_cusparse(rig *r, const pool_setup *s, const back *lists, csp_tensor de)
{
    back g = *lists;

    if (!takes(r, CSP_POOL_CUSPARSE)) {
        return;
    }
    g.way = CSP_POOL_CUSPARSE;
    g.dh = rig_output(r, s->h.dtype, 2, s->h.dim);
    g.de = de;
    assert_int_equal(backward(r->be, s, &g, true), CSP_OK);
    /* Some dozen terms in another order each, which here and there cancel. */
    assert_true(norm_distance(rig_floats(r, &g.dh), rig_as_doubles(r, &lists->dh),
                              csp_tensor_count(&g.dh)) <= 100.0 * UNIT_F32);
    assert_true(norm_distance(rig_floats(r, &g.de), rig_as_doubles(r, &lists->de),
                              csp_tensor_count(&g.de)) <= 100.0 * UNIT_F32);
    assert_true(takes(r, CSP_POOL_AUTO));
}

/*
 * More entries than a backend lists at once, more (term, text) pairs than it spreads at once: one
 * call gives the same bits as one for each part of the texts.
 */
static void many_texts_are_the_sum_of_their_parts_in(rig *r, csp_dtype S)
{
    enum { LENGTH = 1, TERMS = POOL_AT_ONCE > 1 << 20 ? 4200 : 700 };
    enum { TEXTS = POOL_AT_ONCE / TERMS + 100, PART = 2 * TEXTS / 3 };
    int64_t length[TEXTS];

    rig_begin(r, 4);
    for (int b = 0; b < TEXTS; b++) {
        length[b] = LENGTH;
    }
    const pool_setup s = pool_of_tensors(r, rig_normal(r, S, 2, (int64_t[]) { TEXTS * LENGTH, 1 }),
                                         rig_normal(r, S, 2, (int64_t[]) { TERMS, 1 }),
                                         rig_lengths(r, TEXTS, length), rig_mask(r, TEXTS * LENGTH),
                                         csp_tensor_none(), 1.0f, CSP_POOL_MAX);
    back g = make_back(r, &s, rig_sparse_random(r, TEXTS, TERMS, 12.0 / TERMS, LENGTH));
    const csp_tensor dh = rig_output(r, S, 2, s.h.dim), de = rig_copy(r, &g.de);
    const csp_tensor de_again = rig_copy(r, &g.de);

    assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
    if (S == CSP_F32) {
        check_groups_of_cusparse(r, &s, &g, de_again);
    }
    for (int64_t b = 0; b < TEXTS; b += PART) {
        const int64_t texts = TEXTS - b < PART ? TEXTS - b : PART;
        csp_sparse_pool_grad grad = {
            .rows = &g.rows,
            .dw = g.dw,
            .first_row = b,
            .h = csp_tensor_rows(&s.h, b * LENGTH, texts * LENGTH),
            .texts = pool_texts_of(r, rig_lengths(r, texts, length),
                                   csp_tensor_rows(&s.texts.keep, b * LENGTH, texts * LENGTH)),
            .dh = csp_tensor_rows(&dh, b * LENGTH, texts * LENGTH),
            .de = de
        };

        assert_int_equal(csp_sparse_pool_bwd(r->be, &s.head, &grad), CSP_OK);
    }
    rig_check_same(r, &g.dh, &dh);
    rig_check_same(r, &g.de, &de);
    rig_check_guards(r);
}

static void many_texts_are_the_sum_of_their_parts(void **state)
{
    rig_each_storage(*state, many_texts_are_the_sum_of_their_parts_in);
}

/*
 * Tiles of rows on every backend, and of terms but for sums in bf16, where that would be many. For
 * maxima a device has two tiles of half the size.
 */
static void several_tiles_match(rig *r, csp_dtype S, csp_pool_kind pooling)
{
    enum { TEXTS = 3 };
    const bool many = S == CSP_BF16 && pooling == CSP_POOL_SUM;
    const int64_t half = pooling == CSP_POOL_MAX ? 2 : 1;
    const int64_t ROWS = (S == CSP_BF16 ? 8300 : 4200) / half, TERMS = many ? 60 : 2100;
    const int64_t length[TEXTS] = { 50, ROWS - 70, 20 };

    rig_begin(r, 2);
    const csp_tensor h = rig_uniform(r, 0.5, 1.0, 2, (int64_t[]) { ROWS, 1 });
    const csp_tensor e = rig_uniform(r, 0.5, 1.0, 2, (int64_t[]) { TERMS, 1 });
    pool_setup s = pool_of_tensors(r, rig_stored(r, S, &h), rig_stored(r, S, &e),
                                   rig_lengths(r, TEXTS, length), pool_most_rows(r, ROWS),
                                   csp_tensor_none(), 0.5f, pooling);
    back g = make_back(r, &s, rig_sparse_random(r, TEXTS, TERMS, 0.5, 20));

    g.way = pooling == CSP_POOL_MAX && takes(r, CSP_POOL_TILES) ? CSP_POOL_TILES : CSP_POOL_AUTO;
    s.ref.bf16 = S == CSP_BF16;
    assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
    check_back(r, &s, &g, TERMS, ROWS);
    assert_true(takes(r, CSP_POOL_AUTO));
}

static void gradients_of_several_tiles_match_in(rig *r, csp_dtype S)
{
    several_tiles_match(r, S, CSP_POOL_SUM);
    several_tiles_match(r, S, CSP_POOL_MAX);
}

static void gradients_of_several_tiles_match(void **state)
{
    rig_each_storage(*state, gradients_of_several_tiles_match_in);
}

enum { GB = 2, GN = 6, GV = 5, GD = 3 };

typedef struct derivative {
    ref_pool p;
    bool is_sum;
    double c[GB * GV]; /* loss = sum of c w */
} derivative;

static double loss_of(const derivative *d)
{
    double w[GB * GV], loss = 0.0;

    if (d->is_sum) {
        ref_pool_sum_fwd(&d->p, w, NULL);
    } else {
        ref_pool_max_fwd(&d->p, w, NULL, NULL);
    }
    for (int i = 0; i < GB * GV; i++) {
        loss += d->c[i] * w[i];
    }
    return loss;
}

static double loss_of_h(const double *h, const void *context)
{
    derivative d = *(const derivative *)context;

    d.p.h = h;
    return loss_of(&d);
}

static double loss_of_e(const double *e, const void *context)
{
    derivative d = *(const derivative *)context;

    d.p.e = e;
    return loss_of(&d);
}

/* Whether all logits of kept rows are away from 0 and from each other in their text. */
static bool away_from_kinks(const ref_pool *p)
{
    double mag;

    for (int64_t v = 0; v < p->V; v++) {
        for (int64_t n = 0; n < p->N; n++) {
            const double z = ref_pool_logit(p, n, v, &mag);

            for (int64_t m = 0; m < n; m++) {
                if (fabs(z - ref_pool_logit(p, m, v, &mag)) < 1e-3) {
                    return false;
                }
            }
            if (fabs(z) < 1e-3) {
                return false;
            }
        }
    }
    return true;
}

static void the_references_are_their_own_derivatives(void **state)
{
    rig *r = *state;
    static const int32_t seq_start[] = { 0, 2, GN };
    static const uint8_t keep[GN] = { 1, 1, 1, 0, 1, 1 }, exclude[GV] = { 0, 0, 1, 0, 0 };
    bool away = false;

    for (uint64_t seed = 0; !away; seed++) {
        rig_begin(r, seed);
        const csp_tensor th = rig_normal(r, CSP_F32, 2, (int64_t[]) { GN, GD });
        const csp_tensor te = rig_normal(r, CSP_F32, 2, (int64_t[]) { GV, GD });
        double *h = rig_as_doubles(r, &th), *e = rig_as_doubles(r, &te);
        derivative d = { .p = { h, e, exclude, seq_start, keep, 0.7, GB, GN, GV, GD, false } };

        away = away_from_kinks(&d.p);
        for (int i = 0; away && i < GB * GV; i++) {
            d.c[i] = 1.0 + 0.1 * i;
        }
        for (int is_sum = 0; away && is_sum <= 1; is_sum++) {
            double w[GB * GV], dh[GN * GD], de[GV * GD] = { 0.0 }, mag[GN * GD + GV * GD];
            int32_t arg[GB * GV];

            d.is_sum = is_sum != 0;
            ref_pool_max_fwd(&d.p, w, arg, NULL);
            memset(mag, 0, sizeof(mag));
            if (d.is_sum) {
                ref_pool_sum_bwd(&d.p, d.c, dh, mag, de, mag + GN * GD);
            } else {
                ref_pool_max_bwd(&d.p, w, arg, d.c, dh, mag, de, mag + GN * GD);
            }
            assert_true(gradient_distance(loss_of_h, &d, h, dh, GN * GD) <= GRADIENT_LIMIT);
            assert_true(gradient_distance(loss_of_e, &d, e, de, GV * GD) <= GRADIENT_LIMIT);
        }
    }
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;

    rig_begin(r, 0);
    const pool_setup s = pool_random(r, 1, CSP_POOL_MAX, CSP_F32);
    back g = make_back(r, &s, rig_sparse_random(r, s.ref.B, s.ref.V, 0.5, 1));
    const csp_tensor dh = g.dh, de = g.de, dw = g.dw;

    g.de = rig_accumulated(r, 2, (int64_t[]) { s.ref.V + 1, s.ref.D });
    assert_int_equal(backward(r->be, &s, &g, true), CSP_ERR_SHAPE);
    g.de = de;
    g.dh = rig_output(r, CSP_F32, 2, (int64_t[]) { s.ref.N, s.ref.D + 1 });
    assert_int_equal(backward(r->be, &s, &g, false), CSP_ERR_SHAPE);
    g.dh = rig_output(r, CSP_F32, 2, (int64_t[]) { s.ref.N + 1, s.ref.D });
    assert_int_equal(backward(r->be, &s, &g, true), CSP_ERR_SHAPE); /* h has another height */
    g.dh = dh;
    g.dw.dim[0]--;
    assert_int_equal(backward(r->be, &s, &g, true), CSP_ERR_SHAPE);
    g.dw = dw;
    g.entries = -1;
    assert_int_equal(backward(r->be, &s, &g, true), CSP_ERR_ARGUMENT);
    g.entries = 0;
    assert_int_equal(csp_sparse_pool_choose(r->be, (csp_pool_way)(CSP_POOL_CUSPARSE + 1)),
                     CSP_ERR_ARGUMENT);
    g.rows.argmax = csp_tensor_none();
    assert_int_equal(backward(r->be, &s, &g, true), CSP_ERR_SHAPE);
    rig_check_untouched(r, &dh);
    rig_check_untouched(r, &de);
}

/* Every allocation of a fresh backend fails once; the next call succeeds. */
static void failing_memory_is_reported_in(rig *r, csp_dtype S)
{
    for (int pooling = CSP_POOL_MAX; pooling <= CSP_POOL_SUM; pooling++) {
        rig_begin(r, 2);
        const pool_setup s = pool_random(r, 2, (csp_pool_kind)pooling, S);
        csp_sparse w = rig_sparse_output(r, s.ref.B, s.ref.B * s.ref.V, s.ref.V);
        csp_status status = CSP_ERR_MEMORY;
        csp_backend *fresh;
        back g;

        assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
        g = make_back(r, &s, w);
        assert_int_equal(csp_backend_sync(r->be), CSP_OK);
        for (long n = 1; status != CSP_OK; n++) {
            assert_int_equal(csp_backend_create(r->be->name, 2, &fresh), CSP_OK);
            csp_fault_arm(n);
            status = backward(fresh, &s, &g, true);
            csp_fault_arm(0);
            assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
            assert_true(n < 100);
            csp_backend_destroy(fresh);
        }
    }
}

static void failing_memory_is_reported(void **state)
{
    rig_each_storage(*state, failing_memory_is_reported_in);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_references_are_their_own_derivatives),
        cmocka_unit_test(max_gradients_match_the_reference_at_any_density),
        cmocka_unit_test(entries_without_gradient_are_not_touched),
        cmocka_unit_test(streaming_gives_the_bits_of_lists),
        cmocka_unit_test(one_full_row_among_empty_ones_matches),
        cmocka_unit_test(sum_gradients_match_the_reference),
        cmocka_unit_test(many_texts_are_the_sum_of_their_parts),
        cmocka_unit_test(gradients_of_several_tiles_match),
        cmocka_unit_test(the_gradient_reads_the_rows_it_is_told),
        cmocka_unit_test(the_number_of_threads_changes_no_bit_of_max_pooling),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
        cmocka_unit_test(failing_memory_is_reported),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
