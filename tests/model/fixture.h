/*
 * fixture.h - a tiny model of tests/fixtures/model opened, its recorded inputs on the device, and
 * comparison with what transformers and PEFT made of them (scripts/make_fixtures.py).
 *
 * Queries and passages are two packed batches, so that every gradient here is already a sum over
 * two micro-batches.
 */
#pragma once

#include "io/scratch.h"
#include "support/compare.h"

#include "cpu/backend.h"
#include "io/safetensors.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "ops/loss.h"

enum { QUERIES = 3, PASSAGES = 6, SIDES = 2, STEP_BYTES = 8 << 20 };

/* Order of the fixture's tensor "settings". */
typedef struct fixture_settings {
    double temperature, lambda_q, lambda_d, lambda_relu;
    double lr, beta1, beta2, eps, weight_decay, max_grad_norm, warmup, steps;
} fixture_settings;

/* One side of the contrastive batch. */
typedef struct fixture_side {
    csp_pack pack;
    csp_pool_texts texts;
    csp_run *run;
    csp_sparse rows;
    csp_tensor dw;
    int64_t B, N;
} fixture_side;

typedef struct fixture {
    const char *name;
    csp_backend *be;
    csp_safetensors *expect;
    csp_model *model;
    csp_arena arena;
    fixture_settings settings;
    fixture_side side[SIDES]; /* queries, passages */
    bool causal;
} fixture;

static inline const char *fixture_dir(const char *name)
{
    static char dir[512];

    snprintf(dir, sizeof(dir), "%s/tests/fixtures/model/%s", CSPLADE_SOURCE_DIR, name);
    return dir;
}

#define assert_ok(call)                            \
    do {                                           \
        const csp_status status_ = (call);         \
        if (status_ != CSP_OK) {                   \
            print_error("%s\n", csp_error_text()); \
        }                                          \
        assert_int_equal(status_, CSP_OK);         \
    } while (0)

/* The recorded tensor "<prefix>.<name>" (name alone without a prefix). */
static inline const csp_tensor *recorded(const fixture *f, const char *prefix, const char *name)
{
    const csp_safetensors_entry *entry;
    char key[256];

    snprintf(key, sizeof(key), "%s%s%s", prefix, prefix[0] != '\0' ? "." : "", name);
    assert_ok(csp_safetensors_find(f->expect, key, &entry));
    return &entry->tensor;
}

static inline csp_tensor on_device(fixture *f, const csp_tensor *host)
{
    csp_tensor t;

    assert_ok(csp_arena_tensor(&f->arena, host->dtype, host->ndim, host->dim, &t));
    assert_ok(csp_backend_upload(f->be, host->data, &t));
    return t;
}

static inline void fixture_open(fixture *f, const char *name, const csp_lora *lora,
                                const char *adapter, csp_train_mode train)
{
    csp_model_options options = {
        .dir = fixture_dir(name), .adapter = adapter, .train = train, .max_len = 64
    };
    char path[600];

    memset(f, 0, sizeof(*f));
    f->name = name;
    csp_backend_register("cpu", csp_cpu_open);
    assert_ok(csp_backend_create("cpu", 2, &f->be));
    if (lora != NULL) {
        options.lora = *lora;
    }
    assert_ok(csp_model_create(f->be, &options, &f->model));
    snprintf(path, sizeof(path), "%s/expect.safetensors", fixture_dir(name));
    assert_ok(csp_safetensors_open(path, &f->expect));
    memcpy(&f->settings, recorded(f, "", "settings")->data, sizeof(f->settings));
    assert_ok(csp_backend_reserve(f->be, STEP_BYTES, &f->arena));
}

static inline void fixture_close(fixture *f)
{
    for (int s = 0; s < SIDES; s++) {
        csp_run_destroy(f->side[s].run);
    }
    csp_backend_release(f->be, &f->arena);
    csp_safetensors_close(f->expect);
    csp_model_destroy(f->model);
    csp_backend_destroy(f->be);
}

/* Rows first .. first+B-1 of the recorded pack of a variant, as a batch of its own. */
static inline void place_side(fixture *f, const char *variant, int64_t first, int64_t B,
                              csp_keep keep, fixture_side *side)
{
    const csp_tensor *all = recorded(f, variant, "seq_start");
    const int32_t *start = (const int32_t *)all->data + first;
    const int64_t V = f->model->params->config.V, starts = B + 1, cap = B * V;
    csp_tensor token =
        csp_tensor_rows(recorded(f, variant, "token"), start[0], start[B] - start[0]);
    csp_tensor kept = csp_tensor_rows(recorded(f, variant, "keep"), start[0], start[B] - start[0]);
    int32_t own[PASSAGES + 1];
    csp_tensor own_start = csp_tensor_view(own, CSP_I32, 1, &starts);

    side->B = B;
    side->N = start[B] - start[0];
    side->pack.longest = 0;
    for (int64_t b = 0; b <= B; b++) {
        own[b] = start[b] - start[0];
        if (b > 0 && own[b] - own[b - 1] > side->pack.longest) {
            side->pack.longest = own[b] - own[b - 1];
        }
    }
    side->pack.token = on_device(f, &token);
    side->pack.seq_start = on_device(f, &own_start);
    side->pack.order = csp_tensor_none();
    side->pack.row_key = csp_tensor_none();
    side->texts.seq_start = side->pack.seq_start;
    side->texts.keep = on_device(f, &kept);
    side->texts.longest = side->pack.longest;
    for (int64_t n = 0; n < side->N; n++) {
        side->texts.kept += ((const uint8_t *)kept.data)[n] != 0;
    }
    assert_ok(csp_arena_tensor(&f->arena, CSP_I64, 1, &starts, &side->rows.row_ptr));
    assert_ok(csp_arena_tensor(&f->arena, CSP_I32, 1, &cap, &side->rows.term));
    assert_ok(csp_arena_tensor(&f->arena, CSP_F32, 1, &cap, &side->rows.weight));
    assert_ok(csp_arena_tensor(&f->arena, CSP_I32, 1, &cap, &side->rows.argmax));
    assert_ok(csp_arena_tensor(&f->arena, CSP_F32, 1, &cap, &side->dw));
    assert_ok(csp_backend_zero(f->be, &side->rows.row_ptr));
    side->rows.vocab = V;
    assert_ok(csp_run_create(f->model->params, keep, &side->run));
    assert_ok(csp_run_place(side->run, side->N, &f->arena));
}

/* Both sides of a variant; whatever stood before is forgotten. */
static inline void fixture_place(fixture *f, const char *variant, csp_keep keep)
{
    for (int s = 0; s < SIDES; s++) {
        csp_run_destroy(f->side[s].run);
    }
    csp_arena_release(&f->arena, 0);
    memset(f->side, 0, sizeof(f->side));
    f->causal = strcmp(variant, "bi") != 0;
    place_side(f, variant, 0, QUERIES, keep, &f->side[0]);
    place_side(f, variant, QUERIES, PASSAGES, keep, &f->side[1]);
}

static inline csp_head fixture_head(const fixture *f)
{
    const csp_tensor none = csp_tensor_none();

    return csp_model_head(f->model, 1.0f, CSP_POOL_MAX, &none);
}

/* Hidden states and representations of both sides. */
static inline void fixture_forward(fixture *f)
{
    const csp_pass pass = { .causal = f->causal };
    const csp_head head = fixture_head(f);

    for (int s = 0; s < SIDES; s++) {
        fixture_side *side = &f->side[s];

        assert_ok(csp_model_fwd(f->model, &side->pack, &pass, side->run));
        assert_ok(csp_sparse_pool_fwd(f->be, &head, &side->run->h, &side->texts, 0, &side->rows));
    }
}

/* Adds lambda FLOPS of one side to its gradient; returns the term. */
static inline double fixture_flops(fixture *f, fixture_side *side, double lambda)
{
    const int64_t one = 1;
    csp_tensor sum, count = csp_tensor_none(), term;
    double value;

    assert_ok(csp_arena_tensor(&f->arena, CSP_F64, 1, &one, &term));
    assert_ok(csp_arena_tensor(&f->arena, CSP_F64, 1, &side->rows.vocab, &sum));
    assert_ok(csp_backend_zero(f->be, &sum));
    assert_ok(csp_column_sums(f->be, &side->rows, side->B, &sum, &count));
    assert_ok(csp_regularize(f->be, CSP_REG_FLOPS, &side->rows, side->B, &sum, side->B,
                             (float)lambda, &side->dw, &term));
    assert_ok(csp_backend_download(f->be, &term, &value));
    return value;
}

/* The contrastive loss (total, InfoNCE, FLOPS q, FLOPS p), its gradient in side->dw. */
static inline void fixture_loss(fixture *f, double loss[4])
{
    const int64_t shape[] = { QUERIES, PASSAGES };
    const float scale = (float)(1.0 / f->settings.temperature);
    const csp_tensor positive = on_device(f, recorded(f, "", "positive"));
    const csp_tensor mask = on_device(f, recorded(f, "", "mask"));
    fixture_side *q = &f->side[0], *p = &f->side[1];
    double each[QUERIES];
    csp_tensor scores, rows, sums, losses;

    assert_ok(csp_arena_tensor(&f->arena, CSP_F32, 2, shape, &scores));
    assert_ok(csp_scores_fwd(f->be, &q->rows, QUERIES, &p->rows, PASSAGES, scale, &scores));
    assert_ok(csp_arena_tensor(&f->arena, CSP_F64, 2, (int64_t[]) { QUERIES, 2 }, &rows));
    assert_ok(csp_arena_tensor(&f->arena, CSP_F64, 1, shape, &sums));
    assert_ok(csp_arena_tensor(&f->arena, CSP_F64, 1, shape, &losses));
    assert_ok(csp_nce_scores(f->be, &scores, &positive, &mask, &rows));
    assert_ok(csp_nce_sum(f->be, &scores, &mask, &rows, &sums));
    assert_ok(csp_nce_grad(f->be, &scores, &positive, &mask, &rows, &sums, scores.dim[0], &scores,
                           &losses));
    assert_ok(csp_backend_download(f->be, &losses, each));
    assert_ok(csp_scores_bwd(f->be, &scores, &q->rows, &p->rows, scale, &q->dw, &p->dw));
    loss[1] = (each[0] + each[1] + each[2]) / QUERIES;
    loss[2] = fixture_flops(f, q, f->settings.lambda_q);
    loss[3] = fixture_flops(f, p, f->settings.lambda_d);
    loss[0] = loss[1] + f->settings.lambda_q * loss[2] + f->settings.lambda_d * loss[3];
}

/* From side->dw to the gradients of the parameters. */
static inline void fixture_backward(fixture *f)
{
    const csp_pass pass = { .causal = f->causal };
    const csp_head head = fixture_head(f);

    for (int s = 0; s < SIDES; s++) {
        fixture_side *side = &f->side[s];
        csp_sparse_pool_grad g = { .rows = &side->rows,
                                   .dw = side->dw,
                                   .first_row = 0,
                                   .h = side->run->h,
                                   .texts = side->texts,
                                   .dh = side->run->dh,
                                   .de = csp_model_head_grad(f->model) };

        assert_ok(csp_sparse_pool_bwd(f->be, &head, &g));
        assert_ok(csp_model_bwd(f->model, &side->pack, &pass, side->run, NULL));
    }
}

static inline float *downloaded(const fixture *f, const csp_tensor *t)
{
    float *values = malloc(csp_tensor_bytes(t) + 1);

    assert_non_null(values);
    assert_ok(csp_backend_download(f->be, t, values));
    return values;
}

/*
 * got against a recorded f32 tensor. Both went through float32 in their own order of additions, so
 * an element may differ by the roundings of both; they are taken relative to the largest element,
 * since what is added up along the way has that size. Prints nothing unless it fails.
 */
static inline void assert_close(const char *what, const float *got, const csp_tensor *want,
                                double roundings)
{
    const int64_t n = csp_tensor_count(want);
    const float *values = want->data;
    double *wide = malloc((size_t)n * sizeof(double)), *size = malloc((size_t)n * sizeof(double));
    double largest = 0.0;

    assert_non_null(wide);
    assert_non_null(size);
    for (int64_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs((double)values[i]));
    }
    for (int64_t i = 0; i < n; i++) {
        wide[i] = (double)values[i];
        size[i] = largest;
    }
    assert_true(worst_ratio(what, got, wide, size, n, 2.0 * roundings * UNIT_F32) <= 1.0);
    free(wide);
    free(size);
}

/*
 * Roundings on the way to a hidden state: of each block the inner products of its maps, of scores
 * and of values, two norms, softmax and gate (10); then the final norm.
 */
static inline double forward_roundings(const fixture *f)
{
    const csp_model_config *c = &f->model->params->config;
    const double block =
        (double)(3 * c->D + c->H * c->E + c->F + 2 * c->E + f->side[1].pack.longest + 10);

    return (double)c->L * block + (double)c->D;
}

/* To a gradient: forward, the head and the scores over the vocabulary, and about twice back. */
static inline double backward_roundings(const fixture *f)
{
    return 3.0 * forward_roundings(f) + (double)(f->model->params->config.V + f->side[1].N);
}
