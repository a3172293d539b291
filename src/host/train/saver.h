/*
 * saver.h - checkpoints while training goes on: what they take is copied at the end of a step, and
 * a thread writes the file, fsyncs and renames it, writes LATEST and removes old ones.
 *
 *     csp_saver_save(s, ...)      copies are started
 *     ...                         work that does not write values or moments
 *     csp_saver_copied(s)         before the next update: the thread begins to write
 *     ...                         any work
 *     csp_saver_wait(s)           where what follows needs the file
 *
 * The bytes are those of csp_checkpoint_write without a thread, which is what a saver does where
 * there is no memory for the copy. One checkpoint is written at a time: the next waits for it. A
 * failure of the thread is what the next of these calls returns, in the same words, once.
 */
#pragma once

#include "train/checkpoint.h"

typedef struct csp_saver csp_saver;

/* Whether checkpoints are written beside training, by run.async_save and memory. */
typedef struct csp_save_plan {
    bool beside;   /* training                                                     */
    int64_t bytes; /* of the copy in host memory                                   */
    int64_t most;  /* what a copy may take; INT64_MAX where memory is not known     */
} csp_save_plan;

/*
 *   be     in   where its memory is the host's, activations need most of it: a copy may take a
 *               quarter of what is free; else half of the host's
 *   free   in   bytes of memory that the host has left beside the model
 *
 * Errors: CSP_ERR_MEMORY where run.async_save is on and the copy would take more, in numbers.
 *         *out is written all the same then.
 */
CSP_CHECKED csp_status csp_save_plan_make(const csp_config *config, const csp_params *params,
                                          bool host_memory, int64_t free, csp_save_plan *out);

/*
 * Reserves the memory of the copy where the plan says so.
 *
 * Owner:  csp_saver_destroy. model must outlive it. Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_saver_create(const csp_model *model, const csp_save_plan *plan,
                                        csp_saver **out);

/* Lets a checkpoint that is being written come to its end; a failure of it is a warning. */
void csp_saver_destroy(csp_saver *saver);

/*
 * Saves a checkpoint: csp_checkpoint_write, to which the arguments are passed. Waits first for one
 * that is being written, and says how long.
 *
 *   snapshot           in   what it points to, and config, must stay until the file is written
 *   progress, health   in   as they are now: they are copied
 *
 * Errors: those of csp_checkpoint_write, of this checkpoint or of the one before; those of copying.
 */
CSP_CHECKED csp_status csp_saver_save(csp_saver *saver, const char *run_dir,
                                      const csp_snapshot *snapshot, const csp_config *config,
                                      const csp_progress *progress,
                                      const csp_health_memory *health);

/*
 * Waits for the copies of the last save where they are not made yet. Here and below NULL is fine,
 * as ranks have it that save nothing.
 */
CSP_CHECKED csp_status csp_saver_copied(csp_saver *saver);

/* What a checkpoint that has come to its end left; does not wait for one that has not. */
CSP_CHECKED csp_status csp_saver_poll(csp_saver *saver);

/* Waits until all that was saved is in its file, and LATEST names it. */
CSP_CHECKED csp_status csp_saver_wait(csp_saver *saver);

/*
 * Seconds that the calls above held the caller up since this was last asked, untouched where they
 * did not; and that the checkpoint took to be written which was finished since then, NaN: none was.
 */
void csp_saver_times(csp_saver *saver, double *pause_s, double *write_s);
