/* attention.c - checks of ops/attention.h. */
#include "ops/attention.h"

#include "ops/check.h"

static csp_status check_heads(const csp_attention *a)
{
    if (a->G < 1 || a->H < 1 || a->H % a->G != 0) {
        return CSP_FAIL(CSP_ERR_SHAPE,
                        "attention: %lld query heads must be a multiple of %lld key-value heads",
                        (long long)a->H, (long long)a->G);
    }
    if (a->E < 2 || a->E % 2 != 0) {
        return CSP_FAIL(CSP_ERR_SHAPE, "attention: head width %lld must be even and at least 2",
                        (long long)a->E);
    }
    CSP_TRY(csp_check_rank("attention", "seq_start", &a->seq_start, CSP_I32, 1));
    CSP_TRY(csp_check_rank("attention", "cos", &a->cos, CSP_F32, 2));
    CSP_TRY(csp_check_tensor("attention", "cos", &a->cos, CSP_F32, 2,
                             (int64_t[]) { a->cos.dim[0], a->E / 2 }));
    CSP_TRY(csp_check_tensor("attention", "sin", &a->sin, CSP_F32, 2, a->cos.dim));
    if (a->seq_start.dim[0] < 1) {
        return CSP_FAIL(CSP_ERR_SHAPE, "attention: seq_start must have at least one entry");
    }
    if (csp_check_given(&a->order)) {
        CSP_TRY(csp_check_tensor("attention", "order", &a->order, CSP_I32, 1,
                                 (int64_t[]) { a->seq_start.dim[0] - 1 }));
    }
    if (a->longest < 0 || a->longest > a->cos.dim[0]) {
        return CSP_FAIL(CSP_ERR_SHAPE,
                        "attention: the longest text has %lld rows, the rotary table %lld",
                        (long long)a->longest, (long long)a->cos.dim[0]);
    }
    return CSP_OK;
}

static csp_status check_qkvo(const csp_backend *be, const csp_attention *a, const csp_tensor *q,
                             const csp_tensor *k, const csp_tensor *v, const csp_tensor *o,
                             const csp_tensor *lse)
{
    const int64_t N = q->dim[0], wide = a->H * a->E, narrow = a->G * a->E;
    csp_dtype S;

    CSP_TRY(csp_check_storage(be, "attention", "o", o, 2, &S));
    CSP_TRY(csp_check_matrix(be, "attention", "q", q, S, N, wide));
    CSP_TRY(csp_check_matrix(be, "attention", "k", k, S, N, narrow));
    CSP_TRY(csp_check_matrix(be, "attention", "v", v, S, N, narrow));
    CSP_TRY(csp_check_tensor("attention", "o", o, S, 2, (int64_t[]) { N, wide }));
    return csp_check_tensor("attention", "lse", lse, CSP_F32, 2, (int64_t[]) { N, a->H });
}

/* The gradient of x lies as x does. */
static csp_status check_like(const csp_backend *be, const char *name, const csp_tensor *dx,
                             const csp_tensor *x)
{
    CSP_TRY(csp_check_matrix(be, "attention", name, dx, x->dtype, x->dim[0], x->dim[1]));
    if (csp_tensor_row(dx) != csp_tensor_row(x)) {
        return CSP_FAIL(CSP_ERR_SHAPE,
                        "attention: the rows of %s lie %lld elements apart, those of its tensor "
                        "%lld",
                        name, (long long)csp_tensor_row(dx), (long long)csp_tensor_row(x));
    }
    return CSP_OK;
}

csp_status csp_attention_fwd(csp_backend *be, const csp_attention *a, const csp_tensor *q,
                             const csp_tensor *k, const csp_tensor *v, csp_tensor *o,
                             csp_tensor *lse)
{
    CSP_TRY(check_heads(a));
    CSP_TRY(check_qkvo(be, a, q, k, v, o, lse));
    return q->dim[0] > 0 ? csp_op_done(be, be->ops->attention_fwd(be, a, q, k, v, o, lse)) : CSP_OK;
}

csp_status csp_attention_bwd(csp_backend *be, const csp_attention *a, csp_attention_grad *g)
{
    CSP_TRY(check_heads(a));
    CSP_TRY(check_qkvo(be, a, &g->q, &g->k, &g->v, &g->o, &g->lse));
    CSP_TRY(csp_check_tensor("attention", "d_o", &g->d_o, g->q.dtype, 2, g->q.dim));
    CSP_TRY(check_like(be, "dq", &g->dq, &g->q));
    CSP_TRY(check_like(be, "dk", &g->dk, &g->k));
    CSP_TRY(check_like(be, "dv", &g->dv, &g->v));
    return g->q.dim[0] > 0 ? csp_op_done(be, be->ops->attention_bwd(be, a, g)) : CSP_OK;
}
