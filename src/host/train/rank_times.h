/*
 * rank_times.h - how the ranks of a phase share its work: of each rank a histogram of what its
 * steps took without waiting, how much it waited for others, and how often it was the slowest.
 *
 *     csp_rank_times *times = NULL;
 *     CSP_TRY(csp_rank_times_create(ranks->size, &times));
 *     CSP_TRY(csp_rank_times_meet(times, ranks));
 *     ...                                                 each step:
 *     CSP_TRY(csp_rank_times_step(times, ranks, &own, &metrics));
 *     ...                                                 at the end of the phase:
 *     csp_rank_times_say(times, "contrastive");
 *     csp_rank_times_destroy(times);
 */
#pragma once

#include "train/ranks.h"
#include "train/step_metrics.h"

/* What a rank did in a step. */
typedef struct csp_rank_work {
    double seconds;  /* of the step, with waiting */
    double data_s;   /* of them, for its texts    */
    double waited_s; /* of them, for other ranks  */
    double busy_s;   /* in collectives, beside computation or not */
    double sent;     /* bytes to other ranks      */
    double paused_s; /* before the step and in it, for checkpoints */
} csp_rank_work;

/* What it did in all steps. Times are of its work: seconds without waiting. */
typedef struct csp_rank_summary {
    double median_s, p95_s; /* within 2.5 %: the middles of bins of 5 %        */
    double max_s;           /* exact                                           */
    double waited;          /* share of the time of all steps                  */
    double slowest;         /* share of the steps in which it worked longest   */
    double behind;          /* share of the steps in which it did, by CSP_STRAGGLER_RATIO or more */
} csp_rank_summary;

typedef struct csp_rank_times csp_rank_times;

/* A rank whose work is this many times the mean of all ranks holds the others up, ... */
#define CSP_STRAGGLER_RATIO 1.1
/* ... and is named where it did in more than half of at least so many steps. */
enum { CSP_STRAGGLER_STEPS = 10 };

/* Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_rank_times_create(int size, csp_rank_times **out);
void csp_rank_times_destroy(csp_rank_times *times); /* takes NULL */

/* The ranks tell one another on which machines they are. Ranks: collective. */
CSP_CHECKED csp_status csp_rank_times_meet(csp_rank_times *times, const csp_ranks *ranks);

/*
 * The ranks tell one another what they did in a step, and count it.
 *
 *   m   out   data_wait, rank_comm, rank_wait, rank_slowest, rank_sent_mb, and save_pause_s where
 *             a rank paused; the same on all ranks
 *
 * Ranks: collective.
 */
CSP_CHECKED csp_status csp_rank_times_step(csp_rank_times *times, const csp_ranks *ranks,
                                           const csp_rank_work *own, csp_step_metrics *m);

/* Counts a step of which all is known. all: (size). */
void csp_rank_times_count(csp_rank_times *times, const csp_rank_work *all, csp_step_metrics *m);

/* Of the steps that have been counted; all 0 where none has. */
csp_rank_summary csp_rank_times_of(const csp_rank_times *times, int rank);

/* The rank that holds the others up; -1: none does. */
int csp_rank_times_straggler(const csp_rank_times *times);

/* Logs a line for each rank, of many those of the largest medians; warns of a straggler. */
void csp_rank_times_say(const csp_rank_times *times, const char *phase);
