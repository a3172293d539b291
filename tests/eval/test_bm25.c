/*
 * test_bm25.c - BM25 by hand on three documents, words of several scripts, and the tables of
 * ../shared/data (which bm25s made) on real collections.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/fault.h"
#include "eval/bm25.h"
#include "eval/metrics.h"
#include "eval/words.h"
#include "io/file.h"
#include "io/lines.h"

#define DATA CSPLADE_SOURCE_DIR "/../shared/data"

typedef struct pairs {
    const char *const (*pair)[2];
    int64_t count, at;
} pairs;

static csp_status next_pair(void *context, const char **id, const char **text, int64_t *bytes)
{
    pairs *p = context;

    if (p->at < p->count) {
        *id = p->pair[p->at][0];
        *text = p->pair[p->at][1];
        *bytes = (int64_t)strlen(*text);
        p->at++;
    }
    return CSP_OK;
}

static void scores_as_the_equation_says(void **state)
{
    static const char *const docs[][2] = {
        { "d1", "The cat sat on the mat" },     /* cat sat mat */
        { "d2", "Cats and dogs, dogs, DOGS!" }, /* cat dog dog dog */
        { "d3", "" },
    };
    pairs from = { docs, 3, 0 };
    const csp_bm25_options options = csp_bm25_defaults();
    const csp_search_options search = { .depth = 10 };
    char *ids[] = { "q1", "q2", "q3" };
    char *texts[] = { "dog cats dog", "unknown words of the zebra", "" };
    const double avg = 7.0 / 3.0, idf_cat = log(1.0 + 1.5 / 2.5), idf_dog = log(1.0 + 2.5 / 1.5);
    const double n1 = 0.9 * (0.6 + 0.4 * 3.0 / avg), n2 = 0.9 * (0.6 + 0.4 * 4.0 / avg);
    csp_bm25 *bm25;
    csp_hits *hits;
    double terms;

    assert_int_equal(csp_bm25_create(next_pair, &from, &options, &bm25), CSP_OK);
    assert_int_equal(csp_bm25_search(bm25, ids, texts, 3, &search, &hits, &terms), CSP_OK);
    assert_true(fabs(terms - 2.0 / 3.0) < 1e-12);
    assert_int_equal(hits->count[0], 2);
    assert_int_equal(hits->count[1], 0);
    assert_int_equal(hits->count[2], 0);
    assert_string_equal(csp_bm25_index(bm25)->id[hits->doc[0]], "d2");
    /* "dog" stands twice in the query and counts twice. A few float32 roundings: 1e-6. */
    assert_true(fabs((double)hits->score[0] -
                     (2.0 * idf_dog * 3.0 / (3.0 + n2) + idf_cat * 1.0 / (1.0 + n2))) < 1e-6);
    assert_true(fabs((double)hits->score[1] - idf_cat * 1.0 / (1.0 + n1)) < 1e-6);
    csp_hits_free(hits);
    csp_bm25_destroy(bm25);
}

static void cuts_words_in_every_script(void **state)
{
    static const struct {
        const char *text;
        int64_t words;
    } cases[] = {
        { "x y z", 0 }, /* one letter is no word           */
        { "snake_case 3d a1", 3 },
        { "\xc3\x89T\xc3\x89 \xc3\xa9t\xc3\xa9", 2 },  /* ETE with accents, twice   */
        { "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", 1 }, /* three Han characters    */
        { "\xff\xfe"
          "ab\xc3",
          1 },          /* broken UTF-8 separates          */
        { "don't", 1 }, /* don, t                          */
        { "", 0 },
    };
    csp_words *words;
    csp_word_list list = { 0 };

    assert_int_equal(csp_words_create(&words), CSP_OK);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(
            csp_words_learn(words, cases[i].text, (int64_t)strlen(cases[i].text), &list), CSP_OK);
        assert_int_equal(list.count, cases[i].words);
    }
    assert_int_equal(csp_words_learn(words, cases[2].text, 11, &list), CSP_OK);
    assert_int_equal(list.count, 2);
    assert_int_equal(list.term[0], list.term[1]);
    /* An unseen form with a known stem is found; an unknown one is left out. */
    assert_int_equal(csp_words_learn(words, "engineering", 11, &list), CSP_OK);
    assert_int_equal(csp_words_look_up(words, "engineers zzzz", 14, &list), CSP_OK);
    assert_int_equal(list.count, 1);
    free(list.term);
    csp_words_destroy(words);
}

static void refuses_settings_out_of_range(void **state)
{
    pairs none = { NULL, 0, 0 };
    csp_bm25 *bm25 = NULL;

    assert_int_equal(
        csp_bm25_create(next_pair, &none, &(csp_bm25_options) { .k1 = -1.0, .b = 0.4 }, &bm25),
        CSP_ERR_ARGUMENT);
    assert_int_equal(
        csp_bm25_create(next_pair, &none, &(csp_bm25_options) { .k1 = 0.9, .b = NAN }, &bm25),
        CSP_ERR_ARGUMENT);
    assert_null(bm25);
}

static void searches_an_empty_collection(void **state)
{
    pairs none = { NULL, 0, 0 };
    const csp_bm25_options options = csp_bm25_defaults();
    const csp_search_options search = { .depth = 10 };
    char *id = "q", *text = "some words";
    csp_bm25 *bm25;
    csp_hits *hits;

    assert_int_equal(csp_bm25_create(next_pair, &none, &options, &bm25), CSP_OK);
    assert_int_equal(csp_bm25_search(bm25, &id, &text, 1, &search, &hits, NULL), CSP_OK);
    assert_int_equal(hits->count[0], 0);
    csp_hits_free(hits);
    csp_bm25_destroy(bm25);
}

static void every_allocation_may_fail(void **state)
{
    static const char *const docs[][2] = { { "d1", "red blue" }, { "d2", "blue green green" } };
    const csp_bm25_options options = csp_bm25_defaults();
    const csp_search_options search = { .depth = 10, .threads = 1 };
    char *id = "q", *text = "greens blues";
    csp_status status = CSP_ERR_MEMORY;

    for (long n = 1; status != CSP_OK; n++) {
        pairs from = { docs, 2, 0 };
        csp_bm25 *bm25 = NULL;
        csp_hits *hits = NULL;

        csp_fault_arm(n);
        status = csp_bm25_create(next_pair, &from, &options, &bm25);
        if (status == CSP_OK) {
            status = csp_bm25_search(bm25, &id, &text, 1, &search, &hits, NULL);
        }
        csp_fault_arm(0);
        assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
        assert_true(status != CSP_OK || hits->count[0] == 2);
        assert_true(n < 300);
        csp_hits_free(hits);
        csp_bm25_destroy(bm25);
    }
}

/* A BEIR corpus or queries file. */
typedef struct beir {
    csp_lines *lines;
    json_t *row;
    char *text;
} beir;

static csp_status next_beir(void *context, const char **id, const char **text, int64_t *bytes)
{
    beir *b = context;
    const char *title;
    char *line;
    int64_t length;

    CSP_TRY(csp_lines_next(b->lines, &line, &length));
    if (line == NULL) {
        return CSP_OK;
    }
    json_decref(b->row);
    free(b->text);
    b->row = json_loadb(line, (size_t)length, 0, NULL);
    assert_non_null(b->row);
    title = json_string_value(json_object_get(b->row, "title"));
    assert_true(asprintf(&b->text, "%s %s", title != NULL ? title : "",
                         json_string_value(json_object_get(b->row, "text"))) >= 0);
    *id = json_string_value(json_object_get(b->row, "_id"));
    *text = b->text;
    *bytes = (int64_t)strlen(b->text);
    return CSP_OK;
}

static void beir_close(beir *b)
{
    csp_lines_close(b->lines);
    json_decref(b->row);
    free(b->text);
}

static void evaluate(const char *collection, const char *split, const double want[3])
{
    const csp_bm25_options options = csp_bm25_defaults();
    const csp_search_options search = { .depth = 1000 };
    char path[512], **ids = NULL, **texts = NULL;
    beir corpus = { 0 }, queries = { 0 };
    csp_measure *measure;
    csp_ranking *ranking;
    csp_metrics *x;
    csp_bm25 *bm25;
    csp_trec *qrels;
    csp_hits *hits;
    int64_t n = 0, measures;

    (void)snprintf(path, sizeof(path), DATA "/%s/corpus.jsonl", collection);
    assert_int_equal(csp_lines_open(path, &corpus.lines), CSP_OK);
    assert_int_equal(csp_bm25_create(next_beir, &corpus, &options, &bm25), CSP_OK);
    (void)snprintf(path, sizeof(path), DATA "/%s/qrels/%s.tsv", collection, split);
    assert_int_equal(csp_qrels_read(path, &qrels), CSP_OK);
    (void)snprintf(path, sizeof(path), DATA "/%s/queries.jsonl", collection);
    assert_int_equal(csp_lines_open(path, &queries.lines), CSP_OK);
    ids = calloc((size_t)qrels->count, sizeof(*ids));
    texts = calloc((size_t)qrels->count, sizeof(*texts));
    for (;;) {
        const char *id = NULL, *text;
        int64_t bytes;

        assert_int_equal(next_beir(&queries, &id, &text, &bytes), CSP_OK);
        if (id == NULL) {
            break;
        }
        if (csp_trec_find(qrels, id) != NULL) {
            ids[n] = strdup(id);
            texts[n++] = strdup(text);
        }
    }
    assert_int_equal(n, qrels->count);
    assert_int_equal(csp_bm25_search(bm25, ids, texts, n, &search, &hits, NULL), CSP_OK);
    assert_int_equal(csp_ranking_from_hits(hits, csp_bm25_index(bm25), ids, &ranking), CSP_OK);
    assert_int_equal(csp_measures_parse("nDCG@10 RR@10 R@100", &measure, &measures), CSP_OK);
    assert_int_equal(csp_metrics_compute(qrels, &ranking->trec, measure, measures, NULL, &x),
                     CSP_OK);
    print_message("%s %s: nDCG@10 %.4f RR@10 %.4f R@100 %.4f\n", collection, split, x->mean[0],
                  x->mean[1], x->mean[2]);
    for (int64_t m = 0; m < measures; m++) {
        assert_true(fabs(x->mean[m] - want[m]) <= 0.005);
    }
    for (int64_t q = 0; q < n; q++) {
        free(ids[q]);
        free(texts[q]);
    }
    free(ids);
    free(texts);
    free(measure);
    csp_metrics_free(x);
    csp_ranking_free(ranking);
    csp_hits_free(hits);
    csp_bm25_destroy(bm25);
    csp_trec_free(qrels);
    beir_close(&corpus);
    beir_close(&queries);
}

static void equals_bm25s_on_real_collections(void **state)
{
    if (!csp_file_is_dir(DATA)) {
        skip();
    }
    evaluate("scifact", "test", (const double[]) { 0.6762, 0.6413, 0.9127 });
    evaluate("cranfield", "test", (const double[]) { 0.4161, 0.7931, 0.7401 });
    evaluate("qed-nq", "test", (const double[]) { 0.9008, 0.8817, 0.9900 });
    evaluate("debpkg", "test", (const double[]) { 0.7819, 0.7466, 0.9530 });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_as_the_equation_says),
        cmocka_unit_test(cuts_words_in_every_script),
        cmocka_unit_test(refuses_settings_out_of_range),
        cmocka_unit_test(searches_an_empty_collection),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(equals_bm25s_on_real_collections),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
