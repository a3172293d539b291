/* test_rope.c - ops/rope.h against the equations in double, plain and llama3. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "ops/rope.h"
#include "ref/rope.h"
#include "support/compare.h"
#include "support/rig.h"

static const csp_rope ropes[] = {
    { .theta = 10000.0 },
    { .theta = 500000.0 },
    { 500000.0, true, 8.0, 1.0, 4.0, 8192.0 },  /* Llama 3.1 */
    { 500000.0, true, 32.0, 1.0, 4.0, 8192.0 }, /* Llama 3.2 */
    { 10000.0, true, 4.0, 1.0, 4.0, 64.0 },
};
enum { ROPES = sizeof(ropes) / sizeof(ropes[0]) };

static void tables_match_the_reference(void **state)
{
    rig *r = *state;
    const int64_t widths[] = { 2, 6, 64, 128 };

    for (int64_t i = 0; i < ROPES * 4; i++) {
        const csp_rope *rope = &ropes[i / 4];
        const int64_t P = 300, E = widths[i % 4], n = P * E / 2;

        rig_begin(r, (uint64_t)i);
        csp_tensor c = rig_output(r, CSP_F32, 2, (int64_t[]) { P, E / 2 });
        csp_tensor s = rig_output(r, CSP_F32, 2, (int64_t[]) { P, E / 2 });
        double *want_c = rig_doubles(r, n), *want_s = rig_doubles(r, n), *mag = rig_doubles(r, n);
        /* The exponent's rounding costs ln(theta) units of f, the power, its reciprocal and the
         * product with p one each, the scaling of llama3 about 10; the result one more. */
        const double bound =
            (log(rope->theta) + (rope->llama3 ? 2.0 * log(rope->theta) + 14.0 : 4.0)) * UNIT_F32;

        ref_rope_table(rope, P, E, want_c, want_s, mag);
        for (int64_t j = 0; j < n; j++) {
            mag[j] = 1.0 / 4.0 + mag[j];
        }
        assert_int_equal(csp_rope_table(r->be, rope, &c, &s), CSP_OK);
        assert_true(worst_ratio("cos", rig_host(r, &c), want_c, mag, n, bound) <= 1.0);
        assert_true(worst_ratio("sin", rig_host(r, &s), want_s, mag, n, bound) <= 1.0);
        rig_check_guards(r);
    }
}

static void llama3_keeps_short_waves_and_stretches_long_ones(void **state)
{
    rig *r = *state;
    enum { P = 2, E = 128 };

    rig_begin(r, 50);
    csp_tensor plain[2], scaled[2];
    for (int i = 0; i < 2; i++) {
        plain[i] = rig_output(r, CSP_F32, 2, (int64_t[]) { P, E / 2 });
        scaled[i] = rig_output(r, CSP_F32, 2, (int64_t[]) { P, E / 2 });
    }
    assert_int_equal(csp_rope_table(r->be, &ropes[1], &plain[0], &plain[1]), CSP_OK);
    assert_int_equal(csp_rope_table(r->be, &ropes[2], &scaled[0], &scaled[1]), CSP_OK);
    const float *p = rig_host(r, &plain[1]), *s = rig_host(r, &scaled[1]);
    /* Position 1: sin f. The shortest wave is kept as it is, the longest is 8 times longer. */
    assert_true(s[E / 2] == p[E / 2]);
    assert_true(fabs((double)s[E - 1] * 8.0 / (double)p[E - 1] - 1.0) <= 4.0 * UNIT_F32);
    /* Position 0 is not turned. */
    assert_true(s[0] == 0.0f && s[E / 2 - 1] == 0.0f);
}

static void wrong_settings_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;
    csp_rope bad = ropes[2];

    rig_begin(r, 51);
    csp_tensor c = rig_output(r, CSP_F32, 2, (int64_t[]) { 8, 4 });
    csp_tensor s = rig_output(r, CSP_F32, 2, (int64_t[]) { 8, 4 });
    csp_tensor other = rig_output(r, CSP_F32, 2, (int64_t[]) { 8, 5 });

    assert_int_equal(csp_rope_table(r->be, &ropes[0], &c, &other), CSP_ERR_SHAPE);
    bad.high_freq_factor = bad.low_freq_factor;
    assert_int_equal(csp_rope_table(r->be, &bad, &c, &s), CSP_ERR_ARGUMENT);
    bad = ropes[2];
    bad.factor = 0.0;
    assert_int_equal(csp_rope_table(r->be, &bad, &c, &s), CSP_ERR_ARGUMENT);
    bad = ropes[0];
    bad.theta = NAN;
    assert_int_equal(csp_rope_table(r->be, &bad, &c, &s), CSP_ERR_ARGUMENT);
    for (long n = 1; n <= 2; n++) {
        csp_fault_arm(n);
        assert_int_equal(csp_rope_table(r->be, &ropes[0], &c, &s), CSP_ERR_MEMORY);
        csp_fault_arm(0);
    }
    rig_check_untouched(r, &c);
    rig_check_untouched(r, &s);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_match_the_reference),
        cmocka_unit_test(llama3_keeps_short_waves_and_stretches_long_ones),
        cmocka_unit_test(wrong_settings_are_refused_and_outputs_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
