/*
 * profile.h - where the time of a stretch of work goes, op by op.
 *
 * While a profile runs, every call that is made by csp_op_done, that is every op, and every copy of
 * backend.h lies between two marks on the device. A row is one op, groups of linear maps of one
 * shape, or copies of one kind. On a device a mark is an event in the stream: a row has what the
 * device took, and what is left of the whole is time in which it waited for the host. Other
 * backends work in the call, and a mark is the clock.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct csp_profile csp_profile;

enum { CSP_PROFILE_NAME_BYTES = 32 };

/* What was recorded of one op. */
typedef struct csp_profile_row {
    char op[CSP_PROFILE_NAME_BYTES]; /* entry of csp_ops: "norm_fwd"                     */
    int64_t inputs, outputs;         /* I and the sum of O of linear maps, else 0      */
    int64_t calls;
    double amount;  /* of all calls: token rows of a linear map, bytes of a copy; else 0 */
    double seconds; /* of all calls                                                      */
} csp_profile_row;

/* A profile of be that does not run yet. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_profile_create(csp_backend *be, csp_profile **out);

/* Stops it where it runs. NULL is accepted. */
void csp_profile_destroy(csp_profile *p);

/*
 * Runs p until csp_profile_stop, which adds what was recorded to its rows. An op that fails is not
 * recorded. Ops also fail where a profile cannot mark them (CSP_ERR_MEMORY, CSP_ERR_DEVICE).
 *
 * Stream: start is enqueued, stop waits for be.
 * Errors: CSP_ERR_ARGUMENT (another profile of be runs; p does not), CSP_ERR_DEVICE,
 *         CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_profile_start(csp_profile *p);
CSP_CHECKED csp_status csp_profile_stop(csp_profile *p);

/* The rows so far, in the order of their first calls; valid until the next csp_profile_stop. */
const csp_profile_row *csp_profile_rows(const csp_profile *p, int64_t *count);

/* Seconds from starts to stops, what lies between ops included. */
double csp_profile_seconds(const csp_profile *p);

/*
 * For ops/ alone: what csp_op_done (check.h) does around a call while a profile runs. `call` is its
 * text, "be->ops->norm_fwd(be, ...)"; end returns status, or why the op could not be marked.
 */
void csp_profile_begin(csp_profile *p, const char *call);
CSP_CHECKED csp_status csp_profile_end(csp_profile *p, csp_status status);

/* Of the next op: rows and shape of a linear map, or bytes of a copy. */
void csp_profile_note(csp_backend *be, int64_t amount, int64_t inputs, int64_t outputs);

#ifdef __cplusplus
}
#endif
