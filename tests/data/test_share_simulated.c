/*
 * test_share_simulated.c - scripts/simulate_imbalance.py shares texts out as the program does: the
 * same rank for every text, of costs with and without ties, and on top of earlier texts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/rng.h"
#include "data/share.h"

enum { MOST = 4096, CASES = 12 };

typedef struct test_case {
    int64_t count, ranks, spread; /* costs are below spread: of a small one there are ties */
    bool goes_on;                 /* on top of the case before, which has as many ranks    */
} test_case;

static const test_case cases[CASES] = {
    { 1, 1, 9, false },       { 12, 3, 5, false },       { 64, 4, 500, false },
    { 128, 4, 500, true },    { 96, 8, 3, false },       { 96, 96, 40, false },
    { 1024, 16, 2, false },   { 1024, 16, 9000, true },  { 512, 2, 500, false },
    { 4096, 256, 60, false }, { 4096, 1024, 60, false }, { 4096, 1024, 1, true },
};

static int64_t cost_at(int number, int64_t i)
{
    const csp_rng rng = { 9, CSP_DRAW_TEST, (uint32_t)number, 0 };

    return (int64_t)csp_rng_below(rng, (uint64_t)i, (uint64_t)cases[number].spread);
}

static void write_cases(const char *path)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    for (int c = 0; c < CASES; c++) {
        fprintf(file, "%s%lld", cases[c].goes_on ? "+" : "", (long long)cases[c].ranks);
        for (int64_t i = 0; i < cases[c].count; i++) {
            fprintf(file, " %lld", (long long)cost_at(c, i));
        }
        fprintf(file, "\n");
    }
    assert_int_equal(fclose(file), 0);
}

static void the_simulation_has_the_same_rule(void **state)
{
    char path[] = "/tmp/csplade-share-XXXXXX", command[1024];
    const int fd = mkstemp(path);
    int32_t owner[MOST];
    int64_t load[MOST];
    csp_share s = { 0 };
    FILE *answers;

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    write_cases(path);
    snprintf(command, sizeof(command), "python3 %s/scripts/simulate_imbalance.py --share < %s",
             CSPLADE_SOURCE_DIR, path);
    answers = popen(command, "r");
    assert_non_null(answers);
    for (int c = 0; c < CASES; c++) {
        const int64_t count = cases[c].count, ranks = cases[c].ranks;

        assert_int_equal(csp_share_reserve(&s, count, ranks), CSP_OK);
        if (cases[c].goes_on) {
            memcpy(s.load, load, sizeof(*load) * (size_t)ranks);
        }
        for (int64_t i = 0; i < count; i++) {
            s.cost[i] = cost_at(c, i);
        }
        assert_int_equal(csp_share_texts(&s, count, ranks), CSP_OK);
        memcpy(load, s.load, sizeof(*load) * (size_t)ranks);
        for (int64_t i = 0; i < count; i++) {
            owner[s.text[i]] = (int32_t)(i / (count / ranks));
            assert_int_equal(s.owner[s.text[i]], owner[s.text[i]]);
        }
        for (int64_t i = 0; i < count; i++) {
            int said = -1;

            assert_int_equal(fscanf(answers, "%d", &said), 1);
            assert_int_equal(said, owner[i]);
        }
    }
    assert_int_equal(pclose(answers), 0);
    remove(path);
    csp_share_clear(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_simulation_has_the_same_rule),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
