/*
 * cmd_search.c - csplade search: exact search with encoded queries or texts over encoded documents.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/model_args.h"
#include "cli/search_print.h"
#include "core/log.h"
#include "core/memory.h"
#include "eval/encode.h"
#include "eval/search.h"
#include "model/snapshot.h"

enum { DEPTH_RUN = 1000, DEPTH_PEOPLE = 10 };

static const csp_option options[] = {
    { .name = "index",
      .letter = 'i',
      .kind = CSP_OPTION_LIST,
      .value = "FILE",
      .help = "document vectors that csplade encode wrote; all shards of one collection" },
    { .name = "queries",
      .kind = CSP_OPTION_TEXT,
      .value = "FILE",
      .help = "query vectors that csplade encode wrote" },
    { .name = "model",
      .letter = 'm',
      .kind = CSP_OPTION_TEXT,
      .value = "PATH",
      .help = "folder or checkpoint that encodes the query texts" },
    { .name = "base",
      .kind = CSP_OPTION_TEXT,
      .value = "DIR",
      .help = "base model of a checkpoint with adapters, where it is not at its recorded place" },
    { .name = "query", .kind = CSP_OPTION_LIST, .value = "TEXT", .help = "a query to encode" },
    { .name = "output",
      .letter = 'o',
      .kind = CSP_OPTION_TEXT,
      .value = "RUN",
      .help = "write a TREC run; required with --queries" },
    { .name = "depth",
      .letter = 'k',
      .kind = CSP_OPTION_I64,
      .value = "N",
      .min = 1,
      .max = 1e8,
      .help = "documents for each query [1000 in a run, 10 on stdout]" },
    { .name = "query-terms",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "0",
      .min = 0,
      .max = 1e9,
      .help = "keep the N strongest terms of a query; 0 = all it has" },
    { .name = "corpus",
      .kind = CSP_OPTION_TEXT,
      .value = "PATH",
      .help = "collection whose texts are printed beside the hits" },
    { .name = "terms",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "12",
      .min = 0,
      .max = 1e6,
      .help = "strongest terms of a text query to print" },
    CSP_OPTION_ROW_DEVICE,
    CSP_OPTION_ROW_PRECISION,
    CSP_OPTION_ROW_THREADS,
    { .name = "tag",
      .kind = CSP_OPTION_TEXT,
      .value = "NAME",
      .standard = "csplade",
      .help = "last column of the run" },
    CSP_OPTION_ROW_REMOVE_QUERY,
    { .name = "ignore-contract",
      .kind = CSP_OPTION_FLAG,
      .help = "search though index and queries were encoded under different text contracts" },
};

/* All that one search holds; cleared by clear_search. */
typedef struct search {
    csp_vectors **part; /* [parts] */
    int64_t parts;
    csp_index *index;
    csp_vectors *queries;    /* read from a file, or NULL       */
    csp_vectors_build build; /* encoded from texts              */
    const char **text;       /* [texts] */
    int64_t texts;
    csp_backend *be;
    csp_opened opened;
    csp_tokenizer *tokenizer;
    csp_hits *hits;
    csp_ranking *ranking;
} search;

static void clear_search(search *s)
{
    csp_ranking_free(s->ranking);
    csp_hits_free(s->hits);
    csp_index_free(s->index);
    csp_vectors_free(s->queries);
    csp_vectors_build_clear(&s->build);
    for (int64_t i = 0; i < s->parts; i++) {
        csp_vectors_free(s->part[i]);
    }
    free(s->part);
    free((void *)s->text);
    csp_tokenizer_close(s->tokenizer);
    csp_opened_clear(&s->opened);
    csp_backend_destroy(s->be);
}

/* Refuses queries whose text contract is not that of a part of the index: terms would not meet. */
static csp_status check_contract_of(const csp_arguments *args, const csp_vectors *part,
                                    const char *path, const csp_contract *queries)
{
    csp_contract index = { 0 };
    char difference[256];
    bool has = false;
    csp_status status;

    CSP_TRY(csp_vectors_contract(part, path, &index, &has));
    if (!has) {
        csp_log(CSP_LOG_DEBUG, "search", "%s does not say under which text contract it was made",
                path);
        return CSP_OK;
    }
    /* How many terms are kept is a matter of each side. */
    index.top_k_query = queries->top_k_query;
    index.top_k_passage = queries->top_k_passage;
    index.quant_scale = queries->quant_scale;
    status = CSP_OK;
    if (!csp_contract_equal(&index, queries, difference, sizeof(difference))) {
        if (csp_args_flag(args, "ignore-contract")) {
            csp_log(CSP_LOG_WARN, "search", "text contracts of %s and of the queries: %s", path,
                    difference);
        } else {
            status = CSP_FAIL(CSP_ERR_DATA,
                              "the text contracts of %s and of the queries differ: %s "
                              "(--ignore-contract searches all the same)",
                              path, difference);
        }
    }
    csp_contract_clear(&index);
    return status;
}

static csp_status check_contract(const csp_arguments *args, const search *s,
                                 const csp_contract *queries)
{
    for (int64_t i = 0; i < s->parts; i++) {
        CSP_TRY(
            check_contract_of(args, s->part[i], csp_args_list_at(args, "index", (int)i), queries));
    }
    return CSP_OK;
}

/*
 * Refuses queries over another number of terms than the index's. A JSONL file without our first
 * line (side is NULL there) does not say how many there are: only its largest is known.
 */
static csp_status check_terms(const csp_arguments *args, const search *s, const char *path,
                              int64_t terms, bool known)
{
    const bool index_known = s->part[0]->side != NULL;

    if ((known && index_known && terms != s->index->vocab) ||
        (known && !index_known && terms < s->index->vocab)) {
        return CSP_FAIL(CSP_ERR_DATA, "%s has %lld terms and %s has %lld: not of one model", path,
                        (long long)terms, csp_args_list_at(args, "index", 0),
                        (long long)s->index->vocab);
    }
    return CSP_OK;
}

static void warn_of_side(const csp_vectors *v, const char *path, const char *side)
{
    if (v->side != NULL && strcmp(v->side, side) != 0) {
        csp_log(CSP_LOG_WARN, "search", "%s was encoded with --side %s", path, v->side);
    }
}

static csp_status open_index(const csp_arguments *args, search *s)
{
    const int parts = csp_args_list_count(args, "index");
    const int threads = (int)csp_args_i64(args, "threads");

    CSP_TRY(csp_alloc_zero("search", parts, sizeof(*s->part), &s->part));
    for (int i = 0; i < parts; i++) {
        CSP_TRY(csp_vectors_read(csp_args_list_at(args, "index", i), &s->part[i]));
        s->parts++;
        warn_of_side(s->part[i], csp_args_list_at(args, "index", i), "document");
    }
    return csp_index_build((const csp_vectors *const *)s->part, s->parts, threads, &s->index);
}

static csp_status read_queries(const csp_arguments *args, search *s)
{
    const char *path = csp_args_text(args, "queries");
    csp_contract contract = { 0 };
    bool has = false;
    csp_status status = CSP_OK;

    CSP_TRY(csp_vectors_read(path, &s->queries));
    CSP_TRY(check_terms(args, s, path, s->queries->vocab, s->queries->side != NULL));
    warn_of_side(s->queries, path, "query");
    CSP_TRY(csp_vectors_contract(s->queries, path, &contract, &has));
    if (has) {
        status = check_contract(args, s, &contract);
    }
    csp_contract_clear(&contract);
    return status;
}

static csp_status open_model(const csp_arguments *args, search *s)
{
    const char *path = csp_args_text(args, "model");
    csp_open_options how = { .base = csp_args_text(args, "base") };

    CSP_TRY(csp_device_open(args, &s->be, &how.storage.dtype));
    CSP_TRY(csp_snapshot_open(s->be, path, &how, &s->opened));
    CSP_TRY(check_terms(args, s, path, s->opened.model->params->config.V, true));
    CSP_TRY(check_contract(args, s, &s->opened.contract));
    return csp_tokenizer_from_text(s->opened.tokenizer, s->opened.tokenizer_bytes, path,
                                   &s->tokenizer);
}

/* Texts of --query and of the positional arguments, as vectors named q1, q2, ... */
static csp_status encode_queries(const csp_arguments *args, search *s)
{
    /* As the documents are, so that scores are those of encoded query files. */
    const csp_encoder_options how = { .top_k = -1, .quant = s->part[0]->quant };
    const int listed = csp_args_list_count(args, "query");
    csp_encoder *encoder = NULL;
    csp_status status;

    CSP_TRY(open_model(args, s));
    s->texts = listed + csp_args_positional_count(args);
    CSP_TRY(csp_alloc("search", s->texts, sizeof(*s->text), &s->text));
    CSP_TRY(csp_encoder_create(s->be, s->opened.model, &s->opened.contract, s->tokenizer, &how,
                               &encoder));
    csp_encoder_target(encoder, CSP_SIDE_QUERY, csp_vectors_build_row, &s->build);
    for (int64_t i = 0; i < s->texts; i++) {
        char id[24];

        s->text[i] = i < listed ? csp_args_list_at(args, "query", (int)i)
                                : csp_args_positional(args, (int)i - listed);
        snprintf(id, sizeof(id), "q%lld", (long long)i + 1);
        CSP_TRY_GOTO(csp_encoder_add(encoder, id, s->text[i], (int64_t)strlen(s->text[i])));
    }
    CSP_TRY_GOTO(csp_encoder_flush(encoder));
    s->build.v.vocab = s->index->vocab;

fail:
    csp_encoder_destroy(encoder);
    return status;
}

static csp_status print_answers(const csp_arguments *args, const search *s)
{
    const char *corpus = csp_args_text(args, "corpus");
    csp_snippets *snippets = NULL;
    csp_status status = CSP_OK;

    if (corpus != NULL) {
        CSP_TRY(csp_snippets_read(corpus, s->ranking, &snippets));
    }
    for (int64_t i = 0; i < s->texts && status == CSP_OK; i++) {
        const csp_answer answer = {
            .text = s->text[i],
            .vectors = &s->build.v,
            .row = i,
            .hits = &s->ranking->trec.queries[i],
            .tokenizer = s->tokenizer,
            .terms = csp_args_i64(args, "terms"),
        };

        if (i > 0) {
            putchar('\n');
        }
        status = csp_answer_print(&answer, snippets);
    }
    csp_snippets_free(snippets);
    return status;
}

/* Refuses options that this way of searching would not look at. */
static csp_status refuse_unused(const csp_arguments *args, bool files, bool output)
{
    static const char *const of_models[] = { "model", "base", "device", "precision" };
    static const char *const of_pages[] = { "corpus", "terms" };

    for (int i = 0; files && i < CSP_COUNT(of_models); i++) {
        if (csp_args_given(args, of_models[i])) {
            return CSP_FAIL(CSP_ERR_CONFIG,
                            "search: --%s has no use with --queries, which are encoded already",
                            of_models[i]);
        }
    }
    for (int i = 0; output && i < CSP_COUNT(of_pages); i++) {
        if (csp_args_given(args, of_pages[i])) {
            return CSP_FAIL(CSP_ERR_CONFIG, "search: --%s belongs to texts printed on stdout",
                            of_pages[i]);
        }
    }
    if (!output && csp_args_given(args, "tag")) {
        return CSP_FAIL(CSP_ERR_CONFIG, "search: --tag belongs to a run, which --output writes");
    }
    return CSP_OK;
}

static csp_status check_arguments(const csp_arguments *args)
{
    const bool texts = csp_args_list_count(args, "query") + csp_args_positional_count(args) > 0;
    const bool files = csp_args_given(args, "queries");

    if (csp_args_list_count(args, "index") == 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "search: --index FILE is required");
    }
    if (texts == files) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "search: either --queries FILE, or --model PATH with query texts");
    }
    if (texts && !csp_args_given(args, "model")) {
        return CSP_FAIL(CSP_ERR_CONFIG, "search: query texts need --model PATH");
    }
    if (files && !csp_args_given(args, "output")) {
        return CSP_FAIL(CSP_ERR_CONFIG, "search: --output RUN is required with --queries");
    }
    return refuse_unused(args, files, csp_args_given(args, "output"));
}

/* What an engine would meet: sizes and expected work, one a line, for tables. */
static csp_status print_sizes(const search *s, const csp_vectors *queries)
{
    csp_index_stats stats;
    double flops;

    CSP_TRY(csp_index_measure(s->index, &stats));
    CSP_TRY(csp_index_flops(s->index, queries, &flops));
    printf("queries %lld\ndocuments %lld\nquery_terms %.2f\ndocument_terms %.2f\n"
           "index_bytes %lld\nindex_flops %.4f\n",
           (long long)queries->rows, (long long)stats.docs,
           queries->rows > 0 ? (double)queries->row_ptr[queries->rows] / (double)queries->rows
                             : 0.0,
           stats.mean_terms, (long long)stats.packed_bytes, flops);
    return CSP_OK;
}

static csp_status run(const csp_arguments *args)
{
    const char *output = csp_args_text(args, "output");
    const csp_search_options how = {
        .depth = csp_args_given(args, "depth") ? csp_args_i64(args, "depth")
                 : output != NULL              ? DEPTH_RUN
                                               : DEPTH_PEOPLE,
        .query_terms = csp_args_i64(args, "query-terms"),
        .threads = (int)csp_args_i64(args, "threads"),
        .remove_query = csp_args_flag(args, "remove-query"),
    };
    const csp_vectors *queries;
    search s = { 0 };
    csp_status status;

    CSP_TRY(check_arguments(args));
    CSP_TRY_GOTO(open_index(args, &s));
    if (csp_args_given(args, "queries")) {
        CSP_TRY_GOTO(read_queries(args, &s));
    } else {
        CSP_TRY_GOTO(encode_queries(args, &s));
    }
    queries = s.queries != NULL ? s.queries : &s.build.v;
    CSP_TRY_GOTO(csp_index_search(s.index, queries, &how, &s.hits));
    CSP_TRY_GOTO(csp_ranking_from_hits(s.hits, s.index, queries->ids, &s.ranking));
    if (output != NULL) {
        CSP_TRY_GOTO(csp_ranking_write(s.ranking, output, csp_args_text(args, "tag")));
        csp_log(CSP_LOG_INFO, "search", "%lld queries over %d documents in %s",
                (long long)queries->rows, s.index->docs, output);
        CSP_TRY_GOTO(print_sizes(&s, queries));
    } else {
        CSP_TRY_GOTO(print_answers(args, &s));
    }

fail:
    clear_search(&s);
    return status;
}

const csp_command csp_cmd_search = {
    .name = "search",
    .summary = "find the documents of the largest scores, exactly",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "[TEXT...]",
    .details = "csplade search --index docs.h5 --queries queries.h5 --output run.txt\n"
               "csplade search --index docs.h5 --model run/demo --corpus corpus.jsonl \"a starry "
               "night\"\n\n"
               "Scores are inner products of what the files hold. Query texts are quantised as the "
               "documents\nare, where those hold impacts.\n"
               "Terms marked * are tokens of the query itself; the others are the model's "
               "expansion.",
    .run = run,
};
