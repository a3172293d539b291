/*
 * test_device.c - the CUDA backend as programs meet it: none there, chosen by name or auto, one
 * that cannot be used or is too small, and a kernel that faults, named where every op waits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device.h"
#include "emulator/control.h"
#include "ops/attention.h"
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

/* Among the calls of opening that may fail are those that say so. */
static void a_device_that_cannot_be_used_is_refused_in_words(void **state)
{
    static const char *const words[] = {
        "cuda:0: the driver says that it is busy or unavailable",
        "cuda:0: this build has no kernels for compute capability 9.0: no kernel image",
    };
    csp_status status = CSP_ERR_DEVICE;
    int said[2] = { 0, 0 };
    csp_backend *be = NULL;

    (void)state;
    for (int call = 1; status != CSP_OK; call++) {
        emu_fail_call(call);
        status = csp_backend_create("cuda:0", 1, &be);
        emu_fail_call(0);
        for (int i = 0; status != CSP_OK && i < 2; i++) {
            said[i] += strstr(csp_error_text(), words[i]) != NULL;
        }
        assert_in_range(call, 1, 60);
    }
    csp_backend_destroy(be);
    assert_int_equal(said[0], 1);
    assert_int_equal(said[1], 1);
}

/* Long texts of heads of 128 in float32 take more of a block than a device of 8.6 has. */
static void heads_for_which_a_device_is_too_small_are_refused_in_words(void **state)
{
    enum { N = 300, E = 128 };
    const int64_t rows[] = { N, E }, angles[] = { N, E / 2 }, two = 2;
    csp_attention a = { .H = 1, .G = 1, .E = E, .longest = N, .order = csp_tensor_none() };
    csp_tensor q, k, v, o, lse;
    csp_arena arena = { 0 };
    csp_backend *be;

    (void)state;
    assert_int_equal(csp_backend_create("cuda:0", 1, &be), CSP_OK);
    assert_int_equal(csp_backend_reserve(be, 1 << 20, &arena), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 2, rows, &q), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 2, rows, &k), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 2, rows, &v), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 2, rows, &o), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 2, (int64_t[]) { N, 1 }, &lse), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 2, angles, &a.cos), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 2, angles, &a.sin), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_I32, 1, &two, &a.seq_start), CSP_OK);
    cuda_state_of(be)->shared_limit = 99 * 1024;
    assert_int_equal(csp_attention_fwd(be, &a, &q, &k, &v, &o, &lse), CSP_ERR_UNSUPPORTED);
    assert_non_null(strstr(csp_error_text(), "heads of width 128 take 118784 bytes"));
    csp_backend_release(be, &arena);
    csp_backend_destroy(be);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_device_auto_takes_the_cpu_and_cuda_is_refused),
        cmocka_unit_test(with_a_device_auto_takes_it),
        cmocka_unit_test(a_device_that_cannot_be_used_is_refused_in_words),
        cmocka_unit_test(heads_for_which_a_device_is_too_small_are_refused_in_words),
        cmocka_unit_test(a_kernel_that_faults_is_named_where_every_op_waits),
    };

    (void)argc;
    (void)argv;
    devices_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
