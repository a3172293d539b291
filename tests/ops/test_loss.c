/* test_loss.c - InfoNCE, column sums and the sparsity terms of ops/loss.h. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "ops/loss.h"
#include "ref/loss.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/rig.h"
#include "support/sparse.h"

#define UNIT_F64 0x1p-53

/* blocks: of passages, beside 0 for no mask at all; queries elsewhere are in the step, too. */
static const struct {
    int64_t Q, P, blocks, elsewhere;
} cases[] = { { 1, 1, 0, 0 },  { 3, 2, 0, 0 },    { 8, 33, 1, 0 },
              { 8, 32, 4, 8 }, { 65, 129, 1, 0 }, { 33, 129, 43, 5 } };
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

/*
 * A query's positive is drawn. Left out are every third passage, never the positive, and all that
 * are in other blocks than the positive, by another value.
 */
static csp_tensor some_passages(rig *r, int64_t Q, int64_t P, const int32_t *positive,
                                int64_t blocks)
{
    uint8_t *mask = (uint8_t *)rig_ints(r, Q * P);

    for (int64_t i = 0; i < Q * P; i++) {
        const int64_t p = i % P, own = positive[i / P];

        mask[i] = blocks > 1 && p * blocks / P != own * blocks / P ? 2 : i % 3 == 0 && p != own;
    }
    return blocks > 0 ? rig_input(r, CSP_U8, 2, (int64_t[]) { Q, P }, mask) : csp_tensor_none();
}

/*
 * The three parts on one rank, of M queries in the step; out is each query's loss, own score and
 * best other one.
 */
static csp_status whole_nce(rig *r, const csp_tensor *s, const csp_tensor *positive,
                            const csp_tensor *mask, int64_t M, csp_tensor *ds, double *out)
{
    const int64_t Q = s->dim[0];
    csp_tensor row = rig_output(r, CSP_F64, 2, (int64_t[]) { Q, 2 });
    csp_tensor sum = rig_output(r, CSP_F64, 1, &Q), loss = rig_output(r, CSP_F64, 1, &Q);
    const double *scores, *losses;

    CSP_TRY(csp_nce_scores(r->be, s, positive, mask, &row));
    CSP_TRY(csp_nce_sum(r->be, s, mask, &row, &sum));
    CSP_TRY(csp_nce_grad(r->be, s, positive, mask, &row, &sum, M, ds, &loss));
    scores = rig_host(r, &row);
    losses = rig_host(r, &loss);
    for (int64_t q = 0; q < Q; q++) {
        out[3 * q] = losses[q];
        out[3 * q + 1] = scores[2 * q];
        out[3 * q + 2] = scores[2 * q + 1];
    }
    return CSP_OK;
}

static void info_nce_matches_the_reference(void **state)
{
    rig *r = *state;

    for (int64_t i = 0; i < CASES; i++) {
        const int64_t Q = cases[i].Q, P = cases[i].P, M = Q + cases[i].elsewhere;
        double *loss, *want_row, *want_loss, *want, *mag, *size;
        double *got, *again;

        rig_begin(r, (uint64_t)i);
        const csp_tensor s = rig_uniform(r, -30.0, 30.0, 2, (int64_t[]) { Q, P });
        const csp_tensor positive = rig_indices(r, P, Q);
        const csp_tensor mask = some_passages(r, Q, P, rig_host(r, &positive), cases[i].blocks);
        csp_tensor ds = rig_output(r, CSP_F32, 2, s.dim), in_place = rig_copy(r, &s);

        got = rig_doubles(r, Q * 3);
        again = rig_doubles(r, Q * 3);
        loss = rig_doubles(r, Q);
        want_row = rig_doubles(r, Q * 3);
        want_loss = rig_doubles(r, Q);
        size = rig_doubles(r, Q);
        want = rig_doubles(r, Q * P);
        mag = rig_doubles(r, Q * P);
        ref_info_nce(rig_as_doubles(r, &s), rig_host(r, &positive),
                     cases[i].blocks > 0 ? rig_host(r, &mask) : NULL, Q, P, M, want_row, want, mag);
        assert_int_equal(whole_nce(r, &s, &positive, &mask, M, &ds, got), CSP_OK);
        /* One rounding to f32, the rest is double. */
        assert_true(worst_ratio("ds", rig_host(r, &ds), want, mag, Q * P, 1.001 * UNIT_F32) <= 1.0);
        for (int64_t q = 0; q < Q; q++) {
            size[q] = 64.0; /* scores up to 30, their difference, log of the sum */
            loss[q] = got[3 * q];
            want_loss[q] = want_row[3 * q];
            assert_true(got[3 * q + 1] == want_row[3 * q + 1]);
            assert_true(got[3 * q + 2] == want_row[3 * q + 2]);
        }
        assert_true(worst_ratio_f64("loss", loss, want_loss, size, Q, (double)(P + 8) * UNIT_F64) <=
                    1.0);
        assert_int_equal(whole_nce(r, &in_place, &positive, &mask, M, &in_place, again), CSP_OK);
        rig_check_same(r, &in_place, &ds);
        assert_memory_equal(again, got, sizeof(*got) * (size_t)(Q * 3));
        rig_check_guards(r);
    }
}

/* One rank's passages of a step: every ranks-th column, from its own number on. */
typedef struct nce_part {
    int64_t P;
    csp_tensor s, positive, mask, ds, row, sum, loss;
} nce_part;

static nce_part part_of(rig *r, const csp_tensor *all, const csp_tensor *positive,
                        const csp_tensor *mask, int rank, int ranks)
{
    const int64_t Q = all->dim[0], P = all->dim[1], width = (P - rank + ranks - 1) / ranks;
    const int64_t shape[] = { Q, width };
    const float *score = rig_host(r, all);
    const int32_t *own = rig_host(r, positive);
    const uint8_t *out = rig_host(r, mask);
    float *s = (float *)(void *)rig_ints(r, Q * width);
    int32_t *at = rig_ints(r, Q);
    uint8_t *m = (uint8_t *)rig_ints(r, Q * width);

    for (int64_t q = 0; q < Q; q++) {
        at[q] = own[q] % ranks == rank ? own[q] / ranks : -1;
        for (int64_t p = 0; p < width; p++) {
            s[q * width + p] = score[q * P + p * ranks + rank];
            m[q * width + p] = out[q * P + p * ranks + rank];
        }
    }
    return (nce_part) { .P = width,
                        .s = rig_input(r, CSP_F32, 2, shape, s),
                        .positive = rig_input(r, CSP_I32, 1, &Q, at),
                        .mask = rig_input(r, CSP_U8, 2, shape, m),
                        .ds = rig_output(r, CSP_F32, 2, shape),
                        .row = rig_output(r, CSP_F64, 2, (int64_t[]) { Q, 2 }),
                        .sum = rig_output(r, CSP_F64, 1, &Q),
                        .loss = rig_output(r, CSP_F64, 1, &Q) };
}

/* What the ranks' reductions do: maxima of rows, sums of sums. */
static void combine(rig *r, const csp_tensor *parts[], int ranks, bool add, csp_tensor *out)
{
    const int64_t count = csp_tensor_count(parts[0]);
    double *total = rig_doubles(r, count);

    for (int rank = 0; rank < ranks; rank++) {
        const double *one = rig_host(r, parts[rank]);

        for (int64_t i = 0; i < count; i++) {
            const double before = rank == 0 ? (add ? 0.0 : -INFINITY) : total[i];

            total[i] = add ? before + one[i] : fmax(before, one[i]);
        }
    }
    *out = rig_input(r, CSP_F64, parts[0]->ndim, parts[0]->dim, total);
}

/* One query has all passages of rank 0 masked, which then has nothing to say about it. */
static void ranks_agree_with_the_reference(void **state)
{
    rig *r = *state;
    enum { Q = 9, P = 37, RANKS = 3, M = 21 }; // a step of more queries than these

    rig_begin(r, 77);
    const csp_tensor s = rig_uniform(r, -30.0, 30.0, 2, (int64_t[]) { Q, P });
    const csp_tensor positive = rig_indices(r, P, Q);
    csp_tensor mask = some_passages(r, Q, P, rig_host(r, &positive), 1);
    int32_t *own = rig_host(r, &positive);
    uint8_t *left_out = rig_host(r, &mask);
    double *want = rig_doubles(r, Q * P), *mag = rig_doubles(r, Q * P);
    double *want_row = rig_doubles(r, Q * 3);
    const csp_tensor *rows[RANKS], *sums[RANKS];
    csp_tensor row, sum;
    nce_part part[RANKS];

    for (int64_t p = 0; p < P; p++) {
        left_out[p] |= p % RANKS == 0;
    }
    own[0] = 1;
    left_out[1] = 0;
    mask = rig_input(r, CSP_U8, 2, (int64_t[]) { Q, P }, left_out);
    const csp_tensor owned = rig_input(r, CSP_I32, 1, (int64_t[]) { Q }, own);
    ref_info_nce(rig_as_doubles(r, &s), own, left_out, Q, P, M, want_row, want, mag);
    for (int i = 0; i < RANKS; i++) {
        part[i] = part_of(r, &s, &owned, &mask, i, RANKS);
        assert_int_equal(
            csp_nce_scores(r->be, &part[i].s, &part[i].positive, &part[i].mask, &part[i].row),
            CSP_OK);
        rows[i] = &part[i].row;
        sums[i] = &part[i].sum;
    }
    combine(r, rows, RANKS, false, &row);
    for (int i = 0; i < RANKS; i++) {
        assert_int_equal(csp_nce_sum(r->be, &part[i].s, &part[i].mask, &row, &part[i].sum), CSP_OK);
    }
    assert_true(((const double *)rig_host(r, sums[0]))[0] == 0.0);
    combine(r, sums, RANKS, true, &sum);
    for (int i = 0; i < RANKS; i++) {
        const double *loss;
        const float *ds;

        assert_int_equal(csp_nce_grad(r->be, &part[i].s, &part[i].positive, &part[i].mask, &row,
                                      &sum, M, &part[i].ds, &part[i].loss),
                         CSP_OK);
        loss = rig_host(r, &part[i].loss);
        ds = rig_host(r, &part[i].ds);
        for (int64_t q = 0; q < Q; q++) {
            assert_true(fabs(loss[q] - want_row[3 * q]) <= 64.0 * (P + 8) * UNIT_F64);
            for (int64_t p = 0; p < part[i].P; p++) {
                const int64_t at = q * P + p * RANKS + i;

                assert_true(fabs((double)ds[q * part[i].P + p] - want[at]) <=
                            1.001 * UNIT_F32 * mag[at]);
            }
        }
    }
    rig_check_guards(r);
}

static void a_positive_without_competition_is_no_loss(void **state)
{
    rig *r = *state;
    const float s[] = { 1e4f, -3e38f, 5.0f };
    const uint8_t mask[] = { 1, 0, 1 };
    const int32_t own = 1;

    rig_begin(r, 0);
    const csp_tensor score = rig_input(r, CSP_F32, 2, (int64_t[]) { 1, 3 }, s);
    const csp_tensor positive = rig_input(r, CSP_I32, 1, (int64_t[]) { 1 }, &own);
    const csp_tensor left_out = rig_input(r, CSP_U8, 2, (int64_t[]) { 1, 3 }, mask);
    csp_tensor ds = rig_output(r, CSP_F32, 2, score.dim);
    double of_query[3];
    const float *got;

    assert_int_equal(whole_nce(r, &score, &positive, &left_out, 1, &ds, of_query), CSP_OK);
    got = rig_host(r, &ds);
    assert_true(of_query[0] == 0.0 && of_query[1] == -(double)3e38f && of_query[2] == -INFINITY);
    assert_true(got[0] == 0.0f && got[1] == 0.0f && got[2] == 0.0f);
}

static void huge_scores_stay_finite(void **state)
{
    rig *r = *state;
    const float s[] = { 1e30f, -1e30f };
    const int32_t own = 1;
    const csp_tensor none = csp_tensor_none();

    rig_begin(r, 0);
    const csp_tensor score = rig_input(r, CSP_F32, 2, (int64_t[]) { 1, 2 }, s);
    const csp_tensor positive = rig_input(r, CSP_I32, 1, (int64_t[]) { 1 }, &own);
    csp_tensor ds = rig_output(r, CSP_F32, 2, score.dim);
    double of_query[3];
    const float *got;

    assert_int_equal(whole_nce(r, &score, &positive, &none, 1, &ds, of_query), CSP_OK);
    got = rig_host(r, &ds);
    assert_true(fabs(of_query[0] - 2e30) <= 1e24);
    assert_true(got[0] == 1.0f && got[1] == -1.0f);
}

static void column_sums_are_exact(void **state)
{
    rig *r = *state;
    static const int64_t shapes[][2] = { { 1, 1 }, { 5, 700 }, { 40, 3000 }, { 300, 257 } };

    for (size_t i = 0; i < 4; i++) {
        const int64_t rows = shapes[i][0], V = shapes[i][1];

        rig_begin(r, i);
        const csp_sparse w = rig_sparse_random(r, rows, V, i >= 2 ? 0.5 : 1.0, 0);
        const double *dense = rig_sparse_dense(r, &w, rows, NULL);
        double *want = rig_doubles(r, V);
        int32_t *counts = rig_ints(r, V);

        for (int64_t v = 0; v < V; v++) {
            want[v] = (double)v;
            counts[v] = (int32_t)v;
        }
        csp_tensor sum = rig_input(r, CSP_F64, 1, &V, want);
        csp_tensor count = rig_input(r, CSP_I32, 1, &V, counts);
        csp_tensor none = csp_tensor_none();

        sum = rig_copy(r, &sum);
        count = rig_copy(r, &count);
        for (int64_t row = 0; row < rows; row++) { /* in the order of rows, in double */
            for (int64_t v = 0; v < V; v++) {
                want[v] += dense[row * V + v];
                counts[v] += dense[row * V + v] > 0.0;
            }
        }
        assert_int_equal(csp_column_sums(r->be, &w, rows, &sum, &count), CSP_OK);
        assert_memory_equal(rig_host(r, &sum), want, sizeof(double) * (size_t)V);
        assert_memory_equal(rig_host(r, &count), counts, sizeof(int32_t) * (size_t)V);
        assert_int_equal(csp_column_sums(r->be, &w, rows, &sum, &none), CSP_OK);
        rig_check_guards(r);
    }
}

/* Argmaxes below T; where most is set, four of five are 3. */
static void positions_are_counted(void **state)
{
    rig *r = *state;
    static const struct {
        int64_t rows, V, T, n;
        bool most;
    } shapes[] = { { 1, 1, 1, 1, false },
                   { 3, 70, 9, 5, false }, /* some are not counted */
                   { 40, 800, 5000, CSP_POSITIONS, false },
                   { 33, 1000, 60, 64, true } };

    for (size_t i = 0; i < 4; i++) {
        const int64_t rows = shapes[i].rows, V = shapes[i].V, n = shapes[i].n;

        rig_begin(r, 40 + i);
        csp_sparse w = rig_sparse_random(r, rows, V, 0.6, shapes[i].T);
        int64_t *want = (int64_t *)(void *)rig_doubles(r, n);
        int32_t *argmax = rig_host(r, &w.argmax);

        for (int64_t j = 0; shapes[i].most && j < w.argmax.dim[0]; j++) {
            argmax[j] = j % 5 == 0 ? argmax[j] : 3;
        }
        w.argmax = rig_input(r, CSP_I32, 1, w.argmax.dim, argmax);
        for (int64_t t = 0; t < n; t++) {
            want[t] = 10 * t + ((int64_t)1 << 33);
        }
        csp_tensor count = rig_input(r, CSP_I64, 1, &n, want);

        count = rig_copy(r, &count);
        ref_position_counts(rig_sparse_argmax(r, &w, rows), rows, V, n, want);
        assert_int_equal(csp_position_counts(r->be, &w, rows, &count), CSP_OK);
        assert_memory_equal(rig_host(r, &count), want, sizeof(*want) * (size_t)n);
        rig_check_guards(r);
    }
}

/* The rows of one rank, the sums of all rows: the gathered batch is larger than what is held. */
static void sparsity_terms_match_the_reference(void **state)
{
    rig *r = *state;
    enum { ROWS = 9, HELD = 4, TERMS = 1200 };

    for (int kind = CSP_REG_FLOPS; kind <= CSP_REG_L1; kind++) {
        rig_begin(r, 3);
        const csp_sparse w = rig_sparse_random(r, ROWS, TERMS, 0.6, 0);
        const double *dense = rig_sparse_dense(r, &w, ROWS, NULL);
        double *want = rig_doubles(r, ROWS * TERMS), *mag = rig_doubles(r, ROWS * TERMS);
        float *got = (float *)(void *)rig_ints(r, ROWS * TERMS);
        double *zeros = rig_doubles(r, TERMS), want_value;
        csp_tensor value = rig_output(r, CSP_F64, 1, (int64_t[]) { 1 });
        csp_tensor sum = rig_input(r, CSP_F64, 1, (int64_t[]) { TERMS }, zeros);
        csp_tensor none = csp_tensor_none();
        csp_tensor dw = rig_accumulated(r, 1, w.term.dim);
        const double *was = rig_sparse_dense(r, &w, ROWS, &dw), *now;

        sum = rig_copy(r, &sum);
        assert_int_equal(csp_column_sums(r->be, &w, ROWS, &sum, &none), CSP_OK);
        want_value = kind == CSP_REG_FLOPS ? ref_flops(dense, ROWS, TERMS, ROWS, (double)0.7f, want)
                                           : ref_l1(dense, ROWS, TERMS, ROWS, (double)0.7f, want);
        assert_int_equal(
            csp_regularize(r->be, (csp_reg_kind)kind, &w, HELD, &sum, ROWS, 0.7f, &dw, &value),
            CSP_OK);
        assert_true(worst_ratio_f64("value", rig_host(r, &value), &want_value, &want_value, 1,
                                    (TERMS + ROWS + 8) * UNIT_F64) <= 1.0);
        now = rig_sparse_dense(r, &w, ROWS, &dw);
        for (int64_t i = 0; i < ROWS * TERMS; i++) {
            want[i] = was[i] + (i < HELD * TERMS ? want[i] : 0.0);
            mag[i] = fabs(was[i]) + fabs(want[i] - was[i]);
            got[i] = (float)now[i];
        }
        /* The gradient is rounded once, and its sum with what was there once. */
        assert_true(worst_ratio("dw", got, want, mag, ROWS * TERMS, 2.001 * UNIT_F32) <= 1.0);
        rig_check_guards(r);
    }
}

static double flops_of(const double *w, const void *context)
{
    double dw[24];

    (void)context;
    return 0.7 * ref_flops(w, 4, 6, 4.0, 0.7, dw);
}

static double l1_of(const double *w, const void *context)
{
    double dw[24];

    (void)context;
    return 0.7 * ref_l1(w, 4, 6, 4.0, 0.7, dw);
}

typedef struct nce_context {
    int32_t positive[3];
    uint8_t mask[12];
} nce_context;

static double nce_of(const double *s, const void *context)
{
    const nce_context *c = context;
    double row[9], ds[12], mag[12];

    ref_info_nce(s, c->positive, c->mask, 3, 4, 3, row, ds, mag);
    return (row[0] + row[3] + row[6]) / 3.0;
}

static void the_references_are_their_own_derivatives(void **state)
{
    rig *r = *state;
    static const nce_context c = { { 1, 3, 0 }, { 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0 } };
    double dw[24], row[9], ds[12], mag[12];

    rig_begin(r, 0);
    const csp_tensor tw = rig_uniform(r, 0.5, 2.0, 1, (int64_t[]) { 24 });
    const csp_tensor ts = rig_normal(r, CSP_F32, 2, (int64_t[]) { 3, 4 });
    double *w = rig_as_doubles(r, &tw), *s = rig_as_doubles(r, &ts);

    ref_flops(w, 4, 6, 4.0, 0.7, dw);
    assert_true(gradient_distance(flops_of, NULL, w, dw, 24) <= GRADIENT_LIMIT);
    ref_l1(w, 4, 6, 4.0, 0.7, dw);
    assert_true(gradient_distance(l1_of, NULL, w, dw, 24) <= GRADIENT_LIMIT);
    ref_info_nce(s, c.positive, c.mask, 3, 4, 3, row, ds, mag);
    assert_true(gradient_distance(nce_of, &c, s, ds, 12) <= GRADIENT_LIMIT);
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;

    rig_begin(r, 0);
    const csp_tensor s = rig_normal(r, CSP_F32, 2, (int64_t[]) { 3, 4 });
    const csp_tensor positive = rig_indices(r, 4, 3), few = rig_indices(r, 4, 2);
    const csp_tensor mask = rig_mask(r, 12), none = csp_tensor_none();
    csp_tensor ds = rig_output(r, CSP_F32, 2, s.dim);
    const csp_sparse w = rig_sparse_random(r, 2, 10, 1.0, 0);
    csp_tensor sum = rig_output(r, CSP_F64, 1, (int64_t[]) { 11 });
    csp_tensor dw = rig_output(r, CSP_F32, 1, w.term.dim);
    csp_tensor row = rig_output(r, CSP_F64, 2, (int64_t[]) { 3, 2 });
    csp_tensor each = rig_output(r, CSP_F64, 1, (int64_t[]) { 3 });
    csp_tensor value = rig_output(r, CSP_F64, 1, (int64_t[]) { 1 });
    csp_tensor many = rig_output(r, CSP_I64, 1, (int64_t[]) { CSP_POSITIONS + 1 });

    assert_int_equal(csp_nce_scores(r->be, &s, &few, &none, &row), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "positive must be i32 (3), not i32 (2)"));
    assert_int_equal(csp_nce_scores(r->be, &s, &positive, &mask, &row), CSP_ERR_SHAPE);
    assert_int_equal(csp_nce_scores(r->be, &s, &positive, &none, &value), CSP_ERR_SHAPE);
    assert_int_equal(csp_nce_sum(r->be, &s, &none, &row, &value), CSP_ERR_SHAPE);
    assert_int_equal(csp_nce_grad(r->be, &s, &positive, &none, &row, &each, 3, &ds, &value),
                     CSP_ERR_SHAPE);
    assert_int_equal(csp_nce_grad(r->be, &s, &positive, &none, &row, &each, 2, &ds, &each),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(csp_column_sums(r->be, &w, 2, &sum, &sum), CSP_ERR_SHAPE);
    assert_int_equal(csp_position_counts(r->be, &w, 2, &many), CSP_ERR_SHAPE);
    assert_int_equal(csp_position_counts(r->be, &w, 2, &sum), CSP_ERR_SHAPE);
    assert_int_equal(csp_regularize(r->be, CSP_REG_FLOPS, &w, 2, &sum, 2, 1.0f, &dw, &value),
                     CSP_ERR_SHAPE);
    sum.dim[0] = 10;
    assert_int_equal(csp_regularize(r->be, CSP_REG_FLOPS, &w, 2, &sum, 1, 1.0f, &dw, &value),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(csp_regularize(r->be, (csp_reg_kind)7, &w, 2, &sum, 2, 1.0f, &dw, &value),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(csp_regularize(r->be, CSP_REG_L1, &w, 2, &sum, 2, NAN, &dw, &value),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(csp_regularize(r->be, CSP_REG_L1, &w, 2, &sum, 2, 1.0f, &dw, &row),
                     CSP_ERR_SHAPE);
    rig_check_untouched(r, &row);
    rig_check_untouched(r, &value);
    rig_check_untouched(r, &many);
    rig_check_untouched(r, &ds);
    rig_check_untouched(r, &dw);
    rig_check_untouched(r, &sum);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_references_are_their_own_derivatives),
        cmocka_unit_test(info_nce_matches_the_reference),
        cmocka_unit_test(ranks_agree_with_the_reference),
        cmocka_unit_test(a_positive_without_competition_is_no_loss),
        cmocka_unit_test(huge_scores_stay_finite),
        cmocka_unit_test(column_sums_are_exact),
        cmocka_unit_test(positions_are_counted),
        cmocka_unit_test(sparsity_terms_match_the_reference),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
