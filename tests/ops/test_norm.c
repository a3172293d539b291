/* test_norm.c - ops/norm.h: reference against its derivative, backend against the reference. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/norm.h"
#include "ref/norm.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/rig.h"

/* Edges on purpose: one element, odd, around vectors of 8 and 16, head widths of a q/k norm, rows
 * enough for all threads, wider than a block of threads keeps in registers (odd and even). */
static const int64_t shapes[][2] = {
    { 1, 1 },   { 3, 7 },     { 2, 15 },   { 5, 17 },   { 9, 64 },
    { 2, 257 }, { 400, 128 }, { 3, 4096 }, { 2, 2063 }, { 3, 8208 }
};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };
static const float eps = 1e-5f;

/* Fewer of many rows where a device is emulated. */
static int64_t rows_of(const rig *r, int64_t rows)
{
    return r->emulated && rows > 150 ? 150 : rows;
}

/* The contract allows 8 chains: D/8 additions one after the other, and 3 to join them. */
static double chain(int64_t D)
{
    return (double)D / 8.0 + 4.0;
}

static void forward_matches(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < SHAPES * 2; i++) {
        const int64_t N = rows_of(r, shapes[i / 2][0]), D = shapes[i / 2][1], n = N * D;
        const bool with_delta = i % 2 == 1;

        rig_begin(r, (uint64_t)i);
        csp_tensor x = rig_normal(r, S, 2, (int64_t[]) { N, D });
        csp_tensor delta = rig_normal(r, S, 2, (int64_t[]) { N, D });
        csp_tensor g = rig_normal(r, S, 1, &D);
        csp_tensor sum = rig_output(r, S, 2, (int64_t[]) { N, D });
        csp_tensor rstd = rig_output(r, CSP_F32, 1, &N);
        csp_tensor y = rig_output(r, S, 2, (int64_t[]) { N, D });
        double *want_sum = rig_doubles(r, n), *want_rstd = rig_doubles(r, N);
        double *want_y = rig_doubles(r, n);

        ref_norm_fwd(rig_as_doubles(r, &x), with_delta ? rig_as_doubles(r, &delta) : NULL,
                     rig_as_doubles(r, &g), (double)eps, N, D, want_sum, want_rstd, want_y);
        assert_int_equal(csp_norm_fwd(r->be, &x, with_delta ? &delta : NULL, &g, eps,
                                      with_delta ? &sum : NULL, &rstd, &y),
                         CSP_OK);
        if (with_delta) {
            assert_true(matches("sum", S, rig_floats(r, &sum), want_sum, want_sum, n,
                                stored_bound(S, 1.0)));
            /* What is normalised is the sum as it is stored. */
            ref_norm_fwd(rig_as_doubles(r, &sum), NULL, rig_as_doubles(r, &g), (double)eps, N, D,
                         want_sum, want_rstd, want_y);
        } else {
            rig_check_untouched(r, &sum);
        }
        /* Half of the squares' relative error survives the root. */
        assert_true(worst_ratio("rstd", rig_host(r, &rstd), want_rstd, want_rstd, N,
                                (chain(D) / 2.0 + 6.0) * UNIT_F32) <= 1.0);
        assert_true(matches("y", S, rig_floats(r, &y), want_y, want_y, n,
                            stored_bound(S, chain(D) / 2.0 + 9.0)));
        rig_check_guards(r);
    }
}

static void forward_matches_the_reference(void **state)
{
    rig_each_storage(*state, forward_matches);
}

static void backward_matches(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < SHAPES * 2; i++) {
        const int64_t N = rows_of(r, shapes[i / 2][0]), D = shapes[i / 2][1], n = N * D;
        const bool with_dsum = i % 2 == 1;

        rig_begin(r, (uint64_t)(50 + i));
        csp_tensor x = rig_normal(r, S, 2, (int64_t[]) { N, D });
        csp_tensor g = rig_normal(r, S, 1, &D);
        csp_tensor rstd = rig_uniform(r, 0.5, 2.0, 1, &N);
        csp_tensor dy = rig_normal(r, S, 2, (int64_t[]) { N, D });
        csp_tensor dsum = rig_normal(r, S, 2, (int64_t[]) { N, D });
        csp_tensor dx = rig_output(r, S, 2, (int64_t[]) { N, D });
        csp_tensor dg = rig_accumulated(r, 1, &D);
        double *want_dx = rig_doubles(r, n), *dx_mag = rig_doubles(r, n);
        double *want_dg = rig_as_doubles(r, &dg), *dg_mag = rig_doubles(r, D);

        for (int64_t d = 0; d < D; d++) {
            dg_mag[d] = fabs(want_dg[d]);
        }
        ref_norm_bwd(rig_as_doubles(r, &x), rig_as_doubles(r, &g), rig_as_doubles(r, &rstd),
                     rig_as_doubles(r, &dy), with_dsum ? rig_as_doubles(r, &dsum) : NULL, N, D,
                     want_dx, dx_mag, want_dg, dg_mag);
        assert_int_equal(
            csp_norm_bwd(r->be, &x, &g, &rstd, &dy, with_dsum ? &dsum : NULL, &dx, &dg), CSP_OK);
        assert_true(matches("dx", S, rig_floats(r, &dx), want_dx, dx_mag, n,
                            stored_bound(S, chain(D) + 10.0)));
        assert_true(worst_ratio("dg", rig_host(r, &dg), want_dg, dg_mag, D,
                                (double)(N + 4) * UNIT_F32) <= 1.0);
        rig_check_guards(r);
    }
}

static void backward_matches_the_reference(void **state)
{
    rig_each_storage(*state, backward_matches);
}

static void outputs_may_be_inputs(rig *r, csp_dtype S)
{
    const int64_t dims[] = { 70, 40 };

    rig_begin(r, 80);
    csp_tensor x = rig_normal(r, S, 2, dims), delta = rig_normal(r, S, 2, dims);
    csp_tensor g = rig_normal(r, S, 1, &dims[1]), dy = rig_normal(r, S, 2, dims);
    csp_tensor sum = rig_output(r, S, 2, dims), y = rig_output(r, S, 2, dims);
    csp_tensor rstd = rig_output(r, CSP_F32, 1, &dims[0]), dx = rig_output(r, S, 2, dims);
    csp_tensor x2 = rig_copy(r, &x), delta2 = rig_copy(r, &delta), dy2 = rig_copy(r, &dy);
    csp_tensor delta3 = rig_copy(r, &delta);

    assert_int_equal(csp_norm_fwd(r->be, &x, &delta, &g, eps, &sum, &rstd, &y), CSP_OK);
    assert_int_equal(csp_norm_fwd(r->be, &x2, &delta2, &g, eps, &x2, &rstd, &delta2), CSP_OK);
    rig_check_same(r, &sum, &x2);
    rig_check_same(r, &y, &delta2);
    assert_int_equal(csp_norm_fwd(r->be, &x, &delta3, &g, eps, &delta3, &rstd, &y), CSP_OK);
    rig_check_same(r, &sum, &delta3);
    assert_int_equal(csp_norm_bwd(r->be, &sum, &g, &rstd, &dy, &delta, &dx, NULL), CSP_OK);
    assert_int_equal(csp_norm_bwd(r->be, &sum, &g, &rstd, &dy2, &delta, &dy2, NULL), CSP_OK);
    rig_check_same(r, &dx, &dy2);
    delta3 = rig_copy(r, &delta);
    assert_int_equal(csp_norm_bwd(r->be, &sum, &g, &rstd, &dy, &delta3, &delta3, NULL), CSP_OK);
    rig_check_same(r, &dx, &delta3);
}

static void outputs_may_be_the_inputs_the_contract_names(void **state)
{
    rig_each_storage(*state, outputs_may_be_inputs);
}

/* Rows of whole vectors and of single elements, a warp's and a block's. */
static void rows_lie_apart(rig *r, csp_dtype S)
{
    static const struct {
        int64_t dims[2], first, width;
    } cases[] = { { { 9, 40 }, 8, 56 }, { { 5, 1024 }, 0, 1032 }, { { 7, 33 }, 2, 36 } };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const int64_t *dims = cases[i].dims, first = cases[i].first, width = cases[i].width;

        rig_begin(r, 90 + i);
        csp_tensor x = rig_normal(r, S, 2, dims), delta = rig_normal(r, S, 2, dims);
        csp_tensor g = rig_normal(r, S, 1, &dims[1]), dy = rig_normal(r, S, 2, dims);
        csp_tensor sum = rig_output(r, S, 2, dims), y = rig_output(r, S, 2, dims);
        csp_tensor rstd = rig_output(r, CSP_F32, 1, &dims[0]), dx = rig_output(r, S, 2, dims);
        csp_tensor sum2 = rig_output(r, S, 2, dims), dg = rig_accumulated(r, 1, &dims[1]);
        csp_tensor dg2 = rig_copy(r, &dg);
        csp_tensor branch = rig_apart(r, &delta, first, width), stream = branch;

        assert_int_equal(csp_norm_fwd(r->be, &x, &delta, &g, eps, &sum, &rstd, &y), CSP_OK);
        assert_int_equal(csp_norm_fwd(r->be, &x, &branch, &g, eps, &sum2, &rstd, &branch), CSP_OK);
        rig_check_same(r, &y, &branch);
        rig_check_same(r, &sum, &sum2);
        rig_check_between(r, &branch, first);
        stream = rig_apart(r, &delta, first, width);
        assert_int_equal(csp_norm_bwd(r->be, &sum, &g, &rstd, &dy, &delta, &dx, &dg), CSP_OK);
        assert_int_equal(csp_norm_bwd(r->be, &sum, &g, &rstd, &dy, &stream, &stream, &dg2), CSP_OK);
        rig_check_same(r, &dx, &stream);
        rig_check_same(r, &dg, &dg2);
        rig_check_between(r, &stream, first);
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
    rig_begin(r, 95);
    csp_tensor x = rig_normal(r, CSP_F32, 2, dims), g = rig_normal(r, CSP_F32, 1, &dims[1]);
    csp_tensor wide = rig_output(r, CSP_F32, 2, (int64_t[]) { 3, 9 });
    csp_tensor rstd = rig_output(r, CSP_F32, 1, &dims[0]), y = csp_tensor_columns(&wide, 0, 4);
    assert_int_equal(csp_norm_fwd(r->be, &x, NULL, &g, eps, NULL, &rstd, &y), CSP_ERR_UNSUPPORTED);
    rig_check_untouched(r, &wide);
}

/* All that csp_norm_fwd writes, and csp_quantize_rows of it, against both at once. */
static void rounds_as_it_writes(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < SHAPES * 2; i++) {
        const int64_t D = shapes[i / 2][1], most = D < 1000 ? 9 : 2;
        const int64_t N = shapes[i / 2][0] < most ? shapes[i / 2][0] : most;
        const int64_t dims[] = { N, D };
        const bool with_delta = i % 2 == 1;
        const csp_tensor none = csp_tensor_none();

        rig_begin(r, (uint64_t)(200 + i));
        csp_tensor x = rig_normal(r, S, 2, dims), branch = rig_normal(r, S, 2, dims);
        csp_tensor drawn = rig_normal(r, CSP_F32, 1, &D), delta = with_delta ? branch : none;
        float *gain = rig_host(r, &drawn);
        csp_tensor sum[2], rstd[2], y[2];
        csp_fp8_rows y8[2];

        gain[D - 1] *= 64.0f; /* the largest of a row is what is read last */
        drawn = rig_input(r, CSP_F32, 1, &D, gain);
        const csp_tensor g = rig_stored(r, S, &drawn);
        for (int k = 0; k < 2; k++) {
            sum[k] = with_delta ? rig_output(r, S, 2, dims) : none;
            rstd[k] = rig_output(r, CSP_F32, 1, dims);
            y[k] = rig_output(r, S, 2, dims);
            y8[k].q = rig_output(r, CSP_E4M3, 2, dims);
            y8[k].scale = rig_output(r, CSP_F32, 1, dims);
        }
        assert_int_equal(csp_norm_fwd(r->be, &x, &delta, &g, eps, &sum[0], &rstd[0], &y[0]),
                         CSP_OK);
        assert_int_equal(csp_quantize_rows(r->be, &y[0], &none, &y8[0].q, &y8[0].scale), CSP_OK);
        /* In the place of delta, as between the blocks of a model. */
        y[1] = with_delta ? rig_copy(r, &branch) : y[1];
        delta = with_delta ? y[1] : none;
        assert_int_equal(
            csp_norm_fp8_fwd(r->be, &x, &delta, &g, eps, &sum[1], &rstd[1], &y[1], &y8[1]), CSP_OK);
        if (with_delta) {
            rig_check_same(r, &sum[0], &sum[1]);
        }
        rig_check_same(r, &rstd[0], &rstd[1]);
        rig_check_same(r, &y[0], &y[1]);
        rig_check_same(r, &y8[0].q, &y8[1].q);
        rig_check_same(r, &y8[0].scale, &y8[1].scale);
        rig_check_guards(r);
    }
}

static void what_is_rounded_as_it_is_written_has_the_bits_of_both(void **state)
{
    rig_each_storage(*state, rounds_as_it_writes);
}

static void gives_the_same_bits(rig *r, csp_dtype S)
{
    const int64_t dims[] = { rows_of(r, 601), 70 };

    rig_begin(r, 81);
    csp_tensor x = rig_normal(r, S, 2, dims), dy = rig_normal(r, S, 2, dims);
    csp_tensor g = rig_normal(r, S, 1, &dims[1]), rstd = rig_normal(r, CSP_F32, 1, &dims[0]);
    csp_tensor dx[2], dg[2];

    dg[0] = rig_accumulated(r, 1, &dims[1]);
    dg[1] = rig_copy(r, &dg[0]);
    for (int i = 0; i < 2; i++) {
        dx[i] = rig_output(r, S, 2, dims);
        assert_int_equal(csp_norm_bwd(r->be, &x, &g, &rstd, &dy, NULL, &dx[i], &dg[i]), CSP_OK);
    }
    rig_check_same(r, &dx[0], &dx[1]);
    rig_check_same(r, &dg[0], &dg[1]);
}

static void the_same_call_gives_the_same_bits(void **state)
{
    rig_each_storage(*state, gives_the_same_bits);
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;
    const int64_t dims[] = { 4, 6 }, other[] = { 6, 4 }, wide[] = { 1, 65537 };

    rig_begin(r, 82);
    csp_tensor x = rig_normal(r, CSP_F32, 2, dims), bad = rig_normal(r, CSP_F32, 2, other);
    csp_tensor g = rig_normal(r, CSP_F32, 1, &dims[1]), sum = rig_output(r, CSP_F32, 2, dims);
    csp_tensor rstd = rig_output(r, CSP_F32, 1, &dims[0]), y = rig_output(r, CSP_F32, 2, dims);
    csp_tensor huge = rig_normal(r, CSP_F32, 2, wide), rows = rig_normal(r, CSP_F32, 1, &dims[0]);
    csp_tensor dg = rig_accumulated(r, 1, &dims[1]), half = rig_normal(r, CSP_BF16, 2, dims);
    csp_fp8_rows y8 = { rig_output(r, CSP_E4M3, 2, other), rig_output(r, CSP_F32, 1, dims) };

    assert_int_equal(csp_norm_fwd(r->be, &half, NULL, &g, eps, NULL, &rstd, &y),
                     r->be->bf16 ? CSP_ERR_SHAPE : CSP_ERR_UNSUPPORTED);
    assert_int_equal(csp_norm_fwd(r->be, &x, &half, &g, eps, &sum, &rstd, &y), CSP_ERR_SHAPE);
    assert_int_equal(csp_norm_fwd(r->be, &bad, NULL, &g, eps, NULL, &rstd, &y), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "norm: g must be f32 (4), not f32 (6)"));
    assert_int_equal(csp_norm_fwd(r->be, &x, &x, &g, eps, NULL, &rstd, &y), CSP_ERR_SHAPE);
    assert_int_equal(csp_norm_fwd(r->be, &x, NULL, &g, eps, &sum, &rstd, &y), CSP_ERR_SHAPE);
    assert_int_equal(csp_norm_fwd(r->be, &x, &bad, &g, eps, &sum, &rstd, &y), CSP_ERR_SHAPE);
    assert_int_equal(csp_norm_fwd(r->be, &x, NULL, &g, 0.0f, NULL, &rstd, &y), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_norm_fwd(r->be, &x, NULL, &g, NAN, NULL, &rstd, &y), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_norm_fp8_fwd(r->be, &x, NULL, &g, eps, NULL, &rstd, &y, &y8),
                     CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "norm: q must be e4m3 (4,6), not e4m3 (6,4)"));
    rig_check_untouched(r, &y8.q);
    assert_int_equal(csp_norm_fwd(r->be, &huge, NULL, &g, eps, NULL, &rstd, &y), CSP_ERR_SHAPE);
    assert_int_equal(csp_norm_bwd(r->be, &x, &g, &rows, &bad, NULL, &y, &dg), CSP_ERR_SHAPE);
    assert_int_equal(csp_norm_bwd(r->be, &x, &g, &rows, &x, NULL, &y, &rstd), CSP_ERR_SHAPE);
    assert_int_equal(csp_norm_bwd(r->be, &x, &g, &g, &x, NULL, &y, &dg), CSP_ERR_SHAPE);
    rig_check_untouched(r, &y);
    rig_check_untouched(r, &sum);
    rig_check_untouched(r, &rstd);
    rig_check_untouched(r, &dg);
}

/* Two numbers of rstd or of the first row are spoilt, the later one at the end; 1: not at all. */
static void bad_rows_are_found_in(rig *r, csp_dtype S)
{
    static const int64_t sizes[][2] = { { 0, 3 }, { 1, 1 }, { 3001, 5 }, { 2, 1027 } };
    static const float values[] = { NAN, INFINITY, -INFINITY, 0.0f, -1.0f, 1.0f };

    for (uint64_t i = 0; i < 48; i++) {
        const int64_t N = sizes[i / 12][0], D = sizes[i / 12][1];
        const bool in_y = i % 2 == 1;

        rig_begin(r, 90 + i);
        csp_tensor rstd = rig_uniform(r, 0.5, 2.0, 1, &N);
        csp_tensor y = rig_normal(r, CSP_F32, 2, (int64_t[]) { N, D });
        csp_tensor row = rig_output(r, CSP_I64, 1, (int64_t[]) { 1 });
        csp_tensor *spoilt = in_y ? &y : &rstd;
        float *at = rig_host(r, spoilt);

        if (N > 0) {
            at[in_y ? D - 1 : N - 1] = values[i / 2 % 6];
            at[in_y ? D / 2 : N / 3] = values[i / 2 % 6];
            *spoilt = rig_input(r, CSP_F32, spoilt->ndim, spoilt->dim, at);
        }
        y = rig_stored(r, S, &y);
        assert_int_equal(csp_norm_bad_row(r->be, &rstd, &y, &row), CSP_OK);
        assert_int_equal(*(const int64_t *)rig_host(r, &row),
                         ref_norm_bad_row(rig_as_doubles(r, &rstd), rig_as_doubles(r, &y), N, D));
        rig_check_guards(r);
    }
}

static void bad_rows_are_found(void **state)
{
    rig_each_storage(*state, bad_rows_are_found_in);
}

/* loss = sum of y ⊙ dy + sum ⊙ dsum, as a function of x or g. */
typedef struct loss_context {
    const double *x, *g, *dy, *dsum;
    bool gain_moves;
    double *sum, *rstd, *y;
} loss_context;

enum { CHECK_N = 3, CHECK_D = 5 };

static double loss_of(const double *at, const void *context)
{
    const loss_context *c = context;
    double total = 0.0;

    ref_norm_fwd(c->gain_moves ? c->x : at, NULL, c->gain_moves ? at : c->g, (double)eps, CHECK_N,
                 CHECK_D, c->sum, c->rstd, c->y);
    for (int i = 0; i < CHECK_N * CHECK_D; i++) {
        total += c->y[i] * c->dy[i] + c->sum[i] * c->dsum[i];
    }
    return total;
}

static void the_reference_is_its_own_derivative(void **state)
{
    rig *r = *state;
    const int64_t dims[] = { CHECK_N, CHECK_D }, n = CHECK_N * CHECK_D;

    rig_begin(r, 83);
    csp_tensor t = rig_normal(r, CSP_F32, 2, dims), gain = rig_normal(r, CSP_F32, 1, &dims[1]);
    csp_tensor a = rig_normal(r, CSP_F32, 2, dims), b = rig_normal(r, CSP_F32, 2, dims);
    double *x = rig_as_doubles(r, &t), *g = rig_as_doubles(r, &gain);
    double *dx = rig_doubles(r, n), *dg = rig_doubles(r, CHECK_D), *mag = rig_doubles(r, n);
    loss_context c = {
        x, g, rig_as_doubles(r, &a), rig_as_doubles(r, &b), false, NULL, NULL, NULL
    };

    c.sum = rig_doubles(r, n);
    c.rstd = rig_doubles(r, CHECK_N);
    c.y = rig_doubles(r, n);
    (void)loss_of(x, &c);
    ref_norm_bwd(x, g, c.rstd, c.dy, c.dsum, CHECK_N, CHECK_D, dx, mag, dg, mag);
    assert_true(gradient_distance(loss_of, &c, x, dx, n) <= GRADIENT_LIMIT);
    c.gain_moves = true;
    assert_true(gradient_distance(loss_of, &c, g, dg, CHECK_D) <= GRADIENT_LIMIT);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_is_its_own_derivative),
        cmocka_unit_test(forward_matches_the_reference),
        cmocka_unit_test(backward_matches_the_reference),
        cmocka_unit_test(bad_rows_are_found),
        cmocka_unit_test(outputs_may_be_the_inputs_the_contract_names),
        cmocka_unit_test(rows_may_lie_apart_where_the_backend_has_that),
        cmocka_unit_test(what_is_rounded_as_it_is_written_has_the_bits_of_both),
        cmocka_unit_test(the_same_call_gives_the_same_bits),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
