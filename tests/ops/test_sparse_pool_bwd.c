/*
 * test_sparse_pool_bwd.c - ops/sparse_pool.h, backward: the references against their derivatives,
 * the backend against the references.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/pool_back.h"
#include "support/sparse.h"

/* Rows as stored, at any density: the saved positions decide, no logit is formed again. */
static void max_gradients_match(rig *r, csp_dtype S, int64_t i, double density, csp_pool_way last)
{
    static const struct {
        int64_t B, T, V, D;
    } shapes[] = { { 1, 1, 1, 1 }, { 3, 7, 5000, 65 }, { 12, 20, 700, 64 }, { 2, 3, 33, 15 } };
    /* More terms than a tile has (2048); the CPU's blocks are of more. */
    const int64_t V = r->emulated && shapes[i].V > 2100 ? 2100 : shapes[i].V;
    const int64_t B = shapes[i].B, T = shapes[i].T, N = B * T, D = shapes[i].D;
    int64_t length[12];

    rig_begin(r, (uint64_t)i);
    for (int64_t b = 0; b < B; b++) {
        length[b] = T;
    }
    const csp_sparse rows = rig_sparse_random(r, B, V, density, T);
    const csp_tensor seq_start = rig_lengths(r, B, length);
    const pool_setup s = pool_of_tensors(
        r, rig_normal(r, S, 2, (int64_t[]) { N, D }), rig_normal(r, S, 2, (int64_t[]) { V, D }),
        seq_start, pool_keep_of(r, &rows, &seq_start, N), csp_tensor_none(), 0.3f, CSP_POOL_MAX);

    for (int way = CSP_POOL_AUTO; way <= (int)last; way++) {
        pool_back g = pool_make_back(r, &s, rows);

        if (!pool_takes(r, (csp_pool_way)way)) {
            continue;
        }
        g.way = (csp_pool_way)way;
        assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_OK);
        pool_check_back(r, &s, &g, V, B);
    }
    assert_true(pool_takes(r, CSP_POOL_AUTO));
}

static void max_gradients_match_the_reference_at_any_density_in(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < 4; i++) {
        max_gradients_match(r, S, i, 1.0, CSP_POOL_AUTO);
        max_gradients_match(r, S, i, 0.3, CSP_POOL_CUSPARSE);
        max_gradients_match(r, S, i, 0.01, CSP_POOL_AUTO);
    }
}

static void max_gradients_match_the_reference_at_any_density(void **state)
{
    rig_each_storage(*state, max_gradients_match_the_reference_at_any_density_in);
}

/* One text has all entries: more than are sorted at once. */
static void one_full_row_among_empty_ones_matches_in(rig *r, csp_dtype S)
{
    enum { TEXTS = 9, LENGTH = 5, TERMS = 9000, WIDTH = 20 };
    int64_t length[TEXTS], row_ptr[TEXTS + 1] = { 0 };
    csp_sparse rows;

    rig_begin(r, 1);
    rows = rig_sparse_random(r, 1, TERMS, 1.0, LENGTH);
    for (int b = 0; b < TEXTS; b++) {
        length[b] = LENGTH;
        row_ptr[b + 1] = b < 4 ? 0 : TERMS;
    }
    rows.row_ptr = rig_input(r, CSP_I64, 1, (int64_t[]) { TEXTS + 1 }, row_ptr);
    const pool_setup s = pool_of_tensors(
        r, rig_normal(r, S, 2, (int64_t[]) { TEXTS * LENGTH, WIDTH }),
        rig_normal(r, S, 2, (int64_t[]) { TERMS, WIDTH }), rig_lengths(r, TEXTS, length),
        rig_mask(r, TEXTS * LENGTH), csp_tensor_none(), 1.0f, CSP_POOL_MAX);
    pool_back g = pool_make_back(r, &s, rows);

    assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_OK);
    pool_check_back(r, &s, &g, TERMS, 1);
}

static void one_full_row_among_empty_ones_matches(void **state)
{
    rig_each_storage(*state, one_full_row_among_empty_ones_matches_in);
}

static void sum_gradients_match_the_reference_in(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < POOL_CASES; i++) {
        rig_begin(r, (uint64_t)i);
        pool_setup s = pool_exact(r, i, CSP_POOL_SUM, S);
        csp_sparse w = rig_sparse_output(r, s.ref.B, s.ref.B * s.ref.V, s.ref.V);
        pool_back g;

        s.ref.bf16 = S == CSP_BF16;
        assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
        g = pool_make_back(r, &s, w);
        assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_OK);
        pool_check_back(r, &s, &g, s.ref.V, s.ref.N);
    }
}

static void sum_gradients_match_the_reference(void **state)
{
    rig_each_storage(*state, sum_gradients_match_the_reference_in);
}

/*
 * Tiles of rows on every backend, and of terms but for sums in bf16, where that would be many. For
 * maxima a device has two tiles of half the size.
 */
static void several_tiles_match(rig *r, csp_dtype S, csp_pool_kind pooling)
{
    enum { TEXTS = 3 };
    const bool many = S == CSP_BF16 && pooling == CSP_POOL_SUM;
    const int64_t half = pooling == CSP_POOL_MAX ? 2 : 1;
    const int64_t ROWS = (S == CSP_BF16 ? 8300 : 4200) / half, TERMS = many ? 60 : 2100;
    const int64_t length[TEXTS] = { 50, ROWS - 70, 20 };

    rig_begin(r, 2);
    const csp_tensor h = rig_uniform(r, 0.5, 1.0, 2, (int64_t[]) { ROWS, 1 });
    const csp_tensor e = rig_uniform(r, 0.5, 1.0, 2, (int64_t[]) { TERMS, 1 });
    pool_setup s = pool_of_tensors(r, rig_stored(r, S, &h), rig_stored(r, S, &e),
                                   rig_lengths(r, TEXTS, length), pool_most_rows(r, ROWS),
                                   csp_tensor_none(), 0.5f, pooling);
    pool_back g = pool_make_back(r, &s, rig_sparse_random(r, TEXTS, TERMS, 0.5, 20));

    g.way =
        pooling == CSP_POOL_MAX && pool_takes(r, CSP_POOL_TILES) ? CSP_POOL_TILES : CSP_POOL_AUTO;
    s.ref.bf16 = S == CSP_BF16;
    assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_OK);
    pool_check_back(r, &s, &g, TERMS, ROWS);
    assert_true(pool_takes(r, CSP_POOL_AUTO));
}

static void gradients_of_several_tiles_match_in(rig *r, csp_dtype S)
{
    several_tiles_match(r, S, CSP_POOL_SUM);
    several_tiles_match(r, S, CSP_POOL_MAX);
}

static void gradients_of_several_tiles_match(void **state)
{
    rig_each_storage(*state, gradients_of_several_tiles_match_in);
}

enum { GB = 2, GN = 6, GV = 5, GD = 3 };

typedef struct derivative {
    ref_pool p;
    bool is_sum;
    double c[GB * GV]; /* loss = sum of c w */
} derivative;

static double loss_of(const derivative *d)
{
    double w[GB * GV], loss = 0.0;

    if (d->is_sum) {
        ref_pool_sum_fwd(&d->p, w, NULL);
    } else {
        ref_pool_max_fwd(&d->p, w, NULL, NULL);
    }
    for (int i = 0; i < GB * GV; i++) {
        loss += d->c[i] * w[i];
    }
    return loss;
}

static double loss_of_h(const double *h, const void *context)
{
    derivative d = *(const derivative *)context;

    d.p.h = h;
    return loss_of(&d);
}

static double loss_of_e(const double *e, const void *context)
{
    derivative d = *(const derivative *)context;

    d.p.e = e;
    return loss_of(&d);
}

/* Whether all logits of kept rows are away from 0 and from each other in their text. */
static bool away_from_kinks(const ref_pool *p)
{
    double mag;

    for (int64_t v = 0; v < p->V; v++) {
        for (int64_t n = 0; n < p->N; n++) {
            const double z = ref_pool_logit(p, n, v, &mag);

            for (int64_t m = 0; m < n; m++) {
                if (fabs(z - ref_pool_logit(p, m, v, &mag)) < 1e-3) {
                    return false;
                }
            }
            if (fabs(z) < 1e-3) {
                return false;
            }
        }
    }
    return true;
}

static void the_references_are_their_own_derivatives(void **state)
{
    rig *r = *state;
    static const int32_t seq_start[] = { 0, 2, GN };
    static const uint8_t keep[GN] = { 1, 1, 1, 0, 1, 1 }, exclude[GV] = { 0, 0, 1, 0, 0 };
    bool away = false;

    for (uint64_t seed = 0; !away; seed++) {
        rig_begin(r, seed);
        const csp_tensor th = rig_normal(r, CSP_F32, 2, (int64_t[]) { GN, GD });
        const csp_tensor te = rig_normal(r, CSP_F32, 2, (int64_t[]) { GV, GD });
        double *h = rig_as_doubles(r, &th), *e = rig_as_doubles(r, &te);
        derivative d = { .p = { h, e, exclude, seq_start, keep, 0.7, GB, GN, GV, GD, false } };

        away = away_from_kinks(&d.p);
        for (int i = 0; away && i < GB * GV; i++) {
            d.c[i] = 1.0 + 0.1 * i;
        }
        for (int is_sum = 0; away && is_sum <= 1; is_sum++) {
            double w[GB * GV], dh[GN * GD], de[GV * GD] = { 0.0 }, mag[GN * GD + GV * GD];
            int32_t arg[GB * GV];

            d.is_sum = is_sum != 0;
            ref_pool_max_fwd(&d.p, w, arg, NULL);
            memset(mag, 0, sizeof(mag));
            if (d.is_sum) {
                ref_pool_sum_bwd(&d.p, d.c, dh, mag, de, mag + GN * GD);
            } else {
                ref_pool_max_bwd(&d.p, w, arg, d.c, dh, mag, de, mag + GN * GD);
            }
            assert_true(gradient_distance(loss_of_h, &d, h, dh, GN * GD) <= GRADIENT_LIMIT);
            assert_true(gradient_distance(loss_of_e, &d, e, de, GV * GD) <= GRADIENT_LIMIT);
        }
    }
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;

    rig_begin(r, 0);
    const pool_setup s = pool_random(r, 1, CSP_POOL_MAX, CSP_F32);
    pool_back g = pool_make_back(r, &s, rig_sparse_random(r, s.ref.B, s.ref.V, 0.5, 1));
    const csp_tensor dh = g.dh, de = g.de, dw = g.dw;

    g.de = rig_accumulated(r, 2, (int64_t[]) { s.ref.V + 1, s.ref.D });
    assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_ERR_SHAPE);
    g.de = de;
    g.dh = rig_output(r, CSP_F32, 2, (int64_t[]) { s.ref.N, s.ref.D + 1 });
    assert_int_equal(pool_backward(r->be, &s, &g, false), CSP_ERR_SHAPE);
    g.dh = rig_output(r, CSP_F32, 2, (int64_t[]) { s.ref.N + 1, s.ref.D });
    assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_ERR_SHAPE); /* h has another height */
    g.dh = dh;
    g.dw.dim[0]--;
    assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_ERR_SHAPE);
    g.dw = dw;
    g.entries = -1;
    assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_ERR_ARGUMENT);
    g.entries = 0;
    assert_int_equal(csp_sparse_pool_choose(r->be, (csp_pool_way)(CSP_POOL_CUSPARSE + 1)),
                     CSP_ERR_ARGUMENT);
    g.rows.argmax = csp_tensor_none();
    assert_int_equal(pool_backward(r->be, &s, &g, true), CSP_ERR_SHAPE);
    rig_check_untouched(r, &dh);
    rig_check_untouched(r, &de);
}

/* Every allocation of a fresh backend fails once; the next call succeeds. */
static void failing_memory_is_reported_in(rig *r, csp_dtype S)
{
    for (int pooling = CSP_POOL_MAX; pooling <= CSP_POOL_SUM; pooling++) {
        rig_begin(r, 2);
        const pool_setup s = pool_random(r, 2, (csp_pool_kind)pooling, S);
        csp_sparse w = rig_sparse_output(r, s.ref.B, s.ref.B * s.ref.V, s.ref.V);
        csp_status status = CSP_ERR_MEMORY;
        csp_backend *fresh;
        pool_back g;

        assert_int_equal(pool_forward(r, &s, 0, &w), CSP_OK);
        g = pool_make_back(r, &s, w);
        assert_int_equal(csp_backend_sync(r->be), CSP_OK);
        for (long n = 1; status != CSP_OK; n++) {
            assert_int_equal(csp_backend_create(r->be->name, 2, &fresh), CSP_OK);
            csp_fault_arm(n);
            status = pool_backward(fresh, &s, &g, true);
            csp_fault_arm(0);
            assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
            assert_true(n < 100);
            csp_backend_destroy(fresh);
        }
    }
}

static void failing_memory_is_reported(void **state)
{
    rig_each_storage(*state, failing_memory_is_reported_in);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_references_are_their_own_derivatives),
        cmocka_unit_test(max_gradients_match_the_reference_at_any_density),
        cmocka_unit_test(one_full_row_among_empty_ones_matches),
        cmocka_unit_test(sum_gradients_match_the_reference),
        cmocka_unit_test(gradients_of_several_tiles_match),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
        cmocka_unit_test(failing_memory_is_reported),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
