/*
 * bm25.c - BM25 as sparse vectors: a document's weights are its BM25 contributions, a query's are
 * its word counts, and the inner product is the score; the index and the search are everybody's.
 */
#include "eval/bm25.h"

#include "core/memory.h"
#include "eval/words.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct csp_bm25 {
    csp_words *words;
    csp_index *index;
};

/* Rows being collected: word counts of texts. */
typedef struct rows {
    csp_vectors v;   /* weight holds counts */
    int64_t *length; /* [rows] words of a text, repetitions included */
    int64_t row_capacity;
    int64_t entry_capacity;
} rows;

csp_bm25_options csp_bm25_defaults(void)
{
    return (csp_bm25_options) { .k1 = 0.9, .b = 0.4, .threads = 0 };
}

static int by_value(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

static csp_status rows_reserve(rows *r, int64_t entries)
{
    int64_t needed;

    if (r->v.rows + 1 > r->row_capacity) {
        const int64_t wanted = 1024 + 2 * r->row_capacity;

        CSP_TRY(csp_realloc("BM25 rows", wanted + 1, sizeof(int64_t), &r->v.row_ptr));
        CSP_TRY(csp_realloc("BM25 rows", wanted, sizeof(int64_t), &r->length));
        CSP_TRY(csp_realloc("BM25 rows", wanted, sizeof(char *), &r->v.ids));
        r->row_capacity = wanted;
        r->v.row_ptr[0] = 0;
    }
    needed = r->v.row_ptr[r->v.rows] + entries;
    if (needed > r->entry_capacity || r->v.term == NULL) {
        const int64_t wanted = 4096 + needed + needed / 2;

        CSP_TRY(csp_realloc("BM25 rows", wanted, sizeof(int32_t), &r->v.term));
        CSP_TRY(csp_realloc("BM25 rows", wanted, sizeof(float), &r->v.weight));
        r->entry_capacity = wanted;
    }
    return CSP_OK;
}

/* Adds one text's words (sorted here) as a row of counts. */
static csp_status rows_append(rows *r, const char *id, csp_word_list *list)
{
    int64_t at;

    CSP_TRY(rows_reserve(r, list->count));
    at = r->v.row_ptr[r->v.rows];
    CSP_TRY(csp_strdup("BM25 ids", id, &r->v.ids[r->v.rows]));
    if (list->count > 0) {
        qsort(list->term, (size_t)list->count, sizeof(*list->term), by_value);
    }
    for (int64_t i = 0; i < list->count; i++) {
        if (i > 0 && list->term[i] == list->term[i - 1]) {
            r->v.weight[at - 1] += 1.0f;
        } else {
            r->v.term[at] = list->term[i];
            r->v.weight[at++] = 1.0f;
        }
    }
    r->length[r->v.rows++] = list->count;
    r->v.row_ptr[r->v.rows] = at;
    return CSP_OK;
}

static void rows_clear(rows *r)
{
    for (int64_t i = 0; i < r->v.rows; i++) {
        free(r->v.ids[i]);
    }
    free(r->v.ids);
    free(r->v.row_ptr);
    free(r->v.term);
    free(r->v.weight);
    free(r->length);
}

/* Turns counts into BM25 weights, in place. */
static csp_status weigh(rows *r, const csp_bm25_options *options)
{
    const double N = (double)r->v.rows;
    double total = 0.0;
    int64_t *df;

    CSP_TRY(csp_alloc_zero("BM25 frequencies", r->v.vocab, sizeof(*df), &df));
    for (int64_t i = 0; i < r->v.row_ptr[r->v.rows]; i++) {
        df[r->v.term[i]]++;
    }
    for (int64_t d = 0; d < r->v.rows; d++) {
        total += (double)r->length[d];
    }
    for (int64_t d = 0; d < r->v.rows; d++) {
        const double relative = total > 0.0 ? (double)r->length[d] * N / total : 0.0;
        const double norm = options->k1 * (1.0 - options->b + options->b * relative);

        for (int64_t i = r->v.row_ptr[d]; i < r->v.row_ptr[d + 1]; i++) {
            const double n = (double)df[r->v.term[i]], tf = (double)r->v.weight[i];

            r->v.weight[i] = (float)(log(1.0 + (N - n + 0.5) / (n + 0.5)) * tf / (tf + norm));
        }
    }
    free(df);
    return CSP_OK;
}

csp_status csp_bm25_create(csp_bm25_next next, void *context, const csp_bm25_options *options,
                           csp_bm25 **out)
{
    csp_bm25 *bm25 = NULL;
    csp_word_list list = { 0 };
    rows r = { 0 };
    const csp_vectors *part = &r.v;
    csp_status status;

    if (!(options->k1 >= 0.0 && isfinite(options->k1) && options->b >= 0.0 && options->b <= 1.0)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "BM25: k1 is %g and b %g, but k1 >= 0 and b in 0..1",
                        options->k1, options->b);
    }
    CSP_TRY_GOTO(csp_alloc_zero("BM25", 1, sizeof(*bm25), &bm25));
    CSP_TRY_GOTO(csp_words_create(&bm25->words));
    CSP_TRY_GOTO(rows_reserve(&r, 0));
    for (;;) {
        const char *id = NULL, *text = NULL;
        int64_t bytes = 0;

        CSP_TRY_GOTO(next(context, &id, &text, &bytes));
        if (id == NULL) {
            break;
        }
        CSP_TRY_GOTO(csp_words_learn(bm25->words, text, bytes, &list));
        CSP_TRY_GOTO(rows_append(&r, id, &list));
    }
    r.v.vocab = csp_words_count(bm25->words);
    CSP_TRY_GOTO(weigh(&r, options));
    CSP_TRY_GOTO(csp_index_build(&part, 1, options->threads, &bm25->index));
    rows_clear(&r);
    free(list.term);
    *out = bm25;
    return CSP_OK;

fail:
    rows_clear(&r);
    free(list.term);
    csp_bm25_destroy(bm25);
    return status;
}

void csp_bm25_destroy(csp_bm25 *bm25)
{
    if (bm25 == NULL) {
        return;
    }
    csp_words_destroy(bm25->words);
    csp_index_free(bm25->index);
    free(bm25);
}

const csp_index *csp_bm25_index(const csp_bm25 *bm25)
{
    return bm25->index;
}

csp_status csp_bm25_search(const csp_bm25 *bm25, char *const *query_id, char *const *text,
                           int64_t queries, const csp_search_options *options, csp_hits **out,
                           double *mean_terms)
{
    csp_word_list list = { 0 };
    rows r = { 0 };
    csp_status status;

    r.v.vocab = csp_words_count(bm25->words);
    CSP_TRY_GOTO(rows_reserve(&r, 0));
    for (int64_t q = 0; q < queries; q++) {
        CSP_TRY_GOTO(csp_words_look_up(bm25->words, text[q], (int64_t)strlen(text[q]), &list));
        CSP_TRY_GOTO(rows_append(&r, query_id[q], &list));
    }
    CSP_TRY_GOTO(csp_index_search(bm25->index, &r.v, options, out));
    if (mean_terms != NULL) {
        *mean_terms = queries > 0 ? (double)r.v.row_ptr[queries] / (double)queries : 0.0;
    }

fail:
    rows_clear(&r);
    free(list.term);
    return status;
}
