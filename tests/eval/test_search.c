/*
 * test_search.c - the index and its search against a plain loop over all documents: scores, order,
 * ties, several blocks, any number of threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/fault.h"
#include "core/rng.h"
#include "eval/search.h"

/* Random rows: about mean_terms terms each, common ones first as in text, some rows empty. */
static csp_vectors *make_vectors(uint64_t seed, int64_t rows, int64_t vocab, int64_t mean_terms,
                                 const char *prefix, bool whole_weights)
{
    const csp_rng rng = { .seed = seed, .draw = CSP_DRAW_TEST };
    csp_vectors *v = calloc(1, sizeof(*v));
    unsigned char *used = calloc((size_t)vocab, 1);
    uint64_t at = 0;
    int64_t nnz = 0;

    v->rows = rows;
    v->vocab = vocab;
    v->row_ptr = calloc((size_t)rows + 1, sizeof(int64_t));
    v->term = malloc((size_t)(rows * 2 * mean_terms + 1) * sizeof(int32_t));
    v->weight = malloc((size_t)(rows * 2 * mean_terms + 1) * sizeof(float));
    v->ids = calloc((size_t)rows, sizeof(char *));
    for (int64_t r = 0; r < rows; r++) {
        const int64_t tries = (int64_t)csp_rng_below(rng, at++, (uint64_t)(2 * mean_terms));

        memset(used, 0, (size_t)vocab);
        for (int64_t i = 0; i < tries; i++) {
            const double u = (double)csp_rng_uniform(rng, 4 * at++);

            used[(int64_t)(u * u * (double)vocab)] = 1;
        }
        for (int64_t t = 0; t < vocab; t++) {
            if (used[t] != 0) {
                const float w = csp_rng_uniform(rng, 4 * at++);

                v->term[nnz] = (int32_t)t;
                v->weight[nnz++] = whole_weights ? floorf(4.0f * w) + 1.0f : w + 0.01f;
            }
        }
        v->row_ptr[r + 1] = nnz;
        assert_true(asprintf(&v->ids[r], "%s%lld", prefix, (long long)r) > 0);
    }
    free(used);
    return v;
}

static void drop_vectors(csp_vectors *v)
{
    for (int64_t r = 0; r < v->rows; r++) {
        free(v->ids[r]);
    }
    free(v->ids);
    free(v->row_ptr);
    free(v->term);
    free(v->weight);
    free(v);
}

static csp_index *build(const csp_vectors *v, int threads)
{
    const csp_vectors *part = v;
    csp_index *index = NULL;

    assert_int_equal(csp_index_build(&part, 1, threads, &index), CSP_OK);
    return index;
}

/* The score of one pair in double, and the sum of the sizes of its terms (all positive). */
static double exact_score(const csp_vectors *q, int64_t i, const csp_vectors *d, int64_t j)
{
    double sum = 0.0;

    for (int64_t a = q->row_ptr[i], b = d->row_ptr[j];
         a < q->row_ptr[i + 1] && b < d->row_ptr[j + 1];) {
        if (q->term[a] == d->term[b]) {
            sum += (double)q->weight[a++] * (double)d->weight[b++];
        } else if (q->term[a] < d->term[b]) {
            a++;
        } else {
            b++;
        }
    }
    return sum;
}

typedef struct expected {
    const char *id;
    double score;
} expected;

static int best_first(const void *a, const void *b)
{
    const expected *x = a, *y = b;

    if (x->score != y->score) {
        return x->score < y->score ? 1 : -1;
    }
    return strcmp(y->id, x->id);
}

/* Whole weights make sums exact: order and ties must then be equal, not close. */
static void finds_what_a_plain_loop_finds(void **state)
{
    csp_vectors *docs = make_vectors(1, 3000, 97, 12, "d", true);
    csp_vectors *queries = make_vectors(2, 25, 97, 4, "q", true);
    csp_index *index = build(docs, 1);
    expected *want = calloc(3000, sizeof(*want));
    const int64_t depths[] = { 1, 10, 100, 5000 };

    for (size_t k = 0; k < 4; k++) {
        const csp_search_options options = { .depth = depths[k] };
        csp_hits *hits;

        assert_int_equal(csp_index_search(index, queries, &options, &hits), CSP_OK);
        for (int64_t q = 0; q < queries->rows; q++) {
            int64_t n = 0;

            for (int64_t d = 0; d < docs->rows; d++) {
                const double s = exact_score(queries, q, docs, d);

                if (s > 0.0) {
                    want[n++] = (expected) { docs->ids[d], s };
                }
            }
            qsort(want, (size_t)n, sizeof(*want), best_first);
            assert_int_equal(hits->count[q], n < depths[k] ? n : depths[k]);
            for (int64_t i = 0; i < hits->count[q]; i++) {
                assert_string_equal(index->id[hits->doc[q * hits->depth + i]], want[i].id);
                assert_true((double)hits->score[q * hits->depth + i] == want[i].score);
            }
        }
        csp_hits_free(hits);
    }
    free(want);
    csp_index_free(index);
    drop_vectors(docs);
    drop_vectors(queries);
}

static void sums_stay_within_float_rounding(void **state)
{
    csp_vectors *docs = make_vectors(3, 500, 300, 60, "d", false);
    csp_vectors *queries = make_vectors(4, 40, 300, 60, "q", false);
    csp_index *index = build(docs, 1);
    const csp_search_options options = { .depth = 500 };
    csp_hits *hits;

    assert_int_equal(csp_index_search(index, queries, &options, &hits), CSP_OK);
    for (int64_t q = 0; q < queries->rows; q++) {
        const double n = (double)(queries->row_ptr[q + 1] - queries->row_ptr[q]);

        for (int64_t i = 0; i < hits->count[q]; i++) {
            const char *id = index->id[hits->doc[q * hits->depth + i]];
            const double want = exact_score(queries, q, docs, strtol(id + 1, NULL, 10));
            const double error = fabs((double)hits->score[q * hits->depth + i] - want);

            /* n products and n sums, each within half a unit of the positive total. */
            assert_true(error <= 2.0 * n * 0x1p-24 * want);
        }
    }
    csp_hits_free(hits);
    csp_index_free(index);
    drop_vectors(docs);
    drop_vectors(queries);
}

static void same_result_for_any_threads_over_several_blocks(void **state)
{
    csp_vectors *docs = make_vectors(5, 2 * CSP_INDEX_BLOCK + 77, 50, 5, "doc", false);
    csp_vectors *queries = make_vectors(6, 30, 50, 6, "q", false);
    csp_index *one = build(docs, 1), *three = build(docs, 3);
    csp_hits *a, *b;
    csp_search_options options = { .depth = 50, .threads = 1 };

    assert_int_equal(one->blocks, 3);
    assert_memory_equal(one->weight, three->weight, (size_t)one->postings * sizeof(float));
    assert_memory_equal(one->doc, three->doc, (size_t)one->postings * sizeof(uint16_t));
    assert_int_equal(csp_index_search(one, queries, &options, &a), CSP_OK);
    options.threads = 3;
    assert_int_equal(csp_index_search(three, queries, &options, &b), CSP_OK);
    for (int64_t q = 0; q < queries->rows; q++) {
        assert_int_equal(a->count[q], b->count[q]);
        assert_memory_equal(a->doc + q * 50, b->doc + q * 50,
                            (size_t)a->count[q] * sizeof(int32_t));
        assert_memory_equal(a->score + q * 50, b->score + q * 50,
                            (size_t)a->count[q] * sizeof(float));
        for (int64_t i = 0; i < a->count[q]; i++) {
            const char *id = one->id[a->doc[q * 50 + i]];
            const double want = exact_score(queries, q, docs, strtol(id + 3, NULL, 10));

            assert_true(fabs((double)a->score[q * 50 + i] - want) <= 24 * 0x1p-24 * want);
        }
    }
    csp_hits_free(a);
    csp_hits_free(b);
    csp_index_free(one);
    csp_index_free(three);
    drop_vectors(docs);
    drop_vectors(queries);
}

static void shards_make_the_same_index_as_the_whole(void **state)
{
    csp_vectors *docs = make_vectors(7, 400, 60, 8, "d", false);
    csp_vectors first = *docs, second = *docs;
    const csp_vectors *parts[] = { &second, &first };
    csp_index *whole = build(docs, 1), *joined;

    first.rows = 150;
    second.rows = 250;
    second.row_ptr = docs->row_ptr + 150;
    second.ids = docs->ids + 150;
    assert_int_equal(csp_index_build(parts, 2, 2, &joined), CSP_OK);
    assert_int_equal(whole->docs, joined->docs);
    assert_int_equal(whole->postings, joined->postings);
    assert_memory_equal(whole->doc, joined->doc, (size_t)whole->postings * sizeof(uint16_t));
    assert_memory_equal(whole->weight, joined->weight, (size_t)whole->postings * sizeof(float));
    csp_index_free(whole);
    csp_index_free(joined);
    drop_vectors(docs);
}

static void cuts_queries_and_leaves_the_query_out(void **state)
{
    int64_t rows[] = { 0, 2, 3, 3 };
    int32_t terms[] = { 1, 4, 4 };
    float weights[] = { 1.0f, 2.0f, 5.0f };
    char *ids[] = { "a", "b", "c" };
    csp_vectors v = {
        .rows = 3, .vocab = 6, .row_ptr = rows, .term = terms, .weight = weights, .ids = ids
    };
    csp_index *index = build(&v, 1);
    csp_hits *hits;

    assert_int_equal(
        csp_index_search(index, &v, &(csp_search_options) { .depth = 3, .query_terms = 1 }, &hits),
        CSP_OK);
    assert_int_equal(hits->count[0], 2);
    assert_true(hits->score[0] == 10.0f && hits->score[1] == 4.0f);
    csp_hits_free(hits);
    assert_int_equal(csp_index_search(index, &v,
                                      &(csp_search_options) { .depth = 3, .remove_query = true },
                                      &hits),
                     CSP_OK);
    assert_int_equal(hits->count[0], 1);
    assert_string_equal(index->id[hits->doc[0]], "b");
    assert_int_equal(hits->count[1], 1);
    assert_string_equal(index->id[hits->doc[3]], "a");
    assert_int_equal(hits->count[2], 0);
    csp_hits_free(hits);
    assert_int_equal(csp_index_find(index, "b"), 1);
    assert_int_equal(csp_index_find(index, "bb"), -1);
    csp_index_free(index);
}

static void measures_sizes_and_flops(void **state)
{
    int64_t rows[] = { 0, 2, 3, 3 };
    int32_t terms[] = { 1, 4, 4 };
    float weights[] = { 1.0f, 2.0f, 5.0f };
    char *ids[] = { "a", "b", "c" };
    csp_vectors v = {
        .rows = 3, .vocab = 6, .row_ptr = rows, .term = terms, .weight = weights, .ids = ids
    };
    csp_index *index = build(&v, 1);
    csp_index_stats s;
    double flops;

    assert_int_equal(csp_index_measure(index, &s), CSP_OK);
    assert_int_equal(s.docs, 3);
    assert_int_equal(s.empty_docs, 1);
    assert_int_equal(s.terms, 2);
    assert_int_equal(s.postings, 3);
    assert_true(s.mean_terms == 1.0);
    assert_int_equal(s.packed_bytes, 2 * 8 + 3 * 2);
    assert_true(s.memory_bytes > 3 * 6);
    assert_int_equal(csp_index_flops(index, &v, &flops), CSP_OK);
    assert_true(fabs(flops - (1.0 / 3 * 1.0 / 3 + 2.0 / 3 * 2.0 / 3)) < 1e-15);
    csp_index_free(index);
}

static void refuses_what_it_cannot_index(void **state)
{
    int64_t rows[] = { 0, 1, 2 };
    int32_t terms[] = { 1, 4 };
    float weights[] = { 1.0f, 2.0f };
    char *ids[] = { "a", "b" }, *same[] = { "a", "a" };
    csp_vectors v = {
        .rows = 2, .vocab = 6, .row_ptr = rows, .term = terms, .weight = weights, .ids = ids
    };
    csp_vectors other = v;
    const csp_vectors *parts[] = { &v, &other };
    csp_index *index = NULL;
    csp_hits *hits = NULL;

    other.vocab = 7;
    assert_int_equal(csp_index_build(parts, 2, 1, &index), CSP_ERR_DATA);
    v.ids = same;
    assert_int_equal(csp_index_build(parts, 1, 1, &index), CSP_ERR_DATA);
    assert_non_null(strstr(csp_error_text(), "document id a"));
    v.ids = ids;
    terms[1] = 6;
    assert_int_equal(csp_index_build(parts, 1, 1, &index), CSP_ERR_DATA);
    terms[1] = 4;
    weights[0] = NAN;
    assert_int_equal(csp_index_build(parts, 1, 1, &index), CSP_ERR_DATA);
    weights[0] = 1.0f;
    assert_null(index);
    index = build(&v, 1);
    assert_int_equal(csp_index_search(index, &v, &(csp_search_options) { 0 }, &hits),
                     CSP_ERR_ARGUMENT);
    assert_null(hits);
    csp_index_free(index);
}

static void every_allocation_may_fail(void **state)
{
    csp_vectors *docs = make_vectors(8, 40, 20, 5, "d", false);
    const csp_vectors *part = docs;
    const csp_search_options options = { .depth = 5, .threads = 2 };
    csp_status status = CSP_ERR_MEMORY;

    for (long n = 1; status != CSP_OK; n++) {
        csp_index *index = NULL;
        csp_hits *hits = NULL;
        csp_ranking *ranking = NULL;
        csp_index_stats stats;

        csp_fault_arm(n);
        status = csp_index_build(&part, 1, 1, &index);
        if (status == CSP_OK) {
            status = csp_index_measure(index, &stats);
        }
        if (status == CSP_OK) {
            status = csp_index_search(index, docs, &options, &hits);
        }
        if (status == CSP_OK) {
            status = csp_ranking_from_hits(hits, index, docs->ids, &ranking);
        }
        assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
        assert_true(n < 100);
        csp_ranking_free(ranking);
        csp_hits_free(hits);
        csp_index_free(index);
    }
    csp_fault_arm(0);
    drop_vectors(docs);
}

static void writes_a_run_that_reads_back(void **state)
{
    csp_vectors *docs = make_vectors(9, 60, 30, 5, "d", false);
    csp_index *index = build(docs, 1);
    char path[] = "/tmp/csplade-run-XXXXXX";
    csp_hits *hits;
    csp_ranking *ranking;
    csp_trec *run;

    assert_true(close(mkstemp(path)) == 0);
    assert_int_equal(csp_index_search(index, docs, &(csp_search_options) { .depth = 7 }, &hits),
                     CSP_OK);
    assert_int_equal(csp_ranking_from_hits(hits, index, docs->ids, &ranking), CSP_OK);
    assert_int_equal(csp_ranking_write(ranking, path, "csplade"), CSP_OK);
    assert_int_equal(csp_run_read(path, &run), CSP_OK);
    for (int64_t q = 0; q < docs->rows; q++) {
        const csp_trec_query *got = csp_trec_find(run, docs->ids[q]);

        assert_int_equal(got != NULL ? got->count : 0, hits->count[q]);
        for (int64_t i = 0; i < hits->count[q]; i++) {
            assert_string_equal(got->rows[i].doc_id, index->id[hits->doc[q * hits->depth + i]]);
            assert_true((float)got->rows[i].value == hits->score[q * hits->depth + i]);
        }
    }
    unlink(path);
    csp_trec_free(run);
    csp_ranking_free(ranking);
    csp_hits_free(hits);
    csp_index_free(index);
    drop_vectors(docs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_a_plain_loop_finds),
        cmocka_unit_test(sums_stay_within_float_rounding),
        cmocka_unit_test(same_result_for_any_threads_over_several_blocks),
        cmocka_unit_test(shards_make_the_same_index_as_the_whole),
        cmocka_unit_test(cuts_queries_and_leaves_the_query_out),
        cmocka_unit_test(measures_sizes_and_flops),
        cmocka_unit_test(refuses_what_it_cannot_index),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(writes_a_run_that_reads_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
