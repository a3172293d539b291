/*
 * test_step_flop.c - the arithmetic of a step: counted by hand for texts of known lengths, and
 * nothing that memory decides (micro-batches, recomputation) is in it.
 */
#include "train/tiny.h"

#include "train/step_flop.h"

/* Texts of so many tokens each, in place of those of tiny_open. */
static void set_texts(csp_token_lists *lists, const int64_t *lengths, int64_t count)
{
    static const int32_t ids[12] = { 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8 };

    csp_token_lists_reset(lists);
    for (int64_t i = 0; i < count; i++) {
        assert_ok(csp_token_lists_add(lists, ids, lengths[i]));
    }
}

static double adapt_flop(tiny *t, const csp_adapt_options *options, bool backward)
{
    const csp_pass pass = { .causal = true };
    csp_step_metrics m;
    csp_adapt *a;
    double flop;

    csp_step_metrics_clear(&m, "adapt", 1, 1);
    assert_ok(csp_adapt_create(t->be, t->model, &t->contract, options, &a));
    assert_ok(tiny_adapt(t, a, &t->passages, &pass, backward, &m));
    flop = csp_adapt_flop(a);
    csp_adapt_destroy(a);
    return flop;
}

/*
 * The model of tiny.h: D 24, F 40, L 2, H 4, G 2, E 6, V 61. Weights of a block: q and o 24 x 24,
 * k and v 12 x 24, three of 40 x 24: 4,608. Texts of 3 and 5 tokens: 8 rows, 6 + 15 pairs under the
 * causal mask, 2 + 4 predicted tokens.
 */
static void an_adaptation_step_is_counted_by_hand(void **state)
{
    const double linear = 2.0 * 2 * 4608 * 8, attention = 4.0 * 2 * 24 * 21,
                 head = 2.0 * 24 * 61 * 6;
    const csp_adapt_options whole = { .max_rows = 100, .max_len = 12, .texts = 2 };
    const csp_adapt_options cut = {
        .max_rows = 1, .max_len = 12, .texts = 2, .keep = CSP_KEEP_INPUTS
    };

    (void)state;
    for (int lora = 0; lora < 2; lora++) {
        const double passes = lora != 0 ? 2.0 : 3.0;
        tiny t;

        tiny_open(&t, CSP_VARIANT_BI, lora != 0);
        set_texts(&t.passages, (int64_t[]) { 3, 5 }, 2);
        assert_true(adapt_flop(&t, &whole, false) == linear + attention + head);
        assert_true(adapt_flop(&t, &whole, true) == passes * (linear + head) + 3.0 * attention);
        assert_true(adapt_flop(&t, &cut, true) == passes * (linear + head) + 3.0 * attention);
        tiny_close(&t);
    }
}

static double contrastive_flop(tiny *t, int64_t max_rows, bool recompute, double *terms)
{
    const csp_contrastive_options options = { .queries = 1,
                                              .passages = 1,
                                              .max_rows = max_rows,
                                              .keep = recompute ? CSP_KEEP_INPUTS : CSP_KEEP_ALL,
                                              .temperature = 1.0,
                                              .limits = { 1.01, 1.01, 1.01 } };
    const int32_t positive[] = { 0 };
    const csp_contrastive_texts texts = { .queries = &t->queries,
                                          .passages = &t->passages,
                                          .positive = positive };
    const csp_contrastive_step step = { .step = 1,
                                        .pass.causal = t->contract.variant != CSP_VARIANT_BI };
    csp_contrastive *c;
    csp_step_metrics m;
    double flop;

    csp_step_metrics_clear(&m, "contrastive", 1, 1);
    assert_ok(csp_contrastive_create(t->be, t->model, &t->contract, &options, &c));
    assert_ok(tiny_contrastive(t, c, &texts, &step, &m));
    flop = csp_contrastive_flop(c);
    csp_contrastive_destroy(c);
    *terms = m.active_q + m.active_d; /* one row each: means are counts */
    return flop;
}

/* A query of 3 and a passage of 5 tokens; an echo has 16 rows, 21 + 55 pairs, and pools 8. */
static void a_contrastive_step_is_counted_by_hand(void **state)
{
    static const struct {
        csp_variant variant;
        double rows, pairs;
    } cases[] = { { CSP_VARIANT_CAUSAL, 8.0, 21.0 },
                  { CSP_VARIANT_ECHO, 16.0, 76.0 },
                  { CSP_VARIANT_BI, 8.0, 34.0 } };

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        const bool lora = i % 2 == 1;
        const double linear = 2.0 * 2 * 4608 * cases[i / 2].rows;
        const double attention = 4.0 * 2 * 24 * cases[i / 2].pairs, head = 2.0 * 24 * 61 * 8;
        double terms, want;
        tiny t;

        tiny_open(&t, cases[i / 2].variant, lora);
        set_texts(&t.queries, (int64_t[]) { 3 }, 1);
        set_texts(&t.passages, (int64_t[]) { 5 }, 1);
        want = contrastive_flop(&t, 100, false, &terms);
        assert_true(terms > 2.0);
        assert_true(want == (lora ? 2.0 : 3.0) * linear + 3.0 * attention + head +
                                (lora ? 2.0 : 4.0) * 24 * terms);
        assert_true(contrastive_flop(&t, 1, true, &terms) == want);
        /* Gradients of a sum are dense. */
        t.contract.pooling = CSP_POOLING_SUM;
        assert_true(contrastive_flop(&t, 100, false, &terms) ==
                    (lora ? 2.0 : 3.0) * (linear + head) + 3.0 * attention);
        tiny_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_adaptation_step_is_counted_by_hand),
        cmocka_unit_test(a_contrastive_step_is_counted_by_hand),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
