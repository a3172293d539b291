/* thread.c - starting threads, and one function in a thread of its own. */
#include "core/thread.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

csp_status csp_thread_start(const char *what, pthread_t *thread, void *(*run)(void *),
                            void *argument)
{
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        return CSP_FAIL(CSP_ERR_MEMORY, "no thread for %s: %s", what, strerror(error));
    }
    return CSP_OK;
}

static void *run_task(void *argument)
{
    csp_task *task = argument;

    task->status = task->run(task->argument);
    if (task->status != CSP_OK) {
        (void)snprintf(task->text, sizeof(task->text), "%s", csp_error_text());
    }
    __atomic_store_n(&task->done, true, __ATOMIC_RELEASE);
    return NULL;
}

csp_status csp_task_start(csp_task *task, const char *what, csp_status (*run)(void *),
                          void *argument)
{
    CSP_ASSERT(!task->started);
    *task = (csp_task) { .run = run, .argument = argument };
    CSP_TRY(csp_thread_start(what, &task->thread, run_task, task));
    task->started = true;
    return CSP_OK;
}

bool csp_task_is_started(const csp_task *task)
{
    return task->started;
}

bool csp_task_is_done(const csp_task *task)
{
    return __atomic_load_n(&task->done, __ATOMIC_ACQUIRE);
}

void csp_task_drop(csp_task *task)
{
    if (task->started) {
        (void)pthread_join(task->thread, NULL);
        task->started = false;
    }
}

csp_status csp_task_wait(csp_task *task)
{
    const bool started = task->started;

    csp_task_drop(task);
    return !started || task->status == CSP_OK ? CSP_OK : CSP_FAIL(task->status, "%s", task->text);
}
