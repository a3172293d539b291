/*
 * optimizer.h - clipping by the global norm and AdamW over the trained parameters of a model.
 */
#pragma once

#include "config/settings.h"
#include "model/transformer.h"
#include "train/ranks.h"
#include "train/step_metrics.h"

typedef struct csp_optimizer csp_optimizer;

/*
 * model, be and ranks (NULL: one) must outlive it. Moments are those of the model's table; they are
 * not cleared.
 */
CSP_CHECKED csp_status csp_optimizer_create(csp_backend *be, const csp_model *model,
                                            const csp_ranks *ranks, csp_optimizer **out);
void csp_optimizer_destroy(csp_optimizer *o);

/* Sets all moments and gradients to 0: the start of a phase. */
CSP_CHECKED csp_status csp_optimizer_reset(csp_optimizer *o);

/*
 * One update with the gradients that have been added up, which are 0 afterwards. Those of all ranks
 * are added up first, so that each makes the same update.
 *
 *   t        in   1, 2, ...: number of the update in its phase
 *   T        in   updates of the phase, for the schedule
 *   faults   in   what csp_adamw takes as such, or none
 *
 * Where a gradient is not finite, or faults say so, no update is made: parameters and moments stay,
 * and the gradients are cleared.
 * Stream: enqueued on be; several ranks wait for it, and for each other.
 * Errors: CSP_ERR_DEVICE; CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_optimizer_step(csp_optimizer *o, const csp_optim_settings *settings,
                                          int64_t t, int64_t T, const csp_tensor *faults);

/*
 * What came out of the last step, once csp_backend_sync has been called.
 *
 *   m   in,out   lr, skipped, grad_norm and clipped are filled; the last two only where gradients
 *                were finite
 */
void csp_optimizer_read(csp_optimizer *o, csp_step_metrics *m);

/* The first tensor whose gradient was not finite in the step that was read last, or NULL. */
const char *csp_optimizer_bad(const csp_optimizer *o);
