/* test_attention.c - ops/attention.h: reference against its derivative, backend against it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/attention.h"
#include "ops/rope.h"
#include "ref/attention.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/rig.h"

/* Edges on purpose: one row, empty texts, the narrowest head, groups of 1 and more, one less and
 * one more than a block of queries (32), the shapes of Qwen3 (head wider than D/H). From FIRST_LONG
 * on texts are longer than CUDA devices hold at once, for each of the widths (32, 64, 128, 256)
 * that heads are rounded up to there. */
static const struct {
    int64_t H, G, E, B;
    int64_t length[5];
    bool causal;
} cases[] = {
    { 1, 1, 2, 1, { 1 }, true },
    { 2, 1, 4, 3, { 0, 3, 0 }, true },
    { 4, 2, 6, 4, { 31, 32, 33, 1 }, true },
    { 4, 2, 6, 4, { 31, 32, 33, 1 }, false },
    { 3, 3, 32, 2, { 65, 24 }, true },
    { 6, 1, 18, 2, { 40, 7 }, false },
    { 4, 2, 128, 3, { 50, 16, 96 }, true },
    { 8, 2, 64, 1, { 100 }, false },
    { 2, 2, 160, 2, { 20, 32 }, true },
    { 2, 1, 8, 1, { 301 }, true },
    { 1, 1, 64, 2, { 258, 1 }, true },
    { 4, 2, 72, 2, { 40, 131 }, true },
    { 2, 1, 130, 2, { 40, 33 }, false },
};
enum { CASES = sizeof(cases) / sizeof(cases[0]), FIRST_LONG = 9 };

typedef struct setup {
    csp_attention a;
    ref_attention ref;
    int64_t N, longest;
    csp_tensor q, k, v;
} setup;

static csp_tensor none(void)
{
    return csp_tensor_none();
}

/* scale widens the scores: exponents far apart are where a softmax can go wrong. */
static setup make(rig *r, int64_t H, int64_t G, int64_t E, int64_t B, const int64_t *length,
                  bool causal, double scale)
{
    const csp_rope rope = { .theta = 10000.0 };
    setup s;

    memset(&s, 0, sizeof(s));
    for (int64_t b = 0; b < B; b++) {
        s.N += length[b];
        s.longest = length[b] > s.longest ? length[b] : s.longest;
    }
    s.a = (csp_attention) { .H = H, .G = G, .E = E, .longest = s.longest, .causal = causal };
    s.a.seq_start = rig_lengths(r, B, length);
    s.a.cos = rig_output(r, CSP_F32, 2, (int64_t[]) { s.longest + 2, E / 2 });
    s.a.sin = rig_output(r, CSP_F32, 2, (int64_t[]) { s.longest + 2, E / 2 });
    assert_int_equal(csp_rope_table(r->be, &rope, &s.a.cos, &s.a.sin), CSP_OK);
    s.q = rig_uniform(r, -scale, scale, 2, (int64_t[]) { s.N, H * E });
    s.k = rig_uniform(r, -scale, scale, 2, (int64_t[]) { s.N, G * E });
    s.v = rig_normal(r, CSP_F32, 2, (int64_t[]) { s.N, G * E });
    s.ref = (ref_attention) { .seq_start = rig_host(r, &s.a.seq_start),
                              .cos_table = rig_as_doubles(r, &s.a.cos),
                              .sin_table = rig_as_doubles(r, &s.a.sin),
                              .B = B,
                              .H = H,
                              .G = G,
                              .E = E,
                              .causal = causal };
    return s;
}

/* An emulated device gets one key-value head where heads are wide. */
static setup make_case(rig *r, int64_t i)
{
    const int64_t G = r->emulated && cases[i].E >= 64 ? 1 : cases[i].G;

    return make(r, cases[i].H / cases[i].G * G, G, cases[i].E, cases[i].B, cases[i].length,
                cases[i].causal, i % 2 == 0 ? 1.5 : 4.0);
}

static csp_tensor output(rig *r, const setup *s, int64_t heads, int64_t width)
{
    return rig_output(r, CSP_F32, 2, (int64_t[]) { s->N, heads * width });
}

static void forward_matches_the_reference(void **state)
{
    rig *r = *state;

    for (int64_t i = 0; i < CASES; i++) {
        rig_begin(r, (uint64_t)i);
        setup s = make_case(r, i);
        const int64_t H = s.a.H, E = s.a.E, n = s.N * H * E;
        csp_tensor o = output(r, &s, H, E), lse = output(r, &s, H, 1);
        double *want = rig_doubles(r, n), *mag = rig_doubles(r, n);
        double *want_lse = rig_doubles(r, s.N * H), *lse_mag = rig_doubles(r, s.N * H);
        /* A score: two rotations of 3 roundings, E products, the scale. Then its exponential (4),
         * the subtraction of the maximum, T additions, the division. */
        const double bound = (double)(E + s.longest + 20) * UNIT_F32;

        ref_attention_fwd(&s.ref, rig_as_doubles(r, &s.q), rig_as_doubles(r, &s.k),
                          rig_as_doubles(r, &s.v), want, mag, want_lse, lse_mag);
        assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &s.k, &s.v, &o, &lse), CSP_OK);
        assert_true(worst_ratio("o", rig_host(r, &o), want, mag, n, bound) <= 1.0);
        assert_true(worst_ratio("lse", rig_host(r, &lse), want_lse, lse_mag, s.N * H, bound) <=
                    1.0);
        rig_check_guards(r);
    }
}

typedef struct grads {
    csp_attention_grad g;
    double *want[3], *mag[3];
} grads;

/* Runs forward, and the reference's backward on the same o and lse. */
static grads make_grads(rig *r, const setup *s)
{
    grads g;

    memset(&g, 0, sizeof(g));
    g.g.q = s->q;
    g.g.k = s->k;
    g.g.v = s->v;
    g.g.o = output(r, s, s->a.H, s->a.E);
    g.g.lse = output(r, s, s->a.H, 1);
    g.g.d_o = rig_normal(r, CSP_F32, 2, (int64_t[]) { s->N, s->a.H * s->a.E });
    g.g.dq = output(r, s, s->a.H, s->a.E);
    g.g.dk = output(r, s, s->a.G, s->a.E);
    g.g.dv = output(r, s, s->a.G, s->a.E);
    assert_int_equal(csp_attention_fwd(r->be, &s->a, &s->q, &s->k, &s->v, &g.g.o, &g.g.lse),
                     CSP_OK);
    for (int i = 0; i < 3; i++) {
        const int64_t n = s->N * (i == 0 ? s->a.H : s->a.G) * s->a.E;

        g.want[i] = rig_doubles(r, n);
        g.mag[i] = rig_doubles(r, n);
    }
    ref_attention_bwd(&s->ref, rig_as_doubles(r, &s->q), rig_as_doubles(r, &s->k),
                      rig_as_doubles(r, &s->v), rig_as_doubles(r, &g.g.o),
                      rig_as_doubles(r, &g.g.lse), rig_as_doubles(r, &g.g.d_o), g.want, g.mag);
    return g;
}

static void check_grads(rig *r, const setup *s, const grads *g)
{
    const int64_t E = s->a.E, group = s->a.H / s->a.G, wide = s->N * s->a.H * E;
    const int64_t narrow = s->N * s->a.G * E;
    /* A score's roundings, those of dP and delta (E each), then the sum over T rows and the
     * group's heads, and the rotation back. */
    const double bound = (double)(2 * E + s->longest * group + 30) * UNIT_F32;

    assert_true(worst_ratio("dq", rig_host(r, &g->g.dq), g->want[0], g->mag[0], wide, bound) <=
                1.0);
    assert_true(worst_ratio("dk", rig_host(r, &g->g.dk), g->want[1], g->mag[1], narrow, bound) <=
                1.0);
    assert_true(worst_ratio("dv", rig_host(r, &g->g.dv), g->want[2], g->mag[2], narrow, bound) <=
                1.0);
}

static void backward_matches_the_reference(void **state)
{
    rig *r = *state;

    for (int64_t i = 0; i < CASES; i++) {
        rig_begin(r, (uint64_t)(50 + i));
        setup s = make_case(r, i);
        grads g = make_grads(r, &s);

        assert_int_equal(csp_attention_bwd(r->be, &s.a, &g.g), CSP_OK);
        check_grads(r, &s, &g);
        rig_check_guards(r);
    }
}

static void check_overwritten(rig *r, setup *s)
{
    grads g = make_grads(r, s);

    g.g.q = g.g.dq = rig_copy(r, &s->q);
    g.g.k = g.g.dk = rig_copy(r, &s->k);
    g.g.v = g.g.dv = rig_copy(r, &s->v);
    assert_int_equal(csp_attention_bwd(r->be, &s->a, &g.g), CSP_OK);
    check_grads(r, s, &g);
    rig_check_guards(r);
}

static void gradients_may_overwrite_q_k_and_v(void **state)
{
    rig *r = *state;
    const int64_t some[] = { 2, FIRST_LONG, FIRST_LONG + 2 };

    for (int i = 0; i < 3; i++) {
        rig_begin(r, (uint64_t)(70 + i));
        setup s = make_case(r, some[i]);

        check_overwritten(r, &s);
    }
}

/* So many rows that CUDA devices take one text at a time: dk and dv of a text wait in scratch. */
static void gradients_may_overwrite_q_k_and_v_of_a_batch_that_claims_thousands_of_rows(void **state)
{
    rig *r = *state;
    const csp_rope rope = { .theta = 10000.0 };
    const int64_t length[] = { 33, 0, 50 };

    rig_begin(r, 76);
    setup s = make(r, 2, 2, 256, 3, length, true, 1.0);
    s.a.longest = 8200;
    s.a.cos = rig_output(r, CSP_F32, 2, (int64_t[]) { 8200, 128 });
    s.a.sin = rig_output(r, CSP_F32, 2, (int64_t[]) { 8200, 128 });
    assert_int_equal(csp_rope_table(r->be, &rope, &s.a.cos, &s.a.sin), CSP_OK);
    check_overwritten(r, &s);
}

static void check_same_bits(rig *r, int64_t which)
{
    rig_begin(r, 80 + (uint64_t)which);
    setup s = make_case(r, which);
    grads a = make_grads(r, &s), b = a;

    b.g.dq = output(r, &s, s.a.H, s.a.E);
    b.g.dk = output(r, &s, s.a.G, s.a.E);
    b.g.dv = output(r, &s, s.a.G, s.a.E);
    csp_tensor o = output(r, &s, s.a.H, s.a.E), lse = output(r, &s, s.a.H, 1);
    assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &s.k, &s.v, &o, &lse), CSP_OK);
    rig_check_same(r, &o, &a.g.o);
    rig_check_same(r, &lse, &a.g.lse);
    assert_int_equal(csp_attention_bwd(r->be, &s.a, &a.g), CSP_OK);
    assert_int_equal(csp_attention_bwd(r->be, &s.a, &b.g), CSP_OK);
    rig_check_same(r, &a.g.dq, &b.g.dq);
    rig_check_same(r, &a.g.dk, &b.g.dk);
    rig_check_same(r, &a.g.dv, &b.g.dv);
}

static void the_same_call_gives_the_same_bits(void **state)
{
    check_same_bits(*state, 4);
    check_same_bits(*state, FIRST_LONG);
}

static void a_text_does_not_see_its_neighbours(void **state)
{
    rig *r = *state;
    const int64_t both[] = { 20, 45 }, alone[] = { 45 };

    rig_begin(r, 72);
    setup s = make(r, 4, 2, 16, 2, both, true, 2.0);
    setup one = make(r, 4, 2, 16, 1, alone, true, 2.0);
    csp_tensor o = output(r, &s, 4, 16), lse = output(r, &s, 4, 1);
    csp_tensor o1 = output(r, &one, 4, 16), lse1 = output(r, &one, 4, 1);

    one.q = csp_tensor_rows(&s.q, 20, 45);
    one.k = csp_tensor_rows(&s.k, 20, 45);
    one.v = csp_tensor_rows(&s.v, 20, 45);
    assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &s.k, &s.v, &o, &lse), CSP_OK);
    assert_int_equal(csp_attention_fwd(r->be, &one.a, &one.q, &one.k, &one.v, &o1, &lse1), CSP_OK);
    o = csp_tensor_rows(&o, 20, 45);
    rig_check_same(r, &o, &o1);
}

static void a_text_of_thousands_of_rows_works(void **state)
{
    rig *r = *state;
    const int64_t length[] = { r->emulated ? 1100 : 4100 };

    rig_begin(r, 73);
    setup s = make(r, 1, 1, 4, 1, length, true, 1.0);
    csp_tensor o = output(r, &s, 1, 4), lse = output(r, &s, 1, 1);
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
    setup s = make_case(r, 2);
    grads g = make_grads(r, &s);
    csp_tensor o = output(r, &s, s.a.H, s.a.E), lse = output(r, &s, s.a.H, 1), absent = none();
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

static void cuda_devices_name_the_widest_head(void **state)
{
    rig *r = *state;
    const int64_t length[] = { 3 };

    if (strncmp(r->be->name, "cuda", 4) != 0) {
        skip();
    }
    rig_begin(r, 77);
    setup s = make(r, 1, 1, 258, 1, length, true, 1.0);
    csp_tensor o = output(r, &s, 1, 258), lse = output(r, &s, 1, 1);
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
    const int64_t length[] = { 3, 0, 5 };

    for (int causal = 0; causal < 2; causal++) {
        rig_begin(r, 75);
        setup s = make(r, 4, 2, 4, 3, length, causal == 1, 1.0);
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
        cmocka_unit_test(gradients_may_overwrite_q_k_and_v),
        cmocka_unit_test(
            gradients_may_overwrite_q_k_and_v_of_a_batch_that_claims_thousands_of_rows),
        cmocka_unit_test(cuda_devices_name_the_widest_head),
        cmocka_unit_test(the_same_call_gives_the_same_bits),
        cmocka_unit_test(a_text_does_not_see_its_neighbours),
        cmocka_unit_test(a_text_of_thousands_of_rows_works),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
