/*
 * optimizer.h - clipping by the global norm and AdamW over the trained parameters of a model.
 */
#pragma once

#include "config/settings.h"
#include "model/transformer.h"
#include "train/step_metrics.h"

typedef struct csp_optimizer csp_optimizer;

/* model and be must outlive it. Moments are those of the model's table; they are not cleared. */
CSP_CHECKED csp_status csp_optimizer_create(csp_backend *be, const csp_model *model,
                                            csp_optimizer **out);
void csp_optimizer_destroy(csp_optimizer *o);

/* Sets all moments and gradients to 0: the start of a phase. */
CSP_CHECKED csp_status csp_optimizer_reset(csp_optimizer *o);

/*
 * One update with the gradients that have been added up, which are 0 afterwards.
 *
 *   t   in       1, 2, ...: number of the update in its phase
 *   T   in       updates of the phase, for the schedule
 *   m   in,out   lr, grad_norm, clipped are filled
 *
 * Errors: CSP_ERR_NUMERIC naming the first tensor whose gradient is not finite and the step;
 *         parameters and moments are as before then.
 */
CSP_CHECKED csp_status csp_optimizer_step(csp_optimizer *o, const csp_optim_settings *settings,
                                          int64_t t, int64_t T, csp_step_metrics *m);
