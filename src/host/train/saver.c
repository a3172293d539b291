/* saver.c - one copy, one thread, one checkpoint at a time. */
#include "train/saver.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/machine.h"
#include "core/memory.h"
#include "core/thread.h"

/* What the thread writes; the caller's until it is started and again when it is waited for. */
typedef struct save_job {
    const char *run_dir;
    const csp_config *config;
    csp_snapshot snapshot;
    csp_progress progress;
    csp_health_memory health; /* vocab 0: there is none */
    csp_checkpoint_image image;
    bool beside; /* from image */
    double write_s;
} save_job;

struct csp_saver {
    save_job job;
    csp_task task;
    bool copying; /* started, and the thread is not */
    double pause_s, write_s;
};

csp_status csp_save_plan_make(const csp_config *config, const csp_params *params, bool host_memory,
                              int64_t free, csp_save_plan *out)
{
    const csp_async_save asked = (csp_async_save)config->run.async_save;
    const double mib = 1048576.0;
    csp_save_plan plan = { .bytes = csp_checkpoint_image_bytes(params),
                           .most = free == INT64_MAX ? free : free / (host_memory ? 4 : 2) };

    plan.beside = asked != CSP_ASYNC_SAVE_OFF && plan.bytes <= plan.most;
    *out = plan;
    if (asked == CSP_ASYNC_SAVE_ON && !plan.beside) {
        return CSP_FAIL(CSP_ERR_MEMORY,
                        "a copy of a checkpoint takes %.1f MiB of host memory, of %.1f MiB that "
                        "may be used for it (run.async_save is on): auto would write checkpoints "
                        "without one, and training would wait for them",
                        (double)plan.bytes / mib, (double)plan.most / mib);
    }
    return CSP_OK;
}

csp_status csp_saver_create(const csp_model *model, const csp_save_plan *plan, csp_saver **out)
{
    csp_saver *saver;
    csp_status status;

    CSP_TRY(csp_alloc_zero("checkpoint", 1, sizeof(*saver), &saver));
    saver->write_s = NAN;
    saver->job.beside = plan->beside;
    if (plan->beside) {
        CSP_TRY_GOTO(csp_checkpoint_image_init(model->be, model->params, &saver->job.image));
    }
    *out = saver;
    return CSP_OK;

fail:
    csp_saver_destroy(saver);
    return status;
}

/* Writes the job, in whichever thread. */
static csp_status write_job(void *argument)
{
    save_job *job = argument;
    const double begin = csp_machine_seconds();
    char *path = NULL;

    CSP_TRY(csp_checkpoint_write(job->run_dir, &job->snapshot, job->config, &job->progress,
                                 job->health.vocab > 0 ? &job->health : NULL,
                                 job->beside ? &job->image : NULL, &path));
    job->write_s = csp_machine_seconds() - begin;
    csp_log(CSP_LOG_INFO, "train", "checkpoint %s, written in %.2f s%s", path, job->write_s,
            job->beside ? " beside training" : "");
    free(path);
    return CSP_OK;
}

/* Waits for the thread; the copies must not be on their way. */
static csp_status join(csp_saver *saver)
{
    const bool wrote = csp_task_is_started(&saver->task);

    CSP_TRY(csp_task_wait(&saver->task));
    saver->write_s = wrote ? saver->job.write_s : saver->write_s;
    return CSP_OK;
}

static csp_status begin_to_write(csp_saver *saver)
{
    saver->copying = false;
    CSP_TRY(csp_checkpoint_image_wait(&saver->job.image));
    return csp_task_start(&saver->task, "checkpoints", write_job, &saver->job);
}

/* Until nothing of the saver is under way. */
static csp_status finish(csp_saver *saver)
{
    if (saver->copying) {
        CSP_TRY(begin_to_write(saver));
    }
    return join(saver);
}

void csp_saver_destroy(csp_saver *saver)
{
    if (saver == NULL) {
        return;
    }
    if (finish(saver) != CSP_OK) {
        csp_log(CSP_LOG_WARN, "train", "the last checkpoint: %s", csp_error_text());
    }
    csp_checkpoint_image_clear(&saver->job.image);
    csp_health_memory_clear(&saver->job.health);
    free(saver);
}

static csp_status copy_health(save_job *job, const csp_health_memory *health)
{
    if (health == NULL || health->vocab != job->health.vocab) {
        csp_health_memory_clear(&job->health);
    }
    if (health == NULL) {
        return CSP_OK;
    }
    if (job->health.vocab == 0) {
        CSP_TRY(csp_health_memory_init(&job->health, health->vocab));
    }
    csp_health_memory_copy(health, &job->health);
    return CSP_OK;
}

static csp_status save(csp_saver *saver)
{
    save_job *job = &saver->job;

    if (!job->beside) {
        CSP_TRY(write_job(job));
        saver->write_s = job->write_s;
        return CSP_OK;
    }
    CSP_TRY(csp_checkpoint_image_start(&job->image, job->snapshot.model));
    saver->copying = true;
    /* A copy that is made already need not wait for the next update. */
    return job->snapshot.model->be->host_memory ? begin_to_write(saver) : CSP_OK;
}

/* Makes one of the calls above, and counts how long it held the caller up. */
static csp_status timed(csp_saver *saver, csp_status (*call)(csp_saver *))
{
    const double begin = csp_machine_seconds();
    const csp_status status = call(saver);

    saver->pause_s += csp_machine_seconds() - begin;
    return status;
}

csp_status csp_saver_save(csp_saver *saver, const char *run_dir, const csp_snapshot *snapshot,
                          const csp_config *config, const csp_progress *progress,
                          const csp_health_memory *health)
{
    const double begin = csp_machine_seconds();
    const bool busy = csp_task_is_started(&saver->task) && !csp_task_is_done(&saver->task);

    CSP_TRY(timed(saver, finish));
    if (busy) {
        csp_log(CSP_LOG_WARN, "train",
                "waited %.2f s for the checkpoint before to be written: run.save_steps is short "
                "for this disk",
                csp_machine_seconds() - begin);
    }
    saver->job.run_dir = run_dir;
    saver->job.config = config;
    saver->job.snapshot = *snapshot;
    saver->job.progress = *progress;
    CSP_TRY(copy_health(&saver->job, health));
    return timed(saver, save);
}

csp_status csp_saver_copied(csp_saver *saver)
{
    if (saver == NULL || !saver->copying) {
        return CSP_OK;
    }
    return timed(saver, begin_to_write);
}

csp_status csp_saver_poll(csp_saver *saver)
{
    if (saver == NULL || !csp_task_is_started(&saver->task) || !csp_task_is_done(&saver->task)) {
        return CSP_OK;
    }
    return join(saver);
}

csp_status csp_saver_wait(csp_saver *saver)
{
    return saver == NULL ? CSP_OK : timed(saver, finish);
}

void csp_saver_times(csp_saver *saver, double *pause_s, double *write_s)
{
    if (saver == NULL) {
        return;
    }
    if (saver->pause_s > 0.0) {
        *pause_s = saver->pause_s;
    }
    *write_s = saver->write_s;
    saver->pause_s = 0.0;
    saver->write_s = NAN;
}
