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
 * Where ranks share state out each has a saver, whose thread writes the file of that rank's state.
 * Rank 0's writes the model's file, too, but not before all ranks know that every state file is
 * there. They learn it in passing, by a maximum that they form at the end of a step anyway:
 *
 *     csp_saver_poll(s, &left)        what is left on this rank; left := the most of all ranks
 *     csp_saver_go_on(s, left)        each rank has a name: all learn all of them; each has its
 *                                     file, too: rank 0's thread begins the model's
 *
 * A name is of the content (train/state_shards.h), so that who has all names can tell by looking
 * whether all of just this state is there. Therefore a rank that fails, or hears that another has,
 * still finishes what it has begun when it is destroyed: each rank its own file, and rank 0, which
 * waits for the others', the model's. Nothing of it needs a step or another rank's answer. It ends
 * after the communicator's timeout at the latest, and at once when a rank is gone whose file is not
 * there; then the checkpoint before is the last. What is still without names is given up.
 *
 * The bytes are those of csp_checkpoint_write without a thread, which is what a saver does where
 * there is no memory for the copy. One checkpoint is written at a time: the next waits for it. A
 * failure of the thread is what the next of these calls returns, in the same words, once.
 *
 * Ranks: where state is shared out, all of them call the same in the same order, and those that say
 *        so are collective. Else rank 0 alone has a saver; NULL is fine for all of these functions.
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
 *   ranks   in   those that share the model's state out, kept; NULL where nothing is shared out
 *
 * Owner:  csp_saver_destroy. model must outlive it. Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_saver_create(const csp_model *model, const csp_ranks *ranks,
                                        const csp_save_plan *plan, csp_saver **out);

/*
 * Finishes what is being written, as far as that goes without the other ranks, as told above; what
 * fails of it is a warning, and csp_error_text stays as it is. After a failure of a rank the
 * process is held for as long (csp_comm_hold). Local.
 */
void csp_saver_destroy(csp_saver *saver);

/*
 * Saves a checkpoint: csp_checkpoint_write, to which the arguments are passed. Waits first for one
 * that is being written, and says how long.
 *
 *   snapshot           in   what it points to, and config, must stay until the file is written
 *   progress, health   in   as they are now: they are copied
 *
 * Ranks:  collective.
 * Errors: those of csp_checkpoint_write and csp_checkpoint_write_state, of this checkpoint or of
 *         the one before; those of copying; CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_saver_save(csp_saver *saver, const char *run_dir,
                                      const csp_snapshot *snapshot, const csp_config *config,
                                      const csp_progress *progress,
                                      const csp_health_memory *health);

/* Waits for the copies of the last save where they are not made yet. Local. */
CSP_CHECKED csp_status csp_saver_copied(csp_saver *saver);

/* What is left of a checkpoint on a rank; of several ranks the most counts. */
typedef enum csp_save_left {
    CSP_SAVE_NOTHING,
    CSP_SAVE_MODEL, /* the model's file: is being written, or waits for the state of other ranks */
    CSP_SAVE_STATE, /* this rank's state has a name and is being written                         */
    CSP_SAVE_NAME   /* it has none yet                                                           */
} csp_save_left;

/*
 * What writing that has come to its end left; does not wait for any that has not. Local.
 *
 *   left   out   CSP_SAVE_NOTHING where nothing is shared out
 */
CSP_CHECKED csp_status csp_saver_poll(csp_saver *saver, csp_save_left *left);

/*
 * To be called after csp_saver_poll with the most that is left on any rank; nothing happens where
 * no checkpoint waits for that. Ranks: collective.
 */
CSP_CHECKED csp_status csp_saver_go_on(csp_saver *saver, csp_save_left left);

/*
 * Waits until all that was saved is in its file, and LATEST names it; on other ranks than 0 until
 * the state of all is. Ranks: collective.
 */
CSP_CHECKED csp_status csp_saver_wait(csp_saver *saver);

/*
 * Seconds that the calls above held the caller up since this was last asked, untouched where they
 * did not; and that this rank's threads took to write the checkpoint that was finished since then,
 * NaN: none was.
 */
void csp_saver_times(csp_saver *saver, double *pause_s, double *write_s);
