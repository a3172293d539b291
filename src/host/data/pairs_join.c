/* pairs_join.c - from edges in reading order to lists by example, positives and negatives apart. */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/pairs_internal.h"

/* Edges grouped by query, each group in reading order: start has queries + 1 entries. */
typedef struct grouped {
    int64_t *start;
    int32_t *document;
} grouped;

static csp_status group(const pair_edges *edges, int64_t queries, grouped *out)
{
    csp_status status;
    grouped g = { 0 };

    CSP_TRY_GOTO(csp_alloc_zero("pairs", queries + 2, sizeof(*g.start), &g.start));
    CSP_TRY_GOTO(csp_alloc("pairs", edges->count, sizeof(*g.document), &g.document));
    for (int64_t i = 0; i < edges->count; i++) {
        g.start[edges->items[i].query + 2]++;
    }
    for (int64_t q = 0; q < queries; q++) {
        g.start[q + 2] += g.start[q + 1];
    }
    /* start[q + 1] is now where the next edge of q goes, and ends as the end of its group. */
    for (int64_t i = 0; i < edges->count; i++) {
        g.document[g.start[edges->items[i].query + 1]++] = edges->items[i].document;
    }
    *out = g;
    return CSP_OK;

fail:
    free(g.start);
    free(g.document);
    return status;
}

static int compare_keys(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* The positives of a query, ascending and distinct, behind those placed before. */
static void take_positives(csp_pairs *pairs, const grouped *g, int64_t query)
{
    const int64_t first = pairs->positive_start[pairs->count];
    const int64_t found = g->start[query + 1] - g->start[query];
    int64_t *list = pairs->positive + first, distinct = 0;

    for (int64_t i = 0; i < found; i++) {
        list[i] = g->document[g->start[query] + i];
    }
    if (found > 0) {
        qsort(list, (size_t)found, sizeof(*list), compare_keys);
    }
    for (int64_t i = 0; i < found; i++) {
        if (distinct == 0 || list[distinct - 1] != list[i]) {
            list[distinct++] = list[i];
        }
    }
    pairs->positive_start[pairs->count + 1] = first + distinct;
}

/*
 * The negatives of a query, without known positives and repetitions. stamp holds, by document, what
 * this query has seen it as: 2e + 1 a positive, 2e + 2 a negative, of example e.
 */
static void take_negatives(csp_pairs *pairs, const grouped *g, int64_t query, uint32_t *stamp)
{
    const int64_t e = pairs->count;
    const uint32_t positive = 2 * (uint32_t)e + 1, negative = positive + 1;
    int64_t at = pairs->negative_start[e];

    for (int64_t i = pairs->positive_start[e]; i < pairs->positive_start[e + 1]; i++) {
        stamp[pairs->positive[i]] = positive;
    }
    for (int64_t i = g->start[query]; i < g->start[query + 1]; i++) {
        const int32_t document = g->document[i];

        if (stamp[document] == positive) {
            pairs->report.negatives_positive++;
        } else if (stamp[document] == negative) {
            pairs->report.negatives_repeated++;
        } else {
            stamp[document] = negative;
            pairs->negative[at++] = document;
        }
    }
    pairs->negative_start[e + 1] = at;
}

static const char *query_id(const csp_pairs *pairs, int64_t query)
{
    return pairs->lines != NULL ? csp_id_table_id(pairs->lines->query_ids, query)
                                : csp_text_store_id(pairs->queries, query);
}

csp_status pairs_join(csp_pairs *pairs, const uint8_t *named, const pair_edges *positives,
                      const pair_edges *negatives)
{
    const int64_t queries = pairs_query_ordinals(pairs);
    /* A file of training lines without a line has neither documents nor examples. */
    const int64_t documents = queries > 0 ? csp_pairs_documents(pairs) : 0;
    csp_status status;
    grouped p = { 0 }, n = { 0 };
    uint32_t *stamp = NULL;

    CSP_TRY_GOTO(group(positives, queries, &p));
    CSP_TRY_GOTO(group(negatives, queries, &n));
    CSP_TRY_GOTO(csp_alloc_zero("pairs", documents, sizeof(*stamp), &stamp));
    CSP_TRY_GOTO(csp_alloc("pairs", queries, sizeof(*pairs->query), &pairs->query));
    CSP_TRY_GOTO(csp_alloc_zero("pairs", queries + 1, sizeof(int64_t), &pairs->positive_start));
    CSP_TRY_GOTO(csp_alloc_zero("pairs", queries + 1, sizeof(int64_t), &pairs->negative_start));
    CSP_TRY_GOTO(csp_alloc("pairs", positives->count, sizeof(int64_t), &pairs->positive));
    CSP_TRY_GOTO(csp_alloc("pairs", negatives->count, sizeof(int32_t), &pairs->negative));
    for (int64_t q = 0; q < queries; q++) {
        const int64_t e = pairs->count;

        if (named[q] == 0) {
            continue;
        }
        take_positives(pairs, &p, q);
        if (pairs->positive_start[e + 1] == pairs->positive_start[e]) {
            csp_missing_add(&pairs->report.without_positive, query_id(pairs, q));
            continue;
        }
        take_negatives(pairs, &n, q, stamp);
        pairs->query[e] = (int32_t)q;
        pairs->count++;
    }
    pairs->report.examples = pairs->count;
    pairs->report.documents = documents;
    pairs->report.positives = pairs->positive_start[pairs->count];
    pairs->report.negatives = pairs->negative_start[pairs->count];
    status = CSP_OK;

fail:
    free(stamp);
    free(p.start);
    free(p.document);
    free(n.start);
    free(n.document);
    return status;
}
