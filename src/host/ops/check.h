/*
 * check.h - what the checking functions of ops/<op>.c share. Private to this folder.
 */
#pragma once

#include "ops/profile.h"
#include "ops/table.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * CSP_ERR_SHAPE with "op: name must be f32 (3,4), not f32 (3,5)" unless t has just this dtype and
 * these dimensions, and memory if it has elements. Its rows do not lie apart.
 */
CSP_CHECKED csp_status csp_check_tensor(const char *op, const char *name, const csp_tensor *t,
                                        csp_dtype dtype, int ndim, const int64_t *dims);

/* The same of a matrix whose rows may lie apart. CSP_ERR_UNSUPPORTED where they do, but be has none
 * (csp_backend.apart). */
CSP_CHECKED csp_status csp_check_matrix(const csp_backend *be, const char *op, const char *name,
                                        const csp_tensor *t, csp_dtype dtype, int64_t rows,
                                        int64_t columns);

/* CSP_ERR_SHAPE unless t has this dtype, ndim dimensions and memory if it has elements. */
CSP_CHECKED csp_status csp_check_rank(const char *op, const char *name, const csp_tensor *t,
                                      csp_dtype dtype, int ndim);

/*
 * The storage type of a call: what t, of ndim dimensions, holds. The call's other activations and
 * weights are then checked to hold the same.
 *
 * Errors: CSP_ERR_SHAPE unless t is f32 or bf16 with ndim dimensions, and memory if it has
 *         elements; CSP_ERR_UNSUPPORTED where t is bf16 and be has no bf16.
 */
CSP_CHECKED csp_status csp_check_storage(const csp_backend *be, const char *op, const char *name,
                                         const csp_tensor *t, int ndim, csp_dtype *out);

/* Marks a call for the profile that runs, if one does (ops/profile.h); gives the call's status. */
#define csp_op_marked(be, call) (csp_op_before((be), #call), csp_op_after((be), (call)))

static inline void csp_op_before(csp_backend *be, const char *call)
{
    if (be->profile != NULL) {
        csp_profile_begin(be->profile, call);
    }
}

static inline csp_status csp_op_after(csp_backend *be, csp_status status)
{
    return be->profile != NULL ? csp_profile_end(be->profile, status) : status;
}

/*
 * Calls an entry, "be->ops->norm_fwd(be, ...)": every op does so by this. What an op returns is its
 * entry's status, or that of the wait behind it where one is asked for.
 */
#define csp_op_done(be, call) csp_op_waited((be), csp_op_marked(be, call))

static inline csp_status csp_op_waited(csp_backend *be, csp_status status)
{
    return status == CSP_OK && be->sync_every_op ? be->ops->sync(be) : status;
}

/* Whether an optional tensor was given. */
static inline bool csp_check_given(const csp_tensor *t)
{
    return t != NULL && t->ndim > 0;
}

/* Whether optional rows in e4m3 were given. */
static inline bool csp_check_fp8_given(const csp_fp8_rows *rows)
{
    return rows != NULL && rows->q.ndim > 0;
}

/* CSP_ERR_SHAPE unless rows are (N,K), or not given. */
CSP_CHECKED csp_status csp_check_fp8_rows(const char *op, const csp_fp8_rows *rows, int64_t N,
                                          int64_t K);

/* Whether a and b do not overlap in memory. */
bool csp_check_apart(const csp_tensor *a, const csp_tensor *b);

/*
 * What every op with a vocabulary matrix checks: e, exclude and scale; pooling is not read. The
 * storage type of the call is that of e.
 */
CSP_CHECKED csp_status csp_check_head(const csp_backend *be, const char *op, const csp_head *head,
                                      csp_dtype *S);

/* Sparse rows with at least rows rows, all arrays of one capacity; argmax only where asked for. */
CSP_CHECKED csp_status csp_check_sparse(const char *op, const char *name, const csp_sparse *w,
                                        int64_t rows, bool argmax);

#ifdef __cplusplus
}
#endif
