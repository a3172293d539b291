/*
 * pairs_check.h - small collections, and what the tests of training pairs look at. Included by the
 * tests of this folder only.
 */
#pragma once

#include "scratch.h"

#include "core/log.h"
#include "data/pairs.h"

static inline csp_pairs *open_or_fail(const csp_pairs_source *source)
{
    csp_pairs *pairs = NULL;

    if (csp_pairs_open(source, &pairs) != CSP_OK) {
        fail_msg("%s", csp_error_text());
    }
    return pairs;
}

static inline void assert_refused(const csp_pairs_source *source, csp_status status,
                                  const char *message)
{
    csp_pairs *pairs = NULL;

    assert_int_equal(csp_pairs_open(source, &pairs), status);
    assert_null(pairs);
    assert_says(message);
}

/* "q2: +d1 +d3 -d2" for an example. */
static inline const char *describe(csp_pairs *pairs, int64_t example)
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

static inline void assert_document(csp_pairs *pairs, int64_t document, const char *id,
                                   const char *text)
{
    csp_text_row row;

    assert_int_equal(csp_pairs_read_document(pairs, document, &row), CSP_OK);
    assert_string_equal(row.id, id);
    assert_int_equal(row.bytes, strlen(text));
    assert_memory_equal(row.text, text, strlen(text));
}

static inline void assert_query(csp_pairs *pairs, int64_t example, const char *id, const char *text)
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
static inline void make_beir(const char *qrels, const char *negatives)
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

/* Training lines that hold their passages; c has none. */
static const char embedded[] =
    "{\"query_id\":\"a\",\"query\":\"first\",\"positive_passages\":[{\"docid\":\"p1\",\"title\":"
    "\"T\",\"text\":\"one\"}],\"negative_passages\":[{\"docid\":\"n1\",\"text\":\"two\"},{"
    "\"docid\":\"p1\",\"title\":\"T\",\"text\":\"one\"}]}\n\n"
    "{\"query_id\":\"b\",\"query\":\"second\",\"positive_passages\":[{\"docid\":\"n1\",\"text\":"
    "\"two\"},{\"docid\":\"p2\",\"text\":\"three\"}]}\n"
    "{\"query_id\":\"c\",\"query\":\"third\",\"positive_passages\":[],\"negative_passages\":[]}\n";

/* Set-up of a group of tests. */
static inline int pairs_begin(void **state)
{
    csp_log_set_level(CSP_LOG_NONE); /* warnings about what does not join are expected here */
    return scratch_make(state);
}
