/*
 * test_step.c - how a whole training step of a tiny model uses a device: the host waits once, and
 * nothing is allocated after the first step; where hidden states are not finite the device makes no
 * update, though the host learns of it only afterwards.
 */
#include "train/tiny.h"

#include "device.h"
#include "train/optimizer.h"
#include "train/schedule.h"

/* What the thread sanitizer has time for. */
#if defined(__SANITIZE_THREAD__)
enum { STEPS = 2 };
#else
enum { STEPS = 4 };
#endif

static const csp_optim_settings settings = { .learning_rate = 3e-3,
                                             .lr_scheduler_type = CSP_LR_CONSTANT,
                                             .adam_beta1 = 0.9,
                                             .adam_beta2 = 0.999,
                                             .adam_epsilon = 1e-8,
                                             .max_grad_norm = 1.0 };

/* A phase of a model: just one of the two objectives exists. */
typedef struct phase {
    tiny *t;
    csp_contrastive *contrastive;
    csp_adapt *adapt;
    csp_optimizer *optimizer;
    int64_t waits, allocations; /* of the device before the last step */
} phase;

/* Several micro-batches for a step, some of them computed again. */
static void phase_open(phase *p, tiny *t, bool adapt)
{
    const csp_contrastive_options of_pairs = { .queries = TINY_QUERIES,
                                               .passages = TINY_PASSAGES,
                                               .max_rows = 40,
                                               .budget = 300000,
                                               .temperature = 2.0,
                                               .limits = { 1.01, 1.01, 1.01 } };
    const csp_adapt_options of_texts = {
        .max_rows = 40, .max_len = 12, .texts = TINY_PASSAGES, .lambda_relu = 0.7
    };

    *p = (phase) { .t = t };
    if (adapt) {
        assert_ok(csp_adapt_create(t->be, t->model, &t->contract, &of_texts, &p->adapt));
    } else {
        assert_ok(
            csp_contrastive_create(t->be, t->model, &t->contract, &of_pairs, &p->contrastive));
    }
    assert_ok(csp_optimizer_create(t->be, t->model, NULL, &p->optimizer));
    assert_ok(csp_optimizer_reset(p->optimizer));
}

static void phase_close(phase *p)
{
    csp_optimizer_destroy(p->optimizer);
    csp_contrastive_destroy(p->contrastive);
    csp_adapt_destroy(p->adapt);
}

/* Step k, from 1, with its update, as train/trainer.c runs it. */
static csp_status run_step(phase *p, int64_t k, csp_step_metrics *m)
{
    const tiny *t = p->t;
    const cuda_state *device = cuda_state_of(t->be);
    const csp_contrastive_texts texts = {
        .queries = &t->queries, .passages = &t->passages, .positive = t->positive, .mask = t->mask
    };
    const csp_contrastive_step step = { .step = k,
                                        .lambda_q = 0.03,
                                        .lambda_d = 0.02,
                                        .pass = { .causal = t->contract.variant != CSP_VARIANT_BI,
                                                  .dropout = true,
                                                  .seed = 11,
                                                  .step = (uint64_t)k } };
    const csp_pass pass = { .causal = true, .dropout = true, .seed = 11, .step = (uint64_t)k };
    csp_tensor faults;

    p->waits = device->waits;
    p->allocations = device->allocations;
    csp_step_metrics_clear(m, p->adapt != NULL ? "adapt" : "contrastive", k, 100);
    if (p->adapt != NULL) {
        CSP_TRY(csp_adapt_run(p->adapt, &t->passages, NULL, &pass, true));
        faults = csp_adapt_faults(p->adapt);
    } else {
        CSP_TRY(csp_contrastive_run(p->contrastive, &texts, &step));
        faults = csp_contrastive_faults(p->contrastive);
    }
    CSP_TRY(csp_optimizer_step(p->optimizer, &settings, k, 100, &faults));
    CSP_TRY(csp_backend_sync(t->be));
    CSP_TRY(p->adapt != NULL ? csp_adapt_read(p->adapt, m)
                             : csp_contrastive_read(p->contrastive, m));
    csp_optimizer_read(p->optimizer, m);
    return CSP_OK;
}

static void assert_waits_and_allocations(const phase *p, int64_t waits, int64_t allocations)
{
    const cuda_state *device = cuda_state_of(p->t->be);

    assert_int_equal(device->waits - p->waits, waits);
    assert_int_equal(device->allocations - p->allocations, allocations);
}

static void a_step_waits_once_and_allocates_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        const bool adapt = i % 2 == 0, lora = i / 2 == 1;
        csp_step_metrics m;
        phase p, next;
        tiny t;

        tiny_open_on(&t, "cuda:0", lora ? CSP_VARIANT_ECHO : CSP_VARIANT_CAUSAL, lora);
        phase_open(&p, &t, adapt);
        assert_ok(run_step(&p, 1, &m));
        for (int64_t k = 2; k <= STEPS; k++) {
            assert_ok(run_step(&p, k, &m));
            assert_waits_and_allocations(&p, 1, 0);
            assert_true(m.loss > 0.0 && m.grad_norm > 0.0 && m.skipped == 0.0);
        }
        if (!adapt) {
            /* The first step of a run waits once more; a resumed one remembers. */
            phase_open(&next, &t, false);
            assert_ok(run_step(&next, STEPS + 1, &m));
            assert_waits_and_allocations(&next, 2, 0);
            phase_close(&next);
            phase_open(&next, &t, false);
            csp_health_recall(csp_contrastive_health(next.contrastive),
                              csp_health_remembers(csp_contrastive_health(p.contrastive)));
            assert_ok(run_step(&next, STEPS + 2, &m));
            assert_waits_and_allocations(&next, 1, 0);
            phase_close(&next);
        }
        phase_close(&p);
        tiny_close(&t);
    }
}

/* All that training changes, one after the other. The caller frees it. */
static float *state_of(const tiny *t)
{
    float *all = malloc((size_t)t->count * 3 * sizeof(*all));
    int64_t at = 0;

    assert_non_null(all);
    for (int64_t i = 0; i < t->model->params->count; i++) {
        const csp_param *row = &t->model->params->rows[i];
        const csp_tensor *parts[] = { &row->value, &row->m, &row->v };

        for (int k = 0; row->trained && k < 3; k++) {
            assert_ok(csp_backend_download(t->be, parts[k], all + at));
            at += csp_tensor_count(parts[k]);
        }
    }
    return all;
}

/*
 * Squares of one row overflow in the last norm, which makes that row's hidden state 0: losses and
 * gradients of all others are finite, and would be taken for good.
 */
static void what_is_not_finite_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        float *before, *after, *values;
        csp_step_metrics m;
        csp_param *row;
        phase p;
        tiny t;

        tiny_open_on(&t, "cuda:0", CSP_VARIANT_CAUSAL, false);
        for (int64_t n = 0; n < t.passages.start[t.passages.count]; n++) {
            t.passages.ids[n] %= TINY_V - 1;
        }
        for (int64_t n = 0; n < t.queries.start[t.queries.count]; n++) {
            t.queries.ids[n] %= TINY_V - 1;
        }
        t.passages.ids[t.passages.start[3]] = TINY_V - 1;
        row = t.model->params->embed;
        values = tiny_download(&t, &row->value);
        values[(TINY_V - 1) * 24 + 5] = 1e30f;
        assert_ok(csp_backend_upload(t.be, values, &row->value));
        phase_open(&p, &t, i == 0);
        before = state_of(&t);
        assert_int_equal(run_step(&p, 17, &m), CSP_ERR_NUMERIC);
        assert_error_has("step 17: hidden states are not finite, first at token 0 of text 3");
        after = state_of(&t);
        assert_memory_equal(before, after, (size_t)t.count * 3 * sizeof(*after));
        free(before);
        free(after);
        free(values);
        phase_close(&p);
        tiny_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_waits_once_and_allocates_nothing),
        cmocka_unit_test(what_is_not_finite_changes_nothing),
    };

    return tiny_main_on_cuda(tests, sizeof(tests) / sizeof(tests[0]), NULL, NULL);
}
