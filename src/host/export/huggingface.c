/*
 * huggingface.c - writes model and adapter folders.
 */
#include "export/huggingface.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "io/file.h"
#include "model/weights.h"

/* Files whose presence means that a model is here already. */
static const char *const model_files[] = {
    "config.json",         "model.safetensors",         "model.safetensors.index.json",
    "adapter_config.json", "adapter_model.safetensors",
};

static csp_status write_text(const char *dir, const char *name, const char *text, int64_t bytes)
{
    char *path;
    csp_status status;

    CSP_TRY(csp_file_join(dir, name, &path));
    status = csp_file_write(path, text, bytes);
    free(path);
    return status;
}

static csp_status check_empty(const char *dir)
{
    for (size_t i = 0; i < sizeof(model_files) / sizeof(model_files[0]); i++) {
        bool there;
        char *path;

        CSP_TRY(csp_file_join(dir, model_files[i], &path));
        there = csp_file_exists(path);
        free(path);
        if (there) {
            return CSP_FAIL(CSP_ERR_IO, "%s: holds a model already (%s): choose another folder",
                            dir, model_files[i]);
        }
    }
    return CSP_OK;
}

/* Elements that will be written: the adapters, or all the rest. */
static int64_t elements_to_write(const csp_params *params, bool adapters)
{
    int64_t sum = 0;

    for (int64_t i = 0; i < params->count; i++) {
        if (csp_param_is_lora(&params->rows[i]) == adapters) {
            sum += csp_tensor_count(&params->rows[i].value);
        }
    }
    return sum;
}

static csp_status check_space(const csp_huggingface *e, bool adapters, const char *dir)
{
    const int64_t slack = 1 << 20; /* headers and the small files */
    const size_t each = adapters ? sizeof(float) : csp_dtype_bytes(e->dtype);
    const int64_t needed =
        elements_to_write(e->model->params, adapters) * (int64_t)each + e->tokenizer_bytes + slack;
    int64_t free_bytes;

    CSP_TRY(csp_file_free_bytes(dir, &free_bytes));
    if (needed > free_bytes) {
        return CSP_FAIL(CSP_ERR_IO, "%s: %lld bytes are needed and %lld are free", dir,
                        (long long)needed, (long long)free_bytes);
    }
    return CSP_OK;
}

/* The text of added token id in a tokenizer.json; NULL where there is none. */
static const char *token_text(json_t *tokenizer, int64_t id)
{
    json_t *added = json_object_get(tokenizer, "added_tokens");
    json_t *vocab = json_object_get(json_object_get(tokenizer, "model"), "vocab");
    const char *key;
    json_t *value;
    size_t i;

    if (id < 0) {
        return NULL;
    }
    json_array_foreach(added, i, value)
    {
        const json_t *number = json_object_get(value, "id");

        if (json_is_integer(number) && json_integer_value(number) == id) {
            return json_string_value(json_object_get(value, "content"));
        }
    }
    json_object_foreach(vocab, key, value)
    {
        if (json_is_integer(value) && json_integer_value(value) == id) {
            return key;
        }
    }
    return NULL;
}

static void set_token(json_t *root, const char *key, json_t *tokenizer, int64_t id)
{
    const char *text = token_text(tokenizer, id);

    if (text != NULL) {
        json_object_set_new(root, key, json_string(text));
    }
}

/* Whether a tokenizer.json cuts words as Qwen2's does. */
static bool cuts_as_qwen2(json_t *tokenizer)
{
    static const char rule[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                               " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    json_t *steps = json_object_get(json_object_get(tokenizer, "pre_tokenizer"), "pretokenizers");
    json_t *pattern = json_object_get(json_array_get(steps, 0), "pattern");
    const char *text = json_string_value(json_object_get(pattern, "Regex"));

    return text != NULL && strcmp(text, rule) == 0;
}

/* tokenizer_config.json: the class both versions know, and the special tokens by their text. */
static csp_status write_tokenizer_config(const csp_huggingface *e, const char *dir)
{
    const csp_model_config *c = &e->model->params->config;
    const int64_t bos = e->contract->bos_id >= 0 ? e->contract->bos_id : c->bos_id;
    const int64_t eos = e->contract->eos_id >= 0 ? e->contract->eos_id
                        : c->eos_count > 0       ? c->eos_id[0]
                                                 : -1;
    json_error_t error;
    json_t *tokenizer = json_loadb(e->tokenizer, (size_t)e->tokenizer_bytes, 0, &error);
    json_t *root;
    char *text;
    csp_status status;

    if (tokenizer == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "tokenizer.json:%d: not JSON: %s", error.line, error.text);
    }
    if (c->family == CSP_FAMILY_QWEN2 && !cuts_as_qwen2(tokenizer)) {
        csp_log(CSP_LOG_WARN, "export",
                "AutoTokenizer of transformers 5 cuts the words of any qwen2 folder by Qwen2's "
                "rules, which are not this tokenizer's: load it as PreTrainedTokenizerFast");
    }
    root = json_object();
    json_object_set_new(root, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    json_object_set_new(root, "model_max_length", json_integer(c->max_position));
    json_object_set_new(root, "clean_up_tokenization_spaces", json_false());
    set_token(root, "bos_token", tokenizer, bos);
    set_token(root, "eos_token", tokenizer, eos);
    /* Batches need something to pad with; masked positions never count. */
    set_token(root, "pad_token", tokenizer, c->pad_id >= 0 ? c->pad_id : eos);
    text = json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    json_decref(tokenizer);
    if (text == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "tokenizer_config.json: no memory for its text");
    }
    status = write_text(dir, "tokenizer_config.json", text, (int64_t)strlen(text));
    free(text);
    return status;
}

/* What both kinds of folder hold beside weights. */
static csp_status write_texts(const csp_huggingface *e, const char *dir)
{
    char *contract;
    csp_status status;

    CSP_TRY(write_text(dir, "tokenizer.json", e->tokenizer, e->tokenizer_bytes));
    CSP_TRY(write_tokenizer_config(e, dir));
    CSP_TRY(csp_contract_to_json(e->contract, &contract));
    status = write_text(dir, "csplade.json", contract, (int64_t)strlen(contract));
    free(contract);
    return status;
}

static csp_status begin_folder(const csp_huggingface *e, bool adapters, const char *dir)
{
    CSP_TRY(check_empty(dir));
    CSP_TRY(check_space(e, adapters, dir));
    return csp_file_make_dirs(dir);
}

csp_status csp_export_huggingface(const csp_huggingface *e, const char *dir)
{
    const csp_weights_write_options options = { .dtype = e->dtype,
                                                .merge = true,
                                                .shard_bytes = e->shard_bytes };
    csp_model_config config = e->model->params->config;
    char *text;
    csp_status status;

    CSP_TRY(begin_folder(e, false, dir));
    CSP_TRY(write_texts(e, dir));
    CSP_TRY(csp_weights_write(e->model->be, e->model->params, dir, &options));
    config.causal = e->contract->variant != CSP_VARIANT_BI;
    CSP_TRY(csp_model_config_text(&config, e->dtype, &text));
    status = write_text(dir, "config.json", text, (int64_t)strlen(text));
    free(text);
    return status;
}

csp_status csp_export_peft(const csp_huggingface *e, const char *base, const char *dir)
{
    if (e->model->params->lora.R == 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: the model has no adapter to export", dir);
    }
    CSP_TRY(begin_folder(e, true, dir));
    CSP_TRY(write_texts(e, dir));
    return csp_weights_write_lora(e->model->be, e->model->params, dir, base);
}
