/*
 * cmd_export.c - csplade export: models as folders of transformers and PEFT (export_model.c), and
 * encoded vectors as the files that index builders read.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/export_model.h"
#include "cli/tokenizer_args.h"
#include "core/log.h"
#include "export/vectors.h"

static const csp_option options[] = {
    { .name = "format",
      .letter = 'f',
      .kind = CSP_OPTION_ENUM,
      .value = "hf|peft|seismic|anserini|ciff",
      .required = true,
      .help = "of a model: a folder for transformers, or its adapter for PEFT; of vectors: JSON "
              "lines for Seismic and DuckDB, Anserini's JsonVectorCollection, or CIFF" },
    { .name = "output",
      .letter = 'o',
      .kind = CSP_OPTION_TEXT,
      .value = "DIR",
      .required = true,
      .help = "new folder for the files" },
    { .name = "model",
      .letter = 'm',
      .kind = CSP_OPTION_TEXT,
      .value = "DIR|CHECKPOINT",
      .help = "the model of hf and peft" },
    { .name = "dtype",
      .kind = CSP_OPTION_ENUM,
      .value = "f32|bf16|f16",
      .standard = "f32",
      .help = "hf: of the weights in the files" },
    { .name = "shard-bytes",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "0",
      .min = 0,
      .max = 1e15,
      .help = "hf: begin a new file at this size; 0 = one file" },
    { .name = "base",
      .kind = CSP_OPTION_TEXT,
      .value = "DIR|CHECKPOINT",
      .help = "of a LoRA checkpoint: its base model, where it is not at the recorded place" },
    { .name = "base-name",
      .kind = CSP_OPTION_TEXT,
      .value = "NAME",
      .help = "peft: what adapter_config.json calls the base model: a hub name or a path [the "
              "folder the adapter was trained on]" },
    { .name = "vectors",
      .kind = CSP_OPTION_LIST,
      .value = "FILE",
      .help = "vectors that csplade encode wrote; all shards of one collection, in order" },
    { .name = "side",
      .kind = CSP_OPTION_ENUM,
      .value = "document|query",
      .standard = "document",
      .help = "what the vectors are" },
    { .name = "target",
      .kind = CSP_OPTION_ENUM,
      .value = "any|bmp|seismic-u16",
      .standard = "any",
      .help = "a reader with narrower numbers than its format: what it would cut is refused" },
    { .name = "quant",
      .kind = CSP_OPTION_TEXT,
      .value = "SCHEME",
      .help =
          "none, round, ceil (scaled as the contract says; round:SCALE, ceil:SCALE) or u8-max; "
          "without it what vectors of encode --quant hold, or what the format's users do: none for "
          "seismic, u8-max for bmp, else round" },
    { .name = "term",
      .kind = CSP_OPTION_ENUM,
      .value = "id|token|text",
      .standard = "id",
      .help = "terms as decimal ids, as tokens of tokenizer.json, or as the text of those" },
    { .name = "tokenizer",
      .kind = CSP_OPTION_TEXT,
      .value = "PATH",
      .help = "folder with tokenizer.json, that file, or a checkpoint, for --term token and text" },
    { .name = "shards",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "1",
      .min = 1,
      .max = 100000,
      .help = "files of an anserini collection" },
};

/* Where a term's key comes from; text holds the last one. */
typedef struct key_source {
    const csp_tokenizer *tokenizer;
    bool as_text;
    char *text;
} key_source;

static csp_status term_key(void *context, int32_t term, const char **key)
{
    key_source *source = context;
    const char *token = csp_tokenizer_token(source->tokenizer, term);
    char *text = NULL;
    int64_t bytes = 0;

    if (token == NULL) {
        return CSP_FAIL(CSP_ERR_DATA, "export: the tokenizer has no token for term %d", term);
    }
    if (!source->as_text) {
        *key = token;
        return CSP_OK;
    }
    CSP_TRY(csp_tokenizer_decode(source->tokenizer, &term, 1, &text, &bytes));
    free(source->text);
    source->text = text;
    if ((int64_t)strlen(text) != bytes) {
        return CSP_FAIL(CSP_ERR_DATA, "export: the text of term %d holds a NUL byte", term);
    }
    *key = text;
    return CSP_OK;
}

static csp_status read_options(const csp_arguments *args, csp_export_options *out)
{
    const char *quant = csp_args_text(args, "quant");

    CSP_TRY(csp_export_format_parse(csp_args_text(args, "format"), &out->format));
    CSP_TRY(csp_export_target_parse(csp_args_text(args, "target"), &out->target));
    out->queries = strcmp(csp_args_text(args, "side"), "query") == 0;
    out->quant = csp_export_default_quant(out->format, out->target);
    out->quant_is_default = quant == NULL;
    if (quant != NULL) {
        CSP_TRY(csp_quant_parse(quant, &out->quant));
    }
    out->key_kind = csp_args_text(args, "term");
    out->shards = csp_args_i64(args, "shards");
    if (out->format != CSP_EXPORT_ANSERINI && csp_args_given(args, "shards")) {
        return CSP_FAIL(CSP_ERR_CONFIG, "export: --shards belongs to --format anserini");
    }
    return CSP_OK;
}

static void report(const csp_export_report *r, const char *dir)
{
    csp_log(CSP_LOG_INFO, "export",
            "%lld rows (%lld empty), %lld postings, %lld distinct terms in %s", (long long)r->rows,
            (long long)r->empty_rows, (long long)r->postings, (long long)r->distinct, dir);
    if (r->dropped > 0) {
        csp_log(CSP_LOG_INFO, "export", "%lld weights became 0 times scale %.9g and are left out",
                (long long)r->dropped, r->scale);
    }
    if (r->clipped > 0) {
        csp_log(CSP_LOG_WARN, "export", "%lld impacts were above what the target holds and are cut",
                (long long)r->clipped);
    }
}

/* Refuses options of the other kind of export: they would be without effect. */
static csp_status check_kind(const csp_arguments *args)
{
    static const char *const of_models[] = { "model", "dtype", "shard-bytes", "base", "base-name" };
    static const char *const of_vectors[] = { "vectors", "side",      "target", "quant",
                                              "term",    "tokenizer", "shards" };
    static const char *const of_hf[] = { "dtype", "shard-bytes" };
    const char *format = csp_args_text(args, "format");
    const bool model = csp_export_is_model(args);
    const char *const *others = model ? of_vectors : of_models;
    const int count = model ? CSP_COUNT(of_vectors) : CSP_COUNT(of_models);

    for (int i = 0; i < count; i++) {
        if (csp_args_given(args, others[i])) {
            return CSP_FAIL(CSP_ERR_CONFIG, "export: --%s does not belong to --format %s",
                            others[i], format);
        }
    }
    for (int i = 0; strcmp(format, "peft") == 0 && i < CSP_COUNT(of_hf); i++) {
        if (csp_args_given(args, of_hf[i])) {
            return CSP_FAIL(CSP_ERR_CONFIG,
                            "export: --%s does not belong to --format peft: an adapter is one file "
                            "in f32",
                            of_hf[i]);
        }
    }
    if (strcmp(format, "hf") == 0 && csp_args_given(args, "base-name")) {
        return CSP_FAIL(CSP_ERR_CONFIG, "export: --base-name belongs to --format peft");
    }
    return CSP_OK;
}

static csp_status export_vectors(const csp_arguments *args)
{
    const int paths = csp_args_list_count(args, "vectors");
    const bool needs_tokenizer = strcmp(csp_args_text(args, "term"), "id") != 0;
    csp_export_options how = { .shards = 1 };
    csp_export_report written = { 0 };
    csp_tokenizer *tokenizer = NULL;
    key_source keys = { NULL, false, NULL };
    const char **path = NULL;
    csp_status status;

    CSP_TRY(read_options(args, &how));
    if (paths == 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "export: --vectors FILE is required");
    }
    if (needs_tokenizer != csp_args_given(args, "tokenizer")) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        needs_tokenizer ? "export: --term token and text need --tokenizer PATH"
                                        : "export: --tokenizer belongs to --term token or text");
    }
    path = calloc((size_t)paths, sizeof(*path));
    if (path == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "export: no memory for %d paths", paths);
    }
    for (int i = 0; i < paths; i++) {
        path[i] = csp_args_list_at(args, "vectors", i);
    }
    if (needs_tokenizer) {
        CSP_TRY_GOTO(csp_tokenizer_of(csp_args_text(args, "tokenizer"), &tokenizer));
        keys = (key_source) { tokenizer, strcmp(how.key_kind, "text") == 0, NULL };
        how.key = term_key;
        how.key_context = &keys;
    }
    CSP_TRY_GOTO(csp_export_vectors(path, paths, &how, csp_args_text(args, "output"), &written));
    report(&written, csp_args_text(args, "output"));

fail:
    csp_tokenizer_close(tokenizer);
    free(keys.text);
    free((void *)path);
    return status;
}

static csp_status run(const csp_arguments *args)
{
    CSP_TRY(check_kind(args));
    return csp_export_is_model(args) ? csp_export_model(args) : export_vectors(args);
}

const csp_command csp_cmd_export = {
    .name = "export",
    .summary = "models for transformers and PEFT; vectors for other search engines",
    .options = options,
    .option_count = CSP_COUNT(options),
    .details =
        "hf: config.json, model.safetensors (an adapter is added to the weights), tokenizer.json\n"
        "and csplade.json, the text contract. peft: the adapter alone. Of vectors: the format's "
        "own\n"
        "files, token_to_id_mapping.json and manifest.json with counts, quantisation and "
        "checksums.\n\n"
        "csplade export --model contrastive-00000500.h5 --format hf --dtype bf16 --output hf/\n"
        "csplade export --vectors docs.h5 --format ciff --output ciff/\n"
        "csplade export --vectors docs.h5 --format ciff --target bmp --output bmp/\n"
        "csplade export --vectors queries.h5 --side query --format anserini --output topics/",
    .run = run,
};
