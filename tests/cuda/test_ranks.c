/*
 * test_ranks.c - ranks on devices, which exchange tensors among themselves, give what one gives;
 * as many of them as this machine has devices.
 */
#include "train/ranks_case.h"

#include "ranks_on_devices.h"

/* What there is time for: all steps, and four ranks, where CSPLADE_SLOW_TESTS is set. */
enum { FEW_STEPS = 4 };

static int devices;

static void ranks_of_devices_are_those_of_one(void **state)
{
    const bool slow = getenv("CSPLADE_SLOW_TESTS") != NULL;
    const int64_t steps = slow ? CASE_STEPS : FEW_STEPS;
    const ranks_case cases[] = {
        { "cuda", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, steps },
        { "cuda", CSP_VARIANT_CAUSAL, false, true, CSP_POOLING_MAX, CSP_REG_FLOPS, steps },
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

/* A step takes the thread sanitizer most of a minute; what it is to see is in one of two ranks. */
static void two_ranks_make_a_step_without_a_race(void **state)
{
    const ranks_case step = { "cuda",          CSP_VARIANT_CAUSAL, true, false,
                              CSP_POOLING_MAX, CSP_REG_FLOPS,      1 };

    (void)state;
    if (devices < 2) {
        skip();
    }
    munmap(run_on_ranks(&step, 2), sizeof(ranks_result));
}

int main(void)
{
    const struct CMUnitTest all[] = { cmocka_unit_test(ranks_of_devices_are_those_of_one) };
    const struct CMUnitTest few[] = { cmocka_unit_test(two_ranks_make_a_step_without_a_race) };
#if defined(__SANITIZE_THREAD__)
    const bool has_time = false;
#else
    const bool has_time = true;
#endif

    devices = device_count(4);
    if (devices == 0) {
        print_error("skipped: no device, or no NCCL\n");
        return NO_DEVICE;
    }
    return has_time ? cmocka_run_group_tests(all, NULL, NULL)
                    : cmocka_run_group_tests(few, NULL, NULL);
}
