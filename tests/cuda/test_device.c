/*
 * test_device.c - the CUDA backend as programs meet it: none there, chosen by name or auto, and a
 * kernel that faults, named where every op waits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "emulator/control.h"
#include "ops/embed.h"
#include "ops/norm.h"
#include "support/devices.h"

static void without_a_device_auto_takes_the_cpu_and_cuda_is_refused(void **state)
{
    csp_backend *be = NULL;

    (void)state;
    assert_int_equal(setenv("CSP_EMU_DEVICES", "0", 1), 0);
    assert_int_equal(csp_backend_create("cuda", 1, &be), CSP_ERR_DEVICE);
    assert_non_null(strstr(csp_error_text(), "cuda:0: the NVIDIA driver sees no device"));
    assert_int_equal(csp_backend_create("cuda:1", 1, &be), CSP_ERR_DEVICE);
    assert_int_equal(csp_backend_create("auto", 1, &be), CSP_OK);
    assert_string_equal(be->name, "cpu");
    csp_backend_destroy(be);
    assert_int_equal(unsetenv("CSP_EMU_DEVICES"), 0);
}

static void with_a_device_auto_takes_it(void **state)
{
    csp_backend *be = NULL;

    (void)state;
    assert_int_equal(csp_backend_create("auto", 1, &be), CSP_OK);
    assert_string_equal(be->name, "cuda:0");
    csp_backend_destroy(be);
}

/* Embedding and norm, the kernel of the first of which faults; the op that reports it. */
static csp_status two_ops(bool sync_every_op, const char **reported)
{
    enum { N = 2, D = 4 };
    const int64_t shape[] = { N, D }, rows = N, width = D;
    const csp_tensor none = csp_tensor_none();
    csp_tensor table, token, x, g, y, rstd, no_sum = csp_tensor_none();
    csp_arena arena = { 0 };
    csp_backend *be;
    csp_status status;

    assert_int_equal(csp_backend_create("cuda:0", 1, &be), CSP_OK);
    be->sync_every_op = sync_every_op;
    assert_int_equal(csp_backend_reserve(be, 4096, &arena), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 2, shape, &table), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_I32, 1, &rows, &token), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 2, shape, &x), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 1, &width, &g), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 2, shape, &y), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 1, &rows, &rstd), CSP_OK);
    assert_int_equal(csp_backend_zero(be, &table), CSP_OK);
    assert_int_equal(csp_backend_zero(be, &token), CSP_OK);
    assert_int_equal(csp_backend_zero(be, &g), CSP_OK);
    assert_int_equal(csp_backend_sync(be), CSP_OK);
    emu_fault_kernel(1);
    *reported = "embed";
    status = csp_embed_fwd(be, &table, &token, &x);
    if (status == CSP_OK) {
        *reported = "norm";
        status = csp_norm_fwd(be, &x, &none, &g, 1e-5f, &no_sum, &rstd, &y);
    }
    if (status == CSP_OK) {
        *reported = "sync";
        status = csp_backend_sync(be);
    }
    emu_fault_kernel(0);
    csp_backend_release(be, &arena);
    csp_backend_destroy(be);
    return status;
}

static void a_kernel_that_faults_is_named_where_every_op_waits(void **state)
{
    const char *reported;

    (void)state;
    assert_int_equal(two_ops(true, &reported), CSP_ERR_DEVICE);
    assert_string_equal(reported, "embed");
    assert_non_null(strstr(csp_error_text(), "the last op enqueued was embed"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_device_auto_takes_the_cpu_and_cuda_is_refused),
        cmocka_unit_test(with_a_device_auto_takes_it),
        cmocka_unit_test(a_kernel_that_faults_is_named_where_every_op_waits),
    };

    (void)argc;
    (void)argv;
    devices_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
