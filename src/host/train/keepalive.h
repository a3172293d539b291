/*
 * keepalive.h - ranks that work each for itself for long, such as reading files: they tell one
 * another once a second that they go on, so that run.rank_timeout_s ends a run of which a rank
 * hangs, and none of which a rank takes long.
 *
 *     csp_keepalive_begin(&alive, ranks, "the check of the state files");
 *     while (...) {
 *         ... a part of the work ...
 *         CSP_TRY_GOTO(csp_keepalive_tick(&alive));
 *     }
 *     return csp_keepalive_end(&alive);
 *
 * fail:
 *     csp_keepalive_leave(&alive, status);
 *
 * Nobody waits for a slower rank before the end, and a rank that works itself never does.
 */
#pragma once

#include "train/ranks.h"

typedef struct csp_keepalive {
    const csp_ranks *ranks; /* NULL: one */
    const char *what;
    double told_s;
    csp_pending round;
    int32_t busy; /* of the round: whether any rank still works */
} csp_keepalive;

/*
 *   alive   out   must stay where it is until the end
 *   what    in    the work in messages: a rank "did not come to" it; kept
 */
void csp_keepalive_begin(csp_keepalive *alive, const csp_ranks *ranks, const char *what);

/* To be called while this rank works, with less than the timeout between two calls. */
CSP_CHECKED csp_status csp_keepalive_tick(csp_keepalive *alive);

/* Waits until all ranks have come to their end. Ranks: collective. */
CSP_CHECKED csp_status csp_keepalive_end(csp_keepalive *alive);

/* In place of the end, after a failure of this rank: csp_ranks_abort. alive may go then. */
void csp_keepalive_leave(csp_keepalive *alive, csp_status status);
