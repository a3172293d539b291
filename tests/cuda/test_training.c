/*
 * test_training.c - whole training steps of a tiny model through the CUDA path, on a device or an
 * emulated one: both phases, all weights and adapters, follow the losses of the CPU backend.
 */
#include "train/tiny.h"

#include "train/adapt.h"
#include "train/optimizer.h"
#include "train/schedule.h"

/* What each build of the emulator has time for. */
#if defined(__SANITIZE_THREAD__)
enum { STEPS = 1 };
#elif defined(__SANITIZE_ADDRESS__)
enum { STEPS = 3 };
#else
enum { STEPS = 25 };
#endif

static const csp_optim_settings settings = { .learning_rate = 3e-3,
                                             .lr_scheduler_type = CSP_LR_CONSTANT,
                                             .adam_beta1 = 0.9,
                                             .adam_beta2 = 0.999,
                                             .adam_epsilon = 1e-8,
                                             .max_grad_norm = 1.0 };

/* Rows of a micro-batch: several for a step, so that chunks and recomputing take part. */
enum { ROWS = 40, BUDGET = 300000 };

static void contrastive_losses(tiny *t, double *loss)
{
    const csp_contrastive_options options = { .queries = TINY_QUERIES,
                                              .passages = TINY_PASSAGES,
                                              .max_rows = ROWS,
                                              .budget = BUDGET,
                                              .temperature = 2.0,
                                              .limits = { 1.01, 1.01, 1.01 } };
    const csp_contrastive_texts texts = {
        .queries = &t->queries, .passages = &t->passages, .positive = t->positive, .mask = t->mask
    };
    csp_contrastive *c;
    csp_optimizer *o;

    assert_ok(csp_contrastive_create(t->be, t->model, &t->contract, &options, &c));
    assert_ok(csp_optimizer_create(t->be, t->model, &o));
    assert_ok(csp_optimizer_reset(o));
    for (int64_t k = 1; k <= STEPS; k++) {
        const csp_contrastive_step step = { .step = k,
                                            .lambda_q = 0.03,
                                            .lambda_d = 0.02,
                                            .pass = { .causal =
                                                          t->contract.variant != CSP_VARIANT_BI,
                                                      .dropout = true,
                                                      .seed = 11,
                                                      .step = (uint64_t)k } };
        csp_step_metrics m;

        csp_step_metrics_clear(&m, "contrastive", k, STEPS);
        assert_ok(csp_contrastive_run(c, &texts, &step, &m));
        assert_ok(csp_optimizer_step(o, &settings, k, STEPS, &m));
        loss[k - 1] = m.loss;
    }
    csp_optimizer_destroy(o);
    csp_contrastive_destroy(c);
}

static void adapt_losses(tiny *t, double *loss)
{
    const csp_adapt_options options = {
        .max_rows = ROWS, .max_len = 12, .texts = TINY_PASSAGES, .lambda_relu = 0.7
    };
    csp_adapt *a;
    csp_optimizer *o;

    assert_ok(csp_adapt_create(t->be, t->model, &t->contract, &options, &a));
    assert_ok(csp_optimizer_create(t->be, t->model, &o));
    assert_ok(csp_optimizer_reset(o));
    for (int64_t k = 1; k <= STEPS; k++) {
        const csp_pass pass = { .causal = true, .dropout = true, .seed = 11, .step = (uint64_t)k };
        csp_step_metrics m;

        csp_step_metrics_clear(&m, "adapt", k, STEPS);
        assert_ok(csp_adapt_run(a, &t->passages, &pass, true, &m));
        assert_ok(csp_optimizer_step(o, &settings, k, STEPS, &m));
        loss[k - 1] = m.loss;
    }
    csp_optimizer_destroy(o);
    csp_adapt_destroy(a);
}

/*
 * The first losses agree to rounding. Later ones drift: AdamW moves a weight by the learning rate
 * whichever sign its gradient has, and where that sign is a matter of rounding, the weights part.
 */
static void follow(const char *what, csp_variant variant, bool lora,
                   void (*losses)(tiny *t, double *loss))
{
    double want[STEPS], got[STEPS], first;
    tiny t;

    tiny_open_on(&t, "cpu", variant, lora);
    losses(&t, want);
    first = 2.0 * UNIT_F32 * tiny_roundings(&t);
    tiny_close(&t);
    tiny_open_on(&t, "cuda:0", variant, lora);
    losses(&t, got);
    tiny_close(&t);
    for (int k = 0; k < STEPS; k++) {
        const double apart = fabs(got[k] - want[k]) / fabs(want[k]);

        if (!(apart <= (k == 0 ? first : 2e-3))) {
            print_error("%s, step %d: %.7f on the CPU, %.7f on the device\n", what, k + 1, want[k],
                        got[k]);
        }
        assert_true(apart <= (k == 0 ? first : 2e-3));
    }
    /* It is training that is compared, not standing still. */
    assert_true(STEPS < 20 || want[STEPS - 1] < 0.9 * want[0]);
}

static void contrastive_steps_of_all_weights_follow_the_cpu(void **state)
{
    (void)state;
    follow("contrastive, causal, full", CSP_VARIANT_CAUSAL, false, contrastive_losses);
}

static void contrastive_steps_of_adapters_follow_the_cpu(void **state)
{
    (void)state;
    follow("contrastive, bi, lora", CSP_VARIANT_BI, true, contrastive_losses);
    follow("contrastive, echo, lora", CSP_VARIANT_ECHO, true, contrastive_losses);
}

static void adaptation_steps_follow_the_cpu(void **state)
{
    (void)state;
    follow("adapt, full", CSP_VARIANT_CAUSAL, false, adapt_losses);
    follow("adapt, lora", CSP_VARIANT_CAUSAL, true, adapt_losses);
}

int main(void)
{
    csp_backend *be;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contrastive_steps_of_all_weights_follow_the_cpu),
        cmocka_unit_test(contrastive_steps_of_adapters_follow_the_cpu),
        cmocka_unit_test(adaptation_steps_follow_the_cpu),
    };

    devices_register();
    if (csp_backend_create("cuda:0", 1, &be) != CSP_OK) {
        print_error("skipped: %s\n", csp_error_text());
        return 77;
    }
    csp_backend_destroy(be);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
