/*
 * test_contrastive.c - the contrastive step: any split of a batch gives the same gradient, the
 * gradient is that of the loss, masks, sparsity terms, empty texts, NaN, and no allocation.
 */
#include "ops/table.h"
#include "train/tiny.h"

/* How a step is cut and kept. */
typedef struct cut {
    int64_t max_rows;
    size_t budget;
    bool recompute;
} cut;

static csp_contrastive_options options_of(const cut *how)
{
    return (csp_contrastive_options) { .queries = TINY_QUERIES,
                                       .passages = TINY_PASSAGES,
                                       .max_rows = how->max_rows,
                                       .budget = how->budget,
                                       .keep = how->recompute ? CSP_KEEP_INPUTS : CSP_KEEP_ALL,
                                       .temperature = 2.0,
                                       .limits = { 1.01, 1.01, 1.01 } };
}

static csp_contrastive_texts texts_of(const tiny *t)
{
    return (csp_contrastive_texts) {
        .queries = &t->queries, .passages = &t->passages, .positive = t->positive, .mask = t->mask
    };
}

static csp_contrastive_step step_of(const tiny *t)
{
    return (csp_contrastive_step) { .step = 1,
                                    .lambda_q = 0.3,
                                    .lambda_d = 0.2,
                                    .pass = { .causal = t->contract.variant != CSP_VARIANT_BI,
                                              .dropout = true,
                                              .seed = 11,
                                              .step = 7 } };
}

static void run_with(tiny *t, const csp_contrastive_options *options, csp_step_metrics *m)
{
    const csp_contrastive_texts texts = texts_of(t);
    const csp_contrastive_step step = step_of(t);
    csp_contrastive *c;

    csp_step_metrics_clear(m, "contrastive", 1, 10);
    assert_ok(csp_contrastive_create(t->be, t->model, &t->contract, options, &c));
    assert_ok(tiny_contrastive(t, c, &texts, &step, m));
    csp_contrastive_destroy(c);
}

/* The gradient of one step; the caller frees it. */
static float *gradient_of(tiny *t, const cut *how, csp_step_metrics *m)
{
    const csp_contrastive_options options = options_of(how);

    run_with(t, &options, m);
    return tiny_gradients(t);
}

enum { PLENTY = 1 << 26 };
static const cut whole = { 1000, PLENTY, false };

static void any_split_gives_the_same_gradient(void **state)
{
    static const int64_t rows[] = { 1, 7, 13, 40 };

    (void)state;
    for (int variant = 0; variant < 3; variant++) {
        for (int lora = 0; lora < 2; lora++) {
            csp_step_metrics want_m, m;
            float *want, *got, *again;
            tiny t;

            tiny_open(&t, (csp_variant)variant, lora != 0);
            want = gradient_of(&t, &whole, &want_m);
            for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
                /* Everything kept; nothing but what must be; some, without gate and up or with
                   them; inputs of blocks. */
                got = gradient_of(&t, &(cut) { rows[i], PLENTY, false }, &m);
                tiny_close_to(&t, got, want);
                assert_true(fabs(m.loss - want_m.loss) <=
                            2.0 * UNIT_F32 * tiny_roundings(&t) * fabs(want_m.loss));
                for (int kept = 0; kept < 5; kept++) {
                    static const size_t budgets[] = { 0, 150000, 220000, 300000, 300000 };
                    const cut how = { rows[i], budgets[kept], kept == 4 };
                    const double loss = m.loss;

                    again = gradient_of(&t, &how, &m);
                    assert_memory_equal(again, got, (size_t)t.count * sizeof(*got));
                    assert_true(m.loss == loss);
                    free(again);
                }
                free(got);
            }
            free(want);
            tiny_close(&t);
        }
    }
}

/*
 * A split must not be the same because everything is: other texts, other dropout, other gradient.
 */
static void the_comparison_sees_one_token_and_one_dropout_key(void **state)
{
    csp_step_metrics m;
    float *want, *got;
    double apart = 0.0, size = 0.0;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, true);
    want = gradient_of(&t, &whole, &m);
    t.passages.ids[0] = (t.passages.ids[0] + 1) % TINY_V;
    got = gradient_of(&t, &whole, &m);
    for (int64_t i = 0; i < t.count; i++) {
        apart = fmax(apart, fabs((double)(got[i] - want[i])));
        size = fmax(size, fabs((double)want[i]));
    }
    assert_true(apart > 10.0 * 2.0 * UNIT_F32 * tiny_roundings(&t) * size);
    free(want);
    free(got);
    tiny_close(&t);
}

/*
 * Two blocks of negatives are two steps, of which each counts by its queries: without the sparsity
 * terms, which are of the whole step. Queries 0 and 1 meet documents 0 to 4, the others the rest.
 */
static void blocks_of_negatives_are_steps_of_their_own(void **state)
{
    static const struct {
        int64_t first_q, queries, first_p, passages;
    } blocks[] = { { 0, 2, 0, 5 }, { 2, 3, 5, 6 } };
    csp_contrastive_options o = options_of(&whole);
    csp_step_metrics m, all_m;
    float *got, *want;
    double loss = 0.0;
    int64_t masked = 0;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, true);
    want = calloc((size_t)t.count, sizeof(*want));
    assert_non_null(want);
    for (int64_t q = 0; q < TINY_QUERIES; q++) {
        t.positive[q] = (int32_t)(q < 2 ? 2 * q : 2 * q + 1);
        for (int64_t p = 0; p < TINY_PASSAGES; p++) {
            t.mask[q * TINY_PASSAGES + p] = (q < 2) != (p < 5) ? CSP_LEFT_OUT_BLOCK
                                            : p == q + 5       ? CSP_LEFT_OUT_POSITIVE
                                                               : 0;
            masked += t.mask[q * TINY_PASSAGES + p] == CSP_LEFT_OUT_POSITIVE;
        }
    }
    for (int b = 0; b < 2; b++) {
        csp_contrastive_step step = step_of(&t);
        csp_token_lists queries = { 0 }, passages = { 0 };
        int64_t number_q[TINY_QUERIES], number_p[TINY_PASSAGES];
        int32_t positive[TINY_QUERIES];
        uint8_t mask[TINY_QUERIES * TINY_PASSAGES];
        const csp_contrastive_texts texts = { &queries, &passages, number_q,
                                              number_p, positive,  mask };
        csp_contrastive *c;
        float *part;

        for (int64_t q = 0; q < blocks[b].queries; q++) {
            int64_t n;
            const int32_t *ids;

            number_q[q] = blocks[b].first_q + q;
            ids = csp_token_lists_get(&t.queries, number_q[q], &n);
            assert_ok(csp_token_lists_add(&queries, ids, n));
            positive[q] = t.positive[number_q[q]] - (int32_t)blocks[b].first_p;
            for (int64_t p = 0; p < blocks[b].passages; p++) {
                mask[q * blocks[b].passages + p] =
                    t.mask[number_q[q] * TINY_PASSAGES + blocks[b].first_p + p];
            }
        }
        for (int64_t p = 0; p < blocks[b].passages; p++) {
            int64_t n;
            const int32_t *ids;

            /* Dropout keys documents by their number behind all queries of the step. */
            number_p[p] = blocks[b].first_p + p + TINY_QUERIES - blocks[b].queries;
            ids = csp_token_lists_get(&t.passages, blocks[b].first_p + p, &n);
            assert_ok(csp_token_lists_add(&passages, ids, n));
        }
        step.lambda_q = step.lambda_d = 0.0;
        csp_step_metrics_clear(&m, "contrastive", 1, 10);
        assert_ok(csp_contrastive_create(t.be, t.model, &t.contract, &o, &c));
        assert_ok(tiny_contrastive(&t, c, &texts, &step, &m));
        csp_contrastive_destroy(c);
        part = tiny_gradients(&t);
        for (int64_t i = 0; i < t.count; i++) {
            want[i] += part[i] * (float)blocks[b].queries / TINY_QUERIES;
        }
        loss += m.nce * (double)blocks[b].queries / TINY_QUERIES;
        free(part);
        csp_token_lists_clear(&queries);
        csp_token_lists_clear(&passages);
    }
    {
        const csp_contrastive_texts texts = texts_of(&t);
        csp_contrastive_step step = step_of(&t);
        csp_contrastive *c;

        step.lambda_q = step.lambda_d = 0.0;
        csp_step_metrics_clear(&all_m, "contrastive", 1, 10);
        assert_ok(csp_contrastive_create(t.be, t.model, &t.contract, &o, &c));
        assert_ok(tiny_contrastive(&t, c, &texts, &step, &all_m));
        csp_contrastive_destroy(c);
        got = tiny_gradients(&t);
    }
    tiny_close_to(&t, got, want);
    assert_true(fabs(all_m.nce - loss) <= 2.0 * UNIT_F32 * tiny_roundings(&t) * loss);
    assert_true(all_m.masked == (double)masked && masked > 0);
    free(want);
    free(got);
    tiny_close(&t);
}

static double loss_of(tiny *t, void *context)
{
    csp_step_metrics m;

    free(gradient_of(t, context, &m));
    return m.loss;
}

/*
 * Losses here are 10 to 200 and computed from f32 scores, good to some 2^-24 of that, so that a
 * difference of 2e-2 has an error of at most 200 x 2^-24 x 10 / 2e-2 = 0.6 %; where a maximum
 * changes its position within the step, its part of the slope is half right. A missing sparsity
 * term, a wrong scale or a lost side is tens of percents.
 */
static void the_gradient_is_that_of_the_loss(void **state)
{
    static const double limit = 1e-2;

    (void)state;
    for (int variant = 0; variant < 3; variant++) {
        for (int kind = 0; kind < 3; kind++) { /* full, LoRA with dropout, sum pooling */
            cut how = { 13, PLENTY, false };
            csp_step_metrics m;
            double distance;
            float *g;
            tiny t;

            tiny_open(&t, (csp_variant)variant, kind == 1);
            t.contract.pooling = kind == 2 ? CSP_POOLING_SUM : CSP_POOLING_MAX;
            g = gradient_of(&t, &how, &m);
            distance = tiny_slope_distance(&t, g, 1e-2, loss_of, &how);
            if (!(distance <= limit)) {
                print_error("variant %d kind %d: apart by %g\n", variant, kind, distance);
            }
            assert_true(distance <= limit);
            free(g);
            tiny_close(&t);
        }
    }
}

static void sparsity_terms_enter_with_their_weight(void **state)
{
    csp_step_metrics flops, l1;
    csp_contrastive_options o = options_of(&whole);
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    run_with(&t, &o, &flops);
    o.regularizer = CSP_REG_L1;
    run_with(&t, &o, &l1);
    assert_true(flops.nce == l1.nce && flops.reg_q > 0.0 && flops.reg_d > 0.0);
    assert_true(fabs(flops.loss - (flops.nce + 0.3 * flops.reg_q + 0.2 * flops.reg_d)) <= 1e-12);
    assert_true(fabs(l1.loss - (l1.nce + 0.3 * l1.reg_q + 0.2 * l1.reg_d)) <= 1e-12);
    /* (sum of w/M)^2 over V columns: by Cauchy-Schwarz FLOPS is at least L1^2 / V. */
    assert_true(flops.reg_q * TINY_V >= l1.reg_q * l1.reg_q * (1.0 - 1e-6));
    assert_true(flops.reg_q < l1.reg_q * l1.reg_q);
    assert_true(flops.lambda_q == 0.3 && flops.lambda_d == 0.2);
    tiny_close(&t);
}

/* Scores are divided before the softmax; the margin is reported as if they were not. */
static void temperature_divides_scores(void **state)
{
    const double chance = (3.0 * log(11.0) + 2.0 * log(10.0)) / 5.0;
    csp_contrastive_options o = options_of(&whole);
    csp_step_metrics warm, hot;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    run_with(&t, &o, &warm);
    o.temperature = 1e6;
    run_with(&t, &o, &hot);
    assert_true(fabs(warm.nce - chance) > 0.1);
    assert_true(fabs(hot.nce - chance) <= 1e-3); /* scores below 1,000 here */
    assert_true(fabs(hot.margin - warm.margin) <= 16.0 * UNIT_F32 * 1000.0);
    tiny_close(&t);
}

/*
 * One query, its document, and a copy of that: unmasked it is a toss-up, masked there is nothing.
 */
static void a_masked_candidate_is_not_there(void **state)
{
    const uint8_t mask[] = { 0, 1 };
    const int32_t positive[] = { 0 };
    const csp_contrastive_options o = { .queries = 1,
                                        .passages = 2,
                                        .max_rows = 100,
                                        .budget = PLENTY,
                                        .temperature = 1.0,
                                        .limits = { 1.01, 1.01, 1.01 } };
    csp_contrastive_step step = { .step = 1, .pass = { .causal = true } };
    csp_token_lists query = { 0 }, documents = { 0 };
    csp_contrastive_texts texts = { .queries = &query,
                                    .passages = &documents,
                                    .positive = positive };
    const int32_t ids[] = { 4, 7, 5 };
    csp_contrastive *c;
    csp_step_metrics m;
    float *g;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    assert_ok(csp_token_lists_add(&query, ids, 2));
    assert_ok(csp_token_lists_add(&documents, ids, 3));
    assert_ok(csp_token_lists_add(&documents, ids, 3));
    assert_ok(csp_contrastive_create(t.be, t.model, &t.contract, &o, &c));
    csp_step_metrics_clear(&m, "contrastive", 1, 1);
    assert_ok(tiny_contrastive(&t, c, &texts, &step, &m));
    /* Other rows of a product may be rounded in another order: scores below 100, thus 1e-4. */
    assert_true(fabs(m.nce - log(2.0)) <= 1e-4 && m.masked == 0.0);
    free(tiny_gradients(&t));
    texts.mask = mask;
    assert_ok(tiny_contrastive(&t, c, &texts, &step, &m));
    assert_true(m.nce == 0.0 && m.masked == 1.0 && m.accuracy == 1.0);
    g = tiny_gradients(&t);
    for (int64_t i = 0; i < t.count; i++) {
        assert_true(g[i] == 0.0f);
    }
    free(g);
    csp_contrastive_destroy(c);
    csp_token_lists_clear(&query);
    csp_token_lists_clear(&documents);
    tiny_close(&t);
}

static void texts_without_tokens_are_empty_rows(void **state)
{
    const cut small = { 1, 0, false };
    csp_step_metrics m;
    float *g;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    /* All queries empty: every score is 0, and only documents have a sparsity term. */
    csp_token_lists_reset(&t.queries);
    for (int q = 0; q < TINY_QUERIES; q++) {
        assert_ok(csp_token_lists_add(&t.queries, NULL, 0));
    }
    g = gradient_of(&t, &small, &m);
    assert_true(m.zero_q == 1.0 && m.active_q == 0.0 && m.reg_q == 0.0);
    assert_true(fabs(m.nce - (3.0 * log(11.0) + 2.0 * log(10.0)) / 5.0) <= 1e-12);
    assert_true(m.zero_d > 0.0 && m.zero_d < 1.0);
    free(g);
    /* Both sides: nothing to learn from, and no crash. */
    csp_token_lists_reset(&t.passages);
    for (int p = 0; p < TINY_PASSAGES; p++) {
        assert_ok(csp_token_lists_add(&t.passages, NULL, 0));
    }
    g = gradient_of(&t, &small, &m);
    for (int64_t i = 0; i < t.count; i++) {
        assert_true(g[i] == 0.0f);
    }
    free(g);
    tiny_close(&t);
}

static void a_step_like_the_last_allocates_nothing(void **state)
{
    const csp_contrastive_options o = options_of(&(cut) { 13, 300000, false });
    csp_contrastive_texts texts;
    csp_contrastive_step step;
    csp_contrastive *c;
    csp_step_metrics m;
    int64_t blocks;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_ECHO, true);
    texts = texts_of(&t);
    step = step_of(&t);
    assert_ok(csp_contrastive_create(t.be, t.model, &t.contract, &o, &c));
    csp_step_metrics_clear(&m, "contrastive", 1, 10);
    assert_ok(tiny_contrastive(&t, c, &texts, &step, &m));
    blocks = ((const cpu_state *)t.be->state)->allocations;
    csp_fault_arm(0);
    assert_ok(tiny_contrastive(&t, c, &texts, &step, &m));
    assert_int_equal(csp_fault_asked(), 0);
    assert_int_equal(((const cpu_state *)t.be->state)->allocations, blocks);
    csp_contrastive_destroy(c);
    tiny_close(&t);
}

/* For walk_faults: a phase from its creation over its first step. */
static csp_status first_step(void *context)
{
    tiny *t = context;
    const csp_contrastive_options o = options_of(&whole);
    const csp_contrastive_texts texts = texts_of(t);
    const csp_contrastive_step step = step_of(t);
    csp_contrastive *c;
    csp_step_metrics m;
    csp_status status;

    csp_step_metrics_clear(&m, "contrastive", 1, 10);
    CSP_TRY(csp_contrastive_create(t->be, t->model, &t->contract, &o, &c));
    status = tiny_contrastive(t, c, &texts, &step, &m);
    csp_contrastive_destroy(c);
    return status;
}

static void every_failing_allocation_is_reported(void **state)
{
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    assert_true(walk_faults(first_step, NULL, &t) > 10);
    tiny_close(&t);
}

static void what_is_not_finite_is_named(void **state)
{
    const csp_contrastive_options o = options_of(&(cut) { 13, PLENTY, false });
    csp_contrastive_texts texts;
    csp_contrastive_step step;
    csp_contrastive *c;
    csp_step_metrics m;
    csp_param *row;
    float *values;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    texts = texts_of(&t);
    step = step_of(&t);
    step.step = 17;
    assert_ok(csp_contrastive_create(t.be, t.model, &t.contract, &o, &c));
    /* The embedding of a token that only the fourth document has. */
    texts.queries = &t.queries;
    for (int64_t i = 0; i < t.queries.start[t.queries.count]; i++) {
        t.queries.ids[i] %= TINY_V - 1;
    }
    for (int64_t i = 0; i < t.passages.start[t.passages.count]; i++) {
        t.passages.ids[i] %= TINY_V - 1;
    }
    t.passages.ids[t.passages.start[3]] = TINY_V - 1;
    row = t.model->params->embed;
    values = tiny_download(&t, &row->value);
    values[(TINY_V - 1) * 24 + 5] = NAN;
    assert_ok(csp_backend_upload(t.be, values, &row->value));
    assert_int_equal(tiny_contrastive(&t, c, &texts, &step, &m), CSP_ERR_NUMERIC);
    assert_error_has(
        "contrastive step 17: hidden states are not finite, first at token 0 of text 3");
    assert_error_has("model.embed_tokens.weight");
    /* No text has it now: all hidden states are finite, but not the logits of that term. */
    t.passages.ids[t.passages.start[3]] = 0;
    assert_int_equal(tiny_contrastive(&t, c, &texts, &step, &m), CSP_ERR_NUMERIC);
    assert_error_has("contrastive step 17: the loss is not finite: nce ");
    assert_error_has(", and so is model.embed_tokens.weight");
    free(values);
    csp_contrastive_destroy(c);
    tiny_close(&t);
}

static void more_texts_than_planned_are_refused(void **state)
{
    csp_contrastive_options o = options_of(&whole);
    csp_contrastive_texts texts;
    csp_contrastive_step step;
    csp_contrastive *c;
    csp_step_metrics m;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    texts = texts_of(&t);
    step = step_of(&t);
    o.passages = TINY_PASSAGES - 1;
    assert_ok(csp_contrastive_create(t.be, t.model, &t.contract, &o, &c));
    assert_int_equal(tiny_contrastive(&t, c, &texts, &step, &m), CSP_ERR_ARGUMENT);
    assert_error_has("11 documents");
    csp_contrastive_destroy(c);
    tiny_close(&t);
}

/* Rows of the passes that went forward, in order. */
static int64_t passes, rows_of_pass[32];
static csp_status (*embed_of_cpu)(csp_backend *be, const csp_tensor *table, const csp_tensor *token,
                                  csp_tensor *x);

static csp_status note_rows(csp_backend *be, const csp_tensor *table, const csp_tensor *token,
                            csp_tensor *x)
{
    rows_of_pass[passes++ % 32] = token->dim[0];
    return embed_of_cpu(be, table, token, x);
}

/*
 * Where ranks share state out, a micro-batch of documents goes first if two more follow the
 * queries; loss and gradient are those of queries first, to the bit.
 */
static void documents_lead_where_values_come_in(void **state)
{
    static const csp_storage shared = { .sharing = { 2, 0, 1, 0 } };
    const cut ways[] = { { 40, PLENTY, false }, { 9, PLENTY, false }, { 9, 40000, false } };

    (void)state;
    for (int i = 0; i < 3; i++) {
        float *gradient[2];
        csp_step_metrics m[2];
        int64_t queries, first[2];

        for (int way = 0; way < 2; way++) {
            csp_ops ops;
            tiny t;

            tiny_open_stored(&t, "cpu", CSP_VARIANT_CAUSAL, false,
                             way == 0 ? (csp_storage) { 0 } : shared);
            /* One micro-batch of queries, which no other has as many rows as. */
            csp_token_lists_reset(&t.queries);
            for (int64_t q = 0; q < TINY_QUERIES; q++) {
                assert_ok(csp_token_lists_add(&t.queries, (int32_t[]) { 7 + (int32_t)q }, 1));
            }
            queries = TINY_QUERIES;
            ops = *t.be->ops;
            embed_of_cpu = ops.embed_fwd;
            ops.embed_fwd = note_rows;
            t.be->ops = &ops;
            passes = 0;
            gradient[way] = gradient_of(&t, &ways[i], &m[way]);
            first[way] = rows_of_pass[0];
            assert_true(rows_of_pass[way == 1 && i > 0 ? 1 : 0] == queries);
            tiny_close(&t);
        }
        assert_int_equal(first[0], queries);
        assert_int_equal(first[1] == queries,
                         i == 0); /* there are two micro-batches of documents */
        assert_true(m[0].loss == m[1].loss);
        free(gradient[0]);
        free(gradient[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_split_gives_the_same_gradient),
        cmocka_unit_test(the_comparison_sees_one_token_and_one_dropout_key),
        cmocka_unit_test(blocks_of_negatives_are_steps_of_their_own),
        cmocka_unit_test(the_gradient_is_that_of_the_loss),
        cmocka_unit_test(sparsity_terms_enter_with_their_weight),
        cmocka_unit_test(temperature_divides_scores),
        cmocka_unit_test(a_masked_candidate_is_not_there),
        cmocka_unit_test(texts_without_tokens_are_empty_rows),
        cmocka_unit_test(a_step_like_the_last_allocates_nothing),
        cmocka_unit_test(every_failing_allocation_is_reported),
        cmocka_unit_test(what_is_not_finite_is_named),
        cmocka_unit_test(more_texts_than_planned_are_refused),
        cmocka_unit_test(documents_lead_where_values_come_in),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
