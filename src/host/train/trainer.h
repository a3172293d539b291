/*
 * trainer.h - a training run: the phases its config names, in one run folder, resumable to the bit.
 *
 *     RUN/config.yaml        the resolved config; can be given to `csplade train` again
 *     RUN/metrics.jsonl      one line a step (train/step_metrics.h), one an evaluation
 *     RUN/events.out.*       the same for TensorBoard
 *     RUN/checkpoints/       train/checkpoint.h
 *     RUN/lock               held while a process runs here
 */
#pragma once

#include <signal.h>

#include "comm/comm.h"
#include "config/config.h"
#include "ops/backend.h"

typedef struct csp_train_options {
    const char *base;            /* where the base of the LoRA checkpoint that the run goes on
                                    from, or begins with, is now; NULL: where it says         */
    double matmul_gflop_per_s;   /* what mfu divides by; 0: it is measured at the start       */
    csp_comm *comm;              /* the ranks that run together; NULL: this process alone     */
    const char *collectives;     /* of csp_launch_collectives; NULL: none of it is set        */
    bool dry_run;                /* plan, first batch, then stop: nothing is written          */
    volatile sig_atomic_t *stop; /* set by a signal: checkpoint at the next step and stop     */
    volatile sig_atomic_t *save; /* set by a signal: checkpoint at the next step and go on    */
} csp_train_options;

/* What came out, for the command line to print. */
typedef struct csp_train_result {
    char model[1024]; /* the last checkpoint; "" after a dry run, and on ranks above 0 */
    char best[1024];  /* the best one by run.metric_for_best, "" */
    double best_value;
} csp_train_result;

/*
 * Runs, or goes on with, a training run.
 *
 * Several ranks run it together, each with the same config and data; they share out each step and
 * give what one would, to the order of additions. Rank 0 has the folder: it evaluates, and writes
 * everything. What a signal asks of one rank all do.
 *
 * Errors: those of everything below; CSP_ERR_INTERRUPTED after a checkpoint that stop, or
 *         run.max_minutes, asked for; CSP_ERR_NUMERIC (tensor and step; the last good checkpoint
 *         is kept); CSP_ERR_CONFIG when the folder's checkpoint belongs to another config, naming
 *         the setting; CSP_ERR_IO when another process runs there; CSP_ERR_COMM when another
 *         rank failed (csp_comm_failure).
 */
CSP_CHECKED csp_status csp_train(const csp_config *config, const csp_train_options *options,
                                 csp_train_result *result);
