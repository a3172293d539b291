/* test_attention_pick.c - attention_pick.h: which kernels a batch gets, on the host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention_pick.h"
#include "support/attention_cases.h"

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
    assert_int_equal(pick_attention_mma_blocks(64, 1, SMALL), 1);
    assert_int_equal(pick_attention_mma_blocks(64, 16, SMALL), 1);
    assert_int_equal(pick_attention_mma_blocks(64, 33, SMALL), 3);
    assert_int_equal(pick_attention_mma_blocks(64, 288, SMALL), 18);
    assert_int_equal(pick_attention_mma_blocks(64, 289, SMALL), 0);
    assert_int_equal(pick_attention_mma_blocks(64, 736, NEW), 46);
    assert_int_equal(pick_attention_mma_blocks(64, 737, NEW), 0);
    assert_int_equal(pick_attention_mma_blocks(128, 240, OLD), 15);
    assert_int_equal(pick_attention_mma_blocks(128, 241, OLD), 0);
    assert_int_equal(pick_attention_mma_blocks(128, (int64_t)1 << 30, NEW), 0);
    assert_int_equal(pick_attention_mma_blocks(128, 1, 10000), 0);
}

static void several_blocks_of_4_warps_run_in_forward_where_two_fit(void **state)
{
    const attention_fwd_tile whole = pick_attention_fwd_tile(128, NEW);
    const attention_fwd_tile half = pick_attention_fwd_tile(128, SMALL);

    (void)state;
    assert_int_equal(pick_attention_fwd_warps(64, 8, NEW), 4);
    assert_int_equal(pick_attention_fwd_warps(64, 21, NEW), 4); /* two and theirs: 227 KiB */
    assert_int_equal(pick_attention_fwd_warps(64, 22, NEW), 8);
    assert_int_equal(pick_attention_fwd_warps(64, 42, NEW), 8);
    assert_int_equal(pick_attention_fwd_warps(64, 46, NEW), 4); /* 8 have no room */
    assert_int_equal(pick_attention_fwd_warps(128, 8, NEW), 4);
    assert_int_equal(pick_attention_fwd_warps(128, 10, NEW), 8);
    assert_int_equal(pick_attention_fwd_warps(128, 7, SMALL), 4);
    assert_int_equal(whole.warps, 8);
    assert_int_equal(whole.blocks, 4);
    assert_int_equal(half.warps, 4);
    assert_int_equal(half.blocks, 2);
    assert_true(attention_fwd_tile_bytes(128, whole) <= OLD);
    assert_true(attention_fwd_tile_bytes(128, half) <= SMALL);
    assert_int_equal(pick_attention_fwd_tile(64, SMALL).warps, 8);
}

static void backward_on_tensor_cores_has_as_many_keys_as_a_block_has_registers_for(void **state)
{
    (void)state;
    assert_int_equal(pick_attention_bwd_blocks(64, 1, SMALL), 4);
    assert_int_equal(pick_attention_bwd_blocks(64, 64, SMALL), 4);
    assert_int_equal(pick_attention_bwd_blocks(64, 65, SMALL), 8);
    assert_int_equal(pick_attention_bwd_blocks(64, 128, SMALL), 8);
    assert_int_equal(pick_attention_bwd_blocks(64, 129, SMALL), 0);
    assert_int_equal(pick_attention_bwd_blocks(64, 129, OLD), 16);
    assert_int_equal(pick_attention_bwd_blocks(64, 256, OLD), 16);
    assert_int_equal(pick_attention_bwd_blocks(64, 257, NEW), 0);
    assert_int_equal(pick_attention_bwd_blocks(128, 128, SMALL), 8);
    assert_int_equal(pick_attention_bwd_blocks(128, 129, NEW), 0);
    assert_int_equal(pick_attention_bwd_blocks(16, 64, SMALL), 4);
    assert_int_equal(pick_attention_bwd_blocks(16, 65, SMALL), 16);
    assert_int_equal(pick_attention_bwd_blocks(16, 256, SMALL), 16);
    assert_int_equal(pick_attention_bwd_blocks(32, 257, NEW), 0);
}

static void a_team_has_a_warp_for_each_16_keys_where_there_are_pieces_for_all_blocks(void **state)
{
    (void)state;
    assert_int_equal(pick_attention_team(1, 8, 16, 4096, 132), 1);
    assert_int_equal(pick_attention_team(1, 8, 17, 4096, 132), 2);
    assert_int_equal(pick_attention_team(1, 8, 64, 4096, 132), 4);
    assert_int_equal(pick_attention_team(1, 8, 65, 4096, 132), 8);
    assert_int_equal(pick_attention_team(1, 8, 700, 4096, 132), 8);
    assert_int_equal(pick_attention_team(1, 8, 12, 2112, 132), 1); /* 264 blocks */
    assert_int_equal(pick_attention_team(1, 8, 12, 2111, 132), 2);
    assert_int_equal(pick_attention_team(1, 8, 12, 64, 132), 8);
    assert_int_equal(pick_attention_team(2, 4, 12, 4096, 132), 2);
    assert_int_equal(pick_attention_team(2, 4, 12, 8, 132), 4);
    assert_int_equal(pick_attention_fwd_team(128, 1, 4, 16, 4096, 132, NEW), 1);
    assert_int_equal(pick_attention_fwd_team(128, 1, 8, 16, 4096, 132, NEW), 1);
    assert_int_equal(pick_attention_fwd_team(128, 1, 8, 16, 4096, 132, SMALL), 4);
    assert_int_equal(pick_attention_fwd_team(64, 4, 4, 64, 4096, 132, SMALL), 4);
}

static void a_team_in_backward_has_16_queries_of_the_tile_or_more(void **state)
{
    (void)state;
    assert_int_equal(pick_attention_bwd_team(16, 12, 4096, 132), 1);
    assert_int_equal(pick_attention_bwd_team(64, 12, 4096, 132), 1);
    assert_int_equal(pick_attention_bwd_team(64, 12, 1055, 132), 2);
    assert_int_equal(pick_attention_bwd_team(64, 33, 4096, 132), 4);
    assert_int_equal(pick_attention_bwd_team(96, 12, 4096, 132), 2);
    assert_int_equal(pick_attention_bwd_team(128, 12, 4096, 132), 2);
}

/* The device that emulators play. */
enum { PROCESSORS = 3 };
static const size_t EMULATED = (size_t)227 * 1024;

/* How often each kernel is reached: by width, by team, and in backward by warps. */
typedef struct reached {
    int fwd_warps[9], fwd_team[9], fwd_split, fwd_long;
    int bwd[129][17], bwd_team[129][5], bwd_long[129];
    int tiles_short[2][257], tiles_long[2][257]; /* by direction */
} reached;

static void reach_mma(const attention_case *c, reached *at)
{
    const int64_t longest = attention_case_longest(c), pieces = c->B * c->G;
    const int width = (int)c->E, blocks = pick_attention_mma_blocks(width, longest, EMULATED);
    const int bwd_blocks = pick_attention_bwd_blocks(width, longest, EMULATED);

    if (blocks == 0) {
        at->fwd_long++;
    } else {
        const int warps = pick_attention_fwd_warps(width, blocks, EMULATED);
        const int team =
            pick_attention_fwd_team(width, blocks, warps, longest, pieces, PROCESSORS, EMULATED);

        at->fwd_warps[warps]++;
        at->fwd_team[team]++;
        at->fwd_split +=
            pick_attention_split((pieces * team + warps - 1) / warps, 2, PROCESSORS) > 1;
    }
    if (bwd_blocks == 0) {
        at->bwd_long[width]++;
    } else {
        at->bwd[width][bwd_blocks]++;
        if (bwd_blocks == 4) {
            at->bwd_team[width][pick_attention_bwd_team(width, longest, pieces, PROCESSORS)]++;
        }
    }
}

static void reach_tiles(const attention_case *c, int width, reached *at)
{
    for (int backward = 0; backward < 2; backward++) {
        const int tiles =
            pick_attention_tiles(width, attention_case_longest(c), backward != 0, EMULATED);

        (tiles > 0 ? at->tiles_short : at->tiles_long)[backward][width]++;
    }
}

/* As the launchers choose: bf16 heads of other widths go to kernels of 128 and 256. */
static reached reach(int as)
{
    reached at = { .fwd_split = 0 };

    for (int64_t i = 0; i < ATTENTION_CASES; i++) {
        const attention_case *c = &attention_cases[i];

        if ((c->emulated & as) == 0) {
            continue;
        }
        if (as == AS_BF16 && attention_mma_width(c->E)) {
            reach_mma(c, &at);
        } else {
            reach_tiles(c, as == AS_BF16 ? (c->E <= 128 ? 128 : 256) : attention_width(c->E), &at);
        }
    }
    return at;
}

static void the_cases_of_the_parity_test_reach_every_kernel(void **state)
{
    const reached f32 = reach(AS_F32), bf16 = reach(AS_BF16);

    (void)state;
    for (int width = 32; width <= 256; width *= 2) {
        for (int backward = 0; backward < 2; backward++) {
            assert_true(f32.tiles_short[backward][width] > 0);
            assert_true(f32.tiles_long[backward][width] > 0);
            assert_true(width < 128 || bf16.tiles_short[backward][width] > 0);
            assert_true(width < 128 || bf16.tiles_long[backward][width] > 0);
        }
    }
    for (int team = 1; team <= 8; team *= 2) {
        assert_true(bf16.fwd_team[team] > 0);
    }
    assert_true(bf16.fwd_warps[4] > 0 && bf16.fwd_warps[8] > 0);
    assert_true(bf16.fwd_split > 0 && bf16.fwd_long > 0);
    for (int width = 16; width <= 128; width++) {
        if (attention_mma_width(width)) {
            assert_true(width > 64 || bf16.bwd_team[width][1] > 0);
            assert_true(bf16.bwd_team[width][2] > 0);
            assert_true(bf16.bwd_team[width][4] > 0);
            assert_true(width <= 32 || bf16.bwd[width][8] > 0);
            assert_true(width > 64 || bf16.bwd[width][16] > 0);
            assert_true(bf16.bwd_long[width] > 0);
        }
    }
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
        cmocka_unit_test(several_blocks_of_4_warps_run_in_forward_where_two_fit),
        cmocka_unit_test(backward_on_tensor_cores_has_as_many_keys_as_a_block_has_registers_for),
        cmocka_unit_test(a_team_has_a_warp_for_each_16_keys_where_there_are_pieces_for_all_blocks),
        cmocka_unit_test(a_team_in_backward_has_16_queries_of_the_tile_or_more),
        cmocka_unit_test(the_cases_of_the_parity_test_reach_every_kernel),
        cmocka_unit_test(few_texts_are_split_so_that_the_device_is_not_idle),
        cmocka_unit_test(chunks_keep_scratch_memory_within_its_bound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
