/* test_vexp.c - cpu_expf within the two units in the last place that its header promises. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cpu/vexp.h"

/* Distance in units in the last place of want, the smallest normal number's below it. */
static double ulps(float got, double want)
{
    int exponent;

    (void)frexp(fmax(want, (double)FLT_MIN), &exponent);
    return fabs((double)got - want) / ldexp(1.0, exponent - 24);
}

static void it_is_within_two_ulp_over_its_whole_range(void **state)
{
    double worst = 0.0;
    float at = 0.0f;

    (void)state;
    for (uint64_t bits = 0; bits < 0x100000000ull; bits += 97 * 16) {
        const float x = cpu_float_of_bits((uint32_t)bits);

        if (x >= -87.33f && x <= 88.72f) {
            const double error = ulps(cpu_expf(x), exp((double)x));

            if (!(error <= worst)) {
                worst = error;
                at = x;
            }
        }
    }
    for (float x = -88.0f; x <= 88.72f; x += 0.000913f) {
        const double error = ulps(cpu_expf(x), exp((double)x));

        if (!(error <= worst)) {
            worst = error;
            at = x;
        }
    }
    if (!(worst <= 2.0)) {
        fail_msg("cpu_expf(%.9g) is off by %.3g ulp", (double)at, worst);
    }
}

static void its_ends_are_infinity_zero_and_nan(void **state)
{
    (void)state;
    assert_true(cpu_expf(0.0f) == 1.0f);
    assert_true(cpu_expf(-0.0f) == 1.0f);
    assert_true(isinf(cpu_expf(88.73f)) && isinf(cpu_expf(FLT_MAX)) && isinf(cpu_expf(INFINITY)));
    assert_true(cpu_expf(-104.1f) == 0.0f && cpu_expf(-FLT_MAX) == 0.0f);
    assert_true(cpu_expf(-INFINITY) == 0.0f);
    assert_true(isnan(cpu_expf(NAN)) && isnan(cpu_expf(-NAN)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_within_two_ulp_over_its_whole_range),
        cmocka_unit_test(its_ends_are_infinity_zero_and_nan),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
