/* test_config.c - config.json: both spellings, standards of families, refusals, round trips. */
#include "model/fixture.h"

#include <jansson.h>

#include "model/model_config.h"

static const char base[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 64, \"intermediate_size\": 172,"
    " \"num_hidden_layers\": 5, \"num_attention_heads\": 8, \"vocab_size\": 512,"
    " \"max_position_embeddings\": 1024, \"rms_norm_eps\": 1e-05, \"hidden_act\": \"silu\"}";

/* base with the members of patch (an object) set. The caller frees it. */
static char *patched(const char *patch)
{
    json_t *root = json_loads(base, 0, NULL), *with = json_loads(patch, 0, NULL);
    char *text;

    assert_non_null(root);
    assert_non_null(with);
    assert_int_equal(json_object_update(root, with), 0);
    text = json_dumps(root, 0);
    assert_non_null(text);
    json_decref(root);
    json_decref(with);
    return text;
}

static csp_status parse(const char *patch, csp_model_config *out)
{
    char *text = patched(patch);
    const csp_status status =
        csp_model_config_parse(text, (int64_t)strlen(text), "test/config.json", out);

    free(text);
    return status;
}

static void assert_same_config(const csp_model_config *a, const csp_model_config *b)
{
    char *text_a, *text_b;

    assert_ok(csp_model_config_text(a, CSP_F32, &text_a));
    assert_ok(csp_model_config_text(b, CSP_F32, &text_b));
    assert_string_equal(text_a, text_b);
    free(text_a);
    free(text_b);
}

static void both_spellings_of_rotation_mean_the_same(void **state)
{
    csp_model_config a, b;

    (void)state;
    assert_ok(parse("{\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 500000.0,"
                    " \"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0,"
                    " \"original_max_position_embeddings\": 8192}}",
                    &a));
    assert_ok(parse("{\"rope_theta\": 500000.0, \"rope_scaling\": {\"type\": \"llama3\","
                    " \"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0,"
                    " \"original_max_position_embeddings\": 8192}}",
                    &b));
    assert_true(a.rope.llama3);
    assert_true(a.rope.theta == 500000.0 && a.rope.factor == 8.0);
    assert_same_config(&a, &b);
    assert_ok(parse("{\"rope_theta\": 20000, \"rope_scaling\": null}", &a));
    assert_ok(
        parse("{\"rope_parameters\": {\"rope_theta\": 20000, \"rope_type\": \"default\"}}", &b));
    assert_true(!a.rope.llama3 && a.rope.theta == 20000.0);
    assert_same_config(&a, &b);
    /* Where both are there the new one counts. */
    assert_ok(parse("{\"rope_theta\": 7, \"rope_parameters\": {\"rope_theta\": 9.0}}", &a));
    assert_true(a.rope.theta == 9.0);
}

static void what_is_missing_is_what_transformers_assumes(void **state)
{
    csp_model_config c;

    (void)state;
    assert_ok(parse("{}", &c));
    assert_int_equal(c.G, 8);
    assert_int_equal(c.E, 8);
    assert_true(c.rope.theta == 10000.0 && !c.tied && !c.qkv_bias && c.causal);
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.eos_count, 0);
    assert_ok(parse("{\"model_type\": \"mistral\"}", &c));
    assert_int_equal(c.G, 8);
    assert_int_equal(c.sliding_window, 4096);
    assert_ok(parse("{\"model_type\": \"mistral\", \"sliding_window\": null}", &c));
    assert_int_equal(c.sliding_window, 0);
    assert_ok(parse("{\"model_type\": \"qwen2\", \"num_key_value_heads\": 2}", &c));
    assert_true(c.qkv_bias && !c.o_bias && !c.qk_norm);
    assert_ok(parse("{\"model_type\": \"qwen3\", \"num_key_value_heads\": 2}", &c));
    assert_true(c.qk_norm && !c.qkv_bias);
    assert_int_equal(c.E, 128);
    assert_ok(parse("{\"attention_bias\": true, \"head_dim\": 12}", &c));
    assert_true(c.qkv_bias && c.o_bias);
    assert_int_equal(c.E, 12);
    assert_ok(
        parse("{\"eos_token_id\": [2, 511], \"pad_token_id\": 512, \"bos_token_id\": 1}", &c));
    assert_int_equal(c.eos_count, 2);
    assert_int_equal(c.eos_id[1], 511);
    assert_int_equal(c.pad_id, -1); /* no token: left out with a warning */
}

static void what_cannot_be_run_is_refused_by_name(void **state)
{
    static const struct {
        const char *patch;
        csp_status status;
        const char *text;
    } cases[] = {
        { "{\"model_type\": \"gpt2\"}", CSP_ERR_UNSUPPORTED, "model_type \"gpt2\"" },
        { "{\"model_type\": 3}", CSP_ERR_FORMAT, "model_type" },
        { "{\"hidden_act\": \"gelu\"}", CSP_ERR_UNSUPPORTED, "hidden_act \"gelu\"" },
        { "{\"mlp_bias\": true}", CSP_ERR_UNSUPPORTED, "mlp_bias" },
        { "{\"quantization_config\": {}}", CSP_ERR_UNSUPPORTED, "quantization_config" },
        { "{\"rope_scaling\": {\"rope_type\": \"yarn\"}}", CSP_ERR_UNSUPPORTED, "\"yarn\"" },
        { "{\"rope_scaling\": {\"rope_type\": \"llama3\"}}", CSP_ERR_FORMAT, "factor is missing" },
        { "{\"rope_scaling\": 7}", CSP_ERR_FORMAT, "rope_scaling is not an object" },
        { "{\"rope_parameters\": {\"partial_rotary_factor\": 0.5}}", CSP_ERR_UNSUPPORTED,
          "partial_rotary_factor" },
        { "{\"rope_parameters\": {}, \"rope_scaling\": {\"type\": \"linear\"}}",
          CSP_ERR_UNSUPPORTED, "\"linear\"" },
        { "{\"rope_parameters\": {}, \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8,"
          " \"low_freq_factor\": 1, \"high_freq_factor\": 4,"
          " \"original_max_position_embeddings\": 8192}}",
          CSP_ERR_FORMAT, "rope_parameters and rope_scaling say different things" },
        { "{\"use_sliding_window\": true}", CSP_ERR_UNSUPPORTED, "use_sliding_window" },
        { "{\"layer_types\": [\"full_attention\", \"sliding_attention\"]}", CSP_ERR_UNSUPPORTED,
          "layer_types[1]" },
        { "{\"hidden_size\": null}", CSP_ERR_FORMAT, "hidden_size is missing" },
        { "{\"hidden_size\": \"64\"}", CSP_ERR_FORMAT, "hidden_size is not a whole number" },
        { "{\"hidden_size\": 0}", CSP_ERR_FORMAT, "hidden_size is 0, not in 1..65536" },
        { "{\"hidden_size\": 65}", CSP_ERR_FORMAT, "not a multiple of num_attention_heads" },
        { "{\"num_attention_heads\": 0}", CSP_ERR_FORMAT, "num_attention_heads" },
        { "{\"num_key_value_heads\": 3}", CSP_ERR_FORMAT, "num_key_value_heads 3" },
        { "{\"num_key_value_heads\": 0}", CSP_ERR_FORMAT, "num_key_value_heads is 0" },
        { "{\"head_dim\": 7}", CSP_ERR_FORMAT, "head_dim 7 is odd" },
        { "{\"num_hidden_layers\": 9223372036854775807}", CSP_ERR_FORMAT, "num_hidden_layers" },
        { "{\"vocab_size\": -1}", CSP_ERR_FORMAT, "vocab_size is -1" },
        { "{\"rms_norm_eps\": 0}", CSP_ERR_FORMAT, "rms_norm_eps is 0" },
        { "{\"rms_norm_eps\": true}", CSP_ERR_FORMAT, "rms_norm_eps is not a number" },
        { "{\"rope_theta\": -5}", CSP_ERR_FORMAT, "rope_theta is -5" },
        { "{\"eos_token_id\": 512}", CSP_ERR_FORMAT, "eos_token_id is 512" },
        { "{\"eos_token_id\": [1, \"a\"]}", CSP_ERR_FORMAT, "eos_token_id[1]" },
        { "{\"eos_token_id\": [1,1,1,1,1,1,1,1,1]}", CSP_ERR_FORMAT, "at most 8" },
        { "{\"bos_token_id\": 600}", CSP_ERR_FORMAT, "bos_token_id is 600" },
        { "{\"tie_word_embeddings\": 1}", CSP_ERR_FORMAT, "tie_word_embeddings" },
    };
    csp_model_config untouched, c;

    (void)state;
    memset(&untouched, 0x5A, sizeof(untouched));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        c = untouched;
        assert_int_equal(parse(cases[i].patch, &c), cases[i].status);
        assert_error_has(cases[i].text);
        assert_error_has("test/config.json");
        assert_memory_equal(&c, &untouched, sizeof(c));
    }
}

static void damaged_text_never_crashes(void **state)
{
    const size_t length = sizeof(base) - 1;
    csp_model_config c;
    char text[sizeof(base)];

    (void)state;
    for (size_t n = 0; n < length; n++) {
        assert_int_equal(csp_model_config_parse(base, (int64_t)n, "cut", &c), CSP_ERR_FORMAT);
    }
    for (size_t i = 0; i < length * 8; i++) {
        memcpy(text, base, sizeof(base));
        text[i / 8] ^= (char)(1 << i % 8);
        if (csp_model_config_parse(text, (int64_t)length, "flipped", &c) != CSP_OK) {
            assert_error_has("flipped");
        }
    }
    assert_int_equal(csp_model_config_parse("[1]", 3, "list", &c), CSP_ERR_FORMAT);
    assert_error_has("list: not a JSON object");
}

static void what_is_written_reads_back_the_same(void **state)
{
    static const char *const models[] = { "llama_tied", "llama_untied", "mistral", "qwen2",
                                          "qwen3" };

    (void)state;
    for (size_t m = 0; m < sizeof(models) / sizeof(models[0]); m++) {
        csp_model_config c, again;
        char path[600], *text;

        snprintf(path, sizeof(path), "%s/config.json", fixture_dir(models[m]));
        assert_ok(csp_model_config_read(path, &c));
        c.causal = m % 2 == 0;
        assert_ok(csp_model_config_text(&c, CSP_BF16, &text));
        assert_non_null(strstr(text, "rope_parameters"));
        assert_non_null(strstr(text, "rope_scaling"));
        assert_non_null(strstr(text, "\"torch_dtype\": \"bfloat16\""));
        assert_int_equal(strstr(text, "\"is_causal\": false") != NULL, !c.causal);
        assert_ok(csp_model_config_parse(text, (int64_t)strlen(text), "again", &again));
        assert_int_equal(again.causal, c.causal);
        assert_true(again.rms_eps == c.rms_eps && again.rope.theta == c.rope.theta);
        assert_same_config(&c, &again);
        free(text);
    }
}

static csp_status read_fixture(void *context)
{
    csp_model_config c;

    return csp_model_config_read(context, &c);
}

static void a_missing_file_and_failing_memory_are_reported(void **state)
{
    csp_model_config c;
    char path[600];

    (void)state;
    assert_int_equal(csp_model_config_read("/nowhere/config.json", &c), CSP_ERR_IO);
    assert_error_has("/nowhere/config.json");
    snprintf(path, sizeof(path), "%s/config.json", fixture_dir("qwen3"));
    assert_true(walk_faults(read_fixture, NULL, path) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_spellings_of_rotation_mean_the_same),
        cmocka_unit_test(what_is_missing_is_what_transformers_assumes),
        cmocka_unit_test(what_cannot_be_run_is_refused_by_name),
        cmocka_unit_test(damaged_text_never_crashes),
        cmocka_unit_test(what_is_written_reads_back_the_same),
        cmocka_unit_test(a_missing_file_and_failing_memory_are_reported),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
