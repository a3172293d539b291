/* dev_eval.c - what the evaluations during training look at. */
#include "train/dev_eval_internal.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "core/rng.h"

const char *const csp_dev_names[CSP_DEV_VALUES] = { "nDCG@10", "RR@10",    "R@100",
                                                    "AP",      "active_q", "active_d" };

/* How much of a ranking R@100, the deepest of these with a cut, looks at. */
enum { RECALL_DEPTH = 100 };

static csp_status hold(csp_held_texts *texts, const csp_text_row *row)
{
    csp_held_text t = { 0 };
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

static void let_go(csp_held_texts *texts)
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
        if (!dev->is_given) {
            free(dev->document);
        }
        csp_image_destroy(dev->image);
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
        CSP_TRY_GOTO(csp_image_waits(dev->image));
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
static csp_status keep_judgements(csp_dev *dev)
{
    csp_trec *qrels = dev->qrels;
    uint8_t *evaluated;

    CSP_TRY(csp_alloc_zero("dev evaluation", qrels->count, 1, &evaluated));
    for (int64_t j = 0; j < dev->queries.count; j++) {
        evaluated[csp_trec_find(qrels, dev->queries.list[j].id) - qrels->queries] = 1;
    }
    csp_trec_keep(qrels, evaluated);
    free(evaluated);
    return CSP_OK;
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

static csp_texts_options corpus_options(const csp_config *config, csp_image *image)
{
    return (csp_texts_options) { .side = CSP_SIDE_PASSAGE,
                                 .separator = config->model.title_separator,
                                 .image = image };
}

/*
 * Chooses the pool: judged documents, and every one whose place in a fixed shuffle is early enough.
 * Their texts are read again at every evaluation, so that memory holds none of them.
 */
static csp_status choose_documents(csp_dev *dev, const csp_config *config)
{
    const csp_texts_options options = corpus_options(config, dev->image);
    const csp_rng shuffle = { (uint64_t)config->run.seed, CSP_DRAW_SHUFFLE, 1, 0 };
    uint8_t *judged = NULL;
    int64_t total, sample;
    csp_status status;

    if (dev->store == NULL) {
        CSP_TRY(csp_text_store_open(config->data.corpus, &options, &dev->store));
    }
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

static csp_status still_there(void *image)
{
    return csp_image_waits(image);
}

static csp_status read_files(csp_dev *dev, const csp_config *config)
{
    const csp_data_settings *data = &config->data;
    const char *queries = data->dev_queries != NULL ? data->dev_queries
                          : data->queries != NULL   ? data->queries
                                                    : data->corpus;

    CSP_TRY(csp_qrels_read_while(data->dev_qrels, still_there, dev->image, &dev->qrels));
    CSP_TRY(hold_queries(dev, queries, config->eval.queries));
    CSP_TRY(keep_judgements(dev));
    return choose_documents(dev, config);
}

/* An evaluation that is read, and what it is read by. */
typedef struct shared_dev {
    csp_dev *dev;
    const csp_config *config;
} shared_dev;

static csp_status visit(void *context, csp_image *image)
{
    const shared_dev *shared = context;
    const csp_texts_options options = corpus_options(shared->config, image);
    csp_dev *dev = shared->dev;
    csp_held_texts *q = &dev->queries;

    CSP_TRY(csp_image_value(image, &q->count, sizeof(q->count)));
    if (q->list == NULL) {
        CSP_TRY(csp_alloc_zero("dev evaluation", q->count, sizeof(*q->list), &q->list));
        q->room = q->count;
    }
    for (int64_t i = 0; i < q->count; i++) {
        csp_held_text *text = &q->list[i];
        int64_t bytes = text->id != NULL ? (int64_t)strlen(text->id) : 0;

        CSP_TRY(csp_image_text(image, &text->id, &bytes));
        CSP_TRY(csp_image_text(image, &text->text, &text->bytes));
    }
    if (dev->corpus == NULL) {
        CSP_TRY(csp_text_store_share(image, &options, &dev->store));
    }
    dev->is_given = csp_image_gives(image);
    return csp_image_array(image, &dev->documents, sizeof(*dev->document), &dev->document);
}

csp_status csp_dev_open(const csp_config *config, const csp_text_store *corpus, csp_comm *machine,
                        csp_dev **out)
{
    const csp_texts_options options = corpus_options(config, NULL);
    const csp_data_settings *data = &config->data;
    shared_dev shared = { .config = config };
    csp_dev *dev;
    csp_status status;

    *out = NULL;
    if (data->dev_qrels != NULL && config->run.eval_steps == 0) {
        csp_log(CSP_LOG_INFO, "eval",
                "data.dev_qrels is set, but run.eval_steps is 0: nothing is evaluated while "
                "training, and no checkpoint is the best");
    }
    if (data->dev_qrels == NULL || config->run.eval_steps == 0) {
        return CSP_OK;
    }
    CSP_TRY(csp_alloc_zero("dev evaluation", 1, sizeof(*dev), &dev));
    dev->depth = config->eval.top_k;
    dev->top_k_terms = config->eval.top_k_terms > 0 ? config->eval.top_k_terms : -1;
    dev->threads = (int)config->device.threads;
    dev->corpus = corpus;
    if (corpus != NULL) {
        CSP_TRY_GOTO(csp_text_store_again(corpus, &options, &dev->store));
    }
    CSP_TRY_GOTO(csp_image_create(machine, &dev->image));
    if (csp_image_reads(dev->image)) {
        CSP_TRY_GOTO(read_files(dev, config));
    }
    shared.dev = dev;
    CSP_TRY_GOTO(csp_image_share(dev->image, visit, &shared));
    if (dev->depth < RECALL_DEPTH && dev->depth < dev->documents) {
        csp_log(CSP_LOG_INFO, "eval",
                "eval.top_k is %lld: R@100 and AP, and nDCG@10 and RR@10 where it is below 10, "
                "look at no "
                "more than so many documents of a ranking",
                (long long)dev->depth);
    }
    *out = dev;
    return CSP_OK;

fail:
    csp_dev_close(dev);
    return status;
}

csp_status csp_dev_digest(const csp_dev *dev, char text[CSP_DIGEST_TEXT_BYTES])
{
    char corpus[CSP_DIGEST_TEXT_BYTES];
    csp_digest *digest;

    CSP_TRY(csp_digest_create(&digest));
    csp_text_store_digest(dev->store, corpus);
    csp_digest_add(digest, corpus, sizeof(corpus));
    csp_digest_add(digest, dev->document, dev->documents * (int64_t)sizeof(*dev->document));
    for (int64_t i = 0; i < dev->queries.count; i++) {
        const csp_held_text *query = &dev->queries.list[i];

        csp_digest_add(digest, query->id, (int64_t)strlen(query->id) + 1);
        csp_digest_add(digest, query->text, query->bytes);
    }
    csp_digest_say(digest, text);
    csp_digest_destroy(digest);
    return CSP_OK;
}

int64_t csp_dev_queries(const csp_dev *dev)
{
    return dev->queries.count;
}

int64_t csp_dev_documents(const csp_dev *dev)
{
    return dev->documents;
}
