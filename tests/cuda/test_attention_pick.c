/* test_attention_pick.c - attention_pick.h: which kernels a batch gets, on the host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention_pick.h"

/* Shared memory of a block: compute capability 9.0 and 8.0. */
static const size_t NEW = 232448, OLD = 166912;

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
        cmocka_unit_test(few_texts_are_split_so_that_the_device_is_not_idle),
        cmocka_unit_test(chunks_keep_scratch_memory_within_its_bound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
