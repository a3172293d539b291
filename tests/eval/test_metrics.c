/*
 * test_metrics.c - measures by hand, and every value of the golden runs in ../shared/data, which
 * ir_measures computed from the same files.
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
#include <unistd.h>

#include "core/fault.h"
#include "eval/metrics.h"
#include "io/file.h"

#define DATA CSPLADE_SOURCE_DIR "/../shared/data"

static csp_trec *read_text(const char *text, bool is_run)
{
    char path[] = "/tmp/csplade-metrics-XXXXXX";
    const int fd = mkstemp(path);
    csp_trec *trec = NULL;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    assert_int_equal(is_run ? csp_run_read(path, &trec) : csp_qrels_read(path, &trec), CSP_OK);
    unlink(path);
    return trec;
}

static csp_metrics *compute(const char *qrels, const char *run, const char *list,
                            const csp_metrics_options *options)
{
    csp_trec *q = read_text(qrels, false), *r = read_text(run, true);
    csp_measure *measure;
    csp_metrics *metrics = NULL;
    int64_t count;

    assert_int_equal(csp_measures_parse(list, &measure, &count), CSP_OK);
    assert_int_equal(csp_metrics_compute(q, r, measure, count, options, &metrics), CSP_OK);
    free(measure);
    csp_trec_free(q);
    csp_trec_free(r);
    return metrics;
}

static void near(double got, double want, double limit)
{
    if (!(fabs(got - want) <= limit)) {
        print_error("got %.9f, want %.9f\n", got, want);
    }
    assert_true(fabs(got - want) <= limit);
}

static void value_is(const csp_metrics *x, int64_t q, const char *name, double want)
{
    for (int64_t m = 0; m < x->measures; m++) {
        if (strcmp(x->measure[m].name, name) == 0) {
            near(x->value[q * x->measures + m], want, 1e-12);
            return;
        }
    }
    fail_msg("no measure %s", name);
}

/* The judgements and the run that ir_measures 0.4.3 was asked about for the values below. */
static const char qrels_text[] = "q1 0 a 1\nq1 0 b 0\nq2 0 a 0\nq3 0 c 2\n"
                                 "q4 0 a -1\nq4 0 b 3\nq4 0 c 1\n";
static const char run_text[] = "q1 Q0 b 2 1.0 t\nq1 Q0 a 1 1.00000001 t\nq2 Q0 a 1 3 t\n"
                               "q4 Q0 b 2 2 t\nq4 Q0 c 3 2 t\nq4 Q0 a 1 3 t\nq9 Q0 a 1 1 t\n";
static const char measures_text[] =
    "nDCG@10,nDCG@2,nDCG,RR,R@100,R@1,AP,AP@2,P@10,P@1,RR(rel=2)@10";

static void agrees_with_hand_computed_values(void **state)
{
    csp_metrics *x = compute(qrels_text, run_text, measures_text, NULL);
    const double log3 = log2(3.0);

    assert_int_equal(x->queries, 4);
    assert_string_equal(x->query_id[0], "q1");
    /* As float32 the two scores of q1 are equal, so b, the larger id, comes first. */
    value_is(x, 0, "nDCG@10", 1.0 / log3);
    value_is(x, 0, "RR", 0.5);
    value_is(x, 0, "R@1", 0.0);
    value_is(x, 0, "AP", 0.5);
    value_is(x, 0, "P@10", 0.1);
    /* q4 ranks a (-1), c (1), b (3); the negative one neither gains nor loses. */
    value_is(x, 3, "nDCG@10", (1.0 / log3 + 3.0 / 2.0) / (3.0 + 1.0 / log3));
    value_is(x, 3, "nDCG@2", (1.0 / log3) / (3.0 + 1.0 / log3));
    value_is(x, 3, "AP", (1.0 / 2.0 + 2.0 / 3.0) / 2.0);
    value_is(x, 3, "AP@2", 0.25);
    value_is(x, 3, "P@10", 0.2);
    value_is(x, 3, "R@100", 1.0);
    value_is(x, 3, "RR(rel=2)@10", 1.0 / 3.0);
    csp_metrics_free(x);
}

static void counts_unanswered_and_unfindable_queries_as_zero(void **state)
{
    csp_metrics *x = compute(qrels_text, run_text, "P@10 R@100", NULL);

    assert_int_equal(x->unanswered, 1);
    assert_int_equal(x->unjudged, 1);
    assert_int_equal(x->unfindable, 1);
    near(x->mean[0], 0.075, 1e-12);
    near(x->mean[1], 0.5, 1e-12);
    csp_metrics_free(x);
}

static void leaves_the_query_itself_out_when_asked(void **state)
{
    const csp_metrics_options options = { .remove_query = true };
    csp_metrics *x = compute("a 0 b 1\n", "a Q0 a 1 9 t\na Q0 b 2 8 t\n", "RR@10", NULL);

    near(x->mean[0], 0.5, 0.0);
    csp_metrics_free(x);
    x = compute("a 0 b 1\n", "a Q0 a 1 9 t\na Q0 b 2 8 t\n", "RR@10", &options);
    near(x->mean[0], 1.0, 0.0);
    csp_metrics_free(x);
}

static void refuses_a_run_of_other_queries(void **state)
{
    csp_trec *q = read_text("1 0 a 1\n", false), *r = read_text("x1 Q0 a 1 1 t\n", true);
    csp_measure *measure;
    csp_metrics *metrics = NULL;
    int64_t count;

    assert_int_equal(csp_measures_parse("AP", &measure, &count), CSP_OK);
    assert_int_equal(csp_metrics_compute(q, r, measure, count, NULL, &metrics), CSP_ERR_DATA);
    assert_non_null(strstr(csp_error_text(), "x1"));
    assert_null(metrics);
    free(measure);
    csp_trec_free(q);
    csp_trec_free(r);
}

static void reads_measure_names_as_people_write_them(void **state)
{
    csp_measure *m;
    int64_t count;

    assert_int_equal(
        csp_measures_parse(" ndcg@10, MRR@10\tRecall@1000 map,P@5 AP(rel=2)@100 ", &m, &count),
        CSP_OK);
    assert_int_equal(count, 6);
    assert_string_equal(m[0].name, "nDCG@10");
    assert_string_equal(m[1].name, "RR@10");
    assert_string_equal(m[2].name, "R@1000");
    assert_string_equal(m[3].name, "AP");
    assert_string_equal(m[4].name, "P@5");
    assert_string_equal(m[5].name, "AP(rel=2)@100");
    assert_int_equal(m[5].rel, 2);
    assert_int_equal(m[5].cut, 100);
    free(m);
}

static void refuses_measures_it_does_not_know(void **state)
{
    static const char *const bad[] = { "",
                                       "  ,",
                                       "DCG@10",
                                       "nDCG@",
                                       "nDCG@0",
                                       "R",
                                       "P",
                                       "nDCG@10x",
                                       "AP(rel=0)",
                                       "nDCG(rel=2)@5",
                                       "RR@-1",
                                       "@10",
                                       "RR@99999999999",
                                       "R(rel=2)",
                                       "AP(rel=2",
                                       "P@1e3",
                                       "nDCG@10@5",
                                       "nDCG@1000000000000000000000000000000000000000000000000000"
                                       "000000000000000000000000000000000" };
    csp_measure *m = NULL;
    int64_t count = -1;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(csp_measures_parse(bad[i], &m, &count), CSP_ERR_ARGUMENT);
    }
    assert_null(m);
    assert_int_equal(count, -1);
}

static void every_allocation_may_fail(void **state)
{
    csp_trec *q = read_text(qrels_text, false), *r = read_text(run_text, true);
    csp_status status = CSP_ERR_MEMORY;

    for (long n = 1; status != CSP_OK; n++) {
        csp_measure *measure = NULL;
        csp_metrics *metrics = NULL;
        int64_t count;

        csp_fault_arm(n);
        status = csp_measures_parse(measures_text, &measure, &count);
        if (status == CSP_OK) {
            status = csp_metrics_compute(q, r, measure, count, NULL, &metrics);
        }
        csp_fault_arm(0);
        assert_true(status == CSP_OK || (status == CSP_ERR_MEMORY && metrics == NULL));
        assert_true(n < 100);
        free(measure);
        csp_metrics_free(metrics);
    }
    csp_trec_free(q);
    csp_trec_free(r);
}

static void compare_golden(const char *collection)
{
    char path[512], list[512] = "";
    csp_trec *qrels, *run;
    csp_measure *measure;
    csp_metrics *x;
    const char *name;
    json_t *golden, *value;
    int64_t count, compared = 0;

    (void)snprintf(path, sizeof(path), DATA "/%s/bm25.test.metrics.json", collection);
    golden = json_load_file(path, 0, NULL);
    assert_non_null(golden);
    json_object_foreach(json_object_get(golden, "aggregate"), name, value)
    {
        (void)snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s ", name);
    }
    (void)snprintf(path, sizeof(path), DATA "/%s/qrels/test.tsv", collection);
    assert_int_equal(csp_qrels_read(path, &qrels), CSP_OK);
    (void)snprintf(path, sizeof(path), DATA "/%s/bm25.test.run", collection);
    assert_int_equal(csp_run_read(path, &run), CSP_OK);
    assert_int_equal(csp_measures_parse(list, &measure, &count), CSP_OK);
    assert_int_equal(csp_metrics_compute(qrels, run, measure, count, NULL, &x), CSP_OK);
    assert_int_equal(x->queries, json_object_size(json_object_get(golden, "per_query")));
    for (int64_t m = 0; m < count; m++) {
        near(x->mean[m],
             json_number_value(
                 json_object_get(json_object_get(golden, "aggregate"), measure[m].name)),
             1e-6);
        for (int64_t q = 0; q < x->queries; q++) {
            const json_t *want = json_object_get(
                json_object_get(json_object_get(golden, "per_query"), x->query_id[q]),
                measure[m].name);

            assert_non_null(want);
            near(x->value[q * count + m], json_number_value(want), 1e-6);
            compared++;
        }
    }
    assert_true(compared >= 700);
    csp_metrics_free(x);
    free(measure);
    csp_trec_free(qrels);
    csp_trec_free(run);
    json_decref(golden);
}

static void equals_ir_measures_on_real_runs(void **state)
{
    if (!csp_file_is_dir(DATA)) {
        skip();
    }
    compare_golden("scifact");
    compare_golden("cranfield");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_hand_computed_values),
        cmocka_unit_test(counts_unanswered_and_unfindable_queries_as_zero),
        cmocka_unit_test(leaves_the_query_itself_out_when_asked),
        cmocka_unit_test(refuses_a_run_of_other_queries),
        cmocka_unit_test(reads_measure_names_as_people_write_them),
        cmocka_unit_test(refuses_measures_it_does_not_know),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(equals_ir_measures_on_real_runs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
