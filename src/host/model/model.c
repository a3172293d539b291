/*
 * model.c - a model's life: sizes checked, memory taken once, values read or drawn.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/file.h"
#include "model/param_values.h"
#include "model/transformer.h"
#include "model/weights.h"

/* cos and sin of all positions. */
static csp_status place_rope(const csp_params *params, int64_t max_len, csp_arena *keep,
                             csp_tensor *cos_table, csp_tensor *sin_table)
{
    const int64_t shape[] = { max_len, params->config.E / 2 };

    CSP_TRY(csp_arena_tensor(keep, CSP_F32, 2, shape, cos_table));
    return csp_arena_tensor(keep, CSP_F32, 2, shape, sin_table);
}

csp_status csp_model_bytes(const csp_params *params, int64_t max_len, size_t *out)
{
    csp_arena ruler = { 0 };
    csp_tensor cos_table, sin_table;
    csp_params_size size;

    CSP_TRY(csp_params_bytes(params, &size));
    CSP_TRY(place_rope(params, max_len, &ruler, &cos_table, &sin_table));
    *out = size.values + size.masters + size.gradients + size.moments + ruler.peak;
    return CSP_OK;
}

/* Asked before anything is taken: a CPU would begin, and be killed where its pages end. */
static csp_status check_fits(csp_backend *be, const csp_params *params, size_t bytes)
{
    csp_params_size size;
    csp_memory memory;
    int64_t all, trained;

    CSP_TRY(csp_backend_memory(be, &memory));
    if (bytes <= (uint64_t)memory.free) {
        return CSP_OK;
    }
    CSP_TRY(csp_params_bytes(params, &size));
    csp_params_elements(params, &all, &trained);
    return CSP_FAIL(CSP_ERR_MEMORY,
                    "the model needs %.1f GiB, %s has %.1f GiB free: %lld weights in %s take %.1f "
                    "GiB, training %lld of them takes %.1f GiB",
                    (double)bytes / 0x1p30, be->name, (double)memory.free / 0x1p30, (long long)all,
                    csp_dtype_name(params->storage.dtype), (double)size.values / 0x1p30,
                    (long long)trained,
                    (double)(size.masters + size.gradients + size.moments) / 0x1p30);
}

static csp_status check_length(const csp_model_config *config, int64_t max_len)
{
    if (max_len < 1 || max_len > config->max_position) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "texts of up to %lld rows, not in 1..%lld (max_position_embeddings)",
                        (long long)max_len, (long long)config->max_position);
    }
    if (config->sliding_window > 0 && max_len > config->sliding_window) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "texts of up to %lld rows are longer than sliding_window %lld, which is "
                        "not supported",
                        (long long)max_len, (long long)config->sliding_window);
    }
    return CSP_OK;
}

static csp_status read_config(const csp_model_options *options, csp_model_config *out)
{
    csp_status status;
    char *path;

    if (options->dir == NULL) {
        *out = *options->config;
        return csp_model_config_check(out, "model");
    }
    CSP_TRY(csp_file_join(options->dir, "config.json", &path));
    status = csp_model_config_read(path, out);
    free(path);
    CSP_TRY(status);
    return csp_weights_settle_tie(options->dir, options->machine, out);
}

/* The adapter's own settings must be those asked for: its values mean nothing under others. */
static csp_status check_adapter(const csp_model_options *options)
{
    csp_lora file;

    if (csp_file_exists(options->adapter) && !csp_file_is_dir(options->adapter)) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "%s: a file, but a PEFT adapter is a folder (a checkpoint of csplade with "
                        "its adapter is gone on from as model.path)",
                        options->adapter);
    }
    CSP_TRY(csp_lora_config_read(options->adapter, &file, NULL));
    if (file.R != options->lora.R || csp_lora_scale(&file) != csp_lora_scale(&options->lora)) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "%s: the adapter has r %lld and scale %g, the settings r %lld and scale %g",
                        options->adapter, (long long)file.R, (double)csp_lora_scale(&file),
                        (long long)options->lora.R, (double)csp_lora_scale(&options->lora));
    }
    if (file.targets != options->lora.targets) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "%s: the adapter's target_modules are not those of the settings",
                        options->adapter);
    }
    return CSP_OK;
}

static csp_status fill_values(csp_model *model, const csp_model_options *options)
{
    csp_backend *be = model->be;
    csp_params *params = model->params;

    if (options->blank) {
        for (int64_t i = 0; i < params->count; i++) {
            CSP_TRY(csp_param_zero(be, &params->rows[i]));
        }
    } else if (options->dir != NULL) {
        CSP_TRY(csp_weights_load(be, params, options->dir, options->machine, options->digest));
    } else {
        CSP_TRY(csp_weights_init(be, params, options->seed));
    }
    if (options->adapter != NULL) {
        CSP_TRY(csp_weights_load_lora(be, params, options->adapter, options->machine));
    } else if (params->lora.R > 0 && !options->blank) {
        CSP_TRY(csp_weights_init_lora(be, params, options->seed));
    }
    for (int64_t i = 0; i < params->count; i++) {
        csp_param *row = &params->rows[i];

        if (row->trained) {
            CSP_TRY(csp_backend_zero(be, &row->grad));
            CSP_TRY(csp_backend_zero(be, &row->m));
            CSP_TRY(csp_backend_zero(be, &row->v));
        }
    }
    return csp_rope_table(be, &params->config.rope, &model->cos, &model->sin);
}

csp_status csp_model_create(csp_backend *be, const csp_model_options *options, csp_model **out)
{
    csp_model_config config;
    csp_model *model = NULL;
    csp_storage storage = options->storage;
    size_t bytes = 0;
    csp_status status;

    storage.apart = be->apart;
    CSP_TRY(read_config(options, &config));
    CSP_TRY(check_length(&config, options->max_len));
    if (options->adapter != NULL) {
        CSP_TRY(check_adapter(options));
    }
    CSP_TRY_GOTO(csp_alloc_zero("model", 1, sizeof(*model), &model));
    model->be = be;
    model->max_len = options->max_len;
    CSP_TRY_GOTO(
        csp_params_create(&config, &options->lora, options->train, storage, &model->params));
    CSP_TRY_GOTO(csp_model_bytes(model->params, options->max_len, &bytes));
    CSP_TRY_GOTO(check_fits(be, model->params, bytes));
    CSP_TRY_GOTO(csp_backend_reserve(be, bytes, &model->keep));
    CSP_TRY_GOTO(csp_params_place(model->params, &model->keep));
    CSP_TRY_GOTO(place_rope(model->params, model->max_len, &model->keep, &model->cos, &model->sin));
    CSP_TRY_GOTO(fill_values(model, options));
    *out = model;
    return CSP_OK;

fail:
    csp_model_destroy(model);
    return status;
}

void csp_model_destroy(csp_model *model)
{
    if (model != NULL) {
        if (model->keep.base != NULL) {
            csp_backend_release(model->be, &model->keep);
        }
        csp_params_destroy(model->params);
        free(model);
    }
}
