/* test_gemm.c - cpu_gemm on small integers, where every difference is an error; and its threads. */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "cpu/backend.h"
#include "cpu/gemm.h"

/* Around the cuts of 8 rows and 16 columns, thin, long, and large enough for every thread. */
static const int64_t shapes[][3] = { { 1, 1, 1 },       { 3, 5, 0 },      { 8, 16, 7 },
                                     { 129, 65, 70 },   { 16, 700, 300 }, { 700, 16, 300 },
                                     { 257, 255, 129 }, { 2, 3, 5000 } };
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static float *integers(uint32_t key, int64_t n)
{
    const csp_rng rng = { 5, CSP_DRAW_TEST, key, 0 };
    float *x = malloc((size_t)(n + 1) * sizeof(float));

    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)((int)csp_rng_below(rng, (uint64_t)i, 9) - 4);
    }
    return x;
}

static void check(csp_backend *be, const int64_t *shape, int flags)
{
    const bool ta = flags & 1, tb = flags & 2, keep = flags & 4;
    const int64_t M = shape[0], N = shape[1], K = shape[2];
    const int64_t lda = (ta ? M : K) + 1, ldb = (tb ? K : N) + 2, ldc = N + 3;
    float *a = integers(1, (ta ? K : M) * lda), *b = integers(2, (tb ? N : K) * ldb);
    float *c = integers(3, M * ldc), *want = integers(3, M * ldc);

    for (int64_t m = 0; m < M; m++) {
        for (int64_t n = 0; n < N; n++) {
            float sum = 0.0f;

            for (int64_t k = 0; k < K; k++) {
                sum +=
                    (ta ? a[k * lda + m] : a[m * lda + k]) * (tb ? b[n * ldb + k] : b[k * ldb + n]);
            }
            want[m * ldc + n] = 2.0f * sum + (keep ? want[m * ldc + n] : 0.0f);
            if (!keep) {
                c[m * ldc + n] = NAN; /* beta 0 overwrites whatever is there */
            }
        }
    }
    assert_int_equal(
        cpu_gemm(be, ta, tb, M, N, K, 2.0f, a, lda, b, ldb, keep ? 1.0f : 0.0f, c, ldc), CSP_OK);
    assert_memory_equal(c, want, (size_t)(M * ldc) * sizeof(float));
    free(a);
    free(b);
    free(c);
    free(want);
}

static void products_of_small_integers_are_exact_for_any_thread_count(void **state)
{
    const int threads[] = { 1, 2, 3, 7 };

    (void)state;
    for (int t = 0; t < 4; t++) {
        csp_backend *be;

        assert_int_equal(csp_cpu_open("cpu", threads[t], &be), CSP_OK);
        for (int i = 0; i < SHAPES; i++) {
            for (int flags = 0; flags < 8; flags++) {
                check(be, shapes[i], flags);
            }
        }
        csp_backend_destroy(be);
    }
}

static long threads_of_this_process(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long count = -1;

    while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
        if (strncmp(line, "Threads:", 8) == 0) {
            count = strtol(line + 8, NULL, 10);
        }
    }
    if (status != NULL) {
        (void)fclose(status);
    }
    return count;
}

/* Runs first: later tests have started threads. */
static void a_backend_of_one_thread_starts_no_other(void **state)
{
    const int64_t shape[] = { 300, 300, 300 };
    const int allowed = omp_get_max_threads();
    csp_backend *be;

    (void)state;
    omp_set_num_threads(4);
    assert_int_equal(csp_cpu_open("cpu", 1, &be), CSP_OK);
    check(be, shape, 0);
    if (threads_of_this_process() < 0) {
        skip();
    }
    assert_int_equal(threads_of_this_process(), 1);
    assert_int_equal(omp_get_max_threads(), 4);
    omp_set_num_threads(allowed);
    csp_backend_destroy(be);
}

/* What a BLAS that hands one buffer to two callers gets wrong, within a second or so. */
static void small_products_of_several_threads_do_not_disturb_each_other(void **state)
{
    enum { M = 32, N = 65, K = 32, ROUNDS = 20000 };
    int64_t wrong = 0;

    (void)state;
#pragma omp parallel num_threads(4) reduction(+ : wrong)
    {
        float *a = integers((uint32_t)omp_get_thread_num(), M * K), *b = integers(9, N * K);
        float *first = calloc(M * N, sizeof(float)), *c = calloc(M * N, sizeof(float));

        cpu_gemm_serial(false, true, M, N, K, 1.0f, a, K, b, K, 0.0f, first, N);
        for (int i = 0; i < ROUNDS; i++) {
            cpu_gemm_serial(false, true, M, N, K, 1.0f, a, K, b, K, 0.0f, c, N);
            wrong += memcmp(first, c, M * N * sizeof(float)) != 0;
        }
        free(a);
        free(b);
        free(first);
        free(c);
    }
    assert_int_equal(wrong, 0);
}

static void sizes_that_blas_cannot_count_are_refused(void **state)
{
    csp_backend *be;
    float x = 3.0f;

    (void)state;
    assert_int_equal(csp_cpu_open("cpu", 2, &be), CSP_OK);
    assert_int_equal(cpu_gemm(be, false, false, 1, (int64_t)1 << 31, 1, 1.0f, &x, 1, &x,
                              (int64_t)1 << 31, 0.0f, &x, (int64_t)1 << 31),
                     CSP_ERR_ARGUMENT);
    assert_true(x == 3.0f);
    csp_backend_destroy(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_backend_of_one_thread_starts_no_other),
        cmocka_unit_test(products_of_small_integers_are_exact_for_any_thread_count),
        cmocka_unit_test(small_products_of_several_threads_do_not_disturb_each_other),
        cmocka_unit_test(sizes_that_blas_cannot_count_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
