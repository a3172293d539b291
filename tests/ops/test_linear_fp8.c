/*
 * test_linear_fp8.c - ops/linear.h with matrices in e4m3. What rows are rounded to is asked of
 * csp_quantize_rows, which test_quantize.c holds to its reference; the reference here multiplies
 * those numbers, so that limits are those of sums in float32.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/linear.h"
#include "ops/quantize.h"
#include "ref/linear.h"
#include "ref/quantize.h"
#include "support/compare.h"
#include "support/rig.h"

/* One row, few and many; matrices that end within a tile of 128; with and without adapters. */
static const struct shape {
    int64_t N, I;
    int count;
    int64_t O[CSP_LINEAR_PARTS], R;
    float p;
    bool bias;
} shapes[] = {
    { 1, 16, 1, { 16 }, 0, 0.0f, false },         { 9, 48, 1, { 32 }, 0, 0.0f, true },
    { 33, 64, 1, { 144 }, 3, 0.0f, false },       { 20, 32, 1, { 48 }, 4, 0.25f, true },
    { 17, 48, 3, { 64, 16, 32 }, 2, 0.0f, true }, { 140, 160, 2, { 96, 96 }, 8, 0.0f, false },
    { 12, 32, 2, { 16, 16 }, 3, 0.5f, false },
};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

/* How y and dy lie: each alone, or columns of one matrix. */
typedef enum layout { EACH_ALONE, BESIDE } layout;

typedef struct setup {
    csp_dtype S;
    const struct shape *shape;
    layout place;
    int64_t outputs;
    csp_linear_group g;
    csp_linear_rows rows;
    csp_linear_group_grad grad;
    ref_linear ref[CSP_LINEAR_PARTS];
    double *x, *dy[CSP_LINEAR_PARTS];
} setup;

/* The numbers that rows become in e4m3, with their scales. */
static double *rounded(rig *r, const csp_tensor *x, const csp_tensor *c)
{
    csp_tensor dense = rig_output(r, x->dtype, 2, x->dim);
    csp_tensor q = rig_output(r, CSP_E4M3, 2, x->dim), scale = rig_output(r, CSP_F32, 1, x->dim);
    double *values = rig_doubles(r, csp_tensor_count(x));
    const uint8_t *bits;
    const float *s;

    assert_int_equal(csp_backend_upload(r->be, rig_host(r, x), &dense), CSP_OK);
    assert_int_equal(csp_quantize_rows(r->be, &dense, c, &q, &scale), CSP_OK);
    bits = rig_host(r, &q);
    s = rig_host(r, &scale);
    for (int64_t i = 0; i < csp_tensor_count(x); i++) {
        values[i] = (double)s[i / x->dim[1]] * ref_e4m3_value(bits[i]);
    }
    return values;
}

/* Columns first .. first+count-1 of host numbers (rows,columns). */
static double *columns_of(rig *r, const double *all, int64_t rows, int64_t columns, int64_t first,
                          int64_t count)
{
    double *part = rig_doubles(r, rows * count);

    for (int64_t i = 0; i < rows * count; i++) {
        part[i] = all[i / count * columns + first + i % count];
    }
    return part;
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

static void make_adapter(rig *r, setup *s, int i)
{
    const int64_t N = s->shape->N, I = s->shape->I, O = s->shape->O[i], R = s->shape->R;
    csp_linear *l = &s->g.part[i];

    l->lora_a = rig_normal(r, s->S, 2, (int64_t[]) { R, I });
    l->lora_b = rig_normal(r, s->S, 2, (int64_t[]) { O, R });
    l->lora_scale = 1.5f;
    s->ref[i].a = rig_as_doubles(r, &l->lora_a);
    s->ref[i].b = rig_as_doubles(r, &l->lora_b);
    s->ref[i].scale = 1.5;
    s->rows.u[i] = rig_output(r, s->S, 2, (int64_t[]) { N, R });
    s->grad.u[i] = rig_normal(r, s->S, 2, (int64_t[]) { N, R });
    s->grad.part[i].dlora_a = rig_accumulated(r, 2, (int64_t[]) { R, I });
    s->grad.part[i].dlora_b = rig_accumulated(r, 2, (int64_t[]) { O, R });
    if (s->shape->p > 0.0f) {
        make_dropout(r, s, i);
    }
}

/* What the matrix meets in backward, over its scales: rows of all parts rounded as one. */
static void round_dy(rig *r, setup *s, const csp_tensor *w_scale, const csp_tensor *all_dy)
{
    const struct shape *h = s->shape;
    const double *together = rounded(r, all_dy, w_scale);

    for (int64_t i = 0, first = 0; i < h->count; first += h->O[i++]) {
        const int64_t O = h->O[i];
        const csp_tensor scale = csp_tensor_rows(w_scale, first, O);
        const double *c = rig_as_doubles(r, &scale);
        double *t = columns_of(r, together, h->N, s->outputs, first, O);

        for (int64_t j = 0; j < h->N * O; j++) {
            t[j] /= c[j % O];
        }
        s->ref[i].dy_base = t;
    }
}

/* Columns of a matrix as one of their own. */
static csp_tensor alone(rig *r, const csp_tensor *all, int64_t first, int64_t count)
{
    const int64_t N = all->dim[0], columns = all->dim[1];
    const float *values = rig_floats(r, all);
    float *part = malloc((size_t)(N * count) * sizeof(*part));
    csp_tensor given;

    assert_non_null(part);
    for (int64_t i = 0; i < N * count; i++) {
        part[i] = values[i / count * columns + first + i % count];
    }
    given = rig_input(r, CSP_F32, 2, (int64_t[]) { N, count }, part);
    free(part);
    return rig_stored(r, all->dtype, &given);
}

static setup make(rig *r, csp_dtype S, const struct shape *h, layout place)
{
    setup s = { .S = S, .shape = h, .place = place };
    const csp_tensor none = csp_tensor_none();
    csp_tensor values, w, w_scale, all_y, all_dy;
    double *wide, *x_base;

    for (int i = 0; i < h->count; i++) {
        s.outputs += h->O[i];
    }
    values = rig_normal(r, CSP_F32, 2, (int64_t[]) { s.outputs, h->I });
    w = rig_output(r, CSP_E4M3, 2, values.dim);
    w_scale = rig_output(r, CSP_F32, 1, values.dim);
    assert_int_equal(csp_quantize_rows(r->be, &values, &none, &w, &w_scale), CSP_OK);
    wide = rounded(r, &values, &none);
    all_y = rig_output(r, S, 2, (int64_t[]) { h->N, s.outputs });
    all_dy = rig_normal(r, S, 2, (int64_t[]) { h->N, s.outputs });
    s.rows.x = s.grad.x = rig_normal(r, S, 2, (int64_t[]) { h->N, h->I });
    s.grad.dx = rig_output(r, S, 2, (int64_t[]) { h->N, h->I });
    s.x = rig_as_doubles(r, &s.rows.x);
    x_base = rounded(r, &s.rows.x, &none);
    s.g.count = h->count;
    for (int64_t i = 0, first = 0; i < h->count; first += h->O[i++]) {
        const int64_t O = h->O[i];
        csp_linear *l = &s.g.part[i];

        l->w = csp_tensor_rows(&w, first, O);
        l->w_scale = csp_tensor_rows(&w_scale, first, O);
        s.ref[i] = (ref_linear) { .N = h->N, .I = h->I, .O = O, .R = h->R, .x_base = x_base };
        s.ref[i].w = wide + first * h->I;
        if (h->bias) {
            l->bias = rig_normal(r, S, 1, &O);
            s.ref[i].bias = rig_as_doubles(r, &l->bias);
            s.grad.part[i].dbias = rig_accumulated(r, 1, &O);
        }
        s.rows.y[i] = place == BESIDE ? csp_tensor_columns(&all_y, first, O)
                                      : rig_output(r, S, 2, (int64_t[]) { h->N, O });
        s.grad.dy[i] =
            place == BESIDE ? csp_tensor_columns(&all_dy, first, O) : alone(r, &all_dy, first, O);
        s.dy[i] = rig_as_doubles(r, &s.grad.dy[i]);
        if (h->R > 0) {
            make_adapter(r, &s, (int)i);
        }
    }
    round_dy(r, &s, &w_scale, &all_dy);
    return s;
}

/*
 * As in test_linear.c: `roundings` in f32 and `stored` ones in bf16; terms of a sum of products of
 * e4m3 numbers, of which a device's tensor cores keep 13 bits behind the leading one of the largest
 * (arXiv 2412.19437, 3.3.2). The emulator and the CPU keep those of f32.
 */
static double bound(const rig *r, csp_dtype S, int64_t roundings, int64_t terms, int stored)
{
    const double half = S == CSP_BF16 ? stored * UNIT_BF16 : 0.0;
    double lost = 0.0;

#ifndef CSPLADE_EMULATED
    lost = strcmp(r->be->name, "cpu") != 0 ? (double)terms * 0x1p-13 : 0.0;
#endif
    return (double)roundings * UNIT_F32 + lost + half + half * half;
}

static void check_forward(rig *r, setup *s)
{
    const struct shape *h = s->shape;
    const int masked = h->p > 0.0f ? 1 : 0;

    assert_int_equal(csp_linear_group_fwd(r->be, &s->g, &s->rows), CSP_OK);
    for (int i = 0; i < h->count; i++) {
        const int64_t n = h->N * h->O[i], R = h->R;
        double *u = rig_doubles(r, h->N * R), *u_mag = rig_doubles(r, h->N * R);
        double *y = rig_doubles(r, n), *y_mag = rig_doubles(r, n);
        /* y; with an adapter u and its mask, the branch alone, and y before the bias. The two
         * scales are three more roundings in f32. */
        const int stored = R == 0 ? 1 : 3 + masked + (h->bias ? 1 : 0);

        ref_linear_fwd(&s->ref[i], s->x, u, u_mag, y, y_mag);
        assert_true(matches("y", s->S, rig_floats(r, &s->rows.y[i]), y, y_mag, n,
                            bound(r, s->S, h->I + R + 10, h->I, stored)));
        if (R > 0) {
            assert_true(matches("u", s->S, rig_floats(r, &s->rows.u[i]), u, u_mag, h->N * R,
                                bound(r, s->S, h->I + 4, 0, 1 + masked)));
        }
    }
}

/* A gradient that is added to, in double with its size begun; NULL: not wanted. */
static double *begun(rig *r, const csp_tensor *t, double **mag)
{
    double *want = NULL;

    *mag = NULL;
    if (t->ndim > 0) {
        want = rig_as_doubles(r, t);
        *mag = rig_doubles(r, csp_tensor_count(t));
        for (int64_t i = 0; i < csp_tensor_count(t); i++) {
            (*mag)[i] = fabs(want[i]);
        }
    }
    return want;
}

static void check_gradient(rig *r, const char *what, csp_dtype S, const csp_tensor *got,
                           const double *want, const double *mag, double limit)
{
    if (got->ndim > 0) {
        assert_true(matches(what, S, rig_host(r, got), want, mag, csp_tensor_count(got), limit));
    }
}

static void check_backward(rig *r, setup *s)
{
    const struct shape *h = s->shape;
    const int64_t N = h->N, I = h->I, ranks = h->R * h->count;
    const int masked = h->p > 0.0f ? 1 : 0;
    /* du, the mask, and dx once for each branch and product that it is written or added to by. */
    const int of_dx = 1 + masked + (h->R > 0 ? 2 : 1) * h->count;
    double *dx = rig_doubles(r, N * I), *dx_mag = rig_doubles(r, N * I);
    ref_linear_grad want[CSP_LINEAR_PARTS];

    for (int i = 0; i < h->count; i++) {
        csp_linear_grad *g = &s->grad.part[i];
        ref_linear_grad *w = &want[i];

        *w = (ref_linear_grad) { .dx = dx, .dx_mag = dx_mag };
        w->dbias = begun(r, &g->dbias, &w->dbias_mag);
        w->da = begun(r, &g->dlora_a, &w->da_mag);
        w->db = begun(r, &g->dlora_b, &w->db_mag);
        ref_linear_bwd(&s->ref[i], s->x, h->R > 0 ? rig_as_doubles(r, &s->grad.u[i]) : NULL,
                       s->dy[i], w);
    }
    assert_int_equal(csp_linear_group_bwd(r->be, &s->g, &s->grad), CSP_OK);
    assert_true(matches("dx", s->S, rig_floats(r, &s->grad.dx), dx, dx_mag, N * I,
                        bound(r, s->S, s->outputs + ranks + 14, s->outputs, of_dx)));
    for (int i = 0; i < h->count; i++) {
        const csp_linear_grad *g = &s->grad.part[i];

        check_gradient(r, "dbias", s->S, &g->dbias, want[i].dbias, want[i].dbias_mag,
                       bound(r, s->S, N + 1, 0, 0));
        check_gradient(r, "dlora_a", s->S, &g->dlora_a, want[i].da, want[i].da_mag,
                       bound(r, s->S, N + h->O[i] + 8, 0, 1 + masked));
        check_gradient(r, "dlora_b", s->S, &g->dlora_b, want[i].db, want[i].db_mag,
                       bound(r, s->S, N + 4, 0, 0));
    }
}

static void both_directions_match(rig *r, csp_dtype S)
{
    for (int i = 0; i < SHAPES; i++) {
        for (layout place = EACH_ALONE; place <= (r->be->apart ? BESIDE : EACH_ALONE); place++) {
            rig_begin(r, (uint64_t)(i * 10 + (int)place));
            setup s = make(r, S, &shapes[i], place);

            check_forward(r, &s);
            check_backward(r, &s);
            rig_check_guards(r);
        }
    }
}

static void both_directions_match_the_reference(void **state)
{
    rig *r = *state;

    if (!r->be->fp8) {
        skip();
    }
    rig_each_storage(r, both_directions_match);
}

static void only_what_is_wanted_is_computed(void **state)
{
    rig *r = *state;

    if (!r->be->fp8) {
        skip();
    }
    rig_begin(r, 500);
    setup s = make(r, CSP_F32, &shapes[4], EACH_ALONE);
    csp_linear_group_grad only_dx = s.grad, only_da = s.grad;

    memset(only_dx.part, 0, sizeof(only_dx.part));
    memset(only_dx.u, 0, sizeof(only_dx.u));
    only_dx.x = csp_tensor_none();
    only_dx.dx = rig_output(r, CSP_F32, 2, s.grad.dx.dim);
    assert_int_equal(csp_linear_group_bwd(r->be, &s.g, &only_dx), CSP_OK);
    check_backward(r, &s);
    rig_check_same(r, &only_dx.dx, &s.grad.dx);
    only_da.dx = csp_tensor_none();
    assert_int_equal(csp_linear_group_bwd(r->be, &s.g, &only_da), CSP_OK);
    rig_check_guards(r);
}

static void gives_the_same_bits(rig *r, csp_dtype S)
{
    csp_tensor y, dx;

    rig_begin(r, 600);
    setup s = make(r, S, &shapes[4], EACH_ALONE);
    assert_int_equal(csp_linear_group_fwd(r->be, &s.g, &s.rows), CSP_OK);
    assert_int_equal(csp_linear_group_bwd(r->be, &s.g, &s.grad), CSP_OK);
    y = rig_copy(r, &s.rows.y[0]);
    dx = rig_copy(r, &s.grad.dx);
    assert_int_equal(csp_linear_group_fwd(r->be, &s.g, &s.rows), CSP_OK);
    assert_int_equal(csp_linear_group_bwd(r->be, &s.g, &s.grad), CSP_OK);
    rig_check_same(r, &y, &s.rows.y[0]);
    rig_check_same(r, &dx, &s.grad.dx);
}

static void the_same_call_gives_the_same_bits(void **state)
{
    rig *r = *state;

    if (!r->be->fp8) {
        skip();
    }
    rig_each_storage(r, gives_the_same_bits);
}

/* The rounded rows of x beside rows of another matrix: the product is of the former. */
static void rows_that_were_rounded_before(rig *r, csp_dtype S)
{
    const int with_adapters = 4, alone = 0;

    for (int i = 0; i < 2; i++) {
        const struct shape *h = &shapes[i == 0 ? with_adapters : alone];
        const csp_tensor none = csp_tensor_none();
        csp_linear_rows given;

        rig_begin(r, 600 + (uint64_t)i);
        setup s = make(r, S, h, EACH_ALONE);

        given = s.rows;
        given.x8.q = rig_output(r, CSP_E4M3, 2, s.rows.x.dim);
        given.x8.scale = rig_output(r, CSP_F32, 1, s.rows.x.dim);
        for (int k = 0; k < h->count; k++) {
            given.y[k] = rig_output(r, S, 2, s.rows.y[k].dim);
        }
        assert_int_equal(csp_quantize_rows(r->be, &s.rows.x, &none, &given.x8.q, &given.x8.scale),
                         CSP_OK);
        if (h->R == 0) {
            given.x = rig_normal(r, S, 2, s.rows.x.dim);
        }
        assert_int_equal(csp_linear_group_fwd(r->be, &s.g, &s.rows), CSP_OK);
        assert_int_equal(csp_linear_group_fwd(r->be, &s.g, &given), CSP_OK);
        for (int k = 0; k < h->count; k++) {
            rig_check_same(r, &s.rows.y[k], &given.y[k]);
        }
        rig_check_guards(r);
    }
}

static void rows_that_were_rounded_before_are_taken(void **state)
{
    rig *r = *state;

    if (!r->be->fp8) {
        skip();
    }
    rig_each_storage(r, rows_that_were_rounded_before);
}

static void what_e4m3_cannot_do_is_refused(void **state)
{
    rig *r = *state;

    if (!r->be->fp8) {
        skip();
    }
    rig_begin(r, 700);
    setup s = make(r, CSP_F32, &shapes[1], EACH_ALONE);
    csp_linear_group bad = s.g;
    csp_linear_group_grad grad = s.grad;

    bad.part[0].w_scale = csp_tensor_none();
    assert_int_equal(csp_linear_group_fwd(r->be, &bad, &s.rows), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "w_scale must be f32 (32), not none"));
    bad = s.g;
    bad.part[0].w = csp_tensor_view(s.g.part[0].w.data, CSP_E4M3, 2, (int64_t[]) { 32, 40 });
    assert_int_equal(csp_linear_group_fwd(r->be, &bad, &s.rows), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "not multiples of 16"));
    bad = s.g;
    bad.count = 2;
    bad.part[1] = bad.part[0];
    s.rows.y[1] = s.rows.y[0];
    assert_int_equal(csp_linear_group_fwd(r->be, &bad, &s.rows), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "map 1 does not lie below"));
    bad = s.g;
    bad.w_tail = rig_normal(r, CSP_F32, 2, (int64_t[]) { 32, 8 });
    assert_int_equal(csp_linear_group_fwd(r->be, &bad, &s.rows), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "w_tail behind a matrix in e4m3"));
    bad = s.g;
    s.rows.x8.q = rig_output(r, CSP_E4M3, 2, (int64_t[]) { 9, 32 });
    s.rows.x8.scale = rig_output(r, CSP_F32, 1, (int64_t[]) { 9 });
    assert_int_equal(csp_linear_group_fwd(r->be, &bad, &s.rows), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "q must be e4m3 (9,48), not e4m3 (9,32)"));
    s.rows.x8.q = rig_output(r, CSP_E4M3, 2, (int64_t[]) { 9, 48 });
    bad.part[0].w = rig_normal(r, CSP_F32, 2, (int64_t[]) { 32, 48 });
    assert_int_equal(csp_linear_group_fwd(r->be, &bad, &s.rows), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "x in e4m3 for a matrix that is not"));
    s.rows.x8.q = s.rows.x8.scale = csp_tensor_none();
    grad.part[0].dw = rig_accumulated(r, 2, (int64_t[]) { 32, 48 });
    assert_int_equal(csp_linear_group_bwd(r->be, &s.g, &grad), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "a gradient of a matrix in e4m3"));
    r->be->fp8 = false;
    assert_int_equal(csp_linear_group_fwd(r->be, &s.g, &s.rows), CSP_ERR_UNSUPPORTED);
    r->be->fp8 = true;
    rig_check_untouched(r, &s.rows.y[0]);
    rig_check_untouched(r, &grad.part[0].dw);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_directions_match_the_reference),
        cmocka_unit_test(only_what_is_wanted_is_computed),
        cmocka_unit_test(the_same_call_gives_the_same_bits),
        cmocka_unit_test(rows_that_were_rounded_before_are_taken),
        cmocka_unit_test(what_e4m3_cannot_do_is_refused),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
