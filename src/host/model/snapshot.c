/* snapshot.c - models into and out of checkpoints and Hugging Face folders. */
#include "model/snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "io/file.h"
#include "model/model_path.h"
#include "model/param_values.h"
#include "model/shared_values.h"
#include "model/weights.h"

enum { TOKENIZER_LIMIT = 1 << 29, CONTRACT_LIMIT = 1 << 24 };

csp_status csp_snapshot_hash(const csp_model *model, bool adapters, char text[CSP_HASH_TEXT_BYTES])
{
    csp_digest *digest = NULL;
    float *values = NULL;
    csp_status status = CSP_OK;

    CSP_TRY(csp_digest_create(&digest));
    for (int64_t i = 0; i < model->params->count; i++) {
        const csp_param *row = &model->params->rows[i];
        const int64_t count = csp_tensor_count(&row->value);

        if (csp_param_is_lora(row) && !adapters) {
            continue;
        }
        CSP_TRY_GOTO(csp_realloc("model hash", count, sizeof(float), &values));
        CSP_TRY_GOTO(csp_param_download(model->be, row, values));
        csp_digest_add(digest, row->name, (int64_t)strlen(row->name));
        csp_digest_add(digest, values, count * (int64_t)sizeof(float));
    }
    csp_digest_say(digest, text);

fail:
    free(values);
    csp_digest_destroy(digest);
    return status;
}

/* "/model/model.norm.weight"; dots stay, so that the group lists well. */
static const char *dataset_name(const csp_param *row, char *text, size_t bytes)
{
    snprintf(text, bytes, "/%s/%s", csp_param_is_lora(row) ? "lora" : "model", row->name);
    return text;
}

/*
 * The values of row number i as f32: its copy where that is f32, else made in *values, which has
 * room for them.
 */
static csp_status values_of(const csp_snapshot *s, int64_t i, float *values, const float **out)
{
    const csp_param *row = &s->model->params->rows[i];
    const csp_tensor *host = s->host != NULL ? &s->host[i] : NULL;

    *out = values;
    if (host == NULL) {
        return csp_param_download(s->model->be, row, values);
    }
    if (host->dtype == CSP_F32) {
        *out = host->data;
        return CSP_OK;
    }
    csp_values_to_f32(host->dtype, host->data, csp_tensor_count(host), values);
    return CSP_OK;
}

static csp_status write_rows(csp_hdf5 *file, const csp_snapshot *s)
{
    const csp_model *model = s->model;
    const bool lora = model->params->lora.R > 0;
    csp_status status = CSP_OK;
    float *values = NULL;
    char name[CSP_PARAM_NAME_BYTES + 16];

    for (int64_t i = 0; i < model->params->count; i++) {
        const csp_param *row = &model->params->rows[i];
        csp_tensor host = csp_tensor_view(NULL, CSP_F32, row->ndim, row->dim);
        const float *from;

        if (lora != csp_param_is_lora(row)) {
            continue;
        }
        CSP_TRY_GOTO(csp_realloc("checkpoint", csp_tensor_count(&host), sizeof(float), &values));
        CSP_TRY_GOTO(values_of(s, i, values, &from));
        host.data = (void *)(uintptr_t)from;
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
    CSP_TRY(csp_hdf5_set_i64(file, "/", "base_in_run", s->base_in_run ? 1 : 0));
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
    status = write_rows(file, s);

fail:
    free(config_text);
    free(contract_text);
    return status;
}

/* A row's dataset, which must fit, into *values, which grows as needed. */
static csp_status read_dataset(const csp_hdf5 *file, const char *path, const csp_param *row,
                               float **values, csp_tensor *out)
{
    csp_tensor host = csp_tensor_view(NULL, CSP_F32, row->ndim, row->dim), stored;
    char name[CSP_PARAM_NAME_BYTES + 16], got[96], want[96];

    CSP_TRY(csp_hdf5_describe(file, dataset_name(row, name, sizeof(name)), &stored));
    if (!csp_tensor_is(&stored, CSP_F32, row->ndim, row->dim)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s is %s, the model's config wants %s", path, name,
                        csp_tensor_describe(&stored, got, sizeof(got)),
                        csp_tensor_describe(&host, want, sizeof(want)));
    }
    CSP_TRY(csp_realloc("checkpoint", csp_tensor_count(&host), sizeof(float), values));
    host.data = *values;
    CSP_TRY(csp_hdf5_read(file, name, &host));
    *out = host;
    return CSP_OK;
}

/*
 * Reads the adapters, or all other datasets, into a fitting model. file is looked at by the reader
 * of machine alone; digest may be NULL.
 */
static csp_status read_rows(const csp_hdf5 *file, const char *path, bool lora, csp_model *model,
                            csp_comm *machine, csp_digest *digest)
{
    csp_shared_values shared = {
        .be = model->be, .machine = machine, .where = path, .digest = digest
    };
    float *values = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_shared_values_open(&shared));
    for (int64_t i = 0; i < model->params->count; i++) {
        csp_param *row = &model->params->rows[i];
        csp_tensor host = { 0 };

        if (lora != csp_param_is_lora(row)) {
            continue;
        }
        if (csp_shared_reads(machine)) {
            CSP_TRY_GOTO(read_dataset(file, path, row, &values, &host));
        }
        CSP_TRY_GOTO(csp_shared_row(&shared, row, &host));
    }

fail:
    csp_shared_values_close(&shared);
    free(values);
    return status;
}

/*
 * "x/checkpoints/adapt-1.h5", "merged" -> "x/checkpoints/../merged". Owner: the caller frees *out.
 */
static csp_status path_in_run(const char *checkpoint, const char *name, char **out)
{
    const char *slash = strrchr(checkpoint, '/');
    const int folder = slash != NULL ? (int)(slash - checkpoint) + 1 : 0;
    const size_t bytes = strlen(checkpoint) + strlen(name) + 8;

    CSP_TRY(csp_alloc(checkpoint, (int64_t)bytes, 1, out));
    snprintf(*out, bytes, "%.*s../%s", folder, checkpoint, name);
    return CSP_OK;
}

static csp_status read_lora_settings(const csp_hdf5 *file, const char *path, csp_opened *o,
                                     csp_lora *lora)
{
    char *hash = NULL;
    int64_t rslora, targets, in_run;

    CSP_TRY(csp_hdf5_get_text(file, "/", "base_path", &o->base_path));
    CSP_TRY(csp_hdf5_get_i64(file, "/", "base_in_run", &in_run));
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
    o->base_in_run = in_run != 0;
    CSP_TRY(csp_lora_check(lora, path));
    return o->base_in_run ? path_in_run(path, o->base_path, &o->base_found)
                          : csp_strdup(path, o->base_path, &o->base_found);
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
    char *text = NULL, shape[96];
    csp_tensor tokenizer;
    csp_status status;

    CSP_TRY_GOTO(csp_hdf5_get_text(file, "/", "contract_json", &text));
    CSP_TRY_GOTO(csp_contract_from_json(text, path, &o->contract));
    free(text);
    text = NULL;
    CSP_TRY_GOTO(csp_hdf5_get_text(file, "/", "config_json", &text));
    CSP_TRY_GOTO(csp_model_config_parse(text, (int64_t)strlen(text), path, config));
    CSP_TRY_GOTO(csp_hdf5_describe(file, "/tokenizer", &tokenizer));
    if (tokenizer.dtype != CSP_U8 || tokenizer.ndim != 1 || tokenizer.dim[0] > TOKENIZER_LIMIT) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s: /tokenizer is %s, not at most %d bytes", path,
                          csp_tensor_describe(&tokenizer, shape, sizeof(shape)), TOKENIZER_LIMIT);
        goto fail;
    }
    CSP_TRY_GOTO(csp_alloc(path, csp_tensor_count(&tokenizer) + 1, 1, &o->tokenizer));
    tokenizer.data = o->tokenizer;
    o->tokenizer_bytes = csp_tensor_count(&tokenizer);
    CSP_TRY_GOTO(csp_hdf5_read(file, "/tokenizer", &tokenizer));
    o->tokenizer[o->tokenizer_bytes] = '\0';

fail:
    free(text);
    return status;
}

/* What is to be trained against the adapter that is there; its dropout may change. */
static csp_status settle_lora(const csp_open_options *options, const char *path, csp_lora *lora)
{
    const csp_lora *want = options->lora;

    if (options->train == CSP_TRAIN_FULL) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "%s holds an adapter: full fine-tuning starts from whole weights (merge it "
                        "with csplade export, or set lora)",
                        path);
    }
    if (want == NULL) {
        return CSP_OK;
    }
    if (want->R != lora->R || csp_lora_scale(want) != csp_lora_scale(lora)) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "%s: its adapter has r %lld and scale %g, lora r %lld and %g", path,
                        (long long)lora->R, (double)csp_lora_scale(lora), (long long)want->R,
                        (double)csp_lora_scale(want));
    }
    if (want->targets != lora->targets) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: its adapter is not of lora.target_modules", path);
    }
    lora->dropout = want->dropout;
    return CSP_OK;
}

static csp_status open_base(const char *path, csp_hdf5 **out)
{
    csp_hdf5 *file = NULL;
    csp_status status;

    CSP_TRY(csp_hdf5_open(path, &file));
    CSP_TRY_GOTO(check_format(file, path));
    if (csp_hdf5_has_attribute(file, "/", "base_path")) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s holds an adapter itself: it is no base", path);
        goto fail;
    }
    *out = file;
    return CSP_OK;

fail:
    csp_hdf5_close(file);
    return status;
}

/* The frozen weights from a checkpoint of full fine-tuning. */
static csp_status read_base(const char *path, csp_model *model, csp_comm *machine,
                            csp_digest *digest)
{
    csp_hdf5 *file = NULL;
    csp_status status;

    if (csp_shared_reads(machine)) {
        CSP_TRY(open_base(path, &file));
    }
    status = read_rows(file, path, false, model, machine, digest);
    csp_hdf5_close(file);
    return status;
}

/* The base below an adapter is the one it was trained on. */
static csp_status check_base(const char *path, const char *base, const csp_opened *o,
                             const csp_digest *digest)
{
    char hash[CSP_HASH_TEXT_BYTES];

    csp_digest_say(digest, hash);
    if (strcmp(hash, o->base_hash) != 0) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: its adapter belongs to a base model with hash %s, but %s has %s", path,
                        o->base_hash, base, hash);
    }
    return CSP_OK;
}

/* The base is elsewhere now: what is written from here on names that place. */
static csp_status move_base(const char *base, csp_opened *o)
{
    char *path = NULL, *found = NULL;

    CSP_TRY(csp_strdup(base, base, &path));
    if (csp_strdup(base, base, &found) != CSP_OK) {
        free(path);
        return CSP_ERR_MEMORY;
    }
    free(o->base_path);
    free(o->base_found);
    o->base_path = path;
    o->base_found = found;
    o->base_in_run = false;
    return CSP_OK;
}

/* An adapter over its base. */
static csp_status open_adapter(csp_backend *be, const csp_hdf5 *file, const char *path,
                               const csp_open_options *options, csp_model_options *m, csp_opened *o)
{
    const char *base;

    CSP_TRY(read_lora_settings(file, path, o, &m->lora));
    CSP_TRY(settle_lora(options, path, &m->lora));
    if (options->base != NULL) {
        CSP_TRY(move_base(options->base, o));
    }
    base = o->base_found;
    if (!csp_file_exists(base)) {
        return CSP_FAIL(CSP_ERR_IO,
                        "%s: its base model %s is not there: --base says where it is now", path,
                        base);
    }
    m->dir = csp_file_is_dir(base) ? base : NULL;
    m->blank = m->dir == NULL;
    CSP_TRY(csp_model_create(be, m, &o->model));
    if (m->dir == NULL) {
        CSP_TRY(read_base(base, o->model, m->machine, m->digest));
    }
    CSP_TRY(check_base(path, base, o, m->digest));
    return read_rows(file, path, true, o->model, m->machine, NULL);
}

/* Whole weights have no base that could be elsewhere. */
static csp_status refuse_base(const char *path, const csp_open_options *options)
{
    return options->base == NULL
               ? CSP_OK
               : CSP_FAIL(CSP_ERR_CONFIG,
                          "%s holds whole weights and has no base model: %s has no "
                          "place beside it",
                          path, options->base);
}

/* Whole weights; with new adapters over them where lora asks for some. */
static csp_status open_weights(csp_backend *be, const csp_hdf5 *file, const char *path,
                               const csp_open_options *options, csp_model_options *m, csp_opened *o)
{
    CSP_TRY(refuse_base(path, options));
    m->blank = true;
    if (options->train == CSP_TRAIN_LORA && options->lora != NULL) {
        m->lora = *options->lora;
    }
    CSP_TRY(csp_model_create(be, m, &o->model));
    CSP_TRY(read_rows(file, path, false, o->model, m->machine, m->digest));
    if (m->lora.R > 0) {
        CSP_TRY(csp_weights_init_lora(be, o->model->params, options->seed));
        csp_digest_say(m->digest, o->base_hash);
        CSP_TRY(csp_strdup(path, path, &o->base_path));
        CSP_TRY(csp_strdup(path, path, &o->base_found));
    }
    return CSP_OK;
}

static csp_status open_checkpoint(csp_backend *be, const csp_hdf5 *file, const char *path,
                                  const csp_open_options *options, csp_opened *o)
{
    csp_model_options m = { .train = options->train,
                            .storage = options->storage,
                            .machine = options->machine };
    csp_model_config config;
    csp_status status;

    CSP_TRY(csp_digest_create(&m.digest));
    CSP_TRY_GOTO(check_format(file, path));
    CSP_TRY_GOTO(read_head(file, path, o, &config));
    m.config = &config;
    m.max_len = options->max_len > 0 ? options->max_len : csp_contract_rows(&o->contract);
    status = csp_hdf5_has_attribute(file, "/", "base_path")
                 ? open_adapter(be, file, path, options, &m, o)
                 : open_weights(be, file, path, options, &m, o);

fail:
    csp_digest_destroy(m.digest);
    return status;
}

/* say: warns where there is none. */
static csp_status read_contract_file(const char *dir, bool say, csp_contract *out)
{
    char *path = NULL, *text = NULL;
    int64_t bytes;
    csp_status status;

    CSP_TRY_GOTO(csp_file_join(dir, "csplade.json", &path));
    if (!csp_file_exists(path)) {
        status = csp_contract_init(out);
        csp_log(say ? CSP_LOG_WARN : CSP_LOG_DEBUG, "model",
                "%s has no csplade.json: the standard contract is taken (causal, \"query: \" and "
                "\"passage: \", 192 tokens, no BOS)",
                dir);
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

    CSP_TRY(refuse_base(dir, options));
    CSP_TRY_GOTO(csp_file_join(dir, "tokenizer.json", &path));
    CSP_TRY_GOTO(csp_file_read(path, TOKENIZER_LIMIT, &o->tokenizer, &o->tokenizer_bytes));
    CSP_TRY_GOTO(read_contract_file(dir, true, &o->contract));
    m.dir = dir;
    m.train = options->train;
    m.storage = options->storage;
    m.machine = options->machine;
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
    csp_hdf5 *file = NULL;
    csp_status status;

    CSP_TRY(csp_model_path_check(path));
    if (csp_file_is_dir(path)) {
        CSP_TRY_GOTO(open_folder(be, path, options, &o));
    } else {
        CSP_TRY_GOTO(options->file == NULL ? csp_hdf5_open(path, &file) : CSP_OK);
        CSP_TRY_GOTO(
            open_checkpoint(be, options->file != NULL ? options->file : file, path, options, &o));
    }
    if (o.base_path == NULL) {
        CSP_TRY_GOTO(csp_strdup(path, "", &o.base_path));
        CSP_TRY_GOTO(csp_strdup(path, "", &o.base_found));
    }
    *out = o;
    o = (csp_opened) { 0 };

fail:
    csp_hdf5_close(file);
    csp_opened_clear(&o);
    return status;
}

csp_status csp_snapshot_contract(const char *path, csp_contract *out)
{
    csp_hdf5 *file = NULL;
    char *text = NULL;
    csp_status status;

    CSP_TRY(csp_model_path_check(path));
    if (csp_file_is_dir(path)) {
        return read_contract_file(path, false, out);
    }
    CSP_TRY(csp_hdf5_open(path, &file));
    CSP_TRY_GOTO(check_format(file, path));
    CSP_TRY_GOTO(csp_hdf5_get_text(file, "/", "contract_json", &text));
    status = csp_contract_from_json(text, path, out);

fail:
    csp_hdf5_close(file);
    free(text);
    return status;
}

void csp_opened_clear(csp_opened *o)
{
    csp_model_destroy(o->model);
    csp_contract_clear(&o->contract);
    free(o->tokenizer);
    free(o->base_path);
    free(o->base_found);
    memset(o, 0, sizeof(*o));
}
