/* test_share.c - the texts of a batch, shared out among ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "data/share.h"

static void share_out(csp_share *s, const int64_t *cost, int64_t count, int64_t ranks)
{
    assert_int_equal(csp_share_reserve(s, count, ranks), CSP_OK);
    memcpy(s->cost, cost, sizeof(*cost) * (size_t)count);
    assert_int_equal(csp_share_texts(s, count, ranks), CSP_OK);
}

static void one_rank_has_all_in_order(void **state)
{
    const int64_t cost[] = { 5, 0, 9, 9, 1 };
    csp_share s = { 0 };

    (void)state;
    share_out(&s, cost, 5, 1);
    for (int64_t i = 0; i < 5; i++) {
        assert_int_equal(s.text[i], i);
    }
    assert_int_equal(s.load[0], 24);
    csp_share_clear(&s);
}

/* Each has as many texts; every text has one rank; ascending in each. */
static void every_text_has_one_rank(void **state)
{
    enum { COUNT = 96, MOST = 8 };
    const csp_rng rng = { 4, CSP_DRAW_TEST, 0, 0 };
    csp_share s = { 0 };

    (void)state;
    for (int ranks = 1; ranks <= MOST; ranks *= 2) {
        int64_t cost[COUNT], seen[COUNT] = { 0 }, sum = 0, worst = 0;

        for (int64_t i = 0; i < COUNT; i++) {
            cost[i] = 20 + (int64_t)csp_rng_below(rng, (uint64_t)i, 200);
            sum += cost[i];
        }
        share_out(&s, cost, COUNT, ranks);
        for (int r = 0; r < ranks; r++) {
            const int64_t *text = s.text + r * COUNT / ranks;
            int64_t load = 0;

            for (int64_t i = 0; i < COUNT / ranks; i++) {
                seen[text[i]]++;
                load += cost[text[i]];
                assert_true(i == 0 || text[i] > text[i - 1]);
            }
            assert_int_equal(load, s.load[r]);
            worst = load > worst ? load : worst;
        }
        for (int64_t i = 0; i < COUNT; i++) {
            assert_int_equal(seen[i], 1);
        }
        /* Longest first is within a third of the best; texts this short come within a hundredth. */
        assert_true((double)worst <= 1.01 * (double)sum / ranks);
    }
    csp_share_clear(&s);
}

/* Who has much already gets the short ones. */
static void loads_from_before_count(void **state)
{
    const int64_t cost[] = { 10, 1, 10, 1 };
    csp_share s = { 0 };

    (void)state;
    assert_int_equal(csp_share_reserve(&s, 4, 2), CSP_OK);
    memcpy(s.cost, cost, sizeof(cost));
    s.load[0] = 100;
    assert_int_equal(csp_share_texts(&s, 4, 2), CSP_OK);
    assert_int_equal(s.text[0], 1);
    assert_int_equal(s.text[1], 3);
    assert_int_equal(s.text[2], 0);
    assert_int_equal(s.text[3], 2);
    assert_int_equal(s.load[0], 102);
    csp_share_clear(&s);
}

/* Costs that say nothing still share the texts out evenly. */
static void equal_costs_are_dealt(void **state)
{
    const int64_t cost[6] = { 0 };
    csp_share s = { 0 };

    (void)state;
    share_out(&s, cost, 6, 3);
    for (int64_t i = 0; i < 6; i++) {
        assert_true(s.text[i] >= 0 && s.text[i] < 6);
    }
    share_out(&s, cost, 6, 2); /* again, with less ranks, in the same memory */
    share_out(&s, cost, 4, 4);
    csp_share_clear(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_has_all_in_order),
        cmocka_unit_test(every_text_has_one_rank),
        cmocka_unit_test(loads_from_before_count),
        cmocka_unit_test(equal_costs_are_dealt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
