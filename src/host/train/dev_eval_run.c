/*
 * dev_eval_run.c - a small retrieval run inside training, which all ranks make together: each
 * encodes some of the texts, gets all queries, and searches its own documents; rank 0 merges what
 * they found and measures it.
 */
#include "train/dev_eval_internal.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "eval/metrics.h"
#include "eval/search.h"

/*
 * Texts are encoded by pieces, each by one rank and by itself: the last bits of a text's vector
 * depend on the texts that go through the model with it, and so ranks only change who encodes a
 * piece. So many that ranks have about as many texts each, and not so small that they would slow a
 * device down.
 */
enum { PIECES = 64, PIECE_MIN = 8, PIECE_MAX = 256 };

/* Queries whose results are merged at once: bounds what rank 0 gets of all others. */
enum { MERGED_QUERIES = 256 };

/* A document that a query finds. */
typedef struct found {
    int64_t document; /* of the corpus */
    float score;
    int32_t query;
} found;

/* The same with what ties are broken by. */
typedef struct ranked {
    const char *id;
    float score;
    int32_t query;
} ranked;

static int64_t piece_of(int64_t texts)
{
    const int64_t piece = texts / PIECES;

    return piece < PIECE_MIN ? PIECE_MIN : piece > PIECE_MAX ? PIECE_MAX : piece;
}

/* The rank that encodes a text. */
static int owner_of(const csp_ranks *ranks, int64_t text, int64_t piece)
{
    return (int)(text / piece % csp_ranks_size(ranks));
}

static csp_status encode_text(csp_encoder *encoder, const csp_dev *dev, csp_side side, int64_t i)
{
    csp_text_row row;

    if (side == CSP_SIDE_QUERY) {
        const csp_held_text *text = &dev->queries.list[i];

        return csp_encoder_add(encoder, text->id, text->text, text->bytes);
    }
    CSP_TRY(csp_text_store_read(dev->store, dev->document[i], &row));
    return csp_encoder_add(encoder, row.id, row.text, row.bytes);
}

/* This rank's texts of a side. */
static csp_status encode_own(csp_encoder *encoder, const csp_dev *dev, const csp_ranks *ranks,
                             csp_side side, csp_vectors_build *build)
{
    const int64_t count = side == CSP_SIDE_QUERY ? dev->queries.count : dev->documents;
    const int64_t piece = piece_of(count);

    csp_encoder_target(encoder, side, csp_vectors_build_row, build);
    for (int64_t i = 0; i < count; i++) {
        if (owner_of(ranks, i, piece) != csp_ranks_rank(ranks)) {
            continue;
        }
        CSP_TRY(encode_text(encoder, dev, side, i));
        if (i % piece == piece - 1) {
            CSP_TRY(csp_encoder_flush(encoder));
        }
    }
    return csp_encoder_flush(encoder);
}

/* Arrays of all ranks, one after the other: elements[r] of rank r. Owner: the caller frees *out. */
static csp_status gather(const csp_ranks *ranks, const void *own, const int64_t *elements,
                         int64_t element, int64_t *bytes, const char *what, void *out)
{
    void *all = NULL;
    int64_t total = 0;
    csp_status status;

    for (int r = 0; r < ranks->size; r++) {
        bytes[r] = elements[r] * element;
        total += bytes[r];
    }
    CSP_TRY_GOTO(csp_alloc(what, total, 1, &all));
    CSP_TRY_GOTO(csp_comm_gather(ranks->comm, own, all, bytes, what));
    *(void **)out = all;
    return CSP_OK;

fail:
    free(all);
    return status;
}

/* The queries that all ranks have encoded, as they are encoded. */
typedef struct gathered {
    int64_t *length; /* (queries) of each; rank by rank, as all here    */
    int32_t *term;
    float *weight;
    int64_t *row, *entry; /* (ranks) next of each rank                  */
    int64_t *count;       /* (ranks) rows, then entries                 */
    int64_t *bytes;       /* (ranks) scratch                            */
} gathered;

static void gathered_clear(gathered *g)
{
    free(g->length);
    free(g->term);
    free(g->weight);
    free(g->row);
    free(g->entry);
    free(g->count);
    free(g->bytes);
}

/* Counts of each rank become where its own begin. */
static void starts_of(const int64_t *count, int ranks, int64_t *start)
{
    int64_t at = 0;

    for (int r = 0; r < ranks; r++) {
        start[r] = at;
        at += count[r];
    }
}

static csp_status gather_queries(const csp_dev *dev, const csp_ranks *ranks, const csp_vectors *own,
                                 gathered *g)
{
    static const char what[] = "dev queries";
    const int64_t count = dev->queries.count, piece = piece_of(count);
    int64_t *length = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc(what, ranks->size, sizeof(*g->row), &g->row));
    CSP_TRY_GOTO(csp_alloc(what, ranks->size, sizeof(*g->entry), &g->entry));
    CSP_TRY_GOTO(csp_alloc_zero(what, ranks->size, sizeof(*g->count), &g->count));
    CSP_TRY_GOTO(csp_alloc(what, ranks->size, sizeof(*g->bytes), &g->bytes));
    CSP_TRY_GOTO(csp_alloc(what, own->rows, sizeof(*length), &length));
    for (int64_t q = 0; q < own->rows; q++) {
        length[q] = own->row_ptr[q + 1] - own->row_ptr[q];
    }
    for (int64_t q = 0; q < count; q++) {
        g->count[owner_of(ranks, q, piece)]++;
    }
    CSP_TRY_GOTO(gather(ranks, length, g->count, sizeof(*length), g->bytes,
                        "lengths of dev queries", &g->length));
    starts_of(g->count, ranks->size, g->row);
    for (int r = 0; r < ranks->size; r++) {
        const int64_t rows = g->count[r];

        g->count[r] = 0;
        for (int64_t q = g->row[r]; q < g->row[r] + rows; q++) {
            g->count[r] += g->length[q];
        }
    }
    starts_of(g->count, ranks->size, g->entry);
    CSP_TRY_GOTO(gather(ranks, own->term, g->count, sizeof(*own->term), g->bytes,
                        "terms of dev queries", &g->term));
    status = gather(ranks, own->weight, g->count, sizeof(*own->weight), g->bytes,
                    "weights of dev queries", &g->weight);

fail:
    free(length);
    return status;
}

/* Every rank gets all queries, in their order. */
static csp_status share_queries(const csp_dev *dev, const csp_ranks *ranks,
                                csp_vectors_build *queries)
{
    const int64_t count = dev->queries.count, piece = piece_of(count);
    csp_vectors_build all = { .v = { .vocab = queries->v.vocab } };
    gathered g = { 0 };
    csp_status status;

    if (csp_ranks_size(ranks) == 1) {
        return CSP_OK;
    }
    CSP_TRY_GOTO(gather_queries(dev, ranks, &queries->v, &g));
    for (int64_t q = 0; q < count; q++) {
        const int r = owner_of(ranks, q, piece);
        const int64_t nnz = g.length[g.row[r]++], first = g.entry[r];

        g.entry[r] += nnz;
        CSP_TRY_GOTO(csp_vectors_build_row(&all, dev->queries.list[q].id, nnz, g.term + first,
                                           g.weight + first));
    }
    csp_vectors_build_clear(queries);
    *queries = all;
    all = (csp_vectors_build) { 0 };

fail:
    gathered_clear(&g);
    csp_vectors_build_clear(&all);
    return status;
}

/*
 * What queries find among this rank's documents, whose vectors go once they are indexed; *out is
 * ordered by queries. first: (queries + 1) where those of each begin. Owner: the caller frees *out.
 */
static csp_status search_own(const csp_dev *dev, const csp_vectors *queries,
                             csp_vectors_build *documents, int64_t *first, found **out)
{
    const csp_vectors *parts[] = { &documents->v };
    const csp_search_options options = { .depth = dev->depth, .threads = dev->threads };
    csp_index *index = NULL;
    csp_hits *hits = NULL;
    found *all = NULL;
    csp_status status = CSP_OK;

    memset(first, 0, (size_t)(queries->rows + 1) * sizeof(*first));
    *out = NULL;
    if (documents->v.rows == 0) {
        return CSP_OK; // of more ranks than pieces
    }
    CSP_TRY_GOTO(csp_index_build(parts, 1, dev->threads, &index));
    csp_vectors_build_clear(documents);
    CSP_TRY_GOTO(csp_index_search(index, queries, &options, &hits));
    for (int64_t q = 0; q < queries->rows; q++) {
        first[q + 1] = first[q] + hits->count[q];
    }
    CSP_TRY_GOTO(csp_alloc("dev evaluation", first[queries->rows], sizeof(*all), &all));
    for (int64_t q = 0; q < queries->rows; q++) {
        for (int64_t i = 0; i < hits->count[q]; i++) {
            const int64_t at = q * hits->depth + i;

            all[first[q] + i] =
                (found) { .document = csp_text_store_find(dev->store, index->id[hits->doc[at]]),
                          .score = hits->score[at],
                          .query = (int32_t)q };
        }
    }
    *out = all;

fail:
    csp_hits_free(hits);
    csp_index_free(index);
    return status;
}

/* By query, best first, ties by descending id: as csp_index_search ranks. */
static int compare(const void *a, const void *b)
{
    const ranked *x = a, *y = b;

    if (x->query != y->query) {
        return x->query < y->query ? -1 : 1;
    }
    if (x->score != y->score) {
        return x->score > y->score ? -1 : 1;
    }
    return strcmp(y->id, x->id);
}

/* Adds the best of what was found for queries begin .. end-1 to the ranking. */
static csp_status rank_found(const csp_dev *dev, const found *all, int64_t count, int64_t begin,
                             int64_t end, csp_trec_row **row, csp_ranking *ranking)
{
    ranked *sorted = NULL;
    int64_t at = 0;

    CSP_TRY(csp_alloc("dev evaluation", count, sizeof(*sorted), &sorted));
    for (int64_t i = 0; i < count; i++) {
        sorted[i] = (ranked) { .id = csp_text_store_id(dev->store, all[i].document),
                               .score = all[i].score,
                               .query = all[i].query };
    }
    qsort(sorted, (size_t)count, sizeof(*sorted), compare);
    for (int64_t q = begin; q < end; q++) {
        csp_trec_query *out = &ranking->trec.queries[q];

        *out = (csp_trec_query) { .query_id = dev->queries.list[q].id, .rows = *row };
        for (; at < count && sorted[at].query == q; at++) {
            if (out->count < dev->depth) {
                *(*row)++ = (csp_trec_row) { sorted[at].id, (double)sorted[at].score };
                out->count++;
            }
        }
    }
    free(sorted);
    return CSP_OK;
}

/* Rank 0 gets what all ranks found for some queries. Owner: the caller frees *out. */
static csp_status collect(const csp_ranks *ranks, const found *own, int64_t count, found **out,
                          int64_t *total)
{
    static const char what[] = "documents found";
    int64_t *bytes = NULL;
    found *all = NULL;
    csp_status status;

    count *= (int64_t)sizeof(*own);
    *total = 0;
    CSP_TRY_GOTO(csp_alloc(what, csp_ranks_size(ranks), sizeof(*bytes), &bytes));
    bytes[0] = count;
    CSP_TRY_GOTO(csp_ranks_gather_host(ranks, &count, bytes, sizeof(count), what));
    for (int r = 0; r < csp_ranks_size(ranks); r++) {
        *total += bytes[r];
    }
    CSP_TRY_GOTO(csp_alloc(what, csp_ranks_rank(ranks) == 0 ? *total : 0, 1, &all));
    *total /= (int64_t)sizeof(*own);
    if (csp_ranks_size(ranks) > 1) {
        CSP_TRY_GOTO(csp_comm_collect(ranks->comm, own, all, bytes, 0, what));
    } else if (count > 0) {
        memcpy(all, own, (size_t)count);
    }
    *out = all;
    all = NULL;

fail:
    free(bytes);
    free(all);
    return status;
}

/* The ranking of all ranks, on rank 0. Owner: csp_ranking_free; *out is NULL elsewhere. */
static csp_status merge(const csp_dev *dev, const csp_ranks *ranks, const found *own,
                        const int64_t *first, csp_ranking **out)
{
    const int64_t queries = dev->queries.count;
    const int64_t most = dev->depth < dev->documents ? dev->depth : dev->documents;
    csp_ranking *ranking = NULL;
    csp_trec_row *row = NULL;
    csp_status status = CSP_OK;

    if (csp_ranks_rank(ranks) == 0) {
        CSP_TRY(csp_ranking_create(queries, queries * most, &ranking));
        row = ranking->trec.queries[0].rows;
    }
    for (int64_t q = 0; q < queries; q += MERGED_QUERIES) {
        const int64_t end = q + MERGED_QUERIES < queries ? q + MERGED_QUERIES : queries;
        found *all = NULL;
        int64_t total;

        CSP_TRY_GOTO(collect(ranks, own != NULL ? own + first[q] : NULL, first[end] - first[q],
                             &all, &total));
        if (ranking != NULL) {
            status = rank_found(dev, all, total, q, end, &row, ranking);
        }
        free(all);
        CSP_TRY_GOTO(status);
    }
    if (ranking != NULL) {
        ranking->trec.count = queries;
    }
    *out = ranking;
    return CSP_OK;

fail:
    csp_ranking_free(ranking);
    return status;
}

static csp_status measure(const csp_dev *dev, const csp_ranking *ranking, double *values)
{
    csp_measure *measures = NULL;
    csp_metrics *metrics = NULL;
    int64_t count;
    csp_status status;

    CSP_TRY_GOTO(csp_measures_parse("nDCG@10 RR@10 R@100 AP", &measures, &count));
    CSP_TRY_GOTO(csp_metrics_compute(dev->qrels, &ranking->trec, measures, count, NULL, &metrics));
    for (int64_t i = 0; i < count; i++) {
        values[i] = metrics->mean[i];
    }

fail:
    csp_metrics_free(metrics);
    free(measures);
    return status;
}

/* Searches and measures what was encoded: values of rank 0 are those of all. */
static csp_status judge(const csp_dev *dev, const csp_ranks *ranks, const csp_vectors *queries,
                        csp_vectors_build *documents, double values[CSP_DEV_VALUES])
{
    const csp_vectors *d = &documents->v;
    int64_t entries = d->rows > 0 ? d->row_ptr[d->rows] : 0, *first = NULL;
    csp_ranking *ranking = NULL;
    found *own = NULL;
    csp_status status;

    CSP_TRY_GOTO(
        csp_ranks_reduce_host(ranks, &entries, CSP_I64, 1, CSP_COMM_SUM, "terms of dev documents"));
    CSP_TRY_GOTO(csp_alloc("dev evaluation", queries->rows + 1, sizeof(*first), &first));
    CSP_TRY_GOTO(search_own(dev, queries, documents, first, &own));
    CSP_TRY_GOTO(merge(dev, ranks, own, first, &ranking));
    if (ranking != NULL) {
        CSP_TRY_GOTO(measure(dev, ranking, values));
    }
    if (csp_ranks_size(ranks) > 1) {
        CSP_TRY_GOTO(csp_comm_broadcast(ranks->comm, values, 4 * sizeof(*values), 0,
                                        "measures of the evaluation"));
    }
    values[4] = (double)queries->row_ptr[queries->rows] / (double)queries->rows;
    values[5] = dev->documents > 0 ? (double)entries / (double)dev->documents : 0.0;

fail:
    csp_ranking_free(ranking);
    free(first);
    free(own);
    return status;
}

csp_status csp_dev_run(csp_dev *dev, const csp_ranks *ranks, csp_backend *be,
                       const csp_model *model, const csp_contract *contract,
                       const csp_tokenizer *tokenizer, double values[CSP_DEV_VALUES])
{
    csp_encoder_options options = { .top_k = -1 };
    csp_vectors_build queries = { 0 }, documents = { 0 };
    csp_encoder *encoder = NULL;
    csp_status status;

    queries.v.vocab = documents.v.vocab = model->params->config.V;
    CSP_TRY_GOTO(csp_encoder_create(be, model, contract, tokenizer, &options, &encoder));
    CSP_TRY_GOTO(encode_own(encoder, dev, ranks, CSP_SIDE_QUERY, &queries));
    csp_encoder_destroy(encoder);
    encoder = NULL;
    CSP_TRY_GOTO(share_queries(dev, ranks, &queries));
    options.top_k = dev->top_k_terms;
    CSP_TRY_GOTO(csp_encoder_create(be, model, contract, tokenizer, &options, &encoder));
    CSP_TRY_GOTO(encode_own(encoder, dev, ranks, CSP_SIDE_PASSAGE, &documents));
    status = judge(dev, ranks, &queries.v, &documents, values);

fail:
    csp_encoder_destroy(encoder);
    csp_vectors_build_clear(&queries);
    csp_vectors_build_clear(&documents);
    return status;
}
