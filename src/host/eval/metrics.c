/*
 * metrics.c - ranks a run's documents once per query, and reads every measure off that ranking.
 */
#include "eval/metrics.h"

#include "core/memory.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    csp_measure_kind kind;
    bool needs_cut;
    bool canonical;
} names[] = {
    { "nDCG", CSP_MEASURE_NDCG, false, true },   { "RR", CSP_MEASURE_RR, false, true },
    { "MRR", CSP_MEASURE_RR, false, false },     { "R", CSP_MEASURE_R, true, true },
    { "Recall", CSP_MEASURE_R, true, false },    { "AP", CSP_MEASURE_AP, false, true },
    { "MAP", CSP_MEASURE_AP, false, false },     { "P", CSP_MEASURE_P, true, true },
    { "Precision", CSP_MEASURE_P, true, false },
};
enum { NAMES = sizeof(names) / sizeof(names[0]) };

/* A positive number of at most nine digits at *text, which moves behind it; 0 if there is none. */
static int64_t read_count(const char **text)
{
    int64_t value = 0;
    int digits = 0;

    while (isdigit((unsigned char)**text) && digits < 9) {
        value = value * 10 + (**text - '0');
        digits++;
        (*text)++;
    }
    return isdigit((unsigned char)**text) ? 0 : value;
}

static const char *canonical_name(csp_measure_kind kind)
{
    for (int i = 0; i < NAMES; i++) {
        if (names[i].kind == kind && names[i].canonical) {
            return names[i].name;
        }
    }
    return "?";
}

/* text is one measure, NUL-terminated. */
static csp_status parse_one(const char *text, csp_measure *out)
{
    const size_t word = strcspn(text, "(@");
    const char *rest = text + word;
    csp_measure m = { .rel = 1 };
    char rel[24] = "", cut[24] = "";
    int found = -1;

    for (int i = 0; i < NAMES; i++) {
        if (strlen(names[i].name) == word && strncasecmp(names[i].name, text, word) == 0) {
            found = i;
        }
    }
    if (found < 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "measure '%.40s': not one of nDCG@k, RR@k, R@k, AP, AP@k, P@k", text);
    }
    m.kind = names[found].kind;
    if (strncmp(rest, "(rel=", 5) == 0) {
        rest += 5;
        m.rel = read_count(&rest);
        if (m.rel < 1 || *rest != ')' || m.kind == CSP_MEASURE_NDCG) {
            return CSP_FAIL(
                CSP_ERR_ARGUMENT,
                "measure '%.40s': (rel=N) takes a whole number from 1, and nDCG has none", text);
        }
        rest++;
    }
    if (*rest == '@') {
        rest++;
        m.cut = read_count(&rest);
        if (m.cut < 1) {
            return CSP_FAIL(CSP_ERR_ARGUMENT, "measure '%.40s': @ needs a whole number from 1",
                            text);
        }
    } else if (names[found].needs_cut && *rest == '\0') {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "measure '%.40s': needs a depth, as in %s@100", text,
                        canonical_name(m.kind));
    }
    if (*rest != '\0') {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "measure '%.40s': '%.20s' at its end is not understood",
                        text, rest);
    }
    if (m.rel != 1) {
        (void)snprintf(rel, sizeof(rel), "(rel=%lld)", (long long)m.rel);
    }
    if (m.cut != 0) {
        (void)snprintf(cut, sizeof(cut), "@%lld", (long long)m.cut);
    }
    (void)snprintf(m.name, sizeof(m.name), "%s%s%s", canonical_name(m.kind), rel, cut);
    *out = m;
    return CSP_OK;
}

csp_status csp_measures_parse(const char *list, csp_measure **out, int64_t *count)
{
    static const char between[] = ", \t\r\n";
    csp_measure *measure = NULL;
    csp_status status = CSP_OK;
    int64_t n = 0;

    CSP_TRY(csp_alloc("measures", (int64_t)strlen(list) / 2 + 1, sizeof(*measure), &measure));
    for (const char *at = list + strspn(list, between); *at != '\0'; at += strspn(at, between)) {
        const size_t length = strcspn(at, between);
        char text[64];

        if (length >= sizeof(text)) {
            status = CSP_FAIL(CSP_ERR_ARGUMENT, "measure '%.40s...': longer than 63 bytes", at);
            goto fail;
        }
        memcpy(text, at, length);
        text[length] = '\0';
        CSP_TRY_GOTO(parse_one(text, &measure[n]));
        n++;
        at += length;
    }
    if (n == 0) {
        status = CSP_FAIL(CSP_ERR_ARGUMENT, "no measure given: name some, as in nDCG@10,RR@10");
        goto fail;
    }
    *out = measure;
    *count = n;
    return CSP_OK;

fail:
    free(measure);
    return status;
}

/* One document of a ranking, or of the judgements (score unused). */
typedef struct ranked {
    const char *doc_id;
    float score;
    double rel;
} ranked;

static int by_score_then_id_descending(const void *a, const void *b)
{
    const ranked *x = a, *y = b;

    if (x->score != y->score) {
        return x->score < y->score ? 1 : -1;
    }
    return strcmp(y->doc_id, x->doc_id);
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const ranked *)a)->doc_id, ((const ranked *)b)->doc_id);
}

static int by_rel_descending(const void *a, const void *b)
{
    const double x = ((const ranked *)a)->rel, y = ((const ranked *)b)->rel;

    return x < y ? 1 : x > y ? -1 : 0;
}

/* sum over the first cut documents of max(rel, 0) / log2(rank + 1) */
static double discounted_gain(const ranked *list, int64_t count, int64_t cut)
{
    double sum = 0.0;

    for (int64_t i = 0; i < count && (cut == 0 || i < cut); i++) {
        if (list[i].rel > 0.0) {
            sum += list[i].rel / log2((double)i + 2.0);
        }
    }
    return sum;
}

static double compute_one(const csp_measure *m, const ranked *list, int64_t count,
                          const ranked *ideal, int64_t judged)
{
    const int64_t depth = m->cut == 0 || m->cut > count ? count : m->cut;
    int64_t relevant = 0, hits = 0;
    double first = 0.0, precisions = 0.0;

    if (m->kind == CSP_MEASURE_NDCG) {
        const double best = discounted_gain(ideal, judged, m->cut);

        return best > 0.0 ? discounted_gain(list, count, m->cut) / best : 0.0;
    }
    for (int64_t i = 0; i < judged; i++) {
        relevant += ideal[i].rel >= (double)m->rel;
    }
    for (int64_t i = 0; i < depth; i++) {
        if (list[i].rel >= (double)m->rel) {
            hits++;
            first = first > 0.0 ? first : 1.0 / (double)(i + 1);
            precisions += (double)hits / (double)(i + 1);
        }
    }
    switch (m->kind) {
    case CSP_MEASURE_RR:
        return first;
    case CSP_MEASURE_R:
        return relevant > 0 ? (double)hits / (double)relevant : 0.0;
    case CSP_MEASURE_AP:
        return relevant > 0 ? precisions / (double)relevant : 0.0;
    default:
        return (double)hits / (double)m->cut;
    }
}

/* Fills one row of metrics->value. scratch holds judged->count + answer->count documents. */
static void compute_query(csp_metrics *metrics, int64_t q, const csp_trec_query *judged,
                          const csp_trec_query *answer, bool remove_query, ranked *scratch)
{
    ranked *ideal = scratch, *list = scratch + judged->count;
    int64_t count = 0;

    for (int64_t i = 0; i < judged->count; i++) {
        ideal[i] = (ranked) { judged->rows[i].doc_id, 0.0f, judged->rows[i].value };
    }
    qsort(ideal, (size_t)judged->count, sizeof(*ideal), by_id);
    for (int64_t i = 0; i < answer->count; i++) {
        ranked doc = { answer->rows[i].doc_id, (float)answer->rows[i].value, 0.0 };
        const ranked *match = bsearch(&doc, ideal, (size_t)judged->count, sizeof(*ideal), by_id);

        if (remove_query && strcmp(doc.doc_id, judged->query_id) == 0) {
            continue;
        }
        metrics->found++;
        metrics->found_judged += match != NULL;
        doc.rel = match != NULL ? match->rel : 0.0;
        list[count++] = doc;
    }
    qsort(list, (size_t)count, sizeof(*list), by_score_then_id_descending);
    qsort(ideal, (size_t)judged->count, sizeof(*ideal), by_rel_descending);
    metrics->unfindable += judged->count == 0 || ideal[0].rel < 1.0;
    for (int64_t m = 0; m < metrics->measures; m++) {
        metrics->value[q * metrics->measures + m] =
            compute_one(&metrics->measure[m], list, count, ideal, judged->count);
    }
}

static csp_status allocate(const csp_trec *qrels, const csp_measure *measure, int64_t measures,
                           csp_metrics **out)
{
    csp_metrics *x;
    csp_status status;

    CSP_TRY(csp_alloc_zero("metrics", 1, sizeof(*x), &x));
    x->measures = measures;
    CSP_TRY_GOTO(csp_alloc("metrics", measures, sizeof(*x->measure), &x->measure));
    memcpy(x->measure, measure, (size_t)measures * sizeof(*measure));
    CSP_TRY_GOTO(csp_alloc_zero("metrics", measures, sizeof(*x->mean), &x->mean));
    CSP_TRY_GOTO(csp_alloc_zero("metrics", qrels->count, sizeof(*x->query_id), &x->query_id));
    CSP_TRY_GOTO(csp_alloc_zero("metrics", qrels->count * measures, sizeof(*x->value), &x->value));
    for (; x->queries < qrels->count; x->queries++) {
        CSP_TRY_GOTO(
            csp_strdup("metrics", qrels->queries[x->queries].query_id, &x->query_id[x->queries]));
    }
    *out = x;
    return CSP_OK;

fail:
    csp_metrics_free(x);
    return status;
}

/* answer[q] is the run's query for judged query q, or NULL. Counts what does not join. */
static csp_status join(const csp_trec *qrels, const csp_trec *run, const csp_trec_query **answer,
                       csp_metrics *metrics, int64_t *most_rows)
{
    int64_t joined = 0, most = 0;

    for (int64_t i = 0; i < run->count; i++) {
        const csp_trec_query *judged = csp_trec_find(qrels, run->queries[i].query_id);

        if (judged == NULL) {
            metrics->unjudged++;
            continue;
        }
        answer[judged - qrels->queries] = &run->queries[i];
        joined++;
        most = most > run->queries[i].count ? most : run->queries[i].count;
    }
    if (run->count > 0 && joined == 0) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "none of the run's %lld queries (the first is '%.60s') is among the %lld "
                        "judged ones (the first is '%.60s')",
                        (long long)run->count, run->queries[0].query_id, (long long)qrels->count,
                        qrels->queries[0].query_id);
    }
    metrics->unanswered = qrels->count - joined;
    *most_rows = most;
    return CSP_OK;
}

csp_status csp_metrics_compute(const csp_trec *qrels, const csp_trec *run,
                               const csp_measure *measure, int64_t measures,
                               const csp_metrics_options *options, csp_metrics **out)
{
    const bool remove_query = options != NULL && options->remove_query;
    const csp_trec_query **answer = NULL;
    csp_metrics *metrics = NULL;
    ranked *scratch = NULL;
    csp_status status;
    int64_t most_rows, most_judged = 0;

    if (qrels->count == 0) {
        return CSP_FAIL(CSP_ERR_DATA, "there are no judgements to evaluate with");
    }
    CSP_TRY(allocate(qrels, measure, measures, &metrics));
    CSP_TRY_GOTO(csp_alloc_zero("metrics", qrels->count, sizeof(*answer), &answer));
    CSP_TRY_GOTO(join(qrels, run, answer, metrics, &most_rows));
    for (int64_t q = 0; q < qrels->count; q++) {
        most_judged = most_judged > qrels->queries[q].count ? most_judged : qrels->queries[q].count;
    }
    CSP_TRY_GOTO(csp_alloc("metrics", most_judged + most_rows, sizeof(*scratch), &scratch));
    for (int64_t q = 0; q < qrels->count; q++) {
        const csp_trec_query none = { .query_id = qrels->queries[q].query_id };

        compute_query(metrics, q, &qrels->queries[q], answer[q] != NULL ? answer[q] : &none,
                      remove_query, scratch);
        for (int64_t m = 0; m < measures; m++) {
            metrics->mean[m] += metrics->value[q * measures + m];
        }
    }
    for (int64_t m = 0; m < measures; m++) {
        metrics->mean[m] /= (double)qrels->count;
    }
    free(scratch);
    free(answer);
    *out = metrics;
    return CSP_OK;

fail:
    free(answer);
    csp_metrics_free(metrics);
    return status;
}

void csp_metrics_free(csp_metrics *metrics)
{
    if (metrics == NULL) {
        return;
    }
    for (int64_t q = 0; metrics->query_id != NULL && q < metrics->queries; q++) {
        free(metrics->query_id[q]);
    }
    free(metrics->query_id);
    free(metrics->value);
    free(metrics->mean);
    free(metrics->measure);
    free(metrics);
}
