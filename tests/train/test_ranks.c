/*
 * test_ranks.c - R ranks give what one gives: losses, gradients and weights of both phases, for any
 * cut of a step into ranks and micro-batches; and how many bytes that takes.
 */
#include "train/ranks_case.h"

static void compare_ranks(const ranks_case *c)
{
    ranks_result *one = run_on_ranks(c, 1);

    assert_true(fabs(one->loss[CASE_STEPS - 1] - one->loss[0]) > 1e-3); /* something is learned */
    for (int size = 2; size <= 4; size *= 2) {
        ranks_result *many = run_on_ranks(c, size);

        check_same(c, many, one, size);
        munmap(many, sizeof(*many));
    }
    munmap(one, sizeof(*one));
}

static void contrastive_steps_are_those_of_one_rank(void **state)
{
    static const ranks_case cases[] = {
        { "cpu", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, CASE_STEPS },
        { "cpu", CSP_VARIANT_ECHO, false, false, CSP_POOLING_MAX, CSP_REG_L1, CASE_STEPS },
        { "cpu", CSP_VARIANT_BI, true, false, CSP_POOLING_SUM, CSP_REG_FLOPS, CASE_STEPS },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        compare_ranks(&cases[i]);
    }
}

static void adaptation_steps_are_those_of_one_rank(void **state)
{
    static const ranks_case cases[] = {
        { "cpu", CSP_VARIANT_CAUSAL, true, true, CSP_POOLING_MAX, CSP_REG_FLOPS, CASE_STEPS },
        { "cpu", CSP_VARIANT_CAUSAL, false, true, CSP_POOLING_MAX, CSP_REG_FLOPS, CASE_STEPS },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        compare_ranks(&cases[i]);
    }
}

/* Weights and losses to the last bit. */
static void check_bits(const ranks_result *got, const ranks_result *want, const char *what,
                       int size)
{
    if (memcmp(got->weights, want->weights, (size_t)want->count * sizeof(float)) != 0) {
        print_error("%s on %d ranks: weights are %g apart\n", what, size,
                    relative_distance(got->weights, want->weights, want->count));
    }
    assert_memory_equal(got->gradient, want->gradient, (size_t)want->count * sizeof(float));
    assert_memory_equal(got->weights, want->weights, (size_t)want->count * sizeof(float));
    assert_memory_equal(got->loss, want->loss, sizeof(got->loss));
}

/*
 * Sums are formed element by element in the order of ranks, however gradients are cut, and an
 * element is updated as it is on a rank that has all of them. Of a shared norm the last bits may
 * differ, which changes the float32 factor of clipping once in some hundred million steps: not in
 * these.
 */
static void neither_buckets_nor_parts_change_a_bit(void **state)
{
    static const ranks_case cases[] = {
        { "cpu", CSP_VARIANT_ECHO, false, false, CSP_POOLING_MAX, CSP_REG_FLOPS, 4 },
        { "cpu", CSP_VARIANT_CAUSAL, false, true, CSP_POOLING_MAX, CSP_REG_FLOPS, 4 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int size = 2; size <= 4; size += 2) {
            ranks_result *want = run_on_ranks(&cases[i], size);
            const int64_t bytes = want->state_bytes;

            /* Every layer for itself, and the upper ones together. */
            for (int64_t bucket = 1; bucket <= 40000; bucket *= 40000) {
                for (int shard = 0; shard < 2; shard++) {
                    const case_way way = { .bucket_bytes = bucket, .shard = shard == 1 };
                    ranks_result *got = run_on_ranks_as(&cases[i], size, &way);

                    check_bits(got, want, shard == 1 ? "parts" : "buckets", size);
                    /* Unused elements at the end of a bucket are 15 a rank, and so are those of
                       rows; two moments of 4 bytes each. */
                    assert_true(shard == 0 ? got->state_bytes == bytes
                                           : got->state_bytes >= bytes / size - 8 * 16 * 4 &&
                                                 got->state_bytes <= bytes / size + 8 * 16 * 4);
                    munmap(got, sizeof(*got));
                }
            }
            munmap(want, sizeof(*want));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contrastive_steps_are_those_of_one_rank),
        cmocka_unit_test(adaptation_steps_are_those_of_one_rank),
        cmocka_unit_test(neither_buckets_nor_parts_change_a_bit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
