/*
 * test_tails.c - a model whose weights have tails for adapters (model/params.h): where they lie,
 * and that what is loaded, merged and read back is what it would be without them.
 */
#include "train/tiny.h"

#include "core/scalar.h"
#include "model/param_values.h"
#include "model/weights.h"
#include "ops/linear.h"

static const csp_storage storages[] = { { .dtype = CSP_F32 }, { .dtype = CSP_BF16 } };

static void groups_are_one_matrix_with_their_tails(void **state)
{
    const csp_params *params;
    const csp_layer *layer;
    csp_tensor all;
    tiny t;

    (void)state;
    tiny_open_stored(&t, "cuda:0", CSP_VARIANT_CAUSAL, true, storages[1]);
    params = t.model->params;
    layer = &params->layers[1];
    for (int g = 0; g < CSP_GROUP_COUNT; g++) {
        const int first = (int)csp_group_first((csp_matrix_group)g);
        const int end = first + csp_group_size((csp_matrix_group)g);

        /* Rank 3: 9 columns for three matrices, 3 or 6 for fewer. */
        assert_int_equal(csp_params_tail(params, (csp_matrix_group)g), end - first > 2 ? 16 : 8);
        all = layer->weight[first]->value;
        all.dim[0] = 0;
        for (int m = first; m < end; m++) {
            assert_int_equal(csp_matrix_group_of((csp_matrix)m), g);
            all.dim[0] += layer->weight[m]->dim[0];
            if (m > first) {
                assert_true(
                    csp_tensor_is_below(&layer->weight[m - 1]->value, &layer->weight[m]->value));
            }
        }
        assert_true(csp_tensor_is_beside(&all, &layer->w_tail[g]));
        assert_true(csp_tensor_is_below(&all, &layer->a_tail[g]));
    }
    tiny_close(&t);
    tiny_open(&t, CSP_VARIANT_CAUSAL, true);
    assert_int_equal(csp_params_tail(t.model->params, CSP_GROUP_QKV), 0);
    assert_int_equal(t.model->params->layers[0].w_tail[CSP_GROUP_QKV].ndim, 0);
    tiny_close(&t);
    tiny_open_stored(&t, "cuda:0", CSP_VARIANT_CAUSAL, false, storages[1]);
    assert_int_equal(csp_params_tail(t.model->params, CSP_GROUP_QKV), 0);
    assert_int_equal(t.model->params->layers[0].weight[0]->value.apart, 0);
    tiny_close(&t);
}

/* All values of a row; the caller frees them. */
static float *values_of(const tiny *t, const csp_param *row)
{
    float *values = calloc((size_t)csp_tensor_count(&row->value), sizeof(*values));

    assert_non_null(values);
    assert_ok(csp_param_download(t->be, row, values));
    return values;
}

/* In pieces that begin and end within rows, the last one first. */
static void values_arrive_in_any_pieces(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        tiny t;

        tiny_open_stored(&t, "cuda:0", CSP_VARIANT_CAUSAL, true, storages[i]);
        for (int64_t r = 0; r < t.model->params->count; r++) {
            csp_param *row = &t.model->params->rows[r];
            const int64_t n = csp_tensor_count(&row->value), piece = 2 * row->dim[1] + 5;
            float *values = calloc((size_t)n, sizeof(*values)), *back;

            assert_non_null(values);
            for (int64_t e = 0; e < n; e++) {
                values[e] = csp_bf16_to_f32(csp_f32_to_bf16((float)e - 0.5f * (float)n));
            }
            for (int64_t first = (n - 1) / piece * piece; first >= 0; first -= piece) {
                assert_ok(csp_param_upload(t.be, row, first, n - first < piece ? n - first : piece,
                                           values + first));
            }
            back = values_of(&t, row);
            assert_memory_equal(back, values, (size_t)n * sizeof(*values));
            free(back);
            free(values);
        }
        tiny_close(&t);
    }
}

/* Written from the CPU's model, loaded as it stands in the file, and merged with its adapters. */
static void a_file_is_loaded_and_merged_as_on_the_cpu(void **state)
{
    const csp_weights_write_options options = { .dtype = CSP_BF16, .shard_bytes = 1 << 20 };
    char dir[600], adapter[600];
    tiny cpu, t;

    (void)state;
    snprintf(dir, sizeof(dir), "%s/model", scratch_dir);
    snprintf(adapter, sizeof(adapter), "%s/adapter", scratch_dir);
    assert_int_equal(mkdir(dir, 0700) | mkdir(adapter, 0700), 0);
    tiny_open(&cpu, CSP_VARIANT_CAUSAL, true);
    assert_ok(csp_weights_write(cpu.be, cpu.model->params, dir, &options));
    assert_ok(csp_weights_write_lora(cpu.be, cpu.model->params, adapter, "base"));
    assert_ok(csp_weights_load(cpu.be, cpu.model->params, dir, NULL, NULL)); /* now rounded, too */
    for (int i = 0; i < 2; i++) {
        tiny_open_stored(&t, "cuda:0", CSP_VARIANT_CAUSAL, true, storages[i]);
        assert_ok(csp_weights_load(t.be, t.model->params, dir, NULL, NULL));
        assert_ok(csp_weights_load_lora(t.be, t.model->params, adapter, NULL));
        for (int merged = 0; merged < 2; merged++) {
            for (int64_t r = 0; r < t.model->params->count; r++) {
                const csp_param *row = &t.model->params->rows[r];
                float *want = values_of(&cpu, &cpu.model->params->rows[r]);
                float *got = values_of(&t, row);

                for (int64_t e = 0; e < csp_tensor_count(&row->value); e++) {
                    const bool narrow = storages[i].dtype == CSP_BF16 && row->master.ndim == 0;
                    const float as_stored =
                        narrow ? csp_bf16_to_f32(csp_f32_to_bf16(want[e])) : want[e];

                    assert_true(got[e] == as_stored);
                }
                free(want);
                free(got);
            }
            if (merged == 0 && i == 0) { /* in f32 the same sums */
                assert_ok(csp_weights_merge_lora(cpu.be, cpu.model->params, 4));
                assert_ok(csp_weights_merge_lora(t.be, t.model->params, 4));
            } else {
                break;
            }
        }
        tiny_close(&t);
        assert_ok(csp_weights_load(cpu.be, cpu.model->params, dir, NULL, NULL));
        assert_ok(csp_weights_load_lora(cpu.be, cpu.model->params, adapter, NULL));
    }
    tiny_close(&cpu);
}

enum { B = 3, N = 11 };

/* Final hidden states of three texts, by a pass that keeps this. The caller frees them. */
static void *hidden_states(const tiny *t, csp_keep keep)
{
    static const int32_t token[N] = { 5, 1, 60, 2, 2, 9, 33, 7, 0, 58, 4 };
    static const int32_t start[B + 1] = { 0, 4, 10, N };
    const int64_t rows = N, texts = B + 1;
    const csp_pass pass = { .causal = true };
    csp_pack pack = { .longest = 6 };
    csp_arena arena = { 0 };
    csp_run *run;
    size_t bytes;
    void *h;

    assert_ok(csp_run_bytes(t->model->params, N, keep, &bytes));
    assert_ok(csp_backend_reserve(t->be, bytes + 4096, &arena));
    assert_ok(csp_arena_tensor(&arena, CSP_I32, 1, &rows, &pack.token));
    assert_ok(csp_arena_tensor(&arena, CSP_I32, 1, &texts, &pack.seq_start));
    assert_ok(csp_backend_upload(t->be, token, &pack.token));
    assert_ok(csp_backend_upload(t->be, start, &pack.seq_start));
    assert_ok(csp_run_create(t->model->params, keep, &run));
    assert_ok(csp_run_place(run, N, &arena));
    assert_ok(csp_model_fwd(t->model, &pack, &pass, run));
    h = calloc(1, csp_tensor_bytes(&run->h));
    assert_non_null(h);
    assert_ok(csp_backend_download(t->be, &run->h, h));
    csp_run_destroy(run);
    csp_backend_release(t->be, &arena);
    return h;
}

/* A pass that keeps nothing has less room: the product of the gate and its tail lie over the gate
 * and up. */
static void what_is_kept_does_not_matter(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        tiny t;
        void *all, *nothing, *inputs;
        size_t bytes;

        tiny_open_stored(&t, "cuda:0", CSP_VARIANT_CAUSAL, true, storages[i]);
        bytes = (size_t)N * (size_t)t.model->params->config.D * csp_dtype_bytes(storages[i].dtype);
        all = hidden_states(&t, CSP_KEEP_ALL);
        nothing = hidden_states(&t, CSP_KEEP_NOTHING);
        inputs = hidden_states(&t, CSP_KEEP_INPUTS);
        assert_memory_equal(all, nothing, bytes);
        assert_memory_equal(all, inputs, bytes);
        free(all);
        free(nothing);
        free(inputs);
        tiny_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_are_one_matrix_with_their_tails),
        cmocka_unit_test(values_arrive_in_any_pieces),
        cmocka_unit_test(a_file_is_loaded_and_merged_as_on_the_cpu),
        cmocka_unit_test(what_is_kept_does_not_matter),
    };

    return tiny_main_on_cuda(tests, sizeof(tests) / sizeof(tests[0]), scratch_make, scratch_remove);
}
