/*
 * tiny.h - a tiny random model with random texts, for tests of whole training steps: every weight
 * is large enough for vectors of some dozens of terms, and no adapter is 0.
 */
#pragma once

#include "io/scratch.h"
#include "support/compare.h"
#include "support/devices.h"

#include "core/rng.h"
#include "cpu/cpu.h"
#include "model/param_values.h"
#include "train/adapt.h"
#include "train/contrastive.h"

enum { TINY_V = 61, TINY_QUERIES = 5, TINY_PASSAGES = 11, TINY_LONGEST = 26 };

/* The thread sanitizer does not know how libgomp's threads wait for each other. */
#if defined(__SANITIZE_THREAD__)
enum { TINY_THREADS = 1 };
#else
enum { TINY_THREADS = 2 };
#endif

typedef struct tiny {
    csp_backend *be;
    csp_model *model;
    csp_contract contract;
    csp_token_lists queries, passages;
    int32_t positive[TINY_QUERIES];
    uint8_t mask[TINY_QUERIES * TINY_PASSAGES];
    int64_t count; /* elements of all trained tensors */
} tiny;

/* What main returns of tests on a device: 77, and why, where there is none. */
static inline int tiny_main_on_cuda(const struct CMUnitTest *tests, size_t count,
                                    CMFixtureFunction set_up, CMFixtureFunction tear_down)
{
    csp_backend *be;

    devices_register();
    if (csp_backend_create("cuda:0", 1, &be) != CSP_OK) {
        print_error("skipped: %s\n", csp_error_text());
        return 77;
    }
    csp_backend_destroy(be);
    return _cmocka_run_group_tests("cuda:0", tests, count, set_up, tear_down);
}

/* A contrastive step and what came out of it. */
static inline csp_status tiny_contrastive(const tiny *t, csp_contrastive *c,
                                          const csp_contrastive_texts *texts,
                                          const csp_contrastive_step *step, csp_step_metrics *m)
{
    CSP_TRY(csp_contrastive_run(c, texts, step));
    CSP_TRY(csp_backend_sync(t->be));
    return csp_contrastive_read(c, m);
}

/* An adaptation step and what came out of it. */
static inline csp_status tiny_adapt(const tiny *t, csp_adapt *a, const csp_token_lists *texts,
                                    const csp_pass *pass, bool backward, csp_step_metrics *m)
{
    CSP_TRY(csp_adapt_run(a, texts, NULL, pass, backward));
    CSP_TRY(csp_backend_sync(t->be));
    return csp_adapt_read(a, m);
}

/* An element of a tensor's host copy. */
static inline float *tiny_download(const tiny *t, const csp_tensor *tensor)
{
    float *values = malloc(csp_tensor_bytes(tensor) + 1);

    assert_non_null(values);
    assert_ok(csp_backend_download(t->be, tensor, values));
    return values;
}

/* Adds normal numbers to every weight, so that nothing is 0 (B of an adapter) or 1 (norms). */
static inline void tiny_shake(tiny *t)
{
    for (int64_t i = 0; i < t->model->params->count; i++) {
        csp_param *row = &t->model->params->rows[i];
        const csp_rng rng = { 5, CSP_DRAW_TEST, (uint32_t)i, 0 };
        const int64_t count = csp_tensor_count(&row->value);
        float *values = malloc((size_t)count * sizeof(*values));

        assert_non_null(values);
        assert_ok(csp_param_download(t->be, row, values));
        for (int64_t j = 0; j < count; j++) {
            values[j] += 0.15f * csp_rng_normal(rng, (uint64_t)j);
        }
        assert_ok(csp_param_upload(t->be, row, 0, count, values));
        free(values);
        t->count += row->trained ? count : 0;
    }
}

/* Texts of 1 to 12 tokens; text number empty has none. */
static inline void tiny_texts(csp_token_lists *lists, int64_t count, uint32_t key, int64_t empty)
{
    const csp_rng rng = { 9, CSP_DRAW_TEST, key, 0 };
    int32_t ids[12];

    for (int64_t i = 0; i < count; i++) {
        const int64_t n = i == empty ? 0 : 1 + (int64_t)csp_rng_below(rng, (uint64_t)i, 12);

        for (int64_t j = 0; j < n; j++) {
            ids[j] = (int32_t)csp_rng_below(rng, (uint64_t)(1000 * (i + 1) + j), TINY_V);
        }
        assert_ok(csp_token_lists_add(lists, ids, n));
    }
}

/* sixteens: all sizes of matrices are multiples of 16, which a base in 8 bits needs. */
static inline void tiny_open_sized(tiny *t, const char *device, csp_variant variant, bool lora,
                                   csp_storage storage, bool sixteens)
{
    csp_model_config config = csp_model_config_standard(CSP_FAMILY_LLAMA);
    csp_model_options m = {
        .config = &config, .storage = storage, .seed = 3, .max_len = TINY_LONGEST
    };

    memset(t, 0, sizeof(*t));
    devices_register();
    assert_ok(csp_backend_create(device, TINY_THREADS, &t->be));
    config.D = sixteens ? 32 : 24;
    config.F = sixteens ? 48 : 40;
    config.L = 2;
    config.H = 4;
    config.G = 2;
    config.E = sixteens ? 8 : 6;
    config.V = TINY_V;
    config.max_position = 64;
    config.tied = true;
    config.initializer_range = 0.15;
    config.bos_id = config.pad_id = -1;
    config.eos_count = 0;
    m.train = lora ? CSP_TRAIN_LORA : CSP_TRAIN_FULL;
    if (lora) {
        m.lora = (csp_lora) { .R = 3, .alpha = 6.0, .dropout = 0.3 };
        assert_ok(csp_lora_target(&m.lora, "all-linear"));
    }
    assert_ok(csp_model_create(t->be, &m, &t->model));
    tiny_shake(t);
    assert_ok(csp_contract_init(&t->contract));
    t->contract.variant = variant;
    tiny_texts(&t->queries, TINY_QUERIES, 1, -1);
    tiny_texts(&t->passages, TINY_PASSAGES, 2, TINY_PASSAGES - 1);
    for (int q = 0; q < TINY_QUERIES; q++) {
        t->positive[q] = 2 * q;
    }
    t->mask[0 * TINY_PASSAGES + 3] = 1;
    t->mask[4 * TINY_PASSAGES + 1] = 1;
}

static inline void tiny_open_stored(tiny *t, const char *device, csp_variant variant, bool lora,
                                    csp_storage storage)
{
    tiny_open_sized(t, device, variant, lora, storage, false);
}

static inline void tiny_open_on(tiny *t, const char *device, csp_variant variant, bool lora)
{
    tiny_open_stored(t, device, variant, lora, (csp_storage) { 0 });
}

static inline void tiny_open(tiny *t, csp_variant variant, bool lora)
{
    tiny_open_on(t, "cpu", variant, lora);
}

static inline void tiny_close(tiny *t)
{
    csp_token_lists_clear(&t->queries);
    csp_token_lists_clear(&t->passages);
    csp_contract_clear(&t->contract);
    csp_model_destroy(t->model);
    csp_backend_destroy(t->be);
}

/* All gradients one after the other, and then 0 on the device. The caller frees them. */
static inline float *tiny_gradients(tiny *t)
{
    float *all = malloc((size_t)t->count * sizeof(*all));
    int64_t at = 0;

    assert_non_null(all);
    for (int64_t i = 0; i < t->model->params->count; i++) {
        csp_param *row = &t->model->params->rows[i];

        if (row->trained) {
            assert_ok(csp_backend_download(t->be, &row->grad, all + at));
            assert_ok(csp_backend_zero(t->be, &row->grad));
            at += csp_tensor_count(&row->grad);
        }
    }
    return all;
}

/* Everything that training changes. The caller frees it. */
static inline char *tiny_state(const tiny *t, size_t *bytes)
{
    const csp_params *params = t->model->params;
    char *all = malloc((size_t)t->count * 18);

    assert_non_null(all);
    *bytes = 0;
    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];
        const csp_tensor *parts[] = { &row->value, &row->master, &row->m, &row->v };

        for (int p = 0; row->trained && p < 4; p++) {
            assert_ok(csp_backend_download(t->be, parts[p], all + *bytes));
            *bytes += csp_tensor_bytes(parts[p]);
        }
    }
    return all;
}

/*
 * Roundings on the way to a gradient: forward as in tests/model/fixture.h, the head and the scores
 * over the vocabulary, about twice as many back, and the sum over the rows of both sides.
 */
static inline double tiny_roundings(const tiny *t)
{
    const csp_model_config *c = &t->model->params->config;
    const double block = (double)(3 * c->D + c->H * c->E + c->F + 2 * c->E + TINY_LONGEST + 10);
    const double rows = TINY_LONGEST * (TINY_QUERIES + TINY_PASSAGES);

    return 3.0 * ((double)c->L * block + (double)c->D) + (double)c->V + rows;
}

/* Two gradients of one loss in other orders of addition, each tensor relative to its largest. */
static inline void tiny_close_to(const tiny *t, const float *got, const float *want)
{
    int64_t at = 0;

    for (int64_t i = 0; i < t->model->params->count; i++) {
        const csp_param *row = &t->model->params->rows[i];
        const int64_t n = row->trained ? csp_tensor_count(&row->value) : 0;
        double *wide = malloc((size_t)(n + 1) * sizeof(*wide)), largest = 0.0;
        double *size = malloc((size_t)(n + 1) * sizeof(*size));

        assert_true(wide != NULL && size != NULL);
        for (int64_t j = 0; j < n; j++) {
            wide[j] = (double)want[at + j];
            largest = fmax(largest, fabs(wide[j]));
        }
        for (int64_t j = 0; j < n; j++) {
            size[j] = largest;
        }
        if (n > 0) {
            assert_true(largest > 0.0);
            assert_true(worst_ratio(row->name, got + at, wide, size, n,
                                    2.0 * UNIT_F32 * tiny_roundings(t)) <= 1.0);
        }
        at += n;
        free(wide);
        free(size);
    }
}

/* Moves every trained weight by step times its element of direction. */
static inline void tiny_move(tiny *t, const float *direction, double step)
{
    int64_t at = 0;

    for (int64_t i = 0; i < t->model->params->count; i++) {
        csp_param *row = &t->model->params->rows[i];
        const int64_t n = row->trained ? csp_tensor_count(&row->value) : 0;

        if (n > 0) {
            float *values = tiny_download(t, &row->value);

            for (int64_t j = 0; j < n; j++) {
                values[j] = (float)((double)values[j] + step * (double)direction[at + j]);
            }
            assert_ok(csp_backend_upload(t->be, values, &row->value));
            free(values);
            at += n;
        }
    }
}

/*
 * Relative distance between the gradient along its own direction, which is its norm, and a central
 * difference of loss in that direction over the way that changes loss by about 2 x change.
 */
static inline double tiny_slope_distance(tiny *t, const float *gradient, double change,
                                         double (*loss)(tiny *t, void *context), void *context)
{
    float *direction = malloc((size_t)t->count * sizeof(*direction));
    double norm = 0.0, up, down, step;

    assert_non_null(direction);
    for (int64_t i = 0; i < t->count; i++) {
        norm += (double)gradient[i] * (double)gradient[i];
    }
    norm = sqrt(norm);
    for (int64_t i = 0; i < t->count; i++) {
        direction[i] = (float)((double)gradient[i] / norm);
    }
    step = change / norm;
    tiny_move(t, direction, step);
    up = loss(t, context);
    tiny_move(t, direction, -2.0 * step);
    down = loss(t, context);
    tiny_move(t, direction, step);
    free(direction);
    return fabs((up - down) / (2.0 * step) - norm) / norm;
}
