/*
 * test_sparse_pool_pick.c - which way the backward pass of max pooling goes on CUDA devices: a
 * plain function of sizes, no device.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "sparse_pool_pick.h"

static const csp_dtype storages[] = { CSP_F32, CSP_BF16 };

static void more_entries_never_turn_tiles_into_lists(void **state)
{
    const int64_t V = 128256, T = 80, B = 64;

    (void)state;
    for (int s = 0; s < 2; s++) {
        bool before = false;

        for (int64_t share = 0; share <= 64; share++) {
            const bool tiles = pick_pool_tiles(B * V / 64 * share, B * T, V, 2048, storages[s]);

            assert_true(tiles || !before);
            before = tiles;
        }
    }
}

static void nothing_known_is_lists(void **state)
{
    (void)state;
    for (int s = 0; s < 2; s++) {
        assert_false(pick_pool_tiles(0, 0, 1, 1, storages[s]));
        assert_false(pick_pool_tiles(0, 5000, 128256, 2048, storages[s]));
    }
}

/* What the cost model of the head file says: the break-even density grows with the length. */
static void raw_models_are_multiplied_and_regularised_ones_gathered(void **state)
{
    const int64_t V = 128256, D = 2048, B = 64;

    (void)state;
    assert_true(pick_pool_tiles(B * V, B * 80, V, D, CSP_BF16));
    assert_false(pick_pool_tiles(B * V / 10, B * 80, V, D, CSP_BF16));
    assert_false(pick_pool_tiles(B * V, B * 200, V, D, CSP_BF16));
    assert_true(pick_pool_tiles(B * V / 4, B * 12, V, D, CSP_BF16)); /* queries */
    assert_false(pick_pool_tiles(B * V, B * 80, V, D, CSP_F32));
    assert_true(pick_pool_tiles(B * V, B * 12, V, D, CSP_F32));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_entries_never_turn_tiles_into_lists),
        cmocka_unit_test(nothing_known_is_lists),
        cmocka_unit_test(raw_models_are_multiplied_and_regularised_ones_gathered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
