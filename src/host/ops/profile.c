/*
 * profile.c - records of calls between two marks, added up by op when the device has done them.
 *
 * Mark 0 is the start, record i lies between the marks 2 i + 1 and 2 i + 2, the last is the stop.
 */
#include "ops/profile.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "ops/table.h"

struct csp_profile {
    csp_backend *be;
    int64_t *record; /* row of each call since the start                                   */
    int64_t count, capacity;
    csp_profile_row *rows;
    int64_t row_count, row_capacity;
    int64_t amount, inputs, outputs; /* noted of the next op                               */
    int64_t row;                     /* of the call that is being made                     */
    csp_status failed;               /* of the mark before it                              */
    double seconds;
};

csp_status csp_profile_create(csp_backend *be, csp_profile **out)
{
    CSP_TRY(csp_alloc_zero("profile", 1, sizeof(**out), out));
    (*out)->be = be;
    return CSP_OK;
}

void csp_profile_destroy(csp_profile *p)
{
    if (p != NULL) {
        if (p->be->profile == p) {
            p->be->profile = NULL;
        }
        free(p->record);
        free(p->rows);
        free(p);
    }
}

/* Room for one more element: *at is moved to twice the memory where it is full. */
static csp_status grow(void *at, int64_t count, int64_t *capacity, size_t bytes)
{
    void *old, *fresh;

    if (count < *capacity) {
        return CSP_OK;
    }
    memcpy(&old, at, sizeof(old));
    CSP_TRY(csp_alloc("profile", 2 * count + 64, bytes, &fresh));
    if (count > 0) {
        memcpy(fresh, old, (size_t)count * bytes);
    }
    free(old);
    memcpy(at, &fresh, sizeof(fresh));
    *capacity = 2 * count + 64;
    return CSP_OK;
}

csp_status csp_profile_start(csp_profile *p)
{
    if (p->be->profile != NULL) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "profile: one of %s runs already", p->be->name);
    }
    CSP_TRY(csp_backend_mark(p->be, 0));
    p->count = 0;
    p->amount = p->inputs = p->outputs = 0;
    p->be->profile = p;
    return CSP_OK;
}

csp_status csp_profile_stop(csp_profile *p)
{
    const int64_t last = 2 * p->count + 1;
    double seconds;

    if (p->be->profile != p) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "profile: it does not run");
    }
    p->be->profile = NULL;
    CSP_TRY(csp_backend_mark(p->be, last));
    CSP_TRY(csp_backend_sync(p->be));
    for (int64_t i = 0; i < p->count; i++) {
        CSP_TRY(csp_backend_elapsed(p->be, 2 * i + 1, 2 * i + 2, &seconds));
        p->rows[p->record[i]].seconds += seconds;
    }
    CSP_TRY(csp_backend_elapsed(p->be, 0, last, &seconds));
    p->seconds += seconds;
    return CSP_OK;
}

const csp_profile_row *csp_profile_rows(const csp_profile *p, int64_t *count)
{
    *count = p->row_count;
    return p->rows;
}

double csp_profile_seconds(const csp_profile *p)
{
    return p->seconds;
}

/* "norm_fwd" of "be->ops->norm_fwd(be, x)". */
static void name_of(const char *call, char name[CSP_PROFILE_NAME_BYTES])
{
    const char *at = strstr(call, "ops->");
    size_t length;

    at = at != NULL ? at + strlen("ops->") : call;
    length = strcspn(at, "(");
    CSP_ASSERT(length < CSP_PROFILE_NAME_BYTES);
    memcpy(name, at, length);
    name[length] = '\0';
}

/* The row of an op with the shape that was noted; a new one is put behind the others. */
static csp_status find_row(csp_profile *p, const char *call)
{
    csp_profile_row fresh = { .inputs = p->inputs, .outputs = p->outputs };

    name_of(call, fresh.op);
    for (p->row = 0; p->row < p->row_count; p->row++) {
        const csp_profile_row *r = &p->rows[p->row];

        if (strcmp(r->op, fresh.op) == 0 && r->inputs == fresh.inputs &&
            r->outputs == fresh.outputs) {
            return CSP_OK;
        }
    }
    CSP_TRY(grow(&p->rows, p->row_count, &p->row_capacity, sizeof(fresh)));
    p->rows[p->row_count++] = fresh;
    return CSP_OK;
}

static csp_status begin(csp_profile *p, const char *call)
{
    CSP_TRY(find_row(p, call));
    CSP_TRY(grow(&p->record, p->count, &p->capacity, sizeof(*p->record)));
    return csp_backend_mark(p->be, 2 * p->count + 1);
}

void csp_profile_begin(csp_profile *p, const char *call)
{
    p->failed = begin(p, call);
}

csp_status csp_profile_end(csp_profile *p, csp_status status)
{
    const double amount = (double)p->amount;

    p->amount = p->inputs = p->outputs = 0;
    CSP_TRY(status);
    CSP_TRY(p->failed);
    CSP_TRY(csp_backend_mark(p->be, 2 * p->count + 2));
    p->record[p->count++] = p->row;
    p->rows[p->row].calls++;
    p->rows[p->row].amount += amount;
    return CSP_OK;
}

void csp_profile_note(csp_backend *be, int64_t amount, int64_t inputs, int64_t outputs)
{
    if (be->profile != NULL) {
        be->profile->amount = amount;
        be->profile->inputs = inputs;
        be->profile->outputs = outputs;
    }
}
