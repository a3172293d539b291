/*
 * test_fp8_base.c - a frozen base in 8 bits: what a model keeps of it, and its quality gate:
 * adapters trained over it learn what they learn over the base as it is.
 */
#include "train/tiny.h"

#include "core/scalar.h"
#include "model/precision.h"
#include "train/optimizer.h"
#include "train/schedule.h"

enum { STEPS = 60, RUNS = 6 };

static const csp_storage f32 = { .dtype = CSP_F32 }, fp8 = { .dtype = CSP_F32, .fp8 = true };

static const csp_optim_settings settings = { .learning_rate = 1e-3,
                                             .lr_scheduler_type = CSP_LR_CONSTANT,
                                             .adam_beta1 = 0.9,
                                             .adam_beta2 = 0.999,
                                             .adam_epsilon = 1e-8,
                                             .max_grad_norm = 1.0 };

static csp_status one_step(tiny *t, csp_contrastive *c, csp_optimizer *o, int64_t k, uint64_t seed,
                           double *loss)
{
    const csp_contrastive_texts texts = {
        .queries = &t->queries, .passages = &t->passages, .positive = t->positive, .mask = t->mask
    };
    const csp_pass pass = { .causal = true, .dropout = true, .seed = seed, .step = (uint64_t)k };
    const csp_contrastive_step step = {
        .step = k, .lambda_q = 0.03, .lambda_d = 0.02, .pass = pass
    };
    csp_step_metrics m;
    csp_tensor faults;

    csp_step_metrics_clear(&m, "contrastive", k, STEPS);
    CSP_TRY(csp_contrastive_run(c, &texts, &step));
    faults = csp_contrastive_faults(c);
    CSP_TRY(csp_optimizer_step(o, &settings, k, STEPS, &faults));
    CSP_TRY(csp_backend_sync(t->be));
    CSP_TRY(csp_contrastive_read(c, &m));
    csp_optimizer_read(o, &m);
    *loss = m.loss;
    return CSP_OK;
}

static void losses(tiny *t, uint64_t seed, double loss[STEPS])
{
    const csp_contrastive_options options = { .queries = TINY_QUERIES,
                                              .passages = TINY_PASSAGES,
                                              .max_rows = 40,
                                              .budget = 300000,
                                              .temperature = 2.0,
                                              .limits = { 1.01, 1.01, 1.01 } };
    csp_contrastive *c;
    csp_optimizer *o;

    assert_ok(csp_contrastive_create(t->be, t->model, &t->contract, &options, &c));
    assert_ok(csp_optimizer_create(t->be, t->model, NULL, &o));
    assert_ok(csp_optimizer_reset(o));
    for (int64_t k = 1; k <= STEPS; k++) {
        assert_ok(one_step(t, c, o, k, seed, &loss[k - 1]));
    }
    csp_optimizer_destroy(o);
    csp_contrastive_destroy(c);
}

static void open_model(tiny *t, csp_storage storage)
{
    tiny_open_sized(t, "cpu", CSP_VARIANT_CAUSAL, true, storage, true);
}

static float *values_of(const tiny *t, int64_t i)
{
    const csp_param *row = &t->model->params->rows[i];
    float *values = malloc((size_t)csp_tensor_count(&row->value) * sizeof(*values));

    assert_non_null(values);
    assert_ok(csp_param_download(t->be, row, values));
    return values;
}

/* Two models, the second with the weights of the first and a base in 8 bits. */
static void open_both(tiny *wide, tiny *narrow)
{
    open_model(wide, f32);
    open_model(narrow, fp8);
    for (int64_t i = 0; i < wide->model->params->count; i++) {
        csp_param *row = &narrow->model->params->rows[i];
        float *values = values_of(wide, i);

        assert_ok(csp_param_upload(narrow->be, row, 0, csp_tensor_count(&row->value), values));
        free(values);
    }
}

static void matrices_of_blocks_are_rounded_and_nothing_else(void **state)
{
    tiny wide, narrow;

    (void)state;
    open_both(&wide, &narrow);
    for (int64_t i = 0; i < wide.model->params->count; i++) {
        const csp_param *row = &narrow.model->params->rows[i];
        const int64_t count = csp_tensor_count(&row->value);
        float *want = values_of(&wide, i), *got = values_of(&narrow, i);

        assert_int_equal(row->value.dtype, row->kind == CSP_PARAM_WEIGHT ? CSP_E4M3 : CSP_F32);
        for (int64_t j = 0; j < count && row->kind == CSP_PARAM_WEIGHT; j++) {
            const float *of_row = want + j / row->dim[1] * row->dim[1];
            float most = 0.0f;

            for (int64_t e = 0; e < row->dim[1]; e++) {
                most = fmaxf(most, fabsf(of_row[e]));
            }
            /* Half a step: 2^-4 of a normal number; below 2^-6 of the largest, 448, 2^-10. */
            assert_true(fabsf(got[j] - want[j]) <=
                        1.0001f * fmaxf(fabsf(want[j]) / 16.0f, most / 448.0f / 1024.0f));
        }
        if (row->kind != CSP_PARAM_WEIGHT) {
            assert_memory_equal(got, want, (size_t)count * sizeof(*got));
        }
        free(want);
        free(got);
    }
    tiny_close(&wide);
    tiny_close(&narrow);
}

static void its_memory_is_counted(void **state)
{
    csp_params_size wide_size, narrow_size;
    tiny wide, narrow;
    size_t saved = 0;

    (void)state;
    open_both(&wide, &narrow);
    assert_ok(csp_params_bytes(wide.model->params, &wide_size));
    assert_ok(csp_params_bytes(narrow.model->params, &narrow_size));
    for (int64_t i = 0; i < narrow.model->params->count; i++) {
        const csp_param *row = &narrow.model->params->rows[i];

        if (row->kind == CSP_PARAM_WEIGHT) {
            saved += (size_t)(row->dim[0] * row->dim[1]) * 3 - (size_t)row->dim[0] * sizeof(float);
        }
    }
    /* All sizes are whole multiples of what the arena aligns to. */
    assert_int_equal(narrow_size.values + saved,
                     wide_size.values + CSP_PARAM_STAGED * sizeof(float));
    assert_int_equal(narrow_size.moments, wide_size.moments);
    tiny_close(&wide);
    tiny_close(&narrow);
}

/* A base in float32 whose matrices have relative normal noise, drawn anew for each run. */
static void open_noisy(tiny *t, double noise, uint64_t run)
{
    open_model(t, f32);
    for (int64_t i = 0; i < t->model->params->count; i++) {
        csp_param *row = &t->model->params->rows[i];
        const csp_rng rng = { 77, CSP_DRAW_TEST, (uint32_t)i, run };
        const int64_t count = csp_tensor_count(&row->value);

        if (row->kind == CSP_PARAM_WEIGHT) {
            float *values = values_of(t, i);

            for (int64_t j = 0; j < count; j++) {
                values[j] *= 1.0f + (float)noise * csp_rng_normal(rng, (uint64_t)j);
            }
            assert_ok(csp_param_upload(t->be, row, 0, count, values));
            free(values);
        }
    }
}

/* How far losses of runs are from those over the base as it is: mean squares, of a first loss. */
typedef struct distance {
    double first, all;
} distance;

static void add_distance(distance *d, const double want[STEPS], const double got[STEPS])
{
    for (int k = 0; k < STEPS; k++) {
        const double apart = (got[k] - want[k]) / want[0];

        d->first += k == 0 ? apart * apart / RUNS : 0.0;
        d->all += apart * apart / (RUNS * STEPS);
    }
}

static double sum_of(const double loss[STEPS])
{
    double sum = 0.0;

    for (int k = 0; k < STEPS; k++) {
        sum += loss[k];
    }
    return sum;
}

/*
 * Rounding to e4m3 moves a number by (1/8) / 12^(1/2) of its power of two in rms, and so of itself,
 * where leading digits are spread evenly over logarithms, by (3 / (8 ln 2))^(1/2) of that, 2.65 %;
 * a product of two rounded sides by 2^(1/2) times as much. A base in float32 whose matrices have
 * noise of that size is the control: losses over a base in 8 bits are as far from those over the
 * base as it is as the control's are, and no further than chance has it. Steps of a run go
 * together, so RUNS numbers are compared with as many, and their mean squares may differ by the 1 %
 * point of the F distribution with 6 and 6 degrees of freedom, 8.47. The limit is thus from the
 * spread of runs, not from what rounded ones did.
 *
 * What noise leaves is held to 0.5 %: the mean loss of all steps, over several runs, as far as
 * their own scatter lets it be known, twice the standard error.
 */
static void adapters_learn_what_they_learn_over_the_base_itself(void **state)
{
    const double noise = 0.0265 * sqrt(2.0), f_6_6 = 8.47;
    distance rounded = { 0.0, 0.0 }, control = { 0.0, 0.0 };
    double apart[RUNS], mean = 0.0, scatter = 0.0;

    (void)state;
    for (int run = 0; run < RUNS; run++) {
        const uint64_t seed = 11 + (uint64_t)run;
        double want[STEPS], got[STEPS], noisy[STEPS];
        tiny wide, narrow, beside;

        open_both(&wide, &narrow);
        open_noisy(&beside, noise, (uint64_t)run);
        losses(&wide, seed, want);
        losses(&narrow, seed, got);
        losses(&beside, seed, noisy);
        tiny_close(&wide);
        tiny_close(&narrow);
        tiny_close(&beside);
        add_distance(&rounded, want, got);
        add_distance(&control, want, noisy);
        /* It is training that is compared. */
        assert_true(got[STEPS - 1] < 0.8 * got[0]);
        apart[run] = sum_of(got) / sum_of(want) - 1.0;
        mean += apart[run] / RUNS;
    }
    for (int run = 0; run < RUNS; run++) {
        scatter += (apart[run] - mean) * (apart[run] - mean) / (RUNS - 1);
    }
    print_message("losses over a base in 8 bits: first ones off by %.2g, all by %.2g in rms; under "
                  "noise by %.2g and %.2g\n",
                  sqrt(rounded.first), sqrt(rounded.all), sqrt(control.first), sqrt(control.all));
    print_message("in the mean they are %.2g more, give or take %.2g\n", mean,
                  sqrt(scatter / RUNS));
    assert_true(rounded.all > 0.0);
    assert_true(rounded.first <= f_6_6 * control.first);
    assert_true(rounded.all <= f_6_6 * control.all);
    assert_true(fabs(mean) <= 0.005 + 2.0 * sqrt(scatter / RUNS));
}

static void what_cannot_be_is_refused(void **state)
{
    const csp_lora_settings asked = { .enabled = true, .base_precision = CSP_LORA_BASE_FP8 };
    csp_model_config config = csp_model_config_standard(CSP_FAMILY_LLAMA);
    const csp_backend old = { .name = "cuda:7" };
    csp_lora lora = { .R = 3, .alpha = 6.0 }, none = { 0 };
    csp_params *params = NULL;
    bool on = false;

    (void)state;
    config.D = config.F = 48;
    config.L = 1;
    config.H = config.G = 3;
    config.E = 16;
    config.V = TINY_V;
    assert_ok(csp_lora_target(&lora, "q_proj"));
    assert_int_equal(csp_params_create(&config, &none, CSP_TRAIN_FULL, fp8, &params),
                     CSP_ERR_ARGUMENT);
    config.F = 40;
    assert_int_equal(csp_params_create(&config, &lora, CSP_TRAIN_LORA, fp8, &params),
                     CSP_ERR_UNSUPPORTED);
    assert_non_null(strstr(csp_error_text(), "gate_proj of this model is (40,48)"));
    assert_null(params);
    assert_int_equal(csp_precision_base(&old, &asked, &on), CSP_ERR_UNSUPPORTED);
    assert_non_null(strstr(csp_error_text(), "cuda:7 cannot multiply 8-bit floats"));
    assert_false(on);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matrices_of_blocks_are_rounded_and_nothing_else),
        cmocka_unit_test(its_memory_is_counted),
        cmocka_unit_test(adapters_learn_what_they_learn_over_the_base_itself),
        cmocka_unit_test(what_cannot_be_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
