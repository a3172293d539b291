/*
 * model_config_json.c - config.json to csp_model_config and back.
 *
 * Reading takes the keys it knows and refuses those that would change the network in a way this
 * program does not implement; the many keys that do not matter here (use_cache, ...) pass.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "io/file.h"
#include "model/model_config.h"

enum { CONFIG_LIMIT = 4 << 20 };

/* The member key of object, NULL where absent or null. */
static json_t *member(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    return value != NULL && !json_is_null(value) ? value : NULL;
}

/* *out keeps its value where the key is absent; required ones must be there. */
static csp_status read_i64(const json_t *object, const char *where, const char *key, bool required,
                           int64_t *out)
{
    const json_t *value = member(object, key);

    if (value == NULL && !required) {
        return CSP_OK;
    }
    if (value == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s is missing", where, key);
    }
    if (!json_is_integer(value)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s is not a whole number", where, key);
    }
    *out = json_integer_value(value);
    return CSP_OK;
}

static csp_status read_f64(const json_t *object, const char *where, const char *key, bool required,
                           double *out)
{
    const json_t *value = member(object, key);

    if (value == NULL && !required) {
        return CSP_OK;
    }
    if (value == NULL || !json_is_number(value)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s is %s", where, key,
                        value == NULL ? "missing" : "not a number");
    }
    *out = json_number_value(value);
    return CSP_OK;
}

static csp_status read_bool(const json_t *object, const char *where, const char *key, bool *out)
{
    const json_t *value = member(object, key);

    if (value == NULL) {
        return CSP_OK;
    }
    if (!json_is_boolean(value)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s is neither true nor false", where, key);
    }
    *out = json_is_true(value);
    return CSP_OK;
}

static csp_status read_eos(const json_t *object, const char *where, csp_model_config *c)
{
    json_t *value = member(object, "eos_token_id");

    if (value == NULL) {
        return CSP_OK;
    }
    if (json_is_integer(value)) {
        c->eos_id[0] = json_integer_value(value);
        c->eos_count = 1;
        return CSP_OK;
    }
    if (!json_is_array(value) || json_array_size(value) > CSP_MAX_EOS) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: eos_token_id is neither a whole number nor a list of at most %d",
                        where, CSP_MAX_EOS);
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *id = json_array_get(value, i);

        if (!json_is_integer(id)) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: eos_token_id[%zu] is not a whole number", where,
                            i);
        }
        c->eos_id[i] = json_integer_value(id);
    }
    c->eos_count = (int64_t)json_array_size(value);
    return CSP_OK;
}

/* The members of a rope_parameters or rope_scaling object beside theta. */
static csp_status read_rope_scaling(const json_t *object, const char *where, const char *name,
                                    csp_rope *rope)
{
    const json_t *type = member(object, "rope_type");
    const char *text;
    double partial = 1.0;

    if (!json_is_object(object)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s is not an object", where, name);
    }
    if (type == NULL) {
        type = member(object, "type"); /* before transformers 4.45 */
    }
    if (type != NULL && !json_is_string(type)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s.rope_type is not a string", where, name);
    }
    CSP_TRY(read_f64(object, where, "partial_rotary_factor", false, &partial));
    if (partial != 1.0) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: partial_rotary_factor %g is not supported", where,
                        partial);
    }
    text = type != NULL ? json_string_value(type) : "default";
    if (strcmp(text, "default") == 0) {
        rope->llama3 = false;
        return CSP_OK;
    }
    if (strcmp(text, "llama3") != 0) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "%s: rope_type \"%.64s\" is not supported, only default and llama3", where,
                        text);
    }
    rope->llama3 = true;
    CSP_TRY(read_f64(object, where, "factor", true, &rope->factor));
    CSP_TRY(read_f64(object, where, "low_freq_factor", true, &rope->low_freq_factor));
    CSP_TRY(read_f64(object, where, "high_freq_factor", true, &rope->high_freq_factor));
    return read_f64(object, where, "original_max_position_embeddings", true,
                    &rope->original_max_position);
}

/*
 * rope_scaling beside rope_parameters, as an edit of one of them leaves it: programs differ in
 * which of the two they take.
 */
static csp_status refuse_other_scaling(const json_t *scaling, const char *where,
                                       const csp_rope *rope)
{
    csp_rope other = *rope;

    CSP_TRY(read_rope_scaling(scaling, where, "rope_scaling", &other));
    if (other.llama3 != rope->llama3 ||
        (rope->llama3 &&
         (other.factor != rope->factor || other.low_freq_factor != rope->low_freq_factor ||
          other.high_freq_factor != rope->high_freq_factor ||
          other.original_max_position != rope->original_max_position))) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: rope_parameters and rope_scaling say different things: leave one out",
                        where);
    }
    return CSP_OK;
}

/* rope_parameters, else rope_scaling and rope_theta, else the family's standard. */
static csp_status read_rope(const json_t *object, const char *where, csp_rope *rope)
{
    const json_t *parameters = member(object, "rope_parameters");
    const json_t *scaling = member(object, "rope_scaling");
    double theta = rope->theta;

    CSP_TRY(read_f64(object, where, "rope_theta", false, &theta));
    rope->theta = theta;
    if (parameters == NULL) {
        return scaling != NULL ? read_rope_scaling(scaling, where, "rope_scaling", rope) : CSP_OK;
    }
    CSP_TRY(read_rope_scaling(parameters, where, "rope_parameters", rope));
    if (scaling != NULL) {
        CSP_TRY(refuse_other_scaling(scaling, where, rope));
    }
    CSP_TRY(read_f64(parameters, where, "rope_theta", false, &rope->theta));
    if (member(object, "rope_theta") != NULL && theta != rope->theta) {
        csp_log(CSP_LOG_WARN, "model",
                "%s: rope_parameters.rope_theta %g and rope_theta %g differ, the first is used",
                where, rope->theta, theta);
    }
    return CSP_OK;
}

/* Mistral's window is kept (it bounds the length of a text); Qwen's mixed layers are refused. */
static csp_status read_window(const json_t *object, const char *where, csp_model_config *c)
{
    json_t *types = member(object, "layer_types");
    bool use = false;

    if (types != NULL && !json_is_array(types)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: layer_types is not a list", where);
    }
    for (size_t i = 0; types != NULL && i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));

        if (type == NULL || strcmp(type, "full_attention") != 0) {
            return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                            "%s: layer_types[%zu] is \"%.64s\", only full_attention is supported",
                            where, i, type != NULL ? type : "not a string");
        }
    }
    CSP_TRY(read_bool(object, where, "use_sliding_window", &use));
    if (use) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: use_sliding_window true is not supported", where);
    }
    if (c->family == CSP_FAMILY_MISTRAL && json_object_get(object, "sliding_window") != NULL) {
        c->sliding_window = 0; /* null: none; a missing key leaves the family's standard */
        return read_i64(object, where, "sliding_window", false, &c->sliding_window);
    }
    return CSP_OK;
}

/* Keys whose other values would be another network. */
static csp_status refuse_unsupported(const json_t *object, const char *where)
{
    const json_t *act = member(object, "hidden_act");
    bool mlp_bias = false;

    if (act != NULL && (!json_is_string(act) || strcmp(json_string_value(act), "silu") != 0)) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: hidden_act \"%.64s\" is not supported, only silu",
                        where, json_is_string(act) ? json_string_value(act) : "?");
    }
    CSP_TRY(read_bool(object, where, "mlp_bias", &mlp_bias));
    if (mlp_bias) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: mlp_bias true is not supported", where);
    }
    if (member(object, "quantization_config") != NULL) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "%s: quantization_config: quantised weights are not supported", where);
    }
    return CSP_OK;
}

static csp_status read_sizes(const json_t *object, const char *where, csp_model_config *c)
{
    CSP_TRY(read_i64(object, where, "hidden_size", true, &c->D));
    CSP_TRY(read_i64(object, where, "intermediate_size", true, &c->F));
    CSP_TRY(read_i64(object, where, "num_hidden_layers", true, &c->L));
    CSP_TRY(read_i64(object, where, "num_attention_heads", true, &c->H));
    CSP_TRY(read_i64(object, where, "vocab_size", true, &c->V));
    c->G = c->family == CSP_FAMILY_LLAMA ? c->H : c->family == CSP_FAMILY_MISTRAL ? 8 : 32;
    CSP_TRY(read_i64(object, where, "num_key_value_heads", false, &c->G));
    if (c->family == CSP_FAMILY_QWEN3) {
        c->E = 128;
    } else if (c->H > 0 && c->D % c->H == 0) {
        c->E = c->D / c->H;
    } else if (member(object, "head_dim") == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: hidden_size %lld is not a multiple of num_attention_heads %lld and "
                        "head_dim is missing",
                        where, (long long)c->D, (long long)c->H);
    }
    CSP_TRY(read_i64(object, where, "head_dim", false, &c->E));
    return read_i64(object, where, "max_position_embeddings", false, &c->max_position);
}

static csp_status read_object(const json_t *object, const char *where, csp_model_config *out)
{
    const json_t *type = member(object, "model_type");
    csp_model_config c;
    csp_family family;
    bool attention_bias = false;

    if (!json_is_object(object)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: not a JSON object", where);
    }
    if (type == NULL || !json_is_string(type)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: model_type is missing or not a string", where);
    }
    if (csp_family_from_name(json_string_value(type), &family) != CSP_OK) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "%s: model_type \"%.64s\" is not one of llama, mistral, qwen2, qwen3",
                        where, json_string_value(type));
    }
    c = csp_model_config_standard(family);
    CSP_TRY(refuse_unsupported(object, where));
    CSP_TRY(read_sizes(object, where, &c));
    CSP_TRY(read_f64(object, where, "rms_norm_eps", false, &c.rms_eps));
    CSP_TRY(read_f64(object, where, "initializer_range", false, &c.initializer_range));
    CSP_TRY(read_rope(object, where, &c.rope));
    CSP_TRY(read_window(object, where, &c));
    CSP_TRY(read_bool(object, where, "tie_word_embeddings", &c.tied));
    CSP_TRY(read_bool(object, where, "is_causal", &c.causal));
    CSP_TRY(read_bool(object, where, "attention_bias", &attention_bias));
    if (attention_bias && (family == CSP_FAMILY_LLAMA || family == CSP_FAMILY_QWEN3)) {
        c.qkv_bias = true;
        c.o_bias = true;
    } /* the other two families do not read this key */
    CSP_TRY(read_i64(object, where, "bos_token_id", false, &c.bos_id));
    CSP_TRY(read_i64(object, where, "pad_token_id", false, &c.pad_id));
    if (c.pad_id < -1 || c.pad_id >= c.V) {
        csp_log(CSP_LOG_WARN, "model", "%s: pad_token_id %lld is no token and is left out", where,
                (long long)c.pad_id);
        c.pad_id = -1; /* no text is padded here */
    }
    CSP_TRY(read_eos(object, where, &c));
    CSP_TRY(csp_model_config_check(&c, where));
    *out = c;
    return CSP_OK;
}

csp_status csp_model_config_parse(const char *text, int64_t bytes, const char *where,
                                  csp_model_config *out)
{
    json_error_t error;
    json_t *object = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &error);
    csp_status status;

    if (object == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%d: not JSON: %s", where, error.line, error.text);
    }
    status = read_object(object, where, out);
    json_decref(object);
    return status;
}

csp_status csp_model_config_read(const char *path, csp_model_config *out)
{
    char *text = NULL;
    int64_t bytes = 0;
    csp_status status;

    CSP_TRY(csp_file_read(path, CONFIG_LIMIT, &text, &bytes));
    status = csp_model_config_parse(text, bytes, path, out);
    free(text);
    return status;
}
