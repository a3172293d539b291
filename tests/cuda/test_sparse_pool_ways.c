/*
 * test_sparse_pool_ways.c - the ways of the head's backward pass on a CUDA device: which one is
 * taken where none is chosen, and cuSPARSE, which a machine may lack and which may fail; of the
 * forward pass the one kernel, whose calls may fail.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "emulator/control.h"
#include "support/pool.h"
#include "support/sparse.h"

/* dh, (N,D), of random rows by a way on a backend, entries being said to be as many. */
static csp_status gradient(rig *r, csp_backend *be, const pool_setup *s, const csp_sparse *rows,
                           csp_pool_way way, int64_t entries, csp_tensor *dh, csp_tensor *de)
{
    csp_sparse_pool_grad g = { .rows = rows,
                               .dw = rig_uniform(r, 1.0, 1.0, 1, rows->term.dim),
                               .h = s->h,
                               .texts = s->texts,
                               .entries = entries };

    *dh = rig_output(r, s->h.dtype, 2, s->h.dim);
    *de = rig_input(r, CSP_F32, 2, s->head.e.dim,
                    rig_doubles(r, s->head.e.dim[0] * s->head.e.dim[1]));
    *de = rig_copy(r, de);
    g.dh = *dh;
    g.de = *de;
    assert_int_equal(csp_backend_sync(r->be), CSP_OK); /* be does not wait for the rig's */
    assert_int_equal(csp_sparse_pool_choose(be, way), CSP_OK);
    CSP_TRY(csp_sparse_pool_bwd(be, &s->head, &g));
    return csp_backend_sync(be);
}

/* Few entries are gathered, many multiplied: to the bits of the way that is chosen by name. */
static void the_number_of_entries_picks_the_way_in(rig *r, csp_dtype S)
{
    static const struct {
        int64_t entries;
        csp_pool_way way;
    } cases[] = { { 0, CSP_POOL_LISTS },
                  { 1, CSP_POOL_LISTS },
                  { (int64_t)1 << 40, CSP_POOL_TILES } };

    for (int i = 0; i < 3; i++) {
        csp_tensor dh, de, want_dh, want_de;

        rig_begin(r, 3);
        const pool_setup s = pool_random(r, 3, CSP_POOL_MAX, S);
        const csp_sparse rows = rig_sparse_random(r, s.ref.B, s.ref.V, 0.5, 1);

        assert_int_equal(gradient(r, r->be, &s, &rows, CSP_POOL_AUTO, cases[i].entries, &dh, &de),
                         CSP_OK);
        assert_int_equal(gradient(r, r->be, &s, &rows, cases[i].way, 0, &want_dh, &want_de),
                         CSP_OK);
        rig_check_same(r, &dh, &want_dh);
        rig_check_same(r, &de, &want_de);
        assert_int_equal(csp_sparse_pool_choose(r->be, CSP_POOL_AUTO), CSP_OK);
    }
}

static void the_number_of_entries_picks_the_way(void **state)
{
    rig_each_storage(*state, the_number_of_entries_picks_the_way_in);
}

static void a_missing_cusparse_is_said_in_words(void **state)
{
    rig *r = *state;
    csp_backend *fresh;
    csp_tensor dh, de;

    rig_begin(r, 1);
    const pool_setup s = pool_random(r, 1, CSP_POOL_MAX, CSP_F32);
    const csp_sparse rows = rig_sparse_random(r, s.ref.B, s.ref.V, 0.5, 1);

    assert_int_equal(csp_backend_create(r->be->name, 1, &fresh), CSP_OK);
    assert_int_equal(setenv("CSP_EMU_CUSPARSE", "0", 1), 0);
    assert_int_equal(csp_sparse_pool_choose(fresh, CSP_POOL_CUSPARSE), CSP_ERR_DEVICE);
    assert_non_null(strstr(csp_error_text(), "cuda:0: cuSPARSE was asked for and cannot be opened: "
                                             "libcusparse.so."));
    assert_int_equal(gradient(r, fresh, &s, &rows, CSP_POOL_AUTO, 0, &dh, &de), CSP_OK);
    assert_int_equal(unsetenv("CSP_EMU_CUSPARSE"), 0);
    assert_int_equal(gradient(r, fresh, &s, &rows, CSP_POOL_CUSPARSE, 0, &dh, &de), CSP_OK);
    csp_backend_destroy(fresh);
}

/* Every call that may fail does once; the next gradient is whole. */
static void failures_of_cusparse_are_reported_and_passed(void **state)
{
    rig *r = *state;
    csp_status status = CSP_ERR_DEVICE;
    csp_tensor dh, de, want_dh, want_de;

    rig_begin(r, 2);
    const pool_setup s = pool_random(r, 2, CSP_POOL_MAX, CSP_F32);
    const csp_sparse rows = rig_sparse_random(r, s.ref.B, s.ref.V, 0.5, 1);
    csp_sparse_pool_grad g = { .rows = &rows,
                               .dw = rig_uniform(r, 1.0, 1.0, 1, rows.term.dim),
                               .h = s.h,
                               .texts = s.texts,
                               .dh = rig_output(r, CSP_F32, 2, s.h.dim) };

    assert_int_equal(gradient(r, r->be, &s, &rows, CSP_POOL_CUSPARSE, 0, &want_dh, &want_de),
                     CSP_OK);
    for (int n = 1; status != CSP_OK; n++) {
        csp_backend *fresh;

        assert_int_equal(csp_backend_create(r->be->name, 1, &fresh), CSP_OK);
        emu_fail_call(n);
        status = csp_sparse_pool_choose(fresh, CSP_POOL_CUSPARSE);
        status = status == CSP_OK ? csp_sparse_pool_bwd(fresh, &s.head, &g) : status;
        emu_fail_call(0);
        assert_true(status == CSP_OK || status == CSP_ERR_DEVICE || status == CSP_ERR_MEMORY);
        assert_true(n < 60);
        assert_int_equal(gradient(r, fresh, &s, &rows, CSP_POOL_CUSPARSE, 0, &dh, &de), CSP_OK);
        rig_check_same(r, &dh, &want_dh);
        rig_check_same(r, &de, &want_de);
        csp_backend_destroy(fresh);
    }
    assert_int_equal(csp_sparse_pool_choose(r->be, CSP_POOL_AUTO), CSP_OK);
}

/* As much as it may take it gets, no less; more is refused before the product. */
static void the_memory_of_cusparse_has_a_limit(void **state)
{
    const uint64_t limit = CSP_POOL_CUSPARSE_BYTES;
    rig *r = *state;
    csp_tensor dh, de;
    csp_backend *fresh;
    uint64_t before;

    rig_begin(r, 5);
    const pool_setup s = pool_random(r, 2, CSP_POOL_MAX, CSP_F32);
    const csp_sparse rows = rig_sparse_random(r, s.ref.B, s.ref.V, 0.5, 1);

    assert_int_equal(csp_backend_create(r->be->name, 1, &fresh), CSP_OK);
    assert_int_equal(gradient(r, fresh, &s, &rows, CSP_POOL_CUSPARSE, 0, &dh, &de), CSP_OK);
    before = emu_device_bytes();
    emu_cusparse_ask(limit);
    assert_int_equal(gradient(r, fresh, &s, &rows, CSP_POOL_CUSPARSE, 0, &dh, &de), CSP_OK);
    assert_true(emu_device_bytes() - before <= limit);
    emu_cusparse_ask(limit + 1);
    assert_int_equal(gradient(r, fresh, &s, &rows, CSP_POOL_CUSPARSE, 0, &dh, &de), CSP_ERR_MEMORY);
    assert_non_null(strstr(csp_error_text(), "cuSPARSE asks for 268435457 bytes to multiply"));
    emu_cusparse_ask(0);
    csp_backend_destroy(fresh);
}

static void sum_pooling_goes_by_tiles_only(void **state)
{
    rig *r = *state;
    csp_tensor dh, de;

    rig_begin(r, 4);
    const pool_setup s = pool_random(r, 1, CSP_POOL_SUM, CSP_F32);
    const csp_sparse rows = rig_sparse_random(r, s.ref.B, s.ref.V, 0.5, 1);

    assert_int_equal(gradient(r, r->be, &s, &rows, CSP_POOL_LISTS, 0, &dh, &de),
                     CSP_ERR_UNSUPPORTED);
    assert_non_null(strstr(csp_error_text(), "sum pooling goes by tiles only"));
    assert_int_equal(gradient(r, r->be, &s, &rows, CSP_POOL_TILES, 0, &dh, &de), CSP_OK);
    assert_int_equal(csp_sparse_pool_choose(r->be, CSP_POOL_AUTO), CSP_OK);
}

/* Every call of the fused forward pass that may fail does once; the next pass is whole. */
static void failures_of_the_fused_forward_are_reported_and_passed(void **state)
{
    enum { ROWS = 10, TERMS = 130, WIDTH = 16, TEXTS = 3 };
    rig *r = *state;
    csp_status status = CSP_ERR_DEVICE;

    rig_begin(r, 6);
    const pool_setup s = pool_of_tensors(r, pool_whole_numbers(r, CSP_BF16, -2, 2, ROWS, WIDTH),
                                         pool_whole_numbers(r, CSP_BF16, -2, 2, TERMS, WIDTH),
                                         rig_cuts(r, TEXTS, ROWS), rig_mask(r, ROWS),
                                         csp_tensor_none(), 1.0f, CSP_POOL_MAX);
    const csp_sparse want = rig_sparse_output(r, TEXTS, TEXTS * TERMS, TERMS),
                     got = rig_sparse_output(r, TEXTS, TEXTS * TERMS, TERMS);
    csp_sparse out = want;

    assert_int_equal(pool_forward(r, &s, 0, &out), CSP_OK); /* by tiles */
    assert_int_equal(csp_backend_sync(r->be), CSP_OK);
    out = got;
    for (int n = 1; status != CSP_OK; n++) {
        csp_backend *fresh;

        assert_int_equal(csp_backend_create(r->be->name, 1, &fresh), CSP_OK);
        assert_int_equal(csp_sparse_pool_choose_forward(fresh, CSP_POOL_FORWARD_FUSED), CSP_OK);
        emu_fail_call(n);
        status = csp_sparse_pool_fwd(fresh, &s.head, &s.h, &s.texts, 0, &out);
        emu_fail_call(0);
        assert_true(status == CSP_OK || status == CSP_ERR_DEVICE || status == CSP_ERR_MEMORY);
        assert_true(n < 60);
        assert_int_equal(csp_sparse_pool_fwd(fresh, &s.head, &s.h, &s.texts, 0, &out), CSP_OK);
        assert_int_equal(csp_backend_sync(fresh), CSP_OK);
        rig_check_same(r, &want.row_ptr, &got.row_ptr);
        assert_memory_equal(rig_sparse_argmax(r, &want, TEXTS), rig_sparse_argmax(r, &got, TEXTS),
                            TEXTS * TERMS * sizeof(int32_t));
        csp_backend_destroy(fresh);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_number_of_entries_picks_the_way),
        cmocka_unit_test(a_missing_cusparse_is_said_in_words),
        cmocka_unit_test(failures_of_cusparse_are_reported_and_passed),
        cmocka_unit_test(the_memory_of_cusparse_has_a_limit),
        cmocka_unit_test(sum_pooling_goes_by_tiles_only),
        cmocka_unit_test(failures_of_the_fused_forward_are_reported_and_passed),
    };
    char device[] = "cuda:0", *arguments[] = { argv[0], device, NULL };

    (void)argc;
    return rig_main(2, arguments, tests, sizeof(tests) / sizeof(tests[0]));
}
