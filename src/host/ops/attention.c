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
    if ((a->stride_q != 0 && a->stride_q < a->H * a->E) ||
        (a->stride_k != 0 && a->stride_k < a->G * a->E) ||
        (a->stride_v != 0 && a->stride_v < a->G * a->E)) {
        return CSP_FAIL(CSP_ERR_SHAPE,
                        "attention: rows of q, k, v lie %lld, %lld, %lld elements apart, shorter "
                        "than the rows of %lld, %lld, %lld",
                        (long long)a->stride_q, (long long)a->stride_k, (long long)a->stride_v,
                        (long long)(a->H * a->E), (long long)(a->G * a->E),
                        (long long)(a->G * a->E));
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
    csp_dtype S;

    CSP_TRY(csp_check_storage(be, "attention", "q", q, 2, &S));
    {
        const int64_t wide[] = { q->dim[0], a->H * a->E };
        const int64_t narrow[] = { q->dim[0], a->G * a->E };

        CSP_TRY(csp_check_tensor("attention", "q", q, S, 2, wide));
        CSP_TRY(csp_check_tensor("attention", "k", k, S, 2, narrow));
        CSP_TRY(csp_check_tensor("attention", "v", v, S, 2, narrow));
        CSP_TRY(csp_check_tensor("attention", "o", o, S, 2, wide));
    }
    return csp_check_tensor("attention", "lse", lse, CSP_F32, 2, (int64_t[]) { q->dim[0], a->H });
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
    CSP_TRY(csp_check_tensor("attention", "dq", &g->dq, g->q.dtype, 2, g->q.dim));
    CSP_TRY(csp_check_tensor("attention", "dk", &g->dk, g->q.dtype, 2, g->k.dim));
    CSP_TRY(csp_check_tensor("attention", "dv", &g->dv, g->q.dtype, 2, g->v.dim));
    return g->q.dim[0] > 0 ? csp_op_done(be, be->ops->attention_bwd(be, a, g)) : CSP_OK;
}
