/*
 * state_shards.h - the state that ranks share out (model/buckets.h), in files beside a checkpoint:
 * every rank writes its own, at once with the others, in the step or from a copy beside training.
 *
 *     RUN/checkpoints/<phase>-<step, 8 digits>.rank<r>of<R>.<16 digits>.state      (io/hdf5.h)
 *         /                       format = "csplade-state", format_version, masters = 0 or 1
 *         /optim/m/<name>         (n) f32: elements of a trained tensor, attribute first: which
 *         /optim/v/<name>         the same of the second moment
 *         /optim/master/<name>    the same of what a bf16 value is the rounding of
 *
 * The digits are of the content, so that a file never takes the place of another content: what the
 * newest checkpoint names stays whatever is written after it. A file is complete, on disk and under
 * its name before the checkpoint that names it is written. How many ranks read them again, and
 * whether those share state out, is open: a reader takes the elements it wants from whichever files
 * have them, its own first.
 */
#pragma once

#include "io/hdf5.h"
#include "model/transformer.h"
#include "train/keepalive.h"
#include "train/ranks.h"

enum { CSP_STATE_NAME_BYTES = 96, CSP_STATE_VERSION = 1 };

/* Elements of one array of the state, in the memory of the host. */
typedef struct csp_state_piece {
    char name[CSP_PARAM_NAME_BYTES + 16]; /* "/optim/m/model.norm.weight"      */
    int64_t first, count;                 /* elements of the whole tensor      */
    const float *values;                  /* (count); not owned by the piece   */
} csp_state_piece;

/*
 * A rank's state, copied from its device into host memory that is reserved once, page-locked where
 * the backend has that, and used for any number of copies.
 */
typedef struct csp_state_copy {
    csp_state_piece *pieces;
    int count;
    bool masters;

    /* Private. */
    bool dropped; /* atomic */
    csp_backend *be;
    csp_download copy;
    csp_tensor *parts; /* (count) where each piece is on the device */
    void **at;         /* (count)                                   */
} csp_state_copy;

/* Bytes of host memory that a copy of this rank's state takes. */
int64_t csp_state_copy_bytes(const csp_params *params);

/*
 * Reserves the memory, for a model that must outlive it.
 *
 * Owner:  csp_state_copy_clear, which takes a half-made one too.
 * Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_state_copy_init(const csp_model *model, csp_state_copy *copy);
void csp_state_copy_clear(csp_state_copy *copy);

/*
 * Starts to copy the state as it is. No thread may read the pieces.
 *
 * Stream: enqueued on the model's backend beside later work, which must not write moments or
 *         masters before csp_state_copy_wait. On a CPU all is copied when this returns.
 * Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_state_copy_start(csp_state_copy *copy);

/* Waits for the copies, not for be. The pieces may be read by any thread until the next start. */
CSP_CHECKED csp_status csp_state_copy_wait(csp_state_copy *copy);

/* Lets a thread that is in csp_state_write with this copy leave it before the end. */
void csp_state_copy_drop(csp_state_copy *copy);

/* Init, start and wait at once. Owner: csp_state_copy_clear. */
CSP_CHECKED csp_status csp_state_copy_take(const csp_model *model, csp_state_copy *out);

/*
 * The name of one rank's file: reads the whole copy, for a digest.
 *
 *   stem         in    "contrastive-00000200"
 *   rank, ranks  in    whose, of how many
 */
CSP_CHECKED csp_status csp_state_name(const char *stem, int rank, int ranks,
                                      const csp_state_copy *copy, char name[CSP_STATE_NAME_BYTES]);

/*
 * Writes the file; any thread may, with a copy that nobody changes meanwhile.
 *
 *   dir    in   RUN/checkpoints, which is there
 *   name   in   csp_state_name of the same copy
 *
 * Errors: CSP_ERR_IO, CSP_ERR_MEMORY, CSP_ERR_INTERRUPTED (csp_state_copy_drop); nothing is there
 *         under the name then.
 */
CSP_CHECKED csp_status csp_state_write(const char *dir, const char *name,
                                       const csp_state_copy *copy);

/* The files of a checkpoint, in the order of ranks. */
typedef struct csp_state_files {
    char **names;
    int64_t count;   /* 0: the checkpoint has its state in itself                        */
    csp_hdf5 **kept; /* (count) what this rank has in memory of them since they were
                        checked, NULL: not that one; or NULL: none                       */
    bool is_checked; /* all were, by whichever rank (train/resume_point.h): they are not
                        checked again as they are read                                  */
} csp_state_files;

void csp_state_files_clear(csp_state_files *files);

/*
 * Bytes of file i, and the file, open.
 *
 *   checkpoint   in   path of the checkpoint they lie beside
 *   way          in   how much of it is checked, and whether it is kept in memory
 *
 * Owner:  csp_hdf5_close.
 * Errors: CSP_ERR_FORMAT naming the file: it is missing, damaged or none of state; CSP_ERR_IO,
 *         CSP_ERR_MEMORY, those of way->goes_on.
 */
CSP_CHECKED csp_status csp_state_file_bytes(const char *checkpoint, const csp_state_files *files,
                                            int64_t i, int64_t *out);
CSP_CHECKED csp_status csp_state_file_open(const char *checkpoint, const csp_state_files *files,
                                           int64_t i, const csp_hdf5_way *way, csp_hdf5 **out);

/*
 * Reads what the model wants: moments of its elements; masters, or where it has none but f32
 * values, those whole. What a file that is kept in memory has is read there, and the memory freed.
 *
 *   alive   in   ticks as parts are read
 *
 * Errors: CSP_ERR_FORMAT, also where elements are in none of them; CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_state_files_read(const char *checkpoint, csp_state_files *files,
                                            csp_keepalive *alive, csp_model *model);

/*
 * Removes state files of a checkpoint that keep does not name; a file that stays is a warning.
 *
 *   stem   in   of the checkpoint; NULL: of all that are not there
 *   keep   in   may be NULL: none
 */
void csp_state_files_remove(const char *dir, const char *stem, const csp_state_files *keep);
