/* saver.c - one copy, one thread on each rank, one checkpoint at a time. */
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
    const csp_ranks *ranks; /* NULL: one */
    int rank;
    bool shared; /* ranks share state out */
    const char *run_dir;
    const csp_config *config;
    csp_snapshot snapshot;
    csp_progress progress;
    csp_health_memory health; /* vocab 0: there is none */
    csp_checkpoint_image image;
    csp_state_copy copy;
    int64_t number; /* of the save, the same on all ranks                 */
    bool has_state; /* atomic: this rank's state is there, and posted     */
    bool beside;    /* from image and copy                                */
    double write_s;
} save_job;

/* How far a checkpoint is on this rank. */
typedef enum save_stage {
    STAGE_NONE,   /* nothing is under way                  */
    STAGE_COPIES, /* are started, and the thread is not    */
    STAGE_WRITES  /* the thread is, and not yet waited for */
} save_stage;

/* Microseconds between two looks at what another thread or rank writes. */
enum { WAIT_US = 10000 };

/* Seconds that the word of a failure may come later than the end of the rank that failed. */
static const double gone_s = 1.0;

static const char state_of_all[] = "the state of a checkpoint";

struct csp_saver {
    save_job job;
    csp_task task;
    save_stage stage;
    bool awaits_state; /* the state of a save is not known to be there on all ranks */
    double pause_s, write_s;
};

static bool writes_model(const save_job *job)
{
    return job->rank == 0;
}

static bool writes(const save_job *job)
{
    return job->rank == 0 || job->shared;
}

static csp_comm *comm_of(const csp_saver *saver)
{
    return saver->job.ranks != NULL ? saver->job.ranks->comm : NULL;
}

/*
 * What is under way is to be finished after a failure, too; on every rank, which waits for it. Not
 * where this rank's part has failed: who waits for that learns by this rank's end that it does not
 * come.
 */
static void hold(const csp_saver *saver, bool is_under_way)
{
    csp_comm *comm = comm_of(saver);

    if (comm != NULL) {
        csp_comm_hold(comm, is_under_way ? csp_comm_timeout_s(comm) : 0.0);
    }
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
    save_job *job;

    CSP_TRY(csp_alloc_zero("checkpoint", 1, sizeof(*saver), &saver));
    saver->write_s = NAN;
    job = &saver->job;
    job->ranks = csp_ranks_size(ranks) > 1 ? ranks : NULL;
    job->rank = csp_ranks_rank(ranks);
    job->shared = csp_params_sharded(model->params);
    CSP_ASSERT(!job->shared || csp_params_shards(model->params) == csp_ranks_size(ranks));
    job->beside = writes(job) && plan->beside;
    if (job->beside && writes_model(job)) {
        CSP_TRY_GOTO(csp_checkpoint_image_init(model->be, model->params, &saver->job.image));
    }
    if (job->beside && job->shared) {
        CSP_TRY_GOTO(csp_state_copy_init(model, &saver->job.copy));
    }
    *out = saver;
    return CSP_OK;

fail:
    csp_saver_destroy(saver);
    return status;
}

/* This rank's state, in whichever thread. */
static csp_status write_state(save_job *job)
{
    const double begin = csp_machine_seconds();
    char name[CSP_STATE_NAME_BYTES];

    CSP_TRY(csp_checkpoint_name_state(&job->progress, job->rank, csp_ranks_size(job->ranks),
                                      &job->copy, name));
    CSP_TRY(csp_checkpoint_write_state(job->run_dir, name, &job->copy));
    csp_comm_post(job->ranks->comm, job->number, name);
    __atomic_store_n(&job->has_state, true, __ATOMIC_RELEASE);
    job->write_s += csp_machine_seconds() - begin;
    return CSP_OK;
}

/* Why a rank's state does not come: what it has failed of, if it has. */
static csp_status give_up(csp_comm *comm, int rank, bool is_gone)
{
    if (csp_comm_await_failure(comm, is_gone ? gone_s : 0.0)) {
        return csp_comm_raise(comm, CSP_COMM_FAILED, state_of_all, NULL);
    }
    return CSP_FAIL(CSP_ERR_IO, "rank %d has ended without having written its state", rank);
}

/* Rank 0: waits until a rank has posted the name of its file. */
static csp_status await_state(const save_job *job, int rank, char name[CSP_COMM_POST_BYTES])
{
    csp_comm *comm = job->ranks->comm;

    for (;;) {
        /* Asked first: what has not come when its rank is gone does not come any more. */
        const bool is_gone = csp_comm_is_gone(comm, rank);

        if (csp_comm_take_post(comm, rank, job->number, name)) {
            return CSP_OK;
        }
        if (is_gone || csp_comm_hold_left(comm) <= 0.0) {
            return give_up(comm, rank, is_gone);
        }
        (void)usleep(WAIT_US);
    }
}

/* Rank 0: the files of all ranks, when all are there. Owner: csp_state_files_clear. */
static csp_status await_all_state(const save_job *job, csp_state_files *out)
{
    const int size = csp_ranks_size(job->ranks);
    csp_state_files files = { 0 };
    char name[CSP_COMM_POST_BYTES];
    csp_status status;

    CSP_TRY(csp_alloc_zero("state files", size, sizeof(*files.names), &files.names));
    for (; files.count < size; files.count++) {
        CSP_TRY_GOTO(await_state(job, (int)files.count, name));
        CSP_TRY_GOTO(csp_strdup("state files", name, &files.names[files.count]));
    }
    *out = files;
    return CSP_OK;

fail:
    csp_state_files_clear(&files);
    return status;
}

/* The model's file, in whichever thread, of rank 0. */
static csp_status write_model(save_job *job)
{
    csp_state_files state = { 0 };
    char *path = NULL;
    csp_status status;
    double begin;

    CSP_TRY(job->shared ? await_all_state(job, &state) : CSP_OK);
    begin = csp_machine_seconds();
    CSP_TRY_GOTO(csp_checkpoint_write(job->run_dir, &job->snapshot, job->config, &job->progress,
                                      job->health.vocab > 0 ? &job->health : NULL,
                                      job->beside ? &job->image : NULL, job->shared ? &state : NULL,
                                      &path));
    job->write_s += csp_machine_seconds() - begin;
    csp_log(CSP_LOG_INFO, "train", "checkpoint %s, written in %.2f s%s", path, job->write_s,
            job->beside ? " beside training" : "");

fail:
    csp_state_files_clear(&state);
    free(path);
    return status;
}

/* All that is this rank's, from its copies. */
static csp_status write_all(void *argument)
{
    save_job *job = argument;

    CSP_TRY(job->shared ? write_state(job) : CSP_OK);
    return writes_model(job) ? write_model(job) : CSP_OK;
}

static csp_status begin_to_write(csp_saver *saver)
{
    save_job *job = &saver->job;
    csp_status status;

    saver->stage = STAGE_NONE;
    CSP_TRY_GOTO(writes_model(job) ? csp_checkpoint_image_wait(&job->image) : CSP_OK);
    CSP_TRY_GOTO(job->shared ? csp_state_copy_wait(&job->copy) : CSP_OK);
    CSP_TRY_GOTO(csp_task_start(&saver->task, "checkpoints", write_all, job));
    saver->stage = STAGE_WRITES;
    return CSP_OK;

fail:
    hold(saver, false);
    return status;
}

/* Waits for the thread. */
static csp_status join(csp_saver *saver)
{
    const bool writes = saver->stage == STAGE_WRITES;
    const csp_status status = csp_task_wait(&saver->task);

    saver->stage = STAGE_NONE;
    if (status != CSP_OK) {
        hold(saver, false);
        return status;
    }
    saver->write_s = writes && writes_model(&saver->job) ? saver->job.write_s : saver->write_s;
    return CSP_OK;
}

/* Where state is shared out: until that of all ranks is there. Who is late is found here. */
static csp_status await_others(csp_saver *saver)
{
    const bool waits = saver->awaits_state;

    saver->awaits_state = false;
    return waits ? csp_comm_barrier(comm_of(saver), state_of_all) : CSP_OK;
}

/* Until nothing of the saver is under way. */
static csp_status finish(csp_saver *saver)
{
    const save_job *job = &saver->job;

    if (saver->stage == STAGE_COPIES) {
        CSP_TRY(begin_to_write(saver));
    }
    while (saver->stage == STAGE_WRITES && job->shared && !csp_task_is_done(&saver->task) &&
           !__atomic_load_n(&job->has_state, __ATOMIC_ACQUIRE)) {
        if (csp_comm_has_failed(job->ranks->comm)) {
            return csp_comm_raise(job->ranks->comm, CSP_COMM_FAILED, state_of_all, NULL);
        }
        (void)usleep(WAIT_US / 10);
    }
    if (csp_task_is_started(&saver->task) && csp_task_is_done(&saver->task)) {
        CSP_TRY(join(saver));
    }
    CSP_TRY(await_others(saver));
    return join(saver);
}

/* Finishes what is under way without a collective: another rank may have failed. */
static csp_status leave(csp_saver *saver)
{
    csp_comm *comm = comm_of(saver);

    if (saver->stage == STAGE_COPIES) {
        CSP_TRY(begin_to_write(saver));
    }
    while (comm != NULL && saver->stage == STAGE_WRITES && !csp_task_is_done(&saver->task)) {
        if (!writes_model(&saver->job) && csp_comm_is_gone(comm, 0)) {
            csp_state_copy_drop(&saver->job.copy); /* nobody would name it */
            csp_task_drop(&saver->task);
            return CSP_OK;
        }
        if (csp_comm_hold_left(comm) <= 0.0) {
            csp_state_copy_drop(&saver->job.copy);
            break;
        }
        (void)usleep(WAIT_US);
    }
    return csp_task_wait(&saver->task);
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
        hold(saver, false);
        csp_log(CSP_LOG_WARN, "train", "the checkpoint of %s step %lld was not finished: %s",
                saver->job.progress.phase, (long long)saver->job.progress.step, csp_error_text());
    }
    (void)CSP_FAIL(status, "%s", reason); /* as it was */
    csp_checkpoint_image_clear(&saver->job.image);
    csp_state_copy_clear(&saver->job.copy);
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

/* All of a checkpoint while the caller waits, with memory for a copy that only this takes. */
static csp_status save_now(csp_saver *saver)
{
    save_job *job = &saver->job;
    csp_status status;

    if (job->shared) {
        CSP_TRY(csp_state_copy_take(job->snapshot.model, &job->copy));
        status = write_state(job);
        csp_state_copy_clear(&job->copy);
        CSP_TRY(status);
        CSP_TRY(await_others(saver));
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
    /*
     * Values may be on their way from other ranks. A failure ends such a collective as if it had
     * been done, and the copies behind it would be of what has not come.
     */
    CSP_TRY(job->shared ? csp_backend_sync(job->snapshot.model->be) : CSP_OK);
    if (writes_model(job)) {
        CSP_TRY(csp_checkpoint_image_start(&job->image, job->snapshot.model));
    }
    if (job->shared) {
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
    csp_status status;
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
    saver->job.number++;
    saver->job.has_state = false;
    saver->awaits_state = saver->job.shared;
    CSP_TRY(copy_health(&saver->job, writes_model(&saver->job) ? health : NULL));
    hold(saver, true);
    status = writes(&saver->job) ? timed(saver, save) : CSP_OK;
    if (status != CSP_OK) {
        hold(saver, false);
    }
    return status;
}

csp_status csp_saver_copied(csp_saver *saver)
{
    if (saver == NULL || saver->stage != STAGE_COPIES) {
        return CSP_OK;
    }
    return timed(saver, begin_to_write);
}

csp_status csp_saver_poll(csp_saver *saver, bool *writes)
{
    *writes = false;
    if (saver == NULL) {
        return CSP_OK;
    }
    if (csp_task_is_started(&saver->task) && csp_task_is_done(&saver->task)) {
        CSP_TRY(join(saver));
    }
    *writes = saver->stage != STAGE_NONE;
    return CSP_OK;
}

void csp_saver_learn(csp_saver *saver, bool writes)
{
    if (saver != NULL && !writes) {
        saver->awaits_state = false;
        hold(saver, false);
    }
}

csp_status csp_saver_wait(csp_saver *saver)
{
    return saver == NULL || !writes(&saver->job) ? CSP_OK : timed(saver, finish);
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
