/* test_core.c - tensors, arenas, random numbers, checked sizes, the fault driver. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "core/fault.h"
#include "core/machine.h"
#include "core/memory.h"
#include "core/rng.h"
#include "core/scalar.h"
#include "core/size.h"
#include "core/tensor.h"

static void philox_gives_the_published_vectors(void **state)
{
    /* Known answers of Philox4x32-10 with counter and key zero (the key folding is undone). */
    const csp_rng zero = { 0, 0xFFFFFFFFu, 0, 0 };
    uint32_t out[4];

    (void)state;
    csp_rng_u32x4(zero, 0, out);
    assert_int_equal(out[0], 0x6627e8d5);
    assert_int_equal(out[1], 0xe169c58d);
    assert_int_equal(out[2], 0xbc57ac4c);
    assert_int_equal(out[3], 0x9b00dbd8);
}

static void a_permutation_visits_every_index_once(void **state)
{
    const uint64_t sizes[] = { 1, 2, 3, 7, 64, 1000 };

    (void)state;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        const csp_rng rng = { 42, CSP_DRAW_SHUFFLE, 0, s };
        unsigned char *seen = calloc(sizes[s], 1);

        assert_non_null(seen);
        for (uint64_t i = 0; i < sizes[s]; i++) {
            const uint64_t at = csp_rng_permute(rng, i, sizes[s]);

            assert_true(at < sizes[s]);
            assert_int_equal(seen[at], 0);
            seen[at] = 1;
        }
        free(seen);
    }
}

static void bounded_draws_are_in_range_and_spread(void **state)
{
    const csp_rng rng = { 7, CSP_DRAW_TEST, 1, 0 };
    int64_t counts[5] = { 0 };

    (void)state;
    for (uint64_t i = 0; i < 50000; i++) {
        const uint64_t x = csp_rng_below(rng, i, 5);

        assert_true(x < 5);
        counts[x]++;
    }
    for (int i = 0; i < 5; i++) {
        assert_true(counts[i] > 9500 && counts[i] < 10500);
    }
    assert_int_equal(csp_rng_below(rng, 3, 1), 0);
}

static void normal_draws_have_mean_0_and_variance_1(void **state)
{
    const csp_rng rng = { 7, CSP_DRAW_TEST, 2, 0 };
    double sum = 0.0, squares = 0.0;
    const int n = 200000;

    (void)state;
    for (int i = 0; i < n; i++) {
        const double x = csp_rng_normal(rng, (uint64_t)i);

        sum += x;
        squares += x * x;
    }
    /* Five standard errors of each estimate. */
    assert_true(fabs(sum / n) <= 5.0 / sqrt(n));
    assert_true(fabs(squares / n - 1.0) <= 5.0 * sqrt(2.0 / n));
}

static void an_arena_measures_and_then_gives_the_same_places(void **state)
{
    csp_arena ruler = { 0 }, arena = { 0 };
    csp_tensor a, b;
    void *block;

    (void)state;
    assert_int_equal(csp_arena_tensor(&ruler, CSP_F32, 2, (int64_t[]) { 3, 5 }, &a), CSP_OK);
    assert_null(a.data);
    assert_int_equal(csp_arena_tensor(&ruler, CSP_U8, 1, (int64_t[]) { 1 }, &b), CSP_OK);
    assert_int_equal(ruler.peak, 128);
    block = aligned_alloc(64, ruler.peak);
    arena.base = block;
    arena.capacity = ruler.peak;
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 2, (int64_t[]) { 3, 5 }, &a), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_U8, 1, (int64_t[]) { 1 }, &b), CSP_OK);
    assert_ptr_equal((char *)b.data, (char *)block + 64);
    assert_int_equal(csp_arena_tensor(&arena, CSP_U8, 1, (int64_t[]) { 1 }, &b), CSP_ERR_MEMORY);
    csp_arena_release(&arena, 0);
    assert_int_equal(csp_arena_tensor(&arena, CSP_U8, 1, (int64_t[]) { 65 }, &b), CSP_OK);
    free(block);
}

static void sizes_that_overflow_are_refused(void **state)
{
    csp_arena ruler = { 0 };
    csp_tensor t;
    int64_t n = 5;
    int32_t small = 5;

    (void)state;
    assert_int_equal(csp_size_mul("x", INT64_MAX / 2, 3, &n), CSP_ERR_MEMORY);
    assert_int_equal(n, 5);
    assert_int_equal(csp_size_i32("x", (int64_t)INT32_MAX + 1, &small), CSP_ERR_ARGUMENT);
    assert_int_equal(small, 5);
    assert_int_equal(
        csp_arena_tensor(&ruler, CSP_F64, 2, (int64_t[]) { (int64_t)1 << 40, 1 << 30 }, &t),
        CSP_ERR_MEMORY);
}

static void half_precision_numbers_convert_exactly(void **state)
{
    (void)state;
    assert_true(csp_bf16_to_f32(csp_f32_to_bf16(1.0f)) == 1.0f);
    /* Half way between two bf16 numbers goes to the even one. */
    assert_int_equal(csp_f32_to_bf16(1.00390625f), 0x3F80);
    assert_int_equal(csp_f32_to_bf16(1.01171875f), 0x3F82);
    assert_true(isnan(csp_bf16_to_f32(csp_f32_to_bf16(NAN))));
    assert_true(isnan(csp_bf16_to_f32(csp_f32_to_bf16_random(NAN, 0xFFFFu))));
    assert_true(csp_bf16_to_f32(csp_f32_to_bf16_random(-INFINITY, 0xFFFFu)) == -INFINITY);
    assert_true(csp_f16_to_f32(0x3C00) == 1.0f);
    assert_true(csp_f16_to_f32(0x0001) == 0x1p-24f);
    assert_true(csp_f16_to_f32(0xFBFF) == -65504.0f);
    assert_true(isinf(csp_f16_to_f32(0x7C00)));
}

static void the_fault_driver_fails_one_call(void **state)
{
    char *block = NULL;

    (void)state;
    csp_fault_arm(2);
    assert_int_equal(csp_alloc("first", 1, 1, &block), CSP_OK);
    free(block);
    block = NULL;
    assert_int_equal(csp_alloc("second", 1, 1, &block), CSP_ERR_MEMORY);
    assert_null(block);
    assert_non_null(strstr(csp_error_text(), "second"));
    assert_int_equal(csp_alloc("third", 1, 1, &block), CSP_OK);
    free(block);
    csp_fault_arm(0);
}

static void a_message_is_one_printable_line_whatever_is_in_it(void **state)
{
    static const struct {
        const char *said, *stands;
    } cases[] = {
        { "a\033[2Jb\nc\td\x7F", "a?[2Jb?c?d?" },
        { "\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80", "\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80" },
        { "\xFFx\xC3", "?x?" }, /* no UTF-8, and a character cut in two */
        { "\xC2\x9B"
          "1m",
          "??1m" },                          /* a terminal's CSI in one character */
        { "\xC0\xAF\xE0\x80\xAF", "?????" }, /* overlong */
        { "\xED\xA0\x80\xF4\x90\x80\x80", "???????" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(CSP_FAIL(CSP_ERR_FORMAT, "%s", cases[i].said), CSP_ERR_FORMAT);
        assert_string_equal(csp_error_text(), cases[i].stands);
    }
}

static void peak_memory_counts_what_was_touched(void **state)
{
    const size_t bytes = (size_t)64 << 20;
    const double before = csp_machine_peak_mb();
    char *block = NULL;

    (void)state;
    assert_int_equal(csp_alloc("touched", (int64_t)bytes, 1, &block), CSP_OK);
    memset(block, 1, bytes);
    assert_true(before > 0.0 && csp_machine_peak_mb() >= before + 50.0);
    free(block);
    assert_true(csp_machine_peak_mb() >= before + 50.0);
}

/* Over all 65536 values of the random bits the mean is the value, exactly. */
static void random_rounding_to_bf16_is_right_in_the_mean(void **state)
{
    const float values[] = { 1.0f, 1.001f, -3.14159f, 0x1.234568p-100f, 1e-40f, -0.0f, 3e38f };

    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        double sum = 0.0;

        for (uint32_t random = 0; random < 65536; random++) {
            sum += (double)csp_bf16_to_f32(csp_f32_to_bf16_random(values[i], random));
        }
        assert_true(sum / 65536.0 == (double)values[i]);
    }
}

static void a_block_reaches_an_index_and_is_zero_there(void **state)
{
    int64_t *numbers = NULL, count = 0;

    (void)state;
    assert_int_equal(csp_reach("numbers", 3, sizeof(*numbers), &numbers, &count), CSP_OK);
    assert_true(count > 3);
    for (int64_t i = 0; i < count; i++) {
        assert_int_equal(numbers[i], 0);
        numbers[i] = i + 1;
    }
    const int64_t before = count;

    assert_int_equal(csp_reach("numbers", 0, sizeof(*numbers), &numbers, &count), CSP_OK);
    assert_int_equal(count, before);
    csp_fault_arm(1);
    assert_int_equal(csp_reach("numbers", count, sizeof(*numbers), &numbers, &count),
                     CSP_ERR_MEMORY);
    csp_fault_arm(0);
    assert_int_equal(count, before);
    assert_int_equal(csp_reach("numbers", count, sizeof(*numbers), &numbers, &count), CSP_OK);
    assert_true(count > 2 * before);
    for (int64_t i = 0; i < count; i++) {
        assert_int_equal(numbers[i], i < before ? i + 1 : 0);
    }
    free(numbers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_rounding_to_bf16_is_right_in_the_mean),
        cmocka_unit_test(philox_gives_the_published_vectors),
        cmocka_unit_test(a_permutation_visits_every_index_once),
        cmocka_unit_test(bounded_draws_are_in_range_and_spread),
        cmocka_unit_test(normal_draws_have_mean_0_and_variance_1),
        cmocka_unit_test(an_arena_measures_and_then_gives_the_same_places),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(half_precision_numbers_convert_exactly),
        cmocka_unit_test(the_fault_driver_fails_one_call),
        cmocka_unit_test(a_message_is_one_printable_line_whatever_is_in_it),
        cmocka_unit_test(peak_memory_counts_what_was_touched),
        cmocka_unit_test(a_block_reaches_an_index_and_is_zero_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
