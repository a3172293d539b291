/*
 * test_ranks.c - R ranks give what one gives: losses, gradients and weights of both phases, for any
 * cut of a step into ranks and micro-batches; and how many bytes that takes.
 */
#include "train/ranks_case.h"

static void compare_ranks(const ranks_case *c)
{
    ranks_result *one = run_on_ranks(c, 1);

    assert_true(fabs(one->loss[CASE_STEPS - 1] - one->loss[0]) > 1e-3); /* something is learned */
    for (int size = 2; size <= 4; size *= 2) {
        ranks_result *many = run_on_ranks(c, size);

        check_same(c, many, one, size);
        munmap(many, sizeof(*many));
    }
    munmap(one, sizeof(*one));
}

static void contrastive_steps_are_those_of_one_rank(void **state)
{
    static const ranks_case cases[] = {
        { "cpu", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, CASE_STEPS, 1 },
        { "cpu", CSP_VARIANT_ECHO, false, false, CSP_POOLING_MAX, CSP_REG_L1, CASE_STEPS, 1 },
        { "cpu", CSP_VARIANT_BI, true, false, CSP_POOLING_SUM, CSP_REG_FLOPS, CASE_STEPS, 1 },
        { "cpu", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, CASE_STEPS, 2 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        compare_ranks(&cases[i]);
    }
}

static void adaptation_steps_are_those_of_one_rank(void **state)
{
    static const ranks_case cases[] = {
        { "cpu", CSP_VARIANT_CAUSAL, true, true, CSP_POOLING_MAX, CSP_REG_FLOPS, CASE_STEPS, 1 },
        { "cpu", CSP_VARIANT_CAUSAL, false, true, CSP_POOLING_MAX, CSP_REG_FLOPS, CASE_STEPS, 1 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        compare_ranks(&cases[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contrastive_steps_are_those_of_one_rank),
        cmocka_unit_test(adaptation_steps_are_those_of_one_rank),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
