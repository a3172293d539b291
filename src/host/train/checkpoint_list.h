/*
 * checkpoint_list.h - which checkpoints a run's folder has, by their names:
 * RUN/checkpoints/<phase>-<step, 8 digits>.h5, and LATEST, which has the name of the newest.
 */
#pragma once

#include "core/status.h"

enum { CSP_CHECKPOINT_NAME_BYTES = 64 };

/* RUN/checkpoints. Owner: the caller frees *out. */
CSP_CHECKED csp_status csp_checkpoint_dir(const char *run_dir, char **out);

/* "contrastive-00000200", of a checkpoint and of what lies beside it; and "....h5". */
void csp_checkpoint_stem(const char *phase, int64_t step, char stem[CSP_CHECKPOINT_NAME_BYTES]);
void csp_checkpoint_name(const char *phase, int64_t step, char name[CSP_CHECKPOINT_NAME_BYTES]);

typedef struct csp_checkpoint_entry {
    char name[CSP_CHECKPOINT_NAME_BYTES];
    bool adapt; /* phases run in this order: adapt before contrastive */
    int64_t step;
} csp_checkpoint_entry;

/*
 * All checkpoints of a folder, newest first; a folder that is not there has none. Owner: the caller
 * frees *out.
 */
CSP_CHECKED csp_status csp_checkpoint_list(const char *dir, csp_checkpoint_entry **out,
                                           int64_t *count);

/* The name in LATEST; NULL if there is none that can be one. Owner: the caller frees *name. */
CSP_CHECKED csp_status csp_checkpoint_read_latest(const char *dir, char **name);
