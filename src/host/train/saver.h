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
 * Of several ranks each has a saver, whose thread writes what is that rank's: rank 0's the model's
 * file and, where state is shared out, each rank's its own state. When that is on disk the rank
 * posts the name of its file to rank 0 (csp_comm_post), whose thread writes the model's file when
 * it has the names of all. Nothing of it needs a step or a collective, so what is under way when a
 * rank fails, for whatever reason, is finished all the same by savers that are destroyed: each rank
 * its file, rank 0 the model's. That ends after the communicator's timeout at the latest, and at
 * once when a rank is gone that has not posted; then the checkpoint before is the last. So that no
 * rank ends before rank 0 is done, which a launcher answers by ending all, ranks tell one another
 * whether anything is under way, by a maximum that they form at the end of a step anyway:
 *
 *     csp_saver_poll(s, &writes)      whether this rank still writes
 *     csp_saver_learn(s, writes)      whether any rank does
 *
 * The bytes are those of csp_checkpoint_write without a thread, which is what a saver does where
 * there is no memory for the copy. One checkpoint is written at a time: the next waits for it. A
 * failure of the thread is what the next of these calls returns, in the same words, once.
 *
 * Ranks: all call the same in the same order. NULL is fine for all of these functions.
 */
#pragma once

#include "train/checkpoint.h"

typedef struct csp_saver csp_saver;

/* Whether checkpoints are written beside training, by run.async_save and memory. */
typedef struct csp_save_plan {
    bool beside;   /* training                                                      */
    int64_t bytes; /* of the copy in host memory                                    */
    int64_t most;  /* what a copy may take; INT64_MAX where memory is not known     */
    int rank;      /* whose numbers these are                                       */
} csp_save_plan;

/*
 * Plans this rank's copy: of its state where that is shared out, and on rank 0 of the rest.
 *
 *   host_memory  in   of the backend: activations need most of it then, and a copy may take a
 *                     quarter of what is free; else half of the host's
 *   free         in   bytes of memory that the host has left for this rank beside the model
 *
 * Errors: CSP_ERR_MEMORY where run.async_save is on and the copy would take more, in numbers.
 *         *out is written all the same then.
 */
CSP_CHECKED csp_status csp_save_plan_make(const csp_config *config, const csp_params *params,
                                          bool host_memory, int64_t free, csp_save_plan *out);

/*
 * Ranks that share state out write it beside training together or not at all. Afterwards plan is
 * that of rank 0, or of the first rank that has no memory for its copy. Ranks: collective.
 */
CSP_CHECKED csp_status csp_save_plan_agree(const csp_ranks *ranks, csp_save_plan *plan);

/*
 * Reserves the memory of the copy where the plan says so.
 *
 *   ranks   in   those of the run, kept; NULL: one
 *   plan    in   not looked at on a rank that has nothing to write
 *
 * Owner:  csp_saver_destroy. model must outlive it. Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_saver_create(const csp_model *model, const csp_ranks *ranks,
                                        const csp_save_plan *plan, csp_saver **out);

/*
 * Finishes what is being written, as told above; what fails of it is a warning, and csp_error_text
 * stays as it is. Local.
 */
void csp_saver_destroy(csp_saver *saver);

/*
 * Saves a checkpoint: csp_checkpoint_write, to which the arguments are passed. Waits first for one
 * that is being written, and says how long; where state is shared out also for the backend.
 *
 *   snapshot           in   what it points to, and config, must stay until the file is written
 *   progress, health   in   as they are now: they are copied
 *
 * Ranks:  collective where state is shared out.
 * Errors: those of csp_checkpoint_write and csp_checkpoint_write_state, of this checkpoint or of
 *         the one before; those of copying; CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_saver_save(csp_saver *saver, const char *run_dir,
                                      const csp_snapshot *snapshot, const csp_config *config,
                                      const csp_progress *progress,
                                      const csp_health_memory *health);

/* Waits for the copies of the last save where they are not made yet. Local. */
CSP_CHECKED csp_status csp_saver_copied(csp_saver *saver);

/* Whether this rank still writes; does not wait for it. Local. */
CSP_CHECKED csp_status csp_saver_poll(csp_saver *saver, bool *writes);

/* To be called after csp_saver_poll with whether any rank still writes. Local. */
void csp_saver_learn(csp_saver *saver, bool writes);

/*
 * Waits until all that was saved is in its file, and LATEST names it; on other ranks than 0 until
 * the state of all is. Ranks: collective where state is shared out.
 */
CSP_CHECKED csp_status csp_saver_wait(csp_saver *saver);

/*
 * Seconds that the calls above held the caller up since this was last asked, untouched where they
 * did not; and that this rank's threads took to write the checkpoint that was finished since then,
 * NaN: none was.
 */
void csp_saver_times(csp_saver *saver, double *pause_s, double *write_s);
