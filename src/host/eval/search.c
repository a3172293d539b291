/*
 * search.c - one query at a time on each thread, one block of documents at a time for each query:
 * add the query's posting lists into the block's scores, then walk the scores once against the
 * lowest score of the best so far. Bound by reading postings.
 */
#include "eval/search.h"

#include "core/memory.h"
#include "core/prune_row.h"
#include "core/size.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Scores looked at together when most of them cannot enter the best. */
enum { STRIDE = 16 };

typedef struct hit {
    float score;
    int32_t doc;
} hit;

/* What one thread works with. */
typedef struct worker {
    float *score; /* [CSP_INDEX_BLOCK] */
    hit *best;    /* [depth] a heap, the worst on top */
    int64_t count;
    int64_t depth;
    int32_t *term; /* [longest query] */
    float *weight;
} worker;

static bool is_worse(hit a, hit b)
{
    return a.score != b.score ? a.score < b.score : a.doc > b.doc;
}

static void sink(hit *heap, int64_t count, int64_t at)
{
    for (;;) {
        int64_t low = 2 * at + 1;
        const hit moved = heap[at];

        if (low >= count) {
            return;
        }
        if (low + 1 < count && is_worse(heap[low + 1], heap[low])) {
            low++;
        }
        if (!is_worse(heap[low], moved)) {
            return;
        }
        heap[at] = heap[low];
        heap[low] = moved;
        at = low;
    }
}

static void offer(worker *w, hit new)
{
    if (w->count < w->depth) {
        int64_t at = w->count++;

        while (at > 0 && is_worse(new, w->best[(at - 1) / 2])) {
            w->best[at] = w->best[(at - 1) / 2];
            at = (at - 1) / 2;
        }
        w->best[at] = new;
    } else {
        w->best[0] = new;
        sink(w->best, w->count, 0);
    }
}

/* The score that a later document must exceed: at equal score the lower number stays. */
static float floor_of(const worker *w)
{
    return w->count < w->depth ? 0.0f : w->best[0].score;
}

static void collect(worker *w, int32_t first, int32_t docs)
{
    float lowest = floor_of(w);

    for (int32_t d = 0; d < docs; d += STRIDE) {
        int any = 0;

        for (int32_t i = 0; i < STRIDE; i++) { /* the block is padded to whole strides */
            any |= w->score[d + i] > lowest;
        }
        for (int32_t i = 0; any != 0 && i < STRIDE; i++) {
            if (w->score[d + i] > lowest) {
                offer(w, (hit) { w->score[d + i], first + d + i });
                lowest = floor_of(w);
            }
        }
    }
}

static void add_lists(const csp_index *index, int64_t b, const int32_t *term, const float *weight,
                      int64_t terms, float *restrict score)
{
    const uint32_t *start = index->term_start + b * (index->vocab + 1);
    const uint16_t *restrict doc = index->doc + index->block_start[b];
    const float *restrict value = index->weight + index->block_start[b];

    for (int64_t q = 0; q < terms; q++) {
        const float x = weight[q];

        if (term[q] < 0 || term[q] >= index->vocab) {
            continue;
        }
        for (uint32_t i = start[term[q]]; i < start[term[q] + 1]; i++) {
            score[doc[i]] += x * value[i];
        }
    }
}

static int best_first(const void *a, const void *b)
{
    return is_worse(*(const hit *)a, *(const hit *)b) ? 1 : -1;
}

static void search_one(const csp_index *index, const csp_vectors *queries, int64_t q,
                       const csp_search_options *options, worker *w, csp_hits *hits)
{
    const int64_t first = queries->row_ptr[q];
    const int32_t banned = options->remove_query ? csp_index_find(index, queries->ids[q]) : -1;
    int64_t terms = queries->row_ptr[q + 1] - first;

    if (terms > 0) { /* queries that are all empty have no arrays */
        memcpy(w->term, queries->term + first, (size_t)terms * sizeof(*w->term));
        memcpy(w->weight, queries->weight + first, (size_t)terms * sizeof(*w->weight));
    }
    if (options->query_terms > 0) {
        terms = csp_prune_row(w->term, w->weight, terms, options->query_terms);
    }
    w->count = 0;
    for (int64_t b = 0; b < index->blocks && terms > 0; b++) {
        const int64_t base = b * CSP_INDEX_BLOCK, left = index->docs - base;
        const int32_t docs = (int32_t)(left < CSP_INDEX_BLOCK ? left : CSP_INDEX_BLOCK);

        memset(w->score, 0, csp_size_round_up((size_t)docs, STRIDE) * sizeof(*w->score));
        add_lists(index, b, w->term, w->weight, terms, w->score);
        if (banned >= base && banned < base + docs) {
            w->score[banned - base] = 0.0f;
        }
        collect(w, (int32_t)base, docs);
    }
    qsort(w->best, (size_t)w->count, sizeof(*w->best), best_first);
    hits->count[q] = w->count;
    for (int64_t i = 0; i < w->count; i++) {
        hits->doc[q * hits->depth + i] = w->best[i].doc;
        hits->score[q * hits->depth + i] = w->best[i].score;
    }
}

static csp_status worker_init(worker *w, int64_t depth, int64_t longest)
{
    w->depth = depth;
    CSP_TRY(csp_alloc("search", CSP_INDEX_BLOCK, sizeof(*w->score), &w->score));
    CSP_TRY(csp_alloc("search", depth, sizeof(*w->best), &w->best));
    CSP_TRY(csp_alloc("search", longest, sizeof(*w->term), &w->term));
    return csp_alloc("search", longest, sizeof(*w->weight), &w->weight);
}

static void workers_free(worker *w, int threads)
{
    for (int i = 0; w != NULL && i < threads; i++) {
        free(w[i].score);
        free(w[i].best);
        free(w[i].term);
        free(w[i].weight);
    }
    free(w);
}

static csp_status hits_create(int64_t queries, int64_t depth, csp_hits **out)
{
    csp_hits *hits;
    csp_status status;

    CSP_TRY(csp_alloc_zero("hits", 1, sizeof(*hits), &hits));
    hits->queries = queries;
    hits->depth = depth;
    CSP_TRY_GOTO(csp_alloc_zero("hits", queries, sizeof(*hits->count), &hits->count));
    CSP_TRY_GOTO(csp_alloc("hits", queries * depth, sizeof(*hits->doc), &hits->doc));
    CSP_TRY_GOTO(csp_alloc("hits", queries * depth, sizeof(*hits->score), &hits->score));
    *out = hits;
    return CSP_OK;

fail:
    csp_hits_free(hits);
    return status;
}

csp_status csp_index_search(const csp_index *index, const csp_vectors *queries,
                            const csp_search_options *options, csp_hits **out)
{
    const int threads = options->threads > 0 ? options->threads : omp_get_max_threads();
    const int64_t depth = options->depth < index->docs ? options->depth : index->docs;
    int64_t longest = 0;
    worker *workers = NULL;
    csp_hits *hits = NULL;
    csp_status status;

    if (options->depth < 1) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "search: a depth of %lld, but at least 1 is needed",
                        (long long)options->depth);
    }
    for (int64_t q = 0; q < queries->rows; q++) {
        const int64_t terms = queries->row_ptr[q + 1] - queries->row_ptr[q];

        longest = longest > terms ? longest : terms;
    }
    CSP_TRY(hits_create(queries->rows, depth, &hits));
    CSP_TRY_GOTO(csp_alloc_zero("search", threads, sizeof(*workers), &workers));
    for (int i = 0; i < threads; i++) {
        CSP_TRY_GOTO(worker_init(&workers[i], depth, longest));
    }
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
    for (int64_t q = 0; q < queries->rows; q++) {
        search_one(index, queries, q, options, &workers[omp_get_thread_num()], hits);
    }
    workers_free(workers, threads);
    *out = hits;
    return CSP_OK;

fail:
    workers_free(workers, threads);
    csp_hits_free(hits);
    return status;
}

void csp_hits_free(csp_hits *hits)
{
    if (hits == NULL) {
        return;
    }
    free(hits->count);
    free(hits->doc);
    free(hits->score);
    free(hits);
}

csp_status csp_ranking_create(int64_t queries, int64_t rows, csp_ranking **out)
{
    csp_ranking *ranking;
    csp_trec_row *row = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero("ranking", 1, sizeof(*ranking), &ranking));
    CSP_TRY_GOTO(csp_alloc_zero("ranking", queries + 1, sizeof(*ranking->trec.queries),
                                &ranking->trec.queries));
    CSP_TRY_GOTO(csp_alloc("ranking", rows, sizeof(*row), &row));
    /* The first query's rows are the block that csp_ranking_free gives back. */
    ranking->trec.queries[0].rows = row;
    *out = ranking;
    return CSP_OK;

fail:
    csp_ranking_free(ranking);
    return status;
}

void csp_ranking_free(csp_ranking *ranking)
{
    if (ranking == NULL) {
        return;
    }
    if (ranking->trec.queries != NULL) {
        free(ranking->trec.queries[0].rows);
    }
    free(ranking->trec.queries);
    free(ranking);
}

csp_status csp_ranking_from_hits(const csp_hits *hits, const csp_index *index,
                                 char *const *query_id, csp_ranking **out)
{
    csp_ranking *ranking;
    csp_trec_row *row;
    int64_t rows = 0;

    for (int64_t q = 0; q < hits->queries; q++) {
        rows += hits->count[q];
    }
    CSP_TRY(csp_ranking_create(hits->queries, rows, &ranking));
    row = ranking->trec.queries[0].rows;
    for (int64_t q = 0; q < hits->queries; q++) {
        ranking->trec.queries[q] =
            (csp_trec_query) { .query_id = query_id[q], .rows = row, .count = hits->count[q] };
        for (int64_t i = 0; i < hits->count[q]; i++) {
            *row++ = (csp_trec_row) { index->id[hits->doc[q * hits->depth + i]],
                                      (double)hits->score[q * hits->depth + i] };
        }
    }
    ranking->trec.count = hits->queries;
    *out = ranking;
    return CSP_OK;
}

csp_status csp_ranking_write(const csp_ranking *ranking, const char *path, const char *tag)
{
    csp_run_writer *writer;

    CSP_TRY(csp_run_writer_create(path, tag, &writer));
    for (int64_t q = 0; q < ranking->trec.count; q++) {
        const csp_trec_query *x = &ranking->trec.queries[q];
        const csp_status status = csp_run_writer_append(writer, x->query_id, x->rows, x->count);

        if (status != CSP_OK) {
            csp_run_writer_abandon(writer);
            return status;
        }
    }
    return csp_run_writer_commit(writer);
}
