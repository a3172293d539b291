/*
 * tiny_phase.h - a phase of a tiny model, step by step: several micro-batches for a step, some of
 * them computed again, with dropout.
 */
#pragma once

#include "train/tiny.h"

#include "train/optimizer.h"
#include "train/schedule.h"

static const csp_optim_settings tiny_settings = { .learning_rate = 3e-3,
                                                  .lr_scheduler_type = CSP_LR_CONSTANT,
                                                  .adam_beta1 = 0.9,
                                                  .adam_beta2 = 0.999,
                                                  .adam_epsilon = 1e-8,
                                                  .max_grad_norm = 1.0 };

/* Just one of the two objectives exists. */
typedef struct tiny_phase {
    tiny *t;
    csp_contrastive *contrastive;
    csp_adapt *adapt;
    csp_optimizer *optimizer;
} tiny_phase;

/* lambda_relu is of the adaptation phase, budget and regularizer of the other. */
static inline void tiny_phase_open_kept(tiny_phase *p, tiny *t, bool adapt, double lambda_relu,
                                        csp_keep keep, size_t budget, csp_reg_kind regularizer)
{
    const csp_contrastive_options of_pairs = { .queries = TINY_QUERIES,
                                               .passages = TINY_PASSAGES,
                                               .max_rows = 40,
                                               .budget = budget,
                                               .keep = keep,
                                               .temperature = 2.0,
                                               .regularizer = regularizer,
                                               .limits = { 1.01, 1.01, 1.01 } };
    const csp_adapt_options of_texts = { .max_rows = 40,
                                         .max_len = 12,
                                         .texts = TINY_PASSAGES,
                                         .keep = keep,
                                         .lambda_relu = lambda_relu };

    *p = (tiny_phase) { .t = t };
    if (adapt) {
        assert_ok(csp_adapt_create(t->be, t->model, &t->contract, &of_texts, &p->adapt));
    } else {
        assert_ok(
            csp_contrastive_create(t->be, t->model, &t->contract, &of_pairs, &p->contrastive));
    }
    assert_ok(csp_optimizer_create(t->be, t->model, NULL, &p->optimizer));
    assert_ok(csp_optimizer_reset(p->optimizer));
}

static inline void tiny_phase_open(tiny_phase *p, tiny *t, bool adapt, double lambda_relu)
{
    tiny_phase_open_kept(p, t, adapt, lambda_relu, CSP_KEEP_ALL, 300000, CSP_REG_FLOPS);
}

static inline void tiny_phase_close(tiny_phase *p)
{
    csp_optimizer_destroy(p->optimizer);
    csp_contrastive_destroy(p->contrastive);
    csp_adapt_destroy(p->adapt);
}

/* How step k sees texts. */
static inline csp_pass tiny_phase_pass(const tiny_phase *p, int64_t k)
{
    return (csp_pass) { .causal = p->adapt != NULL || p->t->contract.variant != CSP_VARIANT_BI,
                        .dropout = true,
                        .seed = 11,
                        .step = (uint64_t)k };
}

/* Enqueues the gradients of step k, from 1. */
static inline csp_status tiny_phase_run(tiny_phase *p, int64_t k, csp_step_metrics *m)
{
    const tiny *t = p->t;
    const csp_contrastive_texts texts = {
        .queries = &t->queries, .passages = &t->passages, .positive = t->positive, .mask = t->mask
    };
    const csp_contrastive_step step = {
        .step = k, .lambda_q = 0.03, .lambda_d = 0.02, .pass = tiny_phase_pass(p, k)
    };

    csp_step_metrics_clear(m, p->adapt != NULL ? "adapt" : "contrastive", k, 100);
    return p->adapt != NULL ? csp_adapt_run(p->adapt, &t->passages, NULL, &step.pass, true)
                            : csp_contrastive_run(p->contrastive, &texts, &step);
}

/* Waits and reads what came out of it. */
static inline csp_status tiny_phase_read(tiny_phase *p, csp_step_metrics *m)
{
    CSP_TRY(csp_backend_sync(p->t->be));
    return p->adapt != NULL ? csp_adapt_read(p->adapt, m) : csp_contrastive_read(p->contrastive, m);
}

/* Step k with its update, as train/trainer.c runs it. */
static inline csp_status tiny_phase_step(tiny_phase *p, int64_t k, csp_step_metrics *m)
{
    csp_tensor faults;

    CSP_TRY(tiny_phase_run(p, k, m));
    faults = p->adapt != NULL ? csp_adapt_faults(p->adapt) : csp_contrastive_faults(p->contrastive);
    CSP_TRY(csp_optimizer_step(p->optimizer, &tiny_settings, k, 100, &faults));
    CSP_TRY(tiny_phase_read(p, m));
    csp_optimizer_read(p->optimizer, m);
    return CSP_OK;
}
