/*
 * test_adapt.c - the adaptation step: any split gives the same gradient, the gradient is that of
 * the loss, the mean is over all predicted tokens, and what cannot be predicted is refused.
 */
#include "train/tiny.h"

typedef struct how {
    int64_t max_rows;
    bool recompute;
} how;

static double adapt_loss(tiny *t, const how *h, const csp_token_lists *texts, bool backward)
{
    const csp_adapt_options options = { .max_rows = h->max_rows,
                                        .max_len = 12,
                                        .texts = TINY_PASSAGES,
                                        .keep = h->recompute ? CSP_KEEP_INPUTS : CSP_KEEP_ALL,
                                        .lambda_relu = 0.7 };
    const csp_pass pass = { .causal = true, .dropout = true, .seed = 11, .step = 4 };
    csp_adapt *a;
    csp_step_metrics m;

    csp_step_metrics_clear(&m, "adapt", 1, 10);
    assert_ok(csp_adapt_create(t->be, t->model, &t->contract, &options, &a));
    assert_ok(tiny_adapt(t, a, texts, &pass, backward, &m));
    csp_adapt_destroy(a);
    assert_true(fabs(m.loss - (m.clm + 0.7 * m.relu)) <= 1e-12);
    return m.loss;
}

static void any_split_gives_the_same_gradient(void **state)
{
    static const int64_t rows[] = { 1, 7, 13, 40 };

    (void)state;
    for (int lora = 0; lora < 2; lora++) {
        float *want, *got, *again;
        double loss;
        tiny t;

        /* Adaptation is causal whatever the variant. */
        tiny_open(&t, CSP_VARIANT_BI, lora != 0);
        loss = adapt_loss(&t, &(how) { 1000, false }, &t.passages, true);
        want = tiny_gradients(&t);
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
            const double split = adapt_loss(&t, &(how) { rows[i], false }, &t.passages, true);

            got = tiny_gradients(&t);
            tiny_close_to(&t, got, want);
            assert_true(fabs(split - loss) <= 2.0 * UNIT_F32 * tiny_roundings(&t) * loss);
            assert_true(adapt_loss(&t, &(how) { rows[i], true }, &t.passages, true) == split);
            again = tiny_gradients(&t);
            assert_memory_equal(again, got, (size_t)t.count * sizeof(*got));
            /* Without backward: the same loss, and no gradient. */
            assert_true(adapt_loss(&t, &(how) { rows[i], false }, &t.passages, false) == split);
            free(again);
            again = tiny_gradients(&t);
            for (int64_t j = 0; j < t.count; j++) {
                assert_true(again[j] == 0.0f);
            }
            free(again);
            free(got);
        }
        free(want);
        tiny_close(&t);
    }
}

static double loss_of(tiny *t, void *context)
{
    return adapt_loss(t, context, &t->passages, false);
}

/* A loss near 10, as in test_contrastive.c, and smooth: the second loss has kinks at 0 only. */
static void the_gradient_is_that_of_the_loss(void **state)
{
    (void)state;
    for (int lora = 0; lora < 2; lora++) {
        how h = { 13, false };
        double distance;
        float *g;
        tiny t;

        tiny_open(&t, CSP_VARIANT_CAUSAL, lora != 0);
        (void)adapt_loss(&t, &h, &t.passages, true);
        g = tiny_gradients(&t);
        distance = tiny_slope_distance(&t, g, 1e-2, loss_of, &h);
        if (!(distance <= 1e-2)) {
            print_error("lora %d: apart by %g\n", lora, distance);
        }
        assert_true(distance <= 1e-2);
        free(g);
        tiny_close(&t);
    }
}

/* The mean of a step is weighted by predicted tokens, not by texts. */
static void the_mean_is_over_all_predicted_tokens(void **state)
{
    csp_token_lists first = { 0 }, rest = { 0 };
    const int32_t *ids;
    int64_t n, predicted;
    double whole, one, others;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    for (int64_t i = 0; i < t.passages.count; i++) {
        ids = csp_token_lists_get(&t.passages, i, &n);
        assert_ok(csp_token_lists_add(i == 0 ? &first : &rest, ids, n));
    }
    predicted = csp_batch_predicted(&t.contract, &t.passages);
    whole = adapt_loss(&t, &(how) { 1000, false }, &t.passages, false);
    one = adapt_loss(&t, &(how) { 1000, false }, &first, false);
    others = adapt_loss(&t, &(how) { 1000, false }, &rest, false);
    n = csp_batch_predicted(&t.contract, &first);
    assert_true(n > 0 && n < predicted);
    assert_true(
        fabs(whole * (double)predicted - (one * (double)n + others * (double)(predicted - n))) <=
        2.0 * UNIT_F32 * tiny_roundings(&t) * whole * (double)predicted);
    csp_token_lists_clear(&first);
    csp_token_lists_clear(&rest);
    tiny_close(&t);
}

/*
 * Texts that begin with one excluded term and end with another, as BOS and EOS may be: the step is
 * that of the terms which can be predicted.
 */
static void excluded_terms_are_read_and_not_predicted(void **state)
{
    const csp_adapt_options options = { .max_rows = 9, .max_len = 12, .texts = TINY_PASSAGES };
    const csp_pass pass = { .causal = true };
    const int32_t out[] = { 1, 2 };
    csp_token_lists ended = { 0 }, alone = { 0 };
    csp_step_metrics m;
    csp_adapt *a;
    how h = { 9, false };
    int64_t predicted = 0;
    float *gradient;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    for (int64_t i = 0; i < TINY_PASSAGES; i++) {
        int32_t ids[12] = { 1 };
        int64_t n;
        const int32_t *from = csp_token_lists_get(&t.passages, i, &n);

        n = n < 10 ? n : 10;
        for (int64_t j = 0; j < n; j++) {
            ids[j + 1] = from[j] > 2 ? from[j] : 3;
        }
        ids[n + 1] = 2;
        assert_ok(csp_token_lists_add(&ended, ids, n + 2));
        predicted += n;
    }
    csp_token_lists_clear(&t.passages);
    t.passages = ended;
    assert_ok(csp_contract_set_exclude_ids(&t.contract, out, 2));
    assert_int_equal(csp_batch_predicted(&t.contract, &ended), predicted);
    (void)adapt_loss(&t, &h, &t.passages, true);
    gradient = tiny_gradients(&t);
    assert_true(tiny_slope_distance(&t, gradient, 1e-2, loss_of, &h) <= 1e-2);
    free(gradient);
    csp_step_metrics_clear(&m, "adapt", 1, 10);
    assert_ok(csp_token_lists_add(&alone, out, 2));
    assert_ok(csp_adapt_create(t.be, t.model, &t.contract, &options, &a));
    assert_int_equal(tiny_adapt(&t, a, &alone, &pass, true, &m), CSP_ERR_DATA);
    assert_error_has("not among model.exclude_ids");
    csp_adapt_destroy(a);
    csp_token_lists_clear(&alone);
    tiny_close(&t);
}

static void nothing_to_predict_and_nan_are_errors(void **state)
{
    const csp_adapt_options options = { .max_rows = 9, .max_len = 12, .texts = TINY_PASSAGES };
    const csp_pass pass = { .causal = true };
    const int32_t id = 3;
    csp_token_lists single = { 0 };
    csp_adapt *a;
    csp_step_metrics m;
    float *values;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    csp_step_metrics_clear(&m, "adapt", 8, 10);
    assert_ok(csp_adapt_create(t.be, t.model, &t.contract, &options, &a));
    assert_ok(csp_token_lists_add(&single, &id, 1));
    assert_int_equal(tiny_adapt(&t, a, &single, &pass, true, &m), CSP_ERR_DATA);
    assert_error_has("none of its 1 texts has two tokens");
    values = tiny_download(&t, &t.model->params->final_norm->value);
    values[7] = INFINITY;
    assert_ok(csp_backend_upload(t.be, values, &t.model->params->final_norm->value));
    assert_int_equal(tiny_adapt(&t, a, &t.passages, &pass, true, &m), CSP_ERR_NUMERIC);
    assert_error_has("adapt step 8: hidden states are not finite, first at token 0 of text 0");
    assert_error_has("model.norm.weight");
    free(values);
    csp_adapt_destroy(a);
    csp_token_lists_clear(&single);
    tiny_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_split_gives_the_same_gradient),
        cmocka_unit_test(the_gradient_is_that_of_the_loss),
        cmocka_unit_test(the_mean_is_over_all_predicted_tokens),
        cmocka_unit_test(excluded_terms_are_read_and_not_predicted),
        cmocka_unit_test(nothing_to_predict_and_nan_are_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
