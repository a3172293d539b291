/*
 * lora.c - adapter settings, and PEFT's adapter_config.json.
 */
#include "model/lora.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/file.h"

enum { ADAPTER_CONFIG_LIMIT = 4 << 20 };

static const char *const matrix_names[CSP_MATRIX_COUNT] = {
    [CSP_MATRIX_Q] = "q_proj",       [CSP_MATRIX_K] = "k_proj",       [CSP_MATRIX_V] = "v_proj",
    [CSP_MATRIX_O] = "o_proj",       [CSP_MATRIX_GATE] = "gate_proj", [CSP_MATRIX_UP] = "up_proj",
    [CSP_MATRIX_DOWN] = "down_proj",
};

const char *csp_matrix_name(csp_matrix matrix)
{
    CSP_ASSERT((int)matrix >= 0 && (int)matrix < CSP_MATRIX_COUNT);
    return matrix_names[matrix];
}

float csp_lora_scale(const csp_lora *lora)
{
    if (lora->R == 0) {
        return 0.0f;
    }
    return (float)(lora->alpha / (lora->rslora ? sqrt((double)lora->R) : (double)lora->R));
}

csp_status csp_lora_target(csp_lora *lora, const char *name)
{
    if (strcmp(name, "all-linear") == 0) {
        lora->targets = (1u << CSP_MATRIX_COUNT) - 1;
        return CSP_OK;
    }
    for (int m = 0; m < CSP_MATRIX_COUNT; m++) {
        const size_t stem = strlen(matrix_names[m]) - strlen("_proj");

        if (strcmp(name, matrix_names[m]) == 0 ||
            (strlen(name) == stem && strncmp(name, matrix_names[m], stem) == 0)) {
            lora->targets |= 1u << m;
            return CSP_OK;
        }
    }
    return CSP_FAIL(CSP_ERR_CONFIG,
                    "target module \"%.64s\" is not one of q_proj, k_proj, v_proj, o_proj, "
                    "gate_proj, up_proj, down_proj, all-linear",
                    name);
}

csp_status csp_lora_check(const csp_lora *lora, const char *where)
{
    if (lora->R < 1 || lora->R > 4096) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: r is %lld, not in 1..4096", where, (long long)lora->R);
    }
    if (!(lora->alpha > 0.0 && lora->alpha <= 1e6)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: alpha is %g, not above 0 and at most 1e6", where,
                        lora->alpha);
    }
    if (!(lora->dropout >= 0.0 && lora->dropout < 1.0)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: dropout is %g, not in 0..1 (1 excluded)", where,
                        lora->dropout);
    }
    if (lora->targets == 0 || lora->targets >> CSP_MATRIX_COUNT != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: target_modules is empty", where);
    }
    return CSP_OK;
}

/* Keys that must be absent, null, false, empty or the one value given, since others mean more. */
static csp_status refuse_unsupported(const json_t *root, const char *path)
{
    static const char *const absent[] = {
        "use_dora",          "use_qalora",      "use_bdlora",          "modules_to_save",
        "rank_pattern",      "alpha_pattern",   "layers_to_transform", "layers_pattern",
        "layer_replication", "exclude_modules", "target_parameters",   "trainable_token_indices",
        "fan_in_fan_out",    "lora_bias",       "megatron_config",     "arrow_config",
        "kasa_config",       "velora_config",   "monteclora_config",   "alora_invocation_tokens",
    };
    const json_t *type = json_object_get(root, "peft_type");
    const json_t *bias = json_object_get(root, "bias");

    if (!json_is_string(type) || strcmp(json_string_value(type), "LORA") != 0) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: peft_type is not \"LORA\"", path);
    }
    if (bias != NULL && (!json_is_string(bias) || strcmp(json_string_value(bias), "none") != 0)) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: bias is not \"none\"", path);
    }
    for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
        const json_t *value = json_object_get(root, absent[i]);
        const bool empty = value == NULL || json_is_null(value) || json_is_false(value) ||
                           (json_is_array(value) && json_array_size(value) == 0) ||
                           (json_is_object(value) && json_object_size(value) == 0);

        if (!empty) {
            return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: %s is not supported", path, absent[i]);
        }
    }
    return CSP_OK;
}

static csp_status read_targets(json_t *root, const char *path, csp_lora *lora)
{
    json_t *targets = json_object_get(root, "target_modules");

    if (json_is_string(targets)) { /* a regular expression but for this one word */
        if (strcmp(json_string_value(targets), "all-linear") != 0) {
            return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                            "%s: target_modules is a pattern; only a list or \"all-linear\" is "
                            "supported",
                            path);
        }
        return csp_lora_target(lora, "all-linear");
    }
    if (!json_is_array(targets)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: target_modules is missing or not a list", path);
    }
    for (size_t i = 0; i < json_array_size(targets); i++) {
        const char *name = json_string_value(json_array_get(targets, i));

        if (name == NULL || csp_lora_target(lora, name) != CSP_OK) {
            return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                            "%s: target_modules[%zu] is \"%.64s\", not one of q_proj, k_proj, "
                            "v_proj, o_proj, gate_proj, up_proj, down_proj",
                            path, i, name != NULL ? name : "no string");
        }
    }
    return CSP_OK;
}

static csp_status read_object(json_t *root, const char *path, csp_lora *out)
{
    csp_lora lora = { 0 };
    const json_t *r, *alpha, *dropout, *rslora;

    if (!json_is_object(root)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: not a JSON object", path);
    }
    CSP_TRY(refuse_unsupported(root, path));
    r = json_object_get(root, "r");
    alpha = json_object_get(root, "lora_alpha");
    if (!json_is_integer(r)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: r is missing or not a whole number", path);
    }
    if (!json_is_number(alpha)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: lora_alpha is missing or not a number", path);
    }
    dropout = json_object_get(root, "lora_dropout");
    rslora = json_object_get(root, "use_rslora");
    if (dropout != NULL && !json_is_null(dropout) && !json_is_number(dropout)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: lora_dropout is not a number", path);
    }
    if (rslora != NULL && !json_is_null(rslora) && !json_is_boolean(rslora)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: use_rslora is neither true nor false", path);
    }
    lora.R = json_integer_value(r);
    lora.alpha = json_number_value(alpha);
    lora.dropout = json_number_value(dropout); /* 0 where there is none */
    lora.rslora = json_is_true(rslora);
    CSP_TRY(read_targets(root, path, &lora));
    if (csp_lora_check(&lora, path) != CSP_OK) {
        return CSP_ERR_FORMAT; /* the text stands; a file is at fault, not a setting */
    }
    *out = lora;
    return CSP_OK;
}

csp_status csp_lora_config_read(const char *dir, csp_lora *lora, char **base)
{
    char *path = NULL, *text = NULL, *name = NULL;
    int64_t bytes = 0;
    json_t *root = NULL;
    json_error_t error;
    csp_lora read;
    csp_status status;

    CSP_TRY_GOTO(csp_file_join(dir, "adapter_config.json", &path));
    CSP_TRY_GOTO(csp_file_read(path, ADAPTER_CONFIG_LIMIT, &text, &bytes));
    root = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s:%d: not JSON: %s", path, error.line, error.text);
        goto fail;
    }
    CSP_TRY_GOTO(read_object(root, path, &read));
    if (base != NULL) {
        const char *value = json_string_value(json_object_get(root, "base_model_name_or_path"));

        CSP_TRY_GOTO(csp_strdup("adapter", value != NULL ? value : "", &name));
        *base = name;
    }
    *lora = read;
fail:
    json_decref(root);
    free(text);
    free(path);
    return status;
}

csp_status csp_lora_config_text(const csp_lora *lora, const char *base, char **out)
{
    json_t *root = json_object();
    json_t *targets = json_array();
    char *text;
    csp_status status;

    for (int m = 0; m < CSP_MATRIX_COUNT; m++) {
        if ((lora->targets >> m & 1u) != 0) {
            json_array_append_new(targets, json_string(matrix_names[m]));
        }
    }
    json_object_set_new(root, "peft_type", json_string("LORA"));
    json_object_set_new(root, "task_type", json_string("CAUSAL_LM"));
    json_object_set_new(root, "base_model_name_or_path", json_string(base));
    json_object_set_new(root, "r", json_integer(lora->R));
    if (lora->alpha == floor(lora->alpha)) {
        json_object_set_new(root, "lora_alpha", json_integer((json_int_t)lora->alpha));
    } else {
        json_object_set_new(root, "lora_alpha", json_real(lora->alpha));
    }
    json_object_set_new(root, "lora_dropout", json_real(lora->dropout));
    json_object_set_new(root, "use_rslora", json_boolean(lora->rslora));
    json_object_set_new(root, "bias", json_string("none"));
    json_object_set_new(root, "target_modules", targets);
    json_object_set_new(root, "fan_in_fan_out", json_false());
    json_object_set_new(root, "inference_mode", json_true());
    text = json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    if (text == NULL) { /* also where base is not UTF-8 */
        return CSP_FAIL(CSP_ERR_ARGUMENT, "adapter_config.json: base \"%.200s\" is not UTF-8",
                        base);
    }
    status = csp_strdup("adapter_config.json", text, out);
    free(text);
    return status;
}

csp_status csp_lora_from_settings(const csp_lora_settings *settings, csp_lora *out)
{
    csp_lora lora = { 0 };

    if (settings->enabled) {
        lora.R = settings->r;
        lora.alpha = settings->alpha;
        lora.dropout = settings->dropout;
        lora.rslora = settings->use_rslora;
        for (int64_t i = 0; i < settings->target_modules.count; i++) {
            CSP_TRY(csp_lora_target(&lora, settings->target_modules.values[i]));
        }
        CSP_TRY(csp_lora_check(&lora, "lora"));
    }
    *out = lora;
    return CSP_OK;
}
