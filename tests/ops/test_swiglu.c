/* test_swiglu.c - ops/swiglu.h: reference against its derivative, backend against it. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/swiglu.h"
#include "ref/swiglu.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/rig.h"

static const int64_t shapes[][2] = { { 1, 1 },  { 3, 5 },  { 1, 15 },
                                     { 2, 17 }, { 9, 64 }, { 90, 129 } };
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

/* σ may fall below the smallest normal number and be 0: as if FLT_MIN times its factors, of which
 * the gate and its 1 + g are at most 121, were added. */
static void allow_underflow(double *mag, const double *x, const double *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double factors = 1.0 + 121.0 * fabs(x[i]) * (y != NULL ? fabs(y[i]) : 1.0);

        mag[i] = fabs(mag[i]) + (double)FLT_MIN / UNIT_F32 * factors;
    }
}

static void both_directions_match(rig *r, csp_dtype S)
{
    /* From a gate where sigmoid is nearly linear to one where exp overflows. */
    const double wide[] = { 3.0, 20.0, 120.0 };

    for (int64_t i = 0; i < SHAPES * 3; i++) {
        const int64_t *dims = shapes[i / 3], n = dims[0] * dims[1];
        const double range = wide[i % 3];

        rig_begin(r, (uint64_t)i);
        const csp_tensor drawn = rig_uniform(r, -range, range, 2, dims);
        csp_tensor gate = rig_stored(r, S, &drawn);
        csp_tensor up = rig_normal(r, S, 2, dims), dm = rig_normal(r, S, 2, dims);
        csp_tensor m = rig_output(r, S, 2, dims), dgate = rig_output(r, S, 2, dims);
        csp_tensor dup = rig_output(r, S, 2, dims);
        double *g = rig_as_doubles(r, &gate), *u = rig_as_doubles(r, &up);
        double *d = rig_as_doubles(r, &dm), *want_m = rig_doubles(r, n), *mag = rig_doubles(r, n);
        double *want_dgate = rig_doubles(r, n), *want_dup = rig_doubles(r, n);

        ref_swiglu_fwd(g, u, n, want_m);
        ref_swiglu_bwd(g, u, d, n, want_dgate, mag, want_dup);
        assert_int_equal(csp_swiglu_fwd(r->be, &gate, &up, &m), CSP_OK);
        assert_int_equal(csp_swiglu_bwd(r->be, &gate, &up, &dm, &dgate, &dup), CSP_OK);
        /* exp (4), 1 + exp, the division, two products. */
        allow_underflow(mag, u, NULL, n);
        assert_true(
            matches("dgate", S, rig_floats(r, &dgate), want_dgate, mag, n, stored_bound(S, 16.0)));
        memcpy(mag, want_m, (size_t)n * sizeof(double));
        allow_underflow(mag, u, NULL, n);
        assert_true(matches("m", S, rig_floats(r, &m), want_m, mag, n, stored_bound(S, 8.0)));
        memcpy(mag, want_dup, (size_t)n * sizeof(double));
        allow_underflow(mag, d, NULL, n);
        assert_true(matches("dup", S, rig_floats(r, &dup), want_dup, mag, n, stored_bound(S, 8.0)));
        rig_check_guards(r);
    }
}

static void both_directions_match_the_reference(void **state)
{
    rig_each_storage(*state, both_directions_match);
}

static void outputs_may_be_inputs(rig *r, csp_dtype S)
{
    const int64_t dims[] = { 31, 33 };

    rig_begin(r, 50);
    csp_tensor gate = rig_normal(r, S, 2, dims), up = rig_normal(r, S, 2, dims);
    csp_tensor dm = rig_normal(r, S, 2, dims), m = rig_output(r, S, 2, dims);
    csp_tensor dgate = rig_output(r, S, 2, dims), dup = rig_output(r, S, 2, dims);
    csp_tensor g2 = rig_copy(r, &gate), u2 = rig_copy(r, &up), m2 = rig_copy(r, &dm);

    assert_int_equal(csp_swiglu_fwd(r->be, &gate, &up, &m), CSP_OK);
    assert_int_equal(csp_swiglu_fwd(r->be, &g2, &up, &g2), CSP_OK);
    rig_check_same(r, &m, &g2);
    assert_int_equal(csp_swiglu_fwd(r->be, &gate, &u2, &u2), CSP_OK);
    rig_check_same(r, &m, &u2);
    g2 = rig_copy(r, &gate);
    u2 = rig_copy(r, &up);
    assert_int_equal(csp_swiglu_bwd(r->be, &gate, &up, &dm, &dgate, &dup), CSP_OK);
    assert_int_equal(csp_swiglu_bwd(r->be, &g2, &u2, &dm, &g2, &u2), CSP_OK);
    rig_check_same(r, &dgate, &g2);
    rig_check_same(r, &dup, &u2);
    assert_int_equal(csp_swiglu_bwd(r->be, &gate, &up, &m2, &m2, &u2), CSP_OK);
    rig_check_same(r, &dgate, &m2);
    rig_check_same(r, &dup, &u2);
    m2 = rig_copy(r, &dm);
    assert_int_equal(csp_swiglu_bwd(r->be, &gate, &up, &m2, &g2, &m2), CSP_OK);
    rig_check_same(r, &dgate, &g2);
    rig_check_same(r, &dup, &m2);
}

static void outputs_may_be_the_inputs_the_contract_names(void **state)
{
    rig_each_storage(*state, outputs_may_be_inputs);
}

/* gate and up side by side, as the product of both leaves them, and gradients in their places. */
static void rows_lie_apart(rig *r, csp_dtype S)
{
    static const int64_t cases[][4] = { { 5, 16, 8, 32 }, { 3, 7, 1, 9 } }; /* N F first width */

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const int64_t *dims = cases[i], first = dims[2], width = dims[3];

        rig_begin(r, 60 + i);
        csp_tensor gate = rig_normal(r, S, 2, dims), up = rig_normal(r, S, 2, dims);
        csp_tensor dm = rig_normal(r, S, 2, dims), m = rig_output(r, S, 2, dims);
        csp_tensor dgate = rig_output(r, S, 2, dims), dup = rig_output(r, S, 2, dims);
        csp_tensor g2 = rig_apart(r, &gate, first, width), u2 = rig_apart(r, &up, 0, width);
        csp_tensor m2 = rig_apart(r, &dm, first, width);

        assert_int_equal(csp_swiglu_fwd(r->be, &gate, &up, &m), CSP_OK);
        assert_int_equal(csp_swiglu_fwd(r->be, &g2, &u2, &m2), CSP_OK);
        rig_check_same(r, &m, &m2);
        assert_int_equal(csp_swiglu_bwd(r->be, &gate, &up, &dm, &dgate, &dup), CSP_OK);
        assert_int_equal(csp_swiglu_bwd(r->be, &g2, &u2, &dm, &g2, &u2), CSP_OK);
        rig_check_same(r, &dgate, &g2);
        rig_check_same(r, &dup, &u2);
        rig_check_between(r, &g2, first);
        rig_check_between(r, &u2, 0);
        rig_check_between(r, &m2, first);
        rig_check_guards(r);
    }
}

static void rows_may_lie_apart_where_the_backend_has_that(void **state)
{
    rig *r = *state;
    const int64_t dims[] = { 3, 4 };

    if (r->be->apart) {
        rig_each_storage(r, rows_lie_apart);
        return;
    }
    rig_begin(r, 65);
    csp_tensor wide = rig_output(r, CSP_F32, 2, (int64_t[]) { 3, 9 });
    csp_tensor x = rig_normal(r, CSP_F32, 2, dims), y = csp_tensor_columns(&wide, 0, 4);
    assert_int_equal(csp_swiglu_fwd(r->be, &x, &x, &y), CSP_ERR_UNSUPPORTED);
    rig_check_untouched(r, &wide);
}

/* Pieces and single elements, all in registers and more than these hold. */
static void rounds_as_it_writes(rig *r, csp_dtype S)
{
    static const int64_t sizes[][2] = { { 1, 1 },    { 9, 48 },   { 3, 17 },
                                        { 2, 1040 }, { 2, 2063 }, { 1, 16416 } };

    for (size_t i = 0; i < 2 * sizeof(sizes) / sizeof(sizes[0]); i++) {
        const int64_t *dims = sizes[i / 2], N = dims[0], F = dims[1];
        const bool beside = i % 2 == 1 && r->be->apart;
        const csp_tensor none = csp_tensor_none();

        rig_begin(r, 70 + i);
        csp_tensor gate = rig_normal(r, S, 2, dims), drawn = rig_normal(r, CSP_F32, 2, dims);
        csp_tensor m = rig_output(r, S, 2, dims), m2 = rig_output(r, S, 2, dims);
        float *last = rig_host(r, &drawn);
        csp_fp8_rows m8[2];

        for (int64_t n = 0; n < N; n++) { /* the largest of a row is what is read last */
            last[n * F + F - 1] *= 64.0f;
        }
        drawn = rig_input(r, CSP_F32, 2, dims, last);
        const csp_tensor up = rig_stored(r, S, &drawn);
        for (int k = 0; k < 2; k++) {
            m8[k].q = rig_output(r, CSP_E4M3, 2, dims);
            m8[k].scale = rig_output(r, CSP_F32, 1, &N);
        }
        assert_int_equal(csp_swiglu_fwd(r->be, &gate, &up, &m), CSP_OK);
        assert_int_equal(csp_quantize_rows(r->be, &m, &none, &m8[0].q, &m8[0].scale), CSP_OK);
        if (beside) { /* m over gate, as where no backward pass follows */
            gate = rig_apart(r, &gate, 0, F + 16);
            m2 = gate;
        }
        assert_int_equal(csp_swiglu_fp8_fwd(r->be, &gate, &up, &m2, &m8[1]), CSP_OK);
        rig_check_same(r, &m, &m2);
        rig_check_same(r, &m8[0].q, &m8[1].q);
        rig_check_same(r, &m8[0].scale, &m8[1].scale);
        rig_check_guards(r);
    }
}

static void what_is_rounded_as_it_is_written_has_the_bits_of_both(void **state)
{
    rig_each_storage(*state, rounds_as_it_writes);
}

static void a_nan_is_passed_on(void **state)
{
    rig *r = *state;
    const int64_t dims[] = { 1, 9 };
    const float gate[9] = { 1, 2, NAN, 4, 5, 6, 7, 8, NAN };

    rig_begin(r, 51);
    csp_tensor g = rig_input(r, CSP_F32, 2, dims, gate), up = rig_normal(r, CSP_F32, 2, dims);
    csp_tensor m = rig_output(r, CSP_F32, 2, dims);
    const float *got;

    assert_int_equal(csp_swiglu_fwd(r->be, &g, &up, &m), CSP_OK);
    got = rig_host(r, &m);
    for (int i = 0; i < 9; i++) {
        assert_int_equal(isnan(got[i]) != 0, isnan(gate[i]) != 0);
    }
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;
    const int64_t dims[] = { 4, 6 }, other[] = { 6, 4 };

    rig_begin(r, 52);
    csp_tensor x = rig_normal(r, CSP_F32, 2, dims), bad = rig_normal(r, CSP_F32, 2, other);
    csp_tensor m = rig_output(r, CSP_F32, 2, dims), m2 = rig_output(r, CSP_F32, 2, dims);
    const csp_tensor half = rig_normal(r, CSP_BF16, 2, dims);
    csp_fp8_rows m8 = { rig_output(r, CSP_E4M3, 2, dims), rig_output(r, CSP_F32, 1, other) };

    assert_int_equal(csp_swiglu_fp8_fwd(r->be, &x, &x, &m, &m8), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "swiglu: scale must be f32 (4), not f32 (6)"));
    rig_check_untouched(r, &m8.q);
    assert_int_equal(csp_swiglu_fwd(r->be, &x, &bad, &m), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "swiglu: up must be f32 (4,6), not f32 (6,4)"));
    assert_int_equal(csp_swiglu_fwd(r->be, &bad, &bad, &m), CSP_ERR_SHAPE);
    assert_int_equal(csp_swiglu_bwd(r->be, &x, &x, &bad, &m, &m2), CSP_ERR_SHAPE);
    assert_int_equal(csp_swiglu_bwd(r->be, &x, &x, &x, &m, &m), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_swiglu_fwd(r->be, &x, &half, &m), CSP_ERR_SHAPE);
    assert_int_equal(csp_swiglu_fwd(r->be, &half, &half, &m),
                     r->be->bf16 ? CSP_ERR_SHAPE : CSP_ERR_UNSUPPORTED);
    rig_check_untouched(r, &m);
    rig_check_untouched(r, &m2);
}

/* loss = sum of m ⊙ dm as a function of gate or up. */
typedef struct loss_context {
    const double *gate, *up, *dm;
    bool up_moves;
    double *m;
} loss_context;

enum { CHECK = 12 };

static double loss_of(const double *at, const void *context)
{
    const loss_context *c = context;
    double total = 0.0;

    ref_swiglu_fwd(c->up_moves ? c->gate : at, c->up_moves ? at : c->up, CHECK, c->m);
    for (int i = 0; i < CHECK; i++) {
        total += c->m[i] * c->dm[i];
    }
    return total;
}

static void the_reference_is_its_own_derivative(void **state)
{
    rig *r = *state;
    const int64_t dims[] = { 3, 4 };

    rig_begin(r, 53);
    csp_tensor a = rig_normal(r, CSP_F32, 2, dims), b = rig_normal(r, CSP_F32, 2, dims);
    csp_tensor d = rig_normal(r, CSP_F32, 2, dims);
    double *gate = rig_as_doubles(r, &a), *up = rig_as_doubles(r, &b);
    double *dgate = rig_doubles(r, CHECK), *dup = rig_doubles(r, CHECK);
    loss_context c = { gate, up, rig_as_doubles(r, &d), false, rig_doubles(r, CHECK) };

    ref_swiglu_bwd(gate, up, c.dm, CHECK, dgate, rig_doubles(r, CHECK), dup);
    assert_true(gradient_distance(loss_of, &c, gate, dgate, CHECK) <= GRADIENT_LIMIT);
    c.up_moves = true;
    assert_true(gradient_distance(loss_of, &c, up, dup, CHECK) <= GRADIENT_LIMIT);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_is_its_own_derivative),
        cmocka_unit_test(both_directions_match_the_reference),
        cmocka_unit_test(outputs_may_be_the_inputs_the_contract_names),
        cmocka_unit_test(rows_may_lie_apart_where_the_backend_has_that),
        cmocka_unit_test(what_is_rounded_as_it_is_written_has_the_bits_of_both),
        cmocka_unit_test(a_nan_is_passed_on),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
