/* test_schedule.c - schedules against transformers' values and their edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "train/schedule.h"

static void near(double got, double want)
{
    assert_true(fabs(got - want) <= 1e-15);
}

static void warm_up_starts_at_zero_and_reaches_the_peak(void **state)
{
    (void)state;
    near(csp_lr_at(CSP_LR_LINEAR, 1.0, 0.1, 0, 100), 0.0);
    near(csp_lr_at(CSP_LR_LINEAR, 1.0, 0.1, 5, 100), 0.5);
    near(csp_lr_at(CSP_LR_LINEAR, 1.0, 0.1, 10, 100), 1.0);
    /* transformers' Trainer rounds the warm-up up: ceil(0.05 * 30) = 2 steps. */
    near(csp_lr_at(CSP_LR_LINEAR, 1.0, 0.05, 1, 30), 0.5);
    near(csp_lr_at(CSP_LR_LINEAR, 1.0, 0.05, 2, 30), 1.0);
}

static void each_shape_ends_where_it_should(void **state)
{
    (void)state;
    near(csp_lr_at(CSP_LR_LINEAR, 2.0, 0.0, 0, 4), 2.0);
    near(csp_lr_at(CSP_LR_LINEAR, 2.0, 0.0, 3, 4), 0.5);
    near(csp_lr_at(CSP_LR_LINEAR, 2.0, 0.0, 4, 4), 0.0);
    near(csp_lr_at(CSP_LR_COSINE, 2.0, 0.0, 2, 4), 1.0);
    near(csp_lr_at(CSP_LR_COSINE, 2.0, 0.0, 4, 4), 0.0);
    near(csp_lr_at(CSP_LR_CONSTANT, 2.0, 0.5, 3, 4), 2.0);
    near(csp_lr_at(CSP_LR_CONSTANT, 2.0, 0.5, 1, 4), 1.0);
    near(csp_lr_at(CSP_LR_LINEAR, 2.0, 1.0, 4, 4), 2.0);
}

static void the_sparsity_weight_rises_as_a_square(void **state)
{
    (void)state;
    near(csp_lambda_at(8.0, 0, 4), 0.0);
    near(csp_lambda_at(8.0, 1, 4), 0.5);
    near(csp_lambda_at(8.0, 2, 4), 2.0);
    near(csp_lambda_at(8.0, 4, 4), 8.0);
    near(csp_lambda_at(8.0, 400, 4), 8.0);
    near(csp_lambda_at(8.0, 0, 0), 8.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_starts_at_zero_and_reaches_the_peak),
        cmocka_unit_test(each_shape_ends_where_it_should),
        cmocka_unit_test(the_sparsity_weight_rises_as_a_square),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
