/*
 * test_buckets.c - how gradients are cut: every element in one part of one rank, no layer said to
 * be complete before it is, and none read before its values are there.
 */
#include "model/buckets.h"
#include "train/tiny.h"

/* -1 embedding, 0 .. L-1 blocks, L what is above them. */
static int64_t layer_of(const csp_params *params, const csp_param *row)
{
    return row == params->embed ? -1 : row->layer >= 0 ? row->layer : params->config.L;
}

static const csp_bucket *bucket_of(const csp_params *params, const csp_param *row)
{
    const csp_bucket *b = params->buckets;

    while (b->layer > layer_of(params, row)) {
        b++;
    }
    return b;
}

/* Adds 1 to taken for each of a rank's elements of the flat array. */
static void take(const csp_params *params, uint8_t *taken)
{
    const csp_sharing *s = &params->storage.sharing;

    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];
        const csp_bucket *b = bucket_of(params, row);

        assert_true(row->flat >= b->first);
        assert_true(row->flat + row->dim[0] * row->dim[1] <= b->first + b->count);
        assert_true(row->own_count >= 0 && row->own_first % 4 == 0);
        assert_true(row->m.ndim == 1 && row->m.dim[0] == row->own_count);
        for (int64_t j = 0; j < row->own_count; j++) {
            const int64_t at = row->flat + row->own_first + j;

            taken[at]++;
            assert_int_equal((at - b->first) / b->part, s->rank);
            assert_int_equal(row->state + j, b->state + (at - b->first) % b->part);
        }
    }
}

/* Buckets from the top down, side by side, of equal parts; their rows are neighbours. */
static void check_buckets(const csp_params *params, int ranks)
{
    int64_t end = params->flat_elements, layer = params->config.L + 1, row = params->count;

    for (int64_t i = 0; i < params->bucket_count; i++) {
        const csp_bucket *b = &params->buckets[i];

        assert_true(b->layer < layer);
        assert_int_equal(b->first + b->count, end);
        assert_int_equal(b->part * ranks, b->count);
        assert_true(b->first % 16 == 0 && b->part % 16 == 0);
        assert_int_equal(b->row + b->rows, row);
        for (int64_t j = b->row; j < row; j++) {
            assert_ptr_equal(bucket_of(params, &params->rows[j]), b);
        }
        row = b->row;
        layer = b->layer;
        end = b->first;
    }
    assert_int_equal(layer, -1);
    assert_int_equal(end, 0);
    assert_int_equal(row, 0);
    assert_int_equal(params->own_elements * ranks, params->flat_elements);
}

static void every_element_is_in_one_part(void **state)
{
    static const int64_t bytes[] = { 0, 1, 20000, 1 << 30 };
    const csp_lora none = { 0 };
    csp_model_config config = csp_model_config_standard(CSP_FAMILY_QWEN3);

    (void)state;
    config.D = 24;
    config.F = 40;
    config.L = 3;
    config.H = 4;
    config.G = 2;
    config.E = 6;
    config.V = TINY_V;
    for (int c = 0; c < 2 * 4 * 3; c++) {
        const int ranks = 2 + c % 3;
        csp_params *params;
        uint8_t *taken = NULL;

        config.tied = c >= 12;
        for (int rank = 0; rank < ranks; rank++) {
            const csp_storage storage = { .dtype = c % 2 == 0 ? CSP_F32 : CSP_BF16,
                                          .sharing = { ranks, rank, bytes[c / 3 % 4], 0 } };

            assert_ok(csp_params_create(&config, &none, CSP_TRAIN_FULL, storage, &params));
            check_buckets(params, ranks);
            assert_int_equal(params->bucket_count == 1, bytes[c / 3 % 4] % (1 << 30) == 0);
            if (rank == 0) {
                taken = calloc((size_t)params->flat_elements, 1);
                assert_non_null(taken);
            }
            take(params, taken);
            if (rank + 1 < ranks) {
                csp_params_destroy(params);
            }
        }
        for (int64_t i = 0; i < params->count; i++) {
            for (int64_t j = 0; j < params->rows[i].dim[0] * params->rows[i].dim[1]; j++) {
                assert_int_equal(taken[params->rows[i].flat + j], 1);
                taken[params->rows[i].flat + j] = 0; /* nobody else's */
            }
        }
        free(taken);
        csp_params_destroy(params);
    }
}

static void small_state_stays_whole(void **state)
{
    const csp_lora none = { 0 };
    csp_model_config config = csp_model_config_standard(CSP_FAMILY_LLAMA);
    const int64_t trained = 7 * 64 + 3 * 8 + TINY_V * 8;
    csp_params *params;

    (void)state;
    config.D = config.F = 8;
    config.L = config.H = config.G = 1;
    config.E = 8;
    config.V = TINY_V;
    config.tied = true;
    for (int more = 0; more < 2; more++) {
        const csp_storage storage = { .sharing = { 2, 1, 0, 8 * trained + more } };
        int64_t elements;

        assert_ok(csp_params_create(&config, &none, CSP_TRAIN_FULL, storage, &params));
        csp_params_elements(params, NULL, &elements);
        assert_int_equal(elements, trained);
        assert_int_equal(csp_params_shards(params), more == 0 ? 2 : 1);
        csp_params_destroy(params);
    }
}

enum { MOST = 1 << 16 };

/* What a watch saw of gradients when each layer was said to be complete. */
typedef struct witness {
    const tiny *t;
    int64_t next; /* the layer that comes next */
    float seen[MOST];
} witness;

static csp_status note(void *context, int64_t layer)
{
    witness *w = context;
    const csp_params *params = w->t->model->params;

    assert_int_equal(layer, w->next);
    w->next--;
    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];

        if (layer_of(params, row) == layer) {
            assert_true(row->flat + csp_tensor_count(&row->grad) <= MOST);
            assert_ok(csp_backend_download(w->t->be, &row->grad, w->seen + row->flat));
        }
    }
    return CSP_OK;
}

/* The same tiny model with a head of its own, whose gradient is complete before the blocks'. */
static void untie(tiny *t)
{
    csp_model_config config = t->model->params->config;
    const csp_model_options m = {
        .config = &config, .train = CSP_TRAIN_FULL, .seed = 3, .max_len = TINY_LONGEST
    };

    config.tied = false;
    csp_model_destroy(t->model);
    t->count = 0;
    assert_ok(csp_model_create(t->be, &m, &t->model));
    tiny_shake(t);
}

static void check_seen(const witness *w)
{
    const csp_params *params = w->t->model->params;

    assert_int_equal(w->next, -2);
    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];
        float *now = tiny_download(w->t, &row->grad);

        for (int64_t j = 0; j < csp_tensor_count(&row->grad); j++) {
            assert_true(now[j] == w->seen[row->flat + j]);
        }
        free(now);
    }
}

/* Of several micro-batches only the last one says so. */
static void layers_are_complete_when_they_are_said_to_be(void **state)
{
    static witness w;

    (void)state;
    for (int c = 0; c < 4; c++) {
        const csp_gradient_watch watch = { note, &w };
        const csp_pass pass = { .causal = true };
        csp_adapt_options options = { .max_rows = c == 3 ? 1 : 40,
                                      .max_len = TINY_LONGEST,
                                      .texts = TINY_PASSAGES,
                                      .watch = &watch };
        csp_adapt *adapt;
        csp_step_metrics m;
        tiny t;

        tiny_open(&t, CSP_VARIANT_CAUSAL, false);
        if (c % 2 == 1) {
            untie(&t);
        }
        options.keep = c == 2 ? CSP_KEEP_INPUTS : CSP_KEEP_ALL;
        w.t = &t;
        w.next = t.model->params->config.L;
        assert_ok(csp_adapt_create(t.be, t.model, &t.contract, &options, &adapt));
        csp_step_metrics_clear(&m, "test", 1, 1);
        assert_ok(tiny_adapt(&t, adapt, &t.passages, &pass, true, &m));
        check_seen(&w);
        csp_adapt_destroy(adapt);
        tiny_close(&t);
    }
}

/* A last micro-batch without rows has nothing to go through; what came before is complete. */
static void a_micro_batch_without_rows_says_so_too(void **state)
{
    static witness w;
    const csp_gradient_watch watch = { note, &w };
    const csp_pass pass = { .causal = true };
    csp_token_lists empty = { 0 };
    csp_chunked *chunks;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    w.t = &t;
    w.next = -1;
    assert_ok(csp_token_lists_add(&empty, NULL, 0));
    assert_ok(csp_chunked_create(t.be, t.model, &t.contract, 40, TINY_LONGEST, 1, 0, CSP_KEEP_ALL,
                                 &chunks));
    csp_chunked_begin(chunks);
    assert_ok(csp_chunked_add_adapt(chunks, &empty, NULL));
    assert_int_equal(chunks->count, 1);
    assert_ok(csp_chunked_fwd(chunks, 0, &pass));
    assert_ok(csp_chunked_bwd(chunks, 0, &pass, &watch));
    assert_int_equal(w.next, -2);
    csp_chunked_destroy(chunks);
    csp_token_lists_clear(&empty);
    tiny_close(&t);
}

/* Values that are kept back until they are awaited. */
typedef struct kept_back {
    const tiny *t;
    int64_t next; /* the layer that comes next; the last time, L again */
    float value[MOST];
} kept_back;

static csp_status let_in(void *context, int64_t layer)
{
    kept_back *k = context;
    csp_model *model = k->t->model;

    assert_int_equal(layer, k->next);
    k->next++;
    for (int64_t i = 0; i < model->params->count; i++) {
        csp_param *row = &model->params->rows[i];

        if (layer_of(model->params, row) == layer) {
            assert_ok(csp_backend_upload(model->be, k->value + row->flat, &row->value));
        }
    }
    if (layer == model->params->config.L) {
        model->arrival = NULL;
    }
    return CSP_OK;
}

/* All values but NaN, until they are awaited. */
static void keep_back(const tiny *t, kept_back *k)
{
    static float none[MOST];

    for (int64_t i = 0; i < MOST; i++) {
        none[i] = NAN;
    }
    k->t = t;
    k->next = -1;
    for (int64_t i = 0; i < t->model->params->count; i++) {
        csp_param *row = &t->model->params->rows[i];

        assert_true(row->flat + csp_tensor_count(&row->value) <= MOST);
        assert_ok(csp_backend_download(t->be, &row->value, k->value + row->flat));
        assert_ok(csp_backend_upload(t->be, none, &row->value));
    }
}

/* A step whose values come in layer by layer gives the bits of one that has all of them. */
static void values_are_awaited_before_they_are_read(void **state)
{
    static kept_back k;
    const csp_arrival arrival = { let_in, &k };

    (void)state;
    for (int c = 0; c < 4; c++) {
        const csp_pass pass = { .causal = true };
        const csp_adapt_options options = { .max_rows = 40,
                                            .max_len = TINY_LONGEST,
                                            .texts = TINY_PASSAGES,
                                            .keep = c < 2 ? CSP_KEEP_ALL : CSP_KEEP_INPUTS };
        csp_adapt *adapt;
        csp_step_metrics m, late;
        float *want, *got;
        tiny t;

        tiny_open(&t, CSP_VARIANT_CAUSAL, false);
        if (c % 2 == 1) {
            untie(&t);
        }
        assert_ok(csp_adapt_create(t.be, t.model, &t.contract, &options, &adapt));
        csp_step_metrics_clear(&m, "test", 1, 2);
        assert_ok(tiny_adapt(&t, adapt, &t.passages, &pass, true, &m));
        want = tiny_gradients(&t);
        keep_back(&t, &k);
        t.model->arrival = &arrival;
        csp_step_metrics_clear(&late, "test", 2, 2);
        assert_ok(tiny_adapt(&t, adapt, &t.passages, &pass, true, &late));
        assert_int_equal(k.next, t.model->params->config.L + 1);
        got = tiny_gradients(&t);
        assert_true(isfinite(m.loss) && late.loss == m.loss);
        assert_memory_equal(got, want, (size_t)t.count * sizeof(*want));
        free(want);
        free(got);
        csp_adapt_destroy(adapt);
        tiny_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_element_is_in_one_part),
        cmocka_unit_test(small_state_stays_whole),
        cmocka_unit_test(layers_are_complete_when_they_are_said_to_be),
        cmocka_unit_test(a_micro_batch_without_rows_says_so_too),
        cmocka_unit_test(values_are_awaited_before_they_are_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
