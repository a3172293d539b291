/*
 * model_config_write.c - the text of a config.json that transformers 4 and 5 both read.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "model/model_config.h"

static const char *const architectures[CSP_FAMILY_COUNT] = {
    [CSP_FAMILY_LLAMA] = "LlamaForCausalLM",
    [CSP_FAMILY_MISTRAL] = "MistralForCausalLM",
    [CSP_FAMILY_QWEN2] = "Qwen2ForCausalLM",
    [CSP_FAMILY_QWEN3] = "Qwen3ForCausalLM",
};

static json_t *id_or_null(int64_t id)
{
    return id >= 0 ? json_integer(id) : json_null();
}

static json_t *eos_value(const csp_model_config *c)
{
    json_t *list;

    if (c->eos_count <= 1) {
        return id_or_null(c->eos_count == 1 ? c->eos_id[0] : -1);
    }
    list = json_array();
    for (int64_t i = 0; i < c->eos_count; i++) {
        json_array_append_new(list, json_integer(c->eos_id[i]));
    }
    return list;
}

/* rope_parameters (with theta) or rope_scaling (without, null for the default). */
static json_t *rope_value(const csp_rope *rope, bool theta)
{
    json_t *value;

    if (!theta && !rope->llama3) {
        return json_null();
    }
    value = json_object();
    json_object_set_new(value, "rope_type", json_string(rope->llama3 ? "llama3" : "default"));
    if (theta) {
        json_object_set_new(value, "rope_theta", json_real(rope->theta));
    }
    if (rope->llama3) {
        json_object_set_new(value, "factor", json_real(rope->factor));
        json_object_set_new(value, "low_freq_factor", json_real(rope->low_freq_factor));
        json_object_set_new(value, "high_freq_factor", json_real(rope->high_freq_factor));
        json_object_set_new(value, "original_max_position_embeddings",
                            json_integer((json_int_t)rope->original_max_position));
    }
    return value;
}

static void set_window(json_t *root, const csp_model_config *c)
{
    if (c->family == CSP_FAMILY_MISTRAL) {
        json_object_set_new(root, "sliding_window",
                            c->sliding_window > 0 ? json_integer(c->sliding_window) : json_null());
    } else if (c->family != CSP_FAMILY_LLAMA) {
        json_object_set_new(root, "use_sliding_window", json_false());
        json_object_set_new(root, "sliding_window", json_null());
    }
}

static json_t *config_object(const csp_model_config *c, csp_dtype dtype)
{
    const char *name = dtype == CSP_BF16 ? "bfloat16" : dtype == CSP_F16 ? "float16" : "float32";
    json_t *root = json_object();
    json_t *list = json_array();

    json_array_append_new(list, json_string(architectures[c->family]));
    json_object_set_new(root, "architectures", list);
    json_object_set_new(root, "model_type", json_string(csp_family_name(c->family)));
    json_object_set_new(root, "vocab_size", json_integer(c->V));
    json_object_set_new(root, "hidden_size", json_integer(c->D));
    json_object_set_new(root, "intermediate_size", json_integer(c->F));
    json_object_set_new(root, "num_hidden_layers", json_integer(c->L));
    json_object_set_new(root, "num_attention_heads", json_integer(c->H));
    json_object_set_new(root, "num_key_value_heads", json_integer(c->G));
    json_object_set_new(root, "head_dim", json_integer(c->E));
    json_object_set_new(root, "hidden_act", json_string("silu"));
    json_object_set_new(root, "max_position_embeddings", json_integer(c->max_position));
    json_object_set_new(root, "rms_norm_eps", json_real(c->rms_eps));
    json_object_set_new(root, "initializer_range", json_real(c->initializer_range));
    if (c->family == CSP_FAMILY_LLAMA || c->family == CSP_FAMILY_QWEN3) {
        json_object_set_new(root, "attention_bias", json_boolean(c->o_bias));
    }
    if (c->family == CSP_FAMILY_LLAMA) {
        json_object_set_new(root, "mlp_bias", json_false());
    }
    json_object_set_new(root, "attention_dropout", json_real(0.0));
    set_window(root, c);
    json_object_set_new(root, "tie_word_embeddings", json_boolean(c->tied));
    if (!c->causal) {
        json_object_set_new(root, "is_causal", json_false());
    }
    json_object_set_new(root, "bos_token_id", id_or_null(c->bos_id));
    json_object_set_new(root, "eos_token_id", eos_value(c));
    json_object_set_new(root, "pad_token_id", id_or_null(c->pad_id));
    json_object_set_new(root, "rope_parameters", rope_value(&c->rope, true));
    json_object_set_new(root, "rope_theta", json_real(c->rope.theta));
    json_object_set_new(root, "rope_scaling", rope_value(&c->rope, false));
    json_object_set_new(root, "dtype", json_string(name));
    json_object_set_new(root, "torch_dtype", json_string(name));
    return root;
}

csp_status csp_model_config_text(const csp_model_config *config, csp_dtype dtype, char **out)
{
    json_t *root = config_object(config, dtype);
    char *json = json_dumps(root, JSON_INDENT(2));
    char *text = NULL;
    size_t length;
    csp_status status;

    json_decref(root);
    if (json == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "config.json: no memory for its text");
    }
    length = strlen(json);
    status = csp_alloc("config.json", (int64_t)length + 2, 1, &text);
    if (status == CSP_OK) {
        memcpy(text, json, length);
        memcpy(text + length, "\n", 2);
        *out = text;
    }
    free(json);
    return status;
}
