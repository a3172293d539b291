/* test_rank_times.c - medians, shares and the straggler of steps whose times are known. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "train/rank_times.h"

enum { RANKS = 4 };

static char said[4096];
static size_t said_bytes;

/* What is logged goes to `said`. */
static void say(const csp_rank_times *times, const char *phase)
{
    FILE *file = tmpfile();
    const int before = dup(STDERR_FILENO);

    assert_non_null(file);
    assert_true(before >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
    csp_rank_times_say(times, phase);
    fflush(stderr);
    assert_true(dup2(before, STDERR_FILENO) >= 0);
    close(before);
    rewind(file);
    said_bytes = fread(said, 1, sizeof(said) - 1, file);
    said[said_bytes] = '\0';
    fclose(file);
}

static csp_rank_times *create(int size)
{
    csp_rank_times *times;

    assert_int_equal(csp_rank_times_create(size, &times), CSP_OK);
    return times;
}

static double paused_s; /* on rank 2 before each step; half as long on the others */

/* Steps in which rank r works for work[r] and waits for the slowest. */
static void count(csp_rank_times *times, int size, const double *work, csp_step_metrics *m)
{
    csp_rank_work all[64];
    double most = 0.0;

    for (int r = 0; r < size; r++) {
        most = work[r] > most ? work[r] : most;
    }
    for (int r = 0; r < size; r++) {
        all[r] = (csp_rank_work) { .seconds = most,
                                   .data_s = 0.25 * most,
                                   .waited_s = most - work[r],
                                   .sent = 3e6,
                                   .paused_s = r == 2 ? paused_s : 0.5 * paused_s };
    }
    csp_rank_times_count(times, all, m);
}

static void a_step_has_the_numbers_of_its_ranks(void **state)
{
    csp_rank_times *times = create(RANKS);
    csp_step_metrics m;

    (void)state;
    csp_step_metrics_clear(&m, "adapt", 1, 2);
    count(times, RANKS, (double[]) { 1.0, 2.0, 3.0, 2.0 }, &m);
    assert_true(isnan(m.save_pause_s)); /* no rank did */
    paused_s = 0.125;
    count(times, RANKS, (double[]) { 1.0, 2.0, 3.0, 2.0 }, &m);
    paused_s = 0.0;
    assert_true(m.save_pause_s == 0.125);
    assert_true(fabs(m.rank_wait - (2.0 / 3 + 1.0 / 3 + 0 + 1.0 / 3) / 4) < 1e-12);
    assert_true(fabs(m.rank_slowest - 3.0 / 2.0) < 1e-12);
    assert_true(fabs(m.rank_sent_mb - 3.0) < 1e-12);
    assert_true(fabs(m.data_wait - 0.25) < 1e-12);
    csp_rank_times_destroy(times);
}

/* 100 steps of 10, 20, ... 1000 ms on rank 0: the bins give each quantile within 2.5 %. */
static void quantiles_are_those_of_the_steps(void **state)
{
    csp_rank_times *times = create(RANKS);
    csp_rank_summary s;
    csp_step_metrics m;

    (void)state;
    for (int i = 0; i < 100; i++) {
        const double t = 0.01 * ((i * 37) % 100 + 1); // in another order

        count(times, RANKS, (double[]) { t, 0.004, 1.5, 1e-9 }, &m);
    }
    s = csp_rank_times_of(times, 0);
    assert_true(fabs(s.median_s / 0.50 - 1.0) <= 0.025);
    assert_true(fabs(s.p95_s / 0.95 - 1.0) <= 0.025);
    assert_true(fabs(s.max_s - 1.0) < 1e-12);
    assert_true(fabs(s.waited - (1.5 - 0.505) / 1.5) < 1e-9);
    assert_true(s.slowest == 0.0);
    s = csp_rank_times_of(times, 2);
    assert_true(s.slowest == 1.0 && fabs(s.waited) < 1e-12 && s.median_s <= 1.5);
    assert_true(fabs(csp_rank_times_of(times, 1).median_s / 0.004 - 1.0) <= 0.025);
    assert_true(fabs(csp_rank_times_of(times, 3).max_s - 1e-9) < 1e-15); // below the first bin
    csp_rank_times_destroy(times);
}

static void a_straggler_is_named(void **state)
{
    csp_rank_times *times = create(RANKS);
    csp_step_metrics m;

    (void)state;
    for (int i = 0; i < 20; i++) { // by 20 % of its own, 14 % of the mean, in 11 of 20
        count(times, RANKS,
              i < 11 ? (double[]) { 1.0, 1.0, 1.2, 1.0 } : (double[]) { 1.3, 1.0, 1.0, 1.0 }, &m);
    }
    assert_int_equal(csp_rank_times_straggler(times), 2);
    say(times, "adapt");
    assert_non_null(strstr(said, "rank 2 on "));
    assert_non_null(strstr(said, "holds the others up: in 55 % of the steps of phase adapt"));
    assert_non_null(strstr(said, "slowest in 45 %"));
    csp_rank_times_destroy(times);
}

static void who_is_last_by_little_or_seldom_is_none(void **state)
{
    csp_rank_times *times = create(RANKS);
    csp_step_metrics m;

    (void)state;
    for (int i = 0; i < 20; i++) { // always last, by 8 % of the mean
        count(times, RANKS, (double[]) { 1.0, 1.0, 1.11, 1.0 }, &m);
    }
    assert_int_equal(csp_rank_times_straggler(times), -1);
    csp_rank_times_destroy(times);
    times = create(RANKS);
    for (int i = 0; i < 20; i++) { // far behind, in half of the steps
        count(times, RANKS,
              i < 10 ? (double[]) { 1.0, 1.0, 2.0, 1.0 } : (double[]) { 2.0, 1.0, 1.0, 1.0 }, &m);
    }
    assert_int_equal(csp_rank_times_straggler(times), -1);
    say(times, "adapt");
    assert_null(strstr(said, "holds the others up"));
    csp_rank_times_destroy(times);
    times = create(RANKS);
    for (int i = 0; i < CSP_STRAGGLER_STEPS - 1; i++) { // too few to say
        count(times, RANKS, (double[]) { 1.0, 1.0, 2.0, 1.0 }, &m);
    }
    assert_int_equal(csp_rank_times_straggler(times), -1);
    count(times, RANKS, (double[]) { 1.0, 1.0, 2.0, 1.0 }, &m);
    assert_int_equal(csp_rank_times_straggler(times), 2);
    csp_rank_times_destroy(times);
}

static void of_many_ranks_the_slowest_are_said(void **state)
{
    enum { MANY = 40 };
    csp_rank_times *times = create(MANY);
    csp_step_metrics m;
    double work[MANY];
    int lines = 0;

    (void)state;
    say(times, "adapt");
    assert_int_equal(said_bytes, 0); // no step, no word
    for (int r = 0; r < MANY; r++) {
        work[r] = r == 7 ? 100.0 : 1.0 + r % 20;
    }
    count(times, MANY, work, &m);
    say(times, "adapt");
    for (const char *at = said; (at = strstr(at, "median")) != NULL; at++) {
        lines++;
    }
    assert_int_equal(lines, 16);
    assert_non_null(strstr(said, "  rank 7 on "));
    assert_non_null(strstr(said, "  rank 39 on "));
    assert_null(strstr(said, "  rank 0 on "));
    csp_rank_times_destroy(times);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_has_the_numbers_of_its_ranks),
        cmocka_unit_test(quantiles_are_those_of_the_steps),
        cmocka_unit_test(a_straggler_is_named),
        cmocka_unit_test(who_is_last_by_little_or_seldom_is_none),
        cmocka_unit_test(of_many_ranks_the_slowest_are_said),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
