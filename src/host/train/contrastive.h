/*
 * contrastive.h - one step of the contrastive phase: representations, InfoNCE, sparsity terms, and
 * the gradients of everything that is trained.
 *
 *     L = L_NCE + λ_q FLOPS(Q) + λ_d FLOPS(D)          (or L1 in place of FLOPS)
 *
 * Source: CSPLADE (arXiv 2504.10816); docs/method.md 6, 7 and 14. Any split into micro-batches and
 * ranks gives the same gradient to the order of summation: all queries meet all documents of the
 * step, or of their block of it; means are over the whole step. On several ranks the gradient is
 * that rank's share, to be added up.
 */
#pragma once

#include "ops/loss.h"
#include "train/chunked.h"
#include "train/exchange.h"
#include "train/health.h"

typedef struct csp_contrastive csp_contrastive;

typedef struct csp_contrastive_options {
    int64_t queries;  /* most queries of a step, over all ranks */
    int64_t passages; /* most documents of a step, over all ranks */
    int64_t max_rows; /* of a micro-batch         */
    size_t budget;    /* bytes for activations    */
    csp_keep keep;    /* of a micro-batch alone in memory: ALL (0 too), MOST, INPUTS */
    double temperature;
    csp_reg_kind regularizer;
    csp_health_limits limits;
    const csp_ranks *ranks; /* NULL: one; not owned */
    const csp_ranks *group; /* of ranks: those whose documents this rank's queries are compared
                               with; NULL: all; not owned */
    const csp_gradient_watch *watch; /* of each step's gradients; NULL: nobody; not owned */
} csp_contrastive_options;

/*
 * How many ranks compare their queries with one another's documents where a step has so many blocks
 * of negatives (docs/method.md 14.1): as many as share a block, or one that has several of them.
 */
static inline int csp_negative_group(int64_t blocks, int ranks)
{
    return blocks < ranks ? (int)(ranks / blocks) : 1;
}

/* Why a pair of a query and a document is left out of the softmax; any other value is, too. */
enum { CSP_LEFT_OUT_POSITIVE = 1, CSP_LEFT_OUT_BLOCK = 2 };

/*
 * This rank's texts of a step, tokenised under the contract: as many on each rank. Rows of positive
 * and mask are the queries of the group's ranks, those of its first rank first; columns are this
 * rank's documents.
 */
typedef struct csp_contrastive_texts {
    const csp_token_lists *queries;
    const csp_token_lists *passages;
    const int64_t *query_text;   /* [queries]  the number of each in the whole step (dropout keys,
                                    messages); NULL: as they lie                               */
    const int64_t *passage_text; /* [passages] the same                                        */
    const int32_t *positive;     /* [all queries]            column of each query's positive; -1:
                                    another rank has it                                        */
    const uint8_t *mask;         /* [all queries x passages] 0, or why it is left out of the
                                    softmax: a known positive, another block; NULL: none is    */
} csp_contrastive_texts;

/* What changes from step to step. */
typedef struct csp_contrastive_step {
    int64_t step; /* from 1, for the health panel */
    double lambda_q;
    double lambda_d;
    csp_pass pass;
} csp_contrastive_step;

/* model, contract and be must outlive it. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_contrastive_create(csp_backend *be, const csp_model *model,
                                              const csp_contract *contract,
                                              const csp_contrastive_options *options,
                                              csp_contrastive **out);
void csp_contrastive_destroy(csp_contrastive *c);

/*
 * Device memory for the sparse rows and scores of a step on one of so many ranks, in a group of so
 * many of them, whatever they hold: every term of every text may be active, as it nearly is when
 * training begins.
 */
CSP_CHECKED csp_status csp_contrastive_bytes(int64_t vocab, int64_t queries, int64_t passages,
                                             int ranks, int group, size_t *out);

/*
 * Adds the gradients of one step to those of the model's trained parameters.
 *
 * Stream: enqueued on the model's backend. A step whose panel remembers none before it waits once,
 *         to learn how many entries rows have.
 * Errors: CSP_ERR_MEMORY; CSP_ERR_ARGUMENT (more texts than planned); CSP_ERR_DEVICE; CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_contrastive_run(csp_contrastive *c, const csp_contrastive_texts *texts,
                                           const csp_contrastive_step *step);

/* What csp_adamw must take as faults of the last step, so that it makes no update from them. */
csp_tensor csp_contrastive_faults(const csp_contrastive *c);

/*
 * What came out of the last step, over all ranks, once csp_backend_sync has been called. The ranks
 * exchange counts here: each must call it.
 *
 *   m   in,out   loss, nce, reg_*, active_*, zero_*, margin, accuracy, masked, tokens, ...
 *
 * Errors: CSP_ERR_NUMERIC when hidden states or the loss are not finite, naming what and the step.
 */
CSP_CHECKED csp_status csp_contrastive_read(csp_contrastive *c, csp_step_metrics *m);

/* The panel that watches this phase, to be asked what it remembers or told. Owner: c. */
csp_health *csp_contrastive_health(csp_contrastive *c);

/* Warnings in words about the last step (see health.h). */
void csp_contrastive_warn(csp_contrastive *c, const csp_step_metrics *m, bool *collapsed);

/* Floating-point operations the last step needed (train/step_flop.h). */
double csp_contrastive_flop(const csp_contrastive *c);
