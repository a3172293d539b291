/* dev_eval.c - a small retrieval run inside training. */
#include "train/dev_eval.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/rng.h"
#include "data/corpus.h"
#include "eval/metrics.h"
#include "eval/search.h"

/* A text that waits to be encoded at every evaluation. */
typedef struct held_text {
    char *id;
    char *text;
    int64_t bytes;
} held_text;

typedef struct held_texts {
    held_text *list;
    int64_t count, room;
} held_texts;

struct csp_dev {
    csp_trec *qrels; /* of the queries that are evaluated only */
    held_texts queries;
    held_texts documents;
    int64_t depth;
    int64_t top_k_terms; /* -1: as the contract says */
    int threads;
};

const char *const csp_dev_names[CSP_DEV_VALUES] = { "nDCG@10", "RR@10",    "R@100",
                                                    "AP",      "active_q", "active_d" };

static csp_status hold(held_texts *texts, const csp_text_row *row)
{
    held_text t = { 0 };
    csp_status status;

    if (texts->count == texts->room) {
        const int64_t room = texts->room > 0 ? 2 * texts->room : 256;

        CSP_TRY(csp_realloc("dev evaluation", room, sizeof(*texts->list), &texts->list));
        texts->room = room;
    }
    CSP_TRY_GOTO(csp_strdup("dev evaluation", row->id, &t.id));
    CSP_TRY_GOTO(csp_alloc("dev evaluation", row->bytes + 1, 1, &t.text));
    memcpy(t.text, row->text, (size_t)row->bytes);
    t.text[row->bytes] = '\0';
    t.bytes = row->bytes;
    texts->list[texts->count++] = t;
    return CSP_OK;

fail:
    free(t.id);
    free(t.text);
    return status;
}

static void let_go(held_texts *texts)
{
    for (int64_t i = 0; i < texts->count; i++) {
        free(texts->list[i].id);
        free(texts->list[i].text);
    }
    free(texts->list);
}

void csp_dev_close(csp_dev *dev)
{
    if (dev != NULL) {
        csp_trec_free(dev->qrels);
        let_go(&dev->queries);
        let_go(&dev->documents);
        free(dev);
    }
}

/* Holds the dev queries, at most limit of them, in the order of their file. */
static csp_status hold_queries(csp_dev *dev, const char *path, int64_t limit)
{
    const csp_texts_options options = { .side = CSP_SIDE_QUERY };
    csp_texts *texts = NULL;
    csp_text_row row;
    csp_status status;

    CSP_TRY(csp_texts_open(path, &options, &texts));
    for (;;) {
        CSP_TRY_GOTO(csp_texts_next(texts, &row));
        if (row.text == NULL || (limit > 0 && dev->queries.count == limit)) {
            break;
        }
        if (csp_trec_find(dev->qrels, row.id) != NULL) {
            CSP_TRY_GOTO(hold(&dev->queries, &row));
        }
    }
    if (dev->queries.count == 0) {
        status =
            CSP_FAIL(CSP_ERR_DATA, "%s: none of its queries is judged in data.dev_qrels", path);
    }

fail:
    csp_texts_close(texts);
    return status;
}

/* Leaves out judgements of queries that are not evaluated: they would count as unanswered. */
static void keep_judgements(csp_dev *dev)
{
    int64_t kept = 0;

    for (int64_t i = 0; i < dev->qrels->count; i++) {
        for (int64_t j = 0; j < dev->queries.count; j++) {
            if (strcmp(dev->qrels->queries[i].query_id, dev->queries.list[j].id) == 0) {
                dev->qrels->queries[kept++] = dev->qrels->queries[i];
                break;
            }
        }
    }
    dev->qrels->count = kept;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted ids of all judged documents. Owner: the caller frees *out; ids belong to qrels. */
static csp_status judged_documents(const csp_dev *dev, const char ***out, int64_t *count)
{
    int64_t n = 0, at = 0;

    for (int64_t i = 0; i < dev->qrels->count; i++) {
        n += dev->qrels->queries[i].count;
    }
    CSP_TRY(csp_alloc("dev evaluation", n, sizeof(**out), out));
    for (int64_t i = 0; i < dev->qrels->count; i++) {
        for (int64_t j = 0; j < dev->qrels->queries[i].count; j++) {
            (*out)[at++] = dev->qrels->queries[i].rows[j].doc_id;
        }
    }
    qsort(*out, (size_t)n, sizeof(**out), by_name);
    *count = n;
    return CSP_OK;
}

/* Number of documents of the corpus. */
static csp_status count_documents(const char *path, int64_t *count)
{
    const csp_texts_options options = { .side = CSP_SIDE_PASSAGE, .without_ids = true };
    csp_texts *texts = NULL;
    csp_text_row row;
    csp_status status;

    CSP_TRY(csp_texts_open(path, &options, &texts));
    do {
        CSP_TRY_GOTO(csp_texts_next(texts, &row));
    } while (row.text != NULL);
    *count = csp_texts_count(texts);

fail:
    csp_texts_close(texts);
    return status;
}

/*
 * Holds the pool: judged documents, and every one whose place in a fixed shuffle is early enough.
 */
static csp_status hold_documents(csp_dev *dev, const csp_config *config)
{
    const csp_texts_options options = { .side = CSP_SIDE_PASSAGE,
                                        .separator = config->model.title_separator };
    const csp_rng shuffle = { (uint64_t)config->run.seed, CSP_DRAW_SHUFFLE, 1, 0 };
    const char **judged = NULL;
    int64_t judged_count = 0, total, sample, index = 0;
    csp_texts *texts = NULL;
    csp_text_row row;
    csp_status status;

    CSP_TRY(count_documents(config->data.corpus, &total));
    CSP_TRY_GOTO(judged_documents(dev, &judged, &judged_count));
    sample = config->eval.pool == 0 ? total : config->eval.pool - judged_count;
    CSP_TRY_GOTO(csp_texts_open(config->data.corpus, &options, &texts));
    for (;; index++) {
        CSP_TRY_GOTO(csp_texts_next(texts, &row));
        if (row.text == NULL) {
            break;
        }
        if (sample >= total ||
            (int64_t)csp_rng_permute(shuffle, (uint64_t)index, (uint64_t)total) < sample ||
            (judged_count > 0 &&
             bsearch(&row.id, judged, (size_t)judged_count, sizeof(*judged), by_name) != NULL)) {
            CSP_TRY_GOTO(hold(&dev->documents, &row));
        }
    }

fail:
    csp_texts_close(texts);
    free(judged);
    return status;
}

csp_status csp_dev_open(const csp_config *config, csp_dev **out)
{
    const csp_data_settings *data = &config->data;
    const char *queries = data->dev_queries != NULL ? data->dev_queries
                          : data->queries != NULL   ? data->queries
                                                    : data->corpus;
    csp_dev *dev;
    csp_status status;

    *out = NULL;
    if (data->dev_qrels == NULL || config->run.eval_steps == 0) {
        return CSP_OK;
    }
    CSP_TRY(csp_alloc_zero("dev evaluation", 1, sizeof(*dev), &dev));
    dev->depth = config->eval.top_k;
    dev->top_k_terms = config->eval.top_k_terms > 0 ? config->eval.top_k_terms : -1;
    dev->threads = (int)config->device.threads;
    CSP_TRY_GOTO(csp_qrels_read(data->dev_qrels, &dev->qrels));
    CSP_TRY_GOTO(hold_queries(dev, queries, config->eval.queries));
    keep_judgements(dev);
    CSP_TRY_GOTO(hold_documents(dev, config));
    *out = dev;
    return CSP_OK;

fail:
    csp_dev_close(dev);
    return status;
}

int64_t csp_dev_queries(const csp_dev *dev)
{
    return dev->queries.count;
}

int64_t csp_dev_documents(const csp_dev *dev)
{
    return dev->documents.count;
}

static csp_status encode_all(csp_encoder *encoder, csp_side side, const held_texts *texts,
                             csp_vectors_build *build)
{
    csp_encoder_target(encoder, side, csp_vectors_build_row, build);
    for (int64_t i = 0; i < texts->count; i++) {
        CSP_TRY(
            csp_encoder_add(encoder, texts->list[i].id, texts->list[i].text, texts->list[i].bytes));
    }
    return csp_encoder_flush(encoder);
}

static double mean_terms(const csp_vectors *v)
{
    return v->rows > 0 ? (double)v->row_ptr[v->rows] / (double)v->rows : 0.0;
}

/* Searches and measures what was encoded. */
static csp_status judge(const csp_dev *dev, const csp_vectors *queries,
                        const csp_vectors *documents, double values[CSP_DEV_VALUES])
{
    const csp_vectors *parts[] = { documents };
    const csp_search_options options = { .depth = dev->depth, .threads = dev->threads };
    csp_index *index = NULL;
    csp_hits *hits = NULL;
    csp_ranking *ranking = NULL;
    csp_measure *measures = NULL;
    csp_metrics *metrics = NULL;
    int64_t count;
    csp_status status;

    CSP_TRY_GOTO(csp_index_build(parts, 1, dev->threads, &index));
    CSP_TRY_GOTO(csp_index_search(index, queries, &options, &hits));
    CSP_TRY_GOTO(csp_ranking_from_hits(hits, index, queries->ids, &ranking));
    CSP_TRY_GOTO(csp_measures_parse("nDCG@10 RR@10 R@100 AP", &measures, &count));
    CSP_TRY_GOTO(csp_metrics_compute(dev->qrels, &ranking->trec, measures, count, NULL, &metrics));
    for (int64_t i = 0; i < count; i++) {
        values[i] = metrics->mean[i];
    }
    values[4] = mean_terms(queries);
    values[5] = mean_terms(documents);

fail:
    csp_metrics_free(metrics);
    free(measures);
    csp_ranking_free(ranking);
    csp_hits_free(hits);
    csp_index_free(index);
    return status;
}

csp_status csp_dev_run(csp_dev *dev, csp_backend *be, const csp_model *model,
                       const csp_contract *contract, const csp_tokenizer *tokenizer,
                       double values[CSP_DEV_VALUES])
{
    csp_encoder_options options = { .top_k = -1 };
    csp_vectors_build queries = { 0 }, documents = { 0 };
    csp_encoder *encoder = NULL;
    csp_status status;

    queries.v.vocab = documents.v.vocab = model->params->config.V;
    CSP_TRY_GOTO(csp_encoder_create(be, model, contract, tokenizer, &options, &encoder));
    CSP_TRY_GOTO(encode_all(encoder, CSP_SIDE_QUERY, &dev->queries, &queries));
    csp_encoder_destroy(encoder);
    encoder = NULL;
    options.top_k = dev->top_k_terms;
    CSP_TRY_GOTO(csp_encoder_create(be, model, contract, tokenizer, &options, &encoder));
    CSP_TRY_GOTO(encode_all(encoder, CSP_SIDE_PASSAGE, &dev->documents, &documents));
    status = judge(dev, &queries.v, &documents.v, values);

fail:
    csp_encoder_destroy(encoder);
    csp_vectors_build_clear(&queries);
    csp_vectors_build_clear(&documents);
    return status;
}
