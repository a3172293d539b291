/* cmd_bm25.c - csplade bm25: the baseline run that a learned model is held against. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/option_rows.h"
#include "core/memory.h"
#include "data/corpus.h"
#include "eval/bm25.h"

static const csp_option options[] = {
    { .name = "corpus",
      .kind = CSP_OPTION_TEXT,
      .value = "FILE|BEIR-DIR",
      .required = true,
      .help = "documents: .jsonl, .tsv (.gz too) or a BEIR folder" },
    { .name = "queries",
      .kind = CSP_OPTION_TEXT,
      .value = "FILE|BEIR-DIR",
      .required = true,
      .help = "queries, likewise" },
    { .name = "output",
      .letter = 'o',
      .kind = CSP_OPTION_TEXT,
      .value = "RUN",
      .required = true,
      .help = "the TREC run to write" },
    CSP_OPTION_ROW_DEPTH,
    { .name = "k1",
      .kind = CSP_OPTION_F64,
      .value = "X",
      .standard = "0.9",
      .min = 0,
      .max = 1e6,
      .help = "saturation of word counts" },
    { .name = "b",
      .kind = CSP_OPTION_F64,
      .value = "X",
      .standard = "0.4",
      .min = 0,
      .max = 1,
      .help = "weight of a document's length" },
    CSP_OPTION_ROW_THREADS,
    CSP_OPTION_ROW_REMOVE_QUERY,
};

/* The texts of one file, in memory. */
typedef struct held {
    char **id, **text;
    int64_t count, room;
} held;

static void let_go(held *h)
{
    for (int64_t i = 0; i < h->count; i++) {
        free(h->id[i]);
        free(h->text[i]);
    }
    free(h->id);
    free(h->text);
}

static csp_status read_queries(const char *path, held *h)
{
    const csp_texts_options o = { .side = CSP_SIDE_QUERY };
    csp_texts *texts = NULL;
    csp_text_row row;
    csp_status status;

    CSP_TRY(csp_texts_open(path, &o, &texts));
    for (;;) {
        CSP_TRY_GOTO(csp_texts_next(texts, &row));
        if (row.text == NULL) {
            break;
        }
        if (h->count == h->room) {
            const int64_t room = h->room > 0 ? 2 * h->room : 1024;

            CSP_TRY_GOTO(csp_realloc("queries", room, sizeof(char *), &h->id));
            CSP_TRY_GOTO(csp_realloc("queries", room, sizeof(char *), &h->text));
            h->room = room;
        }
        CSP_TRY_GOTO(csp_strdup("queries", row.id, &h->id[h->count]));
        status = csp_strdup("queries", row.text, &h->text[h->count]);
        if (status != CSP_OK) {
            free(h->id[h->count]);
            goto fail;
        }
        h->count++;
    }

fail:
    csp_texts_close(texts);
    return status;
}

static csp_status next_document(void *context, const char **id, const char **text, int64_t *bytes)
{
    csp_text_row row;

    CSP_TRY(csp_texts_next(context, &row));
    *id = row.text != NULL ? row.id : NULL;
    *text = row.text;
    *bytes = row.bytes;
    return CSP_OK;
}

static csp_status run(const csp_arguments *args)
{
    const csp_bm25_options bm25_options = { .k1 = csp_args_f64(args, "k1"),
                                            .b = csp_args_f64(args, "b"),
                                            .threads = (int)csp_args_i64(args, "threads") };
    const csp_search_options search = { .depth = csp_args_i64(args, "depth"),
                                        .threads = (int)csp_args_i64(args, "threads"),
                                        .remove_query = csp_args_flag(args, "remove-query") };
    const csp_texts_options documents = { .side = CSP_SIDE_PASSAGE };
    csp_texts *texts = NULL;
    csp_bm25 *bm25 = NULL;
    csp_hits *hits = NULL;
    csp_ranking *ranking = NULL;
    csp_index_stats stats;
    held queries = { 0 };
    double terms;
    csp_status status;

    CSP_TRY_GOTO(read_queries(csp_args_text(args, "queries"), &queries));
    CSP_TRY_GOTO(csp_texts_open(csp_args_text(args, "corpus"), &documents, &texts));
    CSP_TRY_GOTO(csp_bm25_create(next_document, texts, &bm25_options, &bm25));
    CSP_TRY_GOTO(
        csp_bm25_search(bm25, queries.id, queries.text, queries.count, &search, &hits, &terms));
    CSP_TRY_GOTO(csp_ranking_from_hits(hits, csp_bm25_index(bm25), queries.id, &ranking));
    CSP_TRY_GOTO(csp_ranking_write(ranking, csp_args_text(args, "output"), "bm25"));
    CSP_TRY_GOTO(csp_index_measure(csp_bm25_index(bm25), &stats));
    printf(
        "queries %lld\ndocuments %lld\nquery_terms %.2f\ndocument_terms %.2f\nindex_bytes %lld\n",
        (long long)queries.count, (long long)stats.docs, terms, stats.mean_terms,
        (long long)stats.packed_bytes);

fail:
    csp_ranking_free(ranking);
    csp_hits_free(hits);
    csp_bm25_destroy(bm25);
    csp_texts_close(texts);
    let_go(&queries);
    return status;
}

const csp_command csp_cmd_bm25 = {
    .name = "bm25",
    .summary = "a BM25 run over English text: the baseline",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "",
    .details = "csplade bm25 --corpus beir/ --queries beir/queries.test.jsonl --output bm25.run",
    .run = run,
};
