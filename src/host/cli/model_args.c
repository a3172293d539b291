/* model_args.c - a model, its tokenizer and an encoder from a command line. */
#include "cli/model_args.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/log.h"

/* Puts the overrides into the contract, each with a warning. */
static csp_status override_contract(const csp_arguments *args, csp_side side, csp_contract *c)
{
    if (csp_args_given(args, "variant")) {
        CSP_TRY(csp_variant_parse(csp_args_text(args, "variant"), &c->variant));
        csp_log(CSP_LOG_WARN, "model", "the contract's variant is overridden: %s",
                csp_variant_name(c->variant));
    }
    if (csp_args_given(args, "max-len")) {
        const int32_t length = (int32_t)csp_args_i64(args, "max-len");

        *(side == CSP_SIDE_QUERY ? &c->query_max_len : &c->passage_max_len) = length;
        csp_log(CSP_LOG_WARN, "model", "the contract's longest text is overridden: %d tokens",
                (int)length);
    }
    if (csp_args_given(args, "prefix")) {
        CSP_TRY(
            csp_contract_set_text(side == CSP_SIDE_QUERY ? &c->query_prefix : &c->passage_prefix,
                                  csp_args_text(args, "prefix")));
        csp_log(CSP_LOG_WARN, "model", "the contract's prefix is overridden: \"%s\"",
                csp_args_text(args, "prefix"));
    }
    return csp_contract_check(c, "command line");
}

/* Rows that overrides may ask for, before the model is opened; 0 = as the contract says. */
static int64_t rows_for(const csp_arguments *args)
{
    return csp_args_given(args, "max-len") ? 2 * csp_args_i64(args, "max-len") + 3 : 0;
}

static csp_status make_meta(const csp_arguments *args, csp_side side, const csp_inference *inf,
                            char **out)
{
    const int64_t cut = csp_args_i64(args, "top-k");
    char hash[CSP_HASH_TEXT_BYTES];
    char *contract = NULL;
    json_t *meta = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_snapshot_hash(inf->opened.model, true, hash));
    CSP_TRY_GOTO(csp_contract_to_json(&inf->opened.contract, &contract));
    meta = json_pack("{s:s, s:s, s:s, s:I, s:I, s:o}", "model", csp_args_text(args, "model"),
                     "model_hash", hash, "side", side == CSP_SIDE_QUERY ? "query" : "document",
                     "vocab_size", (json_int_t)inf->opened.model->params->config.V, "top_k",
                     (json_int_t)(cut >= 0 ? cut : csp_contract_top_k(&inf->opened.contract, side)),
                     "contract", json_loads(contract, 0, NULL));
    *out = meta != NULL ? json_dumps(meta, JSON_COMPACT) : NULL;
    status = *out != NULL ? CSP_OK : CSP_FAIL(CSP_ERR_MEMORY, "encode: no memory for the manifest");

fail:
    json_decref(meta);
    free(contract);
    return status;
}

csp_status csp_inference_open(const csp_arguments *args, csp_side side, csp_inference *out)
{
    const csp_open_options open = { .train = CSP_TRAIN_NONE,
                                    .base = csp_args_text(args, "base"),
                                    .max_len = rows_for(args) };
    const csp_encoder_options options = { .max_rows = csp_args_i64(args, "micro-batch-tokens"),
                                          .top_k = csp_args_i64(args, "top-k"),
                                          .strict = csp_args_flag(args, "strict") };
    csp_inference *inf = out; /* filled in place: the encoder keeps the contract's address */
    csp_status status;

    memset(inf, 0, sizeof(*inf));
    CSP_TRY_GOTO(csp_backend_create(csp_args_text(args, "device"),
                                    (int)csp_args_i64(args, "threads"), &inf->be));
    CSP_TRY_GOTO(csp_snapshot_open(inf->be, csp_args_text(args, "model"), &open, &inf->opened));
    CSP_TRY_GOTO(override_contract(args, side, &inf->opened.contract));
    CSP_TRY_GOTO(csp_tokenizer_from_text(inf->opened.tokenizer, inf->opened.tokenizer_bytes,
                                         "tokenizer.json", &inf->tokenizer));
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
