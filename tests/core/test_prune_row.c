/* test_prune_row.c - the largest weights of a row against counting what comes before each. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/prune_row.h"
#include "core/rng.h"

enum { LONGEST = 300 };

static void keeps_the_largest_and_of_equals_the_lowest_term(void **state)
{
    const csp_rng rng = { .seed = 1, .draw = CSP_DRAW_TEST };
    uint64_t at = 0;

    for (int64_t n = 0; n <= LONGEST; n = n * 3 / 2 + 1) {
        for (int64_t k = 0; k <= n + 1; k = k * 2 + 1) {
            int32_t term[LONGEST], got_term[LONGEST];
            float weight[LONGEST], got_weight[LONGEST];
            int64_t kept, seen = 0;

            for (int64_t i = 0; i < n; i++) {
                term[i] = got_term[i] = (int32_t)(3 * i);
                /* Few distinct values: many ties. */
                weight[i] = got_weight[i] = (float)csp_rng_below(rng, at++, 7) + 1.0f;
            }
            kept = csp_prune_row(got_term, got_weight, n, k);
            assert_int_equal(kept, n < k ? n : k);
            for (int64_t i = 0; i < n; i++) {
                int64_t better = 0;

                for (int64_t j = 0; j < n; j++) {
                    better += weight[j] > weight[i] || (weight[j] == weight[i] && j < i);
                }
                if (better < k) {
                    assert_int_equal(got_term[seen], term[i]);
                    assert_true(got_weight[seen] == weight[i]);
                    seen++;
                }
            }
            assert_int_equal(seen, kept);
        }
    }
}

/* So that whoever reads what is left sees it. */
static void a_nan_is_larger_than_infinity(void **state)
{
    (void)state;
    for (int64_t k = 1; k < 5; k++) {
        int32_t term[] = { 0, 1, 2, 3, 4 };
        float weight[] = { NAN, INFINITY, 7.0f, 9.0f, -NAN };
        static const int32_t want[][4] = { { 0 }, { 0, 4 }, { 0, 1, 4 }, { 0, 1, 3, 4 } };

        assert_int_equal(csp_prune_row(term, weight, 5, k), k);
        assert_memory_equal(term, want[k - 1], (size_t)k * sizeof(*term));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_nan_is_larger_than_infinity),
        cmocka_unit_test(keeps_the_largest_and_of_equals_the_lowest_term),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
