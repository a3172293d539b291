/*
 * optimizer.h - clipping by the global norm and AdamW over the trained parameters of a model, and
 * the sums of their gradients over ranks.
 *
 * Gradients of full fine-tuning are added up bucket by bucket (model/buckets.h), each as soon as
 * the backward pass of the last micro-batch has left its layers; those of adapters at once.
 *
 * Where the model's state is shared out (ZeRO-1, arXiv 1910.02054), a rank gets the sums of its
 * parts alone, updates them, and the ranks give each other the new values. An element is computed
 * as on a rank that has all of them; the squares of a tensor's gradient are added up over the parts
 * of each rank, then over the ranks in ascending order, so that the last bits of the norm differ.
 *
 * Buckets are updated from the last one, the embedding's, to the first, in which a forward pass
 * reads them, and the values of each set out as soon as it is updated:
 *
 *     update    n-1 | n-2 | .. | 0 |
 *     values        | n-1 | n-2 | .. | 0 |
 *     next step                      embedding | layer 0 | ..      each when its values are there
 *
 * Until then they are the model's csp_arrival. Ranks of a CPU have one line for all collectives, so
 * that theirs have arrived with the first number that ranks tell each other after the update.
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
CSP_CHECKED csp_status csp_optimizer_create(csp_backend *be, csp_model *model,
                                            const csp_ranks *ranks, csp_optimizer **out);

/* Nothing may be on its way: after csp_values_await of all, or csp_ranks_abort. Takes NULL. */
void csp_optimizer_destroy(csp_optimizer *o);

/* For the phases: sums begin early by it. NULL where nothing can: one rank, or one bucket. */
const csp_gradient_watch *csp_optimizer_watch(const csp_optimizer *o);

/*
 * Waits for the sums over ranks of all gradients, which csp_optimizer_step would begin with; where
 * state is shared out, those of this rank's parts alone are sums then. Nothing on one rank.
 */
CSP_CHECKED csp_status csp_optimizer_sum(csp_optimizer *o);

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
 *
 * Where state is shared out, new values of other ranks are the model's csp_arrival afterwards:
 * whoever reads values awaits them.
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

/* The first tensor whose gradient did not fit (csp_squares_fit) in the step that was read last, or
 * NULL. */
const char *csp_optimizer_bad(const csp_optimizer *o);
