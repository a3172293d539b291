/* test_optim.c - ops/optim.h against the equations in double; bf16 with masters and without. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "ops/optim.h"
#include "ref/optim.h"
#include "support/compare.h"
#include "support/rig.h"

/* Sizes around a vector and a block of sums, an empty one, one for several threads. */
static const int64_t sizes[] = { 1, 17, 0, 8191, 8193, 100003 };
enum { TENSORS = sizeof(sizes) / sizeof(sizes[0]) };

static csp_tensor second_moment(rig *r, int64_t n)
{
    const csp_tensor t = rig_uniform(r, 0.0, 2.0, 1, &n);

    return rig_copy(r, &t);
}

/* Values of a storage type; bf16 ones are what their masters round to. */
static void make(rig *r, csp_dtype S, csp_optim_tensor *t)
{
    memset(t, 0, TENSORS * sizeof(*t));
    for (int i = 0; i < TENSORS; i++) {
        t[i].value = rig_accumulated(r, 1, &sizes[i]);
        if (S == CSP_BF16) {
            const csp_tensor half = rig_stored(r, S, &t[i].value);

            t[i].master = t[i].value;
            t[i].value = rig_copy(r, &half);
        }
        t[i].grad = rig_accumulated(r, 1, &sizes[i]);
        t[i].m = rig_accumulated(r, 1, &sizes[i]);
        t[i].v = second_moment(r, sizes[i]);
        t[i].decay = i % 2 == 0;
    }
}

static csp_tensor *updated(csp_optim_tensor *t)
{
    return t->master.ndim > 0 ? &t->master : &t->value;
}

/* bf16 values are their masters rounded to nearest, all bits. */
static void check_rounded(rig *r, const csp_optim_tensor *t)
{
    const float *master = rig_host(r, &t->master);
    const uint16_t *half = rig_host(r, &t->value);

    for (int64_t i = 0; i < csp_tensor_count(&t->value); i++) {
        assert_int_equal(half[i], csp_f32_to_bf16(master[i]));
    }
}

static void check_cleared(rig *r, const csp_tensor *grad)
{
    const float *g = rig_host(r, grad);

    for (int64_t j = 0; j < csp_tensor_count(grad); j++) {
        assert_true(g[j] == 0.0f);
    }
}

static void an_update_matches(rig *r, csp_dtype S)
{
    /* Norms of 3 and less, clipped to 1.11, to more than there is, and not at all. */
    static const double squares[TENSORS] = { 1.0, 0.5, 0.0, 3.25, 0.25, 4.0 };
    const csp_adamw_args all[] = {
        { .t = 1, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01 },
        { 1000, 3e-4, 0.9, 0.95, 1e-2, 0.1, .max_norm = 1.11 },
        { 2, 0.0, 0.0, 0.0, 1e-8, 0.5, .max_norm = 3.5 },
    };

    for (int c = 0; c < 3; c++) {
        const double scale = ref_clip(squares, TENSORS, all[c].max_norm);
        csp_adamw_args args = all[c];
        csp_optim_tensor t[TENSORS];
        double *value[TENSORS], *m[TENSORS], *v[TENSORS], *mag[TENSORS][3];

        rig_begin(r, (uint64_t)c);
        make(r, S, t);
        if (args.max_norm > 0.0) {
            args.squares = rig_input(r, CSP_F64, 1, (int64_t[]) { TENSORS }, squares);
        }
        for (int i = 0; i < TENSORS; i++) {
            for (int k = 0; k < 3; k++) {
                mag[i][k] = rig_doubles(r, sizes[i]);
            }
            value[i] = rig_as_doubles(r, updated(&t[i]));
            m[i] = rig_as_doubles(r, &t[i].m);
            v[i] = rig_as_doubles(r, &t[i].v);
            ref_adamw(value[i], rig_as_doubles(r, &t[i].grad), m[i], v[i], sizes[i], t[i].decay,
                      &args, scale, mag[i][0], mag[i][1], mag[i][2]);
        }
        assert_int_equal(csp_adamw(r->be, t, TENSORS, &args), CSP_OK);
        for (int i = 0; i < TENSORS; i++) {
            /* m: κ, 1-β1, β1 rounded once each, three products, one sum; v has g twice. The step:
             * m, half of v, root, two scalars, product, sum, division, product, difference. */
            assert_true(worst_ratio("m", rig_host(r, &t[i].m), m[i], mag[i][1], sizes[i],
                                    7.0 * UNIT_F32) <= 1.0);
            assert_true(worst_ratio("v", rig_host(r, &t[i].v), v[i], mag[i][2], sizes[i],
                                    10.0 * UNIT_F32) <= 1.0);
            assert_true(worst_ratio("value", rig_host(r, updated(&t[i])), value[i], mag[i][0],
                                    sizes[i], 24.0 * UNIT_F32) <= 1.0);
            if (S == CSP_BF16) {
                check_rounded(r, &t[i]);
            }
            check_cleared(r, &t[i].grad);
        }
        rig_check_guards(r);
    }
}

static void an_update_matches_the_reference_and_clears_gradients(void **state)
{
    rig_each_storage(*state, an_update_matches);
}

enum { STEPS = 50, N = 4099 };

/* One tensor that is updated with the gradients that uploads bring, and its twin in double. */
typedef struct run {
    csp_optim_tensor t;
    float grad[N];
    double value[N], m[N], v[N], wide[N], mag[3][N];
    double m_sum[N]; /* as m of the sizes of its terms */
    double bound[N]; /* what value may be away         */
} run;

static void begin_run(rig *r, run *c, csp_dtype S, bool master, double low, double high)
{
    const int64_t n = N;
    const csp_tensor drawn = rig_uniform(r, low, high, 1, &n),
                     zero = rig_stored(r, CSP_F32, &drawn);
    const csp_tensor stored = rig_stored(r, S, &drawn);

    memset(c, 0, sizeof(*c));
    c->t.value = rig_copy(r, &stored);
    if (master) {
        c->t.master = rig_copy(r, &drawn);
    }
    c->t.grad = rig_copy(r, &zero);
    c->t.m = rig_copy(r, &zero);
    c->t.v = rig_copy(r, &zero);
    assert_int_equal(csp_backend_zero(r->be, &c->t.m), CSP_OK);
    assert_int_equal(csp_backend_zero(r->be, &c->t.v), CSP_OK);
    c->t.decay = true;
    memcpy(c->value, rig_as_doubles(r, updated(&c->t)), sizeof(c->value));
}

/* One update on both sides with the gradients in c->grad. */
static void step_run(rig *r, run *c, const csp_adamw_args *args)
{
    const double c1 = 1.0 - pow(args->beta1, (double)args->t);
    const double c2 = 1.0 - pow(args->beta2, (double)args->t);

    for (int i = 0; i < N; i++) {
        c->wide[i] = (double)c->grad[i];
        c->m_sum[i] = args->beta1 * c->m_sum[i] + (1.0 - args->beta1) * fabs(c->wide[i]);
    }
    assert_int_equal(csp_backend_upload(r->be, c->grad, &c->t.grad), CSP_OK);
    assert_int_equal(csp_adamw(r->be, &c->t, 1, args), CSP_OK);
    ref_adamw(c->value, c->wide, c->m, c->v, N, true, args, 1.0, c->mag[0], c->mag[1], c->mag[2]);
    for (int i = 0; i < N; i++) {
        const double step = args->lr * (c->m_sum[i] / c1) / (sqrt(c->v[i] / c2) + args->eps);

        /* By now m has 7 roundings of each update, the root half of 10; 14 more of the step; and
         * the decay's factor, its product and the difference round the value itself. */
        c->bound[i] += (12.0 * (double)args->t + 14.0) * UNIT_F32 * step +
                       3.0 * UNIT_F32 * (fabs(c->value[i]) + step);
    }
}

static csp_adamw_args run_args(int step)
{
    return (csp_adamw_args) { step + 1, 1e-3, 0.9, 0.999, 1e-8, 0.01, .max_norm = 0.0 };
}

static void fifty_updates_match(rig *r, csp_dtype S)
{
    static run c;
    const double ones = 1.0;

    rig_begin(r, 20);
    begin_run(r, &c, S, S == CSP_BF16, -2.0, 2.0);
    for (int step = 0; step < STEPS; step++) {
        const csp_adamw_args args = run_args(step);
        const csp_rng rng = { .seed = 20, .draw = CSP_DRAW_TEST, .key = 1000, .step = args.t };

        for (int i = 0; i < N; i++) {
            c.grad[i] = csp_rng_normal(rng, (uint64_t)i) + 0.5f;
        }
        step_run(r, &c, &args);
    }
    const float *got = rig_host(r, updated(&c.t));

    for (int i = 0; i < N; i++) {
        assert_true(worst_ratio("value", &got[i], &c.value[i], &ones, 1, c.bound[i]) <= 1.0);
    }
    if (S == CSP_BF16) {
        check_rounded(r, &c.t);
    }
    rig_check_guards(r);
}

static void fifty_updates_match_the_reference(void **state)
{
    rig_each_storage(*state, fifty_updates_match);
}

/*
 * Values between 1.1 and 1.9 are 2^-7 apart in bf16; fifty updates of about 0.001 all in one
 * direction never move a value that is rounded to nearest. Rounded at random, the sum of all errors
 * is one of independent steps of mean 0 in an interval of 2^-7 each: by Hoeffding beyond
 * 2.5 sqrt(N STEPS) 2^-7 with probability 2 exp(-12.5); of one value beyond 3 sqrt(STEPS) 2^-7 with
 * 2 exp(-18).
 */
static void updates_below_the_spacing_count_where_rounding_is_random(void **state)
{
    rig *r = *state;
    const double apart = 0x1p-7;
    static run c;
    double sum = 0.0;

    if (!r->be->bf16) {
        skip();
    }
    rig_begin(r, 21);
    begin_run(r, &c, CSP_BF16, false, 1.2, 1.8);
    for (int step = 0; step < STEPS; step++) {
        csp_adamw_args args = run_args(step);

        args.stochastic = true;
        args.seed = 99;
        for (int i = 0; i < N; i++) {
            c.grad[i] = i % 2 == 0 ? 1.0f : -1.0f;
        }
        step_run(r, &c, &args);
    }
    const float *got = rig_floats(r, &c.t.value);

    for (int i = 0; i < N; i++) {
        assert_true(fabs((double)got[i] - c.value[i]) <= 3.0 * sqrt(STEPS) * apart);
        /* In the direction of the updates, so that a rounding that shrinks values shows as one. */
        sum += (i % 2 == 0 ? -1.0 : 1.0) * ((double)got[i] - c.value[i]);
    }
    assert_true(fabs(sum) <= 2.5 * sqrt((double)N * STEPS) * apart);
    sum = 0.0;
    for (int i = 0; i < N; i++) {
        sum += (double)got[i] - c.value[i];
    }
    assert_true(fabs(sum) <= 2.5 * sqrt((double)N * STEPS) * apart);
    rig_check_guards(r);
}

/* The bits of the contract: those of the element, whatever the memory it lies in. */
static void random_rounding_is_that_of_the_contract(void **state)
{
    rig *r = *state;
    const int64_t n = 37;
    csp_adamw_args args = { .t = 7, .lr = 0.25, .stochastic = true, .seed = 5 };
    csp_optim_tensor t[4];
    const uint16_t *half[4];

    if (!r->be->bf16) {
        skip();
    }
    rig_begin(r, 22);
    const csp_tensor half_values = rig_normal(r, CSP_BF16, 1, &n);
    const csp_tensor grads = rig_accumulated(r, 1, &n);
    const float *value = rig_floats(r, &half_values), *g = rig_host(r, &grads);

    for (int k = 0; k < 4; k++) {
        memset(&t[k], 0, sizeof(t[k]));
        t[k].value = rig_copy(r, &half_values);
        t[k].grad = rig_copy(r, &grads);
        t[k].m = rig_accumulated(r, 1, &n);
        t[k].v = second_moment(r, n);
    }
    assert_int_equal(csp_adamw(r->be, t, 2, &args), CSP_OK);
    for (args.tensor = 0; args.tensor < 2; args.tensor++) { /* the same in two calls */
        assert_int_equal(csp_adamw(r->be, t + 2 + args.tensor, 1, &args), CSP_OK);
    }
    for (int k = 0; k < 4; k++) {
        half[k] = rig_host(r, &t[k].value);
    }
    assert_memory_equal(half[0], half[2], (size_t)n * 2);
    assert_memory_equal(half[1], half[3], (size_t)n * 2);
    assert_memory_not_equal(half[0], half[1], (size_t)n * 2);
    for (int64_t i = 0; i < n; i++) {
        const csp_rng rng = { .seed = 5, .draw = CSP_DRAW_ROUNDING, .key = 1, .step = 7 };
        /* With β1 = β2 = 0 and eps = 0 the step is η sign(g). */
        const float to = value[i] - (g[i] > 0.0f ? 0.25f : -0.25f);

        assert_int_equal(half[1][i],
                         csp_f32_to_bf16_random(to, csp_rng_u32(rng, (uint64_t)i) >> 16));
    }
    rig_check_guards(r);
}

/* Elements first .. first+n-1 of a tensor of one dimension, or none. */
static csp_tensor part_of(const csp_tensor *t, int64_t first, int64_t n)
{
    return t->ndim == 0
               ? *t
               : csp_tensor_view((char *)t->data + (size_t)first * csp_dtype_bytes(t->dtype),
                                 t->dtype, 1, &n);
}

/* Cut anywhere at a multiple of 4, with masters and without: the bits of the whole tensor. */
static void parts_are_updated_as_the_whole(void **state)
{
    rig *r = *state;
    static const int64_t cuts[] = { 0, 8, 8, 4100, 16384, 16388, 20003 };
    enum { PARTS = sizeof(cuts) / sizeof(cuts[0]) - 1 };
    const int64_t n = cuts[PARTS];

    for (int way = 0; way < (r->be->bf16 ? 3 : 1); way++) {
        const csp_dtype S = way == 0 ? CSP_F32 : CSP_BF16;
        csp_adamw_args args = run_args(4);
        csp_optim_tensor whole[1], same[1], part[PARTS];

        rig_begin(r, (uint64_t)(30 + way));
        args.stochastic = way == 2;
        args.seed = 3;
        for (int k = 0; k < 2; k++) {
            csp_optim_tensor *t = k == 0 ? whole : same;
            const csp_tensor drawn = rig_normal(r, CSP_F32, 1, &n);
            const csp_tensor stored = rig_stored(r, S, &drawn);

            memset(t, 0, sizeof(*t));
            t->value = k == 0 ? rig_copy(r, &stored) : rig_copy(r, &whole->value);
            if (way == 1) {
                t->master = k == 0 ? rig_copy(r, &drawn) : rig_copy(r, &whole->master);
            }
            t->grad = k == 0 ? rig_accumulated(r, 1, &n) : rig_copy(r, &whole->grad);
            t->m = k == 0 ? rig_accumulated(r, 1, &n) : rig_copy(r, &whole->m);
            t->v = k == 0 ? second_moment(r, n) : rig_copy(r, &whole->v);
            t->decay = true;
        }
        for (int i = 0; i < PARTS; i++) {
            const int64_t count = cuts[i + 1] - cuts[i];

            part[i] = (csp_optim_tensor) { .value = part_of(&same->value, cuts[i], count),
                                           .grad = part_of(&same->grad, cuts[i], count),
                                           .m = part_of(&same->m, cuts[i], count),
                                           .v = part_of(&same->v, cuts[i], count),
                                           .master = part_of(&same->master, cuts[i], count),
                                           .first = cuts[i],
                                           .decay = true };
        }
        assert_int_equal(csp_adamw(r->be, whole, 1, &args), CSP_OK);
        for (int i = 0; i < PARTS; i++) { /* one by one: each draws as tensor 0 */
            assert_int_equal(csp_adamw(r->be, &part[i], 1, &args), CSP_OK);
        }
        rig_check_same(r, &same->value, &whole->value);
        rig_check_same(r, &same->m, &whole->m);
        rig_check_same(r, &same->v, &whole->v);
        if (way == 1) {
            rig_check_same(r, &same->master, &whole->master);
        }
        check_cleared(r, &same->grad);
        part[1].first = 6;
        assert_int_equal(csp_adamw(r->be, &part[1], 1, &args), CSP_ERR_ARGUMENT);
        assert_non_null(strstr(csp_error_text(), "first is 6, which is no multiple of 4"));
        rig_check_guards(r);
    }
}

/* csp_grad_squares of t on the host. */
static const double *squares_of(rig *r, const csp_optim_tensor *t)
{
    csp_tensor squares = rig_output(r, CSP_F64, 1, (int64_t[]) { TENSORS });

    assert_int_equal(csp_grad_squares(r->be, t, TENSORS, &squares), CSP_OK);
    return rig_host(r, &squares);
}

static void squares_match_the_reference_and_show_a_nan(void **state)
{
    rig *r = *state;
    csp_optim_tensor t[TENSORS];
    const double *got, *again;
    const float bad[3] = { 1.0f, NAN, 2.0f };

    rig_begin(r, 10);
    make(r, CSP_F32, t);
    got = squares_of(r, t);
    for (int i = 0; i < TENSORS; i++) {
        const double want = ref_grad_squares(rig_as_doubles(r, &t[i].grad), sizes[i]);

        assert_true(worst_ratio_f64("squares", &got[i], &want, &want, 1,
                                    (double)(sizes[i] + 1) * 0x1p-53) <= 1.0);
    }
    assert_memory_equal(got, squares_of(r, t), TENSORS * sizeof(*got));
    t[1].grad = rig_input(r, CSP_F32, 1, (int64_t[]) { 3 }, bad);
    again = squares_of(r, t);
    assert_true(isnan(again[1]));
    assert_true(again[3] == got[3]);
    rig_check_guards(r);
}

/* κ has the bits of the formula, whatever the number of tensors that it is added up from. */
static void clipping_is_that_of_the_formula(void **state)
{
    rig *r = *state;
    enum { MANY = 600 };
    csp_optim_tensor t[MANY];
    double squares[MANY], total = 0.0;
    const int64_t one = 1;
    float scale;

    rig_begin(r, 13);
    const csp_tensor drawn = rig_uniform(r, 0.0, 1.0, 1, (int64_t[]) { MANY });
    const float *value = rig_floats(r, &drawn);

    memset(t, 0, sizeof(t));
    for (int i = 0; i < MANY; i++) {
        t[i].value = rig_accumulated(r, 1, &one);
        t[i].grad = rig_accumulated(r, 1, &one);
        t[i].m = rig_accumulated(r, 1, &one);
        t[i].v = second_moment(r, 1);
        squares[i] = (double)value[i] * exp((double)value[MANY - 1 - i]);
        total += squares[i];
    }
    const csp_adamw_args args = {
        .t = 1, .max_norm = 0.3, .squares = rig_input(r, CSP_F64, 1, (int64_t[]) { MANY }, squares)
    };
    const float g = *rig_floats(r, &t[7].grad);

    assert_int_equal(csp_adamw(r->be, t, MANY, &args), CSP_OK);
    scale = (float)(0.3 / (sqrt(total) + 1e-6));
    /* With β1 = 0 the first moment is κ g. */
    assert_true(*rig_floats(r, &t[7].m) == scale * g);
    rig_check_guards(r);
}

static void what_is_not_finite_makes_no_update(void **state)
{
    rig *r = *state;
    /* Squares beyond float32 fit where they are clipped. */
    static const struct {
        double squares;
        int64_t fault;
        double max_norm;
        bool made;
    } bad[] = { { NAN, -1, 0.0, false },      { INFINITY, -1, 0.0, false },
                { INFINITY, -1, 1.0, false }, { 1.0, 0, 0.0, false },
                { 1.0, 4, 0.0, false },       { 1.0, INT64_MIN, 0.0, false },
                { 1.0, -1, 0.0, true },       { 3.5e38, -1, 0.0, false },
                { 3.5e38, -1, 1e20, false },  { 3.5e38, -1, 1e15, true },
                { 3.4e38, -1, 0.0, true } };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        csp_adamw_args args = run_args(0);
        csp_optim_tensor t[TENSORS];
        double squares[TENSORS] = { 1.0, 1.0, 1.0, 1.0, 1.0, bad[i].squares };
        int64_t faults[300];
        csp_tensor before[3];

        rig_begin(r, 14);
        make(r, CSP_F32, t);
        for (int k = 0; k < 300; k++) {
            faults[k] = k == 290 ? bad[i].fault : -1;
        }
        args.max_norm = bad[i].max_norm;
        args.squares = rig_input(r, CSP_F64, 1, (int64_t[]) { TENSORS }, squares);
        args.faults = rig_input(r, CSP_I64, 1, (int64_t[]) { 300 }, faults);
        before[0] = rig_copy(r, &t[4].value);
        before[1] = rig_copy(r, &t[4].m);
        before[2] = rig_copy(r, &t[4].v);
        assert_int_equal(csp_adamw(r->be, t, TENSORS, &args), CSP_OK);
        if (!bad[i].made) {
            rig_check_same(r, &t[4].value, &before[0]);
            rig_check_same(r, &t[4].m, &before[1]);
            rig_check_same(r, &t[4].v, &before[2]);
        } else {
            assert_memory_not_equal(rig_host(r, &t[4].m), rig_host(r, &before[1]),
                                    csp_tensor_bytes(&before[1]));
        }
        for (int k = 0; k < TENSORS; k++) {
            check_cleared(r, &t[k].grad);
        }
        rig_check_guards(r);
    }
}

/* Clipped by the norm of all, and not made where a gradient of another call is not finite. */
static void an_update_in_several_calls_is_that_of_one(void **state)
{
    rig *r = *state;
    static const int64_t cuts[] = { 0, 1, 4, TENSORS };

    for (int bad = 0; bad < 2; bad++) {
        const double squares[TENSORS] = { 1.0, 0.5, 0.0, 3.25, 0.25, bad == 1 ? INFINITY : 4.0 };
        csp_adamw_args args = run_args(0);
        csp_optim_tensor one[TENSORS], several[TENSORS];

        rig_begin(r, 17);
        make(r, CSP_F32, one);
        memcpy(several, one, sizeof(several));
        for (int k = 0; k < TENSORS; k++) {
            several[k].value = rig_copy(r, &one[k].value);
            several[k].grad = rig_copy(r, &one[k].grad);
            several[k].m = rig_copy(r, &one[k].m);
            several[k].v = rig_copy(r, &one[k].v);
        }
        args.max_norm = 0.5;
        args.squares = rig_input(r, CSP_F64, 1, (int64_t[]) { TENSORS }, squares);
        assert_int_equal(csp_adamw(r->be, one, TENSORS, &args), CSP_OK);
        for (int c = 2; c >= 0; c--) {
            args.tensor = cuts[c];
            assert_int_equal(csp_adamw(r->be, several + cuts[c], cuts[c + 1] - cuts[c], &args),
                             CSP_OK);
        }
        for (int k = 0; k < TENSORS; k++) {
            rig_check_same(r, &several[k].value, &one[k].value);
            rig_check_same(r, &several[k].m, &one[k].m);
            rig_check_same(r, &several[k].v, &one[k].v);
            check_cleared(r, &several[k].grad);
        }
        rig_check_guards(r);
    }
}

static void masters_are_there_just_where_they_are_needed(void **state)
{
    rig *r = *state;
    csp_adamw_args args = run_args(0);
    csp_optim_tensor t[TENSORS];

    rig_begin(r, 12);
    make(r, CSP_F32, t);
    t[1].master = t[1].m;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &args), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "master must be none where value is f32"));
    make(r, CSP_BF16, t);
    args.stochastic = true;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &args),
                     r->be->bf16 ? CSP_ERR_SHAPE : CSP_ERR_UNSUPPORTED);
    args.stochastic = false;
    t[0].master = csp_tensor_none();
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &args),
                     r->be->bf16 ? CSP_ERR_SHAPE : CSP_ERR_UNSUPPORTED);
    assert_non_null(strstr(csp_error_text(), r->be->bf16 ? "master must be f32 (1), not none"
                                                         : "bf16 needs a CUDA device"));
    for (int i = 0; i < TENSORS; i++) {
        rig_check_untouched(r, &t[i].value);
    }
}

static void wrong_arguments_are_refused_and_tensors_left_alone(void **state)
{
    rig *r = *state;
    const csp_adamw_args good = run_args(0);
    csp_optim_tensor t[TENSORS];
    csp_adamw_args bad = good;

    rig_begin(r, 11);
    make(r, CSP_F32, t);
    csp_tensor squares = rig_output(r, CSP_F64, 1, (int64_t[]) { TENSORS });

    bad.t = 0;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &bad), CSP_ERR_ARGUMENT);
    assert_non_null(strstr(csp_error_text(), "the first update is 1"));
    bad = good;
    bad.beta2 = 1.0;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &bad), CSP_ERR_ARGUMENT);
    bad = good;
    bad.max_norm = NAN;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &bad), CSP_ERR_ARGUMENT);
    bad.max_norm = 1.0; /* which needs squares */
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &bad), CSP_ERR_SHAPE);
    bad.squares = squares;
    bad.tensor = 1; /* they would be of one more */
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &bad), CSP_ERR_SHAPE);
    assert_non_null(strstr(csp_error_text(), "squares of 6 tensors, not of all 7"));
    bad.tensor = -1;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &bad), CSP_ERR_ARGUMENT);
    bad = good;
    bad.faults = squares;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &bad), CSP_ERR_SHAPE);
    t[3].m = t[1].m;
    assert_int_equal(csp_adamw(r->be, t, TENSORS, &good), CSP_ERR_SHAPE);
    t[4].grad.data = NULL;
    assert_int_equal(csp_grad_squares(r->be, t, TENSORS, &squares), CSP_ERR_SHAPE);
    rig_check_untouched(r, &squares);
    for (int i = 0; i < TENSORS; i++) {
        rig_check_untouched(r, &t[i].value);
        rig_check_untouched(r, &t[i].v);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_update_matches_the_reference_and_clears_gradients),
        cmocka_unit_test(fifty_updates_match_the_reference),
        cmocka_unit_test(updates_below_the_spacing_count_where_rounding_is_random),
        cmocka_unit_test(random_rounding_is_that_of_the_contract),
        cmocka_unit_test(parts_are_updated_as_the_whole),
        cmocka_unit_test(an_update_in_several_calls_is_that_of_one),
        cmocka_unit_test(masters_are_there_just_where_they_are_needed),
        cmocka_unit_test(squares_match_the_reference_and_show_a_nan),
        cmocka_unit_test(clipping_is_that_of_the_formula),
        cmocka_unit_test(what_is_not_finite_makes_no_update),
        cmocka_unit_test(wrong_arguments_are_refused_and_tensors_left_alone),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
