/*
 * test_stories.c - a trained checkpoint (stories260K of ../shared/data): from its token ids the
 * weights, losses and logits that transformers gave, in both spellings of its config.json.
 */
#include "model/fixture.h"

#include <jansson.h>

#include "io/file.h"

/* The numbers were printed with at least this many decimals... */
static const double printed = 0.5e-4;
/* ... and computed in float32, as here: see forward_roundings and the head's D. */
static double relative_limit(const csp_model_config *c, int64_t T)
{
    const int64_t block = 3 * c->D + c->H * c->E + c->F + 2 * c->E + T + 10;

    return 2.0 * UNIT_F32 * (double)(c->L * block + 2 * c->D);
}

typedef struct text {
    csp_pack pack;
    csp_pool_texts all, last; /* which rows are pooled */
    csp_tensor target;
    csp_sparse rows;
    csp_run *run;
    int64_t T;
} text;

static csp_tensor put(csp_backend *be, csp_arena *arena, csp_dtype dtype, int64_t n,
                      const void *host)
{
    csp_tensor t;

    assert_ok(csp_arena_tensor(arena, dtype, 1, &n, &t));
    assert_ok(csp_backend_upload(be, host, &t));
    return t;
}

static void place_text(csp_model *model, csp_arena *arena, json_t *ids, text *out)
{
    const int64_t T = (int64_t)json_array_size(ids), V = model->params->config.V;
    const int64_t row_ptr[2] = { 0, 0 };
    const int32_t start[2] = { 0, (int32_t)T };
    int32_t token[64], target[64];
    uint8_t all[64], last[64];

    assert_in_range(T, 2, 64);
    for (int64_t i = 0; i < T; i++) {
        token[i] = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
        target[i > 0 ? i - 1 : T - 1] = i > 0 ? token[i] : -1;
        all[i] = 1;
        last[i] = i == T - 1;
    }
    target[T - 1] = -1;
    out->T = T;
    out->pack.token = put(model->be, arena, CSP_I32, T, token);
    out->pack.seq_start = put(model->be, arena, CSP_I32, 2, start);
    out->pack.order = csp_tensor_none();
    out->pack.row_key = csp_tensor_none();
    out->pack.longest = T;
    out->all = (csp_pool_texts) { .seq_start = out->pack.seq_start, .kept = T, .longest = T };
    out->last = out->all;
    out->last.kept = 1;
    out->all.keep = put(model->be, arena, CSP_U8, T, all);
    out->last.keep = put(model->be, arena, CSP_U8, T, last);
    out->target = put(model->be, arena, CSP_I32, T, target);
    out->rows.vocab = V;
    out->rows.row_ptr = put(model->be, arena, CSP_I64, 2, row_ptr);
    assert_ok(csp_arena_tensor(arena, CSP_I32, 1, &V, &out->rows.term));
    assert_ok(csp_arena_tensor(arena, CSP_F32, 1, &V, &out->rows.weight));
    assert_ok(csp_arena_tensor(arena, CSP_I32, 1, &V, &out->rows.argmax));
    assert_ok(csp_run_create(model->params, CSP_KEEP_NOTHING, &out->run));
    assert_ok(csp_run_place(out->run, T, arena));
}

static double weight_of(const csp_sparse *rows, int64_t term)
{
    const int64_t n = ((const int64_t *)rows->row_ptr.data)[1];

    for (int64_t e = 0; e < n; e++) {
        if (((const int32_t *)rows->term.data)[e] == term) {
            return (double)((const float *)rows->weight.data)[e];
        }
    }
    return 0.0;
}

static void assert_near(double got, double want, double relative)
{
    const double limit = printed + relative * fabs(want);

    if (!(fabs(got - want) <= limit)) {
        print_error("%.7g should be %.7g within %.2g\n", got, want, limit);
    }
    assert_true(fabs(got - want) <= limit);
}

static double number(json_t *item, const char *key)
{
    json_t *value = json_object_get(item, key);

    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void check_pooled(text *t, json_t *item, double relative)
{
    const int64_t n = ((const int64_t *)t->rows.row_ptr.data)[1];
    json_t *top = json_object_get(item, "maxpool_log1p_relu_top20");
    double sum = 0.0;

    assert_int_equal(n, json_integer_value(json_object_get(item, "maxpool_log1p_relu_nnz")));
    for (int64_t e = 0; e < n; e++) {
        sum += (double)((const float *)t->rows.weight.data)[e];
    }
    assert_near(sum, number(item, "maxpool_log1p_relu_sum"), relative);
    assert_int_equal(json_array_size(top), 20);
    for (size_t i = 0; i < 20; i++) {
        json_t *pair = json_array_get(top, i);

        assert_near(weight_of(&t->rows, json_integer_value(json_array_get(pair, 0))),
                    json_number_value(json_array_get(pair, 1)), relative);
    }
}

/* With only the last row pooled a weight is log(1 + logit), and the ten largest are positive. */
static void check_last(csp_model *model, text *t, json_t *item, double relative)
{
    const csp_model_config *c = &model->params->config;
    const csp_tensor none = csp_tensor_none();
    const csp_head head = csp_model_head(model, 1.0f, CSP_POOL_MAX, &none);
    const float *h = (const float *)t->run->h.data + (t->T - 1) * c->D;
    const float *e = model->params->head->value.data;
    json_t *top = json_object_get(item, "last_top10");
    double sum = 0.0, size = 0.0;

    assert_ok(csp_sparse_pool_fwd(model->be, &head, &t->run->h, &t->last, 0, &t->rows));
    for (size_t i = 0; i < json_array_size(top); i++) {
        json_t *pair = json_array_get(top, i);

        assert_near(weight_of(&t->rows, json_integer_value(json_array_get(pair, 0))),
                    log1p(json_number_value(json_array_get(pair, 1))), relative);
    }
    for (int64_t v = 0; v < c->V; v++) {
        for (int64_t d = 0; d < c->D; d++) {
            sum += (double)h[d] * (double)e[v * c->D + d];
            size += fabs((double)h[d] * (double)e[v * c->D + d]);
        }
    }
    assert_true(fabs(sum - number(item, "last_logits_sum")) <= printed + relative * size);
}

static void check_text(csp_model *model, csp_arena *arena, json_t *item)
{
    const csp_pass pass = { .causal = true };
    const csp_tensor none = csp_tensor_none();
    const csp_head head = csp_model_head(model, 1.0f, CSP_POOL_MAX, &none);
    csp_token_loss_args args = { .head = head, .coefficient = 1.0f };
    const int64_t two = 2;
    double loss[2], relative;
    text t;

    csp_arena_release(arena, 0);
    place_text(model, arena, json_object_get(item, "ids"), &t);
    relative = relative_limit(&model->params->config, t.T);
    assert_ok(csp_model_fwd(model, &t.pack, &pass, t.run));
    assert_ok(csp_sparse_pool_fwd(model->be, &head, &t.run->h, &t.all, 0, &t.rows));
    check_pooled(&t, item, relative);
    check_last(model, &t, item, relative);
    args.h = t.run->h;
    args.target = t.target;
    args.dh = none;
    args.de = none;
    args.predicted = t.T - 1;
    assert_ok(csp_arena_tensor(arena, CSP_F64, 1, &two, &args.loss));
    assert_ok(csp_arena_tensor(arena, CSP_I64, 1, &two, &args.bad));
    assert_ok(csp_token_loss(model->be, &args));
    assert_ok(csp_backend_download(model->be, &args.loss, loss));
    assert_near(loss[0] / (double)(t.T - 1), number(item, "mean_nll"), relative);
    csp_run_destroy(t.run);
}

static void check_folder(const char *dir, const char *reference)
{
    const csp_model_options options = { .dir = dir, .max_len = 64 };
    json_error_t error;
    json_t *root = json_load_file(reference, 0, &error), *items;
    csp_arena arena = { 0 };
    csp_backend *be;
    csp_model *model;

    assert_non_null(root);
    csp_backend_register("cpu", csp_cpu_open);
    assert_ok(csp_backend_create("cpu", 2, &be));
    assert_ok(csp_model_create(be, &options, &model));
    assert_true(model->params->config.tied);
    assert_ok(csp_backend_reserve(be, 4 << 20, &arena));
    items = json_object_get(root, "items");
    assert_int_equal(json_array_size(items), 6);
    for (size_t i = 0; i < 6; i++) {
        check_text(model, &arena, json_array_get(items, i));
    }
    csp_backend_release(be, &arena);
    csp_model_destroy(model);
    csp_backend_destroy(be);
    json_decref(root);
}

static void the_new_spelling_reproduces_the_reference(void **state)
{
    char dir[512], reference[512];

    (void)state;
    snprintf(dir, sizeof(dir), "%s", shared_path("models/stories260K"));
    snprintf(reference, sizeof(reference), "%s", shared_path("models/stories260K/reference.json"));
    check_folder(dir, reference);
}

static void the_old_spelling_reproduces_the_reference(void **state)
{
    char reference[512];

    (void)state;
    snprintf(reference, sizeof(reference), "%s", shared_path("models/stories260K/reference.json"));
    assert_int_equal(
        symlink(shared_path("models/stories260K/config.legacy.json"), scratch_path("config.json")),
        0);
    assert_int_equal(symlink(shared_path("models/stories260K/model.safetensors"),
                             scratch_path("model.safetensors")),
                     0);
    check_folder(scratch_dir, reference);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_new_spelling_reproduces_the_reference),
        cmocka_unit_test(the_old_spelling_reproduces_the_reference),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
