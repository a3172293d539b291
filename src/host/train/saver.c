/* saver.c - one copy, one thread, one checkpoint at a time. */
#include "train/saver.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/machine.h"
#include "core/memory.h"
#include "core/thread.h"

/* What the thread writes; the caller's until it is started and again when it is waited for. */
typedef struct save_job {
    int rank, ranks;
    const char *run_dir;
    const csp_config *config;
    csp_snapshot snapshot;
    csp_progress progress;
    csp_health_memory health; /* vocab 0: there is none */
    csp_checkpoint_image image;
    csp_state_copy copy;
    char name[CSP_STATE_NAME_BYTES]; /* of this rank's state file */
    bool has_name;                   /* atomic: the thread is past it */
    csp_state_files state;           /* of all ranks; count 0: not known, or none */
    bool beside;                     /* from image and copy */
    double write_s;
} save_job;

/* How far a checkpoint is. */
typedef enum save_stage {
    STAGE_NONE,   /* nothing is under way                                                 */
    STAGE_COPIES, /* are started, and the thread is not                                   */
    STAGE_STATE,  /* is being written, or this rank's is there and those of others may be */
    STAGE_MODEL   /* its file is being written                                            */
} save_stage;

/* Microseconds between two looks at what another thread or rank writes. */
enum { WAIT_US = 10000 };

struct csp_saver {
    const csp_ranks *ranks; /* that share state out, or NULL */
    save_job job;
    csp_task task;
    save_stage stage;
    bool under_way; /* a checkpoint is that on rank 0, for all that this rank knows */
    double pause_s, write_s;
};

static bool writes_model(const save_job *job)
{
    return job->rank == 0;
}

csp_status csp_save_plan_make(const csp_config *config, const csp_params *params, bool host_memory,
                              int64_t free, csp_save_plan *out)
{
    const csp_async_save asked = (csp_async_save)config->run.async_save;
    const bool shared = csp_params_sharded(params);
    const double mib = 1048576.0;
    csp_save_plan plan = { .most = free == INT64_MAX ? free : free / (host_memory ? 4 : 2),
                           .rank = shared ? params->storage.sharing.rank : 0 };

    plan.bytes = (plan.rank == 0 ? csp_checkpoint_image_bytes(params) : 0) +
                 (shared ? csp_state_copy_bytes(params) : 0);
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

csp_status csp_save_plan_agree(const csp_ranks *ranks, csp_save_plan *plan)
{
    const int size = csp_ranks_size(ranks);
    csp_save_plan *all;
    csp_status status;
    int r = 0;

    CSP_TRY(csp_alloc_zero("checkpoint", size, sizeof(*all), &all));
    all[0] = *plan; /* of one rank alone */
    CSP_TRY_GOTO(csp_ranks_gather_host(ranks, plan, all, sizeof(*all), "memory for checkpoints"));
    while (r < size - 1 && all[r].beside) {
        r++;
    }
    *plan = all[all[r].beside ? 0 : r];

fail:
    free(all);
    return status;
}

csp_status csp_saver_create(const csp_model *model, const csp_ranks *ranks,
                            const csp_save_plan *plan, csp_saver **out)
{
    csp_saver *saver;
    csp_status status = CSP_OK;

    CSP_ASSERT(csp_params_shards(model->params) == csp_ranks_size(ranks));
    CSP_TRY(csp_alloc_zero("checkpoint", 1, sizeof(*saver), &saver));
    saver->ranks = ranks;
    saver->write_s = NAN;
    saver->job.rank = csp_ranks_rank(ranks);
    saver->job.ranks = csp_ranks_size(ranks);
    saver->job.beside = plan->beside;
    if (plan->beside && writes_model(&saver->job)) {
        CSP_TRY_GOTO(csp_checkpoint_image_init(model->be, model->params, &saver->job.image));
    }
    if (plan->beside && ranks != NULL) {
        CSP_TRY_GOTO(csp_state_copy_init(model, &saver->job.copy));
    }
    *out = saver;
    return CSP_OK;

fail:
    csp_saver_destroy(saver);
    return status;
}

/* Writes this rank's state, in whichever thread. */
static csp_status write_state(void *argument)
{
    save_job *job = argument;
    const double begin = csp_machine_seconds();

    CSP_TRY(
        csp_checkpoint_name_state(&job->progress, job->rank, job->ranks, &job->copy, job->name));
    __atomic_store_n(&job->has_name, true, __ATOMIC_RELEASE);
    CSP_TRY(csp_checkpoint_write_state(job->run_dir, job->name, &job->copy));
    job->write_s += csp_machine_seconds() - begin;
    return CSP_OK;
}

/* Writes the model's file, in whichever thread. */
static csp_status write_model(void *argument)
{
    save_job *job = argument;
    const double begin = csp_machine_seconds();
    char *path = NULL;

    CSP_TRY(csp_checkpoint_write(job->run_dir, &job->snapshot, job->config, &job->progress,
                                 job->health.vocab > 0 ? &job->health : NULL,
                                 job->beside ? &job->image : NULL,
                                 job->state.count > 0 ? &job->state : NULL, &path));
    job->write_s += csp_machine_seconds() - begin;
    csp_log(CSP_LOG_INFO, "train", "checkpoint %s, written in %.2f s%s", path, job->write_s,
            job->beside ? " beside training" : "");
    free(path);
    return CSP_OK;
}

/* Has the thread do what a stage is of. */
static csp_status begin_stage(csp_saver *saver, save_stage stage)
{
    saver->stage = STAGE_NONE;
    CSP_TRY(csp_task_start(&saver->task, "checkpoints",
                           stage == STAGE_STATE ? write_state : write_model, &saver->job));
    saver->stage = stage;
    return CSP_OK;
}

static csp_status begin_to_write(csp_saver *saver)
{
    saver->stage = STAGE_NONE;
    CSP_TRY(writes_model(&saver->job) ? csp_checkpoint_image_wait(&saver->job.image) : CSP_OK);
    CSP_TRY(saver->ranks != NULL ? csp_state_copy_wait(&saver->job.copy) : CSP_OK);
    return begin_stage(saver, saver->ranks != NULL ? STAGE_STATE : STAGE_MODEL);
}

/* Waits for the thread. A state file that is there is not the end: the others' are not known of. */
static csp_status join(csp_saver *saver)
{
    const save_stage stage = saver->stage;
    const csp_status status = csp_task_wait(&saver->task);

    saver->stage = STAGE_NONE;
    saver->under_way = saver->under_way && status == CSP_OK;
    CSP_TRY(status);
    saver->stage = stage == STAGE_STATE ? stage : STAGE_NONE;
    saver->write_s = stage == STAGE_MODEL ? saver->job.write_s : saver->write_s;
    return CSP_OK;
}

/* All ranks' files by name, each of which is there or being written. */
static csp_status name_state(csp_saver *saver)
{
    return saver->job.state.count > 0
               ? CSP_OK
               : csp_state_files_gather(saver->ranks, saver->job.name, &saver->job.state);
}

/* From all ranks' state to the model's file. */
static csp_status go_on(csp_saver *saver)
{
    CSP_TRY(join(saver));
    saver->stage = STAGE_NONE;
    CSP_TRY(name_state(saver));
    return writes_model(&saver->job) ? begin_stage(saver, STAGE_MODEL) : CSP_OK;
}

/* Until nothing of the saver is under way. */
static csp_status finish(csp_saver *saver)
{
    if (saver->stage == STAGE_COPIES) {
        CSP_TRY(begin_to_write(saver));
    }
    if (saver->stage == STAGE_STATE) {
        CSP_TRY(go_on(saver));
    }
    return join(saver);
}

static void say_unfinished(const csp_saver *saver, const char *why)
{
    if (writes_model(&saver->job)) {
        csp_log(CSP_LOG_WARN, "train", "the checkpoint of %s step %lld was not finished: %s",
                saver->job.progress.phase, (long long)saver->job.progress.step, why);
    }
}

/* Leaves this rank's state where it is. */
static void give_up(csp_saver *saver, const char *why)
{
    csp_state_copy_drop(&saver->job.copy);
    csp_task_drop(&saver->task);
    say_unfinished(saver, why);
}

/* Rank 0, after a failure: waits for the files of the others. *all: they are there. */
static csp_status await_state(const csp_saver *saver, double deadline, bool *all)
{
    const save_job *job = &saver->job;
    int64_t next = 0;

    while (next < job->state.count) {
        /* Asked first: a file that is not there when its rank is gone does not come any more. */
        const bool gone =
            csp_comm_is_gone(saver->ranks->comm, (int)next) || csp_machine_seconds() > deadline;
        bool there;

        CSP_TRY(csp_checkpoint_has_state(job->run_dir, job->state.names[next], &there));
        if (!there && gone) {
            break;
        }
        next += there;
        (void)usleep(there ? 0 : WAIT_US);
    }
    *all = next == job->state.count;
    return CSP_OK;
}

/* After a failure of a rank, with all names known: this rank's file, and on rank 0 the model's. */
static csp_status finish_alone(csp_saver *saver, double deadline)
{
    bool all = true;

    while (csp_task_is_started(&saver->task) && !csp_task_is_done(&saver->task)) {
        if (csp_comm_is_gone(saver->ranks->comm, 0)) {
            csp_state_copy_drop(&saver->job.copy);
            csp_task_drop(&saver->task);
            return CSP_OK; /* nobody would name it */
        }
        if (csp_machine_seconds() > deadline) {
            csp_state_copy_drop(&saver->job.copy);
            return CSP_FAIL(CSP_ERR_IO, "this rank's state was not written within %g s",
                            csp_comm_timeout_s(saver->ranks->comm));
        }
        (void)usleep(WAIT_US);
    }
    CSP_TRY(csp_task_wait(&saver->task));
    if (!writes_model(&saver->job)) {
        return CSP_OK;
    }
    CSP_TRY(await_state(saver, deadline, &all));
    if (!all) {
        say_unfinished(saver, "a rank's state is missing");
    }
    return all ? write_model(&saver->job) : CSP_OK;
}

/* Ends what is under way without the other ranks, one of which may have failed. */
static csp_status leave(csp_saver *saver)
{
    csp_comm *comm = saver->ranks != NULL ? saver->ranks->comm : NULL;
    const bool failed = comm != NULL && csp_comm_has_failed(comm) && saver->under_way;
    const bool has_names = saver->stage == STAGE_STATE && saver->job.state.count > 0;
    const double seconds = failed ? csp_comm_timeout_s(comm) : 0.0;
    csp_status status;

    if (comm != NULL && saver->stage != STAGE_NONE && saver->stage != STAGE_MODEL &&
        !(failed && has_names)) {
        give_up(saver, "ranks had only begun to write their state");
        return CSP_OK;
    }
    if (failed) {
        csp_comm_hold(comm, seconds);
    }
    status = has_names ? finish_alone(saver, csp_machine_seconds() + seconds) : finish(saver);
    if (failed && status != CSP_OK) {
        csp_comm_hold(comm, 0.0); /* who waits for this rank learns by its end that nothing comes */
    }
    return status;
}

void csp_saver_destroy(csp_saver *saver)
{
    char reason[1024];
    csp_status status;

    if (saver == NULL) {
        return;
    }
    (void)snprintf(reason, sizeof(reason), "%s", csp_error_text());
    status = leave(saver);
    if (status != CSP_OK) {
        csp_log(CSP_LOG_WARN, "train", "the last checkpoint: %s", csp_error_text());
    }
    csp_task_drop(&saver->task);
    (void)CSP_FAIL(status, "%s", reason); /* as it was */
    csp_checkpoint_image_clear(&saver->job.image);
    csp_state_copy_clear(&saver->job.copy);
    csp_health_memory_clear(&saver->job.health);
    csp_state_files_clear(&saver->job.state);
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

/* All of a checkpoint while the caller waits, with memory for a copy that only this takes. */
static csp_status save_now(csp_saver *saver)
{
    save_job *job = &saver->job;
    csp_status status;

    if (saver->ranks != NULL) {
        CSP_TRY(csp_state_copy_take(job->snapshot.model, &job->copy));
        status = write_state(job);
        csp_state_copy_clear(&job->copy);
        CSP_TRY(status);
        CSP_TRY(name_state(saver));
    }
    if (writes_model(job)) {
        CSP_TRY(write_model(job));
        saver->write_s = job->write_s;
    }
    return CSP_OK;
}

static csp_status save(csp_saver *saver)
{
    save_job *job = &saver->job;

    if (!job->beside) {
        return save_now(saver);
    }
    if (writes_model(job)) {
        CSP_TRY(csp_checkpoint_image_start(&job->image, job->snapshot.model));
    }
    if (saver->ranks != NULL) {
        CSP_TRY(csp_state_copy_start(&job->copy));
    }
    saver->stage = STAGE_COPIES;
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
    bool busy;

    if (saver == NULL) {
        return CSP_OK;
    }
    busy = csp_task_is_started(&saver->task) && !csp_task_is_done(&saver->task);
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
    saver->job.write_s = 0.0;
    saver->job.has_name = false;
    csp_state_files_clear(&saver->job.state);
    saver->under_way = saver->ranks != NULL;
    CSP_TRY(copy_health(&saver->job, writes_model(&saver->job) ? health : NULL));
    return timed(saver, save);
}

csp_status csp_saver_copied(csp_saver *saver)
{
    if (saver == NULL || saver->stage != STAGE_COPIES) {
        return CSP_OK;
    }
    return timed(saver, begin_to_write);
}

/* Of this rank; its thread may be at work. */
static csp_save_left left_of(const csp_saver *saver)
{
    const bool writes = csp_task_is_started(&saver->task);

    switch (saver->stage) {
    case STAGE_NONE:
        break;
    case STAGE_MODEL:
        return CSP_SAVE_MODEL;
    case STAGE_COPIES:
        return CSP_SAVE_NAME;
    case STAGE_STATE:
        return !writes                                                   ? CSP_SAVE_MODEL
               : __atomic_load_n(&saver->job.has_name, __ATOMIC_ACQUIRE) ? CSP_SAVE_STATE
                                                                         : CSP_SAVE_NAME;
    }
    return CSP_SAVE_NOTHING;
}

csp_status csp_saver_poll(csp_saver *saver, csp_save_left *left)
{
    *left = CSP_SAVE_NOTHING;
    if (saver == NULL) {
        return CSP_OK;
    }
    if (csp_task_is_started(&saver->task) && csp_task_is_done(&saver->task)) {
        CSP_TRY(join(saver));
    }
    *left = saver->ranks != NULL ? left_of(saver) : CSP_SAVE_NOTHING;
    return CSP_OK;
}

csp_status csp_saver_go_on(csp_saver *saver, csp_save_left left)
{
    if (saver == NULL) {
        return CSP_OK;
    }
    saver->under_way = saver->under_way && left != CSP_SAVE_NOTHING;
    if (saver->stage != STAGE_STATE || left == CSP_SAVE_NAME) {
        return CSP_OK;
    }
    return timed(saver, left == CSP_SAVE_STATE ? name_state : go_on);
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
