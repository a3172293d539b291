/*
 * adapt.h - one step of the adaptation phase: next-token prediction on plain and on log-saturated
 * logits.
 *
 *     L_Adapt = L_CLM + λ_ReLU · L_ReLU,   means over all predicted tokens of the whole step
 *
 * Tokens that the contract excludes are read but not predicted: they are in neither softmax.
 *
 * Source: CSPLADE (arXiv 2504.10816); docs/method.md 5. Causal whatever the variant.
 */
#pragma once

#include "ops/loss.h"
#include "train/chunked.h"
#include "train/ranks.h"
#include "train/step_metrics.h"

typedef struct csp_adapt csp_adapt;

typedef struct csp_adapt_options {
    int64_t max_rows; /* of a micro-batch                      */
    int64_t max_len;  /* rows of the longest text              */
    int64_t texts;    /* of a step on this rank, at most       */
    csp_keep keep;    /* of a micro-batch alone in memory: ALL (0 too), MOST, INPUTS */
    double lambda_relu;
    const csp_ranks *ranks;          /* NULL: one; not owned */
    const csp_gradient_watch *watch; /* of each step's gradients; NULL: nobody; not owned */
} csp_adapt_options;

/* model, contract and be must outlive it. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_adapt_create(csp_backend *be, const csp_model *model,
                                        const csp_contract *contract,
                                        const csp_adapt_options *options, csp_adapt **out);
void csp_adapt_destroy(csp_adapt *a);

/*
 * Adds the gradients of one step to those of the model's trained parameters; backward false: losses
 * only (dev evaluation).
 *
 *   texts   in   of this rank; others have others
 *   text    in   the number of each in the whole step (dropout keys, messages); NULL: as they lie
 *
 * Stream: enqueued on the model's backend. Several ranks count their tokens together first.
 * Errors: CSP_ERR_DATA when no token is to be predicted; CSP_ERR_ARGUMENT (more texts than
 *         planned); CSP_ERR_MEMORY; CSP_ERR_DEVICE; CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_adapt_run(csp_adapt *a, const csp_token_lists *texts,
                                     const int64_t *text, const csp_pass *pass, bool backward);

/* What csp_adamw must take as faults of the last step, so that it makes no update from them. */
csp_tensor csp_adapt_faults(const csp_adapt *a);

/*
 * What came out of the last step, over all ranks, once csp_backend_sync has been called. The ranks
 * add up here: each must call it.
 *
 *   m   in,out   step is for messages; loss, clm, relu, tokens are filled
 *
 * Errors: CSP_ERR_NUMERIC when hidden states, logits or the loss are not finite, naming what and
 *         the step.
 */
CSP_CHECKED csp_status csp_adapt_read(csp_adapt *a, csp_step_metrics *m);

/* Floating-point operations the last step needed (train/step_flop.h). */
double csp_adapt_flop(const csp_adapt *a);
