/*
 * test_linear_group.c - groups of ops/linear.h: maps of one input together against the reference of
 * each alone, with operands in all the places that they can have.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/linear.h"
#include "ref/linear.h"
#include "support/compare.h"
#include "support/rig.h"

/* How the operands of a group lie in memory. */
typedef enum layout {
    EACH_ALONE, /* contiguous tensors, no tails: what every backend takes               */
    NEIGHBOURS, /* w below w, y beside y, dW and A below one another, no tails          */
    TAILS,      /* the same with tails                                                  */
    TAILS_ALONE /* tails, but y and dy each in a wider matrix of its own                */
} layout;

enum { SPARE = 3 }; /* columns behind the last operand of a matrix, which nobody may touch */

/* One of each number of maps; a part without an adapter, before, between and behind others; tails
 * that are filled and that are not; ranks wider than the map; sizes beside those of blocks. */
static const struct shape {
    int64_t N, I;
    int count;
    int64_t O[CSP_LINEAR_PARTS], R[CSP_LINEAR_PARTS];
    float p;
    bool bias;
} shapes[] = {
    { 1, 1, 1, { 1 }, { 1 }, 0.0f, false },
    { 33, 63, 1, { 65 }, { 8 }, 0.0f, true },
    { 9, 40, 2, { 24, 31 }, { 3, 3 }, 0.0f, false },
    { 70, 64, 2, { 96, 96 }, { 4, 4 }, 0.25f, false },
    { 40, 48, 3, { 64, 16, 16 }, { 8, 8, 8 }, 0.0f, false },
    { 21, 32, 3, { 8, 5, 7 }, { 2, 0, 2 }, 0.0f, true },
    { 21, 31, 3, { 8, 5, 7 }, { 0, 11, 0 }, 0.3f, true },
    { 130, 16, 3, { 17, 9, 33 }, { 0, 0, 0 }, 0.0f, false },
    { 5, 12, 3, { 3, 3, 3 }, { 5, 5, 5 }, 0.5f, false },
};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

typedef struct setup {
    csp_dtype S;
    const struct shape *shape;
    layout place;
    int64_t T, outputs, ranks;
    csp_linear_group g;
    csp_linear_rows rows;
    csp_linear_group_grad grad;
    csp_tensor all_y, all_dy;
    ref_linear ref[CSP_LINEAR_PARTS];
    ref_linear_grad want[CSP_LINEAR_PARTS];
    double *x, *dy[CSP_LINEAR_PARTS], *u[CSP_LINEAR_PARTS];
} setup;

static bool has_tails(const setup *s)
{
    return s->place >= TAILS;
}

/* Normal numbers in the first columns and rows of a larger matrix, whose rest is no numbers. */
static csp_tensor corner(rig *r, csp_dtype S, int64_t rows, int64_t columns, int64_t more_rows,
                         int64_t more_columns, csp_tensor *whole)
{
    const csp_tensor drawn = rig_normal(r, S, 2, (int64_t[]) { rows, columns });
    csp_tensor part;

    *whole = rig_output(r, S, 2, (int64_t[]) { rows + more_rows, columns + more_columns });
    part = csp_tensor_rows(whole, 0, rows);
    part = csp_tensor_columns(&part, 0, columns);
    assert_int_equal(csp_backend_upload(r->be, rig_host(r, &drawn), &part), CSP_OK);
    return part;
}

/* w of all parts, with room for tails or without. */
static void make_weights(rig *r, setup *s)
{
    const struct shape *h = s->shape;
    const int64_t T = has_tails(s) ? s->T : 0;
    csp_tensor whole, all = { 0 };

    if (s->place != EACH_ALONE) {
        all = corner(r, s->S, s->outputs, h->I, T, T, &whole);
        if (T > 0) {
            csp_tensor rows = csp_tensor_rows(&whole, 0, s->outputs);

            s->g.w_tail = csp_tensor_columns(&rows, h->I, T);
            rows = csp_tensor_rows(&whole, s->outputs, T);
            s->g.a_tail = csp_tensor_columns(&rows, 0, h->I);
        }
    }
    for (int64_t i = 0, first = 0; i < h->count; first += h->O[i++]) {
        s->g.part[i].w = s->place == EACH_ALONE
                             ? rig_normal(r, s->S, 2, (int64_t[]) { h->O[i], h->I })
                             : csp_tensor_rows(&all, first, h->O[i]);
        s->ref[i].w = rig_as_doubles(r, &s->g.part[i].w);
    }
}

static void make_dropout(rig *r, setup *s, int i)
{
    const struct shape *h = s->shape;
    int64_t *key = calloc((size_t)h->N, sizeof(*key));
    double *m = rig_doubles(r, h->N * h->I);

    assert_non_null(key);
    for (int64_t n = 0; n < h->N; n++) {
        key[n] = n * 3 + 1;
    }
    s->g.part[i].dropout = (csp_dropout) { h->p, 99, 7, (uint32_t)i, { 0 } };
    s->g.part[i].dropout.row_key = rig_input(r, CSP_I64, 1, &h->N, key);
    ref_dropout_mask((double)h->p, 99, 7, (uint32_t)i, key, h->N, h->I, m);
    s->ref[i].m = m;
    free(key);
}

static void make_adapters(rig *r, setup *s)
{
    const struct shape *h = s->shape;
    csp_tensor all = csp_tensor_none();

    if (s->ranks > 0) {
        all = rig_normal(r, s->S, 2, (int64_t[]) { s->ranks, h->I });
    }
    for (int64_t i = 0, first = 0; i < h->count; first += h->R[i++]) {
        csp_linear *l = &s->g.part[i];

        if (h->R[i] > 0) {
            l->lora_a = s->place == EACH_ALONE
                            ? rig_normal(r, s->S, 2, (int64_t[]) { h->R[i], h->I })
                            : csp_tensor_rows(&all, first, h->R[i]);
            l->lora_b = rig_normal(r, s->S, 2, (int64_t[]) { h->O[i], h->R[i] });
            l->lora_scale = 1.5f + (float)i;
            s->ref[i].a = rig_as_doubles(r, &l->lora_a);
            s->ref[i].b = rig_as_doubles(r, &l->lora_b);
            s->ref[i].scale = 1.5 + (double)i;
        }
        if (h->R[i] > 0 && h->p > 0.0f) {
            make_dropout(r, s, (int)i);
        }
    }
}

/* y, or dy with normal numbers, of all parts; *whole is the matrix that holds them side by side. */
static void make_outputs(rig *r, const setup *s, bool drawn, csp_tensor y[CSP_LINEAR_PARTS],
                         csp_tensor *tail, csp_tensor *whole)
{
    const struct shape *h = s->shape;
    const int64_t T = has_tails(s) ? s->T : 0;
    const bool together = s->place == NEIGHBOURS || s->place == TAILS;
    csp_tensor all = csp_tensor_none();

    *whole = *tail = csp_tensor_none();
    if (together) {
        all = drawn ? corner(r, s->S, h->N, s->outputs, 0, T + SPARE, whole)
                    : rig_output(r, s->S, 2, (int64_t[]) { h->N, s->outputs + SPARE });
        *whole = drawn ? *whole : all;
    }
    for (int64_t i = 0, first = 0; i < h->count; first += h->O[i++]) {
        csp_tensor own;

        if (together) {
            y[i] = csp_tensor_columns(&all, first, h->O[i]);
        } else if (s->place == EACH_ALONE) {
            y[i] = drawn ? rig_normal(r, s->S, 2, (int64_t[]) { h->N, h->O[i] })
                         : rig_output(r, s->S, 2, (int64_t[]) { h->N, h->O[i] });
        } else {
            y[i] = corner(r, s->S, h->N, h->O[i], 0, T + SPARE, &own);
            *whole = own;
        }
    }
    if (T > 0 && drawn) {
        *tail = csp_tensor_columns(whole, whole->dim[1] - SPARE - T, T);
    }
}

/* A gradient that is added to, and the same in double with its size begun. */
static void begin_grad(rig *r, csp_tensor *got, double **want, double **mag)
{
    const int64_t n = csp_tensor_count(got);

    *want = rig_as_doubles(r, got);
    *mag = rig_doubles(r, n);
    for (int64_t i = 0; i < n; i++) {
        (*mag)[i] = fabs((*want)[i]);
    }
}

static void make_grads(rig *r, setup *s)
{
    const struct shape *h = s->shape;
    const csp_tensor dw = rig_accumulated(r, 2, (int64_t[]) { s->outputs, h->I });
    csp_tensor da = csp_tensor_none();
    double *dx = rig_doubles(r, h->N * h->I), *dx_mag = rig_doubles(r, h->N * h->I);

    if (s->ranks > 0) {
        da = rig_accumulated(r, 2, (int64_t[]) { s->ranks, h->I });
    }
    for (int64_t i = 0, o = 0, rank = 0; i < h->count; o += h->O[i], rank += h->R[i++]) {
        csp_linear_grad *g = &s->grad.part[i];
        ref_linear_grad *w = &s->want[i];

        g->dw = s->place == EACH_ALONE ? rig_accumulated(r, 2, (int64_t[]) { h->O[i], h->I })
                                       : csp_tensor_rows(&dw, o, h->O[i]);
        begin_grad(r, &g->dw, &w->dw, &w->dw_mag);
        if (h->bias) {
            g->dbias = rig_accumulated(r, 1, &h->O[i]);
            begin_grad(r, &g->dbias, &w->dbias, &w->dbias_mag);
        }
        if (h->R[i] > 0) {
            g->dlora_a = s->place == EACH_ALONE
                             ? rig_accumulated(r, 2, (int64_t[]) { h->R[i], h->I })
                             : csp_tensor_rows(&da, rank, h->R[i]);
            g->dlora_b = rig_accumulated(r, 2, (int64_t[]) { h->O[i], h->R[i] });
            begin_grad(r, &g->dlora_a, &w->da, &w->da_mag);
            begin_grad(r, &g->dlora_b, &w->db, &w->db_mag);
        }
        w->dx = dx; /* of all parts */
        w->dx_mag = dx_mag;
    }
    s->grad.dx = rig_output(r, s->S, 2, (int64_t[]) { h->N, h->I });
}

static setup make(rig *r, csp_dtype S, const struct shape *h, layout place)
{
    setup s;
    csp_tensor whole, no_tail;

    memset(&s, 0, sizeof(s));
    s.S = S;
    s.shape = h;
    s.place = place;
    s.g.count = h->count;
    for (int i = 0; i < h->count; i++) {
        s.outputs += h->O[i];
        s.ranks += h->R[i];
        s.ref[i] = (ref_linear) { .N = h->N, .I = h->I, .O = h->O[i], .R = h->R[i] };
    }
    s.T = (s.ranks + CSP_LINEAR_TAIL - 1) / CSP_LINEAR_TAIL * CSP_LINEAR_TAIL;
    make_weights(r, &s);
    make_adapters(r, &s);
    make_outputs(r, &s, false, s.rows.y, &no_tail, &s.all_y);
    make_outputs(r, &s, true, s.grad.dy, &s.grad.dy_tail, &s.all_dy);
    if (place == EACH_ALONE) {
        s.rows.x = rig_normal(r, S, 2, (int64_t[]) { h->N, h->I });
    } else {
        s.rows.x = corner(r, S, h->N, h->I, 0, s.T + SPARE, &whole);
        s.rows.x_tail =
            has_tails(&s) && s.T > 0 ? csp_tensor_columns(&whole, h->I, s.T) : csp_tensor_none();
    }
    s.grad.x = s.rows.x;
    s.x = rig_as_doubles(r, &s.rows.x);
    for (int i = 0; i < h->count; i++) {
        s.dy[i] = rig_as_doubles(r, &s.grad.dy[i]);
        if (h->bias) {
            s.g.part[i].bias = rig_normal(r, S, 1, &h->O[i]);
            s.ref[i].bias = rig_as_doubles(r, &s.g.part[i].bias);
        }
        if (h->R[i] > 0) {
            s.rows.u[i] = rig_output(r, S, 2, (int64_t[]) { h->N, h->R[i] });
            s.grad.u[i] = rig_normal(r, S, 2, (int64_t[]) { h->N, h->R[i] });
            s.u[i] = rig_as_doubles(r, &s.grad.u[i]);
        }
    }
    make_grads(r, &s);
    return s;
}

/* As in test_linear.c: `roundings` in f32 and `stored` ones in bf16. */
static double bound(csp_dtype S, int64_t roundings, int stored)
{
    const double half = S == CSP_BF16 ? stored * UNIT_BF16 : 0.0;

    return (double)roundings * UNIT_F32 + half + half * half;
}

/* The columns behind those of the operands hold what rig_output put there. */
static void check_spare(rig *r, const csp_tensor *whole)
{
    const csp_tensor spare = whole->ndim > 0
                                 ? csp_tensor_columns(whole, whole->dim[1] - SPARE, SPARE)
                                 : csp_tensor_none();
    const unsigned char *bytes = spare.ndim > 0 ? rig_host(r, &spare) : NULL;

    for (size_t i = 0; spare.ndim > 0 && i < csp_tensor_bytes(&spare); i++) {
        assert_int_equal(bytes[i], 0xFF);
    }
}

static void check_forward(rig *r, setup *s)
{
    const struct shape *h = s->shape;
    const int masked = h->p > 0.0f ? 1 : 0;

    assert_int_equal(csp_linear_group_fwd(r->be, &s->g, &s->rows), CSP_OK);
    for (int i = 0; i < h->count; i++) {
        const int64_t n = h->N * h->O[i], R = h->R[i];
        double *u = rig_doubles(r, h->N * R), *u_mag = rig_doubles(r, h->N * R);
        double *y = rig_doubles(r, n), *y_mag = rig_doubles(r, n);
        /* y; with an adapter u and its mask, s B or the branch alone, and without tails also y
         * before W and before the bias. */
        const int stored = R == 0 ? 1 : 3 + masked + (!has_tails(s) && h->bias ? 1 : 0);

        ref_linear_fwd(&s->ref[i], s->x, u, u_mag, y, y_mag);
        assert_true(matches("y", s->S, rig_floats(r, &s->rows.y[i]), y, y_mag, n,
                            bound(s->S, h->I + R + 7, stored)));
        if (R > 0) {
            assert_true(matches("u", s->S, rig_floats(r, &s->rows.u[i]), u, u_mag, h->N * R,
                                bound(s->S, h->I + 4, 1 + masked)));
        }
    }
    check_spare(r, &s->all_y);
}

static void check_backward(rig *r, setup *s)
{
    const struct shape *h = s->shape;
    const int64_t N = h->N, I = h->I;
    const int masked = h->p > 0.0f ? 1 : 0;
    /* du, the mask, and dx once for each branch and product that it is written or added to by. */
    const int of_dx = 1 + masked + (s->ranks > 0 ? 2 : 1) * h->count;

    for (int i = 0; i < h->count; i++) {
        ref_linear_bwd(&s->ref[i], s->x, s->u[i], s->dy[i], &s->want[i]);
    }
    assert_int_equal(csp_linear_group_bwd(r->be, &s->g, &s->grad), CSP_OK);
    assert_true(matches("dx", s->S, rig_floats(r, &s->grad.dx), s->want[0].dx, s->want[0].dx_mag,
                        N * I, bound(s->S, s->outputs + s->ranks + 12, of_dx)));
    for (int i = 0; i < h->count; i++) {
        const csp_linear_grad *g = &s->grad.part[i];
        const ref_linear_grad *w = &s->want[i];
        const int64_t O = h->O[i], R = h->R[i];

        assert_true(matches("dw", s->S, rig_host(r, &g->dw), w->dw, w->dw_mag, O * I,
                            bound(s->S, N + 3, 0)));
        if (h->bias) {
            assert_true(matches("dbias", s->S, rig_host(r, &g->dbias), w->dbias, w->dbias_mag, O,
                                bound(s->S, N + 1, 0)));
        }
        if (R > 0) {
            assert_true(matches("dlora_a", s->S, rig_host(r, &g->dlora_a), w->da, w->da_mag, R * I,
                                bound(s->S, N + O + 8, 1 + masked)));
            assert_true(matches("dlora_b", s->S, rig_host(r, &g->dlora_b), w->db, w->db_mag, O * R,
                                bound(s->S, N + 4, 0)));
        }
    }
    check_spare(r, &s->all_dy);
}

static layout last_layout(const rig *r)
{
    return r->be->apart ? TAILS_ALONE : EACH_ALONE;
}

static void both_directions_match(rig *r, csp_dtype S)
{
    for (int i = 0; i < SHAPES; i++) {
        for (layout place = EACH_ALONE; place <= last_layout(r); place++) {
            rig_begin(r, (uint64_t)(i * 10 + (int)place));
            setup s = make(r, S, &shapes[i], place);

            check_forward(r, &s);
            check_backward(r, &s);
            rig_check_guards(r);
        }
    }
}

static void every_part_matches_the_reference_wherever_it_lies(void **state)
{
    rig_each_storage(*state, both_directions_match);
}

/* Without what nobody asks for: only dx, only parameters, nothing at all. */
static void only_what_is_wanted_is_computed(void **state)
{
    rig *r = *state;
    const struct shape *h = &shapes[4];
    const csp_linear_grad nothing[CSP_LINEAR_PARTS] = { 0 };

    for (layout place = EACH_ALONE; place <= last_layout(r); place++) {
        rig_begin(r, 500);
        setup s = make(r, CSP_F32, h, place);
        csp_linear_group_grad only_dx = s.grad, only_da = s.grad;

        memcpy(only_dx.part, nothing, sizeof(nothing));
        memset(only_dx.u, 0, sizeof(only_dx.u));
        only_dx.x = csp_tensor_none();
        only_dx.dx = rig_output(r, CSP_F32, 2, (int64_t[]) { h->N, h->I });
        assert_int_equal(csp_linear_group_bwd(r->be, &s.g, &only_dx), CSP_OK);
        check_backward(r, &s);
        rig_check_same(r, &only_dx.dx, &s.grad.dx);
        only_da.dx = csp_tensor_none();
        assert_int_equal(csp_linear_group_bwd(r->be, &s.g, &only_da), CSP_OK);
        only_da.x = csp_tensor_none();
        memcpy(only_da.part, nothing, sizeof(nothing));
        assert_int_equal(csp_linear_group_bwd(r->be, &s.g, &only_da), CSP_OK);
        rig_check_guards(r);
    }
}

static void gives_the_same_bits(rig *r, csp_dtype S)
{
    for (layout place = EACH_ALONE; place <= last_layout(r); place++) {
        csp_tensor y[CSP_LINEAR_PARTS], dx, dw;

        rig_begin(r, 600);
        setup s = make(r, S, &shapes[4], place);
        assert_int_equal(csp_linear_group_fwd(r->be, &s.g, &s.rows), CSP_OK);
        assert_int_equal(csp_linear_group_bwd(r->be, &s.g, &s.grad), CSP_OK);
        for (int i = 0; i < s.g.count; i++) {
            y[i] = rig_output(r, S, 2, s.rows.y[i].dim);
            assert_int_equal(csp_backend_upload(r->be, rig_host(r, &s.rows.y[i]), &y[i]), CSP_OK);
        }
        dx = rig_copy(r, &s.grad.dx);
        dw = rig_accumulated(r, 2, s.grad.part[1].dw.dim);
        s.grad.part[1].dw = rig_copy(r, &dw);
        assert_int_equal(csp_linear_group_fwd(r->be, &s.g, &s.rows), CSP_OK);
        assert_int_equal(csp_linear_group_bwd(r->be, &s.g, &s.grad), CSP_OK);
        for (int i = 0; i < s.g.count; i++) {
            csp_tensor again = rig_output(r, S, 2, s.rows.y[i].dim);

            assert_int_equal(csp_backend_upload(r->be, rig_host(r, &s.rows.y[i]), &again), CSP_OK);
            rig_check_same(r, &y[i], &again);
        }
        rig_check_same(r, &dx, &s.grad.dx);
    }
}

static void the_same_call_gives_the_same_bits(void **state)
{
    rig_each_storage(*state, gives_the_same_bits);
}

/* As when training begins: far below the spacing of bf16 beside W x, it must not get lost. */
static void keeps_a_small_branch(rig *r, csp_dtype S)
{
    static const struct shape h = { 64, 64, 2, { 32, 32 }, { 4, 4 }, 0.0f, false };

    for (layout place = EACH_ALONE; place <= last_layout(r); place++) {
        double with = 0.0, size = 0.0;

        rig_begin(r, 700);
        setup s = make(r, S, &h, place);
        for (int i = 0; i < h.count; i++) {
            s.g.part[i].lora_scale = 0x1p-12f;
        }
        assert_int_equal(csp_linear_group_fwd(r->be, &s.g, &s.rows), CSP_OK);
        for (int i = 0; i < h.count; i++) {
            const int64_t n = h.N * h.O[i];
            double *u = rig_doubles(r, h.N * h.R[i]), *all = rig_doubles(r, n);
            double *base = rig_doubles(r, n);
            const float *got = rig_floats(r, &s.rows.y[i]);

            s.ref[i].scale = 0x1p-12;
            ref_linear_fwd(&s.ref[i], s.x, u, NULL, all, NULL);
            s.ref[i].scale = 0.0;
            ref_linear_fwd(&s.ref[i], s.x, u, NULL, base, NULL);
            for (int64_t e = 0; e < n; e++) {
                with += ((double)got[e] - base[e]) * (all[e] - base[e]);
                size += (all[e] - base[e]) * (all[e] - base[e]);
            }
        }
        /* test_linear.c says why: 4096 elements, each rounded once here. */
        assert_true(fabs(with / size - 1.0) <= 4.0 * 0.06);
    }
}

static void a_branch_far_below_the_rest_survives_storage(void **state)
{
    rig_each_storage(*state, keeps_a_small_branch);
}

static void groups_that_are_none_are_refused(void **state)
{
    rig *r = *state;

    rig_begin(r, 800);
    setup s = make(r, CSP_F32, &shapes[4], EACH_ALONE);
    setup dropped = make(r, CSP_F32, &shapes[3], EACH_ALONE);
    csp_linear_group bad = s.g;
    csp_tensor wide = rig_output(r, CSP_F32, 2, (int64_t[]) { 40, 100 });
    csp_linear_rows apart = s.rows;

    bad.count = 0;
    assert_int_equal(csp_linear_group_fwd(r->be, &bad, &s.rows), CSP_ERR_ARGUMENT);
    bad.count = CSP_LINEAR_PARTS + 1;
    assert_int_equal(csp_linear_group_fwd(r->be, &bad, &s.rows), CSP_ERR_ARGUMENT);
    bad = s.g;
    bad.part[2].w = rig_normal(r, CSP_F32, 2, (int64_t[]) { 16, 47 });
    assert_int_equal(csp_linear_group_fwd(r->be, &bad, &s.rows), CSP_ERR_SHAPE);
    dropped.g.part[1].dropout.p = 0.5f;
    assert_int_equal(csp_linear_group_fwd(r->be, &dropped.g, &dropped.rows), CSP_ERR_ARGUMENT);
    assert_non_null(strstr(csp_error_text(), "in one group"));
    apart.y[0] = csp_tensor_columns(&wide, 1, 64);
    assert_int_equal(csp_linear_group_fwd(r->be, &s.g, &apart),
                     r->be->apart ? CSP_OK : CSP_ERR_UNSUPPORTED);
    rig_check_untouched(r, &dropped.rows.y[0]);
}

static void tails_elsewhere_are_refused(void **state)
{
    rig *r = *state;

    if (!r->be->apart) {
        return;
    }
    rig_begin(r, 900);
    setup s = make(r, CSP_F32, &shapes[4], TAILS);
    csp_linear_group bad = s.g;
    csp_linear_rows rows = s.rows;
    csp_linear_group_grad grad = s.grad;
    csp_tensor elsewhere = rig_output(r, CSP_F32, 2, (int64_t[]) { 40, 24 });

    rows.x_tail = elsewhere;
    assert_int_equal(csp_linear_group_fwd(r->be, &s.g, &rows), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "x_tail does not lie where it belongs"));
    rows.x_tail = csp_tensor_columns(&s.rows.x_tail, 0, 16);
    assert_int_equal(csp_linear_group_fwd(r->be, &s.g, &rows), CSP_ERR_SHAPE);
    bad.w_tail = csp_tensor_columns(&s.g.w_tail, 0, 20);
    assert_int_equal(csp_linear_group_fwd(r->be, &bad, &s.rows), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "w_tail is 20 wide"));
    bad = s.g;
    bad.part[1].w = s.g.part[2].w;
    bad.part[2].w = s.g.part[1].w;
    assert_int_equal(csp_linear_group_fwd(r->be, &bad, &s.rows), CSP_ERR_SHAPE);
    assert_int_equal(csp_linear_group_bwd(r->be, &bad, &s.grad), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "a_tail does not lie where it belongs"));
    grad.dy_tail = elsewhere;
    assert_int_equal(csp_linear_group_bwd(r->be, &s.g, &grad), CSP_ERR_SHAPE);
    rig_check_untouched(r, &s.all_y);
    rig_check_untouched(r, &s.grad.dx);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_matches_the_reference_wherever_it_lies),
        cmocka_unit_test(only_what_is_wanted_is_computed),
        cmocka_unit_test(the_same_call_gives_the_same_bits),
        cmocka_unit_test(a_branch_far_below_the_rest_survives_storage),
        cmocka_unit_test(groups_that_are_none_are_refused),
        cmocka_unit_test(tails_elsewhere_are_refused),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
