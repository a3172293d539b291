/* cmd_encode.c - csplade encode: texts to sparse vectors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/model_args.h"
#include "comm/launch.h"
#include "core/log.h"
#include "core/number.h"
#include "eval/encode_file.h"

static const csp_option options[] = {
    { .name = "model",
      .letter = 'm',
      .kind = CSP_OPTION_TEXT,
      .value = "DIR|CHECKPOINT",
      .required = true,
      .help = "a Hugging Face folder or a checkpoint of `csplade train`" },
    { .name = "input",
      .letter = 'i',
      .kind = CSP_OPTION_TEXT,
      .value = "FILE|BEIR-DIR",
      .required = true,
      .help = ".jsonl, .tsv, .txt (.gz too), or a BEIR folder, of which --side picks the file" },
    { .name = "output",
      .letter = 'o',
      .kind = CSP_OPTION_TEXT,
      .value = "FILE",
      .required = true,
      .help = ".h5, or .jsonl with {\"id\": ..., \"vector\": {\"<term id>\": weight}} lines" },
    { .name = "side",
      .kind = CSP_OPTION_ENUM,
      .value = "document|query",
      .standard = "document",
      .help = "which half of the contract applies" },
    { .name = "shard",
      .kind = CSP_OPTION_TEXT,
      .value = "I/N",
      .standard = "0/1",
      .help = "encode only part I of N of the input, counted from 0" },
    { .name = "quant",
      .kind = CSP_OPTION_TEXT,
      .value = "SCHEME",
      .standard = "none",
      .help = "round or ceil: integer impacts in place of weights, scaled as the contract says; "
              "round:SCALE and ceil:SCALE override it" },
    CSP_MODEL_OPTIONS,
};

static csp_status parse_quant(const char *text, csp_quant *out)
{
    CSP_TRY(csp_quant_parse(text, out));
    if (out->kind == CSP_QUANT_U8_MAX) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "--quant u8-max: needs the largest weight of the whole collection: encode "
                        "without --quant, and give u8-max to csplade export");
    }
    return CSP_OK;
}

static csp_status parse_shard(const char *text, int64_t *shard, int64_t *shards)
{
    const size_t first = strcspn(text, "/");
    char part[24];
    int64_t i, n;

    (void)snprintf(part, sizeof(part), "%.*s", (int)(first < sizeof(part) ? first : 0), text);
    if (!csp_parse_i64(part, &i) || text[first] == '\0' || !csp_parse_i64(text + first + 1, &n) ||
        n < 1 || n > 1000000 || i < 0 || i >= n) {
        return CSP_FAIL(CSP_ERR_CONFIG, "--shard %s: must be I/N with 0 <= I < N", text);
    }
    *shard = i;
    *shards = n;
    return CSP_OK;
}

/* Started by mpirun or its like each process would encode all of it, into the same file. */
static csp_status refuse_copies(const csp_arguments *args)
{
    csp_launch launch;

    if (csp_args_given(args, "shard") || csp_launch_find(&launch) != CSP_OK || launch.size == 1) {
        return CSP_OK; /* variables that say nothing clear are training's to judge */
    }
    return CSP_FAIL(CSP_ERR_CONFIG,
                    "encode: %s started %d processes, which would write the same file: give each a "
                    "part and an output of its own with --shard, this one %d/%d, and join the "
                    "outputs by csplade merge",
                    launch.by, launch.size, launch.rank, launch.size);
}

static void say(const csp_encoder *encoder, csp_side side, const csp_contract *contract,
                const csp_encode_file_report *r)
{
    char text[512];

    if (r->reused < r->rows) {
        csp_text_counts_say(csp_encoder_counts(encoder, side),
                            side == CSP_SIDE_QUERY ? "queries" : "documents",
                            csp_contract_max_len(contract, side), text, sizeof(text));
        csp_log(CSP_LOG_INFO, "encode", "%s", text);
    }
    if (r->reused > 0) {
        csp_log(CSP_LOG_INFO, "encode", "%lld of %lld texts were there from an earlier run",
                (long long)r->reused, (long long)r->rows);
    }
    if (r->quantised.dropped > 0) {
        csp_log(CSP_LOG_INFO, "encode", "%lld weights have an impact of 0 and are left out",
                (long long)r->quantised.dropped);
    }
    if (r->quantised.clipped > 0) {
        csp_log(CSP_LOG_WARN, "encode", "%lld impacts were above %d and are cut",
                (long long)r->quantised.clipped, CSP_IMPACT_MOST);
    }
    csp_log(CSP_LOG_INFO, "encode", "%.1f texts/s, %.0f token rows/s",
            r->seconds > 0.0 ? (double)(r->rows - r->reused) / r->seconds : 0.0,
            r->seconds > 0.0 ? (double)r->token_rows / r->seconds : 0.0);
}

static csp_status run(const csp_arguments *args)
{
    const bool query = strcmp(csp_args_text(args, "side"), "query") == 0;
    const csp_side side = query ? CSP_SIDE_QUERY : CSP_SIDE_PASSAGE;
    csp_encode_file_options o = { .input = csp_args_text(args, "input"),
                                  .output = csp_args_text(args, "output"),
                                  .side = side,
                                  .strict = csp_args_flag(args, "strict") };
    csp_encode_file_report report;
    csp_inference inference;
    csp_quant quant;
    csp_status status;

    CSP_TRY(refuse_copies(args));
    CSP_TRY(parse_shard(csp_args_text(args, "shard"), &o.shard, &o.shards));
    CSP_TRY(parse_quant(csp_args_text(args, "quant"), &quant));
    CSP_TRY(csp_inference_open(args, side, quant, &inference));
    o.quant = inference.quant;
    o.separator = inference.opened.contract.title_separator;
    o.meta = inference.meta;
    o.vocab = inference.opened.model->params->config.V;
    CSP_TRY_GOTO(csp_encode_file(inference.encoder, &o, &report));
    say(inference.encoder, side, &inference.opened.contract, &report);
    printf("rows %lld\nempty %lld\nmean_terms %.2f\n", (long long)report.rows,
           (long long)report.empty, report.mean_terms);

fail:
    csp_inference_close(&inference);
    return status;
}

const csp_command csp_cmd_encode = {
    .name = "encode",
    .summary = "texts to sparse vectors",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "",
    .details =
        "csplade encode --model runs/a/checkpoints/contrastive-00000500.h5 --input beir/ --output "
        "docs.h5\ncsplade encode --model DIR --side query --input beir/ --output queries.h5\n"
        "csplade encode --model DIR --quant round --input beir/ --output docs.h5\n\n"
        "A run that was killed goes on where it was when the same command is given again.",
    .run = run,
};
