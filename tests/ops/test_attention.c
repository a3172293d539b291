/* test_attention.c - ops/attention.h: reference against its derivative, backend against it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "support/attention.h"
#include "support/compare.h"
#include "support/gradcheck.h"

static void run_forward_cases(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < ATTENTION_CASES; i++) {
        if (attention_is_for(r, S, i)) {
            rig_begin(r, (uint64_t)i);
            const attention_setup s = attention_make_case(r, S, i);

            attention_check_forward(r, &s, &s);
        }
    }
}

static void forward_matches_the_reference(void **state)
{
    rig_each_storage(*state, run_forward_cases);
}

static void run_backward_cases(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < ATTENTION_CASES; i++) {
        if (attention_is_for(r, S, i)) {
            rig_begin(r, (uint64_t)(50 + i));
            const attention_setup s = attention_make_case(r, S, i);
            attention_grads g = attention_make_grads(r, &s);

            assert_int_equal(csp_attention_bwd(r->be, &s.a, &g.g), CSP_OK);
            attention_check_grads(r, &s, &g);
            rig_check_guards(r);
        }
    }
}

static void backward_matches_the_reference(void **state)
{
    rig_each_storage(*state, run_backward_cases);
}

static void a_text_of_thousands_of_rows_works(void **state)
{
    rig *r = *state;
    const attention_case like = { 1, 1, 4, 1, { r->emulated ? 1100 : 4100 }, true, 0, AS_BOTH };

    rig_begin(r, 73);
    const attention_setup s = attention_make(r, CSP_F32, &like, 1.0);
    csp_tensor o = attention_output(r, &s, 1, 4), lse = attention_lse(r, &s);
    double *want = rig_doubles(r, s.N * 4), *mag = rig_doubles(r, s.N * 4);
    double *want_lse = rig_doubles(r, s.N), *lse_mag = rig_doubles(r, s.N);

    ref_attention_fwd(&s.ref, rig_as_doubles(r, &s.q), rig_as_doubles(r, &s.k),
                      rig_as_doubles(r, &s.v), want, mag, want_lse, lse_mag);
    assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &s.k, &s.v, &o, &lse), CSP_OK);
    /* As above, but a sum of thousands goes in several chains: a root of T is already generous. */
    assert_true(worst_ratio("o", rig_host(r, &o), want, mag, s.N * 4, 100.0 * UNIT_F32) <= 1.0);
    rig_check_guards(r);
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;

    rig_begin(r, 74);
    const attention_setup s = attention_make_case(r, CSP_F32, 2);
    attention_grads g = attention_make_grads(r, &s);
    csp_tensor o = attention_output(r, &s, s.a.H, s.a.E), lse = attention_lse(r, &s),
               absent = csp_tensor_none();
    csp_attention bad = s.a;

    bad.G = 3;
    assert_int_equal(csp_attention_fwd(r->be, &bad, &s.q, &s.k, &s.v, &o, &lse), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "4 query heads must be a multiple of 3"));
    bad = s.a;
    bad.E = 5;
    assert_int_equal(csp_attention_fwd(r->be, &bad, &s.q, &s.k, &s.v, &o, &lse), CSP_ERR_SHAPE);
    bad = s.a;
    bad.longest = s.longest + 3;
    assert_int_equal(csp_attention_fwd(r->be, &bad, &s.q, &s.k, &s.v, &o, &lse), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "the longest text has 36 rows, the rotary table 35"));
    bad = s.a;
    bad.order = s.a.seq_start; /* one more than there are texts */
    assert_int_equal(csp_attention_fwd(r->be, &bad, &s.q, &s.k, &s.v, &o, &lse), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "attention: order must be i32 (4)"));
    assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &s.q, &s.v, &o, &lse), CSP_ERR_SHAPE);
    assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &s.k, &absent, &o, &lse), CSP_ERR_SHAPE);
    assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &s.k, &s.v, &o, &o), CSP_ERR_SHAPE);
    rig_check_untouched(r, &o);
    rig_check_untouched(r, &lse);
    g.g.dk = g.g.q;
    assert_int_equal(csp_attention_bwd(r->be, &s.a, &g.g), CSP_ERR_SHAPE);
    rig_check_untouched(r, &g.g.dq);
    rig_check_untouched(r, &g.g.dv);
}

static void a_call_has_one_storage_type(void **state)
{
    rig *r = *state;

    rig_begin(r, 78);
    const attention_setup s = attention_make_case(r, CSP_BF16, 4),
                          f = attention_make_case(r, CSP_F32, 4);
    csp_tensor o = attention_output(r, &s, s.a.H, s.a.E), lse = attention_lse(r, &s);

    if (!r->be->bf16) {
        assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &s.k, &s.v, &o, &lse),
                         CSP_ERR_UNSUPPORTED);
        assert_non_null(strstr(csp_error_text(), "bf16 needs a CUDA device"));
    } else {
        assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &f.k, &s.v, &o, &lse), CSP_ERR_SHAPE);
        assert_non_null(strstr(csp_error_text(), "attention: k must be bf16"));
        assert_int_equal(csp_attention_fwd(r->be, &f.a, &f.q, &f.k, &f.v, &o, &lse), CSP_ERR_SHAPE);
        attention_grads g = attention_make_grads(r, &s);

        g.g.dk = attention_output(r, &f, f.a.G, f.a.E);
        assert_int_equal(csp_attention_bwd(r->be, &s.a, &g.g), CSP_ERR_SHAPE);
        rig_check_untouched(r, &g.g.dq);
    }
    rig_check_untouched(r, &o);
    rig_check_untouched(r, &lse);
}

static void cuda_devices_name_the_widest_head(void **state)
{
    rig *r = *state;
    const attention_case like = { 1, 1, 258, 1, { 3 }, true, 0, AS_BOTH };

    if (strncmp(r->be->name, "cuda", 4) != 0) {
        skip();
    }
    rig_begin(r, 77);
    const attention_setup s = attention_make(r, CSP_F32, &like, 1.0);
    csp_tensor o = attention_output(r, &s, 1, 258), lse = attention_lse(r, &s);
    assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &s.k, &s.v, &o, &lse),
                     CSP_ERR_UNSUPPORTED);
    assert_non_null(strstr(csp_error_text(), "heads of width 258: CUDA devices take up to 256"));
    rig_check_untouched(r, &o);
}

/* loss = sum of o ⊙ w of the reference, as a function of q, k or v. */
typedef struct loss_context {
    const ref_attention *a;
    const double *x[3], *w;
    int64_t n;
    int moving;
    double *o, *o_mag, *lse, *lse_mag;
} loss_context;

static double loss_of(const double *at, const void *context)
{
    const loss_context *c = context;
    const double *x[3] = { c->x[0], c->x[1], c->x[2] };
    double sum = 0.0;

    x[c->moving] = at;
    ref_attention_fwd(c->a, x[0], x[1], x[2], c->o, c->o_mag, c->lse, c->lse_mag);
    for (int64_t i = 0; i < c->n; i++) {
        sum += c->o[i] * c->w[i];
    }
    return sum;
}

static void the_reference_is_its_own_derivative(void **state)
{
    rig *r = *state;

    for (int causal = 0; causal < 2; causal++) {
        const attention_case like = { 4, 2, 4, 3, { 3, 0, 5 }, causal == 1, 0, AS_BOTH };

        rig_begin(r, 75);
        const attention_setup s = attention_make(r, CSP_F32, &like, 1.0);
        const int64_t wide = s.N * 16, narrow = s.N * 8;
        const csp_tensor w = rig_normal(r, CSP_F32, 2, (int64_t[]) { s.N, 16 });
        double *x[3] = { rig_as_doubles(r, &s.q), rig_as_doubles(r, &s.k),
                         rig_as_doubles(r, &s.v) };
        double *grad[3], *mag[3];
        loss_context c = { .a = &s.ref, .x = { x[0], x[1], x[2] }, .n = wide };

        c.w = rig_as_doubles(r, &w);
        c.o = rig_doubles(r, wide);
        c.o_mag = rig_doubles(r, wide);
        c.lse = rig_doubles(r, s.N * 4);
        c.lse_mag = rig_doubles(r, s.N * 4);
        for (int i = 0; i < 3; i++) {
            grad[i] = rig_doubles(r, wide);
            mag[i] = rig_doubles(r, wide);
        }
        (void)loss_of(x[0], &c);
        ref_attention_bwd(&s.ref, x[0], x[1], x[2], c.o, c.lse, c.w, grad, mag);
        for (c.moving = 0; c.moving < 3; c.moving++) {
            assert_true(gradient_distance(loss_of, &c, x[c.moving], grad[c.moving],
                                          c.moving == 0 ? wide : narrow) <= GRADIENT_LIMIT);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_is_its_own_derivative),
        cmocka_unit_test(forward_matches_the_reference),
        cmocka_unit_test(backward_matches_the_reference),
        cmocka_unit_test(a_text_of_thousands_of_rows_works),
        cmocka_unit_test(a_call_has_one_storage_type),
        cmocka_unit_test(cuda_devices_name_the_widest_head),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
