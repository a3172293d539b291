/* model_args.c - a model, its tokenizer and an encoder from a command line. */
#include "cli/model_args.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/log.h"
#include "core/memory.h"
#include "core/printable.h"
#include "model/precision.h"

/* Puts the overrides into the contract. */
static csp_status override_contract(const csp_arguments *args, csp_side side, csp_contract *c)
{
    if (csp_args_given(args, "variant")) {
        CSP_TRY(csp_variant_parse(csp_args_text(args, "variant"), &c->variant));
    }
    if (csp_args_given(args, "max-len")) {
        const int32_t length = (int32_t)csp_args_i64(args, "max-len");

        *(side == CSP_SIDE_QUERY ? &c->query_max_len : &c->passage_max_len) = length;
    }
    if (csp_args_given(args, "prefix")) {
        CSP_TRY(
            csp_contract_set_text(side == CSP_SIDE_QUERY ? &c->query_prefix : &c->passage_prefix,
                                  csp_args_text(args, "prefix")));
    }
    return csp_contract_check(c, "command line");
}

/* An override is said aloud: vectors of two contracts do not fit together. */
static void say_overrides(const csp_arguments *args)
{
    static const struct {
        const char *option, *what;
    } rows[] = { { "variant", "variant" }, { "max-len", "longest text" }, { "prefix", "prefix" } };

    for (int i = 0; i < CSP_COUNT(rows); i++) {
        if (csp_args_given(args, rows[i].option)) {
            csp_log(CSP_LOG_WARN, "model", "the contract's %s is overridden by --%s", rows[i].what,
                    rows[i].option);
        }
    }
}

/* The scale that is not named is the contract's. */
static void settle_quant(const csp_contract *contract, csp_quant *quant)
{
    char text[48];

    csp_quant_settle(quant, contract->quant_scale);
    if (quant->kind != CSP_QUANT_NONE && quant->scale != contract->quant_scale) {
        csp_log(CSP_LOG_WARN, "model",
                "the contract's scale of impacts, %.9g, is overridden by --quant %s",
                contract->quant_scale, csp_quant_describe(quant, text, sizeof(text)));
    }
}

/* Rows of the longest text under the overrides, before the model is opened; 0 = no override. */
static csp_status rows_for(const csp_arguments *args, csp_side side, int64_t *rows)
{
    csp_contract contract = { 0 };
    csp_status status;

    *rows = 0;
    if (!csp_args_given(args, "max-len") && !csp_args_given(args, "variant")) {
        return CSP_OK;
    }
    CSP_TRY(csp_snapshot_contract(csp_args_text(args, "model"), &contract));
    CSP_TRY_GOTO(override_contract(args, side, &contract));
    /* The other side is not encoded. */
    *(side == CSP_SIDE_QUERY ? &contract.passage_max_len : &contract.query_max_len) = 1;
    *rows = csp_contract_rows(&contract);

fail:
    csp_contract_clear(&contract);
    return status;
}

static csp_status make_meta(const csp_arguments *args, csp_side side, const csp_inference *inf,
                            char **out)
{
    const int64_t cut = csp_args_i64(args, "top-k");
    char hash[CSP_HASH_TEXT_BYTES];
    char *contract = NULL, *path = NULL;
    json_t *meta = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_snapshot_hash(inf->opened.model, true, hash));
    CSP_TRY_GOTO(csp_contract_to_json(&inf->opened.contract, &contract));
    CSP_TRY_GOTO(csp_strdup("encode", csp_args_text(args, "model"), &path));
    csp_make_printable(path); /* a path need not be UTF-8, which a JSON string must be */
    meta = json_pack("{s:s, s:s, s:s, s:I, s:I, s:o}", "model", path, "model_hash", hash, "side",
                     side == CSP_SIDE_QUERY ? "query" : "document", "vocab_size",
                     (json_int_t)inf->opened.model->params->config.V, "top_k",
                     (json_int_t)(cut >= 0 ? cut : csp_contract_top_k(&inf->opened.contract, side)),
                     "contract", json_loads(contract, 0, NULL));
    *out = meta != NULL ? json_dumps(meta, JSON_COMPACT) : NULL;
    status = *out != NULL ? CSP_OK : CSP_FAIL(CSP_ERR_MEMORY, "encode: no memory for the manifest");

fail:
    json_decref(meta);
    free(contract);
    free(path);
    return status;
}

csp_status csp_device_open(const csp_arguments *args, csp_backend **be, csp_dtype *dtype)
{
    csp_backend *opened;
    csp_status status;

    CSP_TRY(csp_backend_create(csp_args_text(args, "device"), (int)csp_args_i64(args, "threads"),
                               &opened));
    status =
        csp_precision_choose(opened, csp_precision_named(csp_args_text(args, "precision")), dtype);
    if (status != CSP_OK) {
        csp_backend_destroy(opened);
        return status;
    }
    *be = opened;
    return CSP_OK;
}

csp_status csp_inference_open(const csp_arguments *args, csp_side side, csp_quant quant,
                              csp_inference *out)
{
    csp_open_options open = { .train = CSP_TRAIN_NONE, .base = csp_args_text(args, "base") };
    csp_encoder_options options = { .max_rows = csp_args_i64(args, "micro-batch-tokens"),
                                    .top_k = csp_args_i64(args, "top-k"),
                                    .strict = csp_args_flag(args, "strict"),
                                    .quant = quant };
    csp_inference *inf = out; /* filled in place: the encoder keeps the contract's address */
    char where[512];
    csp_status status;

    memset(inf, 0, sizeof(*inf));
    CSP_TRY_GOTO(csp_device_open(args, &inf->be, &open.storage.dtype));
    CSP_TRY_GOTO(rows_for(args, side, &open.max_len));
    CSP_TRY_GOTO(csp_snapshot_open(inf->be, csp_args_text(args, "model"), &open, &inf->opened));
    say_overrides(args);
    CSP_TRY_GOTO(override_contract(args, side, &inf->opened.contract));
    settle_quant(&inf->opened.contract, &options.quant);
    inf->quant = options.quant;
    (void)snprintf(where, sizeof(where), "%s: tokenizer.json", csp_args_text(args, "model"));
    CSP_TRY_GOTO(csp_tokenizer_from_text(inf->opened.tokenizer, inf->opened.tokenizer_bytes, where,
                                         &inf->tokenizer));
    if (csp_tokenizer_vocab_size(inf->tokenizer) > inf->opened.model->params->config.V) {
        status = CSP_FAIL(
            CSP_ERR_DATA, "%s: its tokenizer has ids up to %lld, the model's vocab_size is %lld",
            csp_args_text(args, "model"), (long long)csp_tokenizer_vocab_size(inf->tokenizer) - 1,
            (long long)inf->opened.model->params->config.V);
        goto fail;
    }
    CSP_TRY_GOTO(csp_encoder_create(inf->be, inf->opened.model, &inf->opened.contract,
                                    inf->tokenizer, &options, &inf->encoder));
    CSP_TRY_GOTO(make_meta(args, side, inf, &inf->meta));
    return CSP_OK;

fail:
    csp_inference_close(inf);
    return status;
}

void csp_inference_close(csp_inference *inf)
{
    csp_encoder_destroy(inf->encoder);
    csp_tokenizer_close(inf->tokenizer);
    csp_opened_clear(&inf->opened);
    csp_backend_destroy(inf->be);
    free(inf->meta);
    memset(inf, 0, sizeof(*inf));
}
