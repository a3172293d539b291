/*
 * prefetch.h - a thread that makes the next steps' texts ready while a step is computed.
 *
 * The texts are those that csp_step_texts_load gives without it, step by step. What fails for a
 * step is said when that step is asked for, and not before.
 */
#pragma once

#include "train/step_texts.h"

typedef struct csp_prefetch csp_prefetch;

/*
 * Starts the thread.
 *
 *   source       in   the thread's own until csp_prefetch_destroy; must outlive it
 *   first, end   in   steps first .. end-1 of the phase are made ready, none beyond them
 *   ahead        in   >= 1: most steps that lie ready beside the one that was handed out
 *
 * Owner:  the caller calls csp_prefetch_destroy. Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_prefetch_create(csp_step_source *source, bool adapt, int64_t first,
                                           int64_t end, int64_t ahead, csp_prefetch **out);

/*
 * Waits for step k, which is first in the first call and one more in each other (asserted). *out is
 * valid until the next call. Errors: those of csp_step_texts_load for this step.
 */
CSP_CHECKED csp_status csp_prefetch_next(csp_prefetch *p, int64_t k, const csp_step_texts **out);

/* Ends the thread when it has finished the step it is at; what lies ready is dropped. */
void csp_prefetch_destroy(csp_prefetch *p);
