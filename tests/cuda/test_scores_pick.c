/*
 * test_scores_pick.c - which way products of sparse rows go on CUDA devices, and in what pieces:
 * plain functions of sizes, no device.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "scores_pick.h"

/* A toy, MS MARCO's shape, many passages, many of both, one of each. */
static const struct {
    int64_t Q, P, V;
} products[] = {
    { 8, 64, 8192 }, { 64, 512, 128256 }, { 64, 16384, 128256 }, { 4096, 4096, 32768 }, { 1, 1, 1 },
};
enum { PRODUCTS = sizeof(products) / sizeof(products[0]) };

static void fewer_entries_never_turn_scores_from_gathered_to_dense(void **state)
{
    (void)state;
    for (int i = 0; i < PRODUCTS; i++) {
        const int64_t Q = products[i].Q, P = products[i].P, V = products[i].V;
        bool before = true;

        for (int64_t share = 0; share <= 64; share++) {
            const bool gathered =
                pick_scores_gathered(Q, P, V, Q * V / 64 * share, P * V / 64 * share);

            assert_true(before || !gathered);
            before = gathered;
        }
        assert_true(pick_scores_gathered(Q, P, V, 0, 0));
    }
}

/* What training needs: dense in the first steps, where nearly every term is active, and gathered
 * once 50 terms of a query and 200 of a passage are left. */
static void dense_rows_are_multiplied_and_sparse_rows_gathered(void **state)
{
    (void)state;
    for (int i = 0; i < PRODUCTS - 1; i++) {
        const int64_t Q = products[i].Q, P = products[i].P, V = products[i].V;

        assert_false(pick_scores_gathered(Q, P, V, Q * V, P * V));
        assert_true(pick_scores_gathered(Q, P, V, Q * 50, P * 200));
    }
}

static void pieces_cover_everything_and_fit(void **state)
{
    static const int64_t sizes[] = { 1, 31, 32, 33, 64, 511, 65536, 131072, 4000000 };
    enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

    (void)state;
    for (int i = 0; i < SIZES; i++) {
        for (int j = 0; j < SIZES; j++) {
            const int64_t rows = pick_scores_rows(sizes[i], sizes[j]);
            const int64_t terms = pick_scores_terms(sizes[i], sizes[j]);

            assert_true(rows == sizes[i] || (rows < sizes[i] && rows >= 32 && rows % 32 == 0));
            assert_true(rows * sizes[j] <= SCORES_PIECE || rows <= 32);
            assert_true(terms == sizes[j] || (terms < sizes[j] && terms >= 64 && terms % 64 == 0));
            assert_true(terms * sizes[i] <= SCORES_PIECE || terms <= 64);
        }
    }
    assert_int_equal(pick_scores_terms(0, 5), 5);
    assert_int_equal(pick_scores_rows(5, 0), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fewer_entries_never_turn_scores_from_gathered_to_dense),
        cmocka_unit_test(dense_rows_are_multiplied_and_sparse_rows_gathered),
        cmocka_unit_test(pieces_cover_everything_and_fit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
