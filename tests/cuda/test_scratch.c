/*
 * test_scratch.c - memory of the CUDA backend: scratch grows, stays, and is reported where it
 * cannot be had; after its first step a training step allocates nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "device.h"
#ifdef CSPLADE_EMULATED
#include "emulator/control.h"
#endif
#include "ops/loss.h"
#include "ops/norm.h"
#include "ops/optim.h"
#include "support/rig.h"
#include "support/sparse.h"

/* Scratch of n floats on be, not the rig's backend: the partial sums of a gain's gradient. */
static csp_status take_scratch(rig *r, csp_backend *be, int64_t n)
{
    const csp_tensor x = rig_normal(r, CSP_F32, 2, (int64_t[]) { 1, n });
    const csp_tensor g = rig_normal(r, CSP_F32, 1, &n), rstd = rig_uniform(r, 1.0, 2.0, 1, x.dim);
    csp_tensor dx = rig_output(r, CSP_F32, 2, x.dim), dg = rig_accumulated(r, 1, &n);

    assert_int_equal(csp_backend_sync(r->be), CSP_OK);
    return csp_norm_bwd(be, &x, &g, &rstd, &x, NULL, &dx, &dg);
}

/* Host memory for the starts of B texts, which the head fetches where entries may not fit. */
static csp_status take_host(rig *r, csp_backend *be, int64_t B)
{
    csp_sparse out = rig_sparse_output(r, B, 1, 1);
    const csp_head head = { rig_uniform(r, 1.0, 2.0, 2, (int64_t[]) { 1, 1 }), csp_tensor_none(),
                            1.0f, CSP_POOL_MAX };
    const csp_tensor h = rig_uniform(r, -2.0, -1.0, 2, (int64_t[]) { B, 1 }); /* no entry at all */
    int64_t *length = (int64_t *)(void *)rig_doubles(r, B);
    uint8_t *keep = (uint8_t *)rig_ints(r, B);

    for (int64_t b = 0; b < B; b++) {
        length[b] = keep[b] = 1;
    }
    const csp_pool_texts texts = { rig_lengths(r, B, length), rig_input(r, CSP_U8, 1, &B, keep), B,
                                   1 };

    assert_int_equal(csp_backend_sync(r->be), CSP_OK);
    return csp_sparse_pool_fwd(be, &head, &h, &texts, 0, &out);
}

static void scratch_grows_beyond_what_is_asked_and_never_shrinks(void **state)
{
    rig *r = *state;
    csp_backend *fresh;
    cuda_block before;
    csp_memory memory;
    int64_t allocations;

    rig_begin(r, 0);
    assert_int_equal(csp_backend_create(r->be->name, 1, &fresh), CSP_OK);
    assert_int_equal(csp_backend_memory(fresh, &memory), CSP_OK);
    assert_int_equal(memory.scratch, 0);
    const cuda_state *device = cuda_state_of(fresh);

    assert_int_equal(take_scratch(r, fresh, 600), CSP_OK);
    before = device->scratch;
    allocations = device->allocations;
    assert_true(before.bytes >= 2400 * 5 / 4);
    assert_int_equal((uintptr_t)before.at % 256, 0);
    assert_int_equal(take_scratch(r, fresh, 1), CSP_OK);
    assert_int_equal(take_scratch(r, fresh, 750), CSP_OK);
    assert_ptr_equal(device->scratch.at, before.at);
    assert_int_equal(device->allocations, allocations);
    assert_int_equal(take_scratch(r, fresh, 1200), CSP_OK);
    assert_true(device->scratch.bytes >= 4800);
    assert_int_equal(csp_backend_memory(fresh, &memory), CSP_OK);
    assert_int_equal(memory.scratch, device->scratch.bytes);
    assert_int_equal(device->allocations, allocations + 1);
    assert_int_equal(take_host(r, fresh, 300), CSP_OK);
    before = device->host;
    allocations = device->allocations;
    assert_true(before.bytes >= 1204 * 5 / 4);
    assert_int_equal(take_host(r, fresh, 10), CSP_OK);
    assert_ptr_equal(device->host.at, before.at);
    assert_int_equal(device->allocations, allocations);
    assert_int_equal(take_host(r, fresh, 2000), CSP_OK);
    assert_true(device->host.bytes >= 8004);
    csp_backend_destroy(fresh);
}

static void refused_memory_is_named_and_the_backend_goes_on(void **state)
{
    static const char *const named[] = { "scratch: no memory for", "results: no page-locked" };
    rig *r = *state;

    rig_begin(r, 0);
    for (long n = 1; n <= 2; n++) {
        csp_backend *fresh;

        assert_int_equal(csp_backend_create(r->be->name, 1, &fresh), CSP_OK);
        csp_fault_arm(n);
        assert_int_equal(take_host(r, fresh, 10), CSP_ERR_MEMORY);
        csp_fault_arm(0);
        assert_non_null(strstr(csp_error_text(), named[n - 1]));
        assert_int_equal(take_host(r, fresh, 10), CSP_OK);
        csp_backend_destroy(fresh);
    }
}

/* The ops behind the representations, as a contrastive step calls them: Q queries, P passages. */
static void loss_and_update(rig *r, int64_t Q, int64_t P, double density)
{
    enum { V = 300 };
    const int64_t vocab = V;
    csp_adamw_args args = { .t = 1, .beta1 = 0.9, .beta2 = 0.999, .max_norm = 1.0 };
    csp_tensor row = rig_output(r, CSP_F64, 2, (int64_t[]) { Q, 2 });
    csp_tensor total = rig_output(r, CSP_F64, 1, &Q), loss = rig_output(r, CSP_F64, 1, &Q);
    csp_tensor value = rig_output(r, CSP_F64, 1, (int64_t[]) { 1 });
    csp_tensor squares = rig_output(r, CSP_F64, 1, (int64_t[]) { 2 });
    csp_optim_tensor tensors[2];

    const csp_sparse q = rig_sparse_random(r, Q, V, density, 0);
    const csp_sparse p = rig_sparse_random(r, P, V, density, 0);
    const csp_tensor positive = rig_indices(r, P, Q), none = csp_tensor_none();
    csp_tensor s = rig_output(r, CSP_F32, 2, (int64_t[]) { Q, P }), no_count = none;
    csp_tensor dq = rig_output(r, CSP_F32, 1, q.term.dim);
    csp_tensor dp = rig_output(r, CSP_F32, 1, p.term.dim);
    csp_tensor sum = rig_input(r, CSP_F64, 1, &vocab, rig_doubles(r, V));

    assert_int_equal(csp_scores_fwd(r->be, &q, Q, &p, P, 1.0f, &s), CSP_OK);
    assert_int_equal(csp_nce_scores(r->be, &s, &positive, &none, &row), CSP_OK);
    assert_int_equal(csp_nce_sum(r->be, &s, &none, &row, &total), CSP_OK);
    assert_int_equal(csp_nce_grad(r->be, &s, &positive, &none, &row, &total, s.dim[0], &s, &loss),
                     CSP_OK);
    assert_int_equal(csp_scores_bwd(r->be, &s, &q, &p, 1.0f, &dq, &dp), CSP_OK);
    assert_int_equal(csp_column_sums(r->be, &p, P, &sum, &no_count), CSP_OK);
    assert_int_equal(csp_regularize(r->be, CSP_REG_FLOPS, &p, P, &sum, P, 0.1f, &dp, &value),
                     CSP_OK);
    for (int i = 0; i < 2; i++) {
        tensors[i] = (csp_optim_tensor) { rig_accumulated(r, 1, &vocab),
                                          rig_accumulated(r, 1, &vocab),
                                          rig_accumulated(r, 1, &vocab),
                                          rig_input(r, CSP_F32, 1, &vocab, rig_doubles(r, V)),
                                          csp_tensor_none(),
                                          0,
                                          true };
    }
    assert_int_equal(csp_grad_squares(r->be, tensors, 2, &squares), CSP_OK);
    args.squares = squares;
    assert_int_equal(csp_adamw(r->be, tensors, 2, &args), CSP_OK);
}

/* Allocations so far, and bytes in use where that can be asked. */
static void count_memory(const rig *r, uint64_t counted[2])
{
#ifdef CSPLADE_EMULATED
    (void)r;
    counted[0] = emu_allocations();
    counted[1] = emu_device_bytes();
#else
    counted[0] = (uint64_t)cuda_state_of(r->be)->allocations;
    counted[1] = 0;
#endif
}

static void after_the_first_step_nothing_is_allocated(void **state)
{
    rig *r = *state;
    uint64_t before[2], after[2];

    rig_begin(r, 0);
    loss_and_update(r, 5, 40, 0.9);
    loss_and_update(r, 5, 40, 0.02);
    count_memory(r, before);
    for (int64_t step = 1; step < 3; step++) {
        rig_begin(r, (uint64_t)step);
        loss_and_update(r, 5, 40, 0.8);
        loss_and_update(r, 3, 40 - step, 0.01);
    }
    count_memory(r, after);
    assert_memory_equal(after, before, sizeof(before));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scratch_grows_beyond_what_is_asked_and_never_shrinks),
        cmocka_unit_test(refused_memory_is_named_and_the_backend_goes_on),
        cmocka_unit_test(after_the_first_step_nothing_is_allocated),
    };
    char device[] = "cuda:0", *arguments[] = { argv[0], device, NULL };

    (void)argc;
    return rig_main(2, arguments, tests, sizeof(tests) / sizeof(tests[0]));
}
