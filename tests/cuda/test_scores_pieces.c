/*
 * test_scores_pieces.c - scores of more rows and terms than are densified at a time, which
 * tests/ops/test_scores.c is too small for. Weights are small integers, so every sum is exact.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "ops/loss.h"
#include "scores_pick.h"
#include "support/rig.h"

/* Whether row stores term v: rare takes about 22 terms a row, else one in five. */
static bool is_stored(int64_t row, int64_t v, bool rare)
{
    return rare ? (v + row % 3) % 6000 == 5 : (31 * row + 17 * v) % 5 == 0;
}

static float weight_of(int64_t row, int64_t v)
{
    return (float)(1 + (row + v) % 3);
}

static csp_sparse make_rows(rig *r, int64_t rows, int64_t V, bool rare, int64_t *entries)
{
    int64_t *row_ptr = (int64_t *)(void *)rig_doubles(r, rows + 1), n = 0, at = 0;
    int32_t *term;
    float *weight;
    csp_sparse w;

    for (int64_t row = 0; row < rows; row++) {
        for (int64_t v = 0; v < V; v++) {
            n += is_stored(row, v, rare);
        }
    }
    term = rig_ints(r, n);
    weight = (float *)(void *)rig_ints(r, n);
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t v = 0; v < V; v++) {
            if (is_stored(row, v, rare)) {
                term[at] = (int32_t)v;
                weight[at++] = weight_of(row, v);
            }
        }
        row_ptr[row + 1] = at;
    }
    w.row_ptr = rig_input(r, CSP_I64, 1, (int64_t[]) { rows + 1 }, row_ptr);
    w.term = rig_input(r, CSP_I32, 1, &n, term);
    w.weight = rig_input(r, CSP_F32, 1, &n, weight);
    w.argmax = csp_tensor_none();
    w.vocab = V;
    w.active = (double)n / (double)rows;
    *entries = n;
    return w;
}

static float ds_of(int64_t q, int64_t p)
{
    return (float)((3 * q + p) % 5 - 2);
}

/* Adds scale · ds · weight of the other side at each entry of row; ds_of takes (q, p). */
static void check_gradient(rig *r, const csp_tensor *d, int64_t rows, int64_t others, int64_t V,
                           bool rare, bool of_q)
{
    const float *got = rig_host(r, d);
    int64_t at = 0;

    for (int64_t row = 0; row < rows; row++) {
        for (int64_t v = 0; v < V; v++) {
            float sum = 0.0f;

            if (!is_stored(row, v, rare)) {
                continue;
            }
            for (int64_t other = 0; other < others; other++) {
                if (is_stored(other, v, rare)) {
                    sum += (of_q ? ds_of(row, other) : ds_of(other, row)) * weight_of(other, v);
                }
            }
            assert_true(got[at++] == 0.5f * sum);
        }
    }
}

static void check_scores(rig *r, const csp_tensor *s, int64_t Q, int64_t P, int64_t V, bool rare)
{
    const float *got = rig_host(r, s);
    float *want = (float *)(void *)rig_ints(r, Q * P);

    for (int64_t v = 0; v < V; v++) {
        for (int64_t q = 0; q < Q; q++) {
            for (int64_t p = 0; is_stored(q, v, rare) && p < P; p++) {
                want[q * P + p] +=
                    is_stored(p, v, rare) ? 0.5f * weight_of(q, v) * weight_of(p, v) : 0.0f;
            }
        }
    }
    assert_memory_equal(got, want, (size_t)(Q * P) * sizeof(float));
}

static void check_product(rig *r, int64_t Q, int64_t P, int64_t V, bool rare)
{
    int64_t in_q, in_p;

    rig_begin(r, 0);
    const csp_sparse q = make_rows(r, Q, V, rare, &in_q), p = make_rows(r, P, V, rare, &in_p);
    csp_tensor s = rig_output(r, CSP_F32, 2, (int64_t[]) { Q, P });
    csp_tensor dq = rig_output(r, CSP_F32, 1, &in_q), dp = rig_output(r, CSP_F32, 1, &in_p);
    float *ds = (float *)(void *)rig_ints(r, Q * P);

    for (int64_t i = 0; i < Q * P; i++) {
        ds[i] = ds_of(i / P, i % P);
    }
    const csp_tensor slope = rig_input(r, CSP_F32, 2, s.dim, ds);

    assert_int_equal(pick_scores_gathered(Q, P, V, in_q, in_p), rare);
    assert_int_equal(csp_scores_fwd(r->be, &q, Q, &p, P, 0.5f, &s), CSP_OK);
    assert_int_equal(csp_scores_bwd(r->be, &slope, &q, &p, 0.5f, &dq, &dp), CSP_OK);
    check_scores(r, &s, Q, P, V, rare);
    check_gradient(r, &dq, Q, P, V, rare, true);
    check_gradient(r, &dp, P, Q, V, rare, false);
    rig_check_guards(r);
}

static void gathered_products_may_take_several_pieces(void **state)
{
    enum { Q = 70, P = 100, V = 130001 };

    assert_true(pick_scores_rows(Q, V) < Q);
    assert_true(pick_scores_terms(Q, V) < V && pick_scores_terms(P, V) < V);
    check_product(*state, Q, P, V, true);
}

static void dense_products_may_take_several_pieces(void **state)
{
    enum { Q = 4, P = 4000, V = 2201 };

    assert_true(pick_scores_terms(Q + P, V) < V);
    check_product(*state, Q, P, V, false);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gathered_products_may_take_several_pieces),
        cmocka_unit_test(dense_products_may_take_several_pieces),
    };
    char device[] = "cuda:0", *arguments[] = { argv[0], device, NULL };

    (void)argc;
    return rig_main(2, arguments, tests, sizeof(tests) / sizeof(tests[0]));
}
