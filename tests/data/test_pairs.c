/* test_pairs.c - joining queries, documents and judgements: what joins, what is refused. */
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#include "pairs_check.h"
#include "support/ranks.h"

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
                               "judgements of 0 or less, no positives: 1; negatives dropped as "
                               "known positives: 1; negatives dropped as repetitions: 1");
    csp_pairs_close(pairs);
}

static void reports_what_does_not_join_and_refuses_it_where_strict(void **state)
{
    csp_pairs_source source = { .corpus = at("beir") };
    char folder[300], words[500];
    csp_pairs *pairs;

    (void)snprintf(folder, sizeof(folder), "%s", at("beir"));
    source.corpus = folder;
    make_beir("q0 0 d0 1\nq0 0 x1 1\nq9 0 d1 1\nq1 0 x1 1\nq1 0 x2 1\nq1 0 x3 1\nq1 0 x4 1\n",
              NULL);
    pairs = open_or_fail(&source);
    assert_int_equal(csp_pairs_count(pairs), 1);
    csp_join_say(csp_pairs_report(pairs), words, sizeof(words));
    assert_string_equal(words,
                        "queries to train on: 1, documents: 5, positives: 1, negatives: 0; query "
                        "ids not among the queries: 1 (q9); positives not in the corpus: 5 (x1, "
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

static void counts_empty_texts(void **state)
{
    const csp_pairs_source source = { .corpus = at("beir") };
    char words[500];
    csp_pairs *pairs;

    make_beir("q0 0 d0 1\n", NULL);
    put_text("beir/queries.jsonl", "{\"_id\":\"q0\",\"text\":\" \"}\n");
    put_text("beir/corpus.jsonl", "{\"_id\":\"d0\",\"text\":\"\"}\n"
                                  "{\"_id\":\"d1\",\"title\":\"t\",\"text\":\"\"}\n"
                                  "{\"_id\":\"d2\",\"title\":\"\",\"text\":\"\\t\"}\n");
    pairs = open_or_fail(&source);
    csp_join_say(csp_pairs_report(pairs), words, sizeof(words));
    assert_string_equal(words, "queries to train on: 1, documents: 3, positives: 1, negatives: 0; "
                               "empty queries: 1; empty documents: 2");
    csp_pairs_close(pairs);
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

/* A file that goes on for SLOW_S, or until nobody reads it; more at once than its reader holds. */
enum { SLOW_S = 20, PAUSES_A_SECOND = 20, LINES_A_PAUSE = 8000 };

typedef struct slow_file {
    const char *path, *line; /* behind "q" and its number */
} slow_file;

static void *write_slowly(void *context)
{
    const slow_file *slow = context;
    const struct timespec pause = { .tv_nsec = 1000000000 / PAUSES_A_SECOND };
    FILE *file = fopen(slow->path, "w");

    for (int i = 0; file != NULL && i < SLOW_S * PAUSES_A_SECOND; i++) {
        for (int k = 0; k < LINES_A_PAUSE; k++) {
            (void)fprintf(file, "q%d%s\n", 10 + i * LINES_A_PAUSE + k, slow->line);
        }
        if (fflush(file) != 0) {
            break;
        }
        (void)nanosleep(&pause, NULL);
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return NULL;
}

/*
 * Two ranks of a machine: the second fails at once, the first reads a long file. Where its reader
 * says that it is still there, as it must for those that wait, it learns of that and ends too.
 */
static int read_for_nobody(int which)
{
    static const char *const lines[] = { " 0 d0 1", " d1", " d0 d1" };
    const csp_comm_options options = { .timeout_s = 60.0 };
    slow_file slow = { .path = at("slow.tsv"), .line = lines[which] };
    csp_pairs_source source = { .corpus = at("beir") };
    csp_comm *comm, *machine;
    csp_launch launch;
    csp_pairs *pairs;
    pthread_t writer;

    (void)signal(SIGPIPE, SIG_IGN);
    csp_log_set_level(CSP_LOG_NONE);
    RANK_TRY(csp_launch_find(&launch));
    RANK_TRY(csp_comm_create(&launch, &options, &comm));
    RANK_TRY(csp_comm_group_local(comm, &machine));
    if (csp_comm_rank(comm) == 1) {
        csp_comm_report(comm, 1, "it does not wait");
        return 0;
    }
    RANK_TRY(csp_image_create(machine, &source.image));
    RANK_CHECK(mkfifo(slow.path, 0600) == 0);
    RANK_CHECK(pthread_create(&writer, NULL, write_slowly, &slow) == 0);
    *(which == 0 ? &source.qrels : which == 1 ? &source.negatives : &source.train) = slow.path;
    RANK_CHECK(csp_pairs_open(&source, &pairs) == CSP_ERR_COMM);
    csp_image_destroy(source.image);
    (void)pthread_join(writer, NULL);
    RANK_CHECK(remove(slow.path) == 0);
    return 0;
}

static void every_reader_of_ids_tells_ranks_that_wait_that_it_is_there(void **state)
{
    make_beir("q0 0 d0 1\n", NULL);
    for (int which = 0; which < 3; which++) {
        int exited[2] = { -1, -1 };

        assert_true(ranks_run(read_for_nobody, which, 2, SLOW_S + 40.0, exited));
        assert_int_equal(exited[0], 0);
        assert_int_equal(exited[1], 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joins_a_beir_folder),
        cmocka_unit_test(reports_what_does_not_join_and_refuses_it_where_strict),
        cmocka_unit_test(counts_empty_texts),
        cmocka_unit_test(refuses_bad_lists_of_negatives),
        cmocka_unit_test(reads_id_triples_with_and_without_judgements),
        cmocka_unit_test(refuses_sources_that_are_not_enough),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(digests_tell_which_part_has_another_content),
        cmocka_unit_test(joins_the_shared_collections_without_a_miss),
        cmocka_unit_test(the_shared_samples_of_formats_give_the_same_pairs),
        cmocka_unit_test(every_reader_of_ids_tells_ranks_that_wait_that_it_is_there),
    };

    return cmocka_run_group_tests(tests, pairs_begin, scratch_remove);
}
