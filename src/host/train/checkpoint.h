/*
 * checkpoint.h - what a run needs to go on to the same bits, in one HDF5 file.
 *
 * Beside the model's part (model/snapshot.h):
 *
 *     /optim/m/<name>, /optim/v/<name>   moments of every trained tensor, f32
 *     /state_files                       in their place, where ranks share them out: the files
 *                                        beside it that have them (train/state_shards.h)
 *     / config_yaml                      (bytes) u8: every setting that decides the result
 *                                        (csp_config_meaning; RUN/config.yaml has the others too)
 *     / tuning                           (bytes) u8: what a GPU's choices of algorithms hold for,
 *                                        and those that were timed (csp_backend_tuning_get)
 *     /progress                          attributes: the members of csp_progress
 *     /health                            of the contrastive phase: train/health_memory.h
 *
 * Files are RUN/checkpoints/<phase>-<step, 8 digits>.h5 and LATEST names the newest. Nothing in
 * them depends on wall time or on where the run's folder is: the same run gives the same bytes. No
 * generator state exists to be stored.
 */
#pragma once

#include "config/config.h"
#include "model/snapshot.h"
#include "train/checkpoint_image.h"
#include "train/data_identity.h"
#include "train/health_memory.h"
#include "train/resume_point.h"
#include "train/state_shards.h"
#include "train/sum_order.h"

typedef struct csp_progress {
    int phase_index; /* in run.phases                                        */
    char phase[32];
    int64_t step;               /* optimizer steps done in this phase                   */
    int64_t next_example;       /* of the data of this phase; a function of step        */
    int64_t threads;            /* of the CPU backend: they set the order of additions  */
    int64_t micro_batch_tokens; /* as planned where none is set: so does this           */
    int64_t skipped;            /* steps in a row, up to this one, that made no update     */
    char precision[8];          /* of weights and activations: fp32 or bf16                */
    csp_data_identity data;     /* a run goes on only with the same                     */
    char metric[32];            /* run.metric_for_best of the next three                */
    double best;                /* best value so far, NaN = none                        */
    int64_t best_step;
    char best_phase[32];
    char sum_order[CSP_SUM_ORDER_BYTES]; /* train/sum_order.h; "" where it is not known */
} csp_progress;

/*
 * Writes a checkpoint and LATEST, then removes checkpoints beyond the newest save_total_limit, this
 * one the first of them, and the best one. Those of later steps (the run went back) stay.
 *
 *   health   in    what the health panel remembers; NULL: no phase has one
 *   image    in    what is on the device, copied at progress (train/checkpoint_image.h): then the
 *                  device is not used, and this may run in a thread beside training; NULL: it is
 *                  downloaded here
 *   state    in    files that have the moments; NULL where the model has all of them
 *   path     out   the file's path, for messages; NULL: not wanted. Owner: the caller frees it.
 *
 * Errors: CSP_ERR_IO; the last checkpoint and LATEST are as before then, or LATEST alone is old.
 */
CSP_CHECKED csp_status csp_checkpoint_write(const char *run_dir, const csp_snapshot *snapshot,
                                            const csp_config *config, const csp_progress *progress,
                                            const csp_health_memory *health,
                                            const csp_checkpoint_image *image,
                                            const csp_state_files *state, char **path);

/*
 * The file of one rank's state beside the checkpoint to come, its name and then the file:
 * csp_state_name, csp_state_write. Any thread may, and every rank does, before csp_checkpoint_write
 * is given the names of all.
 */
CSP_CHECKED csp_status csp_checkpoint_name_state(const csp_progress *progress, int rank, int ranks,
                                                 const csp_state_copy *copy,
                                                 char name[CSP_STATE_NAME_BYTES]);
CSP_CHECKED csp_status csp_checkpoint_write_state(const char *run_dir, const char *name,
                                                  const csp_state_copy *copy);

/*
 * Makes the folder of checkpoints, and a file in it that it removes again: for each rank that will
 * write there, before the first step. Errors: CSP_ERR_IO, with the system's reason.
 */
CSP_CHECKED csp_status csp_checkpoint_try_folder(const char *run_dir);

/* Bytes a checkpoint of this model takes with its state, about. */
int64_t csp_checkpoint_bytes(const csp_model *model, int64_t tokenizer_bytes);

/*
 * Progress and config of a checkpoint, without its tensors. Owner: csp_config_free(*config).
 *
 *   file, path   in   it, open, and its name
 *
 * Errors: CSP_ERR_IO; CSP_ERR_FORMAT, also for progress that no run of this config can have made.
 */
CSP_CHECKED csp_status csp_checkpoint_peek(const csp_hdf5 *file, const char *path,
                                           csp_progress *progress, csp_config **config);

/*
 * Reads the moments that the model wants into a model opened from the same checkpoint, what the
 * health panel remembered, and which algorithms the backend is to use; warns where those are not
 * for this device or its libraries.
 *
 *   point   in,out   what of its state was kept in memory no longer is
 *   ranks   in       that go on from it together; NULL: one
 *
 * Ranks: collective; they let one another know that they still read.
 * Owner: csp_health_memory_clear(health).
 */
CSP_CHECKED csp_status csp_checkpoint_read_state(csp_resume_point *point, const csp_ranks *ranks,
                                                 csp_model *model, csp_health_memory *health);
