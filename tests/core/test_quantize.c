/*
 * test_quantize.c - every scheme at its edges.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/quantize.h"
#include "core/rng.h"

static void reads_schemes_and_refuses_others(void **state)
{
    static const char *const bad[] = { "",         "rounds",      "round:",   "round:0",
                                       "round:-1", "round:x",     "round:1x", "none:1",
                                       "u8-max:2", "ceil:nan",    ":",        "ceil:inf",
                                       "Round:10", "round:1e999", "ceil: 5",  "round:0x10" };
    static const char *const good[] = { "none",      "round",     "ceil",  "round:100",
                                        "ceil:51.2", "round:0.1", "u8-max" };
    char text[48];
    csp_quant q;

    assert_int_equal(csp_quant_parse("none", &q), CSP_OK);
    assert_int_equal(q.kind, CSP_QUANT_NONE);
    assert_int_equal(csp_quant_parse("round:100", &q), CSP_OK);
    assert_int_equal(q.kind, CSP_QUANT_ROUND);
    assert_true(q.scale == 100.0);
    assert_int_equal(csp_quant_parse("ceil:51.2", &q), CSP_OK);
    assert_true(q.scale == 51.2);
    assert_int_equal(csp_quant_parse("u8-max", &q), CSP_OK);
    assert_int_equal(q.kind, CSP_QUANT_U8_MAX);
    assert_string_equal(csp_quant_name(q.kind), "u8-max");
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(csp_quant_parse(good[i], &q), CSP_OK);
        assert_string_equal(csp_quant_describe(&q, text, sizeof(text)), good[i]);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(csp_quant_parse(bad[i], &q), CSP_ERR_ARGUMENT);
        assert_int_equal(q.kind, CSP_QUANT_U8_MAX);
    }
}

static void rounds_drops_and_clips(void **state)
{
    csp_quant round100, ceil100, u8;
    csp_quant_counts c = { 0 };

    assert_int_equal(csp_quant_parse("round:100", &round100), CSP_OK);
    assert_int_equal(csp_quant_parse("ceil:100", &ceil100), CSP_OK);
    assert_int_equal(csp_quant_parse("u8-max", &u8), CSP_OK);
    assert_int_equal(csp_quant_impact(&round100, 1.25f, 255, &c), 125);
    assert_int_equal(csp_quant_impact(&round100, 0.004f, 255, &c), 0);
    assert_int_equal(csp_quant_impact(&round100, 2.55f, 255, &c), 255);
    assert_int_equal(csp_quant_impact(&round100, 2.56f, 255, &c), 255);
    assert_int_equal(csp_quant_impact(&round100, 3e38f, INT32_MAX, &c), INT32_MAX);
    assert_int_equal(c.kept, 4);
    assert_int_equal(c.dropped, 1);
    assert_int_equal(c.clipped, 2);
    assert_int_equal(csp_quant_impact(&ceil100, 0.004f, 255, &c), 1);
    assert_int_equal(csp_quant_impact(&ceil100, 0.0f, 255, &c), 0);
    csp_quant_fit(&u8, 3.7f);
    c = (csp_quant_counts) { 0 };
    assert_int_equal(csp_quant_impact(&u8, 3.7f, 255, &c), 255);
    assert_int_equal(csp_quant_impact(&u8, 3.7f / 255.0f, 255, &c), 1);
    assert_int_equal(csp_quant_impact(&u8, 0.005f, 255, &c), 0);
    assert_int_equal(c.clipped, 0);
    csp_quant_fit(&u8, 0.0f);
    assert_true(u8.scale == 1.0);
    csp_quant_fit(&round100, 9.0f);
    assert_true(round100.scale == 100.0);
}

/* Against the C library, from subnormal weights to what overflows; halves are exact at scale 64. */
static void impacts_are_rounded_as_the_c_library_does(void **state)
{
    static const double scales[] = { 1e-3, 0.7, 1.0, 37.3, 64.0, 100.0, 1e6, 1e300 };
    const csp_rng rng = { .seed = 1, .draw = CSP_DRAW_TEST };

    (void)state;
    for (uint64_t i = 0; i < 200000; i++) {
        const double scale = scales[i % (sizeof(scales) / sizeof(scales[0]))];
        const float weight = i % 3 == 0 ? (float)csp_rng_below(rng, 2 * i, 4000) / 128.0f
                                        : ldexpf(1.0f + csp_rng_uniform(rng, 2 * i),
                                                 (int)csp_rng_below(rng, 2 * i + 1, 60) - 40);
        const double x = scale * (double)weight;

        assert_true((double)csp_impact(CSP_QUANT_ROUND, scale, weight) == fmin(round(x), 0x1p40));
        assert_true((double)csp_impact(CSP_QUANT_CEIL, scale, weight) == fmin(ceil(x), 0x1p40));
    }
    assert_true(csp_impact(CSP_QUANT_ROUND, 1.0, INFINITY) == INT64_C(1) << 40);
    assert_true(csp_impact(CSP_QUANT_ROUND, 0.5, nextafterf(1.0f, 0.0f)) == 0);
}

static void a_scale_that_is_not_named_is_the_contracts(void **state)
{
    csp_quant q = { CSP_QUANT_CEIL, 0.0 }, same = { CSP_QUANT_CEIL, 50.0 };

    (void)state;
    csp_quant_settle(&q, 50.0);
    assert_true(csp_quant_equal(&q, &same));
    csp_quant_settle(&q, 70.0);
    assert_true(csp_quant_equal(&q, &same));
    same.kind = CSP_QUANT_ROUND;
    assert_false(csp_quant_equal(&q, &same));
    q = (csp_quant) { CSP_QUANT_NONE, 0.0 };
    csp_quant_settle(&q, 50.0);
    assert_true(q.scale == 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_schemes_and_refuses_others),
        cmocka_unit_test(rounds_drops_and_clips),
        cmocka_unit_test(impacts_are_rounded_as_the_c_library_does),
        cmocka_unit_test(a_scale_that_is_not_named_is_the_contracts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
