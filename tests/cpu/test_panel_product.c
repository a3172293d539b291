/* test_panel_product.c - cpu_map_rows on small integers, where every difference is an error. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "cpu/backend.h"
#include "cpu/panel.h"
#include "cpu/panel_product.h"

/* N, K, O, R: few rows and many, around panels of 6 and 16, several blocks of rows and parts. */
static const int64_t shapes[][4] = {
    { 1, 1, 1, 0 },      { 1, 3, 2, 1 },     { 5, 16, 17, 3 },    { 127, 33, 31, 17 },
    { 128, 1, 1, 0 },    { 129, 3, 2, 1 },   { 130, 15, 16, 16 }, { 131, 33, 31, 17 },
    { 197, 384, 20, 8 }, { 400, 385, 5, 0 }, { 235, 700, 40, 2 }, { 173, 20, 300, 33 }
};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static float *integers(uint32_t key, int64_t n)
{
    const csp_rng rng = { 9, CSP_DRAW_TEST, key, 0 };
    float *x = malloc((size_t)(n + 1) * sizeof(float));

    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)((int)csp_rng_below(rng, (uint64_t)i, 7) - 3);
    }
    return x;
}

/* m[o][k] of a matrix with outputs as rows, or as columns. */
static float at(const float *m, cpu_weight_form form, int64_t outputs, int64_t inputs, int64_t o,
                int64_t k)
{
    return form == CPU_OUTPUT_ROWS ? m[o * inputs + k] : m[k * outputs + o];
}

static void check(csp_backend *be, const int64_t *shape, cpu_weight_form form, int mode)
{
    const int64_t N = shape[0], K = shape[1], O = shape[2], R = shape[3];
    float *m = integers(1, O * K), *s = integers(2, R * K), *t = integers(3, O * R);
    float *x = integers(4, N * K), *bias = integers(5, O), *y = integers(6, N * O);
    float *want = integers(6, N * O), *inner = integers(7, N * R), *want_inner = integers(7, N * R);
    const cpu_map map = { .N = N,
                          .K = K,
                          .O = O,
                          .R = R,
                          .form = form,
                          .m = m,
                          .s = s,
                          .t = t,
                          .scale = 2.0f,
                          .x = x,
                          .bias = mode == 1 ? bias : NULL,
                          .inner_scale = 3.0f,
                          .inner = inner,
                          .y = y,
                          .add = mode == 2 };
    void *shared = aligned_alloc(64, cpu_map_bytes(&map) + 64);

    assert_non_null(shared);
    memset(shared, 0xff, cpu_map_bytes(&map)); /* NaN */
    for (int64_t n = 0; n < N; n++) {
        float *u = want_inner + n * R;

        for (int64_t r = 0; r < R; r++) {
            u[r] = 0.0f;
            for (int64_t k = 0; k < K; k++) {
                u[r] += x[n * K + k] * at(s, form, R, K, r, k);
            }
        }
        for (int64_t o = 0; o < O; o++) {
            float sum = mode == 1 ? bias[o] : mode == 2 ? want[n * O + o] : 0.0f;

            for (int64_t k = 0; k < K; k++) {
                sum += x[n * K + k] * at(m, form, O, K, o, k);
            }
            for (int64_t r = 0; r < R; r++) {
                sum += 2.0f * u[r] * at(t, form, O, R, o, r);
            }
            want[n * O + o] = sum;
        }
        for (int64_t r = 0; r < R; r++) {
            u[r] *= 3.0f;
        }
    }
    if (mode == 0) {
        memset(y, 0xff, (size_t)(N * O) * sizeof(float)); /* overwritten, whatever it held */
    }
    assert_int_equal(cpu_map_rows(be, &map, shared), CSP_OK);
    assert_memory_equal(y, want, (size_t)(N * O) * sizeof(float));
    assert_memory_equal(inner, want_inner, (size_t)(N * R) * sizeof(float));
    free(m);
    free(s);
    free(t);
    free(x);
    free(bias);
    free(y);
    free(want);
    free(inner);
    free(want_inner);
    free(shared);
}

static void maps_of_small_integers_are_exact_for_any_thread_count(void **state)
{
    const int threads[] = { 1, 2, 3, 7 };

    (void)state;
    for (int i = 0; i < 4; i++) {
        csp_backend *be;

        assert_int_equal(csp_cpu_open("cpu", threads[i], &be), CSP_OK);
        for (int shape = 0; shape < SHAPES; shape++) {
            for (int mode = 0; mode < 3; mode++) {
                check(be, shapes[shape], CPU_OUTPUT_ROWS, mode);
                check(be, shapes[shape], CPU_INPUT_ROWS, mode);
            }
        }
        csp_backend_destroy(be);
    }
}

static void a_sum_is_cut_into_parts_that_cover_it(void **state)
{
    (void)state;
    for (int64_t depth = 1; depth < 5000; depth++) {
        const int64_t part = cpu_panel_steps(depth);

        assert_true(part >= 1 && part <= depth && part < 3 * CPU_PANEL_DEPTH / 2 + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_of_small_integers_are_exact_for_any_thread_count),
        cmocka_unit_test(a_sum_is_cut_into_parts_that_cover_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
