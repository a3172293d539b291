/*
 * test_ranks.c - ranks on devices, which exchange tensors among themselves, give what one gives;
 * as many of them as this machine has devices.
 */
#include "train/ranks_case.h"

#include "ranks_on_devices.h"

/* What there is time for: all steps, and four ranks, where CSPLADE_SLOW_TESTS is set. */
#if defined(__SANITIZE_THREAD__)
enum { FEW_STEPS = 2 };
#else
enum { FEW_STEPS = 4 };
#endif

static int devices;

static void ranks_of_devices_are_those_of_one(void **state)
{
    const bool slow = getenv("CSPLADE_SLOW_TESTS") != NULL;
    const int64_t steps = slow ? CASE_STEPS : FEW_STEPS;
    const ranks_case cases[] = {
        { "cuda", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, steps, 1 },
        { "cuda", CSP_VARIANT_CAUSAL, false, true, CSP_POOLING_MAX, CSP_REG_FLOPS, steps, 1 },
        { "cuda", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, 2, 2 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ranks_result *one = run_on_ranks(&cases[i], 1);

        for (int size = 2; size <= (slow ? 4 : 2) && size <= devices; size *= 2) {
            ranks_result *many = run_on_ranks(&cases[i], size);

            check_same(&cases[i], many, one, size);
            munmap(many, sizeof(*many));
        }
        munmap(one, sizeof(*one));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(ranks_of_devices_are_those_of_one) };

    devices = device_count(4);
    if (devices == 0) {
        print_error("skipped: no device\n");
        return NO_DEVICE;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
