/* swiglu.c - checks of ops/swiglu.h. */
#include "ops/swiglu.h"

#include "ops/check.h"

static csp_status check_inputs(const csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                               csp_dtype *S)
{
    csp_tensor dense = *gate;

    dense.apart = 0;
    CSP_TRY(csp_check_storage(be, "swiglu", "gate", &dense, 2, S));
    CSP_TRY(csp_check_matrix(be, "swiglu", "gate", gate, *S, gate->dim[0], gate->dim[1]));
    return csp_check_matrix(be, "swiglu", "up", up, *S, gate->dim[0], gate->dim[1]);
}

csp_status csp_swiglu_fp8_fwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                              csp_tensor *m, csp_fp8_rows *m8)
{
    csp_dtype S;

    CSP_TRY(check_inputs(be, gate, up, &S));
    CSP_TRY(csp_check_matrix(be, "swiglu", "m", m, S, gate->dim[0], gate->dim[1]));
    CSP_TRY(csp_check_fp8_rows("swiglu", m8, gate->dim[0], gate->dim[1]));
    return csp_tensor_count(gate) > 0 ? csp_op_done(be, be->ops->swiglu_fwd(be, gate, up, m, m8))
                                      : CSP_OK;
}

csp_status csp_swiglu_fwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                          csp_tensor *m)
{
    return csp_swiglu_fp8_fwd(be, gate, up, m, NULL);
}

csp_status csp_swiglu_bwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                          const csp_tensor *dm, csp_tensor *dgate, csp_tensor *dup)
{
    csp_dtype S;

    CSP_TRY(check_inputs(be, gate, up, &S));
    CSP_TRY(csp_check_matrix(be, "swiglu", "dm", dm, S, gate->dim[0], gate->dim[1]));
    CSP_TRY(csp_check_matrix(be, "swiglu", "dgate", dgate, S, gate->dim[0], gate->dim[1]));
    CSP_TRY(csp_check_matrix(be, "swiglu", "dup", dup, S, gate->dim[0], gate->dim[1]));
    if (!csp_check_apart(dgate, dup)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "swiglu: dgate and dup must be different memory");
    }
    return csp_tensor_count(gate) > 0
               ? csp_op_done(be, be->ops->swiglu_bwd(be, gate, up, dm, dgate, dup))
               : CSP_OK;
}
