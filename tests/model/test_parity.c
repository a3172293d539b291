/*
 * test_parity.c - whole models against transformers and PEFT: hidden states, representations, both
 * losses and every gradient, of five families and three variants; recomputation; four AdamW steps.
 */
#include "model/fixture.h"

static const char *const models[] = { "llama_tied", "llama_untied", "mistral", "qwen2", "qwen3" };
static const char *const variants[] = { "causal", "bi", "echo" };

enum { MODELS = sizeof(models) / sizeof(models[0]), VARIANTS = 3 };

static void check_states(fixture *f, const char *prefix)
{
    int64_t first = 0;

    for (int s = 0; s < SIDES; s++) {
        const csp_tensor want = csp_tensor_rows(recorded(f, prefix, "h"), first, f->side[s].N);
        float *h = downloaded(f, &f->side[s].run->h);

        assert_close("hidden states", h, &want, forward_roundings(f));
        free(h);
        first += f->side[s].N;
    }
}

/* CSR rows made dense, against the recorded (B,V). */
static void check_representations(fixture *f, const char *variant)
{
    const int64_t V = f->model->params->config.V;
    int64_t first = 0;

    for (int s = 0; s < SIDES; s++) {
        const fixture_side *side = &f->side[s];
        const csp_tensor want = csp_tensor_rows(recorded(f, variant, "w"), first, side->B);
        const int64_t *row_ptr = side->rows.row_ptr.data;
        float *dense = calloc((size_t)(side->B * V), sizeof(float));

        assert_non_null(dense);
        for (int64_t b = 0; b < side->B; b++) {
            for (int64_t e = row_ptr[b]; e < row_ptr[b + 1]; e++) {
                dense[b * V + ((int32_t *)side->rows.term.data)[e]] =
                    ((float *)side->rows.weight.data)[e];
            }
        }
        assert_close("representations", dense, &want,
                     forward_roundings(f) + (double)f->model->params->config.D);
        free(dense);
        first += side->B;
    }
}

/* Every trained tensor's gradient (or, with value, its value) against "<prefix>.<name>". */
static void check_parameters(fixture *f, const char *prefix, bool value, double roundings)
{
    const csp_params *params = f->model->params;

    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];

        if (row->trained) {
            const csp_tensor *want = recorded(f, prefix, row->name);
            float *got = downloaded(f, value ? &row->value : &row->grad);

            assert_true(csp_tensor_is(want, CSP_F32, row->ndim, row->dim));
            assert_close(row->name, got, want, roundings);
            free(got);
        }
    }
}

/* Losses were summed in float32 over a vocabulary there: its roundings and those of the states. */
static void check_losses(fixture *f, const char *prefix, const double *loss, int64_t n)
{
    const csp_tensor *want = recorded(f, prefix, "loss");
    const double bound = 2.0 * UNIT_F32 * backward_roundings(f);

    assert_int_equal(csp_tensor_count(want), n);
    assert_true(worst_ratio_f64("loss", loss, want->data, want->data, n, bound) <= 1.0);
}

static void contrastive_gradients_of_every_family_and_variant(void **state)
{
    char prefix[32];
    double loss[4];

    (void)state;
    for (int m = 0; m < MODELS; m++) {
        for (int v = 0; v < VARIANTS; v++) {
            fixture f;

            fixture_open(&f, models[m], NULL, NULL, CSP_TRAIN_FULL);
            fixture_place(&f, variants[v], CSP_KEEP_ALL);
            fixture_forward(&f);
            check_states(&f, variants[v]);
            check_representations(&f, variants[v]);
            fixture_loss(&f, loss);
            check_losses(&f, variants[v], loss, 4);
            fixture_backward(&f);
            snprintf(prefix, sizeof(prefix), "%s.grad", variants[v]);
            check_parameters(&f, prefix, false, backward_roundings(&f));
            fixture_close(&f);
        }
    }
}

/* How many rows have one. */
static int64_t set_targets(fixture *f, fixture_side *side, csp_tensor *target)
{
    int64_t predicted = 0;
    int32_t *host = malloc((size_t)side->N * sizeof(int32_t));
    const int32_t *token = side->pack.token.data, *start = side->pack.seq_start.data;

    assert_non_null(host);
    for (int64_t b = 0; b < side->B; b++) {
        for (int32_t n = start[b]; n < start[b + 1]; n++) {
            host[n] = n + 1 < start[b + 1] ? token[n + 1] : -1;
            predicted += host[n] >= 0;
        }
    }
    assert_ok(csp_arena_tensor(&f->arena, CSP_I32, 1, &side->N, target));
    assert_ok(csp_backend_upload(f->be, host, target));
    free(host);
    return predicted;
}

static void adaptation_losses_and_gradients(void **state)
{
    const csp_pass pass = { .causal = true };

    (void)state;
    for (int m = 0; m < MODELS; m++) {
        csp_tensor target[SIDES];
        int64_t predicted[SIDES], all = 0;
        double loss[2] = { 0.0, 0.0 };
        fixture f;

        fixture_open(&f, models[m], NULL, NULL, CSP_TRAIN_FULL);
        fixture_place(&f, "causal", CSP_KEEP_ALL);
        for (int s = 0; s < SIDES; s++) {
            predicted[s] = set_targets(&f, &f.side[s], &target[s]);
            all += predicted[s];
        }
        for (int s = 0; s < SIDES; s++) {
            csp_run *run = f.side[s].run;
            csp_token_loss_args args = { .head = fixture_head(&f),
                                         .target = target[s],
                                         .lambda_relu = (float)f.settings.lambda_relu,
                                         .predicted = predicted[s],
                                         .coefficient = 1.0f / (float)all,
                                         .de = csp_model_head_grad(f.model) };
            const int64_t two = 2;
            double part[2];

            assert_ok(csp_arena_tensor(&f.arena, CSP_F64, 1, &two, &args.loss));
            assert_ok(csp_arena_tensor(&f.arena, CSP_I64, 1, &two, &args.bad));
            assert_ok(csp_model_fwd(f.model, &f.side[s].pack, &pass, run));
            args.h = run->h;
            args.dh = run->dh;
            assert_ok(csp_token_loss(f.be, &args));
            assert_ok(csp_backend_download(f.be, &args.loss, part));
            assert_ok(csp_model_bwd(f.model, &f.side[s].pack, &pass, run, NULL));
            loss[0] += part[0];
            loss[1] += part[1];
        }
        check_losses(&f, "adapt", loss, 2);
        check_parameters(&f, "adapt.grad", false, backward_roundings(&f));
        fixture_close(&f);
    }
}

/* The adapter's own folder gives the settings. */
static void open_adapter(fixture *f, const char *name, csp_lora *lora, char *dir, size_t bytes)
{
    snprintf(dir, bytes, "%s/adapter", fixture_dir(name));
    assert_ok(csp_lora_config_read(dir, lora, NULL));
    fixture_open(f, name, lora, dir, CSP_TRAIN_LORA);
}

static void adapters_of_peft_and_their_gradients(void **state)
{
    static const char *const with_adapter[] = { "llama_tied", "mistral" };

    (void)state;
    for (int m = 0; m < 2; m++) {
        double loss[4];
        csp_lora lora;
        char dir[600];
        fixture f;

        open_adapter(&f, with_adapter[m], &lora, dir, sizeof(dir));
        fixture_place(&f, "causal", CSP_KEEP_ALL);
        fixture_forward(&f);
        check_states(&f, "lora");
        fixture_loss(&f, loss);
        check_losses(&f, "lora", loss, 4);
        fixture_backward(&f);
        assert_int_equal(csp_model_head_grad(f.model).ndim, 0);
        check_parameters(&f, "lora.grad", false, backward_roundings(&f));
        fixture_close(&f);
    }
}

static void a_merged_adapter_gives_the_same_states(void **state)
{
    csp_lora lora;
    char dir[600];
    fixture f;

    (void)state;
    open_adapter(&f, "llama_tied", &lora, dir, sizeof(dir));
    assert_ok(csp_weights_merge_lora(f.be, f.model->params, 3));
    fixture_place(&f, "causal", CSP_KEEP_NOTHING);
    fixture_forward(&f);
    check_states(&f, "lora");
    fixture_close(&f);
}

/* All trained gradients in one block of memory. */
static float *all_gradients(fixture *f, int64_t *count)
{
    const csp_params *params = f->model->params;
    float *all;
    int64_t at = 0;

    csp_params_elements(params, NULL, count);
    all = malloc((size_t)*count * sizeof(float));
    assert_non_null(all);
    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];

        if (row->trained) {
            assert_ok(csp_backend_download(f->be, &row->grad, all + at));
            at += csp_tensor_count(&row->grad);
        }
    }
    assert_int_equal(at, *count);
    return all;
}

/* Dropout masks of the two passes must agree too, so it is on where there is an adapter. */
static float *gradients_with(const char *name, bool adapter, csp_keep keep, int64_t *count)
{
    const csp_pass pass = { .causal = true, .dropout = true, .seed = 11, .step = 4 };
    csp_head head;
    csp_lora lora;
    char dir[600];
    float *all;
    fixture f;

    if (adapter) {
        snprintf(dir, sizeof(dir), "%s/adapter", fixture_dir(name));
        assert_ok(csp_lora_config_read(dir, &lora, NULL));
        lora.dropout = 0.3;
    }
    fixture_open(&f, name, adapter ? &lora : NULL, adapter ? dir : NULL,
                 adapter ? CSP_TRAIN_LORA : CSP_TRAIN_FULL);
    fixture_place(&f, "causal", keep);
    head = fixture_head(&f);
    for (int s = 0; s < SIDES; s++) {
        fixture_side *side = &f.side[s];
        int64_t *key = malloc((size_t)side->N * sizeof(int64_t));
        const csp_tensor host = csp_tensor_view(key, CSP_I64, 1, &side->N);

        for (int64_t n = 0; n < side->N; n++) {
            key[n] = ((int64_t)s << 20) + n;
        }
        side->pack.row_key = on_device(&f, &host);
        free(key);
        assert_ok(csp_model_fwd(f.model, &side->pack, &pass, side->run));
        assert_ok(csp_sparse_pool_fwd(f.be, &head, &side->run->h, &side->texts, 0, &side->rows));
    }
    {
        double loss[4];

        fixture_loss(&f, loss);
    }
    for (int s = 0; s < SIDES; s++) {
        fixture_side *side = &f.side[s];
        csp_sparse_pool_grad g = { .rows = &side->rows,
                                   .dw = side->dw,
                                   .h = side->run->h,
                                   .texts = side->texts,
                                   .dh = side->run->dh,
                                   .de = csp_model_head_grad(f.model) };

        assert_ok(csp_sparse_pool_bwd(f.be, &head, &g));
        assert_ok(csp_model_bwd(f.model, &side->pack, &pass, side->run, NULL));
    }
    all = all_gradients(&f, count);
    fixture_close(&f);
    return all;
}

static void recomputation_gives_the_same_bits(void **state)
{
    static const struct {
        const char *name;
        bool adapter;
    } cases[] = {
        { "llama_tied", true }, { "mistral", true }, { "qwen3", false }, { "qwen2", false }
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t n = 0, again = 0;
        float *kept = gradients_with(cases[i].name, cases[i].adapter, CSP_KEEP_ALL, &n);
        double size = 0.0;

        for (int64_t e = 0; e < n; e++) {
            size += fabs((double)kept[e]);
        }
        assert_true(size > 0.0);
        for (int how = CSP_KEEP_INPUTS; how <= CSP_KEEP_MOST; how++) {
            float *recomputed =
                gradients_with(cases[i].name, cases[i].adapter, (csp_keep)how, &again);

            assert_int_equal(n, again);
            assert_memory_equal(kept, recomputed, (size_t)n * sizeof(float));
            free(recomputed);
        }
        free(kept);
    }
}

static void a_pass_that_keeps_nothing_gives_the_same_bits(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        fixture f;
        float *kept, *not_kept;

        fixture_open(&f, models[m], NULL, NULL, CSP_TRAIN_FULL);
        fixture_place(&f, "echo", CSP_KEEP_ALL);
        fixture_forward(&f);
        kept = downloaded(&f, &f.side[1].run->h);
        fixture_place(&f, "echo", CSP_KEEP_NOTHING);
        fixture_forward(&f);
        not_kept = downloaded(&f, &f.side[1].run->h);
        assert_memory_equal(kept, not_kept, csp_tensor_bytes(&f.side[1].run->h));
        free(kept);
        free(not_kept);
        fixture_close(&f);
    }
}

/* Linear warm-up and decay as transformers counts them: the first step has rate 0. */
static double rate(const fixture_settings *s, int k)
{
    return k < s->warmup ? s->lr * k / s->warmup : s->lr * (s->steps - k) / (s->steps - s->warmup);
}

static void one_update(fixture *f, int k, double *norm)
{
    const csp_params *params = f->model->params;
    const fixture_settings *s = &f->settings;
    csp_optim_tensor *tensors = malloc((size_t)params->trained * sizeof(*tensors));
    double *squares = malloc((size_t)params->trained * sizeof(double)), sum = 0.0;
    csp_tensor on_be;
    csp_adamw_args args = { .t = k + 1,
                            .lr = rate(s, k),
                            .beta1 = s->beta1,
                            .beta2 = s->beta2,
                            .eps = s->eps,
                            .weight_decay = s->weight_decay };

    assert_non_null(tensors);
    assert_non_null(squares);
    csp_params_optim(params, tensors);
    assert_ok(csp_arena_tensor(&f->arena, CSP_F64, 1, &params->trained, &on_be));
    assert_ok(csp_grad_squares(f->be, tensors, params->trained, &on_be));
    assert_ok(csp_backend_download(f->be, &on_be, squares));
    for (int64_t i = 0; i < params->trained; i++) {
        sum += squares[i];
    }
    *norm = sqrt(sum);
    args.max_norm = s->max_grad_norm;
    args.squares = on_be;
    assert_ok(csp_adamw(f->be, tensors, params->trained, &args));
    free(tensors);
    free(squares);
}

/*
 * An update moves a weight by at most about lr (m and v are of one size), and a relative error of
 * the gradient moves it by no more than that error times lr, because eps is 1e-2 while clipped
 * gradients are below 1; so four steps add four times the gradient's error, here relative to the
 * largest weight, which is above lr.
 */
static void four_steps_end_with_the_same_weights(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        const bool adapter =
            strcmp(models[m], "llama_tied") == 0 || strcmp(models[m], "mistral") == 0;
        double loss[4], losses[4], norms[4];
        csp_lora lora;
        char dir[600];
        fixture f;

        if (adapter) {
            open_adapter(&f, models[m], &lora, dir, sizeof(dir));
        } else {
            fixture_open(&f, models[m], NULL, NULL, CSP_TRAIN_FULL);
        }
        for (int k = 0; k < 4; k++) {
            fixture_place(&f, "causal", CSP_KEEP_ALL);
            fixture_forward(&f);
            fixture_loss(&f, loss);
            losses[k] = loss[0];
            fixture_backward(&f);
            one_update(&f, k, &norms[k]);
        }
        check_losses(&f, "train", losses, 4);
        assert_true(worst_ratio_f64("norm", norms, recorded(&f, "train", "norm")->data,
                                    recorded(&f, "train", "norm")->data, 4,
                                    2.0 * UNIT_F32 * 4.0 * backward_roundings(&f)) <= 1.0);
        check_parameters(&f, "train.value", true, 4.0 * backward_roundings(&f));
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contrastive_gradients_of_every_family_and_variant),
        cmocka_unit_test(adaptation_losses_and_gradients),
        cmocka_unit_test(adapters_of_peft_and_their_gradients),
        cmocka_unit_test(a_merged_adapter_gives_the_same_states),
        cmocka_unit_test(recomputation_gives_the_same_bits),
        cmocka_unit_test(a_pass_that_keeps_nothing_gives_the_same_bits),
        cmocka_unit_test(four_steps_end_with_the_same_weights),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
