/* prefetch.c - a ring of steps: one handed out, the others ready or being made so. */
#include "train/prefetch.h"

#include <stdlib.h>

#include "core/memory.h"
#include "core/thread.h"

struct csp_prefetch {
    csp_step_source *source;
    bool adapt;
    int64_t first, end, ahead;
    csp_step_texts *ring; /* [ahead + 1] step k lies in k mod (ahead + 1) */
    csp_task task;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    int64_t held;  /* the step handed out last; first - 1: none */
    int64_t ready; /* steps below it are ready                  */
    bool quit, ended;
};

static csp_step_texts *slot(const csp_prefetch *p, int64_t k)
{
    return &p->ring[k % (p->ahead + 1)];
}

/* Whether step p->ready may be made: its place in the ring is free. With the lock held. */
static bool has_room(const csp_prefetch *p)
{
    return p->ready <= p->held + p->ahead;
}

/* The thread. The first failure ends it: it belongs to step p->ready. */
static csp_status prepare(void *argument)
{
    csp_prefetch *p = argument;
    csp_status status = CSP_OK;

    pthread_mutex_lock(&p->lock);
    while (status == CSP_OK && !p->quit && p->ready < p->end) {
        if (!has_room(p)) {
            pthread_cond_wait(&p->changed, &p->lock);
            continue;
        }
        const int64_t k = p->ready;

        pthread_mutex_unlock(&p->lock);
        status = csp_step_texts_load(p->source, p->adapt, k, slot(p, k));
        pthread_mutex_lock(&p->lock);
        p->ready += status == CSP_OK ? 1 : 0;
        pthread_cond_broadcast(&p->changed);
    }
    p->ended = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return status;
}

csp_status csp_prefetch_create(csp_step_source *source, bool adapt, int64_t first, int64_t end,
                               int64_t ahead, csp_prefetch **out)
{
    csp_prefetch *p;
    csp_status status;

    CSP_ASSERT(ahead >= 1);
    CSP_TRY(csp_alloc_zero("texts ahead", 1, sizeof(*p), &p));
    p->source = source;
    p->adapt = adapt;
    p->first = p->ready = first;
    p->held = first - 1;
    p->end = end;
    p->ahead = ahead;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    CSP_TRY_GOTO(csp_alloc_zero("texts ahead", ahead + 1, sizeof(*p->ring), &p->ring));
    for (int64_t i = 0; i <= ahead; i++) {
        CSP_TRY_GOTO(csp_step_texts_init(source, adapt, &p->ring[i]));
    }
    CSP_TRY_GOTO(csp_task_start(&p->task, "texts ahead", prepare, p));
    *out = p;
    return CSP_OK;

fail:
    csp_prefetch_destroy(p);
    return status;
}

csp_status csp_prefetch_next(csp_prefetch *p, int64_t k, const csp_step_texts **out)
{
    bool is_ready;

    pthread_mutex_lock(&p->lock);
    CSP_ASSERT(k == p->held + 1 && k < p->end);
    p->held = k;
    pthread_cond_broadcast(&p->changed);
    while (p->ready <= k && !p->ended) {
        pthread_cond_wait(&p->changed, &p->lock);
    }
    is_ready = p->ready > k;
    pthread_mutex_unlock(&p->lock);
    if (!is_ready) {
        return csp_task_wait(&p->task); /* it ended with the failure of this step */
    }
    CSP_ASSERT(slot(p, k)->step == k);
    *out = slot(p, k);
    return CSP_OK;
}

void csp_prefetch_destroy(csp_prefetch *p)
{
    if (p == NULL) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    if (csp_task_wait(&p->task) != CSP_OK) {
        /* Of a step that was never asked for: nobody is concerned. */
    }
    for (int64_t i = 0; p->ring != NULL && i <= p->ahead; i++) {
        csp_step_texts_clear(&p->ring[i]);
    }
    free(p->ring);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
