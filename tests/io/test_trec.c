/* test_trec.c - every form of judgements and runs, what is refused, and runs that read back. */
#include "io/scratch.h"

#include "io/trec.h"

static csp_trec *read_text(const char *text, csp_status (*read)(const char *, csp_trec **))
{
    csp_trec *trec = NULL;

    scratch_text(scratch_path("trec"), text);
    assert_ok(read(scratch_path("trec"), &trec));
    return trec;
}

static void assert_refused(const char *text, csp_status (*read)(const char *, csp_trec **),
                           csp_status want, const char *part)
{
    csp_trec *trec = NULL;

    scratch_text(scratch_path("trec"), text);
    assert_int_equal(read(scratch_path("trec"), &trec), want);
    assert_error_has(part);
    assert_null(trec);
}

static void all_forms_of_judgements_give_the_same(void **state)
{
    static const char *const texts[] = {
        "q1 0 d1 1\nq1 0 d2 0\nq2 0 d1 -1\n",
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td1\t-1\n",
        "q1 d1 1\n\nq1   d2\t0\r\n q2 d1 -1",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        csp_trec *trec = read_text(texts[i], csp_qrels_read);
        const csp_trec_query *q1 = csp_trec_find(trec, "q1"), *q2 = csp_trec_find(trec, "q2");

        assert_int_equal(trec->count, 2);
        assert_ptr_equal(q1, &trec->queries[0]);
        assert_ptr_equal(q2, &trec->queries[1]);
        assert_int_equal(q1->count, 2);
        assert_string_equal(q1->rows[0].doc_id, "d1");
        assert_true(q1->rows[0].value == 1.0);
        assert_string_equal(q1->rows[1].doc_id, "d2");
        assert_true(q1->rows[1].value == 0.0);
        assert_int_equal(q2->count, 1);
        assert_true(q2->rows[0].value == -1.0);
        assert_null(csp_trec_find(trec, "q3"));
        assert_null(csp_trec_find(trec, ""));
        csp_trec_free(trec);
    }
    csp_trec_free(NULL);
}

static void queries_that_are_kept_are_found_where_they_are_now(void **state)
{
    csp_trec *trec = read_text("a d 1\nb d 2\nc d 3\nd d 4\ne d 5\n", csp_qrels_read);

    (void)state;
    csp_trec_keep(trec, (const uint8_t[]) { 0, 1, 0, 1, 1 });
    assert_int_equal(trec->count, 3);
    for (int64_t q = 0; q < 3; q++) {
        assert_ptr_equal(csp_trec_find(trec, trec->queries[q].query_id), &trec->queries[q]);
    }
    assert_string_equal(trec->queries[0].query_id, "b");
    assert_true(trec->queries[2].rows[0].value == 5.0);
    assert_null(csp_trec_find(trec, "a"));
    assert_null(csp_trec_find(trec, "c"));
    csp_trec_free(trec);
}

static void all_forms_of_runs_are_read(void **state)
{
    csp_trec *trec;

    (void)state;
    trec = read_text("2 Q0 a 1 9.5 tag\n1 Q0 b 1 8 tag\n2 Q0 c 2 -1e-3 tag\n", csp_run_read);
    assert_int_equal(trec->count, 2);
    assert_string_equal(trec->queries[0].query_id, "2");
    assert_int_equal(trec->queries[0].count, 2);
    assert_string_equal(trec->queries[0].rows[1].doc_id, "c");
    assert_true(trec->queries[0].rows[1].value == -1e-3);
    csp_trec_free(trec);

    trec = read_text("1 a 3.5\n1 b 2\n", csp_run_read);
    assert_true(trec->queries[0].rows[0].value == 3.5);
    assert_true(trec->queries[0].rows[1].value == 2.0);
    csp_trec_free(trec);

    trec = read_text("1\ta\t1\n1\tb\t2\n1\tc\t3\n2\tb\t1\n", csp_run_read);
    assert_true(trec->queries[0].rows[0].value == 1.0);
    assert_true(trec->queries[0].rows[2].value == 1.0 / 3.0);
    csp_trec_free(trec);

    /* Scores that fall 2, 1 are scores. */
    trec = read_text("1 a 2\n1 b 1\n", csp_run_read);
    assert_true(trec->queries[0].rows[0].value == 2.0);
    csp_trec_free(trec);
}

static void files_without_rows_have_no_queries(void **state)
{
    static const char *const texts[] = { "", "\n \n", "query-id\tcorpus-id\tscore\n" };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        csp_trec *trec = read_text(texts[i], csp_qrels_read);

        assert_int_equal(trec->count, 0);
        assert_null(csp_trec_find(trec, "q"));
        csp_trec_free(trec);
    }
}

static void bad_lines_are_named_by_number(void **state)
{
    (void)state;
    assert_refused("q 0 d 1\nq 0 d2\n", csp_qrels_read, CSP_ERR_FORMAT, "trec:2: 3 columns");
    assert_refused("q d\n", csp_qrels_read, CSP_ERR_FORMAT, "trec:1: 2 columns");
    assert_refused("q 0 d 1 x\n", csp_qrels_read, CSP_ERR_FORMAT, "trec:1: 5 columns");
    assert_refused("q 0 d yes\n", csp_qrels_read, CSP_ERR_FORMAT, "\"yes\", not a number");
    assert_refused("a b c\nq d one\n", csp_qrels_read, CSP_ERR_FORMAT, "trec:2: column 3");
    assert_refused("q 0 d nan\n", csp_qrels_read, CSP_ERR_FORMAT, "not a number");
    assert_refused("q 0 d 0x10\n", csp_qrels_read, CSP_ERR_FORMAT, "not a number");
    assert_refused("q 0 d 1e999\n", csp_qrels_read, CSP_ERR_FORMAT, "not a number");
    assert_refused("q 0 d -\n", csp_qrels_read, CSP_ERR_FORMAT, "not a number");
    assert_refused("q Q0 d 1 inf t\n", csp_run_read, CSP_ERR_FORMAT, "trec:1: column 5");
    assert_refused("q Q0 d 1\n", csp_run_read, CSP_ERR_FORMAT, "a run has 6 or 3");
    assert_refused("q 0 d\xE9 1\n", csp_qrels_read, CSP_ERR_FORMAT,
                   "trec:1: invalid UTF-8 at byte 6");
    assert_refused("q 0 d 1\nq 0 e 1\nr 0 d 1\nq 0 d 0\nq 0 e 0\n", csp_qrels_read, CSP_ERR_DATA,
                   "trec:4: query q and document d");
    /* A bad first row is no header; an id with a space is neither two columns nor one. */
    assert_refused("q\td\t1O\nr\td\t1\n", csp_qrels_read, CSP_ERR_FORMAT, "trec:1: column 3");
    assert_refused("q\td\tNaN\nr\td\t1\n", csp_qrels_read, CSP_ERR_FORMAT, "trec:1: column 3");
    assert_refused("q\td e\t1\n", csp_qrels_read, CSP_ERR_FORMAT,
                   "trec:1: 3 columns by its tabs, 4 by its spaces");
    assert_refused("q\td e\t1\n", csp_run_read, CSP_ERR_FORMAT, "trec:1: 3 columns by its tabs");
    assert_refused("q r\tQ0\td\t1\t2\tt\n", csp_run_read, CSP_ERR_FORMAT,
                   "trec:1: 6 columns by its tabs, 7 by its spaces");
    scratch_write(scratch_path("trec"), "q 0 d\0 1\n", 9);
    csp_trec *trec = NULL;
    assert_int_equal(csp_qrels_read(scratch_path("trec"), &trec), CSP_ERR_FORMAT);
    assert_error_has("NUL byte");
    assert_int_equal(csp_qrels_read(scratch_path("absent"), &trec), CSP_ERR_IO);
    assert_null(trec);
}

static void many_queries_in_any_order_are_found(void **state)
{
    enum { QUERIES = 5000 };
    char path[512], id[32];
    FILE *stream;
    csp_trec *trec;

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("many"));
    stream = fopen(path, "wb");
    assert_non_null(stream);
    for (int round = 0; round < 3; round++) {
        for (int q = 0; q < QUERIES; q++) {
            fprintf(stream, "q%d 0 d%d %d\n", q * 7 % QUERIES, round, q % 3);
        }
    }
    fclose(stream);
    assert_ok(csp_qrels_read(path, &trec));
    assert_int_equal(trec->count, QUERIES);
    for (int q = 0; q < QUERIES; q++) {
        const csp_trec_query *query;

        snprintf(id, sizeof(id), "q%d", q);
        query = csp_trec_find(trec, id);
        assert_non_null(query);
        assert_int_equal(query->count, 3);
        assert_string_equal(query->query_id, id);
        assert_string_equal(query->rows[2].doc_id, "d2");
    }
    csp_trec_free(trec);
}

static void a_run_reads_back_as_written(void **state)
{
    const csp_trec_row rows[] = {
        { "d1", 12.3456793f }, { "d2", 0.1f }, { "d3", 0.1f }, { "d4", -1e-30f }
    };
    csp_run_writer *writer;
    csp_trec *trec;
    char *text;
    size_t bytes;

    (void)state;
    assert_ok(csp_run_writer_create(scratch_path("out.run"), "csplade", &writer));
    assert_ok(csp_run_writer_append(writer, "q1", rows, 4));
    assert_ok(csp_run_writer_append(writer, "q2", rows, 0));
    assert_ok(csp_run_writer_append(writer, "q3", rows, 1));
    assert_ok(csp_run_writer_commit(writer));
    text = scratch_read(scratch_path("out.run"), &bytes);
    assert_non_null(strstr(text, "q1 Q0 d1 1 12.3456793 csplade\n"));
    assert_non_null(strstr(text, "q1 Q0 d3 3 0.100000001 csplade\n"));
    free(text);
    assert_ok(csp_run_read(scratch_path("out.run"), &trec));
    assert_int_equal(trec->count, 2);
    for (int i = 0; i < 4; i++) {
        assert_true((float)trec->queries[0].rows[i].value == (float)rows[i].value);
    }
    csp_trec_free(trec);
}

static void rows_that_no_reader_could_split_are_refused(void **state)
{
    const csp_trec_row space = { "d 1", 1.0 }, empty = { "", 1.0 };
    const csp_trec_row rising[] = { { "a", 1.0 }, { "b", 2.0 } };
    const csp_trec_row nan[] = { { "a", NAN }, { "b", 2.0 } };
    csp_run_writer *writer = NULL;

    (void)state;
    assert_int_equal(csp_run_writer_create(scratch_path("bad.run"), "a b", &writer),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(csp_run_writer_create(scratch_path("bad.run"), "\xFF", &writer),
                     CSP_ERR_ARGUMENT);
    assert_null(writer);
    assert_ok(csp_run_writer_create(scratch_path("bad.run"), "tag", &writer));
    assert_int_equal(csp_run_writer_append(writer, "q", &space, 1), CSP_ERR_DATA);
    assert_error_has("\"d 1\"");
    assert_int_equal(csp_run_writer_append(writer, "q", &empty, 1), CSP_ERR_DATA);
    assert_int_equal(csp_run_writer_append(writer, "q\t", rising, 1), CSP_ERR_DATA);
    assert_int_equal(csp_run_writer_append(writer, "q", rising, 2), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_run_writer_append(writer, "q", nan, 2), CSP_ERR_ARGUMENT);
    csp_run_writer_abandon(writer);
    csp_run_writer_abandon(NULL);
    assert_int_equal(access(scratch_path("bad.run"), F_OK), -1);
}

static csp_status write_and_read(void *context)
{
    const csp_trec_row rows[] = { { "d1", 2.0 }, { "d2", 1.0 } };
    csp_run_writer *writer = NULL;
    csp_trec *trec;
    csp_status status;

    CSP_TRY(csp_run_writer_create(context, "t", &writer));
    CSP_TRY_GOTO(csp_run_writer_append(writer, "q1", rows, 2));
    CSP_TRY_GOTO(csp_run_writer_append(writer, "q2", rows, 2));
    CSP_TRY(csp_run_writer_commit(writer));
    CSP_TRY(csp_run_read(context, &trec));
    csp_trec_free(trec);
    return CSP_OK;

fail:
    csp_run_writer_abandon(writer);
    return status;
}

static void nothing_half_written(void *context)
{
    (void)context;
    assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
}

static void every_failure_has_a_message_and_leaves_nothing(void **state)
{
    char path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("faults.run"));
    assert_true(walk_faults(write_and_read, nothing_half_written, path) >= 15);
}

static void real_judgements_and_runs_are_read(void **state)
{
    csp_trec *trec;
    int64_t rows = 0;

    (void)state;
    assert_ok(csp_qrels_read(shared_path("scifact/qrels/test.tsv"), &trec));
    assert_int_equal(trec->count, 300);
    for (int64_t q = 0; q < trec->count; q++) {
        rows += trec->queries[q].count;
    }
    assert_int_equal(rows, 339);
    csp_trec_free(trec);

    assert_ok(csp_run_read(shared_path("scifact/bm25.test.run"), &trec));
    assert_int_equal(trec->count, 300);
    assert_string_equal(trec->queries[0].rows[1].doc_id, "43385013");
    assert_true(trec->queries[0].rows[1].value == 5.080422);
    csp_trec_free(trec);

    assert_ok(csp_qrels_read(shared_path("formats/msmarco/qrels.train.tsv"), &trec));
    assert_true(trec->count > 0);
    csp_trec_free(trec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_forms_of_judgements_give_the_same),
        cmocka_unit_test(queries_that_are_kept_are_found_where_they_are_now),
        cmocka_unit_test(all_forms_of_runs_are_read),
        cmocka_unit_test(files_without_rows_have_no_queries),
        cmocka_unit_test(bad_lines_are_named_by_number),
        cmocka_unit_test(many_queries_in_any_order_are_found),
        cmocka_unit_test(a_run_reads_back_as_written),
        cmocka_unit_test(rows_that_no_reader_could_split_are_refused),
        cmocka_unit_test(every_failure_has_a_message_and_leaves_nothing),
        cmocka_unit_test(real_judgements_and_runs_are_read),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
