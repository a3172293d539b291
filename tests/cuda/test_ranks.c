/*
 * test_ranks.c - ranks on devices give what one gives: what is exchanged goes through the memory of
 * the host and back.
 */
#include "train/ranks_case.h"

static void ranks_of_devices_are_those_of_one(void **state)
{
    static const ranks_case cases[] = {
        { "cuda:0", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, 4, 1 },
        { "cuda:0", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, 2, 2 },
        { "cuda:0", CSP_VARIANT_CAUSAL, false, true, CSP_POOLING_MAX, CSP_REG_FLOPS, 4, 1 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ranks_result *one = run_on_ranks(&cases[i], 1), *two = run_on_ranks(&cases[i], 2);

        check_same(&cases[i], two, one, 2);
        munmap(one, sizeof(*one));
        munmap(two, sizeof(*two));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(ranks_of_devices_are_those_of_one) };

    return tiny_main_on_cuda(tests, sizeof(tests) / sizeof(tests[0]), NULL, NULL);
}
