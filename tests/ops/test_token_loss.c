/* test_token_loss.c - csp_token_loss: reference against derivative, backend against reference. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "core/rng.h"
#include "ops/loss.h"
#include "ref/loss.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/rig.h"

/* Edges on purpose: one element, one less and one more than a block of the sums (1,024), and more
 * than a multiprocessor's shared memory holds of a row. */
static const struct {
    int64_t N, V, D;
    bool exclude;
} cases[] = {
    { 1, 1, 1, false },      { 3, 2, 5, false },     { 17, 1023, 16, true },
    { 40, 1025, 33, false }, { 2, 120001, 2, true },
};
enum { CASES = sizeof(cases) / sizeof(cases[0]), SUM_BLOCK = 1024 };

/* One call's arguments and what the reference needs of them. */
typedef struct setup {
    csp_token_loss_args args;
    ref_tokens ref;
    double *de_was;
} setup;

static void set_target(rig *r, csp_token_loss_args *args, int64_t N, const int32_t *target)
{
    args->target = rig_input(r, CSP_I32, 1, &N, target);
    args->predicted = 0;
    for (int64_t n = 0; n < N; n++) {
        args->predicted += target[n] >= 0;
    }
}

/* The first row and about every fourth have no target; every fifth term but 0 may be excluded. */
static setup of_tensors(rig *r, csp_tensor h, csp_tensor e, bool exclude, float scale)
{
    const int64_t N = h.dim[0], V = e.dim[0];
    const csp_tensor drawn = rig_indices(r, V, N);
    int32_t *target = rig_host(r, &drawn);
    uint8_t *excluded = (uint8_t *)rig_ints(r, V);
    setup s;

    for (int64_t v = 0; v < V; v++) {
        excluded[v] = v % 5 == 4;
    }
    for (int64_t n = 0; n < N; n++) {
        if (n % 4 == 0 && N > 1) {
            target[n] = -1;
        } else if (exclude && excluded[target[n]] != 0) {
            target[n]--;
        }
    }
    memset(&s, 0, sizeof(s));
    s.args.head = (csp_head) { e, csp_tensor_none(), scale, CSP_POOL_MAX };
    if (exclude) {
        s.args.head.exclude = rig_input(r, CSP_U8, 1, &V, excluded);
    }
    s.args.h = h;
    set_target(r, &s.args, N, target);
    s.args.lambda_relu = 0.25f;
    s.args.coefficient = 0.125f;
    s.args.dh = rig_output(r, h.dtype, 2, h.dim);
    s.args.de = rig_accumulated(r, 2, e.dim);
    s.de_was = rig_as_doubles(r, &s.args.de);
    s.ref = (ref_tokens) { .h = rig_as_doubles(r, &h),
                           .e = rig_as_doubles(r, &e),
                           .exclude = exclude ? rig_host(r, &s.args.head.exclude) : NULL,
                           .target = rig_host(r, &s.args.target),
                           .scale = (double)scale,
                           .lambda = 0.25,
                           .coefficient = 0.125,
                           .N = N,
                           .V = V,
                           .D = e.dim[1] };
    return s;
}

/* One call; its sums, and the rows it names, on the host. */
static csp_status call(rig *r, csp_backend *be, const csp_token_loss_args *args, double loss[2],
                       int64_t bad[2])
{
    const int64_t two = 2;
    csp_token_loss_args a = *args;

    a.loss = rig_output(r, CSP_F64, 1, &two);
    a.bad = rig_output(r, CSP_I64, 1, &two);
    CSP_TRY(csp_backend_sync(r->be)); /* be may be another one */
    CSP_TRY(csp_token_loss(be, &a));
    CSP_TRY(csp_backend_sync(be));
    memcpy(loss, rig_host(r, &a.loss), 2 * sizeof(*loss));
    memcpy(bad, rig_host(r, &a.bad), 2 * sizeof(*bad));
    return CSP_OK;
}

/* The sums of a call in which nothing is bad. */
static void sums_of(rig *r, const csp_token_loss_args *args, double loss[2])
{
    int64_t bad[2];

    assert_int_equal(call(r, r->be, args, loss, bad), CSP_OK);
    assert_true(bad[0] == -1 && bad[1] == -1);
}

static setup random_setup(rig *r, int64_t i, csp_dtype S)
{
    const csp_tensor h = rig_normal(r, S, 2, (int64_t[]) { cases[i].N, cases[i].D });
    const csp_tensor e = rig_normal(r, S, 2, (int64_t[]) { cases[i].V, cases[i].D });

    return of_tensors(r, h, e, cases[i].exclude, 0.7f);
}

/* (rows,columns) of -1, 0, 1 with a last column of its own. */
static csp_tensor signs(rig *r, int64_t rows, int64_t columns, float last)
{
    const csp_rng rng = { .seed = r->seed, .draw = CSP_DRAW_TEST, .key = r->drawn++, .step = 0 };
    float *x = (float *)(void *)rig_ints(r, rows * columns);

    for (int64_t i = 0; i < rows * columns; i++) {
        x[i] = i % columns == columns - 1 ? last : (float)csp_rng_below(rng, (uint64_t)i, 3) - 1.0f;
    }
    return rig_input(r, CSP_F32, 2, (int64_t[]) { rows, columns }, x);
}

/* Logits that are exact in f32 and bf16 and never 0: whole numbers plus 1/2, times 1/2. */
static setup exact_setup(rig *r, int64_t i, csp_dtype S)
{
    const csp_tensor h = signs(r, cases[i].N, cases[i].D + 1, 1.0f);
    const csp_tensor e = signs(r, cases[i].V, cases[i].D + 1, 0.5f);

    return of_tensors(r, rig_stored(r, S, &h), rig_stored(r, S, &e), cases[i].exclude, 0.5f);
}

static void losses_match_the_reference_in(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < CASES; i++) {
        rig_begin(r, (uint64_t)i);
        setup s = random_setup(r, i, S);
        const int64_t block = s.ref.V < SUM_BLOCK ? s.ref.V : SUM_BLOCK;
        double loss[2], only[2], want[2], mag[2];

        ref_token_loss_fwd(&s.ref, want, mag);
        sums_of(r, &s.args, loss);
        /* A logit has D + 2 roundings, an exponential 4, a block's sum one for each term;
         * in bf16 a logit has one of bf16. */
        assert_true(worst_ratio_f64("loss", loss, want, mag, 2,
                                    stored_bound(S, (double)(s.ref.D + 8 + block))) <= 1.0);
        rig_check_guards(r);
        s.args.dh = csp_tensor_none();
        s.args.de = csp_tensor_none();
        sums_of(r, &s.args, only);
        assert_memory_equal(only, loss, sizeof(loss));
    }
}

static void losses_match_the_reference(void **state)
{
    rig_each_storage(*state, losses_match_the_reference_in);
}

static void gradients_match_the_reference_in(rig *r, csp_dtype S)
{
    for (int64_t i = 0; i < CASES; i++) {
        rig_begin(r, (uint64_t)i);
        setup s = exact_setup(r, i, S);
        const int64_t nh = s.ref.N * s.ref.D, ne = s.ref.V * s.ref.D;
        const int64_t block = s.ref.V < SUM_BLOCK ? s.ref.V : SUM_BLOCK;
        double *dh = rig_doubles(r, nh), *dh_mag = rig_doubles(r, nh);
        double *de = rig_doubles(r, ne), *de_mag = rig_doubles(r, ne), loss[2];

        for (int64_t j = 0; j < ne; j++) {
            de[j] = s.de_was[j];
            de_mag[j] = fabs(s.de_was[j]);
        }
        ref_token_loss_bwd(&s.ref, dh, dh_mag, de, de_mag);
        sums_of(r, &s.args, loss);
        /* dz: the sum it is divided by, an exponential (4), eight more, as bf16 one of bf16; then a
         * sum of V or N. */
        const double dz = S == CSP_BF16 ? UNIT_BF16 : 0.0;
        const float *got = rig_floats(r, &s.args.dh);

        assert_true(worst_ratio("dh", got, dh, dh_mag, nh,
                                stored_bound(S, (double)(s.ref.V + block + 12)) + dz) <= 1.0);
        assert_true(norm_distance(got, dh, nh) <= BF16_NORM_LIMIT);
        assert_true(worst_ratio("de", rig_host(r, &s.args.de), de, de_mag, ne,
                                (double)(s.ref.N + block + 12) * UNIT_F32 + dz) <= 1.0);
        rig_check_guards(r);
    }
}

static void gradients_match_the_reference(void **state)
{
    rig_each_storage(*state, gradients_match_the_reference_in);
}

/* Where 1 + z is 0 the derivative of the ReLU is 0, and not 0 over 0. */
static void a_logit_of_minus_one_has_a_gradient_in(rig *r, csp_dtype S)
{
    const float x[] = { 1.0f }, rows[] = { -1.0f, 0.5f, -1.0f };
    const int32_t target = 0;
    double dh, dh_mag, de[3] = { 0.0 }, de_mag[3] = { 0.0 }, loss[2];

    rig_begin(r, 4);
    const csp_tensor h = rig_input(r, CSP_F32, 2, (int64_t[]) { 1, 1 }, x),
                     e = rig_input(r, CSP_F32, 2, (int64_t[]) { 3, 1 }, rows);
    setup s = of_tensors(r, rig_stored(r, S, &h), rig_stored(r, S, &e), false, 1.0f);

    set_target(r, &s.args, 1, &target);
    s.ref.target = &target;
    ref_token_loss_bwd(&s.ref, &dh, &dh_mag, de, de_mag);
    sums_of(r, &s.args, loss);
    assert_true(worst_ratio("dh", rig_floats(r, &s.args.dh), &dh, &dh_mag, 1,
                            stored_bound(S, 30.0) + (S == CSP_BF16 ? UNIT_BF16 : 0.0)) <= 1.0);
    rig_check_guards(r);
}

static void a_logit_of_minus_one_has_a_gradient(void **state)
{
    rig_each_storage(*state, a_logit_of_minus_one_has_a_gradient_in);
}

static void a_gradient_that_is_not_wanted_is_not_needed_in(rig *r, csp_dtype S)
{
    rig_begin(r, 3);
    setup s = exact_setup(r, 2, S);
    const csp_tensor dh = rig_output(r, S, 2, s.args.h.dim), first = s.args.dh;
    double loss[2];

    sums_of(r, &s.args, loss);
    s.args.dh = dh;
    s.args.de = csp_tensor_none();
    sums_of(r, &s.args, loss);
    rig_check_same(r, &dh, &first);
    rig_check_guards(r);
}

static void a_gradient_that_is_not_wanted_is_not_needed(void **state)
{
    rig_each_storage(*state, a_gradient_that_is_not_wanted_is_not_needed_in);
}

/*
 * Rows of 2^19 terms that make two tiles, which are what the backend forms at once: 20 and 20 on
 * the CPU, 64 and 6 on a CUDA device, 256 and 6 there in bf16. One call is the same as one for
 * each tile, bit for bit.
 */
static void several_tiles_add_up_in(rig *r, csp_dtype S)
{
    const bool cuda = strncmp(r->be->name, "cuda", 4) == 0;
    const int64_t full = !cuda ? 20 : S == CSP_BF16 ? 256 : 64, rest = cuda ? 6 : 20;
    const int64_t rows = full + rest, tile[] = { full, rest };
    const int64_t terms = (int64_t)1 << 19;

    if (S == CSP_BF16 && r->emulated) {
        return; /* the same loop as in f32; it would take minutes */
    }
    rig_begin(r, 0);
    const csp_tensor h = rig_normal(r, S, 2, (int64_t[]) { rows, 2 });
    const csp_tensor e = rig_normal(r, S, 2, (int64_t[]) { terms, 2 });
    setup whole = of_tensors(r, h, e, false, 1.0f);
    const csp_tensor de = rig_copy(r, &whole.args.de);
    csp_tensor dh = rig_output(r, S, 2, h.dim);
    double loss[2], sum[2] = { 0.0, 0.0 };
    int32_t *target = rig_host(r, &whole.args.target);

    for (int64_t n = 0; n < rows; n++) {
        target[n] = (int32_t)n; /* all rows predict, so that the tiles are as said */
    }
    set_target(r, &whole.args, rows, target);
    sums_of(r, &whole.args, loss);
    for (int64_t i = 0, first = 0; i < 2; first += tile[i++]) {
        csp_token_loss_args args = whole.args;
        double part[2];

        args.h = csp_tensor_rows(&h, first, tile[i]);
        args.target = csp_tensor_rows(&whole.args.target, first, tile[i]);
        args.predicted = tile[i];
        args.dh = csp_tensor_rows(&dh, first, tile[i]);
        args.de = de;
        sums_of(r, &args, part);
        sum[0] += part[0];
        sum[1] += part[1];
    }
    rig_check_same(r, &dh, &whole.args.dh);
    rig_check_same(r, &de, &whole.args.de);
    assert_true(fabs(sum[0] - loss[0]) <= 1e-13 * loss[0]);
    assert_true(fabs(sum[1] - loss[1]) <= 1e-13 * loss[1]);
    rig_check_guards(r);
}

static void several_tiles_add_up(void **state)
{
    rig_each_storage(*state, several_tiles_add_up_in);
}

static void large_logits_do_not_overflow(void **state)
{
    rig *r = *state;
    const float h[] = { 2000.0f }, e[] = { 1.0f, -3.0f, 0.5f };
    const int32_t target[] = { 2 };
    const csp_tensor none = csp_tensor_none();
    csp_token_loss_args args = { .lambda_relu = 1.0f, .coefficient = 1.0f, .dh = none, .de = none };
    double loss[2];

    rig_begin(r, 0);
    args.head =
        (csp_head) { rig_input(r, CSP_F32, 2, (int64_t[]) { 3, 1 }, e), none, 1.0f, CSP_POOL_MAX };
    args.h = rig_input(r, CSP_F32, 2, (int64_t[]) { 1, 1 }, h);
    set_target(r, &args, 1, target);
    args.dh = rig_output(r, CSP_F32, 2, (int64_t[]) { 1, 1 });
    sums_of(r, &args, loss);
    assert_true(fabs(loss[0] - 1000.0) <= 1e-9);
    assert_true(fabs(loss[1] - (log(3.0 + 3000.0) - log(1001.0))) <= 1e-7);
    /* (1 - 0.5) from the softmax, then 1.5/3003 - 0.5/1001 = 0 from the saturated loss. */
    assert_true(fabs((double)*(float *)rig_host(r, &args.dh) - 0.5) <= 4.0 * UNIT_F32);
}

static void logits_that_are_not_finite_are_named_in(rig *r, csp_dtype S)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY, 3e38f };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        rig_begin(r, 1);
        setup s = random_setup(r, 3, S);
        float *h = (float *)(void *)rig_ints(r, s.ref.N * s.ref.D);
        double loss[2];
        int64_t named[2];

        memcpy(h, rig_floats(r, &s.args.h), sizeof(float) * (size_t)(s.ref.N * s.ref.D));
        h[30 * s.ref.D] = bad[i];
        h[0] = bad[i]; /* row 0 has no target and is not looked at */
        h[5 * s.ref.D + 1] = bad[i];
        const csp_tensor wide = rig_input(r, CSP_F32, 2, s.args.h.dim, h);
        s.args.h = rig_stored(r, S, &wide);
        assert_int_equal(call(r, r->be, &s.args, loss, named), CSP_OK);
        assert_true(named[0] == -1 && named[1] == 5);
        rig_check_guards(r);
    }
}

static void logits_that_are_not_finite_are_named(void **state)
{
    rig_each_storage(*state, logits_that_are_not_finite_are_named_in);
}

static void an_excluded_target_is_named(void **state)
{
    rig *r = *state;

    rig_begin(r, 1);
    setup s = random_setup(r, 2, CSP_F32);
    int32_t *target = rig_host(r, &s.args.target);
    double loss[2];
    int64_t named[2];

    target[6] = target[9] = 9;
    set_target(r, &s.args, s.ref.N, target);
    assert_int_equal(call(r, r->be, &s.args, loss, named), CSP_OK);
    assert_int_equal(named[0], 6);
    rig_check_guards(r);
}

static void no_targets_are_no_loss(void **state)
{
    rig *r = *state;

    rig_begin(r, 1);
    setup s = random_setup(r, 1, CSP_F32);
    const int32_t target[] = { -1, -1, -1 };
    const csp_tensor de = rig_copy(r, &s.args.de);
    double loss[2];
    const float *dh;

    set_target(r, &s.args, 3, target);
    sums_of(r, &s.args, loss);
    assert_true(loss[0] == 0.0 && loss[1] == 0.0);
    dh = rig_host(r, &s.args.dh);
    for (int64_t i = 0; i < s.ref.N * s.ref.D; i++) {
        assert_true(dh[i] == 0.0f);
    }
    rig_check_same(r, &s.args.de, &de);
    /* A batch of no rows at all. */
    s.args.h.dim[0] = s.args.dh.dim[0] = s.args.target.dim[0] = 0;
    sums_of(r, &s.args, loss);
    assert_true(loss[0] == 0.0 && loss[1] == 0.0);
    rig_check_same(r, &s.args.de, &de);
}

static void wrong_shapes_are_refused_and_outputs_left_alone(void **state)
{
    rig *r = *state;

    rig_begin(r, 1);
    setup s = random_setup(r, 1, CSP_F32);
    csp_token_loss_args args = s.args;
    const int64_t two = 2;

    s.args.loss = args.loss = rig_output(r, CSP_F64, 1, &two);
    s.args.bad = args.bad = rig_output(r, CSP_I64, 1, &two);

    args.target = rig_indices(r, 2, s.ref.N + 1);
    assert_int_equal(csp_token_loss(r->be, &args), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "target must be i32 (3), not i32 (4)"));
    args = s.args;
    args.h = rig_normal(r, CSP_F32, 2, (int64_t[]) { s.ref.N, s.ref.D + 1 });
    assert_int_equal(csp_token_loss(r->be, &args), CSP_ERR_SHAPE);
    args = s.args;
    args.de = rig_accumulated(r, 2, (int64_t[]) { s.ref.V, s.ref.D + 1 });
    assert_int_equal(csp_token_loss(r->be, &args), CSP_ERR_SHAPE);
    args = s.args;
    args.coefficient = NAN;
    assert_int_equal(csp_token_loss(r->be, &args), CSP_ERR_ARGUMENT);
    args = s.args;
    args.head.scale = -1.0f;
    assert_int_equal(csp_token_loss(r->be, &args), CSP_ERR_ARGUMENT);
    args = s.args;
    args.predicted = s.ref.N + 1;
    assert_int_equal(csp_token_loss(r->be, &args), CSP_ERR_ARGUMENT);
    args = s.args;
    args.loss = args.bad;
    assert_int_equal(csp_token_loss(r->be, &args), CSP_ERR_SHAPE);
    if (r->be->bf16) { /* one call, one storage type */
        args = s.args;
        args.head.e = rig_stored(r, CSP_BF16, &s.args.head.e);
        assert_int_equal(csp_token_loss(r->be, &args), CSP_ERR_SHAPE);
    }
    rig_check_untouched(r, &s.args.loss);
    rig_check_untouched(r, &s.args.bad);
    rig_check_untouched(r, &s.args.dh);
    rig_check_untouched(r, &s.args.de);
}

static void failing_memory_is_reported_in(rig *r, csp_dtype S)
{
    csp_status status = CSP_ERR_MEMORY;

    rig_begin(r, 2);
    setup s = random_setup(r, 2, S);
    assert_int_equal(csp_backend_sync(r->be), CSP_OK);
    for (long n = 1; status != CSP_OK; n++) {
        csp_backend *fresh;
        double loss[2] = { 7.0, 8.0 };
        int64_t bad[2];

        assert_int_equal(csp_backend_create(r->be->name, 2, &fresh), CSP_OK);
        csp_fault_arm(n);
        status = call(r, fresh, &s.args, loss, bad);
        csp_fault_arm(0);
        assert_true(status == CSP_OK || (status == CSP_ERR_MEMORY && loss[0] == 7.0));
        assert_true(n < 100);
        csp_backend_destroy(fresh);
    }
}

static void failing_memory_is_reported(void **state)
{
    rig_each_storage(*state, failing_memory_is_reported_in);
}

static double loss_of(const ref_tokens *p)
{
    double loss[2], mag[2];

    ref_token_loss_fwd(p, loss, mag);
    return p->coefficient * (loss[0] + p->lambda * loss[1]);
}

static double loss_of_h(const double *h, const void *context)
{
    ref_tokens p = *(const ref_tokens *)context;

    p.h = h;
    return loss_of(&p);
}

static double loss_of_e(const double *e, const void *context)
{
    ref_tokens p = *(const ref_tokens *)context;

    p.e = e;
    return loss_of(&p);
}

static void the_reference_is_its_own_derivative(void **state)
{
    rig *r = *state;
    enum { N = 4, V = 6, D = 3 };
    static const int32_t target[N] = { 2, -1, 5, 0 };
    static const uint8_t exclude[V] = { 0, 1, 0, 0, 0, 0 };
    double smallest = 0.0;

    for (uint64_t seed = 0; smallest < 1e-3; seed++) {
        double dh[N * D], de[V * D] = { 0.0 }, mag[N * D + V * D] = { 0.0 };

        rig_begin(r, seed);
        const csp_tensor th = rig_normal(r, CSP_F32, 2, (int64_t[]) { N, D });
        const csp_tensor te = rig_normal(r, CSP_F32, 2, (int64_t[]) { V, D });
        double *h = rig_as_doubles(r, &th), *e = rig_as_doubles(r, &te);
        const ref_tokens p = { h, e, exclude, target, 0.7, 0.3, 0.5, N, V, D };

        smallest = 1.0;
        for (int i = 0; i < N * V; i++) {
            double z = 0.0;

            for (int d = 0; d < D; d++) {
                z += h[i / V * D + d] * e[i % V * D + d];
            }
            smallest = fmin(smallest, fabs(z));
        }
        if (smallest >= 1e-3) {
            ref_token_loss_bwd(&p, dh, mag, de, mag + N * D);
            assert_true(gradient_distance(loss_of_h, &p, h, dh, N * D) <= GRADIENT_LIMIT);
            assert_true(gradient_distance(loss_of_e, &p, e, de, V * D) <= GRADIENT_LIMIT);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_is_its_own_derivative),
        cmocka_unit_test(losses_match_the_reference),
        cmocka_unit_test(gradients_match_the_reference),
        cmocka_unit_test(a_logit_of_minus_one_has_a_gradient),
        cmocka_unit_test(a_gradient_that_is_not_wanted_is_not_needed),
        cmocka_unit_test(several_tiles_add_up),
        cmocka_unit_test(large_logits_do_not_overflow),
        cmocka_unit_test(logits_that_are_not_finite_are_named),
        cmocka_unit_test(an_excluded_target_is_named),
        cmocka_unit_test(no_targets_are_no_loss),
        cmocka_unit_test(wrong_shapes_are_refused_and_outputs_left_alone),
        cmocka_unit_test(failing_memory_is_reported),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
