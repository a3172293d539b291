/* health_memory.c - the panel's memory, in and out of checkpoints. */
#include "train/health_memory.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

csp_status csp_health_memory_init(csp_health_memory *memory, int64_t vocab)
{
    csp_health_memory m = { .vocab = vocab, .first_step = -1, .active = { -1.0, -1.0 } };

    CSP_TRY(csp_alloc_zero("health", vocab, sizeof(*m.last_active), &m.last_active));
    for (int i = 0; i < CSP_HEALTH_WARNINGS; i++) {
        m.warned[i] = -CSP_HEALTH_QUIET_STEPS;
    }
    *memory = m;
    return CSP_OK;
}

void csp_health_memory_clear(csp_health_memory *memory)
{
    free(memory->last_active);
    *memory = (csp_health_memory) { 0 };
}

void csp_health_memory_copy(const csp_health_memory *from, csp_health_memory *to)
{
    CSP_ASSERT(from->vocab == to->vocab);
    to->first_step = from->first_step;
    memcpy(to->warned, from->warned, sizeof(to->warned));
    memcpy(to->active, from->active, sizeof(to->active));
    memcpy(to->last_active, from->last_active, (size_t)to->vocab * sizeof(*to->last_active));
}

csp_status csp_health_memory_write(csp_hdf5 *file, const csp_health_memory *memory)
{
    csp_tensor steps = csp_tensor_view(memory->last_active, CSP_I64, 1, &memory->vocab);

    CSP_TRY(csp_hdf5_write(file, "/health/last_active", &steps));
    CSP_TRY(csp_hdf5_set_i64(file, "/health", "first_step", memory->first_step));
    CSP_TRY(csp_hdf5_set_f64(file, "/health", "active_q", memory->active[0]));
    CSP_TRY(csp_hdf5_set_f64(file, "/health", "active_d", memory->active[1]));
    return csp_hdf5_set_i64s(file, "/health", "warned", memory->warned, CSP_HEALTH_WARNINGS);
}

/* Steps that no run has would make differences that do not fit. */
static int64_t at_least(int64_t step, int64_t least)
{
    return step < least ? least : step;
}

/* A mean of counts, or -1 where there is none. */
static csp_status read_active(const csp_hdf5 *file, const char *key, double *out)
{
    double value = -1.0;

    if (csp_hdf5_has_attribute(file, "/health", key)) {
        CSP_TRY(csp_hdf5_get_f64(file, "/health", key, &value));
    }
    *out = value >= 0.0 && value <= (double)INT32_MAX ? value : -1.0;
    return CSP_OK;
}

csp_status csp_health_memory_read(const csp_hdf5 *file, int64_t vocab, csp_health_memory *out)
{
    csp_health_memory m = { 0 };
    csp_tensor steps;
    csp_status status;

    if (!csp_hdf5_has(file, "/health/last_active")) {
        *out = m;
        return CSP_OK;
    }
    CSP_TRY(csp_health_memory_init(&m, vocab));
    steps = csp_tensor_view(m.last_active, CSP_I64, 1, &vocab);
    CSP_TRY_GOTO(csp_hdf5_read(file, "/health/last_active", &steps));
    CSP_TRY_GOTO(csp_hdf5_get_i64(file, "/health", "first_step", &m.first_step));
    CSP_TRY_GOTO(csp_hdf5_get_i64s(file, "/health", "warned", m.warned, CSP_HEALTH_WARNINGS));
    CSP_TRY_GOTO(read_active(file, "active_q", &m.active[0]));
    CSP_TRY_GOTO(read_active(file, "active_d", &m.active[1]));
    m.first_step = at_least(m.first_step, -1);
    for (int i = 0; i < CSP_HEALTH_WARNINGS; i++) {
        m.warned[i] = at_least(m.warned[i], -CSP_HEALTH_QUIET_STEPS);
    }
    for (int64_t v = 0; v < vocab; v++) {
        m.last_active[v] = at_least(m.last_active[v], 0);
    }
    *out = m;
    return CSP_OK;

fail:
    csp_health_memory_clear(&m);
    return status;
}
