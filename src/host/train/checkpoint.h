/*
 * checkpoint.h - what a run needs to go on to the same bits, in one HDF5 file.
 *
 * Beside the model's part (model/snapshot.h):
 *
 *     /optim/m/<name>, /optim/v/<name>   moments of every trained tensor, f32
 *     / config_yaml                      (bytes) u8: the resolved config
 *     /progress                          attributes: phase, phase_index, step (done in the phase),
 *                                        next_example (position in the data), threads,
 *                                        micro_batch_tokens, best, best_step, best_phase, seed
 *
 * Files are RUN/checkpoints/<phase>-<step, 8 digits>.h5 and LATEST names the newest. Nothing in them
 * depends on wall time: the same run gives the same bytes. No generator state exists to be stored.
 */
#pragma once

#include "config/config.h"
#include "model/snapshot.h"

typedef struct csp_progress {
    int phase_index;            /* in run.phases                                        */
    char phase[32];
    int64_t step;               /* optimizer steps done in this phase                   */
    int64_t next_example;       /* of the data of this phase; a function of step        */
    int64_t threads;            /* of the CPU backend: they set the order of additions  */
    int64_t micro_batch_tokens; /* as planned, so does this                             */
    double best;                /* best value of run.metric_for_best so far, NaN = none */
    int64_t best_step;
    char best_phase[32];
} csp_progress;

/*
 * Writes a checkpoint and LATEST, then removes checkpoints beyond the newest save_total_limit and the
 * best one.
 *
 *   path   out   the file's path, for messages; NULL: not wanted. Owner: the caller frees it.
 *
 * Errors: CSP_ERR_IO; the last checkpoint and LATEST are as before then.
 */
CSP_CHECKED csp_status csp_checkpoint_write(const char *run_dir, const csp_snapshot *snapshot,
                                            const csp_config *config, const csp_progress *progress,
                                            char **path);

/* Bytes a checkpoint of this model takes, about. */
int64_t csp_checkpoint_bytes(const csp_model *model, int64_t tokenizer_bytes);

/*
 * The checkpoint to go on from: the one LATEST names, or the newest that opens if that one is damaged
 * (with a warning). *path is NULL when the folder has none. Owner: the caller frees *path.
 */
CSP_CHECKED csp_status csp_checkpoint_latest(const char *run_dir, char **path);

/* Progress and config of a checkpoint, without its tensors. Owner: csp_config_free(*config). */
CSP_CHECKED csp_status csp_checkpoint_peek(const char *path, csp_progress *progress,
                                           csp_config **config);

/* Reads the moments into a model opened from the same checkpoint. */
CSP_CHECKED csp_status csp_checkpoint_read_moments(const char *path, csp_model *model);
