/* test_linear.c - ops/linear.h: reference against its derivative, backend against the reference. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory.h"
#include "ops/linear.h"
#include "ref/linear.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/rig.h"

/* Edges on purpose: one element, one less and one more than a block of columns, several blocks of
 * masked rows (512), a shape large enough for all threads, adapters wider than the map, rows of
 * whole vectors under dropout. */
static const struct {
    int64_t N, I, O, R;
    float p;
    bool bias;
} cases[] = {
    { 1, 1, 1, 0, 0.0f, false },      { 1, 1, 1, 1, 0.0f, true },
    { 7, 15, 17, 0, 0.0f, true },     { 33, 63, 65, 3, 0.0f, false },
    { 33, 63, 65, 3, 0.3f, true },    { 5, 6, 3, 8, 0.1f, false },
    { 130, 128, 96, 16, 0.0f, true }, { 1030, 140, 24, 4, 0.5f, false },
    { 513, 70, 130, 0, 0.0f, false }, { 40, 64, 72, 8, 0.25f, true },
};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

/* One call's tensors and what the reference needs of them. */
typedef struct setup {
    csp_dtype S;
    csp_linear l;
    ref_linear ref;
    csp_tensor x, dy;
    double *wide_x, *wide_dy;
} setup;

static csp_tensor keys_of(rig *r, int64_t N)
{
    int64_t *key = calloc((size_t)N, sizeof(*key));
    csp_tensor t;

    assert_non_null(key);
    for (int64_t n = 0; n < N; n++) {
        key[n] = (n % 5) * (1 << 20) + n; /* several texts, and texts far into the batch */
    }
    key[0] = ((int64_t)1 << 40) + 3;
    t = rig_input(r, CSP_I64, 1, &N, key);
    free(key);
    return t;
}

static setup make(rig *r, csp_dtype S, int64_t N, int64_t I, int64_t O, int64_t R, float p,
                  bool bias)
{
    setup s;

    memset(&s, 0, sizeof(s));
    s.S = S;
    s.l.w = rig_normal(r, S, 2, (int64_t[]) { O, I });
    s.ref = (ref_linear) { .N = N, .I = I, .O = O, .R = R, .w = rig_as_doubles(r, &s.l.w) };
    if (bias) {
        s.l.bias = rig_normal(r, S, 1, &O);
        s.ref.bias = rig_as_doubles(r, &s.l.bias);
    }
    if (R > 0) {
        s.l.lora_a = rig_normal(r, S, 2, (int64_t[]) { R, I });
        s.l.lora_b = rig_normal(r, S, 2, (int64_t[]) { O, R });
        s.l.lora_scale = 1.5f;
        s.ref.a = rig_as_doubles(r, &s.l.lora_a);
        s.ref.b = rig_as_doubles(r, &s.l.lora_b);
        s.ref.scale = 1.5;
    }
    if (p > 0.0f) {
        double *m = rig_doubles(r, N * I);

        s.l.dropout = (csp_dropout) { p, 0x123456789ABCDEFull, 7, 19, keys_of(r, N) };
        ref_dropout_mask((double)p, s.l.dropout.seed, 7, 19, rig_host(r, &s.l.dropout.row_key), N,
                         I, m);
        s.ref.m = m;
    }
    s.x = rig_normal(r, S, 2, (int64_t[]) { N, I });
    s.dy = rig_normal(r, S, 2, (int64_t[]) { N, O });
    s.wide_x = rig_as_doubles(r, &s.x);
    s.wide_dy = rig_as_doubles(r, &s.dy);
    return s;
}

static csp_tensor make_u(rig *r, const setup *s)
{
    return s->ref.R > 0 ? rig_output(r, s->S, 2, (int64_t[]) { s->ref.N, s->ref.R })
                        : csp_tensor_none();
}

/*
 * The bound of a result that f32 rounds `roundings` times and bf16 `stored` times, itself included;
 * a rounded value may be rounded again.
 */
static double bound(csp_dtype S, int64_t roundings, int stored)
{
    const double half = S == CSP_BF16 ? stored * UNIT_BF16 : 0.0;

    return (double)roundings * UNIT_F32 + half + half * half;
}

/* Whether there is dropout, as a number of roundings: of the masked x. */
static int masks(const setup *s)
{
    return s->ref.m != NULL ? 1 : 0;
}

static void forward_matches(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < CASES; i++) {
        const int64_t N = cases[i].N, I = cases[i].I, O = cases[i].O, R = cases[i].R;

        rig_begin(r, (uint64_t)i);
        setup s = make(r, S, N, I, O, R, cases[i].p, cases[i].bias);
        csp_tensor u = make_u(r, &s), y = rig_output(r, S, 2, (int64_t[]) { N, O });
        double *want_u = rig_doubles(r, N * R), *u_mag = rig_doubles(r, N * R);
        double *want_y = rig_doubles(r, N * O), *y_mag = rig_doubles(r, N * O);

        ref_linear_fwd(&s.ref, s.wide_x, want_u, u_mag, want_y, y_mag);
        assert_int_equal(csp_linear_fwd(r->be, &s.l, &s.x, &u, &y), CSP_OK);
        assert_int_equal(csp_backend_sync(r->be), CSP_OK);
        /* I products and sums, and the mask's two roundings; for y R more of a value of I. Stored
         * are: y; with an adapter also u, the branch alone, and y before its bias. */
        const int stored = R > 0 ? 3 + masks(&s) + cases[i].bias : 1;
        assert_true(
            matches("y", S, rig_floats(r, &y), want_y, y_mag, N * O, bound(S, I + R + 6, stored)));
        if (R > 0) {
            assert_true(matches("u", S, rig_floats(r, &u), want_u, u_mag, N * R,
                                bound(S, I + 4, 1 + masks(&s))));
        }
        rig_check_guards(r);
    }
}

static void forward_matches_the_reference(void **state)
{
    rig_each_storage(*state, forward_matches);
}

/* Gradient tensors that hold normal numbers, and the same in double with mags begun. */
static csp_tensor accumulated(rig *r, csp_dtype S, int ndim, const int64_t *dims, double **want,
                              double **mag)
{
    const csp_tensor whole = rig_normal(r, S, ndim, dims), t = rig_copy(r, &whole);
    const int64_t n = csp_tensor_count(&t);

    *want = rig_as_doubles(r, &t);
    *mag = rig_doubles(r, n);
    for (int64_t i = 0; i < n; i++) {
        (*mag)[i] = fabs((*want)[i]);
    }
    return t;
}

typedef struct grads {
    csp_linear_grad got;
    ref_linear_grad want;
    csp_tensor dx;
} grads;

static grads make_grads(rig *r, const setup *s)
{
    const ref_linear *l = &s->ref;
    grads g;

    memset(&g, 0, sizeof(g));
    g.got.dw = accumulated(r, CSP_F32, 2, (int64_t[]) { l->O, l->I }, &g.want.dw, &g.want.dw_mag);
    if (l->bias != NULL) {
        g.got.dbias = accumulated(r, CSP_F32, 1, &l->O, &g.want.dbias, &g.want.dbias_mag);
    }
    if (l->R > 0) {
        g.got.dlora_a =
            accumulated(r, CSP_F32, 2, (int64_t[]) { l->R, l->I }, &g.want.da, &g.want.da_mag);
        g.got.dlora_b =
            accumulated(r, CSP_F32, 2, (int64_t[]) { l->O, l->R }, &g.want.db, &g.want.db_mag);
    }
    g.dx = rig_output(r, s->S, 2, (int64_t[]) { l->N, l->I });
    g.want.dx = rig_doubles(r, l->N * l->I);
    g.want.dx_mag = rig_doubles(r, l->N * l->I);
    return g;
}

static void check_grads(rig *r, const setup *s, const grads *g)
{
    const ref_linear *l = &s->ref;
    const int64_t N = l->N, I = l->I, O = l->O, R = l->R;

    /* Each bound: the longest chain of additions, of its own sum and of the sum inside it. Stored
     * are dx; with an adapter also du, masked x, du A under dropout, and dx before the rest. */
    const int stored = R > 0 ? 3 + masks(s) : 1;

    assert_true(matches("dx", s->S, rig_floats(r, &g->dx), g->want.dx, g->want.dx_mag, N * I,
                        bound(s->S, O + R + 10, stored)));
    assert_true(matches("dw", s->S, rig_host(r, &g->got.dw), g->want.dw, g->want.dw_mag, O * I,
                        bound(s->S, N + 3, 0)));
    if (l->bias != NULL) {
        assert_true(matches("dbias", s->S, rig_host(r, &g->got.dbias), g->want.dbias,
                            g->want.dbias_mag, O, bound(s->S, N + 1, 0)));
    }
    if (R > 0) {
        assert_true(matches("dlora_a", s->S, rig_host(r, &g->got.dlora_a), g->want.da,
                            g->want.da_mag, R * I, bound(s->S, N + O + 8, 1 + masks(s))));
        assert_true(matches("dlora_b", s->S, rig_host(r, &g->got.dlora_b), g->want.db,
                            g->want.db_mag, O * R, bound(s->S, N + 4, 0)));
    }
}

static void backward_matches(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < CASES; i++) {
        const int64_t N = cases[i].N, R = cases[i].R;

        rig_begin(r, (uint64_t)(100 + i));
        setup s = make(r, S, N, cases[i].I, cases[i].O, R, cases[i].p, cases[i].bias);
        csp_tensor u = R > 0 ? rig_normal(r, S, 2, (int64_t[]) { N, R }) : csp_tensor_none();
        grads g = make_grads(r, &s);

        ref_linear_bwd(&s.ref, s.wide_x, R > 0 ? rig_as_doubles(r, &u) : NULL, s.wide_dy, &g.want);
        assert_int_equal(csp_linear_bwd(r->be, &s.l, &s.x, &u, &s.dy, &g.got, &g.dx), CSP_OK);
        check_grads(r, &s, &g);
        rig_check_guards(r);
    }
}

static void backward_matches_the_reference(void **state)
{
    rig_each_storage(*state, backward_matches);
}

static void a_frozen_matrix_needs_less(rig *r, csp_dtype S)
{
    const csp_linear_grad nothing = { 0 };
    csp_tensor none = csp_tensor_none(), dx, want;

    rig_begin(r, 3);
    setup s = make(r, S, 9, 10, 11, 2, 0.0f, false);
    dx = rig_output(r, S, 2, (int64_t[]) { 9, 10 });
    want = rig_output(r, S, 2, (int64_t[]) { 9, 10 });
    assert_int_equal(csp_linear_bwd(r->be, &s.l, &none, &none, &s.dy, &nothing, &dx), CSP_OK);
    grads g = make_grads(r, &s);
    csp_tensor u = rig_normal(r, S, 2, (int64_t[]) { 9, 2 });
    assert_int_equal(csp_linear_bwd(r->be, &s.l, &s.x, &u, &s.dy, &g.got, &want), CSP_OK);
    rig_check_same(r, &dx, &want);
    /* And the other way round: only gradients of parameters. */
    assert_int_equal(csp_linear_bwd(r->be, &s.l, &s.x, &u, &s.dy, &g.got, NULL), CSP_OK);
    rig_check_guards(r);
}

static void a_frozen_matrix_needs_neither_x_nor_its_gradient(void **state)
{
    rig_each_storage(*state, a_frozen_matrix_needs_less);
}

static void dropout_of_a_row_does_not_depend_on_its_place(void **state)
{
    rig *r = *state;
    enum { N = 6, I = 37, O = 5, R = 3 };

    rig_begin(r, 4);
    setup s = make(r, CSP_F32, N, I, O, R, 0.4f, false);
    csp_tensor u = make_u(r, &s), y = rig_output(r, CSP_F32, 2, (int64_t[]) { N, O });
    csp_tensor u1 = rig_output(r, CSP_F32, 2, (int64_t[]) { 1, R });
    csp_tensor y1 = rig_output(r, CSP_F32, 2, (int64_t[]) { 1, O });
    csp_tensor row = csp_tensor_rows(&s.x, 4, 1), all_keys = s.l.dropout.row_key;
    const float *whole, *alone;

    assert_int_equal(csp_linear_fwd(r->be, &s.l, &s.x, &u, &y), CSP_OK);
    s.l.dropout.row_key = csp_tensor_rows(&all_keys, 4, 1);
    assert_int_equal(csp_linear_fwd(r->be, &s.l, &row, &u1, &y1), CSP_OK);
    whole = rig_host(r, &u);
    alone = rig_host(r, &u1);
    for (int i = 0; i < R; i++) { /* another shape may add in another order */
        assert_true(fabsf(whole[4 * R + i] - alone[i]) <= 1e-4f);
    }
}

/* Infinity where one of them is no number. */
static float worst_distance(const float *a, const float *b, int64_t n)
{
    float worst = 0.0f;

    for (int64_t i = 0; i < n; i++) {
        const float apart = fabsf(a[i] - b[i]);

        worst = apart <= worst ? worst : isnan(apart) ? INFINITY : apart;
    }
    return worst;
}

static csp_tensor slice(const csp_tensor *t, int half, int64_t rows)
{
    return csp_tensor_rows(t, half * rows, rows);
}

/* More than fits the scratch of a device for masked rows: two halves give what the whole gives. */
static void many_wide_rows_are_masked_in_blocks(void **state)
{
    rig *r = *state;
    enum { N = 70, I = 125000, HALF = N / 2 };

    rig_begin(r, 9);
    setup s = make(r, CSP_F32, N, I, 1, 1, 0.4f, false);
    csp_tensor u = make_u(r, &s), y = rig_output(r, CSP_F32, 2, (int64_t[]) { N, 1 });
    csp_tensor u2 = make_u(r, &s), y2 = rig_output(r, CSP_F32, 2, (int64_t[]) { N, 1 });
    csp_tensor dx = rig_output(r, CSP_F32, 2, (int64_t[]) { N, I });
    csp_tensor dx2 = rig_output(r, CSP_F32, 2, (int64_t[]) { N, I });
    csp_linear_grad g = { .dlora_a = rig_accumulated(r, 2, (int64_t[]) { 1, I }) };
    csp_linear_grad g2 = { .dlora_a = rig_copy(r, &g.dlora_a) };
    const csp_tensor all_keys = s.l.dropout.row_key;

    assert_int_equal(csp_linear_fwd(r->be, &s.l, &s.x, &u, &y), CSP_OK);
    assert_int_equal(csp_linear_bwd(r->be, &s.l, &s.x, &u, &s.dy, &g, &dx), CSP_OK);
    for (int half = 0; half < 2; half++) {
        csp_tensor x = slice(&s.x, half, HALF), dy = slice(&s.dy, half, HALF);
        csp_tensor part_u = slice(&u2, half, HALF), part_y = slice(&y2, half, HALF);
        csp_tensor part_dx = slice(&dx2, half, HALF);

        s.l.dropout.row_key = slice(&all_keys, half, HALF);
        assert_int_equal(csp_linear_fwd(r->be, &s.l, &x, &part_u, &part_y), CSP_OK);
        assert_int_equal(csp_linear_bwd(r->be, &s.l, &x, &part_u, &dy, &g2, &part_dx), CSP_OK);
    }
    /* Sums of I terms and of N terms; products alone in dx. */
    assert_true(worst_distance(rig_host(r, &u2), rig_host(r, &u), N) <= 0.1f);
    assert_true(worst_distance(rig_host(r, &g2.dlora_a), rig_host(r, &g.dlora_a), I) <= 1e-3f);
    assert_true(worst_distance(rig_host(r, &dx2), rig_host(r, &dx), (int64_t)N * I) <= 1e-4f);
    rig_check_guards(r);
}

static void gives_the_same_bits(rig *r, csp_dtype S)
{
    csp_tensor y[2], u[2];
    grads g[2];

    rig_begin(r, 5);
    setup s = make(r, S, 601, 96, 130, 5, 0.2f, true);
    for (int i = 0; i < 2; i++) {
        y[i] = rig_output(r, S, 2, (int64_t[]) { 601, 130 });
        u[i] = make_u(r, &s);
        assert_int_equal(csp_linear_fwd(r->be, &s.l, &s.x, &u[i], &y[i]), CSP_OK);
        g[i] = make_grads(r, &s);
    }
    g[1].got.dw = rig_copy(r, &g[0].got.dw);
    g[1].got.dbias = rig_copy(r, &g[0].got.dbias);
    g[1].got.dlora_a = rig_copy(r, &g[0].got.dlora_a);
    g[1].got.dlora_b = rig_copy(r, &g[0].got.dlora_b);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(csp_linear_bwd(r->be, &s.l, &s.x, &u[i], &s.dy, &g[i].got, &g[i].dx),
                         CSP_OK);
    }
    rig_check_same(r, &y[0], &y[1]);
    rig_check_same(r, &u[0], &u[1]);
    rig_check_same(r, &g[0].dx, &g[1].dx);
    rig_check_same(r, &g[0].got.dw, &g[1].got.dw);
    rig_check_same(r, &g[0].got.dbias, &g[1].got.dbias);
    rig_check_same(r, &g[0].got.dlora_a, &g[1].got.dlora_a);
    rig_check_same(r, &g[0].got.dlora_b, &g[1].got.dlora_b);
}

static void the_same_call_gives_the_same_bits(void **state)
{
    rig_each_storage(*state, gives_the_same_bits);
}

/* As when training begins: far below the spacing of bf16 beside W x, it must not get lost. */
static void keeps_a_small_branch(rig *r, csp_dtype S)
{
    enum { N = 64, I = 64, O = 64 };
    double with = 0.0, size = 0.0;

    rig_begin(r, 10);
    setup s = make(r, S, N, I, O, 4, 0.0f, true);
    csp_tensor u = make_u(r, &s), y = rig_output(r, S, 2, (int64_t[]) { N, O });
    double *want_u = rig_doubles(r, N * 4), *all = rig_doubles(r, N * O);
    double *base = rig_doubles(r, N * O);
    const float *got;

    s.l.lora_scale = 0x1p-12f;
    s.ref.scale = 0x1p-12;
    ref_linear_fwd(&s.ref, s.wide_x, want_u, NULL, all, NULL);
    s.ref.scale = 0.0;
    ref_linear_fwd(&s.ref, s.wide_x, want_u, NULL, base, NULL);
    assert_int_equal(csp_linear_fwd(r->be, &s.l, &s.x, &u, &y), CSP_OK);
    got = rig_floats(r, &y);
    for (int64_t i = 0; i < (int64_t)N * O; i++) {
        with += ((double)got[i] - base[i]) * (all[i] - base[i]);
        size += (all[i] - base[i]) * (all[i] - base[i]);
    }
    /* The share of the branch that arrives. An element of y, about 8, is rounded twice with an
     * error of rms 0.01 each and the branch is about 0.004 in each: over N O = 4096 elements that
     * is noise of (0.014 / 0.004) / 64 = 0.06. Rounded away, the share would be near 0. */
    assert_true(fabs(with / size - 1.0) <= 4.0 * 0.06);
}

static void a_branch_far_below_the_rest_survives_storage(void **state)
{
    rig_each_storage(*state, keeps_a_small_branch);
}

static void no_rows_are_no_work(void **state)
{
    rig *r = *state;

    rig_begin(r, 6);
    setup s = make(r, CSP_F32, 0, 4, 3, 0, 0.0f, false);
    csp_tensor y = rig_output(r, CSP_F32, 2, (int64_t[]) { 0, 3 }), none = csp_tensor_none();
    grads g = make_grads(r, &s);

    assert_int_equal(csp_linear_fwd(r->be, &s.l, &s.x, &none, &y), CSP_OK);
    assert_int_equal(csp_linear_bwd(r->be, &s.l, &s.x, &none, &s.dy, &g.got, &g.dx), CSP_OK);
    rig_check_untouched(r, &g.got.dw);
    rig_check_guards(r);
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;

    rig_begin(r, 7);
    setup s = make(r, CSP_F32, 6, 5, 4, 2, 0.5f, true);
    csp_tensor u = make_u(r, &s), y = rig_output(r, CSP_F32, 2, (int64_t[]) { 6, 4 });
    csp_tensor narrow = rig_normal(r, CSP_F32, 2, (int64_t[]) { 6, 4 }), none = csp_tensor_none();
    csp_tensor ints = rig_indices(r, 9, 30);
    grads g = make_grads(r, &s);
    csp_linear bad = s.l;

    assert_int_equal(csp_linear_fwd(r->be, &s.l, &narrow, &u, &y), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "linear: x must be f32 (6,5), not f32 (6,4)"));
    assert_int_equal(csp_linear_fwd(r->be, &s.l, &ints, &u, &y), CSP_ERR_SHAPE);
    assert_int_equal(csp_linear_fwd(r->be, &s.l, &s.x, &none, &y), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "u must be f32 (6,2), not none"));
    bad.lora_b = s.l.lora_a;
    assert_int_equal(csp_linear_fwd(r->be, &bad, &s.x, &u, &y), CSP_ERR_SHAPE);
    bad = s.l;
    bad.bias = s.l.lora_a;
    assert_int_equal(csp_linear_fwd(r->be, &bad, &s.x, &u, &y), CSP_ERR_SHAPE);
    bad = s.l;
    bad.dropout.p = 1.0f;
    assert_int_equal(csp_linear_fwd(r->be, &bad, &s.x, &u, &y), CSP_ERR_ARGUMENT);
    bad.dropout = s.l.dropout;
    bad.dropout.row_key = csp_tensor_rows(&s.l.dropout.row_key, 0, 5);
    assert_int_equal(csp_linear_fwd(r->be, &bad, &s.x, &u, &y), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "row_key must be i64 (6), not i64 (5)"));
    bad = s.l;
    bad.w = rig_normal(r, CSP_BF16, 2, (int64_t[]) { 4, 5 });
    assert_int_equal(csp_linear_fwd(r->be, &bad, &s.x, &u, &y),
                     r->be->bf16 ? CSP_ERR_SHAPE : CSP_ERR_UNSUPPORTED);
    bad = s.l;
    bad.lora_a = rig_normal(r, CSP_BF16, 2, (int64_t[]) { 2, 5 });
    assert_int_equal(csp_linear_fwd(r->be, &bad, &s.x, &u, &y), CSP_ERR_SHAPE);
    rig_check_untouched(r, &y);
    rig_check_untouched(r, &u);

    assert_int_equal(csp_linear_bwd(r->be, &s.l, &none, &u, &s.dy, &g.got, &g.dx), CSP_ERR_SHAPE);
    assert_int_equal(csp_linear_bwd(r->be, &s.l, &s.x, &none, &s.dy, &g.got, &g.dx), CSP_ERR_SHAPE);
    assert_int_equal(csp_linear_bwd(r->be, &s.l, &s.x, &u, &s.dy, &g.got, &narrow), CSP_ERR_SHAPE);
    bad = s.l;
    bad.lora_a = csp_tensor_none();
    assert_int_equal(csp_linear_bwd(r->be, &bad, &s.x, &u, &s.dy, &g.got, &g.dx), CSP_ERR_SHAPE);
    g.got.dw.dim[0] = 3;
    assert_int_equal(csp_linear_bwd(r->be, &s.l, &s.x, &u, &s.dy, &g.got, &g.dx), CSP_ERR_SHAPE);
    rig_check_untouched(r, &g.dx);
    rig_check_untouched(r, &g.got.dlora_a);
    rig_check_untouched(r, &g.got.dlora_b);
    rig_check_untouched(r, &g.got.dbias);
}

/* loss = sum of y ⊙ dy of the reference, as a function of one of its operands. */
typedef struct loss_context {
    ref_linear l;
    const double *x, *dy;
    const double **moving; /* the operand that x of the check stands for */
    double *u, *y;
} loss_context;

static double loss_of(const double *at, const void *context)
{
    const loss_context *c = context;
    double sum = 0.0;

    *c->moving = at;
    ref_linear_fwd(&c->l, c->x, c->u, NULL, c->y, NULL);
    for (int64_t i = 0; i < c->l.N * c->l.O; i++) {
        sum += c->y[i] * c->dy[i];
    }
    return sum;
}

static double check_operand(loss_context *c, const double **moving, const double *gradient,
                            int64_t n)
{
    double *values = (double *)(uintptr_t)*moving;

    c->moving = moving;
    return gradient_distance(loss_of, c, values, gradient, n);
}

static void the_reference_is_its_own_derivative(void **state)
{
    rig *r = *state;
    enum { N = 4, I = 5, O = 3, R = 2 };

    rig_begin(r, 8);
    setup s = make(r, CSP_F32, N, I, O, R, 0.3f, true);
    grads g = make_grads(r, &s);
    loss_context c = { .l = s.ref, .x = s.wide_x, .dy = s.wide_dy };
    ref_linear_grad *w = &g.want;

    c.u = rig_doubles(r, N * R);
    c.y = rig_doubles(r, N * O);
    memset(w->dw, 0, sizeof(double) * O * I);
    memset(w->dbias, 0, sizeof(double) * O);
    memset(w->da, 0, sizeof(double) * R * I);
    memset(w->db, 0, sizeof(double) * O * R);
    ref_linear_fwd(&c.l, c.x, c.u, NULL, c.y, NULL);
    ref_linear_bwd(&c.l, c.x, c.u, c.dy, w);
    assert_true(check_operand(&c, &c.x, w->dx, N * I) <= GRADIENT_LIMIT);
    assert_true(check_operand(&c, &c.l.w, w->dw, O * I) <= GRADIENT_LIMIT);
    assert_true(check_operand(&c, &c.l.bias, w->dbias, O) <= GRADIENT_LIMIT);
    assert_true(check_operand(&c, &c.l.a, w->da, R * I) <= GRADIENT_LIMIT);
    assert_true(check_operand(&c, &c.l.b, w->db, O * R) <= GRADIENT_LIMIT);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_is_its_own_derivative),
        cmocka_unit_test(forward_matches_the_reference),
        cmocka_unit_test(backward_matches_the_reference),
        cmocka_unit_test(a_frozen_matrix_needs_neither_x_nor_its_gradient),
        cmocka_unit_test(dropout_of_a_row_does_not_depend_on_its_place),
        cmocka_unit_test(many_wide_rows_are_masked_in_blocks),
        cmocka_unit_test(the_same_call_gives_the_same_bits),
        cmocka_unit_test(a_branch_far_below_the_rest_survives_storage),
        cmocka_unit_test(no_rows_are_no_work),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
