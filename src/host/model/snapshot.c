/* snapshot.c - models into and out of checkpoints and Hugging Face folders. */
#include "model/snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "core/memory.h"
#include "io/file.h"
#include "model/weights.h"

enum { TOKENIZER_LIMIT = 1 << 29, CONTRACT_LIMIT = 1 << 24 };

int64_t csp_contract_rows(const csp_contract *contract)
{
    const int64_t longest = contract->query_max_len > contract->passage_max_len
                                ? contract->query_max_len
                                : contract->passage_max_len;
    const int64_t copy = longest + (contract->append_eos ? 1 : 0);

    return (contract->variant == CSP_VARIANT_ECHO ? 2 * copy : copy) + (contract->add_bos ? 1 : 0);
}

csp_status csp_snapshot_hash(const csp_model *model, bool adapters, char text[CSP_HASH_TEXT_BYTES])
{
    XXH3_state_t *state = XXH3_createState();
    XXH128_hash_t hash;
    float *values = NULL;
    csp_status status = CSP_OK;

    if (state == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "model hash: no memory");
    }
    XXH3_128bits_reset(state);
    for (int64_t i = 0; i < model->params->count; i++) {
        const csp_param *row = &model->params->rows[i];
        const int64_t count = csp_tensor_count(&row->value);

        if (csp_param_is_lora(row) && !adapters) {
            continue;
        }
        CSP_TRY_GOTO(csp_realloc("model hash", count, sizeof(float), &values));
        CSP_TRY_GOTO(csp_backend_download(model->be, &row->value, values));
        XXH3_128bits_update(state, row->name, strlen(row->name));
        XXH3_128bits_update(state, values, (size_t)count * sizeof(float));
    }
    hash = XXH3_128bits_digest(state);
    snprintf(text, CSP_HASH_TEXT_BYTES, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);

fail:
    free(values);
    XXH3_freeState(state);
    return status;
}

/* "/model/model.norm.weight"; dots stay, so that the group lists well. */
static const char *dataset_name(const csp_param *row, char *text, size_t bytes)
{
    snprintf(text, bytes, "/%s/%s", csp_param_is_lora(row) ? "lora" : "model", row->name);
    return text;
}

static csp_status write_rows(csp_hdf5 *file, const csp_model *model)
{
    const bool lora = model->params->lora.R > 0;
    csp_status status = CSP_OK;
    float *values = NULL;
    char name[CSP_PARAM_NAME_BYTES + 16];

    for (int64_t i = 0; i < model->params->count; i++) {
        const csp_param *row = &model->params->rows[i];
        csp_tensor host = row->value;

        if (lora != csp_param_is_lora(row)) {
            continue;
        }
        CSP_TRY_GOTO(
            csp_realloc("checkpoint", csp_tensor_count(&row->value), sizeof(float), &values));
        CSP_TRY_GOTO(csp_backend_download(model->be, &row->value, values));
        host.data = values;
        CSP_TRY_GOTO(csp_hdf5_write(file, dataset_name(row, name, sizeof(name)), &host));
    }

fail:
    free(values);
    return status;
}

static csp_status write_lora_settings(csp_hdf5 *file, const csp_snapshot *s)
{
    const csp_lora *lora = &s->model->params->lora;

    CSP_TRY(csp_hdf5_set_text(file, "/", "base_path", s->base_path));
    CSP_TRY(csp_hdf5_set_text(file, "/", "base_hash", s->base_hash));
    CSP_TRY(csp_hdf5_set_i64(file, "/", "lora_r", lora->R));
    CSP_TRY(csp_hdf5_set_f64(file, "/", "lora_alpha", lora->alpha));
    CSP_TRY(csp_hdf5_set_f64(file, "/", "lora_dropout", lora->dropout));
    CSP_TRY(csp_hdf5_set_i64(file, "/", "lora_rslora", lora->rslora ? 1 : 0));
    return csp_hdf5_set_i64(file, "/", "lora_targets", (int64_t)lora->targets);
}

csp_status csp_snapshot_write(csp_hdf5 *file, const csp_snapshot *s)
{
    const csp_model_config *config = &s->model->params->config;
    const int64_t bytes[] = { s->tokenizer_bytes };
    csp_tensor tokenizer = csp_tensor_view((void *)(uintptr_t)s->tokenizer, CSP_U8, 1, bytes);
    char *config_text = NULL, *contract_text = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_model_config_text(config, CSP_F32, &config_text));
    CSP_TRY_GOTO(csp_contract_to_json(s->contract, &contract_text));
    CSP_TRY_GOTO(csp_hdf5_set_text(file, "/", "format", "csplade-checkpoint"));
    CSP_TRY_GOTO(csp_hdf5_set_i64(file, "/", "format_version", CSP_CHECKPOINT_VERSION));
    CSP_TRY_GOTO(csp_hdf5_set_text(file, "/", "model_type", csp_family_name(config->family)));
    CSP_TRY_GOTO(csp_hdf5_set_text(file, "/", "config_json", config_text));
    CSP_TRY_GOTO(csp_hdf5_set_text(file, "/", "contract_json", contract_text));
    CSP_TRY_GOTO(csp_hdf5_write(file, "/tokenizer", &tokenizer));
    if (s->model->params->lora.R > 0) {
        CSP_TRY_GOTO(write_lora_settings(file, s));
    }
    status = write_rows(file, s->model);

fail:
    free(config_text);
    free(contract_text);
    return status;
}

/* Reads all datasets of the kind the checkpoint holds into a model of the right shapes. */
static csp_status read_rows(const csp_hdf5 *file, const char *path, csp_model *model)
{
    const bool lora = model->params->lora.R > 0;
    csp_status status = CSP_OK;
    float *values = NULL;
    char name[CSP_PARAM_NAME_BYTES + 16], got[96], want[96];

    for (int64_t i = 0; i < model->params->count; i++) {
        csp_param *row = &model->params->rows[i];
        csp_tensor host = row->value, stored;

        if (lora != csp_param_is_lora(row)) {
            continue;
        }
        CSP_TRY_GOTO(csp_hdf5_describe(file, dataset_name(row, name, sizeof(name)), &stored));
        if (!csp_tensor_is(&stored, CSP_F32, row->ndim, row->dim)) {
            status = CSP_FAIL(CSP_ERR_FORMAT, "%s: %s is %s, the model's config wants %s", path,
                              name, csp_tensor_describe(&stored, got, sizeof(got)),
                              csp_tensor_describe(&row->value, want, sizeof(want)));
            goto fail;
        }
        CSP_TRY_GOTO(csp_realloc("checkpoint", csp_tensor_count(&host), sizeof(float), &values));
        host.data = values;
        CSP_TRY_GOTO(csp_hdf5_read(file, name, &host));
        CSP_TRY_GOTO(csp_backend_upload(model->be, values, &row->value));
    }

fail:
    free(values);
    return status;
}

static csp_status read_lora_settings(const csp_hdf5 *file, csp_opened *o, csp_lora *lora)
{
    char *hash = NULL;
    int64_t rslora, targets;

    CSP_TRY(csp_hdf5_get_text(file, "/", "base_path", &o->base_path));
    CSP_TRY(csp_hdf5_get_i64(file, "/", "lora_r", &lora->R));
    CSP_TRY(csp_hdf5_get_f64(file, "/", "lora_alpha", &lora->alpha));
    CSP_TRY(csp_hdf5_get_f64(file, "/", "lora_dropout", &lora->dropout));
    CSP_TRY(csp_hdf5_get_i64(file, "/", "lora_rslora", &rslora));
    CSP_TRY(csp_hdf5_get_i64(file, "/", "lora_targets", &targets));
    CSP_TRY(csp_hdf5_get_text(file, "/", "base_hash", &hash));
    lora->rslora = rslora != 0;
    lora->targets = (uint32_t)targets;
    snprintf(o->base_hash, sizeof(o->base_hash), "%s", hash);
    free(hash);
    return CSP_OK;
}

static csp_status check_format(const csp_hdf5 *file, const char *path)
{
    char *format = NULL;
    int64_t version;
    bool right;

    CSP_TRY(csp_hdf5_get_text(file, "/", "format", &format));
    right = strcmp(format, "csplade-checkpoint") == 0;
    free(format);
    if (!right) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: not a csplade checkpoint", path);
    }
    CSP_TRY(csp_hdf5_get_i64(file, "/", "format_version", &version));
    if (version != CSP_CHECKPOINT_VERSION) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: checkpoint format version %lld; this csplade reads version %d", path,
                        (long long)version, CSP_CHECKPOINT_VERSION);
    }
    return CSP_OK;
}

/* Contract, config and tokenizer of a checkpoint. */
static csp_status read_head(const csp_hdf5 *file, const char *path, csp_opened *o,
                            csp_model_config *config)
{
    char *text = NULL;
    csp_tensor tokenizer;
    csp_status status;

    CSP_TRY_GOTO(csp_hdf5_get_text(file, "/", "contract_json", &text));
    CSP_TRY_GOTO(csp_contract_from_json(text, path, &o->contract));
    free(text);
    text = NULL;
    CSP_TRY_GOTO(csp_hdf5_get_text(file, "/", "config_json", &text));
    CSP_TRY_GOTO(csp_model_config_parse(text, (int64_t)strlen(text), path, config));
    CSP_TRY_GOTO(csp_hdf5_describe(file, "/tokenizer", &tokenizer));
    CSP_TRY_GOTO(csp_alloc(path, csp_tensor_count(&tokenizer) + 1, 1, &o->tokenizer));
    tokenizer.data = o->tokenizer;
    o->tokenizer_bytes = csp_tensor_count(&tokenizer);
    CSP_TRY_GOTO(csp_hdf5_read(file, "/tokenizer", &tokenizer));
    o->tokenizer[o->tokenizer_bytes] = '\0';

fail:
    free(text);
    return status;
}

static csp_status open_checkpoint(csp_backend *be, const char *path,
                                  const csp_open_options *options, csp_opened *o)
{
    csp_model_options m = { 0 };
    csp_model_config config;
    csp_hdf5 *file = NULL;
    char hash[CSP_HASH_TEXT_BYTES];
    csp_status status;

    CSP_TRY(csp_hdf5_open(path, &file));
    CSP_TRY_GOTO(check_format(file, path));
    CSP_TRY_GOTO(read_head(file, path, o, &config));
    m.config = &config;
    m.train = options->train;
    m.blank = true;
    m.max_len = options->max_len > 0 ? options->max_len : csp_contract_rows(&o->contract);
    if (csp_hdf5_has_attribute(file, "/", "base_path")) {
        CSP_TRY_GOTO(read_lora_settings(file, o, &m.lora));
        m.dir = options->base != NULL ? options->base : o->base_path;
        m.blank = false;
    }
    CSP_TRY_GOTO(csp_model_create(be, &m, &o->model));
    if (m.lora.R > 0) {
        CSP_TRY_GOTO(csp_snapshot_hash(o->model, false, hash));
        if (strcmp(hash, o->base_hash) != 0) {
            status = CSP_FAIL(CSP_ERR_FORMAT,
                              "%s: its adapter belongs to a base model with hash %s, but %s has %s",
                              path, o->base_hash, m.dir, hash);
            goto fail;
        }
    }
    status = read_rows(file, path, o->model);

fail:
    csp_hdf5_close(file);
    return status;
}

static csp_status read_contract_file(const char *dir, csp_contract *out)
{
    char *path = NULL, *text = NULL;
    int64_t bytes;
    csp_status status;

    CSP_TRY_GOTO(csp_file_join(dir, "csplade.json", &path));
    if (!csp_file_exists(path)) {
        status = csp_contract_init(out);
        goto fail;
    }
    CSP_TRY_GOTO(csp_file_read(path, CONTRACT_LIMIT, &text, &bytes));
    status = csp_contract_from_json(text, path, out);

fail:
    free(path);
    free(text);
    return status;
}

static csp_status open_folder(csp_backend *be, const char *dir, const csp_open_options *options,
                              csp_opened *o)
{
    csp_model_options m = { 0 };
    char *path = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_file_join(dir, "tokenizer.json", &path));
    CSP_TRY_GOTO(csp_file_read(path, TOKENIZER_LIMIT, &o->tokenizer, &o->tokenizer_bytes));
    CSP_TRY_GOTO(read_contract_file(dir, &o->contract));
    CSP_TRY_GOTO(csp_strdup(dir, "", &o->base_path));
    m.dir = dir;
    m.train = options->train;
    m.max_len = options->max_len > 0 ? options->max_len : csp_contract_rows(&o->contract);
    status = csp_model_create(be, &m, &o->model);

fail:
    free(path);
    return status;
}

csp_status csp_snapshot_open(csp_backend *be, const char *path, const csp_open_options *options,
                             csp_opened *out)
{
    csp_opened o = { 0 };
    csp_status status = csp_file_is_dir(path) ? open_folder(be, path, options, &o)
                                              : open_checkpoint(be, path, options, &o);

    if (status != CSP_OK) {
        csp_opened_clear(&o);
        return status;
    }
    if (o.base_path == NULL) {
        status = csp_strdup(path, "", &o.base_path);
        if (status != CSP_OK) {
            csp_opened_clear(&o);
            return status;
        }
    }
    *out = o;
    return CSP_OK;
}

void csp_opened_clear(csp_opened *o)
{
    csp_model_destroy(o->model);
    csp_contract_clear(&o->contract);
    free(o->tokenizer);
    free(o->base_path);
    memset(o, 0, sizeof(*o));
}
