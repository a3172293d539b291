/* test_embed.c - ops/embed.h: both directions are exact on small integers, in f32 and bf16. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/embed.h"
#include "ref/embed.h"
#include "support/compare.h"
#include "support/rig.h"

static const int64_t shapes[][3] = {
    { 1, 1, 1 }, { 5, 9, 17 }, { 50, 300, 130 }, { 7, 1, 64 }, { 9, 20, 136 }
};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static void copies_rows(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < SHAPES; i++) {
        const int64_t V = shapes[i][0], N = shapes[i][1], D = shapes[i][2];

        rig_begin(r, (uint64_t)i);
        csp_tensor table = rig_normal(r, S, 2, (int64_t[]) { V, D });
        csp_tensor token = rig_indices(r, V, N);
        csp_tensor x = rig_output(r, S, 2, (int64_t[]) { N, D });
        double *want = rig_doubles(r, N * D);

        ref_embed_fwd(rig_as_doubles(r, &table), rig_host(r, &token), N, D, want);
        assert_int_equal(csp_embed_fwd(r->be, &table, &token, &x), CSP_OK);
        assert_true(worst_ratio("x", rig_floats(r, &x), want, want, N * D, 0.0) <= 1.0);
        rig_check_guards(r);
    }
}

static void forward_copies_rows(void **state)
{
    rig_each_storage(*state, copies_rows);
}

/* Integers up to 8: sums stay below 2^24, so that any difference is an error of the op. */
static csp_tensor small_integers(rig *r, int64_t rows, int64_t columns, bool input)
{
    const csp_tensor ids = rig_indices(r, 17, rows * columns);
    const int32_t *from = rig_host(r, &ids);
    float *to = rig_host(r, &ids);
    csp_tensor t;

    for (int64_t i = 0; i < rows * columns; i++) {
        to[i] = (float)(from[i] - 8);
    }
    t = rig_input(r, CSP_F32, 2, (int64_t[]) { rows, columns }, to);
    return input ? t : rig_copy(r, &t);
}

static void adds_rows(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < SHAPES; i++) {
        const int64_t V = shapes[i][0], N = shapes[i][1], D = shapes[i][2];

        rig_begin(r, (uint64_t)(20 + i));
        const csp_tensor whole = small_integers(r, N, D, true);
        csp_tensor token = rig_indices(r, V, N), dx = rig_stored(r, S, &whole);
        csp_tensor dtable = small_integers(r, V, D, false);
        double *want = rig_as_doubles(r, &dtable);

        ref_embed_bwd(rig_host(r, &token), rig_as_doubles(r, &dx), N, D, want,
                      rig_doubles(r, V * D));
        assert_int_equal(csp_embed_bwd(r->be, &token, &dx, &dtable), CSP_OK);
        assert_true(worst_ratio("dtable", rig_host(r, &dtable), want, want, V * D, 0.0) <= 1.0);
        rig_check_guards(r);
    }
}

static void backward_adds_rows_of_repeated_tokens_exactly(void **state)
{
    rig_each_storage(*state, adds_rows);
}

static void adds_in_order(rig *r, csp_dtype S)
{
    enum { N = 4000, D = 33 };

    rig_begin(r, 40);
    csp_tensor token = rig_indices(r, 3, N);
    csp_tensor dx = rig_normal(r, S, 2, (int64_t[]) { N, D });
    csp_tensor dtable = rig_accumulated(r, 2, (int64_t[]) { 3, D });
    float *want = rig_host(r, &dtable);
    const float *from = rig_floats(r, &dx), *got;
    const int32_t *id = rig_host(r, &token);

    for (int64_t n = 0; n < N; n++) {
        for (int64_t d = 0; d < D; d++) {
            want[id[n] * D + d] += from[n * D + d];
        }
    }
    assert_int_equal(csp_embed_bwd(r->be, &token, &dx, &dtable), CSP_OK);
    got = rig_host(r, &dtable);
    assert_memory_equal(got, want, 3 * D * sizeof(float));
}

static void rows_of_one_token_are_added_in_their_order(void **state)
{
    rig_each_storage(*state, adds_in_order);
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;

    rig_begin(r, 41);
    csp_tensor table = rig_normal(r, CSP_F32, 2, (int64_t[]) { 5, 4 });
    csp_tensor token = rig_indices(r, 5, 6), x = rig_output(r, CSP_F32, 2, (int64_t[]) { 6, 4 });
    csp_tensor short_x = rig_output(r, CSP_F32, 2, (int64_t[]) { 5, 4 });
    csp_tensor dtable = rig_accumulated(r, 2, (int64_t[]) { 5, 4 });
    csp_tensor row = rig_normal(r, CSP_F32, 1, (int64_t[]) { 6 });
    csp_tensor half = rig_normal(r, CSP_BF16, 2, (int64_t[]) { 5, 4 });

    assert_int_equal(csp_embed_fwd(r->be, &table, &token, &short_x), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "embed: x must be f32 (6,4), not f32 (5,4)"));
    assert_int_equal(csp_embed_fwd(r->be, &table, &row, &x), CSP_ERR_SHAPE);
    assert_int_equal(csp_embed_fwd(r->be, &token, &token, &x), CSP_ERR_SHAPE);
    assert_int_equal(csp_embed_bwd(r->be, &token, &table, &dtable), CSP_ERR_SHAPE);
    rig_check_untouched(r, &x);
    assert_int_equal(csp_embed_fwd(r->be, &half, &token, &x),
                     r->be->bf16 ? CSP_ERR_SHAPE : CSP_ERR_UNSUPPORTED);
    assert_int_equal(csp_embed_bwd(r->be, &token, &x, &half), CSP_ERR_SHAPE);
    rig_check_untouched(r, &short_x);
    rig_check_untouched(r, &dtable);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_copies_rows),
        cmocka_unit_test(backward_adds_rows_of_repeated_tokens_exactly),
        cmocka_unit_test(rows_of_one_token_are_added_in_their_order),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
