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
    csp_matrix_product p;

    assert_int_equal(csp_matrix_rate(r->be, CSP_F32, 0, 3, seconds, &p), CSP_OK);
    assert_true(seconds[0] > 0.0 && seconds[0] <= seconds[1] && seconds[1] <= seconds[2]);
    assert_true(seconds[3] == -1.0);
    /* No machine does a million GFLOP/s: what was timed was a product. */
    assert_true(p.flop / seconds[0] < 1e15);
    assert_true(p.N >= 2048 && p.N == 2 * p.I && p.O == p.I);
    assert_true(p.flop == 2.0 * (double)p.N * (double)p.I * (double)p.O);
}

/* Whatever the type, and refused where the backend does not have it. */
static void bf16_is_timed_where_the_backend_has_it(void **state)
{
    rig *r = *state;
    double seconds = -1.0;
    csp_matrix_product p;
    const csp_status status = csp_matrix_rate(r->be, CSP_BF16, 0, 1, &seconds, &p);

    assert_int_equal(status, r->be->bf16 ? CSP_OK : CSP_ERR_UNSUPPORTED);
    assert_true(r->be->bf16 == (seconds > 0.0));
}

static void nothing_to_time_is_refused(void **state)
{
    rig *r = *state;
    double seconds = -1.0;
    csp_matrix_product p = { 0, 0, 0, -1.0 };

    assert_int_equal(csp_matrix_rate(r->be, CSP_F32, 1, 0, &seconds, &p), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_matrix_rate(r->be, CSP_F32, -1, 1, &seconds, &p), CSP_ERR_ARGUMENT);
    assert_true(seconds == -1.0 && p.flop == -1.0);
}

static void every_failing_allocation_is_reported(void **state)
{
    rig *r = *state;
    double seconds;
    csp_matrix_product p;
    int calls = 0;

    for (;; calls++) {
        csp_status status;

        assert_true(calls < 100);
        csp_fault_arm(calls + 1);
        status = csp_matrix_rate(r->be, CSP_F32, 0, 1, &seconds, &p);
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
        cmocka_unit_test(bf16_is_timed_where_the_backend_has_it),
        cmocka_unit_test(nothing_to_time_is_refused),
        cmocka_unit_test(every_failing_allocation_is_reported),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
