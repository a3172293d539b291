/* test_impacts.c - ops/impacts.h: the backend against the reference, exactly. */
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
#include "ops/impacts.h"
#include "ref/impacts.h"
#include "support/sparse.h"

/* What the thread sanitizer has time for: some of the combinations, shorter rows. */
#if defined(__SANITIZE_THREAD__)
enum { STEP = 8, LONG = 1100 };
#else
enum { STEP = 1, LONG = 5000 };
#endif

/* What weights are drawn from. */
typedef enum weights {
    USUAL,   /* 0.001 .. 4: some impacts are dropped, all are small     */
    HALVES,  /* multiples of 1/128: scaled by 64 whole numbers and halves */
    NEAR,    /* whole numbers over 100 and their float neighbours       */
    BYTES,   /* about the largest impact of a byte                      */
    PAIRS,   /* about the largest impact of two bytes                   */
    EXTREME, /* the smallest, about the limit, beyond it, infinity      */
    NOTHING, /* all are dropped but by ceil                             */
    KINDS
} weights;

static float draw_weight(csp_rng rng, uint64_t at, weights kind, double scale)
{
    const float extreme[] = { FLT_TRUE_MIN,
                              (float)(CSP_IMPACT_MOST / scale),
                              (float)((CSP_IMPACT_MOST + 4.0) / scale),
                              1e30f,
                              FLT_MAX,
                              INFINITY };
    const float u = csp_rng_uniform(rng, at);
    const int whole = (int)csp_rng_below(rng, at + 1, 400) + 1;

    switch (kind) {
    case USUAL:
        return 0.001f + 4.0f * u * u * u;
    case HALVES:
        return (float)whole / 128.0f;
    case NEAR:
        return nextafterf((float)whole / 100.0f, u < 0.5f ? 0.0f : 9.0f);
    case BYTES:
        return (float)((200.0 + (double)(whole % 56)) / scale);
    case PAIRS:
        return (float)((65500.0 + (double)(whole % 36)) / scale);
    case EXTREME:
        return extreme[csp_rng_below(rng, at, sizeof(extreme) / sizeof(extreme[0]))];
    default:
        return (float)((0.01 + 0.4 * (double)u) / scale);
    }
}

/* Each term is stored with probability density; the first row is empty where there are several. */
static csp_sparse draw_rows(rig *r, int64_t rows, int64_t V, double density, weights kind,
                            double scale)
{
    const csp_rng rng = { .seed = r->seed, .draw = CSP_DRAW_TEST, .key = r->drawn++ };
    int64_t *row_ptr = (int64_t *)(void *)rig_doubles(r, rows + 1);
    int32_t *term = rig_ints(r, rows * V + 3);
    float *weight = (float *)(void *)rig_ints(r, rows * V + 3);
    int64_t n = 0;
    csp_sparse w;

    for (int64_t row = 0; row < rows; row++) {
        row_ptr[row] = n;
        for (int64_t v = 0; v < V; v++) {
            const uint64_t at = (uint64_t)(row * V + v) * 4;

            if ((row > 0 || rows == 1) && (double)csp_rng_uniform(rng, at) < density) {
                term[n] = (int32_t)v;
                weight[n++] = draw_weight(rng, at + 1, kind, scale);
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

static csp_impact_rows room_for(rig *r, const csp_sparse *w, int64_t rows)
{
    const int64_t starts = rows + 1, cap = w->term.dim[0], bytes = 4 * cap;
    const int64_t counts = CSP_IMPACTS_COUNTS;

    return (csp_impact_rows) { rig_output(r, CSP_I64, 1, &starts), rig_output(r, CSP_I32, 1, &cap),
                               rig_output(r, CSP_U8, 1, &bytes),
                               rig_output(r, CSP_I64, 1, &counts) };
}

/* The impact of entry i as a host reads it: infinity for the mark. */
static double impact_at(const uint8_t *impact, int64_t i, int32_t bytes)
{
    uint32_t value = 0;

    for (int32_t b = bytes - 1; b >= 0; b--) {
        value = value << 8 | impact[i * bytes + b];
    }
    return value == CSP_IMPACT_INFINITE ? INFINITY : (double)value;
}

/* Dense form of out; terms ascend, and nothing is stored that is 0. */
static double *dense_of(rig *r, const csp_impact_rows *out, int64_t rows, int64_t V, int32_t bytes)
{
    const int64_t *row_ptr = rig_host(r, &out->row_ptr);
    const int32_t *term = rig_host(r, &out->term);
    const uint8_t *impact = rig_host(r, &out->impact);
    double *dense = rig_doubles(r, rows * V);

    assert_int_equal(row_ptr[0], 0);
    for (int64_t row = 0; row < rows; row++) {
        assert_true(row_ptr[row + 1] >= row_ptr[row]);
        for (int64_t i = row_ptr[row]; i < row_ptr[row + 1]; i++) {
            assert_in_range(term[i], i > row_ptr[row] ? term[i - 1] + 1 : 0, V - 1);
            dense[row * V + term[i]] = impact_at(impact, i, bytes);
            assert_true(dense[row * V + term[i]] > 0.0);
        }
    }
    return dense;
}

static void check(rig *r, int64_t rows, int64_t V, double density, weights kind, csp_quant quant)
{
    ref_impact_counts counts;

    rig_begin(r, (uint64_t)(rows * 1000 + V + kind));
    const csp_sparse w = draw_rows(r, rows, V, density, kind, quant.scale);
    csp_impact_rows out = room_for(r, &w, rows);
    double *want = rig_doubles(r, rows * V);
    const int64_t *got;
    int32_t bytes;

    ref_impacts(rig_sparse_dense(r, &w, rows, NULL), rows, V, quant.kind == CSP_QUANT_CEIL,
                quant.scale, CSP_IMPACT_MOST, want, &counts);
    assert_int_equal(csp_impacts(r->be, &w, rows, &quant, &out), CSP_OK);
    got = rig_host(r, &out.count);
    assert_int_equal(got[CSP_IMPACTS_DROPPED], counts.dropped);
    assert_int_equal(got[CSP_IMPACTS_CLIPPED], counts.clipped);
    assert_true((double)got[CSP_IMPACTS_LARGEST] == fmin(counts.largest, INT32_MAX));
    bytes = counts.largest < 256.0 ? 1 : counts.largest < 65536.0 ? 2 : 4;
    assert_int_equal(csp_impact_bytes(got[CSP_IMPACTS_LARGEST]), bytes);
    assert_memory_equal(dense_of(r, &out, rows, V, bytes), want,
                        (size_t)(rows * V) * sizeof(double));
    rig_check_guards(r);
}

/* One entry; rows that no warp and no block divides; one beside a block of 1,024 threads and its
 * 32 slices; more rows than a warp has lanes. */
static void impacts_are_those_of_the_reference(void **state)
{
    static const struct {
        int64_t rows, V;
        double density;
    } shapes[] = { { 1, 1, 1.0 },    { 3, 33, 0.7 },   { 35, 40, 0.5 },  { 2, 257, 0.9 },
                   { 2, 1023, 1.0 }, { 2, 1025, 1.0 }, { 3, 2100, 0.6 }, { 70, 3, 0.9 } };
    static const csp_quant quants[] = { { CSP_QUANT_ROUND, 100.0 }, { CSP_QUANT_CEIL, 100.0 },
                                        { CSP_QUANT_ROUND, 64.0 },  { CSP_QUANT_CEIL, 37.3 },
                                        { CSP_QUANT_ROUND, 1e6 },   { CSP_QUANT_ROUND, 0.013 } };
    const int64_t quant_count = sizeof(quants) / sizeof(quants[0]);

    /* Each kind with each quant in some shape. */
    for (int64_t c = 0; c < KINDS * quant_count; c += STEP) {
        const int64_t shape = c / STEP % (int64_t)(sizeof(shapes) / sizeof(shapes[0]));

        check(*state, shapes[shape].rows, shapes[shape].V, shapes[shape].density,
              (weights)(c % KINDS), quants[c / KINDS]);
    }
}

/* Rows of whole numbers whose largest is just what a width holds, and one more. */
static void the_largest_impact_sets_the_width(void **state)
{
    static const struct {
        float weight;
        int32_t bytes;
    } cases[] = { { 255.0f, 1 },   { 256.0f, 2 }, { 65535.0f, 2 },
                  { 65536.0f, 4 }, { 0.25f, 1 },  { 16777216.0f, 4 } };
    const csp_quant quant = { CSP_QUANT_ROUND, 1.0 };
    rig *r = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const float weight[] = { 1.0f, cases[i].weight, 2.0f };

        rig_begin(r, i);
        const csp_sparse w = { rig_input(r, CSP_I64, 1, (int64_t[]) { 3 }, (int64_t[]) { 0, 2, 3 }),
                               rig_input(r, CSP_I32, 1, (int64_t[]) { 3 }, (int32_t[]) { 4, 6, 1 }),
                               rig_input(r, CSP_F32, 1, (int64_t[]) { 3 }, weight),
                               csp_tensor_none(),
                               7,
                               0.0 };
        csp_impact_rows out = room_for(r, &w, 2);
        const double *dense;

        assert_int_equal(csp_impacts(r->be, &w, 2, &quant, &out), CSP_OK);
        dense = dense_of(r, &out, 2, 7, cases[i].bytes);
        assert_true(dense[4] == 1.0 && dense[7 + 1] == 2.0);
        assert_true(dense[6] == roundf(cases[i].weight));
        rig_check_guards(r);
    }
}

/* It has the mark of what is not finite, and is not counted as clipped. */
static void a_nan_does_not_become_a_number(void **state)
{
    const csp_quant quant = { CSP_QUANT_ROUND, 100.0 };
    const float weight[] = { 1.0f, NAN, -NAN };
    rig *r = *state;

    rig_begin(r, 4);
    const csp_sparse w = { rig_input(r, CSP_I64, 1, (int64_t[]) { 2 }, (int64_t[]) { 0, 3 }),
                           rig_input(r, CSP_I32, 1, (int64_t[]) { 3 }, (int32_t[]) { 0, 1, 2 }),
                           rig_input(r, CSP_F32, 1, (int64_t[]) { 3 }, weight),
                           csp_tensor_none(),
                           3,
                           0.0 };
    csp_impact_rows out = room_for(r, &w, 1);
    const double *dense;

    assert_int_equal(csp_impacts(r->be, &w, 1, &quant, &out), CSP_OK);
    dense = dense_of(r, &out, 1, 3, 4);
    assert_true(dense[0] == 100.0 && isinf(dense[1]) && isinf(dense[2]));
    assert_int_equal(((const int64_t *)rig_host(r, &out.count))[CSP_IMPACTS_CLIPPED], 0);
    rig_check_guards(r);
}

static void a_second_call_and_other_threads_change_no_bit(void **state)
{
    const csp_quant quant = { CSP_QUANT_ROUND, 100.0 };
    rig *r = *state;
    csp_backend *other;

    rig_begin(r, 2);
    const csp_sparse w = draw_rows(r, 4, LONG, 0.9, USUAL, 100.0);
    csp_impact_rows out = room_for(r, &w, 4), again = room_for(r, &w, 4);

    assert_int_equal(csp_backend_create(r->be->name, 3, &other), CSP_OK);
    assert_int_equal(csp_backend_sync(r->be), CSP_OK); /* other does not wait for r->be */
    assert_int_equal(csp_impacts(r->be, &w, 4, &quant, &out), CSP_OK);
    assert_int_equal(csp_impacts(other, &w, 4, &quant, &again), CSP_OK);
    assert_int_equal(csp_backend_sync(other), CSP_OK);
    rig_check_same(r, &out.row_ptr, &again.row_ptr);
    rig_check_same(r, &out.term, &again.term);
    rig_check_same(r, &out.impact, &again.impact);
    rig_check_same(r, &out.count, &again.count);
    csp_backend_destroy(other);
}

static void no_rows_and_empty_rows_are_fine(void **state)
{
    const csp_quant quant = { CSP_QUANT_CEIL, 100.0 };
    rig *r = *state;

    rig_begin(r, 3);
    const csp_sparse w = draw_rows(r, 4, 40, 0.0, USUAL, 100.0);

    for (int64_t rows = 0; rows <= 4; rows += 4) {
        csp_impact_rows out = room_for(r, &w, 4);
        const int64_t *row_ptr, *count;

        assert_int_equal(csp_impacts(r->be, &w, rows, &quant, &out), CSP_OK);
        row_ptr = rig_host(r, &out.row_ptr);
        count = rig_host(r, &out.count);
        for (int64_t i = 0; i <= 4; i++) {
            assert_int_equal(row_ptr[i], i <= rows ? 0 : -1);
        }
        for (int i = 0; i < CSP_IMPACTS_COUNTS; i++) {
            assert_int_equal(count[i], 0);
        }
        rig_check_untouched(r, &out.term);
        rig_check_untouched(r, &out.impact);
    }
    rig_check_guards(r);
}

static void wrong_arguments_are_refused_and_outputs_left_alone(void **state)
{
    const csp_quant good = { CSP_QUANT_ROUND, 100.0 };
    const csp_quant wrong[] = { { CSP_QUANT_NONE, 1.0 },  { CSP_QUANT_U8_MAX, 85.0 },
                                { CSP_QUANT_ROUND, 0.0 }, { CSP_QUANT_CEIL, -1.0 },
                                { CSP_QUANT_ROUND, NAN }, { CSP_QUANT_ROUND, INFINITY } };
    rig *r = *state;

    rig_begin(r, 4);
    const csp_sparse w = draw_rows(r, 3, 50, 0.8, USUAL, 100.0);
    const int64_t cap = w.term.dim[0];
    csp_impact_rows out = room_for(r, &w, 3), bad = out;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(csp_impacts(r->be, &w, 3, &wrong[i], &out), CSP_ERR_ARGUMENT);
    }
    assert_int_equal(csp_impacts(r->be, &w, 4, &good, &out), CSP_ERR_SHAPE);
    assert_int_equal(csp_impacts(r->be, &w, -1, &good, &out), CSP_ERR_SHAPE);
    bad.row_ptr = rig_output(r, CSP_I64, 1, (int64_t[]) { 3 });
    assert_int_equal(csp_impacts(r->be, &w, 3, &good, &bad), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "impacts: out has room for 2 rows and"));
    bad = out;
    bad.term = rig_output(r, CSP_I32, 1, (int64_t[]) { cap - 1 });
    assert_int_equal(csp_impacts(r->be, &w, 3, &good, &bad), CSP_ERR_SHAPE);
    bad = out;
    bad.impact = rig_output(r, CSP_U8, 1, (int64_t[]) { cap });
    assert_int_equal(csp_impacts(r->be, &w, 3, &good, &bad), CSP_ERR_SHAPE);
    bad = out;
    bad.count = rig_output(r, CSP_I64, 1, (int64_t[]) { 2 });
    assert_int_equal(csp_impacts(r->be, &w, 3, &good, &bad), CSP_ERR_SHAPE);
    bad = out;
    bad.term = w.term;
    assert_int_equal(csp_impacts(r->be, &w, 3, &good, &bad), CSP_ERR_ARGUMENT);
    rig_check_untouched(r, &out.row_ptr);
    rig_check_untouched(r, &out.term);
    rig_check_untouched(r, &out.impact);
    rig_check_untouched(r, &out.count);
    rig_check_guards(r);
}

/* A backend that has worked needs no memory; a fresh one may, and says so. */
static void failing_memory_is_reported(void **state)
{
    const csp_quant quant = { CSP_QUANT_ROUND, 100.0 };
    rig *r = *state;
    csp_backend *fresh;
    csp_status status;

    rig_begin(r, 5);
    const csp_sparse w = draw_rows(r, 3, 500, 0.9, USUAL, 100.0);
    csp_impact_rows out = room_for(r, &w, 3);

    assert_int_equal(csp_backend_sync(r->be), CSP_OK);
    assert_int_equal(csp_backend_create(r->be->name, 2, &fresh), CSP_OK);
    csp_fault_arm(1);
    status = csp_impacts(fresh, &w, 3, &quant, &out);
    csp_fault_arm(0);
    if (status != CSP_OK) {
        assert_int_equal(status, CSP_ERR_MEMORY);
        rig_check_untouched(r, &out.row_ptr);
        rig_check_untouched(r, &out.term);
    }
    assert_int_equal(csp_impacts(fresh, &w, 3, &quant, &out), CSP_OK);
    csp_fault_arm(1);
    assert_int_equal(csp_impacts(fresh, &w, 3, &quant, &out), CSP_OK);
    assert_int_equal(csp_fault_asked(), 0);
    csp_fault_arm(0);
    assert_int_equal(csp_backend_sync(fresh), CSP_OK);
    csp_backend_destroy(fresh);
    rig_check_guards(r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(impacts_are_those_of_the_reference),
        cmocka_unit_test(the_largest_impact_sets_the_width),
        cmocka_unit_test(a_nan_does_not_become_a_number),
        cmocka_unit_test(a_second_call_and_other_threads_change_no_bit),
        cmocka_unit_test(no_rows_and_empty_rows_are_fine),
        cmocka_unit_test(wrong_arguments_are_refused_and_outputs_left_alone),
        cmocka_unit_test(failing_memory_is_reported),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
