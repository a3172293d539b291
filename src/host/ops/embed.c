/* embed.c - checks of ops/embed.h. */
#include "ops/embed.h"

#include "ops/check.h"

static csp_status check(const csp_tensor *table, const char *table_name, const csp_tensor *token,
                        const csp_tensor *x, const char *x_name)
{
    CSP_TRY(csp_check_rank("embed", table_name, table, CSP_F32, 2));
    CSP_TRY(csp_check_rank("embed", "token", token, CSP_I32, 1));
    return csp_check_tensor("embed", x_name, x, CSP_F32, 2,
                            (int64_t[]) { token->dim[0], table->dim[1] });
}

csp_status csp_embed_fwd(csp_backend *be, const csp_tensor *table, const csp_tensor *token,
                         csp_tensor *x)
{
    CSP_TRY(check(table, "table", token, x, "x"));
    return csp_tensor_count(x) > 0 ? csp_op_done(be, be->ops->embed_fwd(be, table, token, x))
                                   : CSP_OK;
}

csp_status csp_embed_bwd(csp_backend *be, const csp_tensor *token, const csp_tensor *dx,
                         csp_tensor *dtable)
{
    CSP_TRY(check(dtable, "dtable", token, dx, "dx"));
    return csp_tensor_count(dx) > 0 ? csp_op_done(be, be->ops->embed_bwd(be, token, dx, dtable))
                                    : CSP_OK;
}
