/*
 * test_gemm.c - products of the CUDA backend: against the equation in double precision, and how
 * algorithms are chosen, kept, timed, written down and taken up again.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "device.h"
#include "emulator/control.h"
#include "gemm_pick.h"
#include "support/compare.h"
#include "support/rig.h"

static void a_bucket_holds_its_rows_and_is_at_most_an_eighth_larger(void **state)
{
    int64_t before = 0, buckets = 0;

    (void)state;
    assert_int_equal(pick_gemm_rows(1), 1);
    assert_int_equal(pick_gemm_rows(33), 64);
    assert_int_equal(pick_gemm_rows(129), 256);
    assert_int_equal(pick_gemm_rows(2048), 2048);
    assert_int_equal(pick_gemm_rows(2049), 2304);
    for (int64_t rows = 1; rows <= 70000; rows++) {
        const int64_t bucket = pick_gemm_rows(rows);

        assert_true(bucket >= rows && bucket >= before);
        assert_int_equal(pick_gemm_rows(bucket), bucket);
        assert_true(rows <= 1024 || bucket - rows <= rows / 8);
        buckets += bucket != before;
        before = bucket;
    }
    /* 1 .. 128, 15 to 2048, 8 for each doubling to 65536, one more. */
    assert_int_equal(buckets, 8 + 15 + 5 * 8 + 1);
    assert_true(pick_gemm_rows(((int64_t)1 << 40) + 1) > (int64_t)1 << 40);
}

/* Rows are apart by more than they are long; A and the bias are off by one element. */
typedef struct shape {
    int64_t M, N, K, apart;
    bool shifted;
} shape;

/* One of the two storage types of a product each, its operands and what comes out. */
typedef struct setup {
    cuda_product p;
    csp_tensor a, b, c, bias;
    int64_t shift; /* elements of a before A, and of bias before the bias */
    bool has_bias;
} setup;

static setup make(rig *r, const shape *s, bool trans_a, bool trans_b, csp_dtype in, csp_dtype out,
                  float alpha, float beta, bool has_bias)
{
    const int64_t lda = (trans_a ? s->M : s->K) + s->apart, shift = s->shifted ? 1 : 0;
    const int64_t ldb = (trans_b ? s->K : s->N) + s->apart, ldc = s->N + s->apart;
    const int64_t count_a[] = { (trans_a ? s->K : s->M) * lda + shift };
    const int64_t rows_b[] = { trans_b ? s->N : s->K, ldb }, rows_c[] = { s->M, ldc };
    const int64_t count_bias = s->N + shift;
    setup u;

    u.a = rig_normal(r, in, 1, count_a);
    u.b = rig_normal(r, in, 2, rows_b);
    u.bias = has_bias ? rig_normal(r, out, 1, &count_bias) : csp_tensor_none();
    u.shift = shift;
    u.has_bias = has_bias;
    if (beta == 0.0f) {
        u.c = rig_output(r, out, 2, rows_c); /* NaN: must not be read */
    } else {
        const csp_tensor before = rig_normal(r, out, 2, rows_c);

        u.c = rig_copy(r, &before);
    }
    u.p = (cuda_product) {
        .trans_a = trans_a,
        .trans_b = trans_b,
        .M = s->M,
        .N = s->N,
        .K = s->K,
        .alpha = alpha,
        .beta = beta,
        .in = in,
        .out = out,
        .a = (const char *)u.a.data + (size_t)shift * csp_dtype_bytes(in),
        .b = u.b.data,
        .c = u.c.data,
        .lda = lda,
        .ldb = ldb,
        .ldc = ldc,
        .bias = has_bias ? (const char *)u.bias.data + (size_t)shift * csp_dtype_bytes(out) : NULL
    };
    return u;
}

/* What C must hold, and the size of its terms; what lies between rows is as it was. */
static void expect(rig *r, const setup *u, double *want, double *mag)
{
    const cuda_product *p = &u->p;
    const double *a = rig_as_doubles(r, &u->a) + u->shift;
    const double *b = rig_as_doubles(r, &u->b);
    const double *bias = u->has_bias ? rig_as_doubles(r, &u->bias) + u->shift : NULL;
    const double *c = rig_as_doubles(r, &u->c);

    for (int64_t m = 0; m < p->M; m++) {
        for (int64_t n = 0; n < p->N; n++) {
            double sum = 0.0, size = 0.0;

            for (int64_t k = 0; k < p->K; k++) {
                const double term = a[p->trans_a ? k * p->lda + m : m * p->lda + k] *
                                    b[p->trans_b ? n * p->ldb + k : k * p->ldb + n];

                sum += term;
                size += fabs(term);
            }
            want[m * p->N + n] = (double)p->alpha * sum + (bias != NULL ? bias[n] : 0.0);
            mag[m * p->N + n] =
                fabs((double)p->alpha) * size + (bias != NULL ? fabs(bias[n]) : 0.0);
            if (p->beta != 0.0f) {
                want[m * p->N + n] += (double)p->beta * c[m * p->ldc + n];
                mag[m * p->N + n] += fabs((double)p->beta * c[m * p->ldc + n]);
            }
        }
    }
}

static void check_between_rows(const setup *u, const char *now, const char *before)
{
    const size_t size = csp_dtype_bytes(u->p.out), from = (size_t)u->p.N * size;

    for (int64_t m = 0; m < u->p.M; m++) {
        const size_t at = (size_t)(m * u->p.ldc) * size + from;

        assert_memory_equal(now + at, before + at, (size_t)(u->p.ldc - u->p.N) * size);
    }
}

/*
 * Computes and compares. K products are added in f32 in whatever order, and scaled; beta C and the
 * bias are two more terms: K + 4 roundings, and `stored` where bf16 is stored.
 */
static void check(rig *r, csp_backend *be, const setup *u, int stored)
{
    const cuda_product *p = &u->p;
    const double half = p->out == CSP_BF16 ? stored * UNIT_BF16 : 0.0;
    const double bound = (double)(p->K + 4) * UNIT_F32 + half + half * half;
    double *want = rig_doubles(r, p->M * p->N), *mag = rig_doubles(r, p->M * p->N);
    float *got = calloc((size_t)(p->M * p->N), sizeof(*got));
    const void *before = rig_host(r, &u->c);
    const float *c;

    assert_non_null(got);
    expect(r, u, want, mag);
    assert_int_equal(cuda_multiply(be, p), CSP_OK);
    assert_int_equal(csp_backend_sync(be), CSP_OK);
    c = rig_floats(r, &u->c);
    for (int64_t m = 0; m < p->M; m++) {
        memcpy(got + m * p->N, c + m * p->ldc, (size_t)p->N * sizeof(*got));
    }
    assert_true(worst_ratio("c", got, want, mag, p->M * p->N, bound) <= 1.0);
    check_between_rows(u, rig_host(r, &u->c), before);
    rig_check_guards(r);
    free(got);
}

/* No bucket or tile divides most of them; K of several parts; rows that vectors and odd ones. */
static const shape shapes[] = { { 1, 1, 1, 0, false },     { 5, 7, 3, 1, true },
                                { 37, 40, 96, 8, false },  { 64, 24, 33, 0, false },
                                { 129, 17, 130, 3, true }, { 20, 72, 200, 8, false } };
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static const csp_dtype types[][2] = { { CSP_F32, CSP_F32 },
                                      { CSP_BF16, CSP_BF16 },
                                      { CSP_BF16, CSP_F32 } };
static const struct {
    float alpha, beta;
    bool bias;
} forms[] = { { 1.0f, 0.0f, false },
              { 1.0f, 0.0f, true },
              { 0.5f, 1.0f, false },
              { 1.0f, 1.0f, true },
              { -1.5f, 0.25f, false } };

static void products_match_the_equation(void **state)
{
    rig *r = *state;

    for (uint64_t i = 0; i < SHAPES; i++) {
        for (int t = 0; t < 3; t++) {
            for (int f = 0; f < 5; f++) {
                for (int trans = 0; trans < 4; trans++) {
                    const bool twice = forms[f].bias && forms[f].beta != 0.0f && shapes[i].shifted;
                    setup u;

                    rig_begin(r, i);
                    u = make(r, &shapes[i], trans % 2 != 0, trans / 2 != 0, types[t][0],
                             types[t][1], forms[f].alpha, forms[f].beta, forms[f].bias);
                    check(r, r->be, &u, twice ? 2 : 1);
                }
            }
        }
    }
}

/* A backend of its own, whose choices nobody made before. */
static csp_backend *fresh(const rig *r, bool tuned)
{
    csp_backend *be;

    assert_int_equal(csp_backend_create(r->be->name, 1, &be), CSP_OK);
    be->tune_products = tuned;
    return be;
}

static const cuda_gemm_state *products_of(csp_backend *be)
{
    return &cuda_state_of(be)->gemm;
}

/* Forward and both gradients of a map of 40 to 72, as a micro-batch of so many rows has them. */
static void map(rig *r, csp_backend *be, int64_t rows)
{
    const shape forward = { rows, 72, 40, 0, false }, dx = { rows, 40, 72, 0, false };
    const shape dw = { 72, 40, rows, 0, false };
    setup u[3];

    rig_begin(r, (uint64_t)rows);
    u[0] = make(r, &forward, false, true, CSP_BF16, CSP_BF16, 1.0f, 0.0f, true);
    u[1] = make(r, &dx, false, false, CSP_BF16, CSP_BF16, 1.0f, 0.0f, false);
    u[2] = make(r, &dw, true, false, CSP_BF16, CSP_F32, 1.0f, 1.0f, false);
    for (int i = 0; i < 3; i++) {
        check(r, be, &u[i], 1);
    }
}

static void steps_after_the_first_plan_nothing(void **state)
{
    static const int64_t rows[] = { 68, 80, 100, 128 };
    rig *r = *state;
    csp_backend *be = fresh(r, false);
    const cuda_gemm_state *g = products_of(be);
    const uint64_t asked = emu_blaslt_heuristics();

    for (int step = 0; step < 2; step++) {
        for (int i = 0; i < 4; i++) {
            map(r, be, rows[i]);
        }
        assert_int_equal(g->plans, 3); /* one for each of the three, whatever its rows */
        assert_int_equal(g->asked, 3);
        assert_int_equal(emu_blaslt_heuristics() - asked, 3);
    }
    map(r, be, 129);
    assert_int_equal(g->plans, 3 + 3 + 2); /* 129 is no multiple of 4: see below */
    csp_backend_destroy(be);
}

/* The dearest algorithm of the emulator takes multiples of 4 rows only. */
static const shape odd = { 37, 40, 200, 0, false }, even = { 40, 40, 200, 0, false };

static csp_tensor multiplied(rig *r, csp_backend *be, const shape *s, uint64_t seed)
{
    setup u;

    rig_begin(r, seed);
    u = make(r, s, false, true, CSP_F32, CSP_F32, 1.0f, 0.0f, false);
    check(r, be, &u, 1);
    return u.c;
}

static float *bits_of(rig *r, csp_backend *be, const shape *s)
{
    const csp_tensor c = multiplied(r, be, s, 3);
    float *copy = malloc(csp_tensor_bytes(&c));

    assert_non_null(copy);
    memcpy(copy, rig_host(r, &c), csp_tensor_bytes(&c));
    return copy;
}

static bool same_bits(const float *a, const float *b, const shape *s)
{
    return memcmp(a, b, (size_t)(s->M * s->N) * sizeof(*a)) == 0;
}

static void a_choice_does_not_depend_on_which_rows_came_first(void **state)
{
    rig *r = *state;
    csp_backend *one = fresh(r, false), *other = fresh(r, false);
    float *bits[2][2];

    bits[0][0] = bits_of(r, one, &odd);
    bits[0][1] = bits_of(r, one, &even);
    bits[1][1] = bits_of(r, other, &even);
    bits[1][0] = bits_of(r, other, &odd);
    assert_true(same_bits(bits[0][0], bits[1][0], &odd));
    assert_true(same_bits(bits[0][1], bits[1][1], &even));
    assert_int_equal(products_of(one)->plans, 2); /* of the bucket, and of 37 rows alone */
    assert_int_equal(products_of(other)->plans, 2);
    free(bits_of(r, one, &odd));
    free(bits_of(r, one, &even));
    assert_int_equal(products_of(one)->plans, 2);
    for (int i = 0; i < 4; i++) {
        free(bits[i / 2][i % 2]);
    }
    csp_backend_destroy(one);
    csp_backend_destroy(other);
}

static void what_cublaslt_does_not_have_is_computed_by_cublas(void **state)
{
    rig *r = *state;
    csp_backend *be = fresh(r, true);

    emu_blaslt_refuse(1);
    for (int t = 0; t < 3; t++) {
        for (int f = 0; f < 5; f++) {
            setup u;

            rig_begin(r, (uint64_t)f);
            u = make(r, &shapes[2], false, true, types[t][0], types[t][1], forms[f].alpha,
                     forms[f].beta, forms[f].bias);
            check(r, be, &u, forms[f].bias && forms[f].beta != 0.0f ? 2 : 1);
        }
    }
    emu_blaslt_refuse(0);
    assert_int_equal(products_of(be)->choice_count, 0);
    csp_backend_destroy(be);
}

static void nothing_to_add_up_leaves_beta_c_and_the_bias(void **state)
{
    const shape none = { 4, 6, 0, 2, false }, empty = { 0, 6, 3, 0, false };
    rig *r = *state;

    for (int f = 0; f < 5; f++) {
        setup u;

        rig_begin(r, (uint64_t)f);
        u = make(r, &none, false, true, CSP_F32, CSP_F32, 1.0f, forms[f].beta, forms[f].bias);
        check(r, r->be, &u, 2);
        u = make(r, &empty, false, true, CSP_F32, CSP_F32, 1.0f, 0.0f, forms[f].bias);
        assert_int_equal(cuda_multiply(r->be, &u.p), CSP_OK);
    }
}

static void timed_choices_come_back_with_their_text(void **state)
{
    rig *r = *state;
    csp_backend *standard = fresh(r, false), *timed = fresh(r, true), *resumed = fresh(r, true);
    float *bits[3];
    char *text, *again;

    emu_blaslt_favour(0); /* one sum over all of K; the standard choice has three parts */
    bits[0] = bits_of(r, standard, &even);
    bits[1] = bits_of(r, timed, &even);
    assert_int_equal(timed->tuned, 1);
    assert_int_equal(csp_backend_tuning_get(timed, &text), CSP_OK);
    emu_blaslt_favour(1);
    assert_int_equal(csp_backend_tuning_set(resumed, text), CSP_OK);
    bits[2] = bits_of(r, resumed, &even);
    assert_int_equal(products_of(resumed)->asked, 0);
    assert_int_equal(resumed->tuned, 0);
    assert_false(same_bits(bits[0], bits[1], &even));
    assert_true(same_bits(bits[1], bits[2], &even));
    assert_int_equal(csp_backend_tuning_get(resumed, &again), CSP_OK);
    assert_string_equal(again, text);
    free(again);
    /* What it has no choice for is timed. */
    (void)multiplied(r, resumed, &shapes[5], 1);
    assert_int_equal(resumed->tuned, 1);
    emu_blaslt_favour(-1);
    for (int i = 0; i < 3; i++) {
        free(bits[i]);
    }
    free(text);
    csp_backend_destroy(standard);
    csp_backend_destroy(timed);
    csp_backend_destroy(resumed);
}

/* C is read, and must not hold a sum of the timed products. */
static void timing_leaves_what_is_added_to_alone(void **state)
{
    rig *r = *state;
    csp_backend *be = fresh(r, true), *full = fresh(r, true);
    const uint64_t bytes = emu_device_bytes();
    setup u;

    rig_begin(r, 1);
    u = make(r, &shapes[5], false, true, CSP_BF16, CSP_F32, 0.5f, 1.0f, false);
    check(r, be, &u, 1);
    assert_int_equal(be->tuned, 1);
    assert_int_equal(emu_device_bytes(), bytes);
    /* Without memory for its results nothing is timed, and the first candidate computes. */
    rig_begin(r, 2);
    u = make(r, &shapes[5], false, true, CSP_BF16, CSP_F32, 0.5f, 1.0f, false);
    csp_fault_arm(2); /* behind the plan itself */
    check(r, full, &u, 1);
    csp_fault_arm(0);
    assert_int_equal(full->tuned, 0);
    assert_int_equal(products_of(full)->choice_count, 0);
    csp_backend_destroy(be);
    csp_backend_destroy(full);
}

static void refuse_tuning(csp_backend *be, const char *text, csp_status status, const char *words)
{
    assert_int_equal(csp_backend_tuning_set(be, text), status);
    assert_non_null(strstr(csp_error_text(), words));
    assert_int_equal(products_of(be)->choice_count, 0);
}

static void choices_of_another_library_or_device_are_refused(void **state)
{
    rig *r = *state;
    csp_backend *be = fresh(r, true), *other = fresh(r, false);
    char *text, *changed, *line;

    free(bits_of(r, be, &even));
    assert_int_equal(csp_backend_tuning_get(be, &text), CSP_OK);
    changed = malloc(strlen(text) + 64);
    assert_non_null(changed);
    refuse_tuning(other, "", CSP_ERR_UNSUPPORTED, "were chosen by \"\"");
    (void)snprintf(changed, strlen(text) + 64, "cublaslt 1%s", text + strlen("cublaslt "));
    refuse_tuning(other, changed, CSP_ERR_UNSUPPORTED, "were chosen by \"cublaslt 11");
    line = strchr(text, '\n');
    (void)snprintf(changed, strlen(text) + 64, "%.*s x%s", (int)(line - text), text, line);
    refuse_tuning(other, changed, CSP_ERR_UNSUPPORTED, " x\", and this is \"cublaslt ");
    /* A line cut off, a number too large, something behind it. */
    (void)snprintf(changed, strlen(text) + 64, "%.*s", (int)strlen(text) - 9, text);
    refuse_tuning(other, changed, CSP_ERR_FORMAT, "no line of them");
    (void)snprintf(changed, strlen(text) + 64, "%.*s\n9999999999999999999999 %s",
                   (int)(line - text), text, line + 1);
    refuse_tuning(other, changed, CSP_ERR_FORMAT, "no line of them");
    (void)snprintf(changed, strlen(text) + 64, "%s1\n", text);
    refuse_tuning(other, changed, CSP_ERR_FORMAT, "no line of them");
    assert_int_equal(csp_backend_tuning_set(other, text), CSP_OK);
    assert_int_equal(products_of(other)->choice_count, 1);
    free(changed);
    free(text);
    csp_backend_destroy(be);
    csp_backend_destroy(other);
}

static void an_algorithm_that_the_library_does_not_take_is_asked_for_anew(void **state)
{
    rig *r = *state;
    csp_backend *be = fresh(r, true), *other = fresh(r, false);
    char *text, *end;

    free(bits_of(r, be, &even));
    assert_int_equal(csp_backend_tuning_get(be, &text), CSP_OK);
    /* Its last word that is not zero is what it was made for. */
    end = strrchr(text, '\n');
    while (end > text && (*end == '0' || *end == ' ' || *end == '\n')) {
        end--;
    }
    *end = *end == '7' ? '6' : '7';
    assert_int_equal(csp_backend_tuning_set(other, text), CSP_OK);
    (void)multiplied(r, other, &even, 3);
    assert_int_equal(products_of(other)->asked, 1);
    free(text);
    csp_backend_destroy(be);
    csp_backend_destroy(other);
}

static void failures_are_told_and_the_backend_goes_on(void **state)
{
    rig *r = *state;
    csp_backend *be = fresh(r, false);
    setup u;

    rig_begin(r, 1);
    u = make(r, &shapes[2], false, true, CSP_F32, CSP_F32, 1.0f, 0.0f, false);
    csp_fault_arm(1);
    assert_int_equal(cuda_multiply(be, &u.p), CSP_ERR_MEMORY);
    csp_fault_arm(0);
    assert_int_equal(products_of(be)->plans, 0);
    rig_check_untouched(r, &u.c);
    check(r, be, &u, 1);
    emu_fail_call(1);
    assert_int_equal(cuda_multiply(be, &u.p), CSP_ERR_DEVICE);
    emu_fail_call(0);
    assert_non_null(strstr(csp_error_text(), "cuBLASLt product (37,40,96)"));
    assert_int_equal(cuda_multiply(be, &u.p), CSP_OK);
    assert_int_equal(csp_backend_sync(be), CSP_OK);
    csp_backend_destroy(be);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bucket_holds_its_rows_and_is_at_most_an_eighth_larger),
        cmocka_unit_test(products_match_the_equation),
        cmocka_unit_test(steps_after_the_first_plan_nothing),
        cmocka_unit_test(a_choice_does_not_depend_on_which_rows_came_first),
        cmocka_unit_test(what_cublaslt_does_not_have_is_computed_by_cublas),
        cmocka_unit_test(nothing_to_add_up_leaves_beta_c_and_the_bias),
        cmocka_unit_test(timed_choices_come_back_with_their_text),
        cmocka_unit_test(timing_leaves_what_is_added_to_alone),
        cmocka_unit_test(choices_of_another_library_or_device_are_refused),
        cmocka_unit_test(an_algorithm_that_the_library_does_not_take_is_asked_for_anew),
        cmocka_unit_test(failures_are_told_and_the_backend_goes_on),
    };
    char device[] = "cuda:0", *arguments[] = { argv[0], device, NULL };

    (void)argc;
    return rig_main(2, arguments, tests, sizeof(tests) / sizeof(tests[0]));
}
