/*
 * test_memory_plan.c - what a phase may take of a device's memory: the same whether scratch of ops
 * is still to be taken or is there from a phase before.
 */
#include "train/tiny.h"

#include "config/config.h"
#include "train/memory_plan.h"

static const char text[] = "model: {path: none, query_max_len: 12, passage_max_len: 12}\n"
                           "data: {corpus: none, qrels: none, train_group_size: 2}\n"
                           "contrastive: {batch: {queries: 8}}\n"
                           "run: {output_dir: none}\n";

static csp_status plan(const tiny *t, const csp_config *config, const char *phase, int64_t free,
                       int64_t scratch, csp_phase_memory *out)
{
    const csp_memory memory = { .free = free, .total = (int64_t)1 << 40, .scratch = scratch };

    return csp_phase_memory_plan(config, t->model->params, phase, 0, 1, &memory, out);
}

/* The least free memory that a phase is planned with, to the byte. */
static int64_t least_free(const tiny *t, const csp_config *config, const char *phase)
{
    int64_t refused = 0, taken = (int64_t)1 << 40;
    csp_phase_memory p;

    assert_int_equal(plan(t, config, phase, refused, 0, &p), CSP_ERR_MEMORY);
    while (taken - refused > 1) {
        const int64_t middle = refused + (taken - refused) / 2;

        if (plan(t, config, phase, middle, 0, &p) == CSP_OK) {
            taken = middle;
        } else {
            refused = middle;
        }
    }
    return taken;
}

static void scratch_that_is_there_is_not_asked_for_again(void **state)
{
    static const char *const phases[] = { "adapt", "contrastive" };
    csp_config *config;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, true);
    assert_ok(csp_config_parse("test", text, &config));
    for (int i = 0; i < 2; i++) {
        const int64_t least = least_free(&t, config, phases[i]);
        csp_phase_memory first, p;

        assert_ok(plan(&t, config, phases[i], least, 0, &first));
        assert_true(first.scratch > 0 && least > (int64_t)first.scratch);
        for (int64_t there = 1; there <= (int64_t)first.scratch; there *= 7) {
            assert_ok(plan(&t, config, phases[i], least - there, there, &p));
            assert_true(p.rows == first.rows && p.keep == first.keep && p.budget == first.budget);
            assert_int_equal(plan(&t, config, phases[i], least - there, 0, &p), CSP_ERR_MEMORY);
            assert_int_equal(plan(&t, config, phases[i], least - there - 1, there, &p),
                             CSP_ERR_MEMORY);
        }
        /* More than is planned for makes no room for anything else. */
        assert_ok(plan(&t, config, phases[i], least - (int64_t)first.scratch,
                       (int64_t)first.scratch * 9, &p));
        assert_int_equal(plan(&t, config, phases[i], least - (int64_t)first.scratch - 1,
                              (int64_t)first.scratch * 9, &p),
                         CSP_ERR_MEMORY);
    }
    csp_config_free(config);
    tiny_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scratch_that_is_there_is_not_asked_for_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
