/* run_resume.c - where a run goes on. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "train/trainer_internal.h"

/* Opens the checkpoint that run.resume asks for, if there is one. */
static csp_status open_point(csp_run_state *run)
{
    const csp_run_settings *s = &run->config->run;
    const bool none = strcmp(s->resume, "none") == 0;
    bool there = false;

    if (!none && strcmp(s->resume, "auto") != 0) {
        return csp_resume_point_open(s->resume, run->ranks, &run->resume);
    }
    if (!none) {
        return csp_resume_point_find(s->output_dir, run->ranks, &run->resume);
    }
    CSP_TRY(csp_run_writes(run) ? csp_resume_point_exists(s->output_dir, &there) : CSP_OK);
    return !there ? CSP_OK
                  : CSP_FAIL(CSP_ERR_CONFIG,
                             "%s has checkpoints of an earlier run: choose another run.output_dir, "
                             "remove it, or let run.resume be auto",
                             s->output_dir);
}

csp_status csp_run_find_resume_point(csp_run_state *run)
{
    const csp_run_settings *s = &run->config->run;
    csp_progress *p = &run->progress;
    csp_config *there = NULL;
    char difference[256];
    csp_status status;

    CSP_TRY(open_point(run));
    if (run->resume.path == NULL) {
        return CSP_OK;
    }
    CSP_TRY(csp_strdup("run", run->resume.path, &run->resume_path));
    CSP_TRY(csp_checkpoint_peek(run->resume.file, run->resume_path, p, &there));
    status = csp_config_compare(there, run->config, difference, sizeof(difference));
    csp_config_free(there);
    CSP_TRY(status);
    if (difference[0] != '\0') {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "%s was made with another config: %s (a new run with it as model.path and "
                        "another run.output_dir goes on from its weights)",
                        run->resume_path, difference);
    }
    if (strcmp(p->metric, s->metric_for_best) != 0) {
        csp_log(CSP_LOG_WARN, "train",
                "run.metric_for_best was %s and is %s now: the best checkpoint is chosen anew",
                p->metric, s->metric_for_best);
        p->best = NAN;
        p->best_step = 0;
        p->best_phase[0] = '\0';
    }
    run->resumed = true;
    return CSP_OK;
}
