/* test_compare.c - what the comparator and the gradient check must accept and reject. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "support/compare.h"
#include "support/gradcheck.h"

static void equal_arrays_give_0(void **state)
{
    const float got[] = { 1.0f, -2.5f, 0.0f };
    const double want[] = { 1.0, -2.5, 0.0 };

    (void)state;
    assert_true(worst_ratio("x", got, want, want, 3, UNIT_F32) == 0.0);
    assert_true(worst_ratio("x", got, want, want, 0, UNIT_F32) == 0.0);
}

static void an_error_beyond_the_bound_fails(void **state)
{
    const float got[] = { 1.0f, 0.75f + 0x1p-23f };
    const double want[] = { 1.0, 0.75 };
    const double mag[] = { 1.0, 0.75 };
    const double ratio = worst_ratio("x (expected)", got, want, mag, 2, UNIT_F32);

    (void)state;
    assert_true(fabs(ratio - 8.0 / 3.0) <= 1e-12);
    assert_true(worst_ratio("x", got, want, mag, 2, 3.0 * UNIT_F32) <= 1.0);
}

static void a_nan_and_an_infinity_fail_at_any_bound(void **state)
{
    const double want[] = { 1.0, 1.0 };
    const float nan_last[] = { 1.0f, NAN }, nan_first[] = { NAN, 1.0f }, inf[] = { 1.0f, INFINITY };

    (void)state;
    assert_true(isinf(worst_ratio("x (expected)", nan_last, want, want, 2, 1e30)));
    assert_true(isinf(worst_ratio("x (expected)", nan_first, want, want, 2, 1e30)));
    assert_true(isinf(worst_ratio("x (expected)", inf, want, want, 2, 1e30)));
}

static void a_reference_that_is_nan_fails(void **state)
{
    const double want[] = { NAN };
    const float got[] = { 1.0f };

    (void)state;
    assert_true(isinf(worst_ratio("x (expected)", got, want, want, 1, 1.0)));
}

static void anything_fails_where_exactly_0_is_expected(void **state)
{
    const double want[] = { 0.0 };
    const float got[] = { 1e-30f };

    (void)state;
    assert_true(isinf(worst_ratio("x (expected)", got, want, want, 1, 1.0)));
}

static void doubles_are_judged_the_same_way(void **state)
{
    const double want[] = { 1.0, 2.0 }, near[] = { 1.0, 2.0 + 0x1p-51 }, bad[] = { 1.0, NAN };

    (void)state;
    assert_true(worst_ratio_f64("x", near, want, want, 2, 0x1p-52) <= 1.0);
    assert_true(worst_ratio_f64("x (expected)", near, want, want, 2, 0x1p-53) > 1.0);
    assert_true(isinf(worst_ratio_f64("x (expected)", bad, want, want, 2, 1.0)));
}

static void a_norm_of_what_is_apart_sees_nan(void **state)
{
    const double want[] = { 3.0, 4.0 };
    const float got[] = { 3.0f, 4.05f }, bad[] = { NAN, 4.0f }, same[] = { 3.0f, 4.0f };
    const double nothing[] = { 0.0, 0.0 };

    (void)state;
    assert_true(fabs(norm_distance(got, want, 2) - 0.01) <= 1e-6);
    assert_true(norm_distance(same, want, 2) == 0.0 && norm_distance(same, want, 0) == 0.0);
    assert_true(isinf(norm_distance(bad, want, 2)) && isinf(norm_distance(got, nothing, 2)));
}

static void a_stored_result_is_rounded_once_more(void **state)
{
    (void)state;
    assert_true(stored_bound(CSP_F32, 3.0) == 3.0 * UNIT_F32);
    assert_true(stored_bound(CSP_BF16, 3.0) == 3.0 * UNIT_F32 + UNIT_BF16);
}

static void bf16_is_judged_as_a_whole_too(void **state)
{
    float got[64];
    double want[64], mag[64];

    (void)state;
    for (int i = 0; i < 64; i++) {
        want[i] = i + 1;
        mag[i] = 10.0 * want[i];
        got[i] = (float)want[i] * (i % 2 == 0 ? 1.02f : 0.98f);
    }
    assert_true(matches("x", CSP_F32, got, want, mag, 64, UNIT_BF16));
    assert_false(matches("x (expected)", CSP_BF16, got, want, mag, 64, UNIT_BF16));
    assert_true(matches("x", CSP_BF16, got, want, mag, 63, UNIT_BF16));
    assert_false(matches("x (expected)", CSP_F32, got, want, want, 64, UNIT_BF16));
}

static double cubes(const double *x, const void *context)
{
    (void)context;
    return x[0] * x[0] * x[0] + 2.0 * x[0] * x[1];
}

static void the_gradient_check_tells_right_from_wrong(void **state)
{
    double x[] = { 0.7, -1.3 };
    const double right[] = { 3.0 * 0.49 - 2.6, 1.4 };
    const double wrong[] = { 3.0 * 0.49 - 2.6, 1.4 * (1.0 + 1e-5) };

    (void)state;
    assert_true(gradient_distance(cubes, NULL, x, right, 2) <= 1e-9);
    assert_true(gradient_distance(cubes, NULL, x, wrong, 2) > GRADIENT_LIMIT);
    assert_true(x[0] == 0.7 && x[1] == -1.3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_arrays_give_0),
        cmocka_unit_test(an_error_beyond_the_bound_fails),
        cmocka_unit_test(a_nan_and_an_infinity_fail_at_any_bound),
        cmocka_unit_test(a_reference_that_is_nan_fails),
        cmocka_unit_test(anything_fails_where_exactly_0_is_expected),
        cmocka_unit_test(a_norm_of_what_is_apart_sees_nan),
        cmocka_unit_test(a_stored_result_is_rounded_once_more),
        cmocka_unit_test(bf16_is_judged_as_a_whole_too),
        cmocka_unit_test(doubles_are_judged_the_same_way),
        cmocka_unit_test(the_gradient_check_tells_right_from_wrong),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
