/*
 * test_sparse_pool_bits.c - ops/sparse_pool.h, backward: ways, threads and parts of a batch that
 * have to give the same bits, and what no way may touch.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "support/compare.h"
#include "support/pool_back.h"
#include "support/sparse.h"

static void entries_without_gradient_are_not_touched_by(rig *r, csp_dtype S, csp_pool_way way)
{
    if (!pool_takes(r, way)) {
        return;
    }
    rig_begin(r, 2);
    pool_setup s = pool_random(r, 1, CSP_POOL_MAX, S);
    pool_back g = pool_make_back(r, &s, rig_sparse_random(r, s.ref.B, s.ref.V, 1.0, 1));
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
    assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_OK);
    rig_check_same(r, &g.de, &de);
    dh = rig_floats(r, &g.dh);
    for (int64_t i = 0; i < s.ref.N * s.ref.D; i++) {
        assert_true(dh[i] == 0.0f);
    }
    assert_true(pool_takes(r, CSP_POOL_AUTO));
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

    for (int i = 0; i < 4 && pool_takes(r, CSP_POOL_STREAM); i++) {
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
            seq_start, i == 0 ? pool_keep_of(r, &rows, &seq_start, N) : all_rows(r, N),
            csp_tensor_none(), 0.3f, CSP_POOL_MAX);
        pool_back g = pool_make_back(r, &s, rows), again = g;

        again.dh = rig_output(r, S, 2, s.h.dim);
        assert_int_equal(pool_backward(r->be, &s, &g, false), CSP_OK);
        assert_true(pool_takes(r, CSP_POOL_LISTS));
        assert_int_equal(pool_backward(r->be, &s, &again, false), CSP_OK);
        rig_check_same(r, &g.dh, &again.dh);
        rig_check_guards(r);
    }
    assert_true(pool_takes(r, CSP_POOL_AUTO));
}

static void streaming_gives_the_bits_of_lists(void **state)
{
    rig_each_storage(*state, streaming_gives_the_bits_of_lists_in);
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
    pool_back g;

    assert_int_equal(pool_forward(r, &s, 0, &alone), CSP_OK);
    assert_int_equal(pool_forward(r, &s, 0, &after), CSP_OK);
    assert_int_equal(pool_forward(r, &s, B, &after), CSP_OK);
    g = pool_make_back(r, &s, alone);
    assert_int_equal(pool_backward(r->be, &s, &g, false), CSP_OK);

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
        pool_back g, g_again;

        assert_int_equal(csp_backend_create(r->be->name, 3, &other), CSP_OK);
        assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
        g = pool_make_back(r, &s, w);
        g_again = g;
        g_again.dh = rig_output(r, S, 2, s.h.dim);
        g_again.de = rig_copy(r, &g.de);
        assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_OK);
        assert_int_equal(csp_backend_sync(r->be), CSP_OK); /* other does not wait for r->be */
        assert_int_equal(pool_backward(other, &s, &g_again, true), CSP_OK);
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
static void check_groups_of_cusparse(rig *r, const pool_setup *s, const pool_back *lists,
                                     csp_tensor de)
{
    pool_back g = *lists;

    if (!pool_takes(r, CSP_POOL_CUSPARSE)) {
        return;
    }
    g.way = CSP_POOL_CUSPARSE;
    g.dh = rig_output(r, s->h.dtype, 2, s->h.dim);
    g.de = de;
    assert_int_equal(pool_backward(r->be, s, &g, true), CSP_OK);
    /* Some dozen terms in another order each, which here and there cancel. */
    assert_true(norm_distance(rig_floats(r, &g.dh), rig_as_doubles(r, &lists->dh),
                              csp_tensor_count(&g.dh)) <= 100.0 * UNIT_F32);
    assert_true(norm_distance(rig_floats(r, &g.de), rig_as_doubles(r, &lists->de),
                              csp_tensor_count(&g.de)) <= 100.0 * UNIT_F32);
    assert_true(pool_takes(r, CSP_POOL_AUTO));
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
    pool_back g = pool_make_back(r, &s, rig_sparse_random(r, TEXTS, TERMS, 12.0 / TERMS, LENGTH));
    const csp_tensor dh = rig_output(r, S, 2, s.h.dim), de = rig_copy(r, &g.de);
    const csp_tensor de_again = rig_copy(r, &g.de);

    assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_OK);
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_without_gradient_are_not_touched),
        cmocka_unit_test(streaming_gives_the_bits_of_lists),
        cmocka_unit_test(many_texts_are_the_sum_of_their_parts),
        cmocka_unit_test(the_gradient_reads_the_rows_it_is_told),
        cmocka_unit_test(the_number_of_threads_changes_no_bit_of_max_pooling),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
