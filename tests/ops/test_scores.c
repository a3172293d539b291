/* test_scores.c - csp_scores_fwd and _bwd: reference against its derivative, backend against it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "ops/loss.h"
#include "ref/loss.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/rig.h"
#include "support/sparse.h"

/* Both ways (dense blocks of 512 terms, and by term), one element, no entry at all, more passages
 * than a block (128). */
static const struct {
    int64_t Q, P, V;
    double density;
} cases[] = {
    { 1, 1, 1, 1.0 },     { 3, 5, 511, 1.0 }, { 4, 150, 1030, 0.7 }, { 8, 300, 3000, 0.002 },
    { 7, 9, 1537, 0.02 }, { 2, 3, 513, 0.0 }, { 2, 129, 300, 0.3 },
};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

typedef struct setup {
    int64_t Q, P, V;
    csp_sparse q, p;
    double *wide_q, *wide_p;
} setup;

/* From CASES on the cases come again with as many entries expected as there are not. */
static setup make(rig *r, int64_t number)
{
    const int64_t i = number % CASES;
    setup s = { .Q = cases[i].Q, .P = cases[i].P, .V = cases[i].V };

    rig_begin(r, (uint64_t)i);
    s.q = rig_sparse_random(r, s.Q, s.V, cases[i].density, 0);
    s.p = rig_sparse_random(r, s.P, s.V, cases[i].density, 0);
    if (number >= CASES) {
        s.q.active = (double)s.V - s.q.active;
        s.p.active = (double)s.V - s.p.active;
    }
    s.wide_q = rig_sparse_dense(r, &s.q, s.Q, NULL);
    s.wide_p = rig_sparse_dense(r, &s.p, s.P, NULL);
    return s;
}

static void scores_match_the_reference(void **state)
{
    rig *r = *state;

    for (int64_t i = 0; i < 2 * CASES; i++) {
        const setup s = make(r, i);
        csp_tensor score = rig_output(r, CSP_F32, 2, (int64_t[]) { s.Q, s.P });
        csp_tensor again = rig_output(r, CSP_F32, 2, (int64_t[]) { s.Q, s.P });
        double *want = rig_doubles(r, s.Q * s.P), *mag = rig_doubles(r, s.Q * s.P);

        ref_scores_fwd(s.wide_q, s.wide_p, (double)0.3f, s.Q, s.P, s.V, want, mag);
        assert_int_equal(csp_scores_fwd(r->be, &s.q, s.Q, &s.p, s.P, 0.3f, &score), CSP_OK);
        assert_true(worst_ratio("s", rig_host(r, &score), want, mag, s.Q * s.P,
                                (double)(s.V + 4) * UNIT_F32) <= 1.0);
        assert_int_equal(csp_scores_fwd(r->be, &s.q, s.Q, &s.p, s.P, 0.3f, &again), CSP_OK);
        rig_check_same(r, &score, &again);
        rig_check_guards(r);
    }
}

/* Fails unless the entries after the last row, three of them, hold what the rig put there. */
static void check_rest(rig *r, const csp_tensor *d)
{
    const unsigned char *host = rig_host(r, d);

    for (size_t i = csp_tensor_bytes(d) - 12; i < csp_tensor_bytes(d); i++) {
        assert_int_equal(host[i], 0xFF);
    }
}

static void gradients_match_the_reference(void **state)
{
    rig *r = *state;

    for (int64_t i = 0; i < 2 * CASES; i++) {
        const setup s = make(r, i);
        const int64_t nq = s.Q * s.V, np = s.P * s.V;
        const csp_tensor ds = rig_normal(r, CSP_F32, 2, (int64_t[]) { s.Q, s.P });
        csp_tensor dq = rig_output(r, CSP_F32, 1, s.q.term.dim);
        csp_tensor dp = rig_output(r, CSP_F32, 1, s.p.term.dim);
        double *want_q = rig_doubles(r, nq), *mag_q = rig_doubles(r, nq);
        double *want_p = rig_doubles(r, np), *mag_p = rig_doubles(r, np);
        float *got = (float *)(void *)rig_ints(r, nq > np ? nq : np);
        const double *dense;

        ref_scores_bwd(rig_as_doubles(r, &ds), s.wide_q, s.wide_p, (double)0.3f, s.Q, s.P, s.V,
                       want_q, mag_q, want_p, mag_p);
        assert_int_equal(csp_scores_bwd(r->be, &ds, &s.q, &s.p, 0.3f, &dq, &dp), CSP_OK);
        dense = rig_sparse_dense(r, &s.q, s.Q, &dq);
        for (int64_t j = 0; j < nq; j++) {
            got[j] = (float)dense[j];
        }
        assert_true(worst_ratio("dq", got, want_q, mag_q, nq, (double)(s.P + 4) * UNIT_F32) <= 1.0);
        dense = rig_sparse_dense(r, &s.p, s.P, &dp);
        for (int64_t j = 0; j < np; j++) {
            got[j] = (float)dense[j];
        }
        assert_true(worst_ratio("dp", got, want_p, mag_p, np, (double)(s.Q + 4) * UNIT_F32) <= 1.0);
        check_rest(r, &dq);
        check_rest(r, &dp);
        rig_check_guards(r);
    }
}

/* s = sum of ds s, as a function of q: its derivative on a full support. */
typedef struct derivative {
    const double *other, *ds;
    bool of_p;
} derivative;

enum { GQ = 2, GP = 3, GV = 4 };

static double loss_of(const double *x, const void *context)
{
    const derivative *d = context;
    double s[GQ * GP], mag[GQ * GP], loss = 0.0;

    ref_scores_fwd(d->of_p ? d->other : x, d->of_p ? x : d->other, 0.3, GQ, GP, GV, s, mag);
    for (int i = 0; i < GQ * GP; i++) {
        loss += d->ds[i] * s[i];
    }
    return loss;
}

static void the_reference_is_its_own_derivative(void **state)
{
    rig *r = *state;
    double dq[GQ * GV], dp[GP * GV], mag[GP * GV];

    rig_begin(r, 0);
    const csp_tensor tq = rig_uniform(r, 0.5, 1.5, 2, (int64_t[]) { GQ, GV });
    const csp_tensor tp = rig_uniform(r, 0.5, 1.5, 2, (int64_t[]) { GP, GV });
    const csp_tensor tds = rig_normal(r, CSP_F32, 2, (int64_t[]) { GQ, GP });
    double *q = rig_as_doubles(r, &tq), *p = rig_as_doubles(r, &tp);
    const double *ds = rig_as_doubles(r, &tds);

    ref_scores_bwd(ds, q, p, 0.3, GQ, GP, GV, dq, mag, dp, mag);
    assert_true(gradient_distance(loss_of, &(derivative) { p, ds, false }, q, dq, GQ * GV) <=
                GRADIENT_LIMIT);
    assert_true(gradient_distance(loss_of, &(derivative) { q, ds, true }, p, dp, GP * GV) <=
                GRADIENT_LIMIT);
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;
    const setup s = make(r, 4);
    csp_tensor score = rig_output(r, CSP_F32, 2, (int64_t[]) { s.Q, s.P + 1 });
    csp_tensor dq = rig_output(r, CSP_F32, 1, s.q.term.dim);
    csp_tensor dp = rig_output(r, CSP_F32, 1, s.p.term.dim);
    const csp_tensor ds = rig_normal(r, CSP_F32, 2, (int64_t[]) { s.Q, s.P });
    const csp_tensor tall = rig_normal(r, CSP_F32, 2, (int64_t[]) { s.Q + 1, s.P });
    csp_sparse other = s.p;

    assert_int_equal(csp_scores_fwd(r->be, &s.q, s.Q, &s.p, s.P, 1.0f, &score), CSP_ERR_SHAPE);
    assert_int_equal(csp_scores_fwd(r->be, &s.q, s.Q, &s.p, s.P + 1, 1.0f, &score), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "row_ptr of p has 10 entries, 10 rows need 11"));
    other.vocab = s.V + 1;
    score.dim[1] = s.P;
    assert_int_equal(csp_scores_fwd(r->be, &s.q, s.Q, &other, s.P, 1.0f, &score), CSP_ERR_SHAPE);
    assert_int_equal(csp_scores_fwd(r->be, &s.q, s.Q, &s.p, s.P, INFINITY, &score),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(csp_scores_bwd(r->be, &tall, &s.q, &s.p, 1.0f, &dq, &dp), CSP_ERR_SHAPE);
    assert_int_equal(csp_scores_bwd(r->be, &ds, &s.q, &s.p, 1.0f, &dq, &dq), CSP_ERR_SHAPE);
    rig_check_untouched(r, &score);
    rig_check_untouched(r, &dq);
    rig_check_untouched(r, &dp);
}

static void failing_memory_is_reported(void **state)
{
    rig *r = *state;

    for (int64_t i = 2; i <= 3; i++) {
        const setup s = make(r, i);
        csp_tensor ds = rig_output(r, CSP_F32, 2, (int64_t[]) { s.Q, s.P });
        csp_tensor dq = rig_output(r, CSP_F32, 1, s.q.term.dim);
        csp_tensor dp = rig_output(r, CSP_F32, 1, s.p.term.dim);
        csp_status status = CSP_ERR_MEMORY;

        for (long n = 1; status != CSP_OK; n++) {
            csp_backend *fresh;

            assert_int_equal(csp_backend_create(r->be->name, 2, &fresh), CSP_OK);
            csp_fault_arm(n);
            status = csp_scores_fwd(fresh, &s.q, s.Q, &s.p, s.P, 1.0f, &ds);
            if (status == CSP_OK) {
                status = csp_scores_bwd(fresh, &ds, &s.q, &s.p, 1.0f, &dq, &dp);
            }
            csp_fault_arm(0);
            assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
            assert_true(n < 100);
            csp_backend_destroy(fresh);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_is_its_own_derivative),
        cmocka_unit_test(scores_match_the_reference),
        cmocka_unit_test(gradients_match_the_reference),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
        cmocka_unit_test(failing_memory_is_reported),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
