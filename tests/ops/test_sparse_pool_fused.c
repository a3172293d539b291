/*
 * test_sparse_pool_fused.c - the forward pass that is one kernel (ops/sparse_pool.h,
 * CSP_POOL_FORWARD_FUSED): against the bits of tiles and against the reference, where a backend has
 * it; what one says that has it not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "support/compare.h"
#include "support/pool.h"
#include "support/sparse.h"

/* Chooses the one kernel for all calls; false on a backend that has it not. */
static bool takes_fused(rig *r)
{
    const csp_status status = csp_sparse_pool_choose_forward(r->be, CSP_POOL_FORWARD_FUSED);

    assert_true(status == CSP_OK || status == CSP_ERR_UNSUPPORTED);
    return status == CSP_OK;
}

/*
 * Edges of its tiles of 128 terms and 256 rows, 64 columns of D at a time: one element; one more
 * than a tile, of each; texts across tiles; more parts of D than twice the stages that hold them;
 * more texts in a tile than a warp has lanes, more tiles of terms than go beside one another, and
 * more texts than one table holds where there is little room.
 */
static const struct {
    int64_t B, N, V, D;
    bool exclude;
} fused_cases[] = { { 1, 1, 1, 8, false },
                    { 3, 257, 129, 72, true },
                    { 5, 520, 260, 600, false },
                    { 70, 300, 4100, 16, true } };
enum { FUSED_CASES = 4 };

static csp_tensor fused_keep(rig *r, int64_t N, bool all)
{
    uint8_t *keep = (uint8_t *)rig_ints(r, N);

    memset(keep, 1, (size_t)N);
    return all ? rig_input(r, CSP_U8, 1, &N, keep) : rig_mask(r, N);
}

static pool_setup fused_setup(rig *r, int i, bool whole, bool all)
{
    const int64_t B = fused_cases[i].B, N = fused_cases[i].N, V = fused_cases[i].V,
                  D = fused_cases[i].D;

    rig_begin(r, (uint64_t)i);
    const csp_tensor h = whole ? pool_whole_numbers(r, CSP_BF16, -3, 3, N, D)
                               : rig_normal(r, CSP_BF16, 2, (int64_t[]) { N, D }),
                     e = whole ? pool_whole_numbers(r, CSP_BF16, -3, 3, V, D)
                               : rig_normal(r, CSP_BF16, 2, (int64_t[]) { V, D });
    return pool_of_tensors(r, h, e, rig_cuts(r, B, N), fused_keep(r, N, all),
                           pool_some_terms(r, V, fused_cases[i].exclude), 0.5f, CSP_POOL_MAX);
}

static void check_same_rows(rig *r, const csp_sparse *a, const csp_sparse *b)
{
    const int64_t entries = rig_sparse_entries(r, a, a->row_ptr.dim[0] - 1);
    const csp_tensor *const of_a[] = { &a->term, &a->weight, &a->argmax };
    const csp_tensor *const of_b[] = { &b->term, &b->weight, &b->argmax };

    rig_check_same(r, &a->row_ptr, &b->row_ptr);
    for (int i = 0; i < 3; i++) {
        const csp_tensor mine = csp_tensor_rows(of_a[i], 0, entries),
                         other = csp_tensor_rows(of_b[i], 0, entries);

        rig_check_same(r, &mine, &other);
    }
}

/*
 * Whole numbers, whose sums are exact in any order, and have many ties: all the bits of the tiles.
 */
static void fused_gives_the_bits_of_tiles(void **state)
{
    rig *r = *state;

    if (!takes_fused(r)) {
        skip();
    }
    for (int i = 0; i < 2 * FUSED_CASES - 1; i++) {
        const bool last = i / 2 == FUSED_CASES - 1; /* large: once is enough */
        const pool_setup s = fused_setup(r, i / 2, true, i % 2 == 0 && !last);
        const int64_t B = s.ref.B, V = s.ref.V;
        csp_sparse tiles = rig_sparse_output(r, B, B * V, V),
                   fused = rig_sparse_output(r, B, B * V, V), tight;

        assert_int_equal(csp_sparse_pool_choose_forward(r->be, CSP_POOL_FORWARD_TILES), CSP_OK);
        assert_int_equal(pool_forward(r, &s, 0, &tiles), CSP_OK);
        assert_true(takes_fused(r));
        assert_int_equal(pool_forward(r, &s, 0, &fused), CSP_OK);
        check_same_rows(r, &tiles, &fused);
        if (last) {
            tight = rig_sparse_output(r, B, rig_sparse_entries(r, &tiles, B), V);
            assert_int_equal(pool_forward(r, &s, 0, &tight), CSP_OK);
            check_same_rows(r, &tiles, &tight);
        }
        rig_check_guards(r);
    }
    assert_int_equal(csp_sparse_pool_choose_forward(r->be, CSP_POOL_FORWARD_AUTO), CSP_OK);
}

/* Weights within the limit of bf16, and the same bits twice. */
static void fused_matches_the_reference(void **state)
{
    rig *r = *state;

    if (!takes_fused(r)) {
        skip();
    }
    for (int i = 0; i < 4; i++) {
        const pool_setup s = fused_setup(r, i / 2, false, i % 2 == 0);
        const int64_t B = s.ref.B, V = s.ref.V, D = s.ref.D;
        csp_sparse w = rig_sparse_output(r, B, B * V, V), again = rig_sparse_output(r, B, B * V, V);
        double *want = rig_doubles(r, B * V), *mag = rig_doubles(r, B * V);

        ref_pool_max_fwd(&s.ref, want, NULL, mag);
        assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
        assert_int_equal(pool_forward(r, &s, 0, &again), CSP_OK);
        assert_true(worst_ratio_f64("w", rig_sparse_dense(r, &w, B, NULL), want, mag, B * V,
                                    stored_bound(CSP_BF16, (double)(D + 4))) <= 1.0);
        check_same_rows(r, &w, &again);
        rig_check_guards(r);
    }
    assert_int_equal(csp_sparse_pool_choose_forward(r->be, CSP_POOL_FORWARD_AUTO), CSP_OK);
}

static void what_fused_cannot_do_is_said(void **state)
{
    static const struct {
        csp_dtype S;
        csp_pool_kind pooling;
        int64_t D;
        const char *text;
    } cases[] = { { CSP_F32, CSP_POOL_MAX, 16, "not f32, max pooling, 16" },
                  { CSP_BF16, CSP_POOL_SUM, 16, "not bf16, sum pooling, 16" },
                  { CSP_BF16, CSP_POOL_MAX, 20, "not bf16, max pooling, 20" } };
    rig *r = *state;

    assert_int_equal(
        csp_sparse_pool_choose_forward(r->be, (csp_pool_forward)(CSP_POOL_FORWARD_FUSED + 1)),
        CSP_ERR_ARGUMENT);
    if (!takes_fused(r)) {
        assert_non_null(strstr(csp_error_text(), strcmp(r->be->name, "cpu") == 0
                                                     ? "device.head_forward is of a GPU"
                                                     : "compute capability 9.0"));
        return;
    }
    for (int i = 0; i < 3; i++) {
        rig_begin(r, 0);
        csp_sparse w = rig_sparse_output(r, 1, 3, 3);
        const pool_setup s =
            pool_of_tensors(r, pool_whole_numbers(r, cases[i].S, -1, 1, 2, cases[i].D),
                            pool_whole_numbers(r, cases[i].S, -1, 1, 3, cases[i].D),
                            rig_lengths(r, 1, (int64_t[]) { 2 }), rig_mask(r, 2), csp_tensor_none(),
                            1.0f, cases[i].pooling);

        assert_int_equal(pool_forward(r, &s, 0, &w), CSP_ERR_UNSUPPORTED);
        assert_non_null(strstr(csp_error_text(), cases[i].text));
        rig_check_untouched(r, &w.row_ptr);
    }
    assert_int_equal(csp_sparse_pool_choose_forward(r->be, CSP_POOL_FORWARD_AUTO), CSP_OK);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fused_gives_the_bits_of_tiles),
        cmocka_unit_test(fused_matches_the_reference),
        cmocka_unit_test(what_fused_cannot_do_is_said),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
