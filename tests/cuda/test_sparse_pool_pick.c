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

enum { PROCESSORS = 132, SHARED = 227 * 1024, ROWS = 4096, V = 128256, D = 2048 };

/* Texts of T tokens, 4,096 together, of which a share of all terms is active; on an H100. */
static csp_pool_way pick(int64_t T, double share, csp_dtype S)
{
    const int64_t texts = ROWS / T;
    const pool_work w = {
        (int64_t)(share * (double)(texts * V)),
        texts,
        texts * T,
        V,
        D,
        S,
        pick_stream_rows(texts * T, D, PROCESSORS, SHARED),
    };

    return pick_pool_way(&w);
}

/* Lists, then streaming if at all, then tiles. */
static void more_entries_never_go_back_to_an_earlier_way(void **state)
{
    static const int64_t lengths[] = { 1, 12, 40, 80, 128, 190, 512, 4096 };

    (void)state;
    for (int i = 0; i < 8; i++) {
        for (int s = 0; s < 2; s++) {
            csp_pool_way before = CSP_POOL_LISTS;

            for (int share = 0; share <= 256; share++) {
                const csp_pool_way way = pick(lengths[i], share / 256.0, storages[s]);

                assert_true(way >= before && way <= CSP_POOL_TILES);
                before = way;
            }
        }
    }
}

static void nothing_known_is_lists(void **state)
{
    (void)state;
    for (int s = 0; s < 2; s++) {
        const pool_work none = { 0, 0, 0, 1, 1, storages[s], 0 };
        const pool_work unknown = { 0, 50, 5000, V, D, storages[s], 512 };
        const pool_work empty = { 7, 50, 0, V, D, storages[s], 512 };

        assert_int_equal(pick_pool_way(&none), CSP_POOL_LISTS);
        assert_int_equal(pick_pool_way(&unknown), CSP_POOL_LISTS);
        assert_int_equal(pick_pool_way(&empty), CSP_POOL_LISTS);
    }
}

/* The table of the header. */
static void the_shares_of_the_model_are_those_it_says(void **state)
{
    static const struct {
        int64_t T;
        double from, to; /* equal: never */
    } streamed[] = { { 12, 0.04, 0.07 }, { 80, 0.25, 0.47 }, { 128, 0.39, 0.75 } };

    (void)state;
    for (int i = 0; i < 3; i++) {
        const int64_t T = streamed[i].T;

        assert_int_equal(pick(T, streamed[i].from - 0.01, CSP_BF16), CSP_POOL_LISTS);
        assert_int_equal(pick(T, streamed[i].from, CSP_BF16), CSP_POOL_STREAM);
        assert_int_equal(pick(T, streamed[i].to - 0.01, CSP_BF16), CSP_POOL_STREAM);
        assert_int_equal(pick(T, streamed[i].to + 0.01, CSP_BF16), CSP_POOL_TILES);
    }
    for (int share = 0; share <= 100; share++) {
        for (int64_t T = 160; T < ROWS; T += 97) {
            assert_int_not_equal(pick(T, share / 100.0, CSP_BF16), CSP_POOL_STREAM);
        }
    }
}

/* Where e lies in the cache, or a block has no room, only lists and tiles remain. */
static void streaming_needs_a_large_head_and_shared_memory(void **state)
{
    (void)state;
    for (int share = 1; share <= 100; share++) {
        const int64_t entries = (int64_t)share * 51 * V / 100, small = (int64_t)share * 51 * 80;
        const pool_work cached = { small, 51, 4080, 8000, 1024, CSP_BF16, 512 };
        const pool_work narrow = {
            entries, 51, 4080, V, D, CSP_BF16, pick_stream_rows(4080, D, PROCESSORS, 64 * 1024)
        };

        assert_int_not_equal(pick_pool_way(&cached), CSP_POOL_STREAM);
        assert_int_not_equal(pick_pool_way(&narrow), CSP_POOL_STREAM);
    }
}

static void blocks_fill_the_device_and_fit(void **state)
{
    static const int64_t kept[] = { 1, 2, 100, 511, 513, 4096, 41728, 65536 };
    static const size_t rooms[] = { 99 * 1024, 163 * 1024, 227 * 1024 };

    (void)state;
    assert_int_equal(pick_stream_rows(4096, D, PROCESSORS, 48 * 1024), 0);
    assert_int_equal(pick_stream_rows(4096, D, PROCESSORS, SHARED), 512);
    assert_int_equal(pick_stream_rows(100, D, PROCESSORS, SHARED), 25);
    for (int i = 0; i < 8; i++) {
        for (int r = 0; r < 3; r++) {
            const int64_t rows = pick_stream_rows(kept[i], D, PROCESSORS, rooms[r]);
            const int64_t blocks = (kept[i] + rows - 1) / rows * (D / STREAM_COLUMNS);

            assert_in_range(rows, 1, stream_rooms[r]);
            assert_true(stream_bytes(stream_rooms[r]) <= rooms[r]);
            /* At most a quarter of the last wave idles, where there are rows enough. */
            assert_true(kept[i] < 100 ||
                        (blocks + PROCESSORS - 1) / PROCESSORS * PROCESSORS * 3 <= blocks * 4);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_entries_never_go_back_to_an_earlier_way),
        cmocka_unit_test(nothing_known_is_lists),
        cmocka_unit_test(the_shares_of_the_model_are_those_it_says),
        cmocka_unit_test(streaming_needs_a_large_head_and_shared_memory),
        cmocka_unit_test(blocks_fill_the_device_and_fit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
