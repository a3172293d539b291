/* health.c - counts over sparse rows, and warnings in words. */
#include "train/health.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"

enum { RECENT_STEPS = 100, MEASURED_ROWS = 4096, CHANCE_AFTER = 50 };

/* Never renumber: checkpoints hold the steps of these warnings in this order. */
typedef enum warning {
    WARN_ZERO_Q = 0,
    WARN_ZERO_D = 1,
    WARN_POSITION = 2,
    WARN_DEAD = 3,
    WARN_CHANCE = 4
} warning;

struct csp_health {
    csp_health_limits limits;
    csp_health_memory memory; /* dead terms are counted only RECENT_STEPS after its first step */
};

csp_status csp_health_create(int64_t vocab, const csp_health_limits *limits, csp_health **out)
{
    csp_health *h;
    csp_status status;

    CSP_TRY(csp_alloc_zero("health", 1, sizeof(*h), &h));
    h->limits = *limits;
    CSP_TRY_GOTO(csp_health_memory_init(&h->memory, vocab));
    *out = h;
    return CSP_OK;

fail:
    csp_health_destroy(h);
    return status;
}

void csp_health_destroy(csp_health *h)
{
    if (h != NULL) {
        csp_health_memory_clear(&h->memory);
        free(h);
    }
}

const csp_health_memory *csp_health_remembers(const csp_health *h)
{
    return &h->memory;
}

void csp_health_recall(csp_health *h, const csp_health_memory *memory)
{
    csp_health_memory_copy(memory, &h->memory);
}

static int by_size(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* Mean, 95th percentile and maximum of the row lengths; share of empty rows. */
static void measure_rows(const csp_health_side *side, double *mean, double *p95, double *max,
                         double *zero)
{
    int64_t lengths[MEASURED_ROWS];
    const int64_t n = side->rows < MEASURED_ROWS ? side->rows : MEASURED_ROWS;
    int64_t empty = 0, longest = 0;

    if (n == 0) {
        return;
    }
    for (int64_t i = 0; i < side->rows; i++) {
        const int64_t length = side->row_ptr[i + 1] - side->row_ptr[i];

        if (i < n) {
            lengths[i] = length;
        }
        longest = length > longest ? length : longest;
        empty += length == 0;
    }
    qsort(lengths, (size_t)n, sizeof(lengths[0]), by_size);
    *mean = (double)side->row_ptr[side->rows] / (double)side->rows;
    *p95 = (double)lengths[(n - 1) * 95 / 100];
    *max = (double)longest;
    *zero = (double)empty / (double)side->rows;
}

/* Share of all maxima that fall on the one position that gets most of them. */
static double busiest_position(const csp_health_side *side)
{
    const int64_t nnz = side->row_ptr[side->rows];
    int64_t most = 0;

    for (int i = 0; i < CSP_POSITIONS; i++) {
        most = side->positions[i] > most ? side->positions[i] : most;
    }
    return nnz > 0 ? (double)most / (double)nnz : NAN;
}

void csp_health_observe(csp_health *h, int64_t step, const csp_health_side *queries,
                        const csp_health_side *documents, csp_step_metrics *m)
{
    const double pairs = (double)queries->rows * (double)documents->rows;
    double products = 0.0;
    int64_t dead = 0;

    if (h->memory.first_step < 0) {
        h->memory.first_step = step;
    }
    measure_rows(queries, &m->active_q, &m->active_q_p95, &m->active_q_max, &m->zero_q);
    measure_rows(documents, &m->active_d, &m->active_d_p95, &m->active_d_max, &m->zero_d);
    h->memory.active[0] = m->active_q;
    h->memory.active[1] = m->active_d;
    for (int64_t v = 0; v < h->memory.vocab; v++) {
        products += (double)queries->count[v] * (double)documents->count[v];
        if (queries->count[v] > 0 || documents->count[v] > 0) {
            h->memory.last_active[v] = step;
        }
        dead += step - h->memory.last_active[v] >= RECENT_STEPS || h->memory.last_active[v] == 0;
    }
    m->index_flops = pairs > 0.0 ? products / pairs : NAN;
    if (step - h->memory.first_step >= RECENT_STEPS) {
        m->dead_terms = (double)dead / (double)h->memory.vocab;
    }
    if (documents->positions != NULL) {
        m->top_position = busiest_position(documents);
    }
}

/* Whether this kind may speak again. */
static bool may_warn(csp_health *h, warning kind, int64_t step)
{
    if (step - h->memory.warned[kind] < CSP_HEALTH_QUIET_STEPS) {
        return false;
    }
    h->memory.warned[kind] = step;
    return true;
}

/* Without a weight of sparsity, such as in the first step of a ramp, that is not what did it. */
static void warn_of_zero_rows(int64_t step, double share, double lambda, const char *texts,
                              const char *name)
{
    if (lambda != 0.0) {
        csp_log(CSP_LOG_WARN, "health",
                "step %lld: %.0f %% of the %s have no term at all: collapse; lower %s or the "
                "learning rate, or adapt longer",
                (long long)step, 100.0 * share, texts, name);
    } else {
        csp_log(
            CSP_LOG_WARN, "health",
            "step %lld: %.0f %% of the %s have no term at all, though %s is 0 here: their texts "
            "are empty, or the model gives no logit above 0 (adapt it first, or lower the "
            "learning rate)",
            (long long)step, 100.0 * share, texts, name);
    }
}

void csp_health_warn(csp_health *h, const csp_step_metrics *m, int64_t candidates, bool *collapsed)
{
    const double chance = log((double)(candidates > 0 ? candidates : 1));

    if (m->zero_q > h->limits.zero_rows && may_warn(h, WARN_ZERO_Q, m->step)) {
        warn_of_zero_rows(m->step, m->zero_q, m->lambda_q, "queries", "lambda_q");
    }
    if (m->zero_d > h->limits.zero_rows && may_warn(h, WARN_ZERO_D, m->step)) {
        warn_of_zero_rows(m->step, m->zero_d, m->lambda_d, "documents", "lambda_d");
    }
    if (m->top_position > h->limits.top_position && may_warn(h, WARN_POSITION, m->step)) {
        csp_log(CSP_LOG_WARN, "health",
                "step %lld: one position wins %.0f %% of all maxima: all texts become alike; a BOS "
                "token is the usual cause (model.add_bos)",
                (long long)m->step, 100.0 * m->top_position);
    }
    if (m->dead_terms > h->limits.dead_terms && may_warn(h, WARN_DEAD, m->step)) {
        csp_log(CSP_LOG_WARN, "health",
                "step %lld: %.0f %% of the vocabulary was active in no text of the last %d steps",
                (long long)m->step, 100.0 * m->dead_terms, RECENT_STEPS);
    }
    if (m->step > CHANCE_AFTER && candidates > 1 && m->nce > 0.97 * chance &&
        m->nce < 1.03 * chance && may_warn(h, WARN_CHANCE, m->step)) {
        csp_log(CSP_LOG_WARN, "health",
                "step %lld: InfoNCE %.3f is at chance level (ln %lld = %.3f): the model does not "
                "tell texts apart; raise the temperature, lower the rate or lambda",
                (long long)m->step, m->nce, (long long)candidates, chance);
    }
    *collapsed = m->zero_q > h->limits.zero_rows || m->zero_d > h->limits.zero_rows;
}
