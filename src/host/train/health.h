/*
 * health.h - watches representations while training and says in words when they go wrong: the
 * commonest failure of this field is a silent collapse.
 */
#pragma once

#include "ops/loss.h"
#include "train/health_memory.h"
#include "train/step_metrics.h"

/* One side's rows of a step, as csp_column_sums and csp_position_counts have counted them. */
typedef struct csp_health_side {
    int64_t rows;
    const int64_t *row_ptr;   /* [rows + 1]                                         */
    const int32_t *count;     /* [vocab]         rows that have the term            */
    const int64_t *positions; /* [CSP_POSITIONS] maxima at each position; NULL: not known, for
                                 queries and sum pooling                            */
} csp_health_side;

typedef struct csp_health csp_health;

/* Which limits make a warning; a share of 1.01 never does. */
typedef struct csp_health_limits {
    double zero_rows;    /* share of all-zero queries or documents        */
    double top_position; /* share of maxima at one position               */
    double dead_terms;   /* share of terms never active in recent steps   */
} csp_health_limits;

CSP_CHECKED csp_status csp_health_create(int64_t vocab, const csp_health_limits *limits,
                                         csp_health **out);
void csp_health_destroy(csp_health *health);

/* What it knows of the steps so far; valid until the next observation. For checkpoints. */
const csp_health_memory *csp_health_remembers(const csp_health *health);

/* Goes on where a panel of the same vocabulary was when it remembered this. */
void csp_health_recall(csp_health *health, const csp_health_memory *memory);

/*
 * Looks at one step's rows and fills the members active_*, zero_*, dead_terms, index_flops and
 * top_position of m.
 *
 * dead_terms stays NaN until 100 steps were seen, by this panel or one whose memory it has;
 * top_position is of the documents, NaN without positions or terms, and leaves positions
 * from 4,096 on out; the 95th percentile is of the first 4,096 rows of a side.
 */
void csp_health_observe(csp_health *health, int64_t step, const csp_health_side *queries,
                        const csp_health_side *documents, csp_step_metrics *m);

/*
 * Warns through core/log.h about what m shows, at most once per 50 steps and kind.
 *
 *   candidates   in   number of passages a query is compared with, for "at chance level"
 *   collapsed    out  whether rows are all zero above the limit: what run.stop_on_collapse stops at
 */
void csp_health_warn(csp_health *health, const csp_step_metrics *m, int64_t candidates,
                     bool *collapsed);
