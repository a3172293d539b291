/* test_pairs.c - joining training data from every format, and drawing batches from it. */
#include "scratch.h"

#include "core/log.h"
#include "data/pairs.h"

static csp_pairs *open_or_fail(const csp_pairs_source *source)
{
    csp_pairs *pairs = NULL;

    if (csp_pairs_open(source, &pairs) != CSP_OK) {
        fail_msg("%s", csp_error_text());
    }
    return pairs;
}

static void assert_refused(const csp_pairs_source *source, csp_status status, const char *message)
{
    csp_pairs *pairs = NULL;

    assert_int_equal(csp_pairs_open(source, &pairs), status);
    assert_null(pairs);
    assert_says(message);
}

/* "q2: +d1 +d3 -d2" for an example. */
static const char *describe(csp_pairs *pairs, int64_t example)
{
    static char text[500];
    size_t used = (size_t)snprintf(text, sizeof(text), "%s:", csp_pairs_query_id(pairs, example));
    int64_t count;
    const int64_t *positives = csp_pairs_positives(pairs, example, &count);

    for (int64_t i = 0; i < count; i++) {
        used += (size_t)snprintf(text + used, sizeof(text) - used, " +%s",
                                 csp_pairs_document_id(pairs, positives[i]));
    }
    const int32_t *negatives = csp_pairs_negatives(pairs, example, &count);
    for (int64_t i = 0; i < count; i++) {
        used += (size_t)snprintf(text + used, sizeof(text) - used, " -%s",
                                 csp_pairs_document_id(pairs, negatives[i]));
    }
    return text;
}

static void assert_document(csp_pairs *pairs, int64_t document, const char *id, const char *text)
{
    csp_text_row row;

    assert_int_equal(csp_pairs_read_document(pairs, document, &row), CSP_OK);
    assert_string_equal(row.id, id);
    assert_int_equal(row.bytes, strlen(text));
    assert_memory_equal(row.text, text, strlen(text));
}

static void assert_query(csp_pairs *pairs, int64_t example, const char *id, const char *text)
{
    csp_text_row row;

    assert_int_equal(csp_pairs_read_query(pairs, example, &row), CSP_OK);
    assert_string_equal(row.id, id);
    assert_int_equal(row.bytes, strlen(text));
    assert_memory_equal(row.text, text, strlen(text));
}

static const char corpus[] = "{\"_id\":\"d0\",\"title\":\"zero\",\"text\":\"nought\"}\n"
                             "{\"_id\":\"d1\",\"text\":\"one\"}\n"
                             "{\"_id\":\"d2\",\"text\":\"two\"}\n"
                             "{\"_id\":\"d3\",\"text\":\"three\"}\n"
                             "{\"_id\":\"d4\",\"text\":\"four\"}\n";
static const char queries[] = "{\"_id\":\"q0\",\"text\":\"first\"}\n"
                              "{\"_id\":\"q1\",\"text\":\"second\"}\n"
                              "{\"_id\":\"q2\",\"text\":\"third\"}\n";

/* A BEIR folder of which q1 is not judged in train. */
static void make_beir(const char *qrels, const char *negatives)
{
    make_dir("beir");
    make_dir("beir/qrels");
    put_text("beir/corpus.jsonl", corpus);
    put_text("beir/queries.jsonl", queries);
    put_text("beir/qrels/train.tsv", qrels);
    (void)remove(at("beir/negatives.train.tsv"));
    if (negatives != NULL) {
        put_text("beir/negatives.train.tsv", negatives);
    }
}

static void joins_a_beir_folder(void **state)
{
    const char *folder = at("beir");
    const csp_pairs_source source = { .corpus = folder, .strict = true };
    csp_pairs *pairs;
    char words[500];

    make_beir("query-id\tcorpus-id\tscore\nq2\td3\t1\nq2\td1\t2\nq0\td0\t1\nq0\td4\t0\n",
              "query-id\tcorpus-ids\nq2\td2 d1 d4 d2\nq0\td1\tn\n");
    /* d1 is a positive of q2, d2 comes twice, n is unknown: first lenient, without n strict. */
    assert_refused(&source, CSP_ERR_DATA, "negatives not in the corpus: 1 (n)");
    make_beir("query-id\tcorpus-id\tscore\nq2\td3\t1\nq2\td1\t2\nq0\td0\t1\nq0\td4\t0\n",
              "query-id\tcorpus-ids\nq2\td2 d1 d4 d2\nq0\td1\n");
    pairs = open_or_fail(&source);
    assert_int_equal(csp_pairs_count(pairs), 2);
    assert_int_equal(csp_pairs_documents(pairs), 5);
    assert_string_equal(describe(pairs, 0), "q0: +d0 -d1");
    assert_string_equal(describe(pairs, 1), "q2: +d1 +d3 -d2 -d4");
    assert_query(pairs, 1, "q2", "third");
    assert_document(pairs, 0, "d0", "zero nought");
    assert_document(pairs, 4, "d4", "four");
    assert_true(csp_pairs_is_positive(pairs, 1, 3));
    assert_true(csp_pairs_is_positive(pairs, 1, 1));
    assert_false(csp_pairs_is_positive(pairs, 1, 0));
    assert_false(csp_pairs_is_positive(pairs, 1, 4));
    assert_false(csp_pairs_is_positive(pairs, 0, 1));
    assert_int_equal(csp_pairs_report(pairs)->not_relevant, 1);
    csp_join_say(csp_pairs_report(pairs), words, sizeof(words));
    assert_string_equal(words, "queries to train on: 2, documents: 5, positives: 3, negatives: 3; "
                               "negatives dropped as known positives: 1; negatives dropped as "
                               "repetitions: 1");
    csp_pairs_close(pairs);
}

static void reports_what_does_not_join_and_refuses_it_where_strict(void **state)
{
    csp_pairs_source source = { .corpus = at("beir") };
    char folder[300], words[500];
    csp_pairs *pairs;

    (void)snprintf(folder, sizeof(folder), "%s", at("beir"));
    source.corpus = folder;
    make_beir("q0 0 d0 1\nq0 0 x1 1\nq9 0 d1 1\nq1 0 x2 1\nq1 0 x3 1\nq1 0 x4 1\n", NULL);
    pairs = open_or_fail(&source);
    assert_int_equal(csp_pairs_count(pairs), 1);
    csp_join_say(csp_pairs_report(pairs), words, sizeof(words));
    assert_string_equal(words,
                        "queries to train on: 1, documents: 5, positives: 1, negatives: 0; query "
                        "ids not among the queries: 1 (q9); positives not in the corpus: 4 (x1, "
                        "x2, x3, ...); queries left out for want of a positive: 1 (q1)");
    csp_pairs_close(pairs);
    source.strict = true;
    assert_refused(&source, CSP_ERR_DATA, "data.strict forbids what does not join");

    source.strict = false;
    make_beir("q0 0 x 1\n", NULL);
    assert_refused(&source, CSP_ERR_DATA, "no query joins a positive document");
    make_beir("q0 0 d0 0\n", NULL);
    assert_refused(&source, CSP_ERR_DATA, "no query joins a positive document");
    source.split = "dev";
    assert_refused(&source, CSP_ERR_IO, "this folder has no qrels/dev.tsv");
}

static void refuses_bad_lists_of_negatives(void **state)
{
    static const struct {
        const char *text, *message;
        csp_status status;
    } cases[] = {
        { "q0 d1\nq0 d2\n", ":2: a second line for query \"q0\"", CSP_ERR_DATA },
        { "q0 d1\nq1 d\xFF\n", ":2: invalid UTF-8 at column 5", CSP_ERR_FORMAT },
    };
    char folder[300];
    csp_pairs_source source = { .corpus = folder };

    (void)snprintf(folder, sizeof(folder), "%s", at("beir"));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        make_beir("q0 0 d0 1\n", cases[i].text);
        assert_refused(&source, cases[i].status, cases[i].message);
    }
    make_beir("q0 0 d0 one\n", NULL);
    assert_refused(&source, CSP_ERR_FORMAT, "train.tsv:1:");
}

static void reads_id_triples_with_and_without_judgements(void **state)
{
    char c[300], q[300], t[300], r[300];
    csp_pairs_source source = { .corpus = c, .queries = q, .train = t };
    csp_pairs *pairs;

    put_text("collection.tsv", "0\tzero\n1\tone\n2\ttwo\n3\tthree\n");
    put_text("queries.tsv", "10\tten\n11\televen\n12\ttwelve\n");
    put_text("triples.tsv", "11\t1\t2\n10\t0\t3\n11\t1\t3\n11\t1\t2\n");
    put_text("qrels.tsv", "11\t0\t3\t1\n12\t0\t2\t1\n");
    (void)snprintf(c, sizeof(c), "%s", at("collection.tsv"));
    (void)snprintf(q, sizeof(q), "%s", at("queries.tsv"));
    (void)snprintf(t, sizeof(t), "%s", at("triples.tsv"));
    (void)snprintf(r, sizeof(r), "%s", at("qrels.tsv"));
    pairs = open_or_fail(&source);
    assert_int_equal(csp_pairs_count(pairs), 2);
    assert_string_equal(describe(pairs, 0), "10: +0 -3");
    assert_string_equal(describe(pairs, 1), "11: +1 -2 -3");
    csp_pairs_close(pairs);
    /* Judgements add known positives to the triples' queries, and no queries. */
    source.qrels = r;
    pairs = open_or_fail(&source);
    assert_int_equal(csp_pairs_count(pairs), 2);
    assert_string_equal(describe(pairs, 1), "11: +1 +3 -2");
    assert_query(pairs, 0, "10", "ten");
    assert_document(pairs, 3, "3", "three");
    csp_pairs_close(pairs);
    /* The same without triples: what is judged. */
    source.train = NULL;
    pairs = open_or_fail(&source);
    assert_string_equal(describe(pairs, 0), "11: +3");
    assert_string_equal(describe(pairs, 1), "12: +2");
    csp_pairs_close(pairs);

    source.train = t;
    put_text("triples.tsv", "11\t1\t2\n10\t0\n");
    assert_refused(&source, CSP_ERR_FORMAT, "triples.tsv:2: not three columns");
    put_text("triples.tsv", "11\t1\t2\t3\n");
    assert_refused(&source, CSP_ERR_FORMAT, "triples.tsv:1: not three columns");
}

static const char embedded[] =
    "{\"query_id\":\"a\",\"query\":\"first\",\"positive_passages\":[{\"docid\":\"p1\",\"title\":"
    "\"T\",\"text\":\"one\"}],\"negative_passages\":[{\"docid\":\"n1\",\"text\":\"two\"},{"
    "\"docid\":\"p1\",\"title\":\"T\",\"text\":\"one\"}]}\n\n"
    "{\"query_id\":\"b\",\"query\":\"second\",\"positive_passages\":[{\"docid\":\"n1\",\"text\":"
    "\"two\"},{\"docid\":\"p2\",\"text\":\"three\"}]}\n"
    "{\"query_id\":\"c\",\"query\":\"third\",\"positive_passages\":[],\"negative_passages\":[]}\n";

static void reads_training_lines_with_their_passages(void **state)
{
    char path[300];
    const csp_pairs_source source = { .train = path };

    for (int gzip = 0; gzip < 2; gzip++) {
        csp_pairs *pairs;

        (void)snprintf(path, sizeof(path), "%s", at(gzip ? "t.jsonl.gz" : "t.jsonl"));
        if (gzip) {
            put_gzip("t.jsonl.gz", embedded);
        } else {
            put_text("t.jsonl", embedded);
        }
        pairs = open_or_fail(&source);
        assert_int_equal(csp_pairs_count(pairs), 2);
        assert_int_equal(csp_pairs_documents(pairs), 3);
        assert_int_equal(csp_pairs_report(pairs)->without_positive.count, 1);
        assert_string_equal(csp_pairs_report(pairs)->without_positive.first[0], "c");
        assert_int_equal(csp_pairs_report(pairs)->negatives_positive, 1);
        assert_string_equal(describe(pairs, 0), "a: +p1 -n1");
        assert_string_equal(describe(pairs, 1), "b: +n1 +p2");
        assert_document(pairs, 2, "p2", "three");
        assert_document(pairs, 0, "p1", "T one");
        assert_document(pairs, 1, "n1", "two");
        assert_query(pairs, 1, "b", "second");
        assert_query(pairs, 0, "a", "first");
        csp_pairs_close(pairs);
    }
}

static void reads_training_lines_with_ids(void **state)
{
    char path[300], c[300];
    csp_pairs_source source = { .train = path, .corpus = c };
    csp_pairs *pairs;

    put_text("corpus.jsonl", corpus);
    (void)snprintf(c, sizeof(c), "%s", at("corpus.jsonl"));
    put_text("ids.jsonl",
             "{\"query_id\":1,\"query_text\":\"first\",\"positive_document_ids\":[\"d3\"],"
             "\"negative_document_ids\":[\"d0\",\"x\",\"d1\"]}\n"
             "{\"query_id\":2,\"query_text\":\"second\",\"positive_document_ids\":[\"d0\",\"y\"],"
             "\"negative_document_ids\":null}\n");
    (void)snprintf(path, sizeof(path), "%s", at("ids.jsonl"));
    pairs = open_or_fail(&source);
    assert_string_equal(describe(pairs, 0), "1: +d3 -d0 -d1");
    assert_string_equal(describe(pairs, 1), "2: +d0");
    assert_string_equal(csp_pairs_report(pairs)->unknown_negatives.first[0], "x");
    assert_string_equal(csp_pairs_report(pairs)->unknown_positives.first[0], "y");
    assert_query(pairs, 0, "1", "first");
    assert_document(pairs, 0, "d0", "zero nought");
    csp_pairs_close(pairs);
    source.corpus = NULL;
    assert_refused(&source, CSP_ERR_ARGUMENT, "no corpus is given");
}

static void refuses_bad_training_lines(void **state)
{
    static const struct {
        const char *text, *message;
        csp_status status;
        bool strict;
    } cases[] = {
        { "{\"query_id\":\"a\",\"query\":\"q\"}\n", ":1: neither positive_passages nor",
          CSP_ERR_FORMAT, false },
        { "{\"query\":\"q\",\"positive_passages\":[]}\n", ":1: no id", CSP_ERR_FORMAT, false },
        { "{\"query_id\":\"a\",\"positive_passages\":[]}\n", ":1: no text", CSP_ERR_FORMAT, false },
        { "{\"query_id\":\"a\",\"query\":\"q\",\"positive_passages\":{}}\n",
          ":1: positive_passages is not a list", CSP_ERR_FORMAT, false },
        { "{\"query_id\":\"a\",\"query\":\"q\",\"positive_passages\":[\"p\"]}\n",
          ":1: not a JSON object", CSP_ERR_FORMAT, false },
        { "{\"query_id\":\"a\",\"query\":\"q\",\"positive_passages\":[{\"text\":\"t\"}]}\n",
          ":1: no id (_id, id or docid)", CSP_ERR_FORMAT, false },
        { "{\"query_id\":\"a\",\"query\":\"q\",\"positive_passages\":[{\"docid\":\"p\","
          "\"text\":\"t\"}]}\n{\"query_id\":\"a\",\"query\":\"r\",\"positive_passages\":[]}\n",
          ":2: duplicate query id \"a\"", CSP_ERR_DATA, false },
        { "{\"query_id\":\"a\",\"query\":\"q\",\"positive_passages\":[{\"docid\":\"p\","
          "\"text\":\"t\"}]}\n{\"query_id\":\"b\",\"query\":\"r\"}\n",
          ":2: no positive_passages, which the first line has", CSP_ERR_FORMAT, false },
        { "{\"query_id\":\"a\",\"query\":\"q\",\"positive_passages\":[{\"docid\":\"p\","
          "\"text\":\"t\"},{\"docid\":\"p\",\"text\":\"u\"}]}\n",
          "passages that came again with another text: 1 (p)", CSP_ERR_DATA, true },
        { "{\"query_id\":\"a\",\"query\":\"q\",\"positive_passages\":[{\"docid\":\"p\","
          "\"text\":\"\"}]}\n",
          ":1: passage \"p\" is empty", CSP_ERR_DATA, true },
        { "{\"query_id\":\"a\",\"query\":\"\",\"positive_passages\":[]}\n", ":1: empty query",
          CSP_ERR_DATA, true },
        { "", "no query joins a positive document", CSP_ERR_DATA, false },
    };
    char path[300], other[300];
    csp_pairs_source source = { .train = path };

    (void)snprintf(path, sizeof(path), "%s", at("bad.jsonl"));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put_text("bad.jsonl", cases[i].text);
        source.strict = cases[i].strict;
        assert_refused(&source, cases[i].status, cases[i].message);
        assert_says("bad.jsonl");
    }
    (void)snprintf(other, sizeof(other), "%s", at("qrels.tsv"));
    source.qrels = other;
    assert_refused(&source, CSP_ERR_ARGUMENT, "has no place beside it");
}

static void refuses_sources_that_are_not_enough(void **state)
{
    char c[300];
    csp_pairs_source source = { 0 };

    assert_refused(&source, CSP_ERR_ARGUMENT, "no corpus is given");
    put_text("corpus.jsonl", corpus);
    (void)snprintf(c, sizeof(c), "%s", at("corpus.jsonl"));
    source.corpus = c;
    assert_refused(&source, CSP_ERR_ARGUMENT, "no queries are given");
    source.queries = c;
    assert_refused(&source, CSP_ERR_ARGUMENT, "without judgements");
    source.train = "pairs.dat";
    assert_refused(&source, CSP_ERR_ARGUMENT, "name training lines .jsonl");
    source.train = NULL;
    source.qrels = "/nowhere/qrels.tsv";
    assert_refused(&source, CSP_ERR_IO, "/nowhere/qrels.tsv");
}

/* n queries, one positive each, and m negatives for each; d documents. */
static csp_pairs *make_pairs(int n, int d, int m)
{
    char folder[300];
    const csp_pairs_source source = { .corpus = folder };
    FILE *file;

    make_dir("many");
    make_dir("many/qrels");
    (void)snprintf(folder, sizeof(folder), "%s", at("many"));
    file = fopen(at("many/corpus.jsonl"), "wb");
    for (int i = 0; i < d; i++) {
        (void)fprintf(file, "{\"_id\":\"d%d\",\"text\":\"text %d\"}\n", i, i);
    }
    (void)fclose(file);
    file = fopen(at("many/queries.jsonl"), "wb");
    for (int i = 0; i < n; i++) {
        (void)fprintf(file, "{\"_id\":\"q%d\",\"text\":\"query %d\"}\n", i, i);
    }
    (void)fclose(file);
    file = fopen(at("many/qrels/train.tsv"), "wb");
    for (int i = 0; i < n; i++) {
        (void)fprintf(file, "q%d 0 d%d 1\nq%d 0 d%d 1\n", i, i % d, i, (i + 1) % d);
    }
    (void)fclose(file);
    file = fopen(at("many/negatives.train.tsv"), "wb");
    for (int i = 0; i < n; i++) {
        (void)fprintf(file, "q%d", i);
        for (int j = 0; j < m; j++) {
            (void)fprintf(file, "%cd%d", j == 0 ? '\t' : ' ', (i + 2 + j) % d);
        }
        (void)fputc('\n', file);
    }
    (void)fclose(file);
    return open_or_fail(&source);
}

static void an_epoch_visits_each_example_once_across_batch_edges(void **state)
{
    csp_pairs *pairs = make_pairs(37, 50, 3);
    const csp_sampling sampling = { .seed = 11, .Q = 8, .G = 2 };
    csp_draw_list drawn = { 0 };
    int order[2][37];
    int64_t p = 0;

    for (int64_t step = 0; p < 74; step++) {
        assert_int_equal(csp_pairs_draw(pairs, &sampling, step, 0, 8, &drawn), CSP_OK);
        assert_int_equal(drawn.count, 8);
        for (int64_t i = 0; i < 8 && p < 74; i++, p++) {
            order[p / 37][p % 37] = (int)drawn.example[i];
        }
    }
    for (int epoch = 0; epoch < 2; epoch++) {
        int seen[37] = { 0 };

        for (int i = 0; i < 37; i++) {
            assert_int_equal(seen[order[epoch][i]]++, 0);
        }
    }
    assert_memory_not_equal(order[0], order[1], sizeof(order[0]));
    csp_draw_list_clear(&drawn);
    csp_pairs_close(pairs);
}

static void a_step_is_the_same_whatever_was_drawn_before_and_in_parts(void **state)
{
    csp_pairs *pairs = make_pairs(37, 50, 6);
    csp_sampling sampling = { .seed = 3, .Q = 8, .G = 4 };
    csp_draw_list whole = { 0 }, part = { 0 };

    assert_int_equal(csp_pairs_draw(pairs, &sampling, 123, 0, 8, &whole), CSP_OK);
    for (int64_t step = 120; step < 126; step++) {
        for (int64_t first = 0; first < 8; first += 2) {
            assert_int_equal(csp_pairs_draw(pairs, &sampling, step, first, 2, &part), CSP_OK);
            if (step == 123) {
                assert_memory_equal(part.example, whole.example + first, 2 * 8);
                assert_memory_equal(part.document, whole.document + first * 4, 8 * 8);
            }
        }
    }
    /* Another seed, another order. */
    sampling.seed = 4;
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 123, 0, 8, &part), CSP_OK);
    assert_memory_not_equal(part.example, whole.example, 8 * 8);
    sampling.in_order = true;
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 5, 0, 8, &part), CSP_OK);
    for (int64_t i = 0; i < 8; i++) {
        assert_int_equal(part.example[i], (5 * 8 + i) % 37);
    }
    csp_draw_list_clear(&whole);
    csp_draw_list_clear(&part);
    csp_pairs_close(pairs);
}

/* Over enough epochs every negative and every positive is used, negatives evenly. */
static void negatives_are_a_window_that_moves_through_the_list(void **state)
{
    csp_pairs *pairs = make_pairs(5, 50, 6);
    const csp_sampling sampling = { .seed = 9, .Q = 5, .G = 5 };
    csp_draw_list drawn = { 0 };
    int used[5][50] = { { 0 } }, positives[5][2] = { { 0 } };

    /* 4 of 6 a time: 12 epochs use each 8 times. */
    for (int64_t epoch = 0; epoch < 12; epoch++) {
        assert_int_equal(csp_pairs_draw(pairs, &sampling, epoch, 0, 5, &drawn), CSP_OK);
        for (int64_t i = 0; i < 5; i++) {
            const int64_t e = drawn.example[i];

            assert_true(csp_pairs_is_positive(pairs, e, drawn.document[i * 5]));
            positives[e][drawn.document[i * 5] - e]++;
            for (int64_t g = 1; g < 5; g++) {
                used[e][drawn.document[i * 5 + g]]++;
            }
        }
    }
    for (int64_t e = 0; e < 5; e++) {
        for (int64_t d = 0; d < 50; d++) {
            assert_int_equal(used[e][d], d >= e + 2 && d < e + 8 ? 8 : 0);
        }
        assert_true(positives[e][0] > 0 && positives[e][1] > 0);
        assert_int_equal(positives[e][0] + positives[e][1], 12);
    }
    csp_draw_list_clear(&drawn);
    csp_pairs_close(pairs);
}

static void consecutive_epochs_take_different_negatives(void **state)
{
    csp_pairs *pairs = make_pairs(5, 50, 6);
    const csp_sampling sampling = { .seed = 9, .Q = 5, .G = 4 };
    csp_draw_list drawn = { 0 };

    for (int64_t epoch = 0; epoch < 8; epoch += 2) {
        int used[5][50] = { { 0 } };

        for (int64_t step = epoch; step < epoch + 2; step++) {
            assert_int_equal(csp_pairs_draw(pairs, &sampling, step, 0, 5, &drawn), CSP_OK);
            for (int64_t i = 0; i < 20; i++) {
                used[drawn.example[i / 4]][drawn.document[i]] += i % 4 == 0 ? 0 : 1;
            }
        }
        for (int64_t e = 0; e < 5; e++) {
            for (int64_t d = e + 2; d < e + 8; d++) {
                assert_int_equal(used[e][d], 1); /* 3 of 6, then the other 3 */
            }
        }
    }
    csp_draw_list_clear(&drawn);
    csp_pairs_close(pairs);
}

static void short_lists_are_filled_with_random_documents_without_repetition(void **state)
{
    csp_pairs *pairs = make_pairs(20, 30, 3);
    csp_sampling sampling = { .seed = 2, .Q = 20, .G = 29 };
    csp_draw_list drawn = { 0 };

    /* 28 of the 28 documents that are no positives: the hardest fill there is. */
    for (int64_t step = 0; step < 5; step++) {
        assert_int_equal(csp_pairs_draw(pairs, &sampling, step, 0, 20, &drawn), CSP_OK);
        for (int64_t i = 0; i < 20; i++) {
            int seen[30] = { 0 };
            const int64_t *group = drawn.document + i * 29;

            for (int64_t g = 0; g < 29; g++) {
                assert_int_equal(seen[group[g]]++, 0);
                assert_int_equal(csp_pairs_is_positive(pairs, drawn.example[i], group[g]), g == 0);
            }
            for (int64_t g = 1; g < 4; g++) { /* the list comes first */
                assert_true((group[g] - drawn.example[i] + 30) % 30 >= 2 &&
                            (group[g] - drawn.example[i] + 30) % 30 < 5);
            }
        }
    }
    /* More than there are: repetitions, but never a positive. */
    sampling.G = 40;
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 0, 0, 20, &drawn), CSP_OK);
    for (int64_t g = 1; g < 40; g++) {
        assert_false(csp_pairs_is_positive(pairs, drawn.example[0], drawn.document[g]));
    }
    csp_draw_list_clear(&drawn);
    csp_pairs_close(pairs);
}

static void refuses_draws_that_cannot_be(void **state)
{
    csp_pairs *pairs = make_pairs(2, 2, 0); /* both documents are positives of both queries */
    csp_draw_list drawn = { 0 };
    csp_sampling sampling = { .Q = 2, .G = 2 };

    assert_int_equal(csp_pairs_draw(pairs, &sampling, 0, 0, 2, &drawn), CSP_ERR_DATA);
    assert_says("every document is a known positive");
    sampling.G = 1;
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 0, 0, 2, &drawn), CSP_OK);
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 0, 1, 2, &drawn), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_pairs_draw(pairs, &sampling, -1, 0, 2, &drawn), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_pairs_draw(pairs, &sampling, INT64_MAX - 1, 0, 2, &drawn), CSP_ERR_MEMORY);
    sampling.Q = 0;
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 0, 0, 0, &drawn), CSP_ERR_ARGUMENT);
    csp_draw_list_clear(&drawn);
    csp_pairs_close(pairs);
}

/* Opens a source again and again, one more allocation succeeding each time. */
static void walk_failures(const csp_pairs_source *source)
{
    csp_pairs *pairs = NULL;
    csp_status status;
    long n = 0;

    do {
        csp_fault_arm(++n);
        status = csp_pairs_open(source, &pairs);
        assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
        assert_true(status == CSP_OK || pairs == NULL);
    } while (status != CSP_OK && n < 500);
    csp_fault_arm(0);
    assert_int_equal(status, CSP_OK);
    assert_true(n > 20);
    csp_pairs_close(pairs);
}

static void every_allocation_may_fail(void **state)
{
    char folder[300], path[300];
    csp_pairs_source source = { .corpus = folder };

    (void)snprintf(folder, sizeof(folder), "%s", at("beir"));
    (void)snprintf(path, sizeof(path), "%s", at("t.jsonl"));
    make_beir("q0 0 d0 1\nq1 0 d2 1\n", "q0 d1 d2\n");
    walk_failures(&source);
    put_text("t.jsonl", embedded);
    source = (csp_pairs_source) { .train = path };
    walk_failures(&source);
}

/* The digests of a source; which of them are those of before, as letters of d, q, e. */
static const char *kept(const csp_pairs_source *source, csp_pairs_digests *before)
{
    static char same[4];
    csp_pairs *pairs = open_or_fail(source);
    csp_pairs_digests now;

    assert_int_equal(csp_pairs_digest(pairs, &now), CSP_OK);
    csp_pairs_close(pairs);
    (void)snprintf(same, sizeof(same), "%s%s%s",
                   strcmp(now.documents, before->documents) == 0 ? "d" : "",
                   strcmp(now.queries, before->queries) == 0 ? "q" : "",
                   strcmp(now.examples, before->examples) == 0 ? "e" : "");
    *before = now;
    return same;
}

static void digests_tell_which_part_has_another_content(void **state)
{
    char folder[300], path[300];
    csp_pairs_source source = { .corpus = folder };
    csp_pairs_digests digests = { { 0 }, { 0 }, { 0 } };

    (void)snprintf(folder, sizeof(folder), "%s", at("beir"));
    (void)snprintf(path, sizeof(path), "%s", at("t.jsonl"));
    make_beir("q0 0 d0 1\nq1 0 d2 1\n", "q0 d1 d2\n");
    assert_string_equal(kept(&source, &digests), "");
    make_beir("q0 0 d0 1\n", "q0 d1 d2\n"); /* one judgement fewer */
    assert_string_equal(kept(&source, &digests), "dq");
    make_beir("q0 0 d0 1\n", "q0 d2 d1\n");
    assert_string_equal(kept(&source, &digests), "dq");
    make_beir("q1 0 d9 0\nq0 0 d0 2\n", "q0 d2  d1\n"); /* the same examples */
    assert_string_equal(kept(&source, &digests), "dqe");
    put_text("beir/queries.jsonl", "{\"_id\":\"q0\",\"text\":\"First\"}\n");
    assert_string_equal(kept(&source, &digests), "de");
    put_text("beir/corpus.jsonl", "{\"_id\":\"d0\",\"text\":\"0\"}\r\n{\"_id\":\"d1\","
                                  "\"text\":\"\"}\n{\"_id\":\"d2\",\"text\":\"2\"}");
    assert_string_equal(kept(&source, &digests), "qe");
    put_text("beir/corpus.jsonl", "{\"_id\":\"d0\",\"text\":\"0\"}\n\n{\"_id\":\"d1\","
                                  "\"text\":\"\"}\n{\"_id\":\"d2\",\"text\":\"2\"}\n");
    assert_string_equal(kept(&source, &digests), "dqe"); /* ends of lines are none of it */
    put_text("t.jsonl", embedded);
    source = (csp_pairs_source) { .train = path };
    assert_string_equal(kept(&source, &digests), "");
    assert_string_equal(digests.documents, "");
    assert_string_equal(kept(&source, &digests), "dqe");
}

static void joins_the_shared_collections_without_a_miss(void **state)
{
    static const struct {
        const char *name;
        int64_t examples;
    } sets[] = { { "cranfield", 100 }, { "scifact", 809 }, { "qed-nq", 855 }, { "debpkg", 14572 } };

    for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
        char folder[400];
        csp_pairs_source source = { .corpus = folder };
        csp_pairs *pairs;

        if (!shared_is_here(sets[i].name)) {
            skip();
        }
        (void)snprintf(folder, sizeof(folder), SHARED "%s", sets[i].name);
        pairs = open_or_fail(&source);
        assert_int_equal(csp_pairs_count(pairs), sets[i].examples);
        assert_true(csp_join_is_clean(csp_pairs_report(pairs)));
        assert_true(csp_pairs_report(pairs)->negatives > 2 * sets[i].examples);
        csp_pairs_close(pairs);
        source.strict = true; /* all join, but two texts of Cranfield are empty */
        if (i == 0) {
            assert_refused(&source, CSP_ERR_DATA, "corpus.jsonl:471: empty text");
        }
    }
}

static void the_shared_samples_of_formats_give_the_same_pairs(void **state)
{
    const csp_pairs_source triples = { .corpus = SHARED "formats/msmarco/collection.tsv",
                                       .queries = SHARED "formats/msmarco/queries.train.tsv",
                                       .train = SHARED "formats/msmarco/qidpidtriples.train.tsv",
                                       .strict = true };
    const csp_pairs_source judged = { .corpus = SHARED "formats/msmarco/collection.tsv",
                                      .queries = SHARED "formats/msmarco/queries.train.tsv",
                                      .qrels = SHARED "formats/msmarco/qrels.train.tsv",
                                      .strict = true };
    const csp_pairs_source lines = { .train = SHARED "formats/tevatron/train.jsonl",
                                     .strict = true };
    csp_pairs *a, *b, *c;

    if (!shared_is_here("formats")) {
        skip();
    }
    a = open_or_fail(&triples);
    b = open_or_fail(&judged);
    c = open_or_fail(&lines);
    assert_int_equal(csp_pairs_count(a), csp_pairs_count(b));
    assert_int_equal(csp_pairs_count(a), csp_pairs_count(c));
    for (int64_t e = 0; e < csp_pairs_count(a); e++) {
        int64_t n[3];
        csp_text_row row[3];
        char text[3][6000];
        csp_pairs *set[] = { a, b, c };

        for (int i = 0; i < 3; i++) {
            const int64_t *positives = csp_pairs_positives(set[i], e, &n[i]);

            assert_int_equal(n[i], 1);
            assert_int_equal(csp_pairs_read_document(set[i], positives[0], &row[i]), CSP_OK);
            assert_true(row[i].bytes < 6000);
            memcpy(text[i], row[i].text, (size_t)row[i].bytes);
        }
        assert_int_equal(row[0].bytes, row[1].bytes);
        assert_memory_equal(text[0], text[1], (size_t)row[0].bytes);
        assert_true(row[2].bytes > 0);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(csp_pairs_read_query(set[i], e, &row[i]), CSP_OK);
            memcpy(text[i], row[i].text, (size_t)row[i].bytes);
        }
        assert_int_equal(row[0].bytes, row[2].bytes);
        assert_memory_equal(text[0], text[2], (size_t)row[0].bytes);
        assert_string_equal(csp_pairs_query_id(a, e), csp_pairs_query_id(c, e) + 1); /* 7 and q7 */
    }
    csp_pairs_close(a);
    csp_pairs_close(b);
    csp_pairs_close(c);
}

static int begin(void **state)
{
    csp_log_set_level(CSP_LOG_NONE); /* warnings about what does not join are expected here */
    return scratch_make(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joins_a_beir_folder),
        cmocka_unit_test(reports_what_does_not_join_and_refuses_it_where_strict),
        cmocka_unit_test(refuses_bad_lists_of_negatives),
        cmocka_unit_test(reads_id_triples_with_and_without_judgements),
        cmocka_unit_test(reads_training_lines_with_their_passages),
        cmocka_unit_test(reads_training_lines_with_ids),
        cmocka_unit_test(refuses_bad_training_lines),
        cmocka_unit_test(refuses_sources_that_are_not_enough),
        cmocka_unit_test(an_epoch_visits_each_example_once_across_batch_edges),
        cmocka_unit_test(a_step_is_the_same_whatever_was_drawn_before_and_in_parts),
        cmocka_unit_test(negatives_are_a_window_that_moves_through_the_list),
        cmocka_unit_test(consecutive_epochs_take_different_negatives),
        cmocka_unit_test(short_lists_are_filled_with_random_documents_without_repetition),
        cmocka_unit_test(refuses_draws_that_cannot_be),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(digests_tell_which_part_has_another_content),
        cmocka_unit_test(joins_the_shared_collections_without_a_miss),
        cmocka_unit_test(the_shared_samples_of_formats_give_the_same_pairs),
    };

    return cmocka_run_group_tests(tests, begin, scratch_remove);
}
