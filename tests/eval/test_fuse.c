/*
 * test_fuse.c - two runs made one, by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/fault.h"
#include "eval/fuse.h"

static csp_trec_row a1[] = { { "x", 10.0 }, { "y", 6.0 }, { "z", 2.0 } };
static csp_trec_row b1[] = { { "w", 0.9 }, { "y", 0.5 }, { "x", 0.1 } };
static csp_trec_row a2[] = { { "only", 3.0 } };
static csp_trec_row b3[] = { { "m", 1.0 }, { "n", 1.0 } };
static csp_trec_query a_queries[] = { { "1", a1, 3 }, { "2", a2, 1 } };
static csp_trec_query b_queries[] = { { "3", b3, 2 }, { "1", b1, 3 } };
static const csp_trec a = { a_queries, 2, NULL };
static const csp_trec b = { b_queries, 2, NULL };

static void row_is(const csp_ranking *r, int64_t q, int64_t i, const char *id, double value)
{
    assert_true(i < r->trec.queries[q].count);
    assert_string_equal(r->trec.queries[q].rows[i].doc_id, id);
    assert_true(fabs(r->trec.queries[q].rows[i].value - value) <= 1e-12);
}

static void interpolates_after_min_max(void **state)
{
    csp_ranking *r;

    assert_int_equal(csp_fuse(&a, &b, 0.75, CSP_FUSE_MIN_MAX, 0, &r), CSP_OK);
    assert_int_equal(r->trec.count, 3);
    assert_string_equal(r->trec.queries[0].query_id, "1");
    assert_string_equal(r->trec.queries[1].query_id, "2");
    assert_string_equal(r->trec.queries[2].query_id, "3");
    assert_int_equal(r->trec.queries[0].count, 4);
    row_is(r, 0, 0, "x", 0.75);
    row_is(r, 0, 1, "y", 0.75 * 0.5 + 0.25 * 0.5);
    row_is(r, 0, 2, "w", 0.25);
    row_is(r, 0, 3, "z", 0.0);
    row_is(r, 1, 0, "only", 0.75);
    row_is(r, 2, 0, "n", 0.25); /* a tie: the larger id first */
    row_is(r, 2, 1, "m", 0.25);
    csp_ranking_free(r);
}

static void scores_of_any_size_are_scaled(void **state)
{
    csp_trec_row rows[] = { { "x", 1e308 }, { "y", 0.0 }, { "z", -1e308 } };
    csp_trec_query query = { "1", rows, 3 };
    const csp_trec large = { &query, 1, NULL };
    csp_ranking *r;

    (void)state;
    assert_int_equal(csp_fuse(&large, &large, 0.5, CSP_FUSE_MIN_MAX, 0, &r), CSP_OK);
    row_is(r, 0, 0, "x", 1.0);
    row_is(r, 0, 1, "y", 0.5);
    row_is(r, 0, 2, "z", 0.0);
    csp_ranking_free(r);
}

static void adds_raw_scores_and_cuts(void **state)
{
    csp_ranking *r;

    assert_int_equal(csp_fuse(&a, &b, 0.5, CSP_FUSE_RAW, 2, &r), CSP_OK);
    assert_int_equal(r->trec.queries[0].count, 2);
    row_is(r, 0, 0, "x", 5.05);
    row_is(r, 0, 1, "y", 3.25);
    csp_ranking_free(r);
    /* Whoever a list does not have gets its lowest score. */
    assert_int_equal(csp_fuse(&a, &b, 0.5, CSP_FUSE_RAW, 0, &r), CSP_OK);
    row_is(r, 0, 2, "w", 0.5 * 2.0 + 0.5 * 0.9);
    row_is(r, 0, 3, "z", 0.5 * 2.0 + 0.5 * 0.1);
    csp_ranking_free(r);
}

static void refuses_a_weight_outside_0_to_1(void **state)
{
    csp_ranking *r = NULL;

    assert_int_equal(csp_fuse(&a, &b, -0.1, CSP_FUSE_RAW, 0, &r), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_fuse(&a, &b, NAN, CSP_FUSE_RAW, 0, &r), CSP_ERR_ARGUMENT);
    assert_null(r);
}

static void tunes_the_weight_on_judgements(void **state)
{
    char path[] = "/tmp/csplade-qrels-XXXXXX";
    const int fd = mkstemp(path);
    csp_measure *measure;
    csp_trec *qrels;
    int64_t count;
    double alpha, value;

    assert_int_equal(write(fd, "1 0 y 1\n", 8), 8);
    close(fd);
    assert_int_equal(csp_qrels_read(path, &qrels), CSP_OK);
    unlink(path);
    assert_int_equal(csp_measures_parse("RR", &measure, &count), CSP_OK);
    /* y is second in both lists: x leads for alpha above one half, w below; at it y ties both. */
    assert_int_equal(csp_fuse_tune(qrels, &a, &b, CSP_FUSE_MIN_MAX, measure, 4, &alpha, &value),
                     CSP_OK);
    assert_true(alpha == 0.5 && value == 1.0);
    assert_int_equal(csp_fuse_tune(qrels, &a, &b, CSP_FUSE_MIN_MAX, measure, 0, &alpha, &value),
                     CSP_ERR_ARGUMENT);
    free(measure);
    csp_trec_free(qrels);
}

static void every_allocation_may_fail(void **state)
{
    csp_status status = CSP_ERR_MEMORY;

    for (long n = 1; status != CSP_OK; n++) {
        csp_ranking *r = NULL;

        csp_fault_arm(n);
        status = csp_fuse(&a, &b, 0.5, CSP_FUSE_MIN_MAX, 0, &r);
        csp_fault_arm(0);
        assert_true(status == CSP_OK || (status == CSP_ERR_MEMORY && r == NULL));
        assert_true(n < 100);
        csp_ranking_free(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interpolates_after_min_max),
        cmocka_unit_test(scores_of_any_size_are_scaled),
        cmocka_unit_test(adds_raw_scores_and_cuts),
        cmocka_unit_test(refuses_a_weight_outside_0_to_1),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(tunes_the_weight_on_judgements),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
