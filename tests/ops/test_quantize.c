/* test_quantize.c - ops/quantize.h: e4m3 patterns and scales of a backend against the reference. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/scalar.h"
#include "ops/quantize.h"
#include "ref/quantize.h"
#include "support/compare.h"
#include "support/rig.h"

/* One element, pieces of 16 and what is no piece, more than a warp's and than a block's row. */
static const int64_t shapes[][2] = { { 1, 1 },  { 3, 5 },    { 2, 15 },   { 7, 16 },  { 9, 17 },
                                     { 5, 48 }, { 3, 1040 }, { 2, 4112 }, { 2, 4099 } };
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

/*
 * Scales: the roundings of t and of the division. Elements: half a step of e4m3 where t / scale is,
 * and of f32 the roundings of t, of the scale, of its reciprocal and of the product.
 */
static void check_rows(const uint8_t *q, const float *scale, const double *t, const double *want,
                       int64_t N, int64_t K)
{
    for (int64_t n = 0; n < N; n++) {
        assert_true(fabs((double)scale[n] - want[n]) <= 2.0 * UNIT_F32 * want[n]);
        for (int64_t k = 0; k < K; k++) {
            const double exact = t[n * K + k] / (double)scale[n], slack = 4.0 * UNIT_F32;
            const double half = ref_e4m3_half_step(exact * (1.0 + slack));
            const double got = ref_e4m3_value(q[n * K + k]);

            if (!(fabs(got - exact) <= half + slack * fabs(exact))) {
                fail_msg("(%lld,%lld): %a became %a", (long long)n, (long long)k, exact, got);
            }
        }
    }
}

static void rows_match(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < 2 * SHAPES; i++) {
        const int64_t *dims = shapes[i / 2], N = dims[0], K = dims[1];

        rig_begin(r, (uint64_t)i);
        csp_tensor x = rig_normal(r, S, 2, dims), none = csp_tensor_none();
        csp_tensor c = i % 2 != 0 ? rig_uniform(r, 1e-6, 2e-3, 1, &K) : none;
        csp_tensor q = rig_output(r, CSP_E4M3, 2, dims), scale = rig_output(r, CSP_F32, 1, &N);
        double *t = rig_doubles(r, N * K), *want = rig_doubles(r, N);

        ref_quantize_rows(rig_as_doubles(r, &x), i % 2 != 0 ? rig_as_doubles(r, &c) : NULL, N, K, t,
                          want);
        assert_int_equal(csp_quantize_rows(r->be, &x, &c, &q, &scale), CSP_OK);
        check_rows(rig_host(r, &q), rig_host(r, &scale), t, want, N, K);
        rig_check_guards(r);
    }
}

static void patterns_and_scales_match_the_reference(void **state)
{
    rig_each_storage(*state, rows_match);
}

/* From subnormal rows to the largest numbers, and rows of zeros. */
static void rows_of_all_sizes(rig *r, csp_dtype S)
{
    enum { N = 8, K = 32 };
    const float size[N] = { 0.0f, 1e-45f, 1e-40f, 1e-37f, 0x1p-126f, 1.0f, 1e20f, 3e38f };
    float values[N * K];

    for (int64_t n = 0; n < N; n++) {
        for (int64_t k = 0; k < K; k++) {
            values[n * K + k] = size[n] * ((float)(16 - k) / 16.0f);
        }
    }
    rig_begin(r, 30);
    const csp_tensor given = rig_input(r, CSP_F32, 2, (int64_t[]) { N, K }, values);
    csp_tensor x = rig_stored(r, S, &given), none = csp_tensor_none();
    csp_tensor q = rig_output(r, CSP_E4M3, 2, (int64_t[]) { N, K });
    csp_tensor scale = rig_output(r, CSP_F32, 1, (int64_t[]) { N });
    double *t = rig_doubles(r, N * K), *want = rig_doubles(r, N);

    ref_quantize_rows(rig_as_doubles(r, &x), NULL, N, K, t, want);
    assert_int_equal(csp_quantize_rows(r->be, &x, &none, &q, &scale), CSP_OK);
    check_rows(rig_host(r, &q), rig_host(r, &scale), t, want, N, K);
    rig_check_guards(r);
}

static void rows_of_all_sizes_keep_to_the_reference(void **state)
{
    rig_each_storage(*state, rows_of_all_sizes);
}

static void what_is_no_number_stays_visible(void **state)
{
    rig *r = *state;
    enum { N = 3, K = 16 };
    float values[N * K];
    const uint8_t *q;
    const float *scale;

    for (int i = 0; i < N * K; i++) {
        values[i] = 1.0f;
    }
    values[3] = NAN;
    values[K + 5] = -INFINITY;
    rig_begin(r, 31);
    csp_tensor x = rig_input(r, CSP_F32, 2, (int64_t[]) { N, K }, values);
    csp_tensor got = rig_output(r, CSP_E4M3, 2, (int64_t[]) { N, K }), none = csp_tensor_none();
    csp_tensor scales = rig_output(r, CSP_F32, 1, (int64_t[]) { N });

    assert_int_equal(csp_quantize_rows(r->be, &x, &none, &got, &scales), CSP_OK);
    q = rig_host(r, &got);
    scale = rig_host(r, &scales);
    assert_true(isnan(csp_e4m3_to_f32(q[3])));
    assert_true(q[0] == 0x7E && scale[0] == 1.0f / 448.0f);
    assert_true(isinf(scale[1]));
    for (int64_t k = 0; k < K; k++) { /* 0 and NaN times an infinite scale are NaN */
        assert_true(isnan(csp_e4m3_to_f32(q[K + k]) * scale[1]));
        assert_true(q[2 * K + k] == 0x7E);
    }
}

static void the_same_call_gives_the_same_bits(void **state)
{
    rig *r = *state;
    const int64_t dims[] = { 11, 176 };

    rig_begin(r, 32);
    csp_tensor x = rig_normal(r, CSP_F32, 2, dims), c = rig_normal(r, CSP_F32, 1, dims + 1);
    csp_tensor q[2], scale[2];

    for (int i = 0; i < 2; i++) {
        q[i] = rig_output(r, CSP_E4M3, 2, dims);
        scale[i] = rig_output(r, CSP_F32, 1, dims);
        assert_int_equal(csp_quantize_rows(r->be, &x, &c, &q[i], &scale[i]), CSP_OK);
    }
    rig_check_same(r, &q[0], &q[1]);
    rig_check_same(r, &scale[0], &scale[1]);
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;
    const int64_t dims[] = { 6, 5 }, none[] = { 0, 5 };

    rig_begin(r, 33);
    csp_tensor x = rig_normal(r, CSP_F32, 2, dims), c = rig_normal(r, CSP_F32, 1, dims);
    csp_tensor q = rig_output(r, CSP_E4M3, 2, dims), bytes = rig_output(r, CSP_U8, 2, dims);
    csp_tensor scale = rig_output(r, CSP_F32, 1, dims), absent = csp_tensor_none();
    csp_tensor short_scale = csp_tensor_rows(&scale, 0, 5);
    csp_tensor nothing = rig_normal(r, CSP_F32, 2, none), no_q = csp_tensor_rows(&q, 0, 0);
    csp_tensor no_scale = csp_tensor_rows(&scale, 0, 0);

    assert_int_equal(csp_quantize_rows(r->be, &x, &c, &q, &scale), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "quantize_rows: c must be f32 (5), not f32 (6)"));
    assert_int_equal(csp_quantize_rows(r->be, &x, &absent, &bytes, &scale), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "q must be e4m3 (6,5), not u8 (6,5)"));
    assert_int_equal(csp_quantize_rows(r->be, &x, &absent, &q, &short_scale), CSP_ERR_SHAPE);
    assert_int_equal(csp_quantize_rows(r->be, &q, &absent, &q, &scale), CSP_ERR_SHAPE);
    assert_int_equal(csp_quantize_rows(r->be, &nothing, &absent, &no_q, &no_scale), CSP_OK);
    rig_check_untouched(r, &q);
    rig_check_untouched(r, &bytes);
    rig_check_untouched(r, &scale);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_and_scales_match_the_reference),
        cmocka_unit_test(rows_of_all_sizes_keep_to_the_reference),
        cmocka_unit_test(what_is_no_number_stays_visible),
        cmocka_unit_test(the_same_call_gives_the_same_bits),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
