/*
 * thread.h - threads beside the one that computes: they take no signals, and what fails in one is
 * said in the thread that asks for its result.
 */
#pragma once

#include <pthread.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Starts a thread that leaves all signals to the others.
 *
 *   what   in   for the text of a failure: "no thread for <what>: ..."
 *
 * Owner:  the caller joins it. Errors: CSP_ERR_MEMORY where the system has none.
 */
CSP_CHECKED csp_status csp_thread_start(const char *what, pthread_t *thread, void *(*run)(void *),
                                        void *argument);

enum { CSP_TASK_TEXT_BYTES = 1024 };

/* One function that runs in a thread of its own. Begins as { 0 }; only its caller uses it. */
typedef struct csp_task {
    csp_status (*run)(void *argument);
    void *argument;
    pthread_t thread;
    bool started; /* and not waited for yet */
    bool done;    /* the thread's last word, atomic */
    csp_status status;
    char text[CSP_TASK_TEXT_BYTES]; /* of a failure */
} csp_task;

/*
 * Calls run(argument) in a new thread. The task before must have been waited for (asserted).
 * Errors: those of csp_thread_start.
 */
CSP_CHECKED csp_status csp_task_start(csp_task *task, const char *what, csp_status (*run)(void *),
                                      void *argument);

/* Whether a task was started that has not been waited for; and whether it has come to its end. */
bool csp_task_is_started(const csp_task *task);
bool csp_task_is_done(const csp_task *task);

/*
 * Waits for the end of a task. Status and csp_error_text are what run left, as if the caller had
 * called it; CSP_OK where none was started.
 */
CSP_CHECKED csp_status csp_task_wait(csp_task *task);

/* Waits for the end of a task whose result nobody wants: csp_error_text stays as it is. */
void csp_task_drop(csp_task *task);

#ifdef __cplusplus
}
#endif
