/* embed.c - checks of ops/embed.h. */
#include "ops/embed.h"

#include "ops/check.h"

static csp_status check(int64_t D, const csp_tensor *token, const csp_tensor *x, const char *x_name,
                        csp_dtype S)
{
    CSP_TRY(csp_check_rank("embed", "token", token, CSP_I32, 1));
    return csp_check_tensor("embed", x_name, x, S, 2, (int64_t[]) { token->dim[0], D });
}

csp_status csp_embed_fwd(csp_backend *be, const csp_tensor *table, const csp_tensor *token,
                         csp_tensor *x)
{
    csp_dtype S;

    CSP_TRY(csp_check_storage(be, "embed", "table", table, 2, &S));
    CSP_TRY(check(table->dim[1], token, x, "x", S));
    return csp_tensor_count(x) > 0 ? csp_op_done(be, be->ops->embed_fwd(be, table, token, x))
                                   : CSP_OK;
}

csp_status csp_embed_bwd(csp_backend *be, const csp_tensor *token, const csp_tensor *dx,
                         csp_tensor *dtable)
{
    csp_dtype S;

    CSP_TRY(csp_check_rank("embed", "dtable", dtable, CSP_F32, 2));
    CSP_TRY(csp_check_storage(be, "embed", "dx", dx, 2, &S));
    CSP_TRY(check(dtable->dim[1], token, dx, "dx", S));
    return csp_tensor_count(dx) > 0 ? csp_op_done(be, be->ops->embed_bwd(be, token, dx, dtable))
                                    : CSP_OK;
}
