/* test_optim.c - ops/optim.h against the equations in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/optim.h"
#include "ref/optim.h"
#include "support/compare.h"
#include "support/rig.h"

/* Sizes around a vector and a block of sums, an empty one, one for several threads. */
static const int64_t sizes[] = { 1, 17, 0, 8191, 8193, 100003 };
enum { TENSORS = sizeof(sizes) / sizeof(sizes[0]) };

static csp_tensor second_moment(rig *r, int64_t n)
{
    const csp_tensor t = rig_uniform(r, 0.0, 2.0, 1, &n);

    return rig_copy(r, &t);
}

static void make(rig *r, csp_optim_tensor *t)
{
    for (int i = 0; i < TENSORS; i++) {
        t[i].value = rig_accumulated(r, 1, &sizes[i]);
        t[i].grad = rig_accumulated(r, 1, &sizes[i]);
        t[i].m = rig_accumulated(r, 1, &sizes[i]);
        t[i].v = second_moment(r, sizes[i]);
        t[i].decay = i % 2 == 0;
    }
}

static void an_update_matches_the_reference_and_clears_gradients(void **state)
{
    rig *r = *state;
    const csp_adamw_args args[] = {
        { 1, 1e-3, 0.9, 0.999, 1e-8, 0.01, 1.0 },
        { 1000, 3e-4, 0.9, 0.95, 1e-2, 0.1, 0.37 },
        { 2, 0.0, 0.0, 0.0, 1e-8, 0.5, 1.0 },
    };

    for (int c = 0; c < 3; c++) {
        csp_optim_tensor t[TENSORS];
        double *value[TENSORS], *m[TENSORS], *v[TENSORS], *mag[TENSORS][3];

        rig_begin(r, (uint64_t)c);
        make(r, t);
        for (int i = 0; i < TENSORS; i++) {
            for (int k = 0; k < 3; k++) {
                mag[i][k] = rig_doubles(r, sizes[i]);
            }
            value[i] = rig_as_doubles(r, &t[i].value);
            m[i] = rig_as_doubles(r, &t[i].m);
            v[i] = rig_as_doubles(r, &t[i].v);
            ref_adamw(value[i], rig_as_doubles(r, &t[i].grad), m[i], v[i], sizes[i], t[i].decay,
                      &args[c], mag[i][0], mag[i][1], mag[i][2]);
        }
        assert_int_equal(csp_adamw(r->be, t, TENSORS, &args[c]), CSP_OK);
        for (int i = 0; i < TENSORS; i++) {
            const float *g = rig_host(r, &t[i].grad);

            /* m: κ, 1-β1, β1 rounded once each, three products, one sum; v has g twice. The step:
             * m, half of v, root, two scalars, product, sum, division, product, difference. */
            assert_true(worst_ratio("m", rig_host(r, &t[i].m), m[i], mag[i][1], sizes[i],
                                    7.0 * UNIT_F32) <= 1.0);
            assert_true(worst_ratio("v", rig_host(r, &t[i].v), v[i], mag[i][2], sizes[i],
                                    10.0 * UNIT_F32) <= 1.0);
            assert_true(worst_ratio("value", rig_host(r, &t[i].value), value[i], mag[i][0],
                                    sizes[i], 24.0 * UNIT_F32) <= 1.0);
            for (int64_t j = 0; j < sizes[i]; j++) {
                assert_true(g[j] == 0.0f);
            }
        }
        rig_check_guards(r);
    }
}

static void squares_match_the_reference_and_show_a_nan(void **state)
{
    rig *r = *state;
    csp_optim_tensor t[TENSORS];
    double got[TENSORS], again[TENSORS], want;
    const float bad[3] = { 1.0f, NAN, 2.0f };

    rig_begin(r, 10);
    make(r, t);
    assert_int_equal(csp_grad_squares(r->be, t, TENSORS, got), CSP_OK);
    for (int i = 0; i < TENSORS; i++) {
        want = ref_grad_squares(rig_as_doubles(r, &t[i].grad), sizes[i]);
        assert_true(worst_ratio_f64("squares", &got[i], &want, &want, 1,
                                    (double)(sizes[i] + 1) * 0x1p-53) <= 1.0);
    }
    assert_int_equal(csp_grad_squares(r->be, t, TENSORS, again), CSP_OK);
    assert_memory_equal(got, again, sizeof(got));
    t[1].grad = rig_input(r, CSP_F32, 1, (int64_t[]) { 3 }, bad);
    assert_int_equal(csp_grad_squares(r->be, t, TENSORS, again), CSP_OK);
    assert_true(isnan(again[1]));
    assert_true(again[3] == got[3]);
    rig_check_guards(r);
}

static void wrong_arguments_are_refused_and_tensors_left_alone(void **state)
{
    rig *r = *state;
    const csp_adamw_args good = { 1, 1e-3, 0.9, 0.999, 1e-8, 0.01, 1.0 };
    csp_optim_tensor t[TENSORS];
    csp_adamw_args bad = good;
    double squares[TENSORS];

    rig_begin(r, 11);
    make(r, t);
    bad.t = 0;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &bad), CSP_ERR_ARGUMENT);
    assert_non_null(strstr(csp_error_text(), "the first update is 1"));
    bad = good;
    bad.beta2 = 1.0;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &bad), CSP_ERR_ARGUMENT);
    bad = good;
    bad.grad_scale = NAN;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &bad), CSP_ERR_ARGUMENT);
    t[3].m = t[1].m;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &good), CSP_ERR_SHAPE);
    t[4].grad.data = NULL;
    assert_int_equal(csp_grad_squares(r->be, t, TENSORS, squares), CSP_ERR_SHAPE);
    for (int i = 0; i < TENSORS; i++) {
        rig_check_untouched(r, &t[i].value);
        rig_check_untouched(r, &t[i].v);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_update_matches_the_reference_and_clears_gradients),
        cmocka_unit_test(squares_match_the_reference_and_show_a_nan),
        cmocka_unit_test(wrong_arguments_are_refused_and_tensors_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
