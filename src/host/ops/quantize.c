/* quantize.c - checks of ops/quantize.h. */
#include "ops/quantize.h"

#include "ops/check.h"

csp_status csp_quantize_rows(csp_backend *be, const csp_tensor *x, const csp_tensor *c,
                             csp_tensor *q, csp_tensor *scale)
{
    csp_dtype S;

    CSP_TRY(csp_check_storage(be, "quantize_rows", "x", x, 2, &S));
    if (csp_check_given(c)) {
        CSP_TRY(csp_check_tensor("quantize_rows", "c", c, CSP_F32, 1, &x->dim[1]));
    }
    CSP_TRY(csp_check_tensor("quantize_rows", "q", q, CSP_E4M3, 2, x->dim));
    CSP_TRY(csp_check_tensor("quantize_rows", "scale", scale, CSP_F32, 1, &x->dim[0]));
    return x->dim[0] > 0 ? csp_op_done(be, be->ops->quantize_rows(be, x, c, q, scale)) : CSP_OK;
}
