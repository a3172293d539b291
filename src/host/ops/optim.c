/* optim.c - checks of ops/optim.h. */
#include "ops/optim.h"

#include "ops/check.h"

csp_status csp_grad_squares(csp_backend *be, const csp_optim_tensor *tensors, int64_t count,
                            csp_tensor *squares)
{
    for (int64_t i = 0; i < count; i++) {
        const csp_tensor *g = &tensors[i].grad;

        CSP_TRY(csp_check_tensor("grad_squares", "grad", g, CSP_F32, g->ndim > 0 ? g->ndim : 1,
                                 g->dim));
    }
    CSP_TRY(csp_check_tensor("grad_squares", "squares", squares, CSP_F64, 1, &count));
    return count > 0 ? csp_op_done(be, be->ops->grad_squares(be, tensors, count, squares)) : CSP_OK;
}

static csp_status check_arguments(const csp_adamw_args *a, int64_t count)
{
    if (a->t < 1) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "adamw: t is %lld, the first update is 1",
                        (long long)a->t);
    }
    if (!(a->beta1 >= 0.0 && a->beta1 < 1.0) || !(a->beta2 >= 0.0 && a->beta2 < 1.0)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "adamw: betas %g and %g must be in [0, 1)", a->beta1,
                        a->beta2);
    }
    if (!(a->eps >= 0.0) || !(a->lr >= 0.0) || !(a->weight_decay >= 0.0) || !(a->max_norm >= 0.0)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "adamw: lr %g, eps %g, weight_decay %g and max_norm %g must be at least 0",
                        a->lr, a->eps, a->weight_decay, a->max_norm);
    }
    if (a->tensor < 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "adamw: the first tensor is number %lld",
                        (long long)a->tensor);
    }
    if (a->max_norm > 0.0 || csp_check_given(&a->squares)) {
        CSP_TRY(csp_check_rank("adamw", "squares", &a->squares, CSP_F64, 1));
        if (a->squares.dim[0] < a->tensor + count) {
            return CSP_FAIL(CSP_ERR_SHAPE, "adamw: squares of %lld tensors, not of all %lld",
                            (long long)a->squares.dim[0], (long long)(a->tensor + count));
        }
    }
    return csp_check_given(&a->faults) ? csp_check_rank("adamw", "faults", &a->faults, CSP_I64, 1)
                                       : CSP_OK;
}

static csp_status check_tensor(const csp_backend *be, const csp_optim_tensor *t, bool stochastic)
{
    const csp_tensor *value = &t->value;
    const int ndim = value->ndim > 0 ? value->ndim : 1;
    csp_dtype S;

    if (t->first < 0 || t->first % 4 != 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "adamw: first is %lld, which is no multiple of 4",
                        (long long)t->first);
    }
    CSP_TRY(csp_check_storage(be, "adamw", "value", value, ndim, &S));
    CSP_TRY(csp_check_tensor("adamw", "grad", &t->grad, CSP_F32, ndim, value->dim));
    CSP_TRY(csp_check_tensor("adamw", "m", &t->m, CSP_F32, ndim, value->dim));
    CSP_TRY(csp_check_tensor("adamw", "v", &t->v, CSP_F32, ndim, value->dim));
    if (S == CSP_BF16 && !stochastic) {
        return csp_check_tensor("adamw", "master", &t->master, CSP_F32, ndim, value->dim);
    }
    if (csp_check_given(&t->master)) {
        return CSP_FAIL(CSP_ERR_SHAPE, "adamw: master must be none where value is %s",
                        S == CSP_BF16 ? "rounded at random" : "f32");
    }
    return CSP_OK;
}

csp_status csp_adamw(csp_backend *be, csp_optim_tensor *tensors, int64_t count,
                     const csp_adamw_args *args)
{
    CSP_TRY(check_arguments(args, count));
    for (int64_t i = 0; i < count; i++) {
        CSP_TRY(check_tensor(be, &tensors[i], args->stochastic));
    }
    return count > 0 ? csp_op_done(be, be->ops->adamw(be, tensors, count, args)) : CSP_OK;
}
