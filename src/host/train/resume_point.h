/*
 * resume_point.h - the checkpoint that a run goes on from: found on rank 0, checked by all ranks.
 *
 * The checksum of a file is of all its bytes, so that a check reads all of it. Rank 0 checks the
 * model's file; state files (train/state_shards.h) are shared out among the ranks, a run of files
 * of about as many bytes for each: side by side, and every rank those of which it wants most. What
 * a rank has checked stays in its memory until the state has been read, as far as a quarter of what
 * the machine has free, shared by its ranks, goes: with as many ranks as wrote the files each of
 * these is read once in all. What was checked by one rank is not checked again by another, which
 * reads of it only what it wants.
 */
#pragma once

#include "train/ranks.h"
#include "train/state_shards.h"

typedef struct csp_resume_point {
    char *path;            /* of the checkpoint; NULL: there is none */
    csp_hdf5 *file;        /* it, open                               */
    csp_state_files state; /* the files that it names                */
} csp_resume_point;

/* Whether a run's folder has checkpoints, whole or not. Local. */
CSP_CHECKED csp_status csp_resume_point_exists(const char *run_dir, bool *out);

/*
 * The checkpoint that LATEST names; where that one or a state file of it is damaged, the newest
 * that is whole, with a warning of rank 0 that names each file that is not. out->path is NULL where
 * the folder has none.
 *
 *   run_dir   in   of rank 0, which alone looks into the folder; state files are those beside it
 *
 * Ranks:  collective; all get the same one. Ranks let one another know that they still read
 *         (train/keepalive.h).
 * Owner:  csp_resume_point_clear.
 * Errors: CSP_ERR_FORMAT, on all ranks: there are some and none is whole. CSP_ERR_IO: this rank
 *         cannot open what rank 0 sees. CSP_ERR_MEMORY, CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_resume_point_find(const char *run_dir, const csp_ranks *ranks,
                                             csp_resume_point *out);

/* The checkpoint at rank 0's path; what is wrong with it is an error, the same on all ranks. */
CSP_CHECKED csp_status csp_resume_point_open(const char *path, const csp_ranks *ranks,
                                             csp_resume_point *out);

/* Takes one that is all 0. */
void csp_resume_point_clear(csp_resume_point *point);

/*
 * Which rank checks which of so many files: of equal sizes file i of as many as there are ranks is
 * rank i's.
 *
 *   bytes   in    (count) of each
 *   owner   out   (count) ascending
 */
void csp_resume_point_share(const int64_t *bytes, int64_t count, int ranks, int *owner);
