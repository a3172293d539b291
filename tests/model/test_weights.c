/*
 * test_weights.c - parameters from files and to files: what does not match is named, nothing is
 * half loaded, and what was written reads back.
 */
#include "model/holder.h"

#include "core/scalar.h"
#include "io/file.h"

/* The tensors of a fixture's model.safetensors, to be changed and written elsewhere. */
typedef struct edited {
    csp_safetensors *file;
    csp_safetensors_entry entries[64];
    int64_t count;
} edited;

static void edit(edited *e, const char *path)
{
    assert_ok(csp_safetensors_open(path, &e->file));
    e->count = csp_safetensors_count(e->file);
    assert_true(e->count < 60);
    for (int64_t i = 0; i < e->count; i++) {
        e->entries[i] = *csp_safetensors_at(e->file, i);
    }
}

static csp_safetensors_entry *entry(edited *e, const char *name)
{
    for (int64_t i = 0; i < e->count; i++) {
        if (strcmp(e->entries[i].name, name) == 0) {
            return &e->entries[i];
        }
    }
    fail_msg("no tensor %s", name);
    return NULL;
}

static void drop(edited *e, const char *name)
{
    *entry(e, name) = e->entries[e->count - 1];
    e->count--;
}

static void assert_all_zero(const holder *h)
{
    for (int64_t i = 0; i < h->params->count; i++) {
        const float *values = h->params->rows[i].value.data;

        for (int64_t e = 0; e < csp_tensor_count(&h->params->rows[i].value); e++) {
            assert_true(values[e] == 0.0f);
        }
    }
}

/* Writes e as the scratch folder's model and expects loading to fail so. */
static void expect_refusal(edited *e, csp_status status, const char *text)
{
    holder h;

    assert_ok(csp_safetensors_write(scratch_path("model.safetensors"), e->entries, e->count, NULL));
    hold_fixture(&h, "qwen3", NULL);
    assert_int_equal(csp_weights_load(h.be, h.params, scratch_dir, NULL, NULL), status);
    assert_error_has(text);
    assert_error_has(scratch_dir);
    if (status == CSP_ERR_FORMAT) {
        assert_all_zero(&h);
    }
    let_go(&h);
    csp_safetensors_close(e->file);
}

static void what_does_not_match_is_named_and_nothing_is_loaded(void **state)
{
    const int64_t wrong[] = { 16, 8 };
    const csp_tensor ids = csp_tensor_view((int64_t[]) { 1, 2 }, CSP_I64, 1, (int64_t[]) { 2 });
    edited e;

    (void)state;
    edit(&e, fixture_file("qwen3", "model.safetensors"));
    drop(&e, "model.layers.1.self_attn.q_norm.weight");
    expect_refusal(&e, CSP_ERR_FORMAT, "model.layers.1.self_attn.q_norm.weight is missing");

    edit(&e, fixture_file("qwen3", "model.safetensors"));
    e.entries[e.count++] = (csp_safetensors_entry) { "position_ids", ids };
    expect_refusal(&e, CSP_ERR_FORMAT,
                   "1 tensor does not match the configuration: position_ids is "
                   "unexpected");

    edit(&e, fixture_file("qwen3", "model.safetensors"));
    entry(&e, "model.norm.weight")->name = "norm.weight";
    expect_refusal(&e, CSP_ERR_FORMAT, "model.norm.weight is missing; norm.weight is unexpected");

    edit(&e, fixture_file("qwen3", "model.safetensors"));
    entry(&e, "model.layers.0.mlp.up_proj.weight")->tensor =
        csp_tensor_view(e.entries[0].tensor.data, CSP_F32, 2, wrong);
    expect_refusal(&e, CSP_ERR_FORMAT,
                   "model.layers.0.mlp.up_proj.weight is f32 (16,8), expected f32 (24,16)");

    edit(&e, fixture_file("qwen3", "model.safetensors"));
    entry(&e, "model.norm.weight")->tensor = ids;
    expect_refusal(&e, CSP_ERR_FORMAT, "model.norm.weight is i64, expected f32, f16 or bf16");
}

static void many_mismatches_are_counted_and_the_first_named(void **state)
{
    edited e;

    (void)state;
    edit(&e, fixture_file("qwen3", "model.safetensors"));
    e.count = 1;
    expect_refusal(&e, CSP_ERR_FORMAT, "tensors do not match the configuration: ");
    assert_error_has("; ...");
}

static void a_number_that_is_none_is_named(void **state)
{
    edited e;
    float values[16];

    (void)state;
    edit(&e, fixture_file("qwen3", "model.safetensors"));
    memcpy(values, entry(&e, "model.norm.weight")->tensor.data, sizeof(values));
    values[5] = NAN;
    entry(&e, "model.norm.weight")->tensor.data = values;
    expect_refusal(&e, CSP_ERR_NUMERIC, "model.norm.weight holds nan at element 5");
}

static void half_precisions_are_widened_exactly(void **state)
{
    uint16_t bf16[16], f16[16];
    edited e;
    holder h;

    (void)state;
    for (int i = 0; i < 16; i++) {
        bf16[i] = csp_f32_to_bf16(1.0f + 0.37f * (float)i);
        f16[i] = (uint16_t)(0x3C00 + 57 * i); /* 1 and above */
    }
    edit(&e, fixture_file("qwen3", "model.safetensors"));
    entry(&e, "model.norm.weight")->tensor = csp_tensor_view(bf16, CSP_BF16, 1, (int64_t[]) { 16 });
    entry(&e, "model.layers.0.input_layernorm.weight")->tensor =
        csp_tensor_view(f16, CSP_F16, 1, (int64_t[]) { 16 });
    assert_ok(csp_safetensors_write(scratch_path("model.safetensors"), e.entries, e.count, NULL));
    hold_fixture(&h, "qwen3", NULL);
    assert_ok(csp_weights_load(h.be, h.params, scratch_dir, NULL, NULL));
    for (int i = 0; i < 16; i++) {
        assert_true(((float *)h.params->final_norm->value.data)[i] == csp_bf16_to_f32(bf16[i]));
        assert_true(((float *)h.params->layers[0].attn_norm->value.data)[i] ==
                    csp_f16_to_f32(f16[i]));
    }
    let_go(&h);
    csp_safetensors_close(e.file);
}

static void a_head_that_differs_from_the_embedding_is_untied(void **state)
{
    csp_model_config config;
    csp_safetensors_entry *embed;
    edited e;
    float *head;

    (void)state;
    assert_ok(csp_model_config_read(fixture_file("llama_tied", "config.json"), &config));
    edit(&e, fixture_file("llama_tied", "model.safetensors"));
    embed = entry(&e, "model.embed_tokens.weight");
    head = malloc(csp_tensor_bytes(&embed->tensor));
    assert_non_null(head);
    memcpy(head, embed->tensor.data, csp_tensor_bytes(&embed->tensor));
    e.entries[e.count].name = "lm_head.weight";
    e.entries[e.count].tensor = embed->tensor;
    e.entries[e.count++].tensor.data = head;
    assert_ok(csp_safetensors_write(scratch_path("model.safetensors"), e.entries, e.count, NULL));
    assert_ok(csp_weights_settle_tie(scratch_dir, NULL, &config));
    assert_true(config.tied); /* an equal copy is harmless */
    head[3] += 1.0f;
    assert_ok(csp_safetensors_write(scratch_path("model.safetensors"), e.entries, e.count, NULL));
    assert_ok(csp_weights_settle_tie(scratch_dir, NULL, &config));
    assert_false(config.tied);
    free(head);
    csp_safetensors_close(e.file);
}

/* Writes a loaded fixture with these options and loads it again. */
static void write_and_read(holder *from, holder *to, csp_dtype dtype, int64_t shard_bytes)
{
    const csp_weights_write_options options = { .dtype = dtype, .shard_bytes = shard_bytes };

    assert_ok(csp_file_make_dirs(scratch_path("written")));
    (void)remove(scratch_path("written/model.safetensors"));
    (void)remove(scratch_path("written/model.safetensors.index.json"));
    assert_ok(csp_weights_write(from->be, from->params, scratch_path("written"), &options));
    assert_ok(csp_weights_load(to->be, to->params, scratch_path("written"), NULL, NULL));
}

/* got is want rounded to a format of so many fraction bits and least exponent. */
static void assert_rounded(const holder *want, const holder *got, int bits, int least)
{
    for (int64_t i = 0; i < want->params->count; i++) {
        const float *a = want->params->rows[i].value.data, *b = got->params->rows[i].value.data;

        for (int64_t e = 0; e < csp_tensor_count(&want->params->rows[i].value); e++) {
            const int exponent = a[e] != 0.0f ? ilogbf(a[e]) : least;
            const double unit = ldexp(1.0, (exponent > least ? exponent : least) - bits);

            assert_true((double)b[e] == unit * nearbyint((double)a[e] / unit));
        }
    }
}

static void written_weights_read_back_rounded_once(void **state)
{
    holder from, to;

    (void)state;
    hold_fixture(&from, "llama_untied", NULL);
    hold_fixture(&to, "llama_untied", NULL);
    assert_ok(csp_weights_load(from.be, from.params, fixture_dir("llama_untied"), NULL, NULL));
    write_and_read(&from, &to, CSP_F32, 0);
    assert_rounded(&from, &to, 23, -126);
    write_and_read(&from, &to, CSP_BF16, 0);
    assert_rounded(&from, &to, 7, -126);
    ((float *)from.params->embed->value.data)[0] = 3.1e-6f; /* subnormal in half precision */
    ((float *)from.params->embed->value.data)[1] = -5.9e-8f;
    ((float *)from.params->embed->value.data)[2] = 6.2e-5f;
    write_and_read(&from, &to, CSP_F16, 0);
    assert_rounded(&from, &to, 10, -14);
    let_go(&from);
    let_go(&to);
}

static void a_value_that_a_format_cannot_hold_is_named(void **state)
{
    csp_weights_write_options options = { .dtype = CSP_F16 };
    holder from;
    float *value;

    (void)state;
    hold_fixture(&from, "llama_untied", NULL);
    assert_ok(csp_weights_load(from.be, from.params, fixture_dir("llama_untied"), NULL, NULL));
    value = from.params->embed->value.data;
    assert_ok(csp_file_make_dirs(scratch_path("narrow")));
    value[3] = 65519.0f; /* rounds down to the largest half, 65504 */
    assert_ok(csp_weights_write(from.be, from.params, scratch_path("narrow"), &options));
    assert_int_equal(remove(scratch_path("narrow/model.safetensors")), 0);
    value[3] = -65520.0f;
    assert_int_equal(csp_weights_write(from.be, from.params, scratch_path("narrow"), &options),
                     CSP_ERR_NUMERIC);
    assert_error_has("model.embed_tokens.weight: -65520 is too large for f16");
    assert_false(csp_file_exists(scratch_path("narrow/model.safetensors")));
    options.dtype = CSP_BF16;
    assert_ok(csp_weights_write(from.be, from.params, scratch_path("narrow"), &options));
    assert_int_equal(remove(scratch_path("narrow/model.safetensors")), 0);
    value[3] = 3.4e38f; /* above the largest bf16 by more than half a unit */
    assert_int_equal(csp_weights_write(from.be, from.params, scratch_path("narrow"), &options),
                     CSP_ERR_NUMERIC);
    let_go(&from);
}

static void shards_read_back_the_same(void **state)
{
    holder from, to;

    (void)state;
    hold_fixture(&from, "mistral", NULL);
    hold_fixture(&to, "mistral", NULL);
    assert_ok(csp_weights_load(from.be, from.params, fixture_dir("mistral"), NULL, NULL));
    write_and_read(&from, &to, CSP_F32, 6000);
    assert_true(scratch_count(scratch_path("written"), "model-000") > 3);
    assert_true(csp_file_exists(scratch_path("written/model.safetensors.index.json")));
    assert_rounded(&from, &to, 23, -126);
    let_go(&from);
    let_go(&to);
}

static void adapters_are_written_as_peft_wrote_them(void **state)
{
    csp_safetensors *theirs, *ours;
    csp_lora lora, again;
    char dir[700], *base;
    holder h;

    (void)state;
    snprintf(dir, sizeof(dir), "%s", fixture_file("mistral", "adapter"));
    assert_ok(csp_lora_config_read(dir, &lora, &base));
    assert_string_equal(base, "tiny/mistral");
    assert_true(lora.R == 3 && lora.alpha == 4.0 && lora.rslora && lora.dropout == 0.0);
    assert_int_equal(lora.targets, 1u << CSP_MATRIX_Q | 1u << CSP_MATRIX_V);
    hold_fixture(&h, "mistral", &lora);
    assert_ok(csp_weights_load_lora(h.be, h.params, dir, NULL));
    assert_ok(csp_weights_write_lora(h.be, h.params, scratch_dir, base));
    assert_ok(csp_lora_config_read(scratch_dir, &again, NULL));
    assert_true(again.R == lora.R && again.alpha == lora.alpha && again.rslora == lora.rslora);
    assert_int_equal(again.targets, lora.targets);
    assert_ok(csp_safetensors_open(fixture_file("mistral", "adapter/adapter_model.safetensors"),
                                   &theirs));
    assert_ok(csp_safetensors_open(scratch_path("adapter_model.safetensors"), &ours));
    assert_int_equal(csp_safetensors_count(ours), csp_safetensors_count(theirs));
    for (int64_t i = 0; i < csp_safetensors_count(theirs); i++) {
        const csp_safetensors_entry *a = csp_safetensors_at(theirs, i), *b;

        assert_ok(csp_safetensors_find(ours, a->name, &b));
        assert_true(csp_tensor_is(&b->tensor, CSP_F32, 2, a->tensor.dim));
        assert_memory_equal(a->tensor.data, b->tensor.data, csp_tensor_bytes(&a->tensor));
    }
    csp_safetensors_close(theirs);
    csp_safetensors_close(ours);
    free(base);
    let_go(&h);
}

static void refuse_adapter(edited *e, const csp_lora *lora, const char *text)
{
    holder h;

    assert_ok(csp_safetensors_write(scratch_path("adapter_model.safetensors"), e->entries, e->count,
                                    NULL));
    hold_fixture(&h, "mistral", lora);
    assert_int_equal(csp_weights_load_lora(h.be, h.params, scratch_dir, NULL), CSP_ERR_FORMAT);
    assert_error_has(text);
    assert_error_has("adapter_model.safetensors");
    assert_all_zero(&h);
    let_go(&h);
    csp_safetensors_close(e->file);
}

static void an_adapter_that_does_not_fit_is_refused(void **state)
{
    const char *file;
    csp_lora lora, other;
    edited e;

    (void)state;
    assert_ok(csp_lora_config_read(fixture_file("mistral", "adapter"), &lora, NULL));
    file = fixture_file("mistral", "adapter/adapter_model.safetensors");
    edit(&e, file);
    e.entries[1].name = "model.layers.0.self_attn.q_proj.lora_B.weight";
    refuse_adapter(&e, &lora, "does not begin with \"base_model.model.\"");

    file = fixture_file("mistral", "adapter/adapter_model.safetensors");
    edit(&e, file);
    drop(&e, "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight");
    refuse_adapter(&e, &lora, "layers.1.self_attn.v_proj.lora_A.weight is missing");

    other = lora;
    other.R = 2;
    file = fixture_file("mistral", "adapter/adapter_model.safetensors");
    edit(&e, file);
    refuse_adapter(&e, &other, "is f32 (3,16), expected f32 (2,16)");

    other = lora;
    other.targets = 1u << CSP_MATRIX_Q;
    file = fixture_file("mistral", "adapter/adapter_model.safetensors");
    edit(&e, file);
    refuse_adapter(&e, &other, "v_proj.lora_A.weight is unexpected");
}

static void adapter_settings_that_mean_more_are_refused(void **state)
{
    static const struct {
        const char *text;
        csp_status status;
        const char *says;
    } cases[] = {
        { "{", CSP_ERR_FORMAT, "not JSON" },
        { "{}", CSP_ERR_UNSUPPORTED, "peft_type" },
        { "{\"peft_type\": \"LORA\"}", CSP_ERR_FORMAT, "r is missing" },
        { "{\"peft_type\": \"LORA\", \"r\": 8}", CSP_ERR_FORMAT, "lora_alpha is missing" },
        { "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 8}", CSP_ERR_FORMAT,
          "target_modules is missing" },
        { "{\"peft_type\": \"LORA\", \"r\": 0, \"lora_alpha\": 8, \"target_modules\": "
          "[\"q_proj\"]}",
          CSP_ERR_FORMAT, "r is 0" },
        { "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 8, \"target_modules\": [\"x\"]}",
          CSP_ERR_UNSUPPORTED, "target_modules[0] is \"x\"" },
        { "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 8, \"target_modules\": \".*q\"}",
          CSP_ERR_UNSUPPORTED, "pattern" },
        { "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 8, \"target_modules\": "
          "[\"q_proj\"], \"use_rslora\": \"true\"}",
          CSP_ERR_FORMAT, "use_rslora is neither true nor false" },
        { "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 8, \"target_modules\": "
          "[\"q_proj\"], \"lora_dropout\": \"0.1\"}",
          CSP_ERR_FORMAT, "lora_dropout is not a number" },
        { "{\"peft_type\": \"LORA\", \"use_dora\": true}", CSP_ERR_UNSUPPORTED, "use_dora" },
        { "{\"peft_type\": \"LORA\", \"bias\": \"all\"}", CSP_ERR_UNSUPPORTED, "bias" },
        { "{\"peft_type\": \"LORA\", \"modules_to_save\": [\"lm_head\"]}", CSP_ERR_UNSUPPORTED,
          "modules_to_save" },
        { "{\"peft_type\": \"LORA\", \"rank_pattern\": {\"q_proj\": 2}}", CSP_ERR_UNSUPPORTED,
          "rank_pattern" },
    };
    csp_lora lora = { .R = 77 };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        scratch_text(scratch_path("adapter_config.json"), cases[i].text);
        assert_int_equal(csp_lora_config_read(scratch_dir, &lora, NULL), cases[i].status);
        assert_error_has(cases[i].says);
        assert_error_has("adapter_config.json");
        assert_int_equal(lora.R, 77);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_does_not_match_is_named_and_nothing_is_loaded),
        cmocka_unit_test(many_mismatches_are_counted_and_the_first_named),
        cmocka_unit_test(a_number_that_is_none_is_named),
        cmocka_unit_test(half_precisions_are_widened_exactly),
        cmocka_unit_test(a_head_that_differs_from_the_embedding_is_untied),
        cmocka_unit_test(written_weights_read_back_rounded_once),
        cmocka_unit_test(a_value_that_a_format_cannot_hold_is_named),
        cmocka_unit_test(shards_read_back_the_same),
        cmocka_unit_test(adapters_are_written_as_peft_wrote_them),
        cmocka_unit_test(an_adapter_that_does_not_fit_is_refused),
        cmocka_unit_test(adapter_settings_that_mean_more_are_refused),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
