/* test_matrix_rate.c - the yardstick of mfu: sorted times above 0, and it leaves nothing behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "ops/matrix_rate.h"
#include "support/rig.h"

static void times_are_positive_and_ascending(void **state)
{
    rig *r = *state;
    double seconds[4] = { 0.0, 0.0, 0.0, -1.0 };

    assert_int_equal(csp_matrix_rate(r->be, 0, 3, seconds), CSP_OK);
    assert_true(seconds[0] > 0.0 && seconds[0] <= seconds[1] && seconds[1] <= seconds[2]);
    assert_true(seconds[3] == -1.0);
    /* No machine does a million GFLOP/s: what was timed was a product. */
    assert_true(CSP_MATRIX_RATE_FLOP / seconds[0] < 1e15);
}

static void nothing_to_time_is_refused(void **state)
{
    rig *r = *state;
    double seconds = -1.0;

    assert_int_equal(csp_matrix_rate(r->be, 1, 0, &seconds), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_matrix_rate(r->be, -1, 1, &seconds), CSP_ERR_ARGUMENT);
    assert_true(seconds == -1.0);
}

static void every_failing_allocation_is_reported(void **state)
{
    rig *r = *state;
    double seconds;
    int calls = 0;

    for (;; calls++) {
        csp_status status;

        assert_true(calls < 100);
        csp_fault_arm(calls + 1);
        status = csp_matrix_rate(r->be, 0, 1, &seconds);
        csp_fault_arm(0);
        if (status == CSP_OK) {
            break;
        }
        assert_int_equal(status, CSP_ERR_MEMORY);
    }
    assert_true(calls >= 3);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_are_positive_and_ascending),
        cmocka_unit_test(nothing_to_time_is_refused),
        cmocka_unit_test(every_failing_allocation_is_reported),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
