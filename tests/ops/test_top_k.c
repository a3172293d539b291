/* test_top_k.c - ops/top_k.h: the backend against the reference, exactly. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "core/rng.h"
#include "ops/top_k.h"
#include "ref/top_k.h"
#include "support/sparse.h"

/*
 * What the thread sanitizer has time for, a microsecond and more for each thread of a block at each
 * barrier and vote: of the combinations some, and a vocabulary of some terms for each thread.
 */
#if defined(__SANITIZE_THREAD__)
enum { CHECKS = 2, WHOLE = 9001 };
#else
enum { CHECKS = 10, WHOLE = 152003 };
#endif

/* What weights are drawn from. */
typedef enum weights {
    SPREAD,  /* numbers of all sizes, subnormal ones too: every digit of the bits decides */
    CLOSE,   /* apart in the last bits only                                               */
    TIED,    /* three values                                                              */
    EQUAL,   /* one value                                                                 */
    EXTREME, /* the smallest, the largest, and infinity                                   */
    KINDS
} weights;

static float draw_weight(csp_rng rng, uint64_t at, weights kind)
{
    static const float extreme[] = { FLT_TRUE_MIN, 3e-42f, FLT_MIN, 1.0f, FLT_MAX, INFINITY };
    const float u = csp_rng_uniform(rng, at);

    switch (kind) {
    case SPREAD:
        return ldexpf(1.0f + u, (int)csp_rng_below(rng, at + 1, 270) - 145);
    case CLOSE:
        return 1.0f + (float)csp_rng_below(rng, at, 2000) * FLT_EPSILON;
    case TIED:
        return 0.5f + (float)csp_rng_below(rng, at, 3);
    case EQUAL:
        return 0.75f;
    default:
        return extreme[csp_rng_below(rng, at, sizeof(extreme) / sizeof(extreme[0]))];
    }
}

/* Each term is stored with probability density; the first row is empty where there are several. */
static csp_sparse draw_rows(rig *r, int64_t rows, int64_t V, double density, weights kind)
{
    const csp_rng rng = { .seed = r->seed, .draw = CSP_DRAW_TEST, .key = r->drawn++ };
    const int64_t capacity = rows * V + 3;
    int64_t *row_ptr = (int64_t *)(void *)rig_doubles(r, rows + 1);
    int32_t *term = rig_ints(r, capacity);
    float *weight = (float *)(void *)rig_ints(r, capacity);
    int64_t n = 0;
    csp_sparse w;

    for (int64_t row = 0; row < rows; row++) {
        row_ptr[row] = n;
        for (int64_t v = 0; v < V; v++) {
            const uint64_t at = (uint64_t)(row * V + v) * 4;

            if ((row > 0 || rows == 1) && (double)csp_rng_uniform(rng, at) < density) {
                term[n] = (int32_t)v;
                weight[n++] = draw_weight(rng, at + 1, kind);
            }
        }
    }
    row_ptr[rows] = n;
    w.row_ptr = rig_input(r, CSP_I64, 1, (int64_t[]) { rows + 1 }, row_ptr);
    w.term = rig_input(r, CSP_I32, 1, (int64_t[]) { n + 3 }, term);
    w.weight = rig_input(r, CSP_F32, 1, (int64_t[]) { n + 3 }, weight);
    w.argmax = csp_tensor_none();
    w.vocab = V;
    w.active = 0.0;
    return w;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Room for just what k may keep. */
static csp_sparse room_for(rig *r, int64_t rows, int64_t V, int64_t k)
{
    return rig_sparse_output(r, rows, rows * least(k, V), V);
}

static void check(rig *r, int64_t rows, int64_t V, double density, weights kind, int64_t k)
{
    rig_begin(r, (uint64_t)(rows * 1000 + V + kind));
    const csp_sparse w = draw_rows(r, rows, V, density, kind);
    csp_sparse out = room_for(r, rows, V, k);
    double *want = rig_doubles(r, rows * V);

    ref_top_k(rig_sparse_dense(r, &w, rows, NULL), rows, V, k, want);
    assert_int_equal(csp_top_k(r->be, &w, rows, k, &out), CSP_OK);
    assert_memory_equal(rig_sparse_dense(r, &out, rows, NULL), want,
                        (size_t)(rows * V) * sizeof(double));
    rig_check_untouched(r, &out.argmax);
    rig_check_guards(r);
}

/* One entry; rows that no warp and no block divides; one beside a block of 1,024 threads and its
 * 32 slices; k of 1, beside the row's length and beyond it. */
static void the_largest_are_kept_and_of_equals_the_lowest_terms(void **state)
{
    static const struct {
        int64_t rows, V;
        double density;
    } shapes[] = { { 1, 1, 1.0 },    { 3, 33, 0.7 },   { 1, 64, 1.0 },   { 2, 257, 0.9 },
                   { 2, 1023, 1.0 }, { 2, 1024, 1.0 }, { 2, 1025, 1.0 }, { 3, 2100, 0.6 } };

    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        const int64_t V = shapes[i].V, ks[] = { V - 1, V / 2, 1, V / 3, V, 2, V + 7 };

        /* Each kind with two of the ks, each k with some kind. */
        for (int c = 0; c < CHECKS; c++) {
            const int j = c + CHECKS * (int)i;
            const int64_t k = ks[j % 7] > 0 ? ks[j % 7] : 1;

            check(*state, shapes[i].rows, V, shapes[i].density, (weights)(j % KINDS), k);
        }
    }
}

/*
 * A real vocabulary, all of it stored: weight (7919 v mod V) + 1, V no multiple of 7919, so that
 * each whole number from 1 to V is there once; the last row has (7919 v mod V) / 2 + 1: pairs.
 */
static void rows_of_a_whole_vocabulary_match(void **state)
{
    rig *r = *state;
    enum { ROWS = 2, V = WHOLE, K = 512 };
    int64_t row_ptr[ROWS + 1];
    int32_t *term;
    float *weight;

    rig_begin(r, 1);
    term = rig_ints(r, ROWS * V);
    weight = (float *)(void *)rig_ints(r, ROWS * V);
    for (int64_t i = 0; i < ROWS * V; i++) {
        const int64_t number = 7919 * (i % V) % V;

        term[i] = (int32_t)(i % V);
        weight[i] = (float)(i < V ? number + 1 : number / 2 + 1);
    }
    for (int64_t b = 0; b <= ROWS; b++) {
        row_ptr[b] = b * V;
    }
    const csp_sparse w = { rig_input(r, CSP_I64, 1, (int64_t[]) { ROWS + 1 }, row_ptr),
                           rig_input(r, CSP_I32, 1, (int64_t[]) { ROWS * V }, term),
                           rig_input(r, CSP_F32, 1, (int64_t[]) { ROWS * V }, weight),
                           csp_tensor_none(),
                           V,
                           0.0 };
    csp_sparse out = room_for(r, ROWS, V, K);

    assert_int_equal(csp_top_k(r->be, &w, ROWS, K, &out), CSP_OK);
    assert_int_equal(rig_sparse_entries(r, &out, ROWS), ROWS * K);
    const int32_t *got = rig_host(r, &out.term);
    const float *value = rig_host(r, &out.weight);
    for (int64_t i = 0; i < ROWS * K; i++) {
        const int64_t number = 7919 * (int64_t)got[i] % V;

        /* V is odd: of the pairs the largest number is alone, and one of the last pair is left. */
        assert_true(number >= V - K - (i >= K));
        assert_true(value[i] == (float)(i < K ? number + 1 : number / 2 + 1));
    }
    rig_check_guards(r);
}

/* Above infinity, whatever its sign: who reads what is left sees it. */
static void a_nan_is_always_kept(void **state)
{
    const int32_t terms[] = { 0, 1, 2, 3, 4 }, want[] = { 0, 4 };
    const float weight[] = { NAN, INFINITY, 7.0f, 9.0f, -NAN };
    rig *r = *state;

    rig_begin(r, 4);
    const csp_sparse w = { rig_input(r, CSP_I64, 1, (int64_t[]) { 2 }, (int64_t[]) { 0, 5 }),
                           rig_input(r, CSP_I32, 1, (int64_t[]) { 5 }, terms),
                           rig_input(r, CSP_F32, 1, (int64_t[]) { 5 }, weight),
                           csp_tensor_none(),
                           5,
                           0.0 };
    csp_sparse out = room_for(r, 1, 5, 2);

    assert_int_equal(csp_top_k(r->be, &w, 1, 2, &out), CSP_OK);
    assert_memory_equal(rig_host(r, &out.term), want, sizeof(want));
    rig_check_guards(r);
}

static void a_second_call_and_other_threads_change_no_bit(void **state)
{
    rig *r = *state;
    csp_backend *other;

    rig_begin(r, 2);
    const csp_sparse w = draw_rows(r, 4, 5000, 0.9, TIED);
    csp_sparse out = room_for(r, 4, 5000, 100), again = room_for(r, 4, 5000, 100);

    assert_int_equal(csp_backend_create(r->be->name, 3, &other), CSP_OK);
    assert_int_equal(csp_backend_sync(r->be), CSP_OK); /* other does not wait for r->be */
    assert_int_equal(csp_top_k(r->be, &w, 4, 100, &out), CSP_OK);
    assert_int_equal(csp_top_k(other, &w, 4, 100, &again), CSP_OK);
    assert_int_equal(csp_backend_sync(other), CSP_OK);
    rig_check_same(r, &out.row_ptr, &again.row_ptr);
    rig_check_same(r, &out.term, &again.term);
    rig_check_same(r, &out.weight, &again.weight);
    csp_backend_destroy(other);
}

static void no_rows_and_empty_rows_are_fine(void **state)
{
    rig *r = *state;

    rig_begin(r, 3);
    const csp_sparse w = draw_rows(r, 4, 40, 0.0, SPREAD);
    csp_sparse out = room_for(r, 4, 40, 3);
    const int64_t *row_ptr;

    assert_int_equal(csp_top_k(r->be, &w, 0, 3, &out), CSP_OK);
    row_ptr = rig_host(r, &out.row_ptr);
    assert_int_equal(row_ptr[0], 0);
    assert_int_equal(row_ptr[1], -1);
    assert_int_equal(csp_top_k(r->be, &w, 4, 3, &out), CSP_OK);
    assert_int_equal(rig_sparse_entries(r, &out, 4), 0);
    rig_check_untouched(r, &out.term);
    rig_check_guards(r);
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;

    rig_begin(r, 4);
    const csp_sparse w = draw_rows(r, 3, 50, 0.8, SPREAD);
    csp_sparse out = room_for(r, 3, 50, 5), bad = out;

    assert_int_equal(csp_top_k(r->be, &w, 3, 0, &out), CSP_ERR_ARGUMENT);
    assert_string_equal(csp_error_text(), "top_k: k 0 is below 1");
    assert_int_equal(csp_top_k(r->be, &w, 4, 5, &out), CSP_ERR_SHAPE);
    assert_int_equal(csp_top_k(r->be, &w, -1, 5, &out), CSP_ERR_SHAPE);
    assert_int_equal(csp_top_k(r->be, &w, 3, 6, &out), CSP_ERR_SHAPE);
    assert_string_equal(csp_error_text(),
                        "top_k: out has room for 15 entries, 3 rows of 6 need 18");
    assert_int_equal(csp_top_k(r->be, &w, 3, INT64_MAX, &out), CSP_ERR_SHAPE);
    bad.vocab = 51;
    assert_int_equal(csp_top_k(r->be, &w, 3, 5, &bad), CSP_ERR_SHAPE);
    bad = out;
    bad.weight = rig_output(r, CSP_F32, 1, (int64_t[]) { 14 });
    assert_int_equal(csp_top_k(r->be, &w, 3, 5, &bad), CSP_ERR_SHAPE);
    bad = out;
    bad.row_ptr = rig_output(r, CSP_I64, 1, (int64_t[]) { 3 });
    assert_int_equal(csp_top_k(r->be, &w, 3, 5, &bad), CSP_ERR_SHAPE);
    bad = out;
    bad.row_ptr = w.row_ptr;
    assert_int_equal(csp_top_k(r->be, &w, 3, 5, &bad), CSP_ERR_ARGUMENT);
    rig_check_untouched(r, &out.row_ptr);
    rig_check_untouched(r, &out.term);
    rig_check_untouched(r, &out.weight);
    rig_check_guards(r);
}

/* A backend that has worked needs no memory; a fresh one may, and says so. */
static void failing_memory_is_reported(void **state)
{
    rig *r = *state;
    csp_backend *fresh;
    csp_status status;

    rig_begin(r, 5);
    const csp_sparse w = draw_rows(r, 3, 500, 0.9, SPREAD);
    csp_sparse out = room_for(r, 3, 500, 5);

    assert_int_equal(csp_backend_sync(r->be), CSP_OK);
    assert_int_equal(csp_backend_create(r->be->name, 2, &fresh), CSP_OK);
    csp_fault_arm(1);
    status = csp_top_k(fresh, &w, 3, 5, &out);
    csp_fault_arm(0);
    if (status != CSP_OK) {
        assert_int_equal(status, CSP_ERR_MEMORY);
        rig_check_untouched(r, &out.row_ptr);
        rig_check_untouched(r, &out.term);
    }
    assert_int_equal(csp_top_k(fresh, &w, 3, 5, &out), CSP_OK);
    csp_fault_arm(1);
    assert_int_equal(csp_top_k(fresh, &w, 3, 5, &out), CSP_OK);
    assert_int_equal(csp_fault_asked(), 0);
    csp_fault_arm(0);
    assert_int_equal(csp_backend_sync(fresh), CSP_OK);
    csp_backend_destroy(fresh);
    rig_check_guards(r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_are_kept_and_of_equals_the_lowest_terms),
        cmocka_unit_test(rows_of_a_whole_vocabulary_match),
        cmocka_unit_test(a_nan_is_always_kept),
        cmocka_unit_test(a_second_call_and_other_threads_change_no_bit),
        cmocka_unit_test(no_rows_and_empty_rows_are_fine),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
        cmocka_unit_test(failing_memory_is_reported),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
