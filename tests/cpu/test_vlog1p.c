/* test_vlog1p.c - cpu_log1pf within the one unit in the last place that its header promises. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cpu/vlog1p.h"

static void it_is_within_one_ulp_from_0_to_the_largest_float(void **state)
{
    double worst = 0.0;
    float at = 0.0f;

    (void)state;
    for (uint32_t bits = 0; bits < 0x7F800000u; bits += 797) {
        const float x = cpu_float_of_bits(bits);
        const double want = log1p((double)x);
        int exponent;

        (void)frexp(fmax(want, (double)FLT_MIN), &exponent);
        const double error = fabs((double)cpu_log1pf(x) - want) / ldexp(1.0, exponent - 24);

        if (!(error <= worst)) {
            worst = error;
            at = x;
        }
    }
    if (!(worst <= 1.0)) {
        fail_msg("cpu_log1pf(%.9g) is off by %.3g ulp", (double)at, worst);
    }
}

static void its_ends_are_exact(void **state)
{
    (void)state;
    assert_true(cpu_log1pf(0.0f) == 0.0f);
    assert_true(cpu_log1pf(0x1p-149f) == 0x1p-149f);
    assert_true(isinf(cpu_log1pf(INFINITY)));
    assert_true(isnan(cpu_log1pf(NAN)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_within_one_ulp_from_0_to_the_largest_float),
        cmocka_unit_test(its_ends_are_exact),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
