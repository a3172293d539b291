/* swiglu.c - checks of ops/swiglu.h. */
#include "ops/swiglu.h"

#include "ops/check.h"

csp_status csp_swiglu_fwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                          csp_tensor *m)
{
    csp_dtype S;

    CSP_TRY(csp_check_storage(be, "swiglu", "gate", gate, 2, &S));
    CSP_TRY(csp_check_tensor("swiglu", "up", up, S, 2, gate->dim));
    CSP_TRY(csp_check_tensor("swiglu", "m", m, S, 2, gate->dim));
    return csp_tensor_count(gate) > 0 ? csp_op_done(be, be->ops->swiglu_fwd(be, gate, up, m))
                                      : CSP_OK;
}

csp_status csp_swiglu_bwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                          const csp_tensor *dm, csp_tensor *dgate, csp_tensor *dup)
{
    csp_dtype S;

    CSP_TRY(csp_check_storage(be, "swiglu", "gate", gate, 2, &S));
    CSP_TRY(csp_check_tensor("swiglu", "up", up, S, 2, gate->dim));
    CSP_TRY(csp_check_tensor("swiglu", "dm", dm, S, 2, gate->dim));
    CSP_TRY(csp_check_tensor("swiglu", "dgate", dgate, S, 2, gate->dim));
    CSP_TRY(csp_check_tensor("swiglu", "dup", dup, S, 2, gate->dim));
    if (!csp_check_apart(dgate, dup)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "swiglu: dgate and dup must be different memory");
    }
    return csp_tensor_count(gate) > 0
               ? csp_op_done(be, be->ops->swiglu_bwd(be, gate, up, dm, dgate, dup))
               : CSP_OK;
}
