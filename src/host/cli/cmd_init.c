/* cmd_init.c - csplade init: a model of a given shape with random weights, for Hugging Face too. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "core/memory.h"
#include "data/tokenizer.h"
#include "export/huggingface.h"
#include "io/contract.h"

static const csp_option options[] = {
    { .name = "tokenizer",
      .kind = CSP_OPTION_TEXT,
      .value = "DIR|FILE",
      .required = true,
      .help = "tokenizer.json, copied byte for byte; sets the vocabulary's size" },
    { .name = "output",
      .letter = 'o',
      .kind = CSP_OPTION_TEXT,
      .value = "DIR",
      .required = true,
      .help = "the new folder" },
    { .name = "family",
      .kind = CSP_OPTION_ENUM,
      .value = "llama|mistral|qwen2|qwen3",
      .standard = "llama",
      .help = "model_type" },
    { .name = "hidden",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "128",
      .min = 2,
      .max = 1 << 20,
      .help = "hidden_size" },
    { .name = "layers",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "2",
      .min = 1,
      .max = 10000,
      .help = "num_hidden_layers" },
    { .name = "heads",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "4",
      .min = 1,
      .max = 65536,
      .help = "num_attention_heads" },
    { .name = "kv-heads",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "0",
      .min = 0,
      .max = 65536,
      .help = "num_key_value_heads; 0 = as heads" },
    { .name = "intermediate",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "0",
      .min = 0,
      .max = 1 << 22,
      .help = "intermediate_size; 0 = 4 x hidden" },
    { .name = "max-position",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "512",
      .min = 2,
      .max = 1 << 24,
      .help = "max_position_embeddings" },
    { .name = "vocab-size",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "0",
      .min = 0,
      .max = 1 << 28,
      .help = "rows of the vocabulary matrix; 0 = as the tokenizer" },
    { .name = "rope-theta",
      .kind = CSP_OPTION_F64,
      .value = "X",
      .standard = "10000",
      .min = 1,
      .max = 1e12,
      .help = "base of the rotary frequencies" },
    { .name = "initializer-range",
      .kind = CSP_OPTION_F64,
      .value = "X",
      .standard = "0.02",
      .min = 1e-6,
      .max = 10,
      .help = "standard deviation of the weights" },
    { .name = "logit-offset",
      .kind = CSP_OPTION_F64,
      .value = "X",
      .standard = "0",
      .min = 0,
      .max = 100,
      .help =
          "subtract about X from every logit at the start, through one channel of the embedding "
          "and of the final norm; tied models only" },
    { .name = "residual-scale",
      .kind = CSP_OPTION_F64,
      .value = "X",
      .standard = "1",
      .min = 0,
      .max = 1,
      .help =
          "multiplies the initial o_proj and down_proj; 0: every block begins as the identity, so "
          "that a model begins as its embedding" },
    { .name = "untied",
      .kind = CSP_OPTION_FLAG,
      .help = "a vocabulary matrix of its own in place of the embedding" },
    { .name = "seed",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "42",
      .min = 0,
      .max = 1e15,
      .help = "of the random weights" },
};

static csp_status shape_of(const csp_arguments *args, const csp_tokenizer *tokenizer,
                           csp_model_config *out)
{
    csp_family family;
    csp_model_config c;
    const int64_t words = csp_tokenizer_vocab_size(tokenizer);
    const int32_t bos = csp_tokenizer_id(tokenizer, "<|begin_of_text|>");
    const int32_t eos = csp_tokenizer_id(tokenizer, "<|end_of_text|>");

    CSP_TRY(csp_family_from_name(csp_args_text(args, "family"), &family));
    c = csp_model_config_standard(family);
    c.D = csp_args_i64(args, "hidden");
    c.L = csp_args_i64(args, "layers");
    c.H = csp_args_i64(args, "heads");
    c.G = csp_args_i64(args, "kv-heads") > 0 ? csp_args_i64(args, "kv-heads") : c.H;
    c.E = c.D / c.H;
    c.F = csp_args_i64(args, "intermediate") > 0 ? csp_args_i64(args, "intermediate") : 4 * c.D;
    c.V = csp_args_i64(args, "vocab-size") > 0 ? csp_args_i64(args, "vocab-size") : words;
    c.rms_eps = 1e-5;
    c.rope.theta = csp_args_f64(args, "rope-theta");
    c.max_position = csp_args_i64(args, "max-position");
    c.sliding_window = 0;
    c.initializer_range = csp_args_f64(args, "initializer-range");
    c.tied = !csp_args_flag(args, "untied");
    c.bos_id = bos;
    c.pad_id = -1;
    c.eos_count = eos >= 0 ? 1 : 0;
    c.eos_id[0] = eos;
    if (c.V < words) {
        return CSP_FAIL(CSP_ERR_CONFIG, "--vocab-size %lld: the tokenizer has %lld ids",
                        (long long)c.V, (long long)words);
    }
    if (csp_model_config_check(&c, "init") != CSP_OK) {
        return CSP_ERR_CONFIG; /* the text stands; the command line is at fault, not a file */
    }
    *out = c;
    return CSP_OK;
}

/* The standard lengths, where the model has positions for them. */
static void shorten(csp_contract *contract, int64_t positions)
{
    if (contract->query_max_len > positions) {
        contract->query_max_len = (int32_t)positions;
    }
    if (contract->passage_max_len > positions) {
        contract->passage_max_len = (int32_t)positions;
    }
}

/*
 * Puts a constant into every initial logit. Random logits are noise around 0, and the maximum over
 * a text's positions makes nearly every term weakly active: scores are then thousands of products
 * of noise. With channel 0 of every embedding at b, and the final norm's gain there at -1,
 *
 *     h_0 = -b / rms,  rms = sqrt((D s^2 + b^2) / D);   every logit gets  h_0 b = -b^2 / rms = -X
 *
 * solved for b^2, s being the embedding's standard deviation. Both are ordinary weights and trained
 * like the others.
 */
static csp_status offset_logits(csp_backend *be, csp_model *model, double X)
{
    const csp_model_config *c = &model->params->config;
    const double D = (double)c->D, s = c->initializer_range;
    const double square = (X * X / D + sqrt(X * X * X * X / (D * D) + 4.0 * X * X * s * s)) / 2.0;
    csp_tensor *embed = &model->params->embed->value, *norm = &model->params->final_norm->value;
    float *values = NULL;
    csp_status status;

    if (!c->tied) {
        return CSP_FAIL(CSP_ERR_CONFIG, "--logit-offset and --untied exclude each other");
    }
    CSP_TRY(csp_alloc("init", c->V * c->D, sizeof(*values), &values));
    CSP_TRY_GOTO(csp_backend_download(be, embed, values));
    for (int64_t v = 0; v < c->V; v++) {
        values[v * c->D] = (float)sqrt(square);
    }
    CSP_TRY_GOTO(csp_backend_upload(be, values, embed));
    CSP_TRY_GOTO(csp_backend_download(be, norm, values));
    values[0] = -1.0f;
    status = csp_backend_upload(be, values, norm);

fail:
    free(values);
    return status;
}

/* Multiplies the two matrices of every block that write into the residual stream. */
static csp_status scale_residuals(csp_backend *be, csp_model *model, double X)
{
    float *values = NULL;
    csp_status status = CSP_OK;

    for (int64_t i = 0; i < model->params->count; i++) {
        csp_param *row = &model->params->rows[i];
        const int64_t count = csp_tensor_count(&row->value);

        if (row->kind != CSP_PARAM_WEIGHT ||
            (row->matrix != CSP_MATRIX_O && row->matrix != CSP_MATRIX_DOWN)) {
            continue;
        }
        CSP_TRY_GOTO(csp_realloc("init", count, sizeof(*values), &values));
        CSP_TRY_GOTO(csp_backend_download(be, &row->value, values));
        for (int64_t j = 0; j < count; j++) {
            values[j] = (float)(X * (double)values[j]);
        }
        CSP_TRY_GOTO(csp_backend_upload(be, values, &row->value));
    }

fail:
    free(values);
    return status;
}

static csp_status run(const csp_arguments *args)
{
    csp_model_options m = { .train = CSP_TRAIN_NONE, .max_len = 1 };
    csp_model_config config;
    csp_contract contract = { 0 };
    csp_backend *be = NULL;
    csp_tokenizer *tokenizer = NULL;
    csp_model *model = NULL;
    csp_huggingface e = { .dtype = CSP_F32 };
    int64_t all;
    csp_status status;

    CSP_TRY_GOTO(csp_tokenizer_open(csp_args_text(args, "tokenizer"), &tokenizer));
    CSP_TRY_GOTO(shape_of(args, tokenizer, &config));
    CSP_TRY_GOTO(csp_backend_create("cpu", 0, &be));
    m.config = &config;
    m.seed = (uint64_t)csp_args_i64(args, "seed");
    CSP_TRY_GOTO(csp_model_create(be, &m, &model));
    if (csp_args_f64(args, "residual-scale") < 1.0) {
        CSP_TRY_GOTO(scale_residuals(be, model, csp_args_f64(args, "residual-scale")));
    }
    if (csp_args_f64(args, "logit-offset") > 0.0) {
        CSP_TRY_GOTO(offset_logits(be, model, csp_args_f64(args, "logit-offset")));
    }
    CSP_TRY_GOTO(csp_contract_init(&contract));
    shorten(&contract, config.max_position);
    e.model = model;
    e.contract = &contract;
    e.tokenizer = csp_tokenizer_source(tokenizer, &e.tokenizer_bytes);
    CSP_TRY_GOTO(csp_export_huggingface(&e, csp_args_text(args, "output")));
    csp_params_elements(model->params, &all, NULL);
    printf("%s: %lld parameters, vocabulary of %lld\n", csp_args_text(args, "output"),
           (long long)all, (long long)config.V);

fail:
    csp_contract_clear(&contract);
    csp_model_destroy(model);
    csp_tokenizer_close(tokenizer);
    csp_backend_destroy(be);
    return status;
}

const csp_command csp_cmd_init = {
    .name = "init",
    .summary = "a model of a given shape with random weights",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "",
    .details = "csplade init --tokenizer tok/ --hidden 256 --layers 6 --heads 8 --output tiny/",
    .run = run,
};
