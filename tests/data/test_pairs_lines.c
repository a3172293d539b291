/* test_pairs_lines.c - training lines, with passages within and with ids. */
#include "pairs_check.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_training_lines_with_their_passages),
        cmocka_unit_test(reads_training_lines_with_ids),
        cmocka_unit_test(refuses_bad_training_lines),
    };

    return cmocka_run_group_tests(tests, pairs_begin, scratch_remove);
}
