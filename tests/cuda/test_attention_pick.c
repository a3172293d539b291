/* test_attention_pick.c - attention_pick.h: which kernels a batch gets, on the host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention_pick.h"

/* Shared memory of a block: compute capability 9.0, 8.0 and 8.6. */
static const size_t NEW = 232448, OLD = 166912, SMALL = 101376;

static void heads_are_rounded_up_to_a_width_that_kernels_exist_for(void **state)
{
    (void)state;
    assert_int_equal(attention_width(2), 32);
    assert_int_equal(attention_width(32), 32);
    assert_int_equal(attention_width(34), 64);
    assert_int_equal(attention_width(64), 64);
    assert_int_equal(attention_width(128), 128);
    assert_int_equal(attention_width(130), 256);
    assert_int_equal(attention_width(256), 256);
    assert_int_equal(attention_width(258), 0);
}

static void texts_are_short_while_their_keys_fit_on_chip(void **state)
{
    (void)state;
    for (int backward = 0; backward < 2; backward++) {
        assert_int_equal(pick_attention_tiles(64, 1, backward != 0, NEW), 1);
        assert_int_equal(pick_attention_tiles(64, 64, backward != 0, NEW), 1);
        assert_int_equal(pick_attention_tiles(64, 65, backward != 0, NEW), 2);
        assert_int_equal(pick_attention_tiles(64, 256, backward != 0, NEW), 4);
        assert_int_equal(pick_attention_tiles(64, 257, backward != 0, NEW), 0);
        assert_int_equal(pick_attention_tiles(128, 129, backward != 0, NEW), 0);
        assert_int_equal(pick_attention_tiles(256, 33, backward != 0, NEW), 0);
    }
    assert_int_equal(pick_attention_tiles(128, 128, false, NEW), 2);
    assert_int_equal(pick_attention_tiles(128, 128, true, NEW), 2);
    assert_int_equal(pick_attention_tiles(128, 128, true, OLD), 0);
    assert_int_equal(pick_attention_tiles(64, 192, true, OLD), 3);
    assert_int_equal(pick_attention_tiles(64, 256, true, OLD), 0);
}

static void tensor_cores_take_heads_of_some_widths(void **state)
{
    (void)state;
    for (int64_t E = 2; E <= 258; E += 2) {
        assert_int_equal(attention_mma_width(E),
                         E == 16 || E == 32 || E == 64 || E == 96 || E == 128);
    }
}

static void tensor_core_keys_fit_beside_the_queries(void **state)
{
    (void)state;
    assert_int_equal(pick_attention_mma_blocks(64, 1, SMALL), 2);
    assert_int_equal(pick_attention_mma_blocks(64, 33, SMALL), 4);
    assert_int_equal(pick_attention_mma_blocks(64, 288, SMALL), 18);
    assert_int_equal(pick_attention_mma_blocks(64, 289, SMALL), 0);
    assert_int_equal(pick_attention_mma_blocks(64, 736, NEW), 46);
    assert_int_equal(pick_attention_mma_blocks(64, 737, NEW), 0);
    assert_int_equal(pick_attention_mma_blocks(128, 224, OLD), 14);
    assert_int_equal(pick_attention_mma_blocks(128, 225, OLD), 0);
    assert_int_equal(pick_attention_mma_blocks(128, (int64_t)1 << 30, NEW), 0);
    assert_int_equal(pick_attention_mma_blocks(128, 1, 10000), 0);
}

static void a_warp_has_16_keys_in_backward_on_tensor_cores(void **state)
{
    (void)state;
    assert_int_equal(pick_attention_mma_warps(64, 1, SMALL), 4);
    assert_int_equal(pick_attention_mma_warps(64, 64, SMALL), 4);
    assert_int_equal(pick_attention_mma_warps(64, 65, SMALL), 8);
    assert_int_equal(pick_attention_mma_warps(64, 128, SMALL), 8);
    assert_int_equal(pick_attention_mma_warps(64, 129, SMALL), 0);
    assert_int_equal(pick_attention_mma_warps(64, 129, OLD), 16);
    assert_int_equal(pick_attention_mma_warps(64, 256, OLD), 16);
    assert_int_equal(pick_attention_mma_warps(64, 257, NEW), 0);
    assert_int_equal(pick_attention_mma_warps(128, 128, SMALL), 8);
    assert_int_equal(pick_attention_mma_warps(128, 129, NEW), 0);
    assert_int_equal(pick_attention_mma_warps(16, 1, SMALL), 16);
    assert_int_equal(pick_attention_mma_warps(16, 256, SMALL), 16);
    assert_int_equal(pick_attention_mma_warps(32, 257, NEW), 0);
}

static void few_texts_are_split_so_that_the_device_is_not_idle(void **state)
{
    (void)state;
    assert_int_equal(pick_attention_split(4096, 8, 132), 1);
    assert_int_equal(pick_attention_split(264, 8, 132), 1);
    assert_int_equal(pick_attention_split(263, 8, 132), 2);
    assert_int_equal(pick_attention_split(8, 100, 132), 33);
    assert_int_equal(pick_attention_split(8, 5, 132), 5);
}

static void chunks_keep_scratch_memory_within_its_bound(void **state)
{
    (void)state;
    assert_int_equal(pick_attention_chunk(128, 512, 4096, 64 << 20), 32);
    assert_int_equal(pick_attention_chunk(20, 512, 4096, 64 << 20), 20);
    assert_int_equal(pick_attention_chunk(20, (int64_t)1 << 20, 4096, 64 << 20), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_rounded_up_to_a_width_that_kernels_exist_for),
        cmocka_unit_test(texts_are_short_while_their_keys_fit_on_chip),
        cmocka_unit_test(tensor_cores_take_heads_of_some_widths),
        cmocka_unit_test(tensor_core_keys_fit_beside_the_queries),
        cmocka_unit_test(a_warp_has_16_keys_in_backward_on_tensor_cores),
        cmocka_unit_test(few_texts_are_split_so_that_the_device_is_not_idle),
        cmocka_unit_test(chunks_keep_scratch_memory_within_its_bound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
