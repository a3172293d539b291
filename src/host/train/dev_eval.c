/* dev_eval.c - a small retrieval run inside training. */
#include "train/dev_eval.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/rng.h"
#include "data/text_store.h"
#include "eval/metrics.h"
#include "eval/search.h"

/* A query that waits to be encoded at every evaluation. */
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
    csp_text_store *store; /* the corpus: ids and places, not texts   */
    int64_t *document;     /* [documents] the pool: ordinals, ascending */
    int64_t documents;
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
        csp_text_store_close(dev->store);
        free(dev->document);
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

/* A byte for each document of the corpus, 1 where it is judged. Returns how many judgements. */
static int64_t mark_judged(const csp_dev *dev, uint8_t *judged)
{
    int64_t judgements = 0;

    for (int64_t i = 0; i < dev->qrels->count; i++) {
        const csp_trec_query *query = &dev->qrels->queries[i];

        for (int64_t j = 0; j < query->count; j++) {
            const int64_t document = csp_text_store_find(dev->store, query->rows[j].doc_id);

            if (document >= 0) {
                judged[document] = 1;
            }
        }
        judgements += query->count;
    }
    return judgements;
}

/*
 * Chooses the pool: judged documents, and every one whose place in a fixed shuffle is early enough.
 * Their texts are read again at every evaluation, so that memory holds none of them.
 */
static csp_status choose_documents(csp_dev *dev, const csp_config *config)
{
    const csp_texts_options options = { .side = CSP_SIDE_PASSAGE,
                                        .separator = config->model.title_separator };
    const csp_rng shuffle = { (uint64_t)config->run.seed, CSP_DRAW_SHUFFLE, 1, 0 };
    uint8_t *judged = NULL;
    int64_t total, sample;
    csp_status status;

    CSP_TRY(csp_text_store_open(config->data.corpus, &options, &dev->store));
    total = csp_text_store_count(dev->store);
    CSP_TRY_GOTO(csp_alloc_zero("dev evaluation", total, 1, &judged));
    CSP_TRY_GOTO(csp_alloc("dev evaluation", total, sizeof(*dev->document), &dev->document));
    sample = mark_judged(dev, judged);
    sample = config->eval.pool == 0 ? total : config->eval.pool - sample;
    for (int64_t i = 0; i < total; i++) {
        if (sample >= total || judged[i] != 0 ||
            (int64_t)csp_rng_permute(shuffle, (uint64_t)i, (uint64_t)total) < sample) {
            dev->document[dev->documents++] = i;
        }
    }

fail:
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
    CSP_TRY_GOTO(choose_documents(dev, config));
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
    return dev->documents;
}

static csp_status encode_queries(csp_encoder *encoder, const csp_dev *dev, csp_vectors_build *build)
{
    const held_texts *texts = &dev->queries;

    csp_encoder_target(encoder, CSP_SIDE_QUERY, csp_vectors_build_row, build);
    for (int64_t i = 0; i < texts->count; i++) {
        CSP_TRY(
            csp_encoder_add(encoder, texts->list[i].id, texts->list[i].text, texts->list[i].bytes));
    }
    return csp_encoder_flush(encoder);
}

static csp_status encode_pool(csp_encoder *encoder, const csp_dev *dev, csp_vectors_build *build)
{
    csp_encoder_target(encoder, CSP_SIDE_PASSAGE, csp_vectors_build_row, build);
    for (int64_t i = 0; i < dev->documents; i++) {
        csp_text_row row;

        CSP_TRY(csp_text_store_read(dev->store, dev->document[i], &row));
        CSP_TRY(csp_encoder_add(encoder, row.id, row.text, row.bytes));
    }
    return csp_encoder_flush(encoder);
}

static double mean_terms(const csp_vectors *v)
{
    return v->rows > 0 ? (double)v->row_ptr[v->rows] / (double)v->rows : 0.0;
}

/* Searches and measures what was encoded. The documents' vectors go once they are indexed. */
static csp_status judge(const csp_dev *dev, const csp_vectors *queries,
                        csp_vectors_build *documents, double values[CSP_DEV_VALUES])
{
    const csp_vectors *parts[] = { &documents->v };
    const double active_d = mean_terms(&documents->v);
    const csp_search_options options = { .depth = dev->depth, .threads = dev->threads };
    csp_index *index = NULL;
    csp_hits *hits = NULL;
    csp_ranking *ranking = NULL;
    csp_measure *measures = NULL;
    csp_metrics *metrics = NULL;
    int64_t count;
    csp_status status;

    CSP_TRY_GOTO(csp_index_build(parts, 1, dev->threads, &index));
    csp_vectors_build_clear(documents);
    CSP_TRY_GOTO(csp_index_search(index, queries, &options, &hits));
    CSP_TRY_GOTO(csp_ranking_from_hits(hits, index, queries->ids, &ranking));
    CSP_TRY_GOTO(csp_measures_parse("nDCG@10 RR@10 R@100 AP", &measures, &count));
    CSP_TRY_GOTO(csp_metrics_compute(dev->qrels, &ranking->trec, measures, count, NULL, &metrics));
    for (int64_t i = 0; i < count; i++) {
        values[i] = metrics->mean[i];
    }
    values[4] = mean_terms(queries);
    values[5] = active_d;

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
    CSP_TRY_GOTO(encode_queries(encoder, dev, &queries));
    csp_encoder_destroy(encoder);
    encoder = NULL;
    options.top_k = dev->top_k_terms;
    CSP_TRY_GOTO(csp_encoder_create(be, model, contract, tokenizer, &options, &encoder));
    CSP_TRY_GOTO(encode_pool(encoder, dev, &documents));
    status = judge(dev, &queries.v, &documents, values);

fail:
    csp_encoder_destroy(encoder);
    csp_vectors_build_clear(&queries);
    csp_vectors_build_clear(&documents);
    return status;
}
