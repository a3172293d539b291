/*
 * test_ranks.c - ranks on devices, which exchange tensors among themselves, give what one gives;
 * as many of them as this machine has devices.
 */
#include "train/ranks_case.h"
#include "train/state_case.h"

#include "ranks_on_devices.h"

/* What there is time for: all steps, texts and ranks where CSPLADE_SLOW_TESTS is set. */
enum { FEW_STEPS = 3, FEW_QUERIES = 4, FEW_ROWS = 24 };

static int devices;

static void compare_sizes(const ranks_case *c, const case_way *way, int least, int most)
{
    ranks_result *one = run_on_ranks_as(c, 1, way);

    for (int size = least; size <= most && size <= devices; size *= 2) {
        ranks_result *many = run_on_ranks_as(c, size, way);

        check_same(c, many, one, size);
        if (c->lora && !c->adapt) {
            check_traffic(c, way, many, size);
        }
        munmap(many, sizeof(*many));
    }
    munmap(one, sizeof(*one));
}

static void ranks_of_devices_are_those_of_one(void **state)
{
    const bool slow = getenv("CSPLADE_SLOW_TESTS") != NULL;
    const int64_t steps = slow ? CASE_STEPS : FEW_STEPS;
    const case_way few = { .queries = FEW_QUERIES, .rows = FEW_ROWS }, all = { 0 };
    const ranks_case cases[] = {
        { "cuda", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, steps, 1 },
        { "cuda", CSP_VARIANT_CAUSAL, false, true, CSP_POOLING_MAX, CSP_REG_FLOPS, steps, 1 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        compare_sizes(&cases[i], slow ? &all : &few, 2, slow ? 4 : 2);
    }
}

/* Two groups of two: each rank has devices joined as all, and as those that share a block. */
static void groups_of_devices_are_those_of_one(void **state)
{
    const bool slow = getenv("CSPLADE_SLOW_TESTS") != NULL;
    const case_way few = { .queries = FEW_QUERIES, .rows = FEW_ROWS }, all = { 0 };
    const ranks_case c = { "cuda",          CSP_VARIANT_CAUSAL, true,         false,
                           CSP_POOLING_MAX, CSP_REG_FLOPS,      slow ? 4 : 1, 2 };

    (void)state;
    if (devices < 4) {
        skip();
    }
    compare_sizes(&c, slow ? &all : &few, slow ? 2 : 4, 4);
}

/* What is rounded at random, and masters: a rank's part of each as on a rank with all of them. */
static void parts_of_bf16_state_give_the_same_bits(void **state)
{
    static const ranks_case c = { "cuda",          CSP_VARIANT_CAUSAL, false, true,
                                  CSP_POOLING_MAX, CSP_REG_FLOPS,      3,     1 };

    (void)state;
    if (devices < 2) {
        skip();
    }
    for (int stochastic = 0; stochastic < 2; stochastic++) {
        case_way way = { .storage = { .dtype = CSP_BF16, .stochastic = stochastic == 1, .seed = 5 },
                         .queries = FEW_QUERIES,
                         .rows = FEW_ROWS };
        ranks_result *whole = run_on_ranks_as(&c, 2, &way), *parts;

        way.shard = true;
        way.bucket_bytes = 1;
        parts = run_on_ranks_as(&c, 2, &way);
        assert_memory_equal(parts->weights, whole->weights, (size_t)whole->count * sizeof(float));
        assert_memory_equal(parts->loss, whole->loss, sizeof(whole->loss));
        assert_true(parts->state_bytes < whole->state_bytes * 11 / 20);
        munmap(whole, sizeof(*whole));
        munmap(parts, sizeof(*parts));
    }
}

/*
 * Files of bf16 state in another number of parts, whole, and in f32, whose values are masters. The
 * last test, because it opens a device in this process, which is not to be forked then.
 */
static void masters_come_back_from_state_files(void **state)
{
    const csp_storage f32 = { 0 }, bf16 = { .dtype = CSP_BF16 };
    const csp_storage stochastic = { .dtype = CSP_BF16, .stochastic = true };
    csp_state_files files;

    (void)state;
    state_write("cuda:0", bf16, 2, &files);
    state_read_as("cuda:0", bf16, 1, &files, true);
    state_read_as("cuda:0", bf16, 3, &files, true);
    state_read_as("cuda:0", f32, 2, &files, true);
    state_read_as("cpu", f32, 1, &files, true);
    state_read_as("cuda:0", stochastic, 2, &files, false);
    csp_state_files_clear(&files);
    state_write("cuda:0", stochastic, 2, &files);
    state_read_as("cuda:0", bf16, 1, &files, false);
    csp_state_files_clear(&files);
}

int main(void)
{
    const struct CMUnitTest all[] = { cmocka_unit_test(ranks_of_devices_are_those_of_one),
                                      cmocka_unit_test(groups_of_devices_are_those_of_one),
                                      cmocka_unit_test(parts_of_bf16_state_give_the_same_bits),
                                      cmocka_unit_test(masters_come_back_from_state_files) };
    /* What there is time for under the thread sanitizer. */
    const struct CMUnitTest few[] = { cmocka_unit_test(groups_of_devices_are_those_of_one) };
#if defined(__SANITIZE_THREAD__)
    const bool has_time = false;
#else
    const bool has_time = true;
#endif

    devices = device_count(4);
    if (devices == 0) {
        print_error("skipped: no device, or no NCCL\n");
        return NO_DEVICE;
    }
    return has_time ? cmocka_run_group_tests(all, scratch_make, scratch_remove)
                    : cmocka_run_group_tests(few, NULL, NULL);
}
