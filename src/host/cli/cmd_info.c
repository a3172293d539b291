/* cmd_info.c - csplade info: what a model folder, a checkpoint or a file of vectors is. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "io/file.h"
#include "io/hdf5.h"
#include "io/vectors.h"
#include "model/model_config.h"
#include "model/model_path.h"
#include "model/params.h"
#include "train/checkpoint.h"

static void print_shape(const csp_model_config *c, const csp_params *params)
{
    int64_t all;

    csp_params_elements(params, &all, NULL);
    printf("model_type            %s\n", csp_family_name(c->family));
    printf("parameters            %lld\n", (long long)all);
    printf("hidden_size           %lld\n", (long long)c->D);
    printf("intermediate_size     %lld\n", (long long)c->F);
    printf("num_hidden_layers     %lld\n", (long long)c->L);
    printf("attention heads       %lld query, %lld key-value, width %lld\n", (long long)c->H,
           (long long)c->G, (long long)c->E);
    printf("vocab_size            %lld%s\n", (long long)c->V, c->tied ? ", tied" : "");
    printf("rope                  theta %g%s\n", c->rope.theta, c->rope.llama3 ? ", llama3" : "");
}

static csp_status print_model(const csp_model_config *c)
{
    const csp_lora none = { 0 };
    csp_params *params = NULL;

    CSP_TRY(csp_params_create(c, &none, CSP_TRAIN_NONE, (csp_storage) { 0 }, &params));
    print_shape(c, params);
    csp_params_destroy(params);
    return CSP_OK;
}

static csp_status info_folder(const char *dir)
{
    char *path = NULL, *contract = NULL;
    csp_model_config config;
    int64_t bytes;
    csp_status status;

    CSP_TRY(csp_file_join(dir, "config.json", &path));
    CSP_TRY_GOTO(csp_model_config_read(path, &config));
    printf("%s: a model folder\n", dir);
    CSP_TRY_GOTO(print_model(&config));
    free(path);
    path = NULL;
    CSP_TRY_GOTO(csp_file_join(dir, "csplade.json", &path));
    if (csp_file_exists(path)) {
        CSP_TRY_GOTO(csp_file_read(path, 1 << 24, &contract, &bytes));
        printf("contract\n%s\n", contract);
    } else {
        printf("contract              none: not written by csplade\n");
    }

fail:
    free(path);
    free(contract);
    return status;
}

static csp_status info_checkpoint(const char *path, const csp_hdf5 *file)
{
    csp_model_config config;
    csp_progress progress;
    csp_config *settings = NULL;
    char *text = NULL;
    csp_status status;

    CSP_TRY(csp_hdf5_get_text(file, "/", "config_json", &text));
    CSP_TRY_GOTO(csp_model_config_parse(text, (int64_t)strlen(text), path, &config));
    printf("%s: a checkpoint%s\n", path,
           csp_hdf5_has_attribute(file, "/", "base_path") ? " of an adapter" : "");
    CSP_TRY_GOTO(print_model(&config));
    free(text);
    text = NULL;
    if (csp_hdf5_has_attribute(file, "/", "base_path")) {
        CSP_TRY_GOTO(csp_hdf5_get_text(file, "/", "base_path", &text));
        printf("base model            %s\n", text);
        free(text);
        text = NULL;
    }
    if (csp_hdf5_has(file, "/config_yaml")) {
        CSP_TRY_GOTO(csp_checkpoint_peek(file, path, &progress, &settings));
        printf("phase                 %s, %lld steps done\n", progress.phase,
               (long long)progress.step);
        if (!isnan(progress.best)) {
            printf("best                  %s %.4f at %s step %lld\n", progress.metric,
                   progress.best, progress.best_phase, (long long)progress.best_step);
        }
    }
    CSP_TRY_GOTO(csp_hdf5_get_text(file, "/", "contract_json", &text));
    printf("contract\n%s\n", text);

fail:
    csp_config_free(settings);
    free(text);
    return status;
}

static csp_status info_vectors(const char *path)
{
    csp_vectors *v = NULL;
    int64_t empty = 0;
    char quant[48];

    CSP_TRY(csp_vectors_read(path, &v));
    for (int64_t i = 0; i < v->rows; i++) {
        empty += v->row_ptr[i + 1] == v->row_ptr[i];
    }
    printf("%s: sparse vectors\nrows                  %lld, %lld of them empty\n", path,
           (long long)v->rows, (long long)empty);
    printf("vocabulary            %lld\n", (long long)v->vocab);
    printf("terms a row           %.2f\n",
           v->rows > 0 ? (double)v->row_ptr[v->rows] / (double)v->rows : 0.0);
    if (v->quant.kind != CSP_QUANT_NONE) {
        printf("impacts               %s, %lld weights became 0, %lld were cut to %d\n",
               csp_quant_describe(&v->quant, quant, sizeof(quant)), (long long)v->counts.dropped,
               (long long)v->counts.clipped, CSP_IMPACT_MOST);
    }
    printf("meta                  %s\n", v->meta != NULL ? v->meta : "none");
    csp_vectors_free(v);
    return CSP_OK;
}

static csp_status info_hdf5(const char *path)
{
    csp_hdf5 *file = NULL;
    char *format = NULL;
    csp_status status;

    CSP_TRY(csp_hdf5_open(path, &file));
    CSP_TRY_GOTO(csp_hdf5_get_text(file, "/", "format", &format));
    if (strcmp(format, "csplade-checkpoint") == 0) {
        status = info_checkpoint(path, file);
    } else {
        csp_hdf5_close(file);
        file = NULL;
        status = info_vectors(path);
    }

fail:
    free(format);
    csp_hdf5_close(file);
    return status;
}

static csp_status run(const csp_arguments *args)
{
    const char *path = csp_args_positional(args, 0);
    const char *dot = strrchr(path, '.');

    CSP_TRY(csp_model_path_check(path));
    if (csp_file_is_dir(path)) {
        return info_folder(path);
    }
    if (dot != NULL && (strcmp(dot, ".h5") == 0 || strcmp(dot, ".hdf5") == 0)) {
        return info_hdf5(path);
    }
    return info_vectors(path);
}

const csp_command csp_cmd_info = {
    .name = "info",
    .summary = "what a model folder, a checkpoint or a file of vectors is",
    .options = NULL,
    .option_count = 0,
    .positional = "PATH",
    .details = NULL,
    .run = run,
};
