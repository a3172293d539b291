/*
 * fuse.c - merges two lists of one query after sorting each by document id.
 */
#include "eval/fuse.h"

#include "core/memory.h"

#include <stdlib.h>
#include <string.h>

/* A list ready to be merged: rows by ascending id, scores normalised. */
typedef struct side {
    csp_trec_row *row;
    int64_t count;
    double missing; /* what a document outside the list gets */
} side;

static int by_id(const void *a, const void *b)
{
    return strcmp(((const csp_trec_row *)a)->doc_id, ((const csp_trec_row *)b)->doc_id);
}

static int best_first(const void *a, const void *b)
{
    const csp_trec_row *x = a, *y = b;

    if (x->value != y->value) {
        return x->value < y->value ? 1 : -1;
    }
    return strcmp(y->doc_id, x->doc_id);
}

/* query may be NULL: an empty list. */
static void prepare(const csp_trec_query *query, csp_fuse_norm norm, side *out)
{
    double low = 0.0, high = 0.0;

    out->count = query != NULL ? query->count : 0;
    for (int64_t i = 0; i < out->count; i++) {
        const double score = query->rows[i].value;

        low = i == 0 || score < low ? score : low;
        high = i == 0 || score > high ? score : high;
        out->row[i] = query->rows[i];
    }
    if (norm == CSP_FUSE_MIN_MAX) {
        for (int64_t i = 0; i < out->count; i++) {
            /* Halves: the range of a run from elsewhere may be beyond a double. */
            out->row[i].value =
                high > low ? (out->row[i].value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0) : 1.0;
        }
        low = 0.0;
    }
    out->missing = low;
    qsort(out->row, (size_t)out->count, sizeof(*out->row), by_id);
}

static int64_t merge(const side *a, const side *b, double alpha, csp_trec_row *out)
{
    int64_t i = 0, j = 0, n = 0;

    while (i < a->count || j < b->count) {
        const int order = i >= a->count ? 1 : j >= b->count ? -1 : by_id(&a->row[i], &b->row[j]);
        const char *id = order <= 0 ? a->row[i].doc_id : b->row[j].doc_id;
        const double x = order <= 0 ? a->row[i++].value : a->missing;
        const double y = order >= 0 ? b->row[j++].value : b->missing;

        out[n++] = (csp_trec_row) { id, alpha * x + (1.0 - alpha) * y };
    }
    qsort(out, (size_t)n, sizeof(*out), best_first);
    return n;
}

/* Queries of both runs, joined by id. */
typedef struct pair {
    const char *id;
    const csp_trec_query *a, *b;
    int64_t order;
} pair;

static int by_query_id(const void *x, const void *y)
{
    const pair *a = x, *b = y;
    const int order = strcmp(a->id, b->id);

    return order != 0 ? order : (a->order > b->order) - (a->order < b->order);
}

static int by_order(const void *x, const void *y)
{
    const pair *a = x, *b = y;

    return (a->order > b->order) - (a->order < b->order);
}

/* Rankings carry no hash of their queries, so the join sorts. */
static csp_status join(const csp_trec *a, const csp_trec *b, pair **out, int64_t *count)
{
    pair *list;
    int64_t n = 0, kept = 0;

    CSP_TRY(csp_alloc("fusion", a->count + b->count, sizeof(*list), &list));
    for (int64_t q = 0; q < a->count; q++, n++) {
        list[n] = (pair) { a->queries[q].query_id, &a->queries[q], NULL, n };
    }
    for (int64_t q = 0; q < b->count; q++, n++) {
        list[n] = (pair) { b->queries[q].query_id, NULL, &b->queries[q], n };
    }
    qsort(list, (size_t)n, sizeof(*list), by_query_id);
    for (int64_t i = 0; i < n; i++) {
        if (kept > 0 && strcmp(list[kept - 1].id, list[i].id) == 0) {
            list[kept - 1].b = list[i].b;
        } else {
            list[kept++] = list[i];
        }
    }
    qsort(list, (size_t)kept, sizeof(*list), by_order);
    *out = list;
    *count = kept;
    return CSP_OK;
}

static int64_t rows_of(const csp_trec_query *query)
{
    return query != NULL ? query->count : 0;
}

csp_status csp_fuse(const csp_trec *a, const csp_trec *b, double alpha, csp_fuse_norm norm,
                    int64_t depth, csp_ranking **out)
{
    csp_ranking *ranking = NULL;
    pair *list = NULL;
    side x = { 0 }, y = { 0 };
    csp_trec_row *row;
    csp_status status;
    int64_t queries, rows = 0, most_a = 0, most_b = 0;

    if (!(alpha >= 0.0 && alpha <= 1.0)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "fusion: the weight is %g, but must be in 0..1", alpha);
    }
    CSP_TRY(join(a, b, &list, &queries));
    for (int64_t q = 0; q < queries; q++) {
        const int64_t in_a = rows_of(list[q].a), in_b = rows_of(list[q].b);

        rows += in_a + in_b;
        most_a = in_a > most_a ? in_a : most_a;
        most_b = in_b > most_b ? in_b : most_b;
    }
    CSP_TRY_GOTO(csp_alloc("fusion", most_a, sizeof(*x.row), &x.row));
    CSP_TRY_GOTO(csp_alloc("fusion", most_b, sizeof(*y.row), &y.row));
    CSP_TRY_GOTO(csp_ranking_create(queries, rows, &ranking));
    row = ranking->trec.queries[0].rows;
    for (int64_t q = 0; q < queries; q++) {
        int64_t n;

        prepare(list[q].a, norm, &x);
        prepare(list[q].b, norm, &y);
        n = merge(&x, &y, alpha, row);
        n = depth > 0 && n > depth ? depth : n;
        ranking->trec.queries[q] =
            (csp_trec_query) { .query_id = list[q].id, .rows = row, .count = n };
        row += n;
    }
    ranking->trec.count = queries;
    *out = ranking;

fail:
    free(list);
    free(x.row);
    free(y.row);
    return status;
}

csp_status csp_fuse_tune(const csp_trec *qrels, const csp_trec *a, const csp_trec *b,
                         csp_fuse_norm norm, const csp_measure *measure, int64_t steps,
                         double *alpha, double *value)
{
    double best_alpha = 0.0, best = -1.0;

    if (steps < 1) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "fusion: %lld steps, but at least 1 is needed",
                        (long long)steps);
    }
    for (int64_t i = 0; i <= steps; i++) {
        const double x = (double)i / (double)steps;
        csp_ranking *ranking;
        csp_metrics *metrics;
        csp_status status;

        CSP_TRY(csp_fuse(a, b, x, norm, 0, &ranking));
        status = csp_metrics_compute(qrels, &ranking->trec, measure, 1, NULL, &metrics);
        csp_ranking_free(ranking);
        CSP_TRY(status);
        if (metrics->mean[0] > best) {
            best = metrics->mean[0];
            best_alpha = x;
        }
        csp_metrics_free(metrics);
    }
    *alpha = best_alpha;
    *value = best;
    return CSP_OK;
}
