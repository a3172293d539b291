/* norm.c - checks of ops/norm.h. */
#include "ops/norm.h"

#include "ops/check.h"

static csp_status check_sizes(const csp_backend *be, const csp_tensor *x, const csp_tensor *g,
                              csp_dtype *out)
{
    csp_dtype S;

    CSP_TRY(csp_check_storage(be, "norm", "x", x, 2, &S));
    if (x->dim[1] < 1 || x->dim[1] > 65536) {
        return CSP_FAIL(CSP_ERR_SHAPE, "norm: rows of %lld elements, 1 to 65536 are possible",
                        (long long)x->dim[1]);
    }
    CSP_TRY(csp_check_tensor("norm", "g", g, S, 1, &x->dim[1]));
    *out = S;
    return CSP_OK;
}

csp_status csp_norm_fp8_fwd(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                            const csp_tensor *g, float eps, csp_tensor *sum, csp_tensor *rstd,
                            csp_tensor *y, csp_fp8_rows *y8)
{
    csp_dtype S;

    CSP_TRY(check_sizes(be, x, g, &S));
    if (!(eps > 0.0f)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "norm: eps %g is not above 0", (double)eps);
    }
    if (csp_check_given(delta)) {
        CSP_TRY(csp_check_matrix(be, "norm", "delta", delta, S, x->dim[0], x->dim[1]));
        CSP_TRY(csp_check_tensor("norm", "sum", sum, S, 2, x->dim));
    } else if (csp_check_given(sum)) {
        return CSP_FAIL(CSP_ERR_SHAPE, "norm: sum must be none where delta is none");
    }
    CSP_TRY(csp_check_tensor("norm", "rstd", rstd, CSP_F32, 1, &x->dim[0]));
    CSP_TRY(csp_check_matrix(be, "norm", "y", y, S, x->dim[0], x->dim[1]));
    CSP_TRY(csp_check_fp8_rows("norm", y8, x->dim[0], x->dim[1]));
    return x->dim[0] > 0
               ? csp_op_done(be, be->ops->norm_fwd(be, x, delta, g, eps, sum, rstd, y, y8))
               : CSP_OK;
}

csp_status csp_norm_fwd(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                        const csp_tensor *g, float eps, csp_tensor *sum, csp_tensor *rstd,
                        csp_tensor *y)
{
    return csp_norm_fp8_fwd(be, x, delta, g, eps, sum, rstd, y, NULL);
}

csp_status csp_norm_bwd(csp_backend *be, const csp_tensor *x, const csp_tensor *g,
                        const csp_tensor *rstd, const csp_tensor *dy, const csp_tensor *dsum,
                        csp_tensor *dx, csp_tensor *dg)
{
    csp_dtype S;

    CSP_TRY(check_sizes(be, x, g, &S));
    CSP_TRY(csp_check_tensor("norm", "rstd", rstd, CSP_F32, 1, &x->dim[0]));
    CSP_TRY(csp_check_tensor("norm", "dy", dy, S, 2, x->dim));
    if (csp_check_given(dsum)) {
        CSP_TRY(csp_check_matrix(be, "norm", "dsum", dsum, S, x->dim[0], x->dim[1]));
    }
    CSP_TRY(csp_check_matrix(be, "norm", "dx", dx, S, x->dim[0], x->dim[1]));
    if (csp_check_given(dg)) {
        CSP_TRY(csp_check_tensor("norm", "dg", dg, CSP_F32, 1, &x->dim[1]));
    }
    return x->dim[0] > 0 ? csp_op_done(be, be->ops->norm_bwd(be, x, g, rstd, dy, dsum, dx, dg))
                         : CSP_OK;
}

csp_status csp_norm_bad_row(csp_backend *be, const csp_tensor *rstd, const csp_tensor *y,
                            csp_tensor *row)
{
    const int64_t one = 1;
    csp_dtype S;

    CSP_TRY(csp_check_storage(be, "norm", "y", y, 2, &S));
    CSP_TRY(csp_check_tensor("norm", "rstd", rstd, CSP_F32, 1, &y->dim[0]));
    CSP_TRY(csp_check_tensor("norm", "row", row, CSP_I64, 1, &one));
    return csp_op_done(be, be->ops->norm_bad_row(be, rstd, y, row));
}
