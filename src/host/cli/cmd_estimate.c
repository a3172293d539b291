/*
 * cmd_estimate.c - csplade estimate: what a training run would take, before anything is allocated.
 *
 * The numbers come from the code that will place the tensors, run on arenas without memory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/config_args.h"
#include "cli/option_rows.h"
#include "core/machine.h"
#include "io/contract.h"
#include "io/file.h"
#include "model/transformer.h"

static const csp_option options[] = {
    { .name = "set", .kind = CSP_OPTION_LIST, .value = "KEY=VALUE", .help = "override a setting" },
    { .name = "model-config",
      .kind = CSP_OPTION_TEXT,
      .value = "FILE",
      .help = "a config.json, where model.path is not on this machine" },
    CSP_OPTION_ROW_FORM,
};

/* All in bytes but the counts. */
typedef struct estimate {
    int64_t parameters, trained;
    size_t weights, gradients, moments, model;
    int64_t rows;       /* of a micro-batch        */
    size_t activations; /* of one micro-batch      */
    size_t step_kept;   /* of a whole step, kept   */
    size_t sparse;      /* sparse rows, worst case */
    int64_t checkpoint;
    int64_t available;
} estimate;

static csp_status read_shape(const csp_arguments *args, const csp_config *config,
                             csp_model_config *shape)
{
    char *path = NULL;
    csp_status status;

    if (csp_args_given(args, "model-config")) {
        return csp_model_config_read(csp_args_text(args, "model-config"), shape);
    }
    if (config->model.path == NULL) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "estimate: model.path is not set; --model-config FILE names "
                        "a config.json");
    }
    CSP_TRY(csp_file_join(config->model.path, "config.json", &path));
    status = csp_model_config_read(path, shape);
    free(path);
    return status;
}

static csp_status make_params(const csp_config *config, const csp_model_config *shape,
                              csp_params **out)
{
    csp_lora lora;

    CSP_TRY(csp_lora_from_settings(&config->lora, &lora));
    return csp_params_create(shape, &lora, lora.R > 0 ? CSP_TRAIN_LORA : CSP_TRAIN_FULL,
                             (csp_storage) { 0 }, out);
}

static void count_bytes(const csp_params *params, estimate *e)
{
    for (int64_t i = 0; i < params->count; i++) {
        const size_t bytes = csp_tensor_bytes(&params->rows[i].value);

        e->weights += bytes;
        if (params->rows[i].trained) {
            e->gradients += bytes;
            e->moments += 2 * bytes;
        }
        if (csp_param_is_lora(&params->rows[i]) == (params->lora.R > 0)) {
            e->checkpoint += (int64_t)bytes;
        }
        e->checkpoint += params->rows[i].trained ? 2 * (int64_t)bytes : 0;
    }
}

static csp_status fill(const csp_config *config, const csp_params *params, estimate *e)
{
    const int64_t Q = config->contrastive.batch.queries;
    const int64_t P = Q * config->data.train_group_size;
    const csp_contract contract = { .variant = (csp_variant)config->model.variant,
                                    .query_max_len = (int32_t)config->model.query_max_len,
                                    .passage_max_len = (int32_t)config->model.passage_max_len,
                                    .add_bos = config->model.add_bos,
                                    .append_eos = config->model.append_eos };
    const int64_t query = csp_contract_side_rows(&contract, CSP_SIDE_QUERY);
    const int64_t passage = csp_contract_side_rows(&contract, CSP_SIDE_PASSAGE);
    const csp_keep keep = config->contrastive.batch.recompute ? CSP_KEEP_INPUTS : CSP_KEEP_ALL;
    const int64_t longest = csp_contract_rows(&contract);

    csp_params_elements(params, &e->parameters, &e->trained);
    count_bytes(params, e);
    CSP_TRY(csp_model_bytes(params, longest, &e->model));
    e->rows = config->contrastive.batch.micro_batch_tokens > 0
                  ? config->contrastive.batch.micro_batch_tokens
                  : 4096;
    if (e->rows < longest) {
        e->rows = longest;
    }
    CSP_TRY(csp_run_bytes(params, e->rows, keep, &e->activations));
    e->step_kept =
        (size_t)((double)e->activations * (double)(Q * query + P * passage) / (double)e->rows);
    /* term, weight, argmax, gradient: 16 bytes for every term of every text, if all were active. */
    e->sparse = (size_t)(Q + P) * (size_t)params->config.V * 16;
    e->available = csp_machine_available_bytes();
    return CSP_OK;
}

static double mb(size_t bytes)
{
    return (double)bytes / 1048576.0;
}

static void print_text(const estimate *e, size_t least)
{
    printf("parameters            %12lld   trained %lld\n", (long long)e->parameters,
           (long long)e->trained);
    printf("weights               %12.1f MB\n", mb(e->weights));
    printf("gradients             %12.1f MB\n", mb(e->gradients));
    printf("optimizer moments     %12.1f MB\n", mb(e->moments));
    printf("activations           %12.1f MB   one micro-batch of %lld token rows\n",
           mb(e->activations), (long long)e->rows);
    printf("  of a whole step     %12.1f MB   kept as far as half of free memory goes, the rest is "
           "computed again\n",
           mb(e->step_kept));
    printf("sparse rows           %12.1f MB   if every term of every text were active\n",
           mb(e->sparse));
    printf("least to run          %12.1f MB\n", mb(least));
    printf("this machine has free %12.1f MB\n", mb((size_t)e->available));
    printf("one checkpoint        %12.1f MB on disk\n", mb((size_t)e->checkpoint));
}

static void print_json(const estimate *e, size_t least)
{
    printf("{\"parameters\":%lld,\"trained\":%lld,\"weights_bytes\":%zu,\"gradient_bytes\":%zu,"
           "\"moment_bytes\":%zu,\"micro_batch_tokens\":%lld,\"activation_bytes\":%zu,"
           "\"step_activation_bytes\":%zu,\"sparse_bytes\":%zu,\"least_bytes\":%zu,"
           "\"available_bytes\":%lld,\"checkpoint_bytes\":%lld}\n",
           (long long)e->parameters, (long long)e->trained, e->weights, e->gradients, e->moments,
           (long long)e->rows, e->activations, e->step_kept, e->sparse, least,
           (long long)e->available, (long long)e->checkpoint);
}

static csp_status run(const csp_arguments *args)
{
    csp_config *config = NULL;
    csp_params *params = NULL;
    csp_model_config shape;
    estimate e = { 0 };
    size_t least;
    csp_status status;

    CSP_TRY(csp_config_from_args(args, 0, NULL, 0, &config));
    CSP_TRY_GOTO(read_shape(args, config, &shape));
    CSP_TRY_GOTO(make_params(config, &shape, &params));
    CSP_TRY_GOTO(fill(config, params, &e));
    least = e.model + e.activations;
    if (strcmp(csp_args_text(args, "format"), "json") == 0) {
        print_json(&e, least);
    } else {
        print_text(&e, least);
    }
    if ((int64_t)least > e.available) {
        status = CSP_FAIL(CSP_ERR_MEMORY,
                          "this run needs at least %.0f MB, the machine has %.0f MB free",
                          mb(least), mb((size_t)e.available));
    }

fail:
    csp_params_destroy(params);
    csp_config_free(config);
    return status;
}

const csp_command csp_cmd_estimate = {
    .name = "estimate",
    .summary = "memory and disk a training run would take, before anything is allocated",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "CONFIG [KEY=VALUE...]",
    .details = "csplade estimate configs/llama-3.1-8b.yaml --model-config config.json\n\n"
               "Ends with exit code 5 when the run does not fit this machine.",
    .run = run,
};
