/*
 * trainer_internal.h - what the parts of a run share: trainer.c (the loop), run_setup.c (what is
 * there before the first step), run_resume.c (where it goes on), run_save.c (checkpoints and
 * evaluations).
 */
#pragma once

#include "data/tokenizer.h"
#include "io/file.h"
#include "train/adapt.h"
#include "train/checkpoint.h"
#include "train/dev_eval.h"
#include "train/metrics_log.h"
#include "train/optimizer.h"
#include "train/ranks.h"
#include "train/saver.h"
#include "train/train_data.h"
#include "train/trainer.h"

typedef struct csp_run_state {
    const csp_config *config;
    const csp_train_options *options;
    csp_ranks together;     /* the ranks, where there are several      */
    const csp_ranks *ranks; /* together, or NULL: this process alone   */
    csp_ranks near;         /* those of them that share negatives,     */
    const csp_ranks *group; /* near, or NULL: all do                   */
    csp_comm *machine;      /* the ranks of this machine, or NULL      */
    csp_backend *be;
    csp_storage storage; /* of the model */
    csp_opened opened;   /* model, contract, tokenizer text, base */
    csp_tokenizer *tokenizer;
    csp_train_data *data;
    csp_dev *dev;
    csp_optimizer *optimizer;
    csp_saver *saver;
    csp_metrics_log *log;
    csp_file_lock *lock;
    csp_progress progress;
    csp_health_memory remembered;    /* by the checkpoint; its vocab is 0 if it had none      */
    const csp_health_memory *health; /* of the phase that runs, NULL: it has none             */
    bool resumed;
    bool has_tuning_of_all;    /* this rank's products are computed as rank 0 chose, by timing */
    int64_t tuning_sent;       /* of rank 0: be->tuned when the others last got its choices    */
    csp_resume_point resume;   /* open until the model has been read                         */
    char *resume_path;         /* NULL: from the start */
    int64_t rows;              /* token rows computed at once in the phase that runs */
    double started_s;          /* monotonic clock when the run began */
    double matmul_gflop_per_s; /* measured then, of all ranks: what mfu divides by */
} csp_run_state;

/* Whether this process has the folder: rank 0. */
static inline bool csp_run_writes(const csp_run_state *run)
{
    return csp_ranks_rank(run->ranks) == 0;
}

/* run_setup.c: everything up to the first step; nothing is written before all of it is checked. */
CSP_CHECKED csp_status csp_run_setup(csp_run_state *run);
void csp_run_clear(csp_run_state *run);

/*
 * run_resume.c: the checkpoint to go on from, of this config, and where it stands. Ranks:
 * collective.
 */
CSP_CHECKED csp_status csp_run_find_resume_point(csp_run_state *run);

/* What this rank can take of the backend's memory. */
CSP_CHECKED csp_status csp_run_memory(const csp_run_state *run, csp_memory *out);

/*
 * run_ranks.c: the ranks of this machine, and those that share negatives; whether all have the same
 * data, or they would draw different steps, and the same frozen weights.
 */
CSP_CHECKED csp_status csp_run_join_groups(csp_run_state *run);
CSP_CHECKED csp_status csp_run_agree(const csp_run_state *run);

/*
 * With device.tune_products, of several devices: rank 0 times products for all that are of its type
 * and have its version of the library; another rank times its own, and says so. join comes when the
 * choices of a checkpoint are set. After a step in which rank 0 chose more, and before its
 * checkpoint, share brings them to all, so that a run goes on from there as it would have; until
 * then other ranks take what the library names first. has_tuned is 1 on a rank 0 that has more to
 * share: ranks tell each other at the end of a step anyway, and after an evaluation in
 * agree_on_tuning, which shares, too.
 *
 * Ranks: collective, but for has_tuned.
 */
CSP_CHECKED csp_status csp_run_join_tuning(csp_run_state *run);
int32_t csp_run_has_tuned(const csp_run_state *run);
CSP_CHECKED csp_status csp_run_share_tuning(csp_run_state *run);
CSP_CHECKED csp_status csp_run_agree_on_tuning(csp_run_state *run);

/*
 * run_save.c: how checkpoints will be written, and the memory for that, refused before the first
 * step.
 */
CSP_CHECKED csp_status csp_run_prepare_to_save(csp_run_state *run);

/*
 * Saves what progress says. All ranks call it: rank 0 writes the checkpoint, and each its part of a
 * state that is shared out, maybe after this has returned (saver.h).
 */
CSP_CHECKED csp_status csp_run_save(csp_run_state *run);
CSP_CHECKED csp_status csp_run_evaluate(csp_run_state *run);
CSP_CHECKED csp_status csp_run_merge_adapter(csp_run_state *run);
