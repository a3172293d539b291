/* test_attention.c - ops/attention.h: reference against its derivative, backend against it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/attention.h"
#include "ops/attention_cases.h"
#include "ops/rope.h"
#include "ref/attention.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/rig.h"

typedef attention_case shape;

typedef struct setup {
    csp_attention a;
    ref_attention ref;
    csp_dtype S; /* what q, k, v and all of their shapes are stored as */
    int64_t N, longest;
    csp_tensor q, k, v;
} setup;

static csp_tensor none(void)
{
    return csp_tensor_none();
}

/* Uniform numbers of -scale .. scale. */
static csp_tensor uniform(rig *r, csp_dtype S, double scale, int64_t rows, int64_t width)
{
    const csp_tensor t = rig_uniform(r, -scale, scale, 2, (int64_t[]) { rows, width });

    return rig_stored(r, S, &t);
}

/* scale widens the scores: exponents far apart are where a softmax can go wrong. */
static setup make(rig *r, csp_dtype S, const shape *like, double scale)
{
    const csp_rope rope = { .theta = 10000.0 };
    const int64_t B = like->B, H = like->H, G = like->G, E = like->E;
    setup s;

    memset(&s, 0, sizeof(s));
    s.S = S;
    for (int64_t b = 0; b < B; b++) {
        s.N += like->length[b];
        s.longest = like->length[b] > s.longest ? like->length[b] : s.longest;
    }
    s.a = (csp_attention) { .H = H, .G = G, .E = E, .longest = s.longest, .causal = like->causal };
    s.a.longest = like->claim > s.longest ? like->claim : s.longest;
    s.a.seq_start = rig_lengths(r, B, like->length);
    s.a.cos = rig_output(r, CSP_F32, 2, (int64_t[]) { s.a.longest + 2, E / 2 });
    s.a.sin = rig_output(r, CSP_F32, 2, (int64_t[]) { s.a.longest + 2, E / 2 });
    assert_int_equal(csp_rope_table(r->be, &rope, &s.a.cos, &s.a.sin), CSP_OK);
    s.q = uniform(r, S, scale, s.N, H * E);
    s.k = uniform(r, S, scale, s.N, G * E);
    s.v = rig_normal(r, S, 2, (int64_t[]) { s.N, G * E });
    s.ref = (ref_attention) { .seq_start = rig_host(r, &s.a.seq_start),
                              .cos_table = rig_as_doubles(r, &s.a.cos),
                              .sin_table = rig_as_doubles(r, &s.a.sin),
                              .B = B,
                              .H = H,
                              .G = G,
                              .E = E,
                              .causal = like->causal };
    return s;
}

/* Scores of bf16 rows stay so small that their own rounding is below the limit of the norm. */
static setup make_case(rig *r, csp_dtype S, int64_t i)
{
    return make(r, S, &attention_cases[i], i % 2 == 0 ? 1.5 : S == CSP_BF16 ? 2.0 : 4.0);
}

/* What other cases do is time, where a device is emulated. */
static bool is_for(const rig *r, csp_dtype S, int64_t i)
{
    const int as = S == CSP_BF16 ? AS_BF16 : AS_F32;

    return !r->emulated || (attention_cases[i].emulated & as) != 0;
}

static csp_tensor output(rig *r, const setup *s, int64_t heads, int64_t width)
{
    return rig_output(r, s->S, 2, (int64_t[]) { s->N, heads * width });
}

static csp_tensor lse_output(rig *r, const setup *s)
{
    return rig_output(r, CSP_F32, 2, (int64_t[]) { s->N, s->a.H });
}

/*
 * A result is within its bound, and bf16 ones also within the norm's limit; where a text of one row
 * leaves nothing but rounding of a gradient there is no norm.
 */
static void check_result(rig *r, const setup *s, const char *name, const csp_tensor *got,
                         const double *want, const double *mag, double bound)
{
    const int64_t n = csp_tensor_count(got);
    const float *x = rig_floats(r, got);

    assert_true(worst_ratio(name, x, want, mag, n, bound) <= 1.0);
    if (got->dtype == CSP_BF16 && s->longest > 1) {
        assert_true(norm_distance(x, want, n) <= BF16_NORM_LIMIT);
    }
}

/* The op is given q, k and v of s; dense has them as the reference reads them. */
static void check_forward_of(rig *r, const setup *s, const setup *dense)
{
    const int64_t H = s->a.H, E = s->a.E, n = s->N * H * E;
    csp_tensor o = output(r, s, H, E), lse = lse_output(r, s);
    double *want = rig_doubles(r, n), *mag = rig_doubles(r, n);
    double *want_lse = rig_doubles(r, s->N * H), *lse_mag = rig_doubles(r, s->N * H);
    /* A score: two rotations of 3 roundings, E products, the scale. Then its exponential (4), the
     * subtraction of the maximum, T additions, the division. With bf16 storage rotated q and k are
     * rounded to it, which moves scores and lse by 2 units of their sizes (in the mags); so are
     * exponentials and o. */
    const double bound =
        (double)(E + s->longest + 20) * UNIT_F32 + (s->S == CSP_BF16 ? 2.0 * UNIT_BF16 : 0.0);

    ref_attention_fwd(&s->ref, rig_as_doubles(r, &dense->q), rig_as_doubles(r, &dense->k),
                      rig_as_doubles(r, &dense->v), want, mag, want_lse, lse_mag);
    assert_int_equal(csp_attention_fwd(r->be, &s->a, &s->q, &s->k, &s->v, &o, &lse), CSP_OK);
    check_result(r, s, "o", &o, want, mag, bound);
    check_result(r, s, "lse", &lse, want_lse, lse_mag, bound);
    rig_check_guards(r);
}

static void check_forward(rig *r, const setup *s)
{
    check_forward_of(r, s, s);
}

static void run_forward_cases(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < ATTENTION_CASES; i++) {
        if (is_for(r, S, i)) {
            rig_begin(r, (uint64_t)i);
            const setup s = make_case(r, S, i);

            check_forward(r, &s);
        }
    }
}

static void forward_matches_the_reference(void **state)
{
    rig_each_storage(*state, run_forward_cases);
}

/* One element behind where memory was given: rows that cannot be copied 16 bytes at a time. */
static void run_shifted(rig *r, csp_dtype S)
{
    const shape like = { 2, 1, 64, 2, { 33, 5 }, true, 0, AS_BOTH };

    rig_begin(r, 90);
    setup s = make(r, S, &like, 1.5);
    const csp_tensor more = uniform(r, S, 1.5, 1, s.N * 128 + 1);

    s.q = csp_tensor_view((char *)more.data + (S == CSP_BF16 ? 2 : 4), S, 2,
                          (int64_t[]) { s.N, 128 });
    check_forward(r, &s);
}

static void rows_may_begin_at_any_element(void **state)
{
    rig_each_storage(*state, run_shifted);
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
    g.g.lse = lse_output(r, s);
    g.g.d_o = rig_normal(r, s->S, 2, (int64_t[]) { s->N, s->a.H * s->a.E });
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
    /* A score's roundings, those of dP and delta (E each), then the sum over T rows and the
     * group's heads, and the rotation back. With bf16 storage scores move by 2 units of their sizes
     * (in the mags), and these are rounded: dS, q or k, dq or dk; or P and dv. */
    const double bound = (double)(2 * s->a.E + s->longest * (s->a.H / s->a.G) + 30) * UNIT_F32 +
                         (s->S == CSP_BF16 ? 3.0 * UNIT_BF16 : 0.0);

    check_result(r, s, "dq", &g->g.dq, g->want[0], g->mag[0], bound);
    check_result(r, s, "dk", &g->g.dk, g->want[1], g->mag[1], bound);
    check_result(r, s, "dv", &g->g.dv, g->want[2], g->mag[2], bound);
}

static void run_backward_cases(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < ATTENTION_CASES; i++) {
        if (is_for(r, S, i)) {
            rig_begin(r, (uint64_t)(50 + i));
            const setup s = make_case(r, S, i);
            grads g = make_grads(r, &s);

            assert_int_equal(csp_attention_bwd(r->be, &s.a, &g.g), CSP_OK);
            check_grads(r, &s, &g);
            rig_check_guards(r);
        }
    }
}

static void backward_matches_the_reference(void **state)
{
    rig_each_storage(*state, run_backward_cases);
}

static void check_overwritten(rig *r, const setup *s)
{
    grads g = make_grads(r, s);

    g.g.q = g.g.dq = rig_copy(r, &s->q);
    g.g.k = g.g.dk = rig_copy(r, &s->k);
    g.g.v = g.g.dv = rig_copy(r, &s->v);
    assert_int_equal(csp_attention_bwd(r->be, &s->a, &g.g), CSP_OK);
    check_grads(r, s, &g);
    rig_check_guards(r);
}

static void run_overwritten(rig *r, csp_dtype S)
{
    const int64_t some[] = { 2, FIRST_LONG, FIRST_LONG + 2, FIRST_BF16, FIRST_BF16 + 3 };

    for (int i = 0; i < 5; i++) {
        if (is_for(r, S, some[i])) {
            rig_begin(r, (uint64_t)(70 + i));
            const setup s = make_case(r, S, some[i]);

            check_overwritten(r, &s);
        }
    }
}

static void gradients_may_overwrite_q_k_and_v(void **state)
{
    rig_each_storage(*state, run_overwritten);
}

/* So many rows that CUDA devices take one text at a time: dk and dv of a text wait in scratch. */
static void run_claimed_rows(rig *r, csp_dtype S)
{
    const shape like = { 2, 2, 256, 3, { 33, 0, 50 }, true, S == CSP_BF16 ? 16400 : 8200, AS_BOTH };

    if (r->emulated && S == CSP_BF16) {
        return; /* chunks are cut for both types by the same code, here for twice the blocks */
    }
    rig_begin(r, 76);
    const setup s = make(r, S, &like, 1.0);

    check_overwritten(r, &s);
}

static void gradients_may_overwrite_q_k_and_v_of_a_batch_that_claims_thousands_of_rows(void **state)
{
    rig_each_storage(*state, run_claimed_rows);
}

/* Columns from .. from+width-1 of t as a tensor of their own. */
static csp_tensor columns(rig *r, const csp_tensor *t, int64_t from, int64_t width)
{
    const int64_t rows = t->dim[0], bytes = t->dtype == CSP_BF16 ? 2 : 4;
    const char *all = rig_host(r, t);
    char *some = rig_host(r, t); /* its first part is written over */

    for (int64_t n = 0; n < rows; n++) {
        memcpy(some + n * width * bytes, all + (n * t->dim[1] + from) * bytes,
               (size_t)(width * bytes));
    }
    return rig_input(r, t->dtype, 2, (int64_t[]) { rows, width }, some);
}

/* The columns of q, k, v and then some more, side by side. */
static csp_tensor side_by_side(rig *r, const setup *s, const csp_tensor *more)
{
    const csp_tensor part[] = { s->q, s->k, s->v, *more };
    const int64_t wide = (s->a.H + 2 * s->a.G) * s->a.E + more->dim[1];
    const int64_t bytes = s->S == CSP_BF16 ? 2 : 4;
    char *all = (char *)rig_doubles(r, s->N * wide);
    int64_t from = 0;

    for (int i = 0; i < 4; i++) {
        const char *host = rig_host(r, &part[i]);
        const int64_t width = part[i].dim[1] * bytes;

        for (int64_t n = 0; n < s->N; n++) {
            memcpy(all + n * wide * bytes + from, host + n * width, (size_t)width);
        }
        from += width;
    }
    return rig_input(r, s->S, 2, (int64_t[]) { s->N, wide }, all);
}

/*
 * q, k, v as columns of one tensor that has more columns, and their gradients over them; but for
 * the one whose number is apart, which is a tensor of its own.
 */
static void check_columns(rig *r, csp_dtype S, int64_t which, int64_t more, int apart)
{
    if (!is_for(r, S, which)) {
        return;
    }
    rig_begin(r, (uint64_t)(60 + 4 * which + apart));
    const setup dense = make_case(r, S, which);
    setup s = dense;
    const int64_t E = s.a.E, width[] = { s.a.H * E, s.a.G * E, s.a.G * E };
    const int64_t from[] = { 0, width[0], width[0] + width[1], width[0] + 2 * width[1] };
    const csp_tensor rest = uniform(r, S, 1.0, s.N, more), wide = side_by_side(r, &s, &rest);
    grads g = make_grads(r, &dense);
    csp_tensor *const x[] = { &s.q, &s.k, &s.v }, *const to[] = { &g.g.q, &g.g.k, &g.g.v };
    csp_tensor *const grad[] = { &g.g.dq, &g.g.dk, &g.g.dv };
    csp_tensor over = rig_copy(r, &wide);

    for (int i = 0; i < 3; i++) {
        *grad[i] = i == apart ? rig_copy(r, x[i]) : csp_tensor_columns(&over, from[i], width[i]);
        *to[i] = *grad[i];
        *x[i] = i == apart ? *x[i] : csp_tensor_columns(&wide, from[i], width[i]);
    }
    check_forward_of(r, &s, &dense);
    assert_int_equal(csp_attention_bwd(r->be, &s.a, &g.g), CSP_OK);
    for (int i = 0; i < 3; i++) {
        *grad[i] = i == apart ? *grad[i] : columns(r, &over, from[i], width[i]);
    }
    check_grads(r, &s, &g);
    over = columns(r, &over, from[3], more);
    rig_check_same(r, &over, &rest);
    rig_check_guards(r);
}

static void run_columns(rig *r, csp_dtype S)
{
    const int64_t some[] = { 2, FIRST_LONG, FIRST_BF16, FIRST_BF16 + 1 };

    for (int i = 0; i < 4; i++) {
        check_columns(r, S, some[i], 8, i);
    }
    check_columns(r, S, FIRST_BF16, 3, 1); /* rows that cannot be copied 16 bytes at a time */
    check_columns(r, S, FIRST_LONG, 8, 2);
}

static void q_k_and_v_may_be_columns_of_one_tensor(void **state)
{
    rig *r = *state;

    if (r->be->apart) {
        rig_each_storage(r, run_columns);
    }
}

/* Rows apart that a backend has not, that overlap, and gradients that lie otherwise. */
static void rows_apart_are_refused_where_they_cannot_be(void **state)
{
    rig *r = *state;

    rig_begin(r, 79);
    const setup s = make_case(r, CSP_F32, 2);
    grads g = make_grads(r, &s);
    csp_tensor o = output(r, &s, s.a.H, s.a.E), lse = lse_output(r, &s), k = s.k;

    k.apart = k.dim[1] - 1;
    if (!r->be->apart) {
        assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &k, &s.v, &o, &lse),
                         CSP_ERR_UNSUPPORTED);
        assert_non_null(strstr(csp_error_text(), "attention: the rows of k lie apart, which cpu"));
    } else {
        assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &k, &s.v, &o, &lse), CSP_ERR_SHAPE);
        assert_non_null(strstr(csp_error_text(), "attention: the rows of k overlap"));
        g.g.dv.apart = s.v.dim[1] + 8;
        assert_int_equal(csp_attention_bwd(r->be, &s.a, &g.g), CSP_ERR_SHAPE);
        assert_non_null(strstr(csp_error_text(), "attention: the rows of dv lie"));
    }
    rig_check_untouched(r, &o);
    rig_check_untouched(r, &lse);
    rig_check_untouched(r, &g.g.dq);
}

/* Both directions, do being o; gradients over q, k and v, or apart from them. */
static grads run_both(rig *r, const setup *s, bool over)
{
    grads g;

    memset(&g, 0, sizeof(g));
    g.g.q = over ? rig_copy(r, &s->q) : s->q;
    g.g.k = over ? rig_copy(r, &s->k) : s->k;
    g.g.v = over ? rig_copy(r, &s->v) : s->v;
    g.g.o = output(r, s, s->a.H, s->a.E);
    g.g.lse = lse_output(r, s);
    g.g.dq = over ? g.g.q : output(r, s, s->a.H, s->a.E);
    g.g.dk = over ? g.g.k : output(r, s, s->a.G, s->a.E);
    g.g.dv = over ? g.g.v : output(r, s, s->a.G, s->a.E);
    assert_int_equal(csp_attention_fwd(r->be, &s->a, &s->q, &s->k, &s->v, &g.g.o, &g.g.lse),
                     CSP_OK);
    g.g.d_o = g.g.o;
    assert_int_equal(csp_attention_bwd(r->be, &s->a, &g.g), CSP_OK);
    return g;
}

/* Two calls of backward gave the same bits; so did their forward. */
static void check_same_results(rig *r, const grads *a, const grads *b)
{
    rig_check_same(r, &a->g.o, &b->g.o);
    rig_check_same(r, &a->g.lse, &b->g.lse);
    rig_check_same(r, &a->g.dq, &b->g.dq);
    rig_check_same(r, &a->g.dk, &b->g.dk);
    rig_check_same(r, &a->g.dv, &b->g.dv);
}

static void check_same_bits(rig *r, csp_dtype S, int64_t which)
{
    if (!is_for(r, S, which)) {
        return;
    }
    rig_begin(r, 80 + (uint64_t)which);
    const setup s = make_case(r, S, which);
    const grads a = run_both(r, &s, false), b = run_both(r, &s, false);

    check_same_results(r, &a, &b);
}

static void run_same_bits(rig *r, csp_dtype S)
{
    check_same_bits(r, S, 4);
    check_same_bits(r, S, FIRST_LONG);
    check_same_bits(r, S, FIRST_BF16 + 2);
    check_same_bits(r, S, FIRST_BF16 + 3);
}

static void the_same_call_gives_the_same_bits(void **state)
{
    rig_each_storage(*state, run_same_bits);
}

/* The batch in two orders, one of them with gradients over q, k and v. */
static void check_orders(rig *r, csp_dtype S, int64_t which)
{
    setup s = make_case(r, S, which);
    const int64_t B = s.a.seq_start.dim[0] - 1;
    int32_t *order = rig_ints(r, B);
    const grads as_they_lie = run_both(r, &s, false);

    for (int i = 1; i < 3; i++) {
        for (int64_t b = 0; b < B; b++) { /* turned, and backwards */
            order[b] = (int32_t)(i == 1 ? (b + 1) % B : B - 1 - b);
        }
        s.a.order = rig_input(r, CSP_I32, 1, &B, order);
        const grads g = run_both(r, &s, i == 1);

        check_same_results(r, &as_they_lie, &g);
        rig_check_guards(r);
    }
}

static void run_orders(rig *r, csp_dtype S)
{
    const int64_t some[] = { 2, FIRST_LONG + 2, FIRST_BF16, FIRST_BF16 + 4 };

    for (int i = 0; i < 4; i++) {
        if (is_for(r, S, some[i])) {
            rig_begin(r, (uint64_t)(100 + i));
            check_orders(r, S, some[i]);
        }
    }
}

static void results_do_not_depend_on_the_order_of_work(void **state)
{
    rig_each_storage(*state, run_orders);
}

/* Text b of a batch as a batch of its own, of what the batch's calls were given. */
static setup text_alone(const setup *s, const attention_case *like, int64_t b, setup own)
{
    int64_t first = 0;

    for (int64_t i = 0; i < b; i++) {
        first += like->length[i];
    }
    own.q = csp_tensor_rows(&s->q, first, like->length[b]);
    own.k = csp_tensor_rows(&s->k, first, like->length[b]);
    own.v = csp_tensor_rows(&s->v, first, like->length[b]);
    return own;
}

/* Text b has the bits it has alone; alone, blocks are cut for it and not for the longest text. */
static void check_neighbours(rig *r, csp_dtype S, const attention_case *both, int64_t b)
{
    attention_case alone = *both;
    int64_t first = 0;

    alone.B = 1;
    alone.length[0] = both->length[b];
    const setup s = make(r, S, both, 2.0), own = make(r, S, &alone, 2.0);
    const setup one = text_alone(&s, both, b, own);
    const grads all = run_both(r, &s, false), g = run_both(r, &one, false);
    const csp_tensor *const of_all[] = { &all.g.o, &all.g.lse, &all.g.dq, &all.g.dk, &all.g.dv };
    const csp_tensor *const of_one[] = { &g.g.o, &g.g.lse, &g.g.dq, &g.g.dk, &g.g.dv };

    for (int64_t i = 0; i < b; i++) {
        first += both->length[i];
    }
    for (int i = 0; i < 5; i++) {
        const csp_tensor part = csp_tensor_rows(of_all[i], first, both->length[b]);

        rig_check_same(r, &part, of_one[i]);
    }
}

/* On CUDA devices the neighbours decide how many warps a text gets. */
static void run_neighbours(rig *r, csp_dtype S)
{
    static const attention_case mixed[] = {
        { 12, 12, 16, 4, { 12, 16, 3, 9 }, true, 0, AS_BOTH },
        { 12, 12, 16, 2, { 27, 12 }, true, 0, AS_BOTH },
        { 4, 2, 16, 2, { 20, 45 }, true, 0, AS_BOTH },
        { 6, 3, 16, 2, { 100, 12 }, false, 0, AS_BOTH },
        { 2, 1, 32, 3, { 12, 36, 200 }, true, 0, AS_BOTH },
        { 12, 12, 64, 3, { 14, 2, 10 }, true, 0, AS_BOTH },
    };

    for (size_t i = 0; i < sizeof(mixed) / sizeof(mixed[0]); i++) {
        rig_begin(r, 110 + i);
        check_neighbours(r, S, &mixed[i], 1);
    }
}

static void a_text_does_not_see_its_neighbours(void **state)
{
    rig_each_storage(*state, run_neighbours);
}

static void a_text_of_thousands_of_rows_works(void **state)
{
    rig *r = *state;
    const shape like = { 1, 1, 4, 1, { r->emulated ? 1100 : 4100 }, true, 0, AS_BOTH };

    rig_begin(r, 73);
    const setup s = make(r, CSP_F32, &like, 1.0);
    csp_tensor o = output(r, &s, 1, 4), lse = lse_output(r, &s);
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
    const setup s = make_case(r, CSP_F32, 2);
    grads g = make_grads(r, &s);
    csp_tensor o = output(r, &s, s.a.H, s.a.E), lse = lse_output(r, &s), absent = none();
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
    const setup s = make_case(r, CSP_BF16, 4), f = make_case(r, CSP_F32, 4);
    csp_tensor o = output(r, &s, s.a.H, s.a.E), lse = lse_output(r, &s);

    if (!r->be->bf16) {
        assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &s.k, &s.v, &o, &lse),
                         CSP_ERR_UNSUPPORTED);
        assert_non_null(strstr(csp_error_text(), "bf16 needs a CUDA device"));
    } else {
        assert_int_equal(csp_attention_fwd(r->be, &s.a, &s.q, &f.k, &s.v, &o, &lse), CSP_ERR_SHAPE);
        assert_non_null(strstr(csp_error_text(), "attention: k must be bf16"));
        assert_int_equal(csp_attention_fwd(r->be, &f.a, &f.q, &f.k, &f.v, &o, &lse), CSP_ERR_SHAPE);
        grads g = make_grads(r, &s);

        g.g.dk = output(r, &f, f.a.G, f.a.E);
        assert_int_equal(csp_attention_bwd(r->be, &s.a, &g.g), CSP_ERR_SHAPE);
        rig_check_untouched(r, &g.g.dq);
    }
    rig_check_untouched(r, &o);
    rig_check_untouched(r, &lse);
}

static void cuda_devices_name_the_widest_head(void **state)
{
    rig *r = *state;
    const shape like = { 1, 1, 258, 1, { 3 }, true, 0, AS_BOTH };

    if (strncmp(r->be->name, "cuda", 4) != 0) {
        skip();
    }
    rig_begin(r, 77);
    const setup s = make(r, CSP_F32, &like, 1.0);
    csp_tensor o = output(r, &s, 1, 258), lse = lse_output(r, &s);
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
        const shape like = { 4, 2, 4, 3, { 3, 0, 5 }, causal == 1, 0, AS_BOTH };

        rig_begin(r, 75);
        const setup s = make(r, CSP_F32, &like, 1.0);
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
        cmocka_unit_test(rows_may_begin_at_any_element),
        cmocka_unit_test(backward_matches_the_reference),
        cmocka_unit_test(gradients_may_overwrite_q_k_and_v),
        cmocka_unit_test(
            gradients_may_overwrite_q_k_and_v_of_a_batch_that_claims_thousands_of_rows),
        cmocka_unit_test(q_k_and_v_may_be_columns_of_one_tensor),
        cmocka_unit_test(a_call_has_one_storage_type),
        cmocka_unit_test(cuda_devices_name_the_widest_head),
        cmocka_unit_test(the_same_call_gives_the_same_bits),
        cmocka_unit_test(results_do_not_depend_on_the_order_of_work),
        cmocka_unit_test(a_text_does_not_see_its_neighbours),
        cmocka_unit_test(a_text_of_thousands_of_rows_works),
        cmocka_unit_test(rows_apart_are_refused_where_they_cannot_be),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
