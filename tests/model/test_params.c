/*
 * test_params.c - the table of parameters: counts, random values, the memory a model and a step
 * take.
 */
#include "model/holder.h"

#include "core/machine.h"

static csp_model_config small_config(void)
{
    csp_model_config c = csp_model_config_standard(CSP_FAMILY_LLAMA);

    c.D = 64;
    c.F = 96;
    c.L = 2;
    c.H = 4;
    c.G = 2;
    c.E = 16;
    c.V = 300;
    return c;
}

static void random_values_have_the_stated_spread(void **state)
{
    const csp_model_config config = small_config();
    csp_lora lora = { .R = 16, .alpha = 16 };
    holder h, again;

    (void)state;
    assert_ok(csp_lora_target(&lora, "all-linear"));
    hold(&h, &config, &lora, CSP_TRAIN_LORA);
    hold(&again, &config, &lora, CSP_TRAIN_LORA);
    assert_ok(csp_weights_init(h.be, h.params, 5));
    assert_ok(csp_weights_init_lora(h.be, h.params, 5));
    assert_ok(csp_weights_init(again.be, again.params, 5));
    for (int64_t i = 0; i < h.params->count; i++) {
        const csp_param *row = &h.params->rows[i];
        const int64_t n = csp_tensor_count(&row->value);
        const float *x = row->value.data;
        double squares = 0.0, most = 0.0;

        for (int64_t e = 0; e < n; e++) {
            squares += (double)x[e] * (double)x[e];
            most = fmax(most, fabs((double)x[e]));
        }
        if (row->kind == CSP_PARAM_LORA_B) {
            assert_true(most == 0.0);
        } else if (row->kind == CSP_PARAM_LORA_A) {
            /* Uniform in +-b: mean square b^2/3; of 1,024 or more numbers within 10 %. */
            assert_true(most <= 1.0 / sqrt((double)row->dim[1]));
            assert_true(fabs(squares / (double)n * 3.0 * (double)row->dim[1] - 1.0) < 0.1);
        } else if (row->ndim == 1) {
            assert_true(squares == (double)n && most == 1.0);
        } else { /* 2,048 or more numbers: standard error of the mean square 3 % */
            assert_true(fabs(squares / (double)n / (0.02 * 0.02) - 1.0) < 0.12);
        }
        if (!csp_param_is_lora(row)) {
            assert_memory_equal(x, again.params->rows[i].value.data, (size_t)n * sizeof(float));
        }
    }
    /* Two matrices of one shape are not one sequence. */
    assert_memory_not_equal(h.params->layers[0].weight[CSP_MATRIX_K]->value.data,
                            h.params->layers[0].weight[CSP_MATRIX_V]->value.data, 64);
    assert_memory_not_equal(h.params->layers[0].lora_a[CSP_MATRIX_K]->value.data,
                            h.params->layers[1].lora_a[CSP_MATRIX_K]->value.data, 64);
    let_go(&h);
    let_go(&again);
}

static size_t bytes_of(const csp_params *params)
{
    csp_params_size size;

    assert_ok(csp_params_bytes(params, &size));
    return size.values + size.masters + size.gradients + size.moments;
}

static void the_table_counts_what_a_model_needs(void **state)
{
    const csp_storage f32 = { .dtype = CSP_F32 }, bf16 = { .dtype = CSP_BF16 };
    const csp_storage stochastic = { .dtype = CSP_BF16, .stochastic = true };
    csp_model_config config = small_config();
    const csp_lora none = { 0 };
    csp_lora lora = { .R = 4, .alpha = 8 };
    csp_params *params;
    int64_t all, trained;
    size_t full;

    (void)state;
    /* 2 x 300 x 64 + 2 layers of (64x64 + 2 x 32x64 + 64x64 + 3 x 96x64 + 2 x 64) + 64 */
    assert_ok(csp_params_create(&config, &none, CSP_TRAIN_FULL, f32, &params));
    csp_params_elements(params, &all, &trained);
    assert_int_equal(all, 38400 + 2 * (12288 + 18432 + 128) + 64);
    assert_int_equal(trained, all);
    full = bytes_of(params);
    assert_true(full >= (size_t)all * 16 && full < (size_t)all * 16 + 4 * 64 * 30);
    assert_ptr_equal(csp_params_find(params, "lm_head.weight"), params->head);
    assert_null(csp_params_find(params, "lm_head"));
    csp_params_destroy(params);
    /* 2 bytes in place of 4, and a master; or none. */
    assert_ok(csp_params_create(&config, &none, CSP_TRAIN_FULL, bf16, &params));
    assert_true(bytes_of(params) >= (size_t)all * 18 &&
                bytes_of(params) < (size_t)all * 18 + 5 * 64 * 30);
    csp_params_destroy(params);
    assert_ok(csp_params_create(&config, &none, CSP_TRAIN_FULL, stochastic, &params));
    assert_true(bytes_of(params) >= (size_t)all * 14 && bytes_of(params) < full);
    csp_params_destroy(params);

    config.tied = true;
    assert_ok(csp_lora_target(&lora, "q_proj"));
    assert_ok(csp_lora_target(&lora, "down"));
    assert_ok(csp_params_create(&config, &lora, CSP_TRAIN_LORA, f32, &params));
    csp_params_elements(params, &all, &trained);
    assert_int_equal(trained, 2 * 4 * ((64 + 64) + (96 + 64)));
    assert_true(bytes_of(params) < full);
    assert_ptr_equal(params->head, params->embed);
    csp_params_destroy(params);

    assert_int_equal(csp_params_create(&config, &none, CSP_TRAIN_LORA, f32, &params),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(csp_params_create(&config, &lora, CSP_TRAIN_FULL, f32, &params),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(csp_lora_target(&lora, "lm_head"), CSP_ERR_CONFIG);
    assert_error_has("lm_head");
}

static void a_model_that_cannot_fit_is_refused_before_memory_is_taken(void **state)
{
    csp_model_config config = csp_model_config_standard(CSP_FAMILY_LLAMA);
    csp_model_options options = { .config = &config, .train = CSP_TRAIN_FULL, .max_len = 64 };
    csp_model *model = NULL;
    csp_backend *be;

    (void)state;
    config.D = 65536;
    config.F = 1 << 20;
    config.L = 1000;
    config.H = 512;
    config.G = 512;
    config.E = 128;
    config.V = 1 << 20;
    assert_true(csp_machine_available_bytes() > 0);
    csp_backend_register("cpu", csp_cpu_open);
    assert_ok(csp_backend_create("cpu", 1, &be));
    assert_int_equal(csp_model_create(be, &options, &model), CSP_ERR_MEMORY);
    assert_error_has("GiB");
    assert_null(model);
    config = small_config();
    options.max_len = 2049;
    assert_int_equal(csp_model_create(be, &options, &model), CSP_ERR_ARGUMENT);
    assert_error_has("max_position_embeddings");
    config.sliding_window = 32;
    options.max_len = 64;
    assert_int_equal(csp_model_create(be, &options, &model), CSP_ERR_UNSUPPORTED);
    assert_error_has("sliding_window 32");
    csp_backend_destroy(be);
}

/* A training step after the first asks for no memory: the fault driver counts the questions. */
static void a_step_allocates_nothing_and_fits_its_plan(void **state)
{
    const csp_keep keeps[] = { CSP_KEEP_ALL, CSP_KEEP_MOST, CSP_KEEP_INPUTS };
    size_t planned[3];
    csp_lora lora;
    fixture f;

    (void)state;
    assert_ok(csp_lora_config_read(fixture_file("llama_tied", "adapter"), &lora, NULL));
    for (int i = 0; i < 3; i++) {
        const csp_pass pass = { .causal = true };
        csp_arena step;
        csp_run *run;

        fixture_open(&f, "llama_tied", &lora, NULL, CSP_TRAIN_LORA);
        fixture_place(&f, "causal", keeps[i]);
        assert_ok(csp_run_bytes(f.model->params, f.side[1].N, keeps[i], &planned[i]));
        assert_ok(csp_backend_reserve(f.be, planned[i], &step));
        assert_ok(csp_run_create(f.model->params, keeps[i], &run));
        for (int round = 0; round < 2; round++) {
            csp_fault_arm(1000000);
            csp_arena_release(&step, 0);
            assert_ok(csp_run_place(run, f.side[1].N, &step));
            assert_int_equal(step.used, planned[i]);
            assert_ok(csp_backend_zero(f.be, &run->dh));
            assert_ok(csp_model_fwd(f.model, &f.side[1].pack, &pass, run));
            assert_ok(csp_model_bwd(f.model, &f.side[1].pack, &pass, run, NULL));
            if (round > 0) {
                assert_int_equal(csp_fault_asked(), 0);
            }
            csp_fault_arm(0);
        }
        csp_run_destroy(run);
        csp_backend_release(f.be, &step);
        fixture_close(&f);
    }
    assert_true(planned[1] < planned[0]);
}

typedef struct opening {
    csp_backend *be;
    csp_lora lora;
    char dir[700], adapter[700];
    csp_model *model;
} opening;

static csp_status open_model(void *context)
{
    opening *o = context;
    const csp_model_options options = {
        .dir = o->dir, .lora = o->lora, .adapter = o->adapter, .train = CSP_TRAIN_LORA, .max_len = 8
    };

    CSP_TRY(csp_model_create(o->be, &options, &o->model));
    csp_model_destroy(o->model);
    o->model = NULL;
    return CSP_OK;
}

static void nothing_was_opened(void *context)
{
    assert_null(((opening *)context)->model);
}

static void every_allocation_of_opening_may_fail(void **state)
{
    opening o = { .model = NULL };

    (void)state;
    csp_backend_register("cpu", csp_cpu_open);
    assert_ok(csp_backend_create("cpu", 1, &o.be));
    snprintf(o.dir, sizeof(o.dir), "%s", fixture_dir("llama_tied"));
    snprintf(o.adapter, sizeof(o.adapter), "%s", fixture_file("llama_tied", "adapter"));
    assert_ok(csp_lora_config_read(o.adapter, &o.lora, NULL));
    assert_true(walk_faults(open_model, nothing_was_opened, &o) > 8);
    o.lora.alpha = 7;
    assert_int_equal(open_model(&o), CSP_ERR_CONFIG);
    assert_error_has("scale 1.5");
    csp_backend_destroy(o.be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_values_have_the_stated_spread),
        cmocka_unit_test(the_table_counts_what_a_model_needs),
        cmocka_unit_test(a_model_that_cannot_fit_is_refused_before_memory_is_taken),
        cmocka_unit_test(a_step_allocates_nothing_and_fits_its_plan),
        cmocka_unit_test(every_allocation_of_opening_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
