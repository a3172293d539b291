/* test_scalar.c - e4m3 in core/scalar.h against its definition, over all that may matter. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/scalar.h"

/* (-1)^s 2^(max(e,1) - 7) ([e > 0] + f/8) of the fields of bits. */
static double defined_value(int bits)
{
    const int e = bits >> 3 & 15, f = bits & 7;
    const double size = ldexp((e > 0 ? 1.0 : 0.0) + f / 8.0, (e > 1 ? e : 1) - 7);

    return (bits & 0x80) != 0 ? -size : size;
}

/* The nearest of the 127 numbers of value's sign; of two equally near ones the even pattern. */
static int defined_rounding(float value)
{
    const int sign = signbit(value) ? 0x80 : 0;
    int best = sign;
    double apart = INFINITY;

    if (isnan(value)) {
        return -1;
    }
    if (isinf(value)) {
        return sign | 0x7E;
    }
    for (int bits = sign; bits < sign + 0x7F; bits++) {
        const double distance = fabs((double)value - defined_value(bits));

        if (distance < apart || (distance == apart && bits % 2 == 0)) {
            apart = distance;
            best = bits;
        }
    }
    return best;
}

static void check(float value)
{
    const int want = defined_rounding(value), got = csp_f32_to_e4m3(value);

    if (want < 0 ? (got & 0x7F) != 0x7F : got != want) {
        fail_msg("%a is rounded to %02x, not %02x", (double)value, (unsigned)got, (unsigned)want);
    }
}

static void every_pattern_is_its_number(void **state)
{
    (void)state;
    for (int bits = 0; bits < 256; bits++) {
        const float value = csp_e4m3_to_f32((uint8_t)bits);

        if ((bits & 0x7F) == 0x7F) {
            assert_true(isnan(value));
            continue;
        }
        assert_true((double)value == defined_value(bits));
        assert_true((signbit(value) != 0) == (bits >= 128));
        assert_int_equal(csp_f32_to_e4m3(value), bits);
    }
    assert_true(csp_e4m3_to_f32(0x7E) == CSP_E4M3_MAX);
    assert_true(csp_e4m3_to_f32(0x01) == 0x1p-9f);
}

static void between_two_numbers_the_nearest_is_taken_and_of_ties_the_even(void **state)
{
    (void)state;
    for (int bits = 0; bits < 0x7E; bits++) {
        const float low = csp_e4m3_to_f32((uint8_t)bits);
        const float middle = 0.5f * (low + csp_e4m3_to_f32((uint8_t)(bits + 1)));

        check(middle);
        check(-middle);
        check(nextafterf(middle, 0.0f));
        check(nextafterf(middle, INFINITY));
        check(-nextafterf(middle, INFINITY));
    }
}

/* Every bf16 number: all exponents, among them what is too large, too small, or no number. */
static void every_bf16_number_is_rounded_by_the_definition(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        check(csp_bf16_to_f32((uint16_t)bits));
    }
    check(nextafterf(CSP_E4M3_MAX, INFINITY));
    check(464.0f);
    check(1e30f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_is_its_number),
        cmocka_unit_test(between_two_numbers_the_nearest_is_taken_and_of_ties_the_even),
        cmocka_unit_test(every_bf16_number_is_rounded_by_the_definition),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
