/*
 * test_profile.c - marks, and what a profile makes of the ops between them: every call once, under
 * the name of its entry and the shape of its map, and nothing else changed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "ops/embed.h"
#include "ops/linear.h"
#include "ops/profile.h"
#include "ops/swiglu.h"
#include "support/rig.h"

static void marks_are_set_passed_and_refused(void **state)
{
    rig *r = *state;
    csp_backend *be = NULL;
    double seconds = -1.0, back = -1.0;

    assert_int_equal(csp_backend_create(r->be->name, 2, &be), CSP_OK);
    assert_int_equal(csp_backend_elapsed(be, 0, 0, &seconds), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_backend_mark(be, -1), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_backend_mark(be, 0), CSP_OK);
    assert_int_equal(csp_backend_mark(be, 1000), CSP_OK); /* the array has grown */
    assert_int_equal(csp_backend_mark(be, 3), CSP_OK);
    assert_int_equal(csp_backend_sync(be), CSP_OK);
    assert_int_equal(csp_backend_elapsed(be, 0, 2, &seconds), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_backend_elapsed(be, 0, -1, &seconds), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_backend_elapsed(be, 0, 5000, &seconds), CSP_ERR_ARGUMENT);
    assert_true(seconds == -1.0);
    assert_int_equal(csp_backend_elapsed(be, 0, 3, &seconds), CSP_OK);
    assert_int_equal(csp_backend_elapsed(be, 3, 0, &back), CSP_OK);
    assert_true(seconds >= 0.0 && back == -seconds);
    assert_int_equal(csp_backend_elapsed(be, 1000, 3, &seconds), CSP_OK);
    assert_true(seconds >= 0.0);
    csp_backend_destroy(be);
}

/* Some ops on N = 5 rows: 4 wide, up to 6, and back. */
typedef struct work {
    csp_tensor table, token, x, y, z, m, none;
    csp_linear up, down;
} work;

static void make_work(rig *r, work *w)
{
    const int64_t narrow[] = { 5, 4 }, wide[] = { 5, 6 };

    w->table = rig_normal(r, CSP_F32, 2, (int64_t[]) { 3, 4 });
    w->token = rig_indices(r, 3, 5);
    w->up = (csp_linear) { .w = rig_normal(r, CSP_F32, 2, (int64_t[]) { 6, 4 }), .lora_scale = 1 };
    w->down =
        (csp_linear) { .w = rig_normal(r, CSP_F32, 2, (int64_t[]) { 4, 6 }), .lora_scale = 1 };
    w->x = rig_output(r, CSP_F32, 2, narrow);
    w->y = rig_output(r, CSP_F32, 2, wide);
    w->m = rig_output(r, CSP_F32, 2, wide);
    w->z = rig_output(r, CSP_F32, 2, narrow);
    w->none = csp_tensor_none();
}

static csp_status run_work(csp_backend *be, work *w)
{
    csp_tensor empty = csp_tensor_rows(&w->x, 0, 0), nothing = csp_tensor_rows(&w->y, 0, 0);

    CSP_TRY(csp_embed_fwd(be, &w->table, &w->token, &w->x));
    CSP_TRY(csp_linear_fwd(be, &w->up, &w->x, &w->none, &w->y));
    CSP_TRY(csp_linear_fwd(be, &w->up, &empty, &w->none, &nothing)); /* no call is made */
    CSP_TRY(csp_swiglu_fwd(be, &w->y, &w->y, &w->m));
    CSP_TRY(csp_linear_fwd(be, &w->down, &w->m, &w->none, &w->z));
    return csp_backend_copy(be, &w->z, &w->x);
}

static void every_call_is_recorded_by_name_and_shape(void **state)
{
    static const csp_profile_row want[] = {
        { "embed_fwd", 0, 0, 2, 0.0, 0.0 },  { "linear_fwd", 4, 6, 2, 10.0, 0.0 },
        { "swiglu_fwd", 0, 0, 2, 0.0, 0.0 }, { "linear_fwd", 6, 4, 2, 10.0, 0.0 },
        { "copy", 0, 0, 2, 2 * 80.0, 0.0 },
    };
    rig *r = *state;
    csp_profile *p, *other;
    const csp_profile_row *rows;
    int64_t count;
    double sum = 0.0;
    work w;

    rig_begin(r, 1);
    make_work(r, &w);
    assert_int_equal(csp_profile_create(r->be, &p), CSP_OK);
    assert_int_equal(csp_profile_create(r->be, &other), CSP_OK);
    assert_int_equal(csp_profile_stop(p), CSP_ERR_ARGUMENT);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(run_work(r->be, &w), CSP_OK); /* before the start: not counted */
        assert_int_equal(csp_profile_start(p), CSP_OK);
        assert_int_equal(csp_profile_start(other), CSP_ERR_ARGUMENT);
        assert_int_equal(csp_profile_stop(other), CSP_ERR_ARGUMENT);
        assert_int_equal(run_work(r->be, &w), CSP_OK);
        assert_int_equal(csp_profile_stop(p), CSP_OK);
        assert_null(r->be->profile);
    }
    rows = csp_profile_rows(p, &count);
    assert_int_equal(count, sizeof(want) / sizeof(want[0]));
    for (int64_t i = 0; i < count; i++) {
        assert_string_equal(rows[i].op, want[i].op);
        assert_int_equal(rows[i].inputs, want[i].inputs);
        assert_int_equal(rows[i].outputs, want[i].outputs);
        assert_int_equal(rows[i].calls, want[i].calls);
        assert_true(rows[i].amount == want[i].amount);
        assert_true(rows[i].seconds >= 0.0);
        sum += rows[i].seconds;
    }
    /* A device's times are floats of milliseconds: each is rounded once. */
    assert_true(sum <= csp_profile_seconds(p) * (1.0 + 16.0 * 0x1p-24));
    csp_profile_destroy(other);
    csp_profile_destroy(p);
    csp_profile_destroy(NULL);
    rig_check_guards(r);
}

static void results_and_errors_are_those_without_a_profile(void **state)
{
    rig *r = *state;
    csp_profile *p;
    const csp_profile_row *rows;
    int64_t count;
    work a, b;

    rig_begin(r, 2);
    make_work(r, &a);
    b = a;
    b.x = rig_copy(r, &a.x);
    b.y = rig_copy(r, &a.y);
    b.m = rig_copy(r, &a.m);
    b.z = rig_copy(r, &a.z);
    assert_int_equal(run_work(r->be, &a), CSP_OK);
    assert_int_equal(csp_profile_create(r->be, &p), CSP_OK);
    assert_int_equal(csp_profile_start(p), CSP_OK);
    assert_int_equal(run_work(r->be, &b), CSP_OK);
    assert_int_equal(csp_linear_fwd(r->be, &b.up, &b.y, &b.none, &b.y), CSP_ERR_SHAPE);
    assert_int_equal(csp_profile_stop(p), CSP_OK);
    rig_check_same(r, &a.x, &b.x);
    rig_check_same(r, &a.m, &b.m);
    rows = csp_profile_rows(p, &count);
    assert_int_equal(count, 5);
    assert_int_equal(rows[1].calls, 1);
    csp_profile_destroy(p);
    rig_check_guards(r);
}

static void without_memory_an_op_fails_and_the_next_does_not(void **state)
{
    rig *r = *state;
    csp_backend *be = NULL;
    csp_status status = CSP_ERR_MEMORY;
    long n;
    work w;

    rig_begin(r, 3);
    make_work(r, &w);
    assert_int_equal(csp_backend_sync(r->be), CSP_OK); /* the other one does not wait for it */
    for (n = 1; status != CSP_OK; n++) {
        csp_profile *p = NULL;

        assert_int_equal(csp_backend_create(r->be->name, 2, &be), CSP_OK);
        csp_fault_arm(n);
        status = csp_profile_create(be, &p);
        status = status == CSP_OK ? csp_profile_start(p) : status;
        status = status == CSP_OK ? run_work(be, &w) : status;
        status = status == CSP_OK ? csp_profile_stop(p) : status;
        csp_fault_arm(0);
        assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
        csp_profile_destroy(p);
        assert_null(be->profile);
        assert_int_equal(run_work(be, &w), CSP_OK);
        csp_backend_destroy(be);
        assert_true(n < 20);
    }
    assert_true(n > 4); /* the profile, its records and rows, the marks */
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marks_are_set_passed_and_refused),
        cmocka_unit_test(every_call_is_recorded_by_name_and_shape),
        cmocka_unit_test(results_and_errors_are_those_without_a_profile),
        cmocka_unit_test(without_memory_an_op_fails_and_the_next_does_not),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
