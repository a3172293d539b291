/*
 * test_attention_layout.c - ops/attention.h: rows may lie anywhere and gradients over what they are
 * of; neighbours, order and repetition change no bit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "support/attention.h"

/* One element behind where memory was given: rows that cannot be copied 16 bytes at a time. */
static void run_shifted(rig *r, csp_dtype S)
{
    const attention_case like = { 2, 1, 64, 2, { 33, 5 }, true, 0, AS_BOTH };

    rig_begin(r, 90);
    attention_setup s = attention_make(r, S, &like, 1.5);
    const csp_tensor more = attention_uniform(r, S, 1.5, 1, s.N * 128 + 1);

    s.q = csp_tensor_view((char *)more.data + (S == CSP_BF16 ? 2 : 4), S, 2,
                          (int64_t[]) { s.N, 128 });
    attention_check_forward(r, &s, &s);
}

static void rows_may_begin_at_any_element(void **state)
{
    rig_each_storage(*state, run_shifted);
}

static void check_overwritten(rig *r, const attention_setup *s)
{
    attention_grads g = attention_make_grads(r, s);

    g.g.q = g.g.dq = rig_copy(r, &s->q);
    g.g.k = g.g.dk = rig_copy(r, &s->k);
    g.g.v = g.g.dv = rig_copy(r, &s->v);
    assert_int_equal(csp_attention_bwd(r->be, &s->a, &g.g), CSP_OK);
    attention_check_grads(r, s, &g);
    rig_check_guards(r);
}

static void run_overwritten(rig *r, csp_dtype S)
{
    const int64_t some[] = { 2, FIRST_LONG, FIRST_LONG + 2, FIRST_BF16, FIRST_BF16 + 3 };

    for (int i = 0; i < 5; i++) {
        if (attention_is_for(r, S, some[i])) {
            rig_begin(r, (uint64_t)(70 + i));
            const attention_setup s = attention_make_case(r, S, some[i]);

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
    const attention_case like = {
        2, 2, 256, 3, { 33, 0, 50 }, true, S == CSP_BF16 ? 16400 : 8200, AS_BOTH
    };

    if (r->emulated && S == CSP_BF16) {
        return; /* chunks are cut for both types by the same code, here for twice the blocks */
    }
    rig_begin(r, 76);
    const attention_setup s = attention_make(r, S, &like, 1.0);

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
static csp_tensor side_by_side(rig *r, const attention_setup *s, const csp_tensor *more)
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
    if (!attention_is_for(r, S, which)) {
        return;
    }
    rig_begin(r, (uint64_t)(60 + 4 * which + apart));
    const attention_setup dense = attention_make_case(r, S, which);
    attention_setup s = dense;
    const int64_t E = s.a.E, width[] = { s.a.H * E, s.a.G * E, s.a.G * E };
    const int64_t from[] = { 0, width[0], width[0] + width[1], width[0] + 2 * width[1] };
    const csp_tensor rest = attention_uniform(r, S, 1.0, s.N, more),
                     wide = side_by_side(r, &s, &rest);
    attention_grads g = attention_make_grads(r, &dense);
    csp_tensor *const x[] = { &s.q, &s.k, &s.v }, *const to[] = { &g.g.q, &g.g.k, &g.g.v };
    csp_tensor *const grad[] = { &g.g.dq, &g.g.dk, &g.g.dv };
    csp_tensor over = rig_copy(r, &wide);

    for (int i = 0; i < 3; i++) {
        *grad[i] = i == apart ? rig_copy(r, x[i]) : csp_tensor_columns(&over, from[i], width[i]);
        *to[i] = *grad[i];
        *x[i] = i == apart ? *x[i] : csp_tensor_columns(&wide, from[i], width[i]);
    }
    attention_check_forward(r, &s, &dense);
    assert_int_equal(csp_attention_bwd(r->be, &s.a, &g.g), CSP_OK);
    for (int i = 0; i < 3; i++) {
        *grad[i] = i == apart ? *grad[i] : columns(r, &over, from[i], width[i]);
    }
    attention_check_grads(r, &s, &g);
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
    const attention_setup s = attention_make_case(r, CSP_F32, 2);
    attention_grads g = attention_make_grads(r, &s);
    csp_tensor o = attention_output(r, &s, s.a.H, s.a.E), lse = attention_lse(r, &s), k = s.k;

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
static attention_grads run_both(rig *r, const attention_setup *s, bool over)
{
    attention_grads g;

    memset(&g, 0, sizeof(g));
    g.g.q = over ? rig_copy(r, &s->q) : s->q;
    g.g.k = over ? rig_copy(r, &s->k) : s->k;
    g.g.v = over ? rig_copy(r, &s->v) : s->v;
    g.g.o = attention_output(r, s, s->a.H, s->a.E);
    g.g.lse = attention_lse(r, s);
    g.g.dq = over ? g.g.q : attention_output(r, s, s->a.H, s->a.E);
    g.g.dk = over ? g.g.k : attention_output(r, s, s->a.G, s->a.E);
    g.g.dv = over ? g.g.v : attention_output(r, s, s->a.G, s->a.E);
    assert_int_equal(csp_attention_fwd(r->be, &s->a, &s->q, &s->k, &s->v, &g.g.o, &g.g.lse),
                     CSP_OK);
    g.g.d_o = g.g.o;
    assert_int_equal(csp_attention_bwd(r->be, &s->a, &g.g), CSP_OK);
    return g;
}

/* Two calls of backward gave the same bits; so did their forward. */
static void check_same_results(rig *r, const attention_grads *a, const attention_grads *b)
{
    rig_check_same(r, &a->g.o, &b->g.o);
    rig_check_same(r, &a->g.lse, &b->g.lse);
    rig_check_same(r, &a->g.dq, &b->g.dq);
    rig_check_same(r, &a->g.dk, &b->g.dk);
    rig_check_same(r, &a->g.dv, &b->g.dv);
}

static void check_same_bits(rig *r, csp_dtype S, int64_t which)
{
    if (!attention_is_for(r, S, which)) {
        return;
    }
    rig_begin(r, 80 + (uint64_t)which);
    const attention_setup s = attention_make_case(r, S, which);
    const attention_grads a = run_both(r, &s, false), b = run_both(r, &s, false);

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
    attention_setup s = attention_make_case(r, S, which);
    const int64_t B = s.a.seq_start.dim[0] - 1;
    int32_t *order = rig_ints(r, B);
    const attention_grads as_they_lie = run_both(r, &s, false);

    for (int i = 1; i < 3; i++) {
        for (int64_t b = 0; b < B; b++) { /* turned, and backwards */
            order[b] = (int32_t)(i == 1 ? (b + 1) % B : B - 1 - b);
        }
        s.a.order = rig_input(r, CSP_I32, 1, &B, order);
        const attention_grads g = run_both(r, &s, i == 1);

        check_same_results(r, &as_they_lie, &g);
        rig_check_guards(r);
    }
}

static void run_orders(rig *r, csp_dtype S)
{
    const int64_t some[] = { 2, FIRST_LONG + 2, FIRST_BF16, FIRST_BF16 + 4 };

    for (int i = 0; i < 4; i++) {
        if (attention_is_for(r, S, some[i])) {
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
static attention_setup text_alone(const attention_setup *s, const attention_case *like, int64_t b,
                                  attention_setup own)
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
    const attention_setup s = attention_make(r, S, both, 2.0),
                          own = attention_make(r, S, &alone, 2.0);
    const attention_setup one = text_alone(&s, both, b, own);
    const attention_grads all = run_both(r, &s, false), g = run_both(r, &one, false);
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_may_begin_at_any_element),
        cmocka_unit_test(gradients_may_overwrite_q_k_and_v),
        cmocka_unit_test(
            gradients_may_overwrite_q_k_and_v_of_a_batch_that_claims_thousands_of_rows),
        cmocka_unit_test(q_k_and_v_may_be_columns_of_one_tensor),
        cmocka_unit_test(the_same_call_gives_the_same_bits),
        cmocka_unit_test(results_do_not_depend_on_the_order_of_work),
        cmocka_unit_test(a_text_does_not_see_its_neighbours),
        cmocka_unit_test(rows_apart_are_refused_where_they_cannot_be),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
