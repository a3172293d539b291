/* linear.c - checks of ops/linear.h. */
#include "ops/linear.h"

#include "ops/check.h"

/* Sizes and storage type of one call; R is 0 without an adapter. */
typedef struct linear_sizes {
    int64_t N, I, O, R;
    csp_dtype S;
} linear_sizes;

static csp_status check_operands(const csp_backend *be, const csp_linear *l,
                                 const csp_tensor *dy_or_y, linear_sizes *out)
{
    linear_sizes s = { 0, 0, 0, 0, CSP_F32 };

    CSP_TRY(csp_check_storage(be, "linear", "w", &l->w, 2, &s.S));
    CSP_TRY(csp_check_rank("linear", "y and dy", dy_or_y, s.S, 2));
    s.O = l->w.dim[0];
    s.I = l->w.dim[1];
    s.N = dy_or_y->dim[0];
    if (s.O < 1 || s.I < 1) {
        return CSP_FAIL(CSP_ERR_SHAPE, "linear: w must have at least one row and one column");
    }
    if (csp_check_given(&l->bias)) {
        CSP_TRY(csp_check_tensor("linear", "bias", &l->bias, s.S, 1, &s.O));
    }
    if (csp_check_given(&l->lora_a)) {
        CSP_TRY(csp_check_rank("linear", "lora_a", &l->lora_a, s.S, 2));
        s.R = l->lora_a.dim[0];
        if (s.R < 1) {
            return CSP_FAIL(CSP_ERR_SHAPE, "linear: lora_a must have at least one row");
        }
        CSP_TRY(csp_check_tensor("linear", "lora_a", &l->lora_a, s.S, 2, (int64_t[]) { s.R, s.I }));
        CSP_TRY(csp_check_tensor("linear", "lora_b", &l->lora_b, s.S, 2, (int64_t[]) { s.O, s.R }));
    }
    *out = s;
    return CSP_OK;
}

static csp_status check_dropout(const csp_linear *l, const linear_sizes *s)
{
    if (s->R == 0 || l->dropout.p == 0.0f) {
        return CSP_OK;
    }
    if (!(l->dropout.p > 0.0f && l->dropout.p < 1.0f)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "linear: dropout %g is not in [0, 1)",
                        (double)l->dropout.p);
    }
    if (s->I > (int64_t)65536 * 4) {
        return CSP_FAIL(CSP_ERR_SHAPE, "linear: dropout of %lld channels, at most 262144",
                        (long long)s->I);
    }
    return csp_check_tensor("linear", "row_key", &l->dropout.row_key, CSP_I64, 1, &s->N);
}

csp_status csp_linear_fwd(csp_backend *be, const csp_linear *l, const csp_tensor *x, csp_tensor *u,
                          csp_tensor *y)
{
    linear_sizes s;

    CSP_TRY(check_operands(be, l, y, &s));
    CSP_TRY(csp_check_tensor("linear", "y", y, s.S, 2, (int64_t[]) { s.N, s.O }));
    CSP_TRY(csp_check_tensor("linear", "x", x, s.S, 2, (int64_t[]) { s.N, s.I }));
    CSP_TRY(check_dropout(l, &s));
    if (s.R > 0) {
        CSP_TRY(csp_check_tensor("linear", "u", u, s.S, 2, (int64_t[]) { s.N, s.R }));
    }
    if (s.N == 0) {
        return CSP_OK;
    }
    csp_profile_note(be, s.N, s.I, s.O);
    return csp_op_done(be, be->ops->linear_fwd(be, l, x, u, y));
}

static csp_status check_grad(const csp_linear *l, const linear_sizes *s, const csp_linear_grad *g)
{
    if (csp_check_given(&g->dw)) {
        CSP_TRY(csp_check_tensor("linear", "dw", &g->dw, CSP_F32, 2, (int64_t[]) { s->O, s->I }));
    }
    if (csp_check_given(&g->dbias)) {
        CSP_TRY(csp_check_tensor("linear", "dbias", &g->dbias, CSP_F32, 1, &s->O));
    }
    if (s->R == 0 && (csp_check_given(&g->dlora_a) || csp_check_given(&g->dlora_b))) {
        return CSP_FAIL(CSP_ERR_SHAPE, "linear: a gradient of an adapter that is not there");
    }
    if (csp_check_given(&g->dlora_a)) {
        CSP_TRY(csp_check_tensor("linear", "dlora_a", &g->dlora_a, CSP_F32, 2, l->lora_a.dim));
    }
    if (csp_check_given(&g->dlora_b)) {
        CSP_TRY(csp_check_tensor("linear", "dlora_b", &g->dlora_b, CSP_F32, 2, l->lora_b.dim));
    }
    return CSP_OK;
}

static csp_status linear_bwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                             const csp_tensor *u, const csp_tensor *dy, const csp_linear_grad *grad,
                             bool accumulate, csp_tensor *dx)
{
    linear_sizes s;

    CSP_TRY(check_operands(be, l, dy, &s));
    CSP_TRY(check_dropout(l, &s));
    CSP_TRY(check_grad(l, &s, grad));
    if (csp_check_given(&grad->dw) || csp_check_given(&grad->dlora_a)) {
        CSP_TRY(csp_check_tensor("linear", "x", x, s.S, 2, (int64_t[]) { s.N, s.I }));
    }
    if (csp_check_given(&grad->dlora_b)) {
        CSP_TRY(csp_check_tensor("linear", "u", u, s.S, 2, (int64_t[]) { s.N, s.R }));
    }
    if (csp_check_given(dx)) {
        CSP_TRY(csp_check_tensor("linear", "dx", dx, s.S, 2, (int64_t[]) { s.N, s.I }));
    }
    if (s.N == 0) {
        return CSP_OK;
    }
    csp_profile_note(be, s.N, s.I, s.O);
    return csp_op_done(be, be->ops->linear_bwd(be, l, x, u, dy, grad, accumulate, dx));
}

csp_status csp_linear_bwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                          const csp_tensor *u, const csp_tensor *dy, const csp_linear_grad *grad,
                          csp_tensor *dx)
{
    return linear_bwd(be, l, x, u, dy, grad, false, dx);
}

csp_status csp_linear_bwd_acc(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                              const csp_tensor *u, const csp_tensor *dy,
                              const csp_linear_grad *grad, csp_tensor *dx)
{
    return linear_bwd(be, l, x, u, dy, grad, true, dx);
}
