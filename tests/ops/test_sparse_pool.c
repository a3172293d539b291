/*
 * test_sparse_pool.c - ops/sparse_pool.h, forward: the backend against the reference. Backward is
 * in test_sparse_pool_bwd.c, the fused kernel in test_sparse_pool_fused.c.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "support/compare.h"
#include "support/pool.h"
#include "support/sparse.h"

static void weights_match_the_reference_in(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < POOL_CASES; i++) {
        for (int pooling = CSP_POOL_MAX; pooling <= CSP_POOL_SUM; pooling++) {
            rig_begin(r, (uint64_t)i);
            const pool_setup s = pool_random(r, i, (csp_pool_kind)pooling, S);
            const int64_t B = s.ref.B, V = s.ref.V, D = s.ref.D;
            csp_sparse w = rig_sparse_output(r, B, B * V, V);
            double *want = rig_doubles(r, B * V), *mag = rig_doubles(r, B * V);

            if (pooling == CSP_POOL_MAX) {
                ref_pool_max_fwd(&s.ref, want, NULL, mag);
            } else {
                ref_pool_sum_fwd(&s.ref, want, mag);
            }
            assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
            /* A logit has D + 2 roundings, log1p one unit in the last place (two units); a sum has
             * one more for each row. In bf16 each product has one of bf16. */
            const int64_t sums = pooling == CSP_POOL_SUM ? s.ref.N : 0;
            assert_true(worst_ratio_f64("w", rig_sparse_dense(r, &w, B, NULL), want, mag, B * V,
                                        stored_bound(S, (double)(D + 4 + sums))) <= 1.0);
            rig_check_guards(r);
        }
    }
}

static void weights_match_the_reference(void **state)
{
    rig_each_storage(*state, weights_match_the_reference_in);
}

/*
 * With whole numbers there are many ties and no rounding but that of a large product to bf16, which
 * makes more: the first row must win, exactly.
 */
static void positions_match_exactly(rig *r, csp_dtype S, int64_t i, int64_t largest)
{
    const int64_t B = pool_cases[i].B, N = pool_cases[i].N, V = pool_cases[i].V,
                  D = pool_cases[i].D;

    rig_begin(r, (uint64_t)i);
    const csp_tensor h = pool_whole_numbers(r, S, -largest, largest, N, D),
                     e = pool_whole_numbers(r, S, -largest / 2, largest / 2, V, D);
    pool_setup s = pool_of_tensors(r, h, e, rig_cuts(r, B, N), rig_mask(r, N),
                                   pool_some_terms(r, V, pool_cases[i].exclude),
                                   pool_cases[i].scale, CSP_POOL_MAX);
    csp_sparse w = rig_sparse_output(r, B, B * V, V);
    double *want = rig_doubles(r, B * V);
    int32_t *want_arg = rig_ints(r, B * V);

    s.ref.bf16 = S == CSP_BF16;
    ref_pool_max_fwd(&s.ref, want, want_arg, NULL);
    assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
    assert_memory_equal(rig_sparse_argmax(r, &w, B), want_arg, (size_t)(B * V) * sizeof(int32_t));
    /* The logit is exact: scale, log1p and the reference's rounding remain. */
    assert_true(worst_ratio_f64("w", rig_sparse_dense(r, &w, B, NULL), want, want, B * V,
                                4 * UNIT_F32) <= 1.0);
    rig_check_guards(r);
}

static void first_maxima(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < POOL_CASES; i++) {
        positions_match_exactly(r, S, i, 2);
        positions_match_exactly(r, S, i, 32);
    }
}

static void positions_are_those_of_the_first_maximum(void **state)
{
    rig_each_storage(*state, first_maxima);
}

/* A key has room for 65,536 positions: the last one wins here, one more row is refused. */
static void the_longest_text_of_bf16_is_pooled_to_its_end(void **state)
{
    rig *r = *state;
    enum { ROWS = 65536, TERMS = 3 };
    const int64_t length = ROWS;

    if (!r->be->bf16) {
        return;
    }
    rig_begin(r, 0);
    float *x = (float *)(void *)rig_ints(r, ROWS), e[TERMS] = { 1.0f, -1.0f, 0.5f };
    uint8_t *keep = (uint8_t *)rig_ints(r, ROWS);

    for (int64_t n = 0; n < ROWS; n++) {
        x[n] = n == ROWS - 1 ? 4.0f : n == 7 ? -2.0f : 0.5f;
        keep[n] = n != 3;
    }
    const csp_tensor wide_h = rig_input(r, CSP_F32, 2, (int64_t[]) { ROWS, 1 }, x),
                     wide_e = rig_input(r, CSP_F32, 2, (int64_t[]) { TERMS, 1 }, e);
    csp_sparse w = rig_sparse_output(r, 1, TERMS, TERMS);
    pool_setup s = pool_of_tensors(r, rig_stored(r, CSP_BF16, &wide_h),
                                   rig_stored(r, CSP_BF16, &wide_e), rig_lengths(r, 1, &length),
                                   rig_input(r, CSP_U8, 1, (int64_t[]) { ROWS }, keep),
                                   csp_tensor_none(), 1.0f, CSP_POOL_MAX);

    assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
    const int32_t *argmax = rig_host(r, &w.argmax);
    assert_int_equal(rig_sparse_entries(r, &w, 1), TERMS);
    assert_int_equal(argmax[0], ROWS - 1);
    assert_int_equal(argmax[1], 7);
    assert_int_equal(argmax[2], ROWS - 1);
    s.texts.longest = ROWS + 1;
    assert_int_equal(pool_forward(r, &s, 0, &w), CSP_ERR_UNSUPPORTED);
    assert_string_equal(csp_error_text(), "sparse_pool: a text of 65537 rows: in bf16 the maximum "
                                          "is taken over 65536 at most");
}

static void bf16_is_refused_in_words_where_there_is_none(void **state)
{
    rig *r = *state;

    rig_begin(r, 0);
    csp_backend plain = *r->be;
    const pool_setup s = pool_random(r, 1, CSP_POOL_MAX, CSP_BF16);
    csp_sparse w = rig_sparse_output(r, s.ref.B, s.ref.B * s.ref.V, s.ref.V);

    plain.bf16 = false;
    assert_int_equal(csp_sparse_pool_fwd(&plain, &s.head, &s.h, &s.texts, 0, &w),
                     CSP_ERR_UNSUPPORTED);
    assert_non_null(strstr(csp_error_text(), "sparse_pool: e is bf16"));
    rig_check_untouched(r, &w.row_ptr);
}

/* log(1 + z) must not lose the digits of a small z to the 1. */
static void tiny_and_huge_logits_keep_their_digits(void **state)
{
    rig *r = *state;
    enum { TERMS = 400 };
    const int64_t length = 1;
    const uint8_t keep = 1;
    const float h = 0.5f;
    float e[TERMS];
    double want[TERMS];

    rig_begin(r, 0);
    for (int v = 0; v < TERMS; v++) {
        e[v] = 2.0f * (float)exp(0.2 * (v - TERMS / 2)); /* 4e-18 .. 2e17 */
        want[v] = log1p((double)e[v] * 0.5);
    }
    csp_sparse w = rig_sparse_output(r, 1, TERMS, TERMS);
    const pool_setup s = pool_of_tensors(
        r, rig_input(r, CSP_F32, 2, (int64_t[]) { 1, 1 }, &h),
        rig_input(r, CSP_F32, 2, (int64_t[]) { TERMS, 1 }, e), rig_lengths(r, 1, &length),
        rig_input(r, CSP_U8, 1, (int64_t[]) { 1 }, &keep), csp_tensor_none(), 1.0f, CSP_POOL_MAX);

    assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
    assert_int_equal(rig_sparse_entries(r, &w, 1), TERMS);
    /* One unit in the last place is two rounding units; the reference may differ by half a unit. */
    assert_true(worst_ratio("w", rig_host(r, &w.weight), want, want, TERMS, 3 * UNIT_F32) <= 1.0);
}

static void a_text_without_kept_rows_is_an_empty_row(void **state)
{
    rig *r = *state;
    const int64_t length[] = { 2, 0, 3, 1 };
    const uint8_t keep[] = { 1, 0, 0, 0, 0, 1 };

    rig_begin(r, 5);
    csp_sparse w = rig_sparse_output(r, 4, 40, 10);
    const pool_setup s = pool_of_tensors(
        r, rig_uniform(r, 0.1, 1.0, 2, (int64_t[]) { 6, 3 }),
        rig_uniform(r, 0.1, 1.0, 2, (int64_t[]) { 10, 3 }), rig_lengths(r, 4, length),
        rig_input(r, CSP_U8, 1, (int64_t[]) { 6 }, keep), csp_tensor_none(), 1.0f, CSP_POOL_MAX);
    const int64_t *row_ptr;

    assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
    row_ptr = rig_host(r, &w.row_ptr);
    assert_int_equal(row_ptr[1], 10);
    assert_int_equal(row_ptr[2], 10);
    assert_int_equal(row_ptr[3], 10);
    assert_int_equal(row_ptr[4], 20);
    assert_int_equal(((int32_t *)rig_host(r, &w.argmax))[15], 0); /* from the text's own start */
    rig_check_guards(r);
}

static void rows_are_appended_in(rig *r, csp_dtype S)
{
    rig_begin(r, 3);
    const pool_setup first = pool_random(r, 1, CSP_POOL_MAX, S),
                     second = pool_random(r, 1, CSP_POOL_MAX, S);
    const int64_t B = first.ref.B, V = first.ref.V;
    csp_sparse a = rig_sparse_output(r, B, B * V, V), b = rig_sparse_output(r, B, B * V, V);
    csp_sparse both = rig_sparse_output(r, 2 * B, 2 * B * V, V);
    double *dense;

    assert_int_equal(pool_forward(r, &first, 0, &a), CSP_OK);
    assert_int_equal(pool_forward(r, &second, 0, &b), CSP_OK);
    assert_int_equal(pool_forward(r, &first, 0, &both), CSP_OK);
    assert_int_equal(pool_forward(r, &second, B, &both), CSP_OK);
    dense = rig_sparse_dense(r, &both, 2 * B, NULL);
    assert_memory_equal(dense, rig_sparse_dense(r, &a, B, NULL), sizeof(double) * (size_t)(B * V));
    assert_memory_equal(dense + B * V, rig_sparse_dense(r, &b, B, NULL),
                        sizeof(double) * (size_t)(B * V));
    rig_check_guards(r);
}

static void rows_are_appended(void **state)
{
    rig_each_storage(*state, rows_are_appended_in);
}

static void too_little_room_is_said_and_earlier_rows_stay_in(rig *r, csp_dtype S)
{
    rig_begin(r, 4);
    const pool_setup s = pool_random(r, 1, CSP_POOL_MAX, S);
    const int64_t B = s.ref.B, V = s.ref.V;
    csp_sparse w = rig_sparse_output(r, 2 * B, 2 * B * V, V), small;
    int64_t entries, before[3];
    char wanted[64];

    assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
    entries = rig_sparse_entries(r, &w, B);
    small = rig_sparse_output(r, 2 * B, 2 * entries - 1, V);
    assert_int_equal(pool_forward(r, &s, 0, &small), CSP_OK);
    memcpy(before, rig_host(r, &small.row_ptr), sizeof(before));
    assert_int_equal(pool_forward(r, &s, B, &small), CSP_ERR_MEMORY);
    snprintf(wanted, sizeof(wanted), "need %lld entries, there is room for %lld",
             (long long)(2 * entries), (long long)(2 * entries - 1));
    assert_non_null(strstr(csp_error_text(), wanted));
    assert_memory_equal(rig_host(r, &small.row_ptr), before, sizeof(before));
    assert_memory_equal(rig_sparse_dense(r, &small, B, NULL), rig_sparse_dense(r, &w, B, NULL),
                        sizeof(double) * (size_t)(B * V));
    rig_check_guards(r);
}

static void too_little_room_is_said_and_earlier_rows_stay(void **state)
{
    rig_each_storage(*state, too_little_room_is_said_and_earlier_rows_stay_in);
}

/*
 * Texts across tiles of rows and of terms on every backend, of which a device has two at a time; an
 * empty text among them.
 */
static void texts_cut_by_tiles_match_exactly_in(rig *r, csp_dtype S)
{
    enum { TEXTS = 4, WIDTH = 2 };
    const int64_t ROWS = S == CSP_BF16 ? 4150 : 2100, TERMS = 2101;
    const int64_t length[TEXTS] = { ROWS - 200, 0, 150, 50 };

    for (int pooling = CSP_POOL_MAX; pooling <= CSP_POOL_SUM; pooling++) {
        rig_begin(r, 6);
        const csp_tensor h = pool_whole_numbers(r, S, -2, 2, ROWS, WIDTH),
                         e = pool_whole_numbers(r, S, -1, 1, TERMS, WIDTH);
        const pool_setup s =
            pool_of_tensors(r, h, e, rig_lengths(r, TEXTS, length), pool_most_rows(r, ROWS),
                            pool_some_terms(r, TERMS, true), 0.5f, (csp_pool_kind)pooling);
        csp_sparse w = rig_sparse_output(r, TEXTS, TEXTS * TERMS, TERMS);
        double *want = rig_doubles(r, TEXTS * TERMS), *mag = rig_doubles(r, TEXTS * TERMS);
        int32_t *want_arg = rig_ints(r, TEXTS * TERMS);

        assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
        if (pooling == CSP_POOL_MAX) {
            ref_pool_max_fwd(&s.ref, want, want_arg, mag);
            assert_memory_equal(rig_sparse_argmax(r, &w, TEXTS), want_arg,
                                (size_t)(TEXTS * TERMS) * sizeof(int32_t));
        } else {
            ref_pool_sum_fwd(&s.ref, want, mag);
        }
        assert_true(
            worst_ratio_f64("w", rig_sparse_dense(r, &w, TEXTS, NULL), want, mag, TEXTS * TERMS,
                            (4 + (pooling == CSP_POOL_SUM ? length[0] : 0)) * UNIT_F32) <= 1.0);
        rig_check_guards(r);
    }
}

static void texts_cut_by_tiles_match_exactly(void **state)
{
    rig_each_storage(*state, texts_cut_by_tiles_match_exactly_in);
}

/*
 * More texts than one table holds, which are 8: of their terms few are active and there is just
 * room for the entries; or all are, and there is room for full rows.
 */
static void many_texts_of_a_large_vocabulary_match_in(rig *r, csp_dtype S)
{
    enum { TEXTS = 9, TERMS = POOL_AT_ONCE / 8, FEW = 256 };

    for (int full = 0; full <= 1; full++) {
        const int64_t every = full != 0 ? 1 : TERMS / FEW, entries = TEXTS * (TERMS / every);
        float h[TEXTS], *e;
        int64_t length[TEXTS];
        uint8_t keep[TEXTS];

        rig_begin(r, 0);
        e = (float *)(void *)rig_ints(r, TERMS);
        for (int64_t v = 0; v < TERMS; v++) {
            e[v] = v % every == 7 % every ? 1.0f : -1.0f;
        }
        for (int b = 0; b < TEXTS; b++) {
            h[b] = (float)(b + 1);
            length[b] = 1;
            keep[b] = 1;
        }
        csp_sparse w = rig_sparse_output(r, TEXTS, entries, TERMS);
        const csp_tensor wide_h = rig_input(r, CSP_F32, 2, (int64_t[]) { TEXTS, 1 }, h),
                         wide_e = rig_input(r, CSP_F32, 2, (int64_t[]) { TERMS, 1 }, e);
        const pool_setup s = pool_of_tensors(
            r, rig_stored(r, S, &wide_h), rig_stored(r, S, &wide_e), rig_lengths(r, TEXTS, length),
            rig_input(r, CSP_U8, 1, (int64_t[]) { TEXTS }, keep), csp_tensor_none(), 1.0f,
            CSP_POOL_MAX);

        assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
        assert_int_equal(rig_sparse_entries(r, &w, TEXTS), entries);
        const float *weight = rig_host(r, &w.weight);
        const int32_t *term = rig_host(r, &w.term), *argmax = rig_host(r, &w.argmax);
        for (int64_t i = 0; i < entries; i++) {
            const int64_t b = i / (TERMS / every);

            if (term[i] != i % (TERMS / every) * every + 7 % every || argmax[i] != 0 ||
                !(fabs((double)weight[i] - log1p((double)(b + 1))) <=
                  3.0 * UNIT_F32 * (double)weight[i])) {
                fail_msg("entry %lld: term %d, weight %g", (long long)i, (int)term[i],
                         (double)weight[i]);
            }
        }
        rig_check_guards(r);
    }
}

static void many_texts_of_a_large_vocabulary_match(void **state)
{
    rig_each_storage(*state, many_texts_of_a_large_vocabulary_match_in);
}

/*
 * NaN in a row that is kept and in one that is not, between larger logits and behind them, of a
 * term that is excluded and of ones that no row activates: a weight of NaN, at its first row, where
 * it counts; nothing where it does not. On a device that has one kernel for all by that, too.
 */
static void nan_is_stored_where_it_counts(rig *r, csp_dtype S, csp_pool_kind pooling, float nan)
{
    enum { ROWS = 6, TERMS = 4, WIDTH = 8 };
    const int64_t length[] = { 4, 2 };
    const uint8_t exclude[] = { 0, 1, 0, 0 }, keep[] = { 1, 1, 1, 1, 0, 1 };
    const float first_h[] = { 2.0f, nan, 3.0f, nan, nan, 1.0f }, first_e[] = { 1.0f, nan, -1.0f };
    float h[ROWS][WIDTH] = { 0 }, e[TERMS][WIDTH] = { 0 };

    for (int n = 0; n < ROWS; n++) {
        h[n][0] = first_h[n];
    }
    for (int v = 0; v < 3; v++) {
        e[v][0] = first_e[v];
    }
    rig_begin(r, 0);
    csp_sparse w = rig_sparse_output(r, 2, 2 * TERMS, TERMS);
    const csp_tensor rows = rig_input(r, CSP_F32, 2, (int64_t[]) { ROWS, WIDTH }, h),
                     terms = rig_input(r, CSP_F32, 2, (int64_t[]) { TERMS, WIDTH }, e);
    const pool_setup s = pool_of_tensors(
        r, rig_stored(r, S, &rows), rig_stored(r, S, &terms), rig_lengths(r, 2, length),
        rig_input(r, CSP_U8, 1, (int64_t[]) { ROWS }, keep),
        rig_input(r, CSP_U8, 1, (int64_t[]) { TERMS }, exclude), 0.5f, pooling);

    assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
    const int64_t *row_ptr = rig_host(r, &w.row_ptr);
    const int32_t *term = rig_host(r, &w.term), *argmax = rig_host(r, &w.argmax);
    const float *weight = rig_host(r, &w.weight);

    assert_true(row_ptr[1] == 3 && row_ptr[2] == 4);
    for (int j = 0; j < 3; j++) {
        assert_int_equal(term[j], j + (j > 0)); /* not term 1 */
        assert_true(isnan(weight[j]));
        assert_true(pooling == CSP_POOL_SUM || argmax[j] == 1);
    }
    assert_true(term[3] == 0 && fabs((double)weight[3] - log1p(0.5)) <= 4.0 * UNIT_F32);
    rig_check_guards(r);
}

static void a_nan_is_stored_unless_it_does_not_count_in(rig *r, csp_dtype S)
{
    for (int i = 0; i < 2; i++) {
        const float nan = i == 0 ? NAN : -NAN;

        nan_is_stored_where_it_counts(r, S, CSP_POOL_MAX, nan);
        nan_is_stored_where_it_counts(r, S, CSP_POOL_SUM, nan);
        if (S == CSP_BF16 &&
            csp_sparse_pool_choose_forward(r->be, CSP_POOL_FORWARD_FUSED) == CSP_OK) {
            nan_is_stored_where_it_counts(r, S, CSP_POOL_MAX, nan);
            assert_int_equal(csp_sparse_pool_choose_forward(r->be, CSP_POOL_FORWARD_AUTO), CSP_OK);
        }
    }
}

static void a_nan_is_stored_unless_it_does_not_count(void **state)
{
    rig_each_storage(*state, a_nan_is_stored_unless_it_does_not_count_in);
}

/* The number of threads changes no bit: every entry has one writer and one order of rows. */
static void the_number_of_threads_changes_no_bit_in(rig *r, csp_dtype S)
{
    csp_backend *other;

    for (int64_t i = 0; i < POOL_CASES; i++) {
        rig_begin(r, (uint64_t)i);
        const pool_setup s = pool_random(r, i, CSP_POOL_MAX, S);
        const int64_t B = s.ref.B, V = s.ref.V;
        csp_sparse w = rig_sparse_output(r, B, B * V, V), again = rig_sparse_output(r, B, B * V, V);

        assert_int_equal(csp_backend_create(r->be->name, 3, &other), CSP_OK);
        assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
        assert_int_equal(csp_backend_sync(r->be), CSP_OK); /* other does not wait for r->be */
        assert_int_equal(csp_sparse_pool_fwd(other, &s.head, &s.h, &s.texts, 0, &again), CSP_OK);
        assert_int_equal(csp_backend_sync(other), CSP_OK);
        rig_check_same(r, &w.row_ptr, &again.row_ptr);
        rig_check_same(r, &w.term, &again.term);
        rig_check_same(r, &w.weight, &again.weight);
        rig_check_same(r, &w.argmax, &again.argmax);
        csp_backend_destroy(other);
    }
}

static void the_number_of_threads_changes_no_bit(void **state)
{
    rig_each_storage(*state, the_number_of_threads_changes_no_bit_in);
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;

    rig_begin(r, 0);
    const pool_setup s = pool_random(r, 1, CSP_POOL_MAX, CSP_F32);
    const int64_t B = s.ref.B, V = s.ref.V;
    csp_sparse w = rig_sparse_output(r, B, B * V, V), bad;
    csp_pool_texts texts = s.texts;
    csp_head head = s.head;

    texts.keep = rig_mask(r, s.ref.N + 1);
    assert_int_equal(csp_sparse_pool_fwd(r->be, &s.head, &s.h, &texts, 0, &w), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "keep must be u8 (9), not u8 (10)"));
    texts = s.texts;
    texts.kept = s.ref.N + 1;
    assert_int_equal(csp_sparse_pool_fwd(r->be, &s.head, &s.h, &texts, 0, &w), CSP_ERR_ARGUMENT);
    assert_non_null(strstr(csp_error_text(), "of 9 rows 10 are said to be kept"));
    assert_int_equal(pool_forward(r, &s, 1, &w), CSP_ERR_SHAPE); /* row_ptr is too short */
    assert_int_equal(pool_forward(r, &s, -1, &w), CSP_ERR_ARGUMENT);
    bad = w;
    bad.vocab = V + 1;
    assert_int_equal(pool_forward(r, &s, 0, &bad), CSP_ERR_SHAPE);
    bad = w;
    bad.argmax = csp_tensor_none();
    assert_int_equal(pool_forward(r, &s, 0, &bad), CSP_ERR_SHAPE);
    bad.weight.dtype = CSP_BF16;
    assert_int_equal(pool_forward(r, &s, 0, &bad), CSP_ERR_SHAPE);
    head.scale = 0.0f;
    assert_int_equal(csp_sparse_pool_fwd(r->be, &head, &s.h, &s.texts, 0, &w), CSP_ERR_ARGUMENT);
    head.scale = NAN;
    assert_int_equal(csp_sparse_pool_fwd(r->be, &head, &s.h, &s.texts, 0, &w), CSP_ERR_ARGUMENT);
    if (r->be->bf16) { /* one call, one storage type */
        head = s.head;
        head.e = rig_stored(r, CSP_BF16, &s.head.e);
        assert_int_equal(csp_sparse_pool_fwd(r->be, &head, &s.h, &s.texts, 0, &w), CSP_ERR_SHAPE);
        assert_non_null(strstr(csp_error_text(), "h must be bf16 (9,5), not f32 (9,5)"));
    }
    rig_check_untouched(r, &w.row_ptr);
    rig_check_untouched(r, &w.term);
    rig_check_untouched(r, &w.weight);
    rig_check_untouched(r, &w.argmax);
}

/* Every allocation of a fresh backend fails once; the next call succeeds. */
static void failing_memory_is_reported_in(rig *r, csp_dtype S)
{
    csp_status status = CSP_ERR_MEMORY;

    rig_begin(r, 2);
    const pool_setup s = pool_random(r, 2, CSP_POOL_MAX, S);
    csp_sparse w = rig_sparse_output(r, s.ref.B, s.ref.B * s.ref.V, s.ref.V);
    assert_int_equal(csp_backend_sync(r->be), CSP_OK);
    for (long n = 1; status != CSP_OK; n++) {
        csp_backend *fresh;

        assert_int_equal(csp_backend_create(r->be->name, 2, &fresh), CSP_OK);
        csp_fault_arm(n);
        status = csp_sparse_pool_fwd(fresh, &s.head, &s.h, &s.texts, 0, &w);
        csp_fault_arm(0);
        if (status != CSP_OK) {
            /* Of entries only those of earlier rows are promised: a table may lie behind. */
            assert_int_equal(status, CSP_ERR_MEMORY);
            assert_int_equal(csp_backend_sync(fresh), CSP_OK);
            rig_check_untouched(r, &w.row_ptr);
        }
        assert_true(n < 100);
        csp_backend_destroy(fresh);
    }
}

static void failing_memory_is_reported(void **state)
{
    rig_each_storage(*state, failing_memory_is_reported_in);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_match_the_reference),
        cmocka_unit_test(positions_are_those_of_the_first_maximum),
        cmocka_unit_test(the_longest_text_of_bf16_is_pooled_to_its_end),
        cmocka_unit_test(bf16_is_refused_in_words_where_there_is_none),
        cmocka_unit_test(tiny_and_huge_logits_keep_their_digits),
        cmocka_unit_test(a_text_without_kept_rows_is_an_empty_row),
        cmocka_unit_test(a_nan_is_stored_unless_it_does_not_count),
        cmocka_unit_test(rows_are_appended),
        cmocka_unit_test(too_little_room_is_said_and_earlier_rows_stay),
        cmocka_unit_test(texts_cut_by_tiles_match_exactly),
        cmocka_unit_test(many_texts_of_a_large_vocabulary_match),
        cmocka_unit_test(the_number_of_threads_changes_no_bit),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
        cmocka_unit_test(failing_memory_is_reported),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
