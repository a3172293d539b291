/*
 * test_optimizer.c - the update of a tiny model: made from finite gradients, and only from those.
 */
#include "train/tiny.h"

#include "train/optimizer.h"
#include "train/schedule.h"

static const csp_optim_settings settings = { .learning_rate = 1e-2,
                                             .lr_scheduler_type = CSP_LR_CONSTANT,
                                             .adam_beta1 = 0.9,
                                             .adam_beta2 = 0.999,
                                             .adam_epsilon = 1e-8,
                                             .max_grad_norm = 1.0 };

/* All gradients are value but the last of tensor number bad, which is spoilt. */
static void fill_gradients(tiny *t, float value, int64_t bad, float spoilt)
{
    int64_t n = 0;

    for (int64_t i = 0; i < t->model->params->count; i++) {
        csp_param *row = &t->model->params->rows[i];
        const int64_t count = csp_tensor_count(&row->value);
        float *values = malloc((size_t)count * sizeof(*values));

        if (row->trained) {
            for (int64_t j = 0; j < count; j++) {
                values[j] = n == bad && j == count - 1 ? spoilt : value;
            }
            assert_ok(csp_backend_upload(t->be, values, &row->grad));
            n++;
        }
        free(values);
    }
}

/* Update number n of 9 and what came out of it. */
static csp_status step(csp_optimizer *o, const tiny *t, int64_t n, csp_step_metrics *m)
{
    const csp_tensor none = csp_tensor_none();

    CSP_TRY(csp_optimizer_step(o, &settings, n, 9, &none));
    CSP_TRY(csp_backend_sync(t->be));
    csp_optimizer_read(o, m);
    return CSP_OK;
}

/* Values and moments one after the other; the caller frees them. */
static float *state_of(const tiny *t)
{
    float *all = malloc((size_t)t->count * 3 * sizeof(*all));
    int64_t at = 0;

    for (int64_t i = 0; i < t->model->params->count; i++) {
        const csp_param *row = &t->model->params->rows[i];
        const csp_tensor *parts[] = { &row->value, &row->m, &row->v };

        for (int p = 0; row->trained && p < 3; p++) {
            assert_ok(csp_backend_download(t->be, parts[p], all + at));
            at += csp_tensor_count(&row->value);
        }
    }
    assert_int_equal(at, 3 * t->count);
    return all;
}

static void a_gradient_that_is_not_finite_makes_no_update_and_is_named(void **state)
{
    static const float spoilt[] = { NAN, INFINITY, -INFINITY };
    csp_step_metrics m;
    csp_optimizer *o;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    assert_ok(csp_optimizer_create(t.be, t.model, NULL, &o));
    assert_ok(csp_optimizer_reset(o));
    for (size_t i = 0; i < sizeof(spoilt) / sizeof(spoilt[0]); i++) {
        float *before = state_of(&t), *after, *gradients;

        fill_gradients(&t, 0.5f, 2, spoilt[i]);
        csp_step_metrics_clear(&m, "adapt", 1, 9);
        assert_ok(step(o, &t, 1, &m));
        assert_string_equal(csp_optimizer_bad(o), "model.layers.0.self_attn.q_proj.weight");
        assert_true(m.skipped == 1.0 && isnan(m.grad_norm) && m.lr == 1e-2);
        after = state_of(&t);
        assert_memory_equal(before, after, (size_t)t.count * 3 * sizeof(*after));
        gradients = tiny_gradients(&t);
        for (int64_t j = 0; j < t.count; j++) {
            assert_true(gradients[j] == 0.0f);
        }
        free(before);
        free(after);
        free(gradients);
    }
    csp_optimizer_destroy(o);
    tiny_close(&t);
}

static void a_step_with_faults_makes_no_update(void **state)
{
    const int64_t faults[] = { -1, 0 }, two = 2;
    const csp_tensor at = csp_tensor_view((void *)(uintptr_t)faults, CSP_I64, 1, &two);
    csp_step_metrics m;
    csp_optimizer *o;
    float *before, *after;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false); /* on the CPU, whose memory is the host's */
    assert_ok(csp_optimizer_create(t.be, t.model, NULL, &o));
    assert_ok(csp_optimizer_reset(o));
    before = state_of(&t);
    fill_gradients(&t, 0.5f, -1, 0.0f);
    assert_ok(csp_optimizer_step(o, &settings, 1, 9, &at));
    assert_ok(csp_backend_sync(t.be));
    csp_optimizer_read(o, &m);
    assert_null(csp_optimizer_bad(o)); /* it is not the gradients */
    after = state_of(&t);
    assert_memory_equal(before, after, (size_t)t.count * 3 * sizeof(*after));
    free(before);
    free(after);
    csp_optimizer_destroy(o);
    tiny_close(&t);
}

static void the_next_finite_gradient_makes_one(void **state)
{
    csp_step_metrics m;
    csp_optimizer *o;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, true);
    assert_ok(csp_optimizer_create(t.be, t.model, NULL, &o));
    assert_ok(csp_optimizer_reset(o));
    fill_gradients(&t, 0.5f, 0, NAN);
    assert_ok(step(o, &t, 1, &m));
    fill_gradients(&t, 0.5f, -1, 0.0f);
    float *before = state_of(&t);

    assert_ok(step(o, &t, 2, &m));
    assert_null(csp_optimizer_bad(o));
    assert_true(m.skipped == 0.0 && m.clipped == 1.0);
    assert_true(fabs(m.grad_norm - 0.5 * sqrt((double)t.count)) < 1e-3);
    float *after = state_of(&t);

    assert_memory_not_equal(before, after, (size_t)t.count * 3 * sizeof(*after));
    free(before);
    free(after);
    csp_optimizer_destroy(o);
    tiny_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gradient_that_is_not_finite_makes_no_update_and_is_named),
        cmocka_unit_test(a_step_with_faults_makes_no_update),
        cmocka_unit_test(the_next_finite_gradient_makes_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
