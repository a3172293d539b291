/*
 * test_sparse_pool.c - ops/sparse_pool.h: the references against their derivatives, the backend
 * against the references.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "core/rng.h"
#include "ref/sparse_pool.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/rig.h"
#include "support/sparse.h"

/* Edges on purpose: one element, one less and one more than a block of terms (256) and of rows
 * (384), texts across blocks of rows, widths that no vector divides. */
static const struct {
    int64_t B, N, V, D;
    float scale;
    bool exclude;
} cases[] = {
    { 1, 1, 1, 1, 1.0f, false },     { 2, 9, 257, 5, 1.0f, true },
    { 5, 383, 513, 16, 0.3f, true }, { 3, 800, 530, 33, 1.0f, false },
    { 9, 385, 255, 70, 2.5f, true }, { 40, 390, 640, 129, 0.25f, false },
};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

/* One call's tensors and what the reference needs of them. */
typedef struct setup {
    csp_head head;
    csp_tensor h, seq_start, keep;
    ref_pool ref;
} setup;

static setup of_tensors(rig *r, csp_tensor h, csp_tensor e, csp_tensor seq_start, csp_tensor keep,
                        csp_tensor exclude, float scale, csp_pool_kind pooling)
{
    setup s;

    s.head = (csp_head) { e, exclude, scale, pooling };
    s.h = h;
    s.seq_start = seq_start;
    s.keep = keep;
    s.ref = (ref_pool) { .h = rig_as_doubles(r, &h),
                         .e = rig_as_doubles(r, &e),
                         .exclude = exclude.ndim > 0 ? rig_host(r, &exclude) : NULL,
                         .seq_start = rig_host(r, &seq_start),
                         .keep = rig_host(r, &keep),
                         .scale = (double)scale,
                         .B = seq_start.dim[0] - 1,
                         .N = h.dim[0],
                         .V = e.dim[0],
                         .D = e.dim[1] };
    return s;
}

/* About every fourth term is excluded. */
static csp_tensor some_terms(rig *r, int64_t V, bool wanted)
{
    uint8_t *exclude = (uint8_t *)rig_ints(r, V);

    if (!wanted) {
        return csp_tensor_none();
    }
    for (int64_t v = 0; v < V; v++) {
        exclude[v] = v % 4 == 1;
    }
    return rig_input(r, CSP_U8, 1, &V, exclude);
}

static setup random_setup(rig *r, int64_t i, csp_pool_kind pooling)
{
    const int64_t N = cases[i].N, V = cases[i].V, D = cases[i].D;
    const csp_tensor h = rig_normal(r, CSP_F32, 2, (int64_t[]) { N, D });
    const csp_tensor e = rig_normal(r, CSP_F32, 2, (int64_t[]) { V, D });

    return of_tensors(r, h, e, rig_cuts(r, cases[i].B, N), rig_mask(r, N),
                      some_terms(r, V, cases[i].exclude), cases[i].scale, pooling);
}

/* (rows,columns) of small whole numbers low .. high, so that sums of products are exact. */
static csp_tensor whole_numbers(rig *r, int64_t low, int64_t high, int64_t rows, int64_t columns)
{
    const csp_rng rng = { .seed = r->seed, .draw = CSP_DRAW_TEST, .key = r->drawn++, .step = 0 };
    float *x = (float *)(void *)rig_ints(r, rows * columns);

    for (int64_t i = 0; i < rows * columns; i++) {
        x[i] = (float)(low + (int64_t)csp_rng_below(rng, (uint64_t)i, (uint64_t)(high - low + 1)));
    }
    return rig_input(r, CSP_F32, 2, (int64_t[]) { rows, columns }, x);
}

/*
 * Logits that are exact in f32 and never 0, so that no rounding moves one across the kink: whole
 * numbers, and a last column that adds 1/2 to each. scale must be a power of two.
 */
static setup exact_setup(rig *r, int64_t i, csp_pool_kind pooling)
{
    const int64_t N = cases[i].N, V = cases[i].V, D = cases[i].D + 1;
    const csp_tensor whole_h = whole_numbers(r, -2, 2, N, D);
    const csp_tensor whole_e = whole_numbers(r, -2, 2, V, D);
    float *h = rig_host(r, &whole_h), *e = rig_host(r, &whole_e);

    for (int64_t n = 0; n < N; n++) {
        h[n * D + D - 1] = 1.0f;
    }
    for (int64_t v = 0; v < V; v++) {
        e[v * D + D - 1] = 0.5f;
    }
    return of_tensors(r, rig_input(r, CSP_F32, 2, (int64_t[]) { N, D }, h),
                      rig_input(r, CSP_F32, 2, (int64_t[]) { V, D }, e), rig_cuts(r, cases[i].B, N),
                      rig_mask(r, N), some_terms(r, V, cases[i].exclude), 0.5f, pooling);
}

static csp_status forward(rig *r, const setup *s, int64_t first_row, csp_sparse *out)
{
    return csp_sparse_pool_fwd(r->be, &s->head, &s->h, &s->seq_start, &s->keep, first_row, out);
}

/* worst_ratio on values that are already doubles. */
static double worst_of(rig *r, const char *what, const double *got, const double *want,
                       const double *mag, int64_t n, double bound)
{
    float *narrow = (float *)(void *)rig_ints(r, n);

    for (int64_t i = 0; i < n; i++) {
        narrow[i] = (float)got[i];
    }
    return worst_ratio(what, narrow, want, mag, n, bound);
}

static void weights_match_the_reference(void **state)
{
    rig *r = *state;

    for (int64_t i = 0; i < CASES; i++) {
        for (int pooling = CSP_POOL_MAX; pooling <= CSP_POOL_SUM; pooling++) {
            rig_begin(r, (uint64_t)i);
            const setup s = random_setup(r, i, (csp_pool_kind)pooling);
            const int64_t B = s.ref.B, V = s.ref.V, D = s.ref.D;
            csp_sparse w = rig_sparse_output(r, B, B * V, V);
            double *want = rig_doubles(r, B * V), *mag = rig_doubles(r, B * V);

            if (pooling == CSP_POOL_MAX) {
                ref_pool_max_fwd(&s.ref, want, NULL, mag);
            } else {
                ref_pool_sum_fwd(&s.ref, want, mag);
            }
            assert_int_equal(forward(r, &s, 0, &w), CSP_OK);
            /* A logit has D + 2 roundings, log1p one unit in the last place (two units); a sum has
             * one more for each row. */
            assert_true(worst_of(r, "w", rig_sparse_dense(r, &w, B, NULL), want, mag, B * V,
                                 (double)(D + 4 + (pooling == CSP_POOL_SUM ? s.ref.N : 0)) *
                                     UNIT_F32) <= 1.0);
            rig_check_guards(r);
        }
    }
}

/* With whole numbers there are many ties and no rounding: the first row must win, exactly. */
static void positions_are_those_of_the_first_maximum(void **state)
{
    rig *r = *state;

    for (int64_t i = 0; i < CASES; i++) {
        rig_begin(r, (uint64_t)i);
        const int64_t B = cases[i].B, N = cases[i].N, V = cases[i].V, D = cases[i].D;
        const csp_tensor h = whole_numbers(r, -2, 2, N, D), e = whole_numbers(r, -1, 1, V, D);
        const setup s =
            of_tensors(r, h, e, rig_cuts(r, B, N), rig_mask(r, N),
                       some_terms(r, V, cases[i].exclude), cases[i].scale, CSP_POOL_MAX);
        csp_sparse w = rig_sparse_output(r, B, B * V, V);
        double *want = rig_doubles(r, B * V);
        int32_t *want_arg = rig_ints(r, B * V);

        ref_pool_max_fwd(&s.ref, want, want_arg, NULL);
        assert_int_equal(forward(r, &s, 0, &w), CSP_OK);
        assert_memory_equal(rig_sparse_argmax(r, &w, B), want_arg,
                            (size_t)(B * V) * sizeof(int32_t));
        /* The logit is exact: scale, log1p and the reference's rounding remain. */
        assert_true(worst_of(r, "w", rig_sparse_dense(r, &w, B, NULL), want, want, B * V,
                             4 * UNIT_F32) <= 1.0);
        rig_check_guards(r);
    }
}

/* log(1 + z) must not lose the digits of a small z to the 1. */
static void tiny_and_huge_logits_keep_their_digits(void **state)
{
    rig *r = *state;
    enum { TERMS = 400 };
    const int64_t length = 1;
    const uint8_t keep = 1;
    const float h = 0.5f;
    float e[TERMS];
    double want[TERMS];

    rig_begin(r, 0);
    for (int v = 0; v < TERMS; v++) {
        e[v] = 2.0f * (float)exp(0.2 * (v - TERMS / 2)); /* 4e-18 .. 2e17 */
        want[v] = log1p((double)e[v] * 0.5);
    }
    csp_sparse w = rig_sparse_output(r, 1, TERMS, TERMS);
    const setup s = of_tensors(
        r, rig_input(r, CSP_F32, 2, (int64_t[]) { 1, 1 }, &h),
        rig_input(r, CSP_F32, 2, (int64_t[]) { TERMS, 1 }, e), rig_lengths(r, 1, &length),
        rig_input(r, CSP_U8, 1, (int64_t[]) { 1 }, &keep), csp_tensor_none(), 1.0f, CSP_POOL_MAX);

    assert_int_equal(forward(r, &s, 0, &w), CSP_OK);
    assert_int_equal(rig_sparse_entries(r, &w, 1), TERMS);
    /* One unit in the last place is two rounding units; the reference may differ by half a unit. */
    assert_true(worst_ratio("w", rig_host(r, &w.weight), want, want, TERMS, 3 * UNIT_F32) <= 1.0);
}

static void a_text_without_kept_rows_is_an_empty_row(void **state)
{
    rig *r = *state;
    const int64_t length[] = { 2, 0, 3, 1 };
    const uint8_t keep[] = { 1, 0, 0, 0, 0, 1 };

    rig_begin(r, 5);
    csp_sparse w = rig_sparse_output(r, 4, 40, 10);
    const setup s = of_tensors(
        r, rig_uniform(r, 0.1, 1.0, 2, (int64_t[]) { 6, 3 }),
        rig_uniform(r, 0.1, 1.0, 2, (int64_t[]) { 10, 3 }), rig_lengths(r, 4, length),
        rig_input(r, CSP_U8, 1, (int64_t[]) { 6 }, keep), csp_tensor_none(), 1.0f, CSP_POOL_MAX);
    const int64_t *row_ptr;

    assert_int_equal(forward(r, &s, 0, &w), CSP_OK);
    row_ptr = rig_host(r, &w.row_ptr);
    assert_int_equal(row_ptr[1], 10);
    assert_int_equal(row_ptr[2], 10);
    assert_int_equal(row_ptr[3], 10);
    assert_int_equal(row_ptr[4], 20);
    assert_int_equal(((int32_t *)rig_host(r, &w.argmax))[15], 0); /* from the text's own start */
    rig_check_guards(r);
}

static void a_nan_is_skipped_and_excluded_terms_stay_silent(void **state)
{
    rig *r = *state;
    const float h[] = { NAN, 2.0f, 1.0f };
    const float e[] = { 1.0f, 1.0f, -1.0f };
    const uint8_t exclude[] = { 0, 1, 0 }, keep[] = { 1, 1, 1 };
    const int64_t length = 3;

    rig_begin(r, 0);
    csp_sparse w = rig_sparse_output(r, 1, 3, 3);
    const setup s =
        of_tensors(r, rig_input(r, CSP_F32, 2, (int64_t[]) { 3, 1 }, h),
                   rig_input(r, CSP_F32, 2, (int64_t[]) { 3, 1 }, e), rig_lengths(r, 1, &length),
                   rig_input(r, CSP_U8, 1, (int64_t[]) { 3 }, keep),
                   rig_input(r, CSP_U8, 1, (int64_t[]) { 3 }, exclude), 1.0f, CSP_POOL_MAX);

    assert_int_equal(forward(r, &s, 0, &w), CSP_OK);
    assert_int_equal(rig_sparse_entries(r, &w, 1), 1);
    assert_int_equal(((int32_t *)rig_host(r, &w.term))[0], 0);
    assert_int_equal(((int32_t *)rig_host(r, &w.argmax))[0], 1);
}

static void rows_are_appended(void **state)
{
    rig *r = *state;

    rig_begin(r, 3);
    const setup first = random_setup(r, 1, CSP_POOL_MAX), second = random_setup(r, 1, CSP_POOL_MAX);
    const int64_t B = first.ref.B, V = first.ref.V;
    csp_sparse a = rig_sparse_output(r, B, B * V, V), b = rig_sparse_output(r, B, B * V, V);
    csp_sparse both = rig_sparse_output(r, 2 * B, 2 * B * V, V);
    double *dense;

    assert_int_equal(forward(r, &first, 0, &a), CSP_OK);
    assert_int_equal(forward(r, &second, 0, &b), CSP_OK);
    assert_int_equal(forward(r, &first, 0, &both), CSP_OK);
    assert_int_equal(forward(r, &second, B, &both), CSP_OK);
    dense = rig_sparse_dense(r, &both, 2 * B, NULL);
    assert_memory_equal(dense, rig_sparse_dense(r, &a, B, NULL), sizeof(double) * (size_t)(B * V));
    assert_memory_equal(dense + B * V, rig_sparse_dense(r, &b, B, NULL),
                        sizeof(double) * (size_t)(B * V));
    rig_check_guards(r);
}

static void too_little_room_is_said_and_earlier_rows_stay(void **state)
{
    rig *r = *state;

    rig_begin(r, 4);
    const setup s = random_setup(r, 1, CSP_POOL_MAX);
    const int64_t B = s.ref.B, V = s.ref.V;
    csp_sparse w = rig_sparse_output(r, 2 * B, 2 * B * V, V), small;
    int64_t entries, before[3];
    char wanted[64];

    assert_int_equal(forward(r, &s, 0, &w), CSP_OK);
    entries = rig_sparse_entries(r, &w, B);
    small = rig_sparse_output(r, 2 * B, 2 * entries - 1, V);
    assert_int_equal(forward(r, &s, 0, &small), CSP_OK);
    memcpy(before, rig_host(r, &small.row_ptr), sizeof(before));
    assert_int_equal(forward(r, &s, B, &small), CSP_ERR_MEMORY);
    snprintf(wanted, sizeof(wanted), "need %lld entries, there is room for %lld",
             (long long)(2 * entries), (long long)(2 * entries - 1));
    assert_non_null(strstr(csp_error_text(), wanted));
    assert_memory_equal(rig_host(r, &small.row_ptr), before, sizeof(before));
    assert_memory_equal(rig_sparse_dense(r, &small, B, NULL), rig_sparse_dense(r, &w, B, NULL),
                        sizeof(double) * (size_t)(B * V));
    rig_check_guards(r);
}

/* More texts than one table holds (64 MiB): 9 of 2^20 terms, of which every 4,096th is active. */
static void many_texts_of_a_large_vocabulary_match(void **state)
{
    rig *r = *state;
    enum { TEXTS = 9, TERMS = 1 << 20, EVERY = 4096 };
    const int64_t entries = TEXTS * (TERMS / EVERY);
    float h[TEXTS], *e;
    int64_t length[TEXTS];
    uint8_t keep[TEXTS];

    rig_begin(r, 0);
    e = (float *)(void *)rig_ints(r, TERMS);
    for (int64_t v = 0; v < TERMS; v++) {
        e[v] = v % EVERY == 7 ? 1.0f : -1.0f;
    }
    for (int b = 0; b < TEXTS; b++) {
        h[b] = (float)(b + 1);
        length[b] = 1;
        keep[b] = 1;
    }
    csp_sparse w = rig_sparse_output(r, TEXTS, entries, TERMS);
    const setup s = of_tensors(r, rig_input(r, CSP_F32, 2, (int64_t[]) { TEXTS, 1 }, h),
                               rig_input(r, CSP_F32, 2, (int64_t[]) { TERMS, 1 }, e),
                               rig_lengths(r, TEXTS, length),
                               rig_input(r, CSP_U8, 1, (int64_t[]) { TEXTS }, keep),
                               csp_tensor_none(), 1.0f, CSP_POOL_MAX);

    assert_int_equal(forward(r, &s, 0, &w), CSP_OK);
    assert_int_equal(rig_sparse_entries(r, &w, TEXTS), entries);
    const float *weight = rig_host(r, &w.weight);
    const int32_t *term = rig_host(r, &w.term);
    for (int64_t i = 0; i < entries; i++) {
        assert_int_equal(term[i] % EVERY, 7);
        assert_true(fabs((double)weight[i] - log1p((double)(i / (TERMS / EVERY) + 1))) <=
                    3.0 * UNIT_F32 * (double)weight[i]);
    }
    rig_check_guards(r);
}

/* Tensors of one backward call. */
typedef struct back {
    csp_sparse rows;
    csp_tensor dw, dh, de;
    double *de_was;
} back;

static back make_back(rig *r, const setup *s, csp_sparse rows)
{
    back g;

    g.rows = rows;
    g.dw = rig_normal(r, CSP_F32, 1, rows.term.dim);
    g.dh = rig_output(r, CSP_F32, 2, s->h.dim);
    g.de = rig_accumulated(r, 2, s->head.e.dim);
    g.de_was = rig_as_doubles(r, &g.de);
    return g;
}

static csp_status backward(csp_backend *be, const setup *s, back *g, bool trained)
{
    csp_sparse_pool_grad grad = { .rows = &g->rows,
                                  .dw = g->dw,
                                  .first_row = 0,
                                  .h = trained || s->head.pooling == CSP_POOL_SUM
                                           ? s->h
                                           : csp_tensor_none(),
                                  .seq_start = s->seq_start,
                                  .keep = s->keep,
                                  .dh = g->dh,
                                  .de = trained ? g->de : csp_tensor_none() };

    return csp_sparse_pool_bwd(be, &s->head, &grad);
}

/* Judges dh and de; each element of dh adds at most h_terms numbers, of de e_terms. */
static void check_back(rig *r, const setup *s, const back *g, int64_t h_terms, int64_t e_terms)
{
    const ref_pool *p = &s->ref;
    const double *w = rig_sparse_dense(r, &g->rows, p->B, NULL);
    const double *dw = rig_sparse_dense(r, &g->rows, p->B, &g->dw);
    double *dh = rig_doubles(r, p->N * p->D), *dh_mag = rig_doubles(r, p->N * p->D);
    double *de = rig_doubles(r, p->V * p->D), *de_mag = rig_doubles(r, p->V * p->D);

    for (int64_t i = 0; i < p->V * p->D; i++) {
        de[i] = g->de_was[i];
        de_mag[i] = fabs(g->de_was[i]);
    }
    if (s->head.pooling == CSP_POOL_MAX) {
        ref_pool_max_bwd(p, w, rig_sparse_argmax(r, &g->rows, p->B), dw, dh, dh_mag, de, de_mag);
    } else {
        ref_pool_sum_bwd(p, dw, dh, dh_mag, de, de_mag);
    }
    /* dz: exp or a quotient (4 units), two products; one more product for each term of the sum. */
    assert_true(worst_ratio("dh", rig_host(r, &g->dh), dh, dh_mag, p->N * p->D,
                            (double)(h_terms + 8) * UNIT_F32) <= 1.0);
    assert_true(worst_ratio("de", rig_host(r, &g->de), de, de_mag, p->V * p->D,
                            (double)(e_terms + 8) * UNIT_F32) <= 1.0);
    rig_check_guards(r);
}

/* Rows as stored, at any density: the saved positions decide, no logit is formed again. */
static void max_gradients_match_the_reference_at_any_density(void **state)
{
    rig *r = *state;
    static const double density[] = { 1.0, 0.3, 0.01 };
    static const struct {
        int64_t B, T, V, D;
    } shapes[] = { { 1, 1, 1, 1 }, { 3, 7, 5000, 65 }, { 12, 20, 700, 64 }, { 2, 3, 33, 15 } };

    for (size_t i = 0; i < 4 * 3; i++) {
        const int64_t B = shapes[i % 4].B, T = shapes[i % 4].T, V = shapes[i % 4].V;
        const int64_t N = B * T, D = shapes[i % 4].D;
        int64_t length[12];

        rig_begin(r, i);
        for (int64_t b = 0; b < B; b++) {
            length[b] = T;
        }
        const setup s =
            of_tensors(r, rig_normal(r, CSP_F32, 2, (int64_t[]) { N, D }),
                       rig_normal(r, CSP_F32, 2, (int64_t[]) { V, D }), rig_lengths(r, B, length),
                       rig_mask(r, N), csp_tensor_none(), 0.3f, CSP_POOL_MAX);
        back g = make_back(r, &s, rig_sparse_random(r, B, V, density[i / 4], T));

        assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
        check_back(r, &s, &g, V, B);
        assert_int_equal(backward(r->be, &s, &g, false), CSP_OK);
        check_back(r, &s, &g, V, B);
    }
}

static void entries_without_gradient_are_not_touched(void **state)
{
    rig *r = *state;

    rig_begin(r, 2);
    setup s = random_setup(r, 1, CSP_POOL_MAX);
    back g = make_back(r, &s, rig_sparse_random(r, s.ref.B, s.ref.V, 1.0, 1));
    const csp_tensor de = rig_copy(r, &g.de);
    float *nans = (float *)(void *)rig_ints(r, s.ref.V * s.ref.D);
    const float *dh;

    for (int64_t i = 0; i < s.ref.V * s.ref.D; i++) {
        nans[i] = NAN;
    }
    s.head.e = rig_input(r, CSP_F32, 2, s.head.e.dim, nans);
    s.h = rig_input(r, CSP_F32, 2, s.h.dim, nans);
    g.dw = rig_input(r, CSP_F32, 1, g.dw.dim, rig_doubles(r, g.dw.dim[0])); /* zeros */
    assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
    rig_check_same(r, &g.de, &de);
    dh = rig_host(r, &g.dh);
    for (int64_t i = 0; i < s.ref.N * s.ref.D; i++) {
        assert_true(dh[i] == 0.0f);
    }
}

/* One text has all entries: more than are sorted at once. */
static void one_full_row_among_empty_ones_matches(void **state)
{
    rig *r = *state;
    enum { TEXTS = 9, LENGTH = 5, TERMS = 9000, WIDTH = 20 };
    int64_t length[TEXTS], row_ptr[TEXTS + 1] = { 0 };
    csp_sparse rows;

    rig_begin(r, 1);
    rows = rig_sparse_random(r, 1, TERMS, 1.0, LENGTH);
    for (int b = 0; b < TEXTS; b++) {
        length[b] = LENGTH;
        row_ptr[b + 1] = b < 4 ? 0 : TERMS;
    }
    rows.row_ptr = rig_input(r, CSP_I64, 1, (int64_t[]) { TEXTS + 1 }, row_ptr);
    const setup s = of_tensors(r, rig_normal(r, CSP_F32, 2, (int64_t[]) { TEXTS * LENGTH, WIDTH }),
                               rig_normal(r, CSP_F32, 2, (int64_t[]) { TERMS, WIDTH }),
                               rig_lengths(r, TEXTS, length), rig_mask(r, TEXTS * LENGTH),
                               csp_tensor_none(), 1.0f, CSP_POOL_MAX);
    back g = make_back(r, &s, rows);

    assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
    check_back(r, &s, &g, TERMS, 1);
}

static void sum_gradients_match_the_reference(void **state)
{
    rig *r = *state;

    for (int64_t i = 0; i < CASES; i++) {
        rig_begin(r, (uint64_t)i);
        const setup s = exact_setup(r, i, CSP_POOL_SUM);
        csp_sparse w = rig_sparse_output(r, s.ref.B, s.ref.B * s.ref.V, s.ref.V);
        back g;

        assert_int_equal(forward(r, &s, 0, &w), CSP_OK);
        g = make_back(r, &s, w);
        assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
        check_back(r, &s, &g, s.ref.V, s.ref.N);
    }
}

/* Rows of a later micro-batch: their places in the arrays, their gradients. */
static void the_gradient_reads_the_rows_it_is_told(void **state)
{
    rig *r = *state;

    rig_begin(r, 8);
    const setup s = random_setup(r, 1, CSP_POOL_MAX);
    const int64_t B = s.ref.B, V = s.ref.V;
    csp_sparse alone = rig_sparse_output(r, B, B * V, V);
    csp_sparse after = rig_sparse_output(r, 2 * B, 2 * B * V, V);
    csp_tensor dh = rig_output(r, CSP_F32, 2, s.h.dim);
    back g;

    assert_int_equal(forward(r, &s, 0, &alone), CSP_OK);
    assert_int_equal(forward(r, &s, 0, &after), CSP_OK);
    assert_int_equal(forward(r, &s, B, &after), CSP_OK);
    g = make_back(r, &s, alone);
    assert_int_equal(backward(r->be, &s, &g, false), CSP_OK);

    const int64_t entries = rig_sparse_entries(r, &alone, B);
    float *dw = rig_host(r, &after.weight);
    memset(dw, 0x7F, sizeof(float) * (size_t)(2 * B * V)); /* large: seen if read for other rows */
    memcpy(dw + entries, rig_host(r, &g.dw), sizeof(float) * (size_t)entries);
    csp_sparse_pool_grad grad = { .rows = &after,
                                  .dw = rig_input(r, CSP_F32, 1, after.term.dim, dw),
                                  .first_row = B,
                                  .h = csp_tensor_none(),
                                  .seq_start = s.seq_start,
                                  .keep = csp_tensor_none(),
                                  .dh = dh,
                                  .de = csp_tensor_none() };
    assert_int_equal(csp_sparse_pool_bwd(r->be, &s.head, &grad), CSP_OK);
    rig_check_same(r, &dh, &g.dh);
    rig_check_guards(r);
}

static void the_number_of_threads_changes_no_bit_of_max_pooling(void **state)
{
    rig *r = *state;
    csp_backend *other;

    for (int64_t i = 0; i < CASES; i++) {
        rig_begin(r, (uint64_t)i);
        const setup s = random_setup(r, i, CSP_POOL_MAX);
        const int64_t B = s.ref.B, V = s.ref.V;
        csp_sparse w = rig_sparse_output(r, B, B * V, V), again = rig_sparse_output(r, B, B * V, V);
        back g, g_again;

        assert_int_equal(csp_backend_create(r->be->name, 3, &other), CSP_OK);
        assert_int_equal(forward(r, &s, 0, &w), CSP_OK);
        assert_int_equal(
            csp_sparse_pool_fwd(other, &s.head, &s.h, &s.seq_start, &s.keep, 0, &again), CSP_OK);
        rig_check_same(r, &w.weight, &again.weight);
        rig_check_same(r, &w.argmax, &again.argmax);
        g = make_back(r, &s, w);
        g_again = g;
        g_again.dh = rig_output(r, CSP_F32, 2, s.h.dim);
        g_again.de = rig_copy(r, &g.de);
        assert_int_equal(backward(r->be, &s, &g, true), CSP_OK);
        assert_int_equal(backward(other, &s, &g_again, true), CSP_OK);
        rig_check_same(r, &g.dh, &g_again.dh);
        rig_check_same(r, &g.de, &g_again.de);
        csp_backend_destroy(other);
    }
}

enum { GB = 2, GN = 6, GV = 5, GD = 3 };

typedef struct derivative {
    ref_pool p;
    bool is_sum;
    double c[GB * GV]; /* loss = sum of c w */
} derivative;

static double loss_of(const derivative *d)
{
    double w[GB * GV], loss = 0.0;

    if (d->is_sum) {
        ref_pool_sum_fwd(&d->p, w, NULL);
    } else {
        ref_pool_max_fwd(&d->p, w, NULL, NULL);
    }
    for (int i = 0; i < GB * GV; i++) {
        loss += d->c[i] * w[i];
    }
    return loss;
}

static double loss_of_h(const double *h, const void *context)
{
    derivative d = *(const derivative *)context;

    d.p.h = h;
    return loss_of(&d);
}

static double loss_of_e(const double *e, const void *context)
{
    derivative d = *(const derivative *)context;

    d.p.e = e;
    return loss_of(&d);
}

/* Whether all logits of kept rows are away from 0 and from each other in their text. */
static bool away_from_kinks(const ref_pool *p)
{
    double mag;

    for (int64_t v = 0; v < p->V; v++) {
        for (int64_t n = 0; n < p->N; n++) {
            const double z = ref_pool_logit(p, n, v, &mag);

            for (int64_t m = 0; m < n; m++) {
                if (fabs(z - ref_pool_logit(p, m, v, &mag)) < 1e-3) {
                    return false;
                }
            }
            if (fabs(z) < 1e-3) {
                return false;
            }
        }
    }
    return true;
}

static void the_references_are_their_own_derivatives(void **state)
{
    rig *r = *state;
    static const int32_t seq_start[] = { 0, 2, GN };
    static const uint8_t keep[GN] = { 1, 1, 1, 0, 1, 1 }, exclude[GV] = { 0, 0, 1, 0, 0 };
    bool away = false;

    for (uint64_t seed = 0; !away; seed++) {
        rig_begin(r, seed);
        const csp_tensor th = rig_normal(r, CSP_F32, 2, (int64_t[]) { GN, GD });
        const csp_tensor te = rig_normal(r, CSP_F32, 2, (int64_t[]) { GV, GD });
        double *h = rig_as_doubles(r, &th), *e = rig_as_doubles(r, &te);
        derivative d = { .p = { h, e, exclude, seq_start, keep, 0.7, GB, GN, GV, GD } };

        away = away_from_kinks(&d.p);
        for (int i = 0; away && i < GB * GV; i++) {
            d.c[i] = 1.0 + 0.1 * i;
        }
        for (int is_sum = 0; away && is_sum <= 1; is_sum++) {
            double w[GB * GV], dh[GN * GD], de[GV * GD] = { 0.0 }, mag[GN * GD + GV * GD];
            int32_t arg[GB * GV];

            d.is_sum = is_sum != 0;
            ref_pool_max_fwd(&d.p, w, arg, NULL);
            memset(mag, 0, sizeof(mag));
            if (d.is_sum) {
                ref_pool_sum_bwd(&d.p, d.c, dh, mag, de, mag + GN * GD);
            } else {
                ref_pool_max_bwd(&d.p, w, arg, d.c, dh, mag, de, mag + GN * GD);
            }
            assert_true(gradient_distance(loss_of_h, &d, h, dh, GN * GD) <= GRADIENT_LIMIT);
            assert_true(gradient_distance(loss_of_e, &d, e, de, GV * GD) <= GRADIENT_LIMIT);
        }
    }
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;

    rig_begin(r, 0);
    const setup s = random_setup(r, 1, CSP_POOL_MAX);
    const int64_t B = s.ref.B, V = s.ref.V;
    csp_sparse w = rig_sparse_output(r, B, B * V, V), bad;
    csp_tensor keep = rig_mask(r, s.ref.N + 1);
    csp_head head = s.head;

    assert_int_equal(csp_sparse_pool_fwd(r->be, &s.head, &s.h, &s.seq_start, &keep, 0, &w),
                     CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "keep must be u8 (9), not u8 (10)"));
    assert_int_equal(forward(r, &s, 1, &w), CSP_ERR_SHAPE); /* row_ptr is too short */
    assert_int_equal(forward(r, &s, -1, &w), CSP_ERR_ARGUMENT);
    bad = w;
    bad.vocab = V + 1;
    assert_int_equal(forward(r, &s, 0, &bad), CSP_ERR_SHAPE);
    bad = w;
    bad.argmax = csp_tensor_none();
    assert_int_equal(forward(r, &s, 0, &bad), CSP_ERR_SHAPE);
    bad.weight.dtype = CSP_BF16;
    assert_int_equal(forward(r, &s, 0, &bad), CSP_ERR_SHAPE);
    head.scale = 0.0f;
    assert_int_equal(csp_sparse_pool_fwd(r->be, &head, &s.h, &s.seq_start, &s.keep, 0, &w),
                     CSP_ERR_ARGUMENT);
    head.scale = NAN;
    assert_int_equal(csp_sparse_pool_fwd(r->be, &head, &s.h, &s.seq_start, &s.keep, 0, &w),
                     CSP_ERR_ARGUMENT);
    rig_check_untouched(r, &w.row_ptr);
    rig_check_untouched(r, &w.term);
    rig_check_untouched(r, &w.weight);
    rig_check_untouched(r, &w.argmax);

    back g = make_back(r, &s, rig_sparse_random(r, B, V, 0.5, 1));
    g.de = rig_accumulated(r, 2, (int64_t[]) { V + 1, s.ref.D });
    assert_int_equal(backward(r->be, &s, &g, true), CSP_ERR_SHAPE);
    g.dh = rig_output(r, CSP_F32, 2, (int64_t[]) { s.ref.N, s.ref.D + 1 });
    assert_int_equal(backward(r->be, &s, &g, false), CSP_ERR_SHAPE);
    rig_check_untouched(r, &g.dh);
    rig_check_untouched(r, &g.de);
}

/* Every allocation of a fresh backend fails once; the next call succeeds. */
static void failing_memory_is_reported(void **state)
{
    rig *r = *state;

    for (int pooling = CSP_POOL_MAX; pooling <= CSP_POOL_SUM; pooling++) {
        rig_begin(r, 2);
        const setup s = random_setup(r, 2, (csp_pool_kind)pooling);
        const int64_t B = s.ref.B, V = s.ref.V;
        csp_sparse w = rig_sparse_output(r, B, B * V, V);
        back g;
        csp_status status = CSP_ERR_MEMORY;
        csp_backend *fresh;

        assert_int_equal(forward(r, &s, 0, &w), CSP_OK);
        g = make_back(r, &s, w);
        for (long n = 1; status != CSP_OK; n++) {
            assert_int_equal(csp_backend_create(r->be->name, 2, &fresh), CSP_OK);
            csp_fault_arm(n);
            status = csp_sparse_pool_fwd(fresh, &s.head, &s.h, &s.seq_start, &s.keep, 0, &w);
            if (status == CSP_OK) {
                status = backward(fresh, &s, &g, true);
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
        cmocka_unit_test(the_references_are_their_own_derivatives),
        cmocka_unit_test(weights_match_the_reference),
        cmocka_unit_test(positions_are_those_of_the_first_maximum),
        cmocka_unit_test(tiny_and_huge_logits_keep_their_digits),
        cmocka_unit_test(a_text_without_kept_rows_is_an_empty_row),
        cmocka_unit_test(a_nan_is_skipped_and_excluded_terms_stay_silent),
        cmocka_unit_test(rows_are_appended),
        cmocka_unit_test(too_little_room_is_said_and_earlier_rows_stay),
        cmocka_unit_test(many_texts_of_a_large_vocabulary_match),
        cmocka_unit_test(max_gradients_match_the_reference_at_any_density),
        cmocka_unit_test(entries_without_gradient_are_not_touched),
        cmocka_unit_test(one_full_row_among_empty_ones_matches),
        cmocka_unit_test(sum_gradients_match_the_reference),
        cmocka_unit_test(the_gradient_reads_the_rows_it_is_told),
        cmocka_unit_test(the_number_of_threads_changes_no_bit_of_max_pooling),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
        cmocka_unit_test(failing_memory_is_reported),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
