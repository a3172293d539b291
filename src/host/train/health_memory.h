/*
 * health_memory.h - what the health panel (health.h) remembers from step to step. It lies in
 * checkpoints of the contrastive phase, so that a resumed run logs and warns as one that was never
 * stopped:
 *
 *     /health/last_active   (V) i64: step at which a term was last in a text, 0 = never
 *     /health               attributes first_step, warned (steps of the last warning of each kind),
 *                           active_q, active_d (entries of a row in the last step, a mean; not in
 *                           files that are older than they)
 */
#pragma once

#include "io/hdf5.h"

enum { CSP_HEALTH_WARNINGS = 5, CSP_HEALTH_QUIET_STEPS = 50 };

/* Begins as { 0 } where there is none. */
typedef struct csp_health_memory {
    int64_t vocab;
    int64_t first_step;                  /* observed, -1 = none yet                       */
    int64_t warned[CSP_HEALTH_WARNINGS]; /* -CSP_HEALTH_QUIET_STEPS = never               */
    int64_t *last_active;                /* [vocab]                                       */
    double active[2]; /* entries of a row of queries, documents; -1 = no step yet. A device picks
                         its ways in the next step by it (train/contrastive.c)            */
} csp_health_memory;

/* Memory of nothing yet. Owner: csp_health_memory_clear. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_health_memory_init(csp_health_memory *memory, int64_t vocab);
void csp_health_memory_clear(csp_health_memory *memory);

/* The same vocab; the panels' own memory of which to is part stays where it is. */
void csp_health_memory_copy(const csp_health_memory *from, csp_health_memory *to);

CSP_CHECKED csp_status csp_health_memory_write(csp_hdf5 *file, const csp_health_memory *memory);

/*
 * What a file has: { 0 } for a checkpoint of another phase, or from before there was one.
 * Owner: csp_health_memory_clear. Errors: CSP_ERR_FORMAT, CSP_ERR_SHAPE, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_health_memory_read(const csp_hdf5 *file, int64_t vocab,
                                              csp_health_memory *out);
