/* rank_times.c - how the ranks of a phase share its work. */
#include "train/rank_times.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/log.h"
#include "core/memory.h"

/* Bins begin at a microsecond, and each ends 5 % above where it begins: the last at 15 days. */
enum { BINS = 570, HOST_BYTES = 64, SAID = 16 };
static const double first_s = 1e-6, bin_ratio = 1.05;

typedef struct rank_record {
    int64_t bin[BINS];
    double seconds, waited_s, max_s;
    int64_t slowest, behind;
    char host[HOST_BYTES];
} rank_record;

struct csp_rank_times {
    int size;
    int64_t steps;
    csp_rank_work *work; /* (size) of the present step */
    rank_record *rank;   /* (size)                     */
};

csp_status csp_rank_times_create(int size, csp_rank_times **out)
{
    csp_rank_times *times = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero("times of ranks", 1, sizeof(*times), &times));
    times->size = size;
    CSP_TRY_GOTO(csp_alloc("times of ranks", size, sizeof(*times->work), &times->work));
    CSP_TRY_GOTO(csp_alloc_zero("times of ranks", size, sizeof(*times->rank), &times->rank));
    *out = times;
    return CSP_OK;

fail:
    csp_rank_times_destroy(times);
    return status;
}

void csp_rank_times_destroy(csp_rank_times *times)
{
    if (times != NULL) {
        free(times->work);
        free(times->rank);
        free(times);
    }
}

csp_status csp_rank_times_meet(csp_rank_times *times, const csp_ranks *ranks)
{
    char own[HOST_BYTES] = "", *all = NULL;
    csp_status status;

    (void)gethostname(own, sizeof(own) - 1);
    CSP_TRY(csp_alloc("times of ranks", times->size, HOST_BYTES, &all));
    status = csp_ranks_gather_host(ranks, own, all, HOST_BYTES, "machines of ranks");
    for (int r = 0; r < times->size && status == CSP_OK; r++) {
        (void)snprintf(times->rank[r].host, HOST_BYTES, "%.*s", HOST_BYTES - 1,
                       all + (size_t)r * HOST_BYTES);
    }
    free(all);
    return status;
}

static int bin_of(double seconds)
{
    const double at = seconds > first_s ? log(seconds / first_s) / log(bin_ratio) : 0.0;

    return at < BINS - 1 ? (int)at : BINS - 1;
}

static double work_of(const csp_rank_work *w)
{
    return w->seconds - w->waited_s;
}

void csp_rank_times_count(csp_rank_times *times, const csp_rank_work *all, csp_step_metrics *m)
{
    const int size = times->size;
    double waited = 0.0, busy = 0.0, worked = 0.0, sent = 0.0, data = 0.0, paused = 0.0;
    int slowest = 0;

    for (int r = 0; r < size; r++) {
        rank_record *record = &times->rank[r];
        const double work = work_of(&all[r]);

        record->bin[bin_of(work)]++;
        record->seconds += all[r].seconds;
        record->waited_s += all[r].waited_s;
        record->max_s = work > record->max_s ? work : record->max_s;
        waited += all[r].waited_s / all[r].seconds / size;
        busy += all[r].busy_s / all[r].seconds / size;
        worked += work / size;
        sent += all[r].sent / size;
        data += all[r].data_s / all[r].seconds / size;
        paused = all[r].paused_s > paused ? all[r].paused_s : paused;
        slowest = work > work_of(&all[slowest]) ? r : slowest;
    }
    times->steps++;
    times->rank[slowest].slowest++;
    times->rank[slowest].behind += work_of(&all[slowest]) >= CSP_STRAGGLER_RATIO * worked;
    m->data_wait = data;
    m->rank_comm = busy;
    m->rank_wait = waited;
    m->rank_slowest = work_of(&all[slowest]) / worked;
    m->rank_sent_mb = sent / 1e6;
    m->save_pause_s = paused > 0.0 ? paused : m->save_pause_s;
}

csp_status csp_rank_times_step(csp_rank_times *times, const csp_ranks *ranks,
                               const csp_rank_work *own, csp_step_metrics *m)
{
    CSP_TRY(csp_ranks_gather_host(ranks, own, times->work, sizeof(*own), "times of ranks"));
    csp_rank_times_count(times, times->work, m);
    return CSP_OK;
}

/* The middle of the bin in which the given share of the steps has ended. */
static double quantile(const csp_rank_times *times, int rank, double share)
{
    const rank_record *record = &times->rank[rank];
    const int64_t wanted = (int64_t)ceil(share * (double)times->steps);
    double middle = 0.0;
    int64_t seen = 0;

    for (int i = 0; i < BINS && seen < wanted; i++) {
        seen += record->bin[i];
        middle = first_s * pow(bin_ratio, i + 0.5);
    }
    return middle < record->max_s ? middle : record->max_s;
}

csp_rank_summary csp_rank_times_of(const csp_rank_times *times, int rank)
{
    const rank_record *record = &times->rank[rank];

    if (times->steps == 0) {
        return (csp_rank_summary) { 0 };
    }
    return (csp_rank_summary) { .median_s = quantile(times, rank, 0.5),
                                .p95_s = quantile(times, rank, 0.95),
                                .max_s = record->max_s,
                                .waited = record->waited_s / record->seconds,
                                .slowest = (double)record->slowest / (double)times->steps,
                                .behind = (double)record->behind / (double)times->steps };
}

int csp_rank_times_straggler(const csp_rank_times *times)
{
    if (times->steps < CSP_STRAGGLER_STEPS) {
        return -1;
    }
    for (int r = 0; r < times->size; r++) {
        if (2 * times->rank[r].behind > times->steps) {
            return r;
        }
    }
    return -1;
}

/* Whether a rank is among the SAID with the largest medians. */
static bool is_said(const csp_rank_times *times, int rank)
{
    const double own = quantile(times, rank, 0.5);
    int before = 0;

    if (times->size <= SAID) {
        return true;
    }
    for (int r = 0; r < times->size; r++) {
        const double other = quantile(times, r, 0.5);

        before += other > own || (other == own && r < rank);
    }
    return before < SAID;
}

void csp_rank_times_say(const csp_rank_times *times, const char *phase)
{
    const int straggler = csp_rank_times_straggler(times);

    if (times->steps == 0) {
        return;
    }
    csp_log(CSP_LOG_INFO, "train",
            "work of the %sranks in %lld steps of phase %s, without waiting:",
            times->size > SAID ? "slowest " : "", (long long)times->steps, phase);
    for (int r = 0; r < times->size; r++) {
        const csp_rank_summary s = csp_rank_times_of(times, r);

        if (is_said(times, r)) {
            csp_log(CSP_LOG_INFO, "train",
                    "  rank %d on %s  median %.4g ms  p95 %.4g ms  max %.4g ms  waited %.1f %%  "
                    "slowest in %.0f %%",
                    r, times->rank[r].host, 1e3 * s.median_s, 1e3 * s.p95_s, 1e3 * s.max_s,
                    100.0 * s.waited, 100.0 * s.slowest);
        }
    }
    if (straggler >= 0) {
        csp_log(CSP_LOG_WARN, "train",
                "rank %d on %s holds the others up: in %.0f %% of the steps of phase %s it worked "
                "longest, and %.0f %% or more longer than the mean of all; look at what else runs "
                "there, at its clocks and its memory",
                straggler, times->rank[straggler].host,
                100.0 * csp_rank_times_of(times, straggler).behind, phase,
                100.0 * (CSP_STRAGGLER_RATIO - 1.0));
    }
}
