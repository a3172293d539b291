/*
 * test_gradients.c - the gradient of a whole training step against a reference in double precision
 * with the same weights, dropout and texts: of the CPU, and of the CUDA path in float32 and bf16.
 *
 * What is compared is the norm of the difference over all trained parameters, relative to that of
 * the gradient: at most 1e-5 in float32.
 *
 * In bf16 every activation has 8 digits, so what is stored is off by up to 2^-9 of itself. A
 * gradient comes by some 60 such roundings, which add up to 1 % and more, whoever makes them. The
 * measure is therefore the plain implementation, the reference with each activation rounded once
 * and all else in double. It has 10 roundings in a block where ours has 13 (rotated q and k,
 * attention's probabilities, and u, too), so ours may be (13/10)^(1/2), 1.14 times as far off, and
 * 1.25 is allowed.
 *
 * That is said of a loss without kinks. Which row holds a term's maximum, and whether it is
 * positive, sometimes falls otherwise when logits are rounded, and the gradient jumps: by 6 to 24 %
 * for this tiny model, also that of the plain implementation. So in bf16 the reference takes these
 * choices from the device, and adaptation is without the term of ReLUs.
 */
#include "train/tiny_phase.h"

#include "data/batch.h"
#include "ref/loss.h"
#include "ref/model.h"
#include "ref/sparse_pool.h"

static const struct step {
    const char *name;
    bool adapt, lora;
} steps[] = { { "adapt, full", true, false },
              { "adapt, lora", true, true },
              { "contrastive, full", false, false },
              { "contrastive, lora", false, true } };
enum { STEPS = sizeof(steps) / sizeof(steps[0]), MAX_LAYERS = 2, PARAMS = 64 };

/* What each build of the emulator has time for: numbers are the same in all. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { FIRST = STEPS - 1 };
#else
enum { FIRST = 0 };
#endif

/* The reference of a model on a device: its values, and gradients of the trained ones. */
typedef struct reference {
    const tiny *t;
    csp_pass pass;
    double lambda_relu;
    bool choices; /* those of the device */
    ref_model model;
    ref_layer layer[MAX_LAYERS];
    ref_layer_grad layer_grad[MAX_LAYERS];
    ref_model_grad grad;
    double *value[PARAMS], *of[PARAMS]; /* of each row of the table; of: NULL where frozen */
    double *cos_table, *sin_table, *gradient;
} reference;

static double *widened(const float *values, int64_t n)
{
    double *wide = malloc((size_t)(n + 1) * sizeof(*wide));

    assert_non_null(wide);
    for (int64_t i = 0; i < n; i++) {
        wide[i] = (double)values[i];
    }
    return wide;
}

static double *table_of(const tiny *t, const csp_tensor *table)
{
    float *values = tiny_download(t, table);
    double *wide = widened(values, csp_tensor_count(table));

    free(values);
    return wide;
}

/* Puts a row of the table where the reference has it. */
static void place_row(reference *r, const tiny *t, int64_t i)
{
    const csp_param *row = &t->model->params->rows[i];
    const double scale = (double)csp_lora_scale(&t->model->params->lora);
    ref_layer *layer = row->layer >= 0 ? &r->layer[row->layer] : NULL;
    ref_layer_grad *grad = row->layer >= 0 ? &r->layer_grad[row->layer] : NULL;
    ref_linear *map =
        layer != NULL && row->matrix < CSP_MATRIX_COUNT ? &layer->map[row->matrix] : NULL;

    switch (row->kind) {
    case CSP_PARAM_EMBED:
        r->model.embed = r->value[i];
        r->grad.embed = r->of[i];
        break;
    case CSP_PARAM_FINAL_NORM:
        r->model.final_norm = r->value[i];
        r->grad.final_norm = r->of[i];
        break;
    case CSP_PARAM_ATTN_NORM:
        layer->attn_norm = r->value[i];
        grad->attn_norm = r->of[i];
        break;
    case CSP_PARAM_MLP_NORM:
        layer->mlp_norm = r->value[i];
        grad->mlp_norm = r->of[i];
        break;
    case CSP_PARAM_WEIGHT:
        map->w = r->value[i];
        map->O = row->dim[0];
        map->I = row->dim[1];
        grad->w[row->matrix] = r->of[i];
        break;
    case CSP_PARAM_LORA_A:
        map->a = r->value[i];
        map->R = row->dim[0];
        map->scale = scale;
        grad->a[row->matrix] = r->of[i];
        break;
    case CSP_PARAM_LORA_B:
        map->b = r->value[i];
        grad->b[row->matrix] = r->of[i];
        break;
    default:
        fail();
    }
}

static void open_reference(reference *r, const tiny *t, const csp_pass *pass, bool bf16)
{
    const csp_params *params = t->model->params;
    const csp_model_config *c = &params->config;
    int64_t at = 0;

    *r = (reference) { .t = t,
                       .pass = *pass,
                       .choices = params->storage.dtype == CSP_BF16,
                       .cos_table = table_of(t, &t->model->cos),
                       .sin_table = table_of(t, &t->model->sin),
                       .gradient = calloc((size_t)t->count, sizeof(double)) };
    assert_non_null(r->gradient);
    assert_true(params->count <= PARAMS && c->L <= MAX_LAYERS);
    r->model = (ref_model) { .V = c->V,
                             .D = c->D,
                             .F = c->F,
                             .L = c->L,
                             .H = c->H,
                             .G = c->G,
                             .E = c->E,
                             .eps = c->rms_eps,
                             .layer = r->layer,
                             .cos_table = r->cos_table,
                             .sin_table = r->sin_table,
                             .causal = pass->causal,
                             .dropout = params->lora.R > 0 ? params->lora.dropout : 0.0,
                             .seed = pass->seed,
                             .step = pass->step,
                             .bf16 = bf16 };
    r->grad.layer = r->layer_grad;
    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];
        const int64_t n = csp_tensor_count(&row->value);
        float *values = malloc((size_t)n * sizeof(*values)),
              *stored = tiny_download(t, &row->value);

        assert_non_null(values); /* what the pass reads, not the master that it is a rounding of */
        csp_values_to_f32(row->value.dtype, stored, n, values);
        r->value[i] = widened(values, n);
        r->of[i] = row->trained ? r->gradient + at : NULL;
        at += row->trained ? n : 0;
        place_row(r, t, i);
        free(stored);
        free(values);
    }
}

static void close_reference(reference *r)
{
    for (int i = 0; i < PARAMS; i++) {
        free(r->value[i]);
    }
    free(r->cos_table);
    free(r->sin_table);
    free(r->gradient);
}

/* Texts of one side on their way through the reference. */
typedef struct side {
    csp_batch batch;
    ref_texts texts;
    ref_run *run;
    const double *h;
    double *w, *dw, *sizes;
    int32_t *arg;
} side;

static void begin_side(side *s, reference *r)
{
    s->texts = (ref_texts) { .token = s->batch.tokens,
                             .seq_start = s->batch.seq_start,
                             .row_key = s->batch.row_key,
                             .B = s->batch.B,
                             .N = s->batch.N };
    s->run = ref_model_fwd(&r->model, &s->texts, &s->h);
}

/* The gradient of h goes back through the model; the head's own is there already. */
static void end_side(side *s, const reference *r, double *dh)
{
    ref_model_bwd(s->run, dh, &r->grad);
    ref_run_free(s->run);
    csp_batch_clear(&s->batch);
    free(dh);
}

static void place(const tiny *t, csp_arena *arena, csp_dtype dtype, int64_t n, const void *host,
                  csp_tensor *out)
{
    assert_ok(csp_arena_tensor(arena, dtype, 1, &n, out));
    assert_ok(csp_backend_upload(t->be, host, out));
}

static double *numbers(int64_t n)
{
    double *values = calloc((size_t)n + 1, sizeof(*values));

    assert_non_null(values);
    return values;
}

/* Where the head's gradient goes: somewhere, too, if nobody wants it. */
static double *head_grad(const reference *r, double *unwanted)
{
    return r->grad.embed != NULL ? r->grad.embed : unwanted;
}

static void reference_of_adaptation(reference *r)
{
    const tiny *t = r->t;
    const int64_t V = r->model.V, D = r->model.D;
    side s = { 0 };
    double *dh, *sizes, *unwanted;

    assert_ok(
        csp_batch_pack_adapt(&t->contract, &t->passages, 0, TINY_PASSAGES, NULL, 0, &s.batch));
    begin_side(&s, r);
    dh = numbers(s.batch.N * D);
    sizes = numbers((s.batch.N + V) * D);
    unwanted = numbers(V * D);
    ref_token_loss_bwd(&(ref_tokens) { .h = s.h,
                                       .e = r->model.embed,
                                       .target = s.batch.target,
                                       .scale = 1.0,
                                       .lambda = r->lambda_relu,
                                       .coefficient = 1.0 / (double)s.batch.predicted,
                                       .N = s.batch.N,
                                       .V = V,
                                       .D = D },
                       dh, sizes, head_grad(r, unwanted), sizes + s.batch.N * D);
    end_side(&s, r, dh);
    free(sizes);
    free(unwanted);
}

static ref_pool pool_of(const side *s, const reference *r)
{
    return (ref_pool) { .h = s->h,
                        .e = r->model.embed,
                        .seq_start = s->batch.seq_start,
                        .keep = s->batch.keep,
                        .scale = 1.0,
                        .B = s->batch.B,
                        .N = s->batch.N,
                        .V = r->model.V,
                        .D = r->model.D,
                        .bf16 = r->model.bf16 };
}

/* The rows that hold the maxima on the device, -1 where none is positive, of its own pass. */
static void take_choices(side *s, const reference *r)
{
    const tiny *t = r->t;
    const csp_batch *b = &s->batch;
    const int64_t V = r->model.V, n = b->B * V, starts = b->B + 1;
    const csp_tensor none = csp_tensor_none();
    const csp_head head = csp_model_head(t->model, 1.0f, CSP_POOL_MAX, &none);
    csp_pool_texts texts = { .kept = b->kept, .longest = b->max_len };
    csp_pack pack = { .longest = b->max_len };
    csp_sparse rows = { .vocab = V };
    csp_arena arena = { 0 };
    int64_t *row_ptr;
    int32_t *term, *argmax;
    csp_run *run;
    size_t bytes;

    assert_ok(csp_run_bytes(t->model->params, b->N, CSP_KEEP_NOTHING, &bytes));
    assert_ok(csp_backend_reserve(t->be, bytes + ((size_t)1 << 17), &arena));
    place(t, &arena, CSP_I32, b->N, b->tokens, &pack.token);
    place(t, &arena, CSP_I32, starts, b->seq_start, &pack.seq_start);
    place(t, &arena, CSP_I32, b->B, b->order, &pack.order);
    place(t, &arena, CSP_I64, b->N, b->row_key, &pack.row_key);
    place(t, &arena, CSP_U8, b->N, b->keep, &texts.keep);
    texts.seq_start = pack.seq_start;
    assert_ok(csp_arena_tensor(&arena, CSP_I64, 1, &starts, &rows.row_ptr));
    assert_ok(csp_arena_tensor(&arena, CSP_I32, 1, &n, &rows.term));
    assert_ok(csp_arena_tensor(&arena, CSP_F32, 1, &n, &rows.weight));
    assert_ok(csp_arena_tensor(&arena, CSP_I32, 1, &n, &rows.argmax));
    assert_ok(csp_backend_zero(t->be, &rows.row_ptr));
    assert_ok(csp_run_create(t->model->params, CSP_KEEP_NOTHING, &run));
    assert_ok(csp_run_place(run, b->N, &arena));
    assert_ok(csp_model_fwd(t->model, &pack, &r->pass, run));
    assert_ok(csp_sparse_pool_fwd(t->be, &head, &run->h, &texts, 0, &rows));
    row_ptr = (int64_t *)(void *)tiny_download(t, &rows.row_ptr);
    term = (int32_t *)(void *)tiny_download(t, &rows.term);
    argmax = (int32_t *)(void *)tiny_download(t, &rows.argmax);
    for (int64_t i = 0; i < n; i++) {
        s->arg[i] = -1;
    }
    for (int64_t i = 0; i < b->B; i++) {
        for (int64_t e = row_ptr[i]; e < row_ptr[i + 1]; e++) {
            s->arg[i * V + term[e]] = argmax[e];
        }
    }
    free(row_ptr);
    free(term);
    free(argmax);
    csp_run_destroy(run);
    csp_backend_release(t->be, &arena);
}

/* Weights of the chosen rows: a little more than 0 where the reference would not have chosen. */
static void weigh_choices(side *s, const ref_pool *pool)
{
    for (int64_t i = 0; i < pool->B * pool->V; i++) {
        double mag;

        s->w[i] = 0.0;
        if (s->arg[i] >= 0) {
            const int64_t row = pool->seq_start[i / pool->V] + s->arg[i];

            s->w[i] = log1p(fmax(ref_pool_logit(pool, row, i % pool->V, &mag), 1e-30));
        }
    }
}

static void represent(side *s, reference *r, bool queries)
{
    const tiny *t = r->t;
    const csp_token_lists *lists = queries ? &t->queries : &t->passages;
    const int64_t n = lists->count * r->model.V;
    ref_pool pool;

    assert_ok(csp_batch_pack(&t->contract, lists, 0, lists->count, NULL, queries ? 0 : TINY_QUERIES,
                             &s->batch));
    begin_side(s, r);
    s->w = numbers(n);
    s->dw = numbers(n);
    s->sizes = numbers(n + (s->batch.N + r->model.V) * r->model.D);
    s->arg = calloc((size_t)n, sizeof(*s->arg));
    assert_non_null(s->arg);
    pool = pool_of(s, r);
    if (r->choices) {
        take_choices(s, r);
        weigh_choices(s, &pool);
    } else {
        ref_pool_max_fwd(&pool, s->w, s->arg, NULL);
    }
}

static void add_sparsity(side *s, const reference *r, double lambda)
{
    const int64_t n = s->batch.B * r->model.V;
    double *dw = numbers(n);

    (void)ref_flops(s->w, s->batch.B, r->model.V, (double)s->batch.B, lambda, dw);
    for (int64_t i = 0; i < n; i++) {
        s->dw[i] += dw[i];
    }
    free(dw);
}

static void represent_back(side *s, reference *r)
{
    const int64_t V = r->model.V, D = r->model.D;
    const ref_pool pool = pool_of(s, r);
    double *dh = numbers(s->batch.N * D), *unwanted = numbers(V * D);

    ref_pool_max_bwd(&pool, s->w, s->arg, s->dw, dh, s->sizes, head_grad(r, unwanted),
                     s->sizes + s->batch.N * D);
    end_side(s, r, dh);
    free(unwanted);
    free(s->w);
    free(s->dw);
    free(s->sizes);
    free(s->arg);
}

/* Temperature and weights of the sparsity terms are those of tiny_phase.h. */
static void reference_of_contrastive(reference *r)
{
    enum { Q = TINY_QUERIES, P = TINY_PASSAGES };
    const tiny *t = r->t;
    double s[Q * P], s_mag[Q * P], row[3 * Q], ds[Q * P], ds_mag[Q * P];
    double *dq_mag = numbers(Q * TINY_V), *dp_mag = numbers(P * TINY_V);
    side q = { 0 }, p = { 0 };

    represent(&q, r, true);
    represent(&p, r, false);
    ref_scores_fwd(q.w, p.w, 0.5, Q, P, TINY_V, s, s_mag);
    ref_info_nce(s, t->positive, t->mask, Q, P, Q, row, ds, ds_mag);
    ref_scores_bwd(ds, q.w, p.w, 0.5, Q, P, TINY_V, q.dw, dq_mag, p.dw, dp_mag);
    add_sparsity(&q, r, 0.03);
    add_sparsity(&p, r, 0.02);
    represent_back(&q, r);
    represent_back(&p, r);
    free(dq_mag);
    free(dp_mag);
}

static void run_reference(reference *r, bool adapt, double lambda_relu)
{
    r->lambda_relu = lambda_relu;
    if (adapt) {
        reference_of_adaptation(r);
    } else {
        reference_of_contrastive(r);
    }
}

static double distance(const double *got, const double *want, int64_t n)
{
    double error = 0.0, size = 0.0;

    for (int64_t i = 0; i < n; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        size += want[i] * want[i];
    }
    assert_true(size > 0.0);
    return sqrt(error / size);
}

/* How far a step's gradient on a device is from the reference's, and the plain one in bf16. */
static double step_distance(const struct step *step, const char *device, csp_dtype dtype,
                            double *plain)
{
    const csp_storage storage = { .dtype = dtype, .apart = strcmp(device, "cpu") != 0 };
    const double lambda_relu = dtype == CSP_BF16 ? 0.0 : 0.7;
    reference exact, rounded;
    csp_step_metrics m;
    tiny_phase run;
    double apart, *wide;
    csp_pass pass;
    float *got;
    tiny t;

    tiny_open_stored(&t, device, CSP_VARIANT_CAUSAL, step->lora, storage);
    tiny_phase_open(&run, &t, step->adapt, lambda_relu);
    pass = tiny_phase_pass(&run, 1);
    open_reference(&exact, &t, &pass, false);
    open_reference(&rounded, &t, &pass, true);
    run_reference(&exact, step->adapt, lambda_relu);
    run_reference(&rounded, step->adapt, lambda_relu);
    assert_ok(tiny_phase_run(&run, 1, &m));
    assert_ok(tiny_phase_read(&run, &m));
    got = tiny_gradients(&t);
    wide = widened(got, t.count);
    apart = distance(wide, exact.gradient, t.count);
    *plain = distance(rounded.gradient, exact.gradient, t.count);
    free(wide);
    free(got);
    close_reference(&exact);
    close_reference(&rounded);
    tiny_phase_close(&run);
    tiny_close(&t);
    return apart;
}

static void float32_gradients_are_the_references(void **state)
{
    static const char *const devices[] = { "cpu", "cuda:0" };

    (void)state;
    for (int i = 2 * FIRST; i < 2 * STEPS; i++) {
        const struct step *step = &steps[i / 2];
        double plain;
        const double apart = step_distance(step, devices[i % 2], CSP_F32, &plain);

        print_message("%s, %s: %.2g\n", step->name, devices[i % 2], apart);
        assert_true(apart <= 1e-5);
    }
}

static void bf16_gradients_are_as_near_as_plain_ones(void **state)
{
    (void)state;
    for (int i = FIRST; i < STEPS; i++) {
        double plain;
        const double apart = step_distance(&steps[i], "cuda:0", CSP_BF16, &plain);

        print_message("%s, bf16: %.4f, of the plain implementation %.4f\n", steps[i].name, apart,
                      plain);
        assert_true(apart <= 1.25 * plain);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_gradients_are_the_references),
        cmocka_unit_test(bf16_gradients_are_as_near_as_plain_ones),
    };

    return tiny_main_on_cuda(tests, sizeof(tests) / sizeof(tests[0]), NULL, NULL);
}
