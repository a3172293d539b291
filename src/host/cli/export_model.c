/* export_model.c - a checkpoint or folder as files that transformers or PEFT read. */
#include "cli/export_model.h"

#include <stdio.h>
#include <string.h>

#include "export/huggingface.h"
#include "io/file.h"
#include "model/snapshot.h"

bool csp_export_is_model(const csp_arguments *args)
{
    const char *format = csp_args_text(args, "format");

    return strcmp(format, "hf") == 0 || strcmp(format, "peft") == 0;
}

static csp_dtype dtype_named(const char *name)
{
    return strcmp(name, "bf16") == 0 ? CSP_BF16 : strcmp(name, "f16") == 0 ? CSP_F16 : CSP_F32;
}

/* What stands as base_model_name_or_path in adapter_config.json. */
static csp_status base_name(const csp_arguments *args, const csp_opened *opened, const char **out)
{
    const char *name = csp_args_text(args, "base-name");
    const char *found =
        csp_args_given(args, "base") ? csp_args_text(args, "base") : opened->base_found;

    if (name == NULL && opened->model->params->lora.R > 0 && !csp_file_is_dir(found)) {
        return CSP_FAIL(
            CSP_ERR_CONFIG,
            "export: the adapter's base is the checkpoint %s, which PEFT does not read: "
            "export that with --format hf and say with --base-name where it is",
            found);
    }
    *out = name != NULL ? name : found;
    return CSP_OK;
}

static csp_status write_folder(const csp_arguments *args, const csp_huggingface *e,
                               const csp_opened *opened)
{
    const csp_params *params = opened->model->params;
    const char *dir = csp_args_text(args, "output"), *base = NULL;
    int64_t all = 0, adapters = 0;

    for (int64_t i = 0; i < params->count; i++) {
        const int64_t n = csp_tensor_count(&params->rows[i].value);

        *(csp_param_is_lora(&params->rows[i]) ? &adapters : &all) += n;
    }
    if (strcmp(csp_args_text(args, "format"), "hf") == 0) {
        CSP_TRY(csp_export_huggingface(e, dir));
        printf("%s: %lld parameters in %s%s\n", dir, (long long)all, csp_dtype_name(e->dtype),
               adapters > 0 ? ", the adapter added to them" : "");
        return CSP_OK;
    }
    CSP_TRY(base_name(args, opened, &base));
    CSP_TRY(csp_export_peft(e, base, dir));
    printf("%s: %lld parameters of an adapter for %s\n", dir, (long long)adapters, base);
    return CSP_OK;
}

csp_status csp_export_model(const csp_arguments *args)
{
    const csp_open_options how = { .train = CSP_TRAIN_NONE,
                                   .base = csp_args_text(args, "base"),
                                   .max_len = 1 };
    csp_huggingface e = { .dtype = dtype_named(csp_args_text(args, "dtype")),
                          .shard_bytes = csp_args_i64(args, "shard-bytes") };
    csp_opened opened = { 0 };
    csp_backend *be = NULL;
    csp_status status;

    if (!csp_args_given(args, "model")) {
        return CSP_FAIL(CSP_ERR_CONFIG, "export: --format %s needs --model DIR|CHECKPOINT",
                        csp_args_text(args, "format"));
    }
    CSP_TRY_GOTO(csp_backend_create("cpu", 0, &be));
    CSP_TRY_GOTO(csp_snapshot_open(be, csp_args_text(args, "model"), &how, &opened));
    e.model = opened.model;
    e.contract = &opened.contract;
    e.tokenizer = opened.tokenizer;
    e.tokenizer_bytes = opened.tokenizer_bytes;
    status = write_folder(args, &e, &opened);

fail:
    csp_opened_clear(&opened);
    csp_backend_destroy(be);
    return status;
}
