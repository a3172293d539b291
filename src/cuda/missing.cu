/*
 * missing.cu - entries of ops that have no file yet, weak so that the file that comes wins.
 */
#include "device.h"

#define MISSING __attribute__((weak))

static csp_status missing(const char *op)
{
    return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: not yet on CUDA devices", op);
}

MISSING csp_status cuda_norm_fwd(csp_backend *, const csp_tensor *, const csp_tensor *,
                                 const csp_tensor *, float, csp_tensor *, csp_tensor *,
                                 csp_tensor *)
{
    return missing("norm_fwd");
}

MISSING csp_status cuda_norm_bwd(csp_backend *, const csp_tensor *, const csp_tensor *,
                                 const csp_tensor *, const csp_tensor *, const csp_tensor *,
                                 csp_tensor *, csp_tensor *)
{
    return missing("norm_bwd");
}

MISSING csp_status cuda_attention_fwd(csp_backend *, const csp_attention *, const csp_tensor *,
                                      const csp_tensor *, const csp_tensor *, csp_tensor *,
                                      csp_tensor *)
{
    return missing("attention_fwd");
}

MISSING csp_status cuda_attention_bwd(csp_backend *, const csp_attention *, csp_attention_grad *)
{
    return missing("attention_bwd");
}

MISSING csp_status cuda_swiglu_fwd(csp_backend *, const csp_tensor *, const csp_tensor *,
                                   csp_tensor *)
{
    return missing("swiglu_fwd");
}

MISSING csp_status cuda_swiglu_bwd(csp_backend *, const csp_tensor *, const csp_tensor *,
                                   const csp_tensor *, csp_tensor *, csp_tensor *)
{
    return missing("swiglu_bwd");
}

MISSING csp_status cuda_sparse_pool_fwd(csp_backend *, const csp_head *, const csp_tensor *,
                                        const csp_tensor *, const csp_tensor *, int64_t,
                                        csp_sparse *)
{
    return missing("sparse_pool_fwd");
}

MISSING csp_status cuda_sparse_pool_bwd(csp_backend *, const csp_head *, csp_sparse_pool_grad *)
{
    return missing("sparse_pool_bwd");
}

MISSING csp_status cuda_token_loss(csp_backend *, csp_token_loss_args *, double *)
{
    return missing("token_loss");
}

MISSING csp_status cuda_scores_fwd(csp_backend *, const csp_sparse *, int64_t, const csp_sparse *,
                                   int64_t, float, csp_tensor *)
{
    return missing("scores_fwd");
}

MISSING csp_status cuda_scores_bwd(csp_backend *, const csp_tensor *, const csp_sparse *,
                                   const csp_sparse *, float, csp_tensor *, csp_tensor *)
{
    return missing("scores_bwd");
}

MISSING csp_status cuda_info_nce(csp_backend *, const csp_tensor *, const csp_tensor *,
                                 const csp_tensor *, csp_tensor *, double *)
{
    return missing("info_nce");
}

MISSING csp_status cuda_column_sums(csp_backend *, const csp_sparse *, int64_t, csp_tensor *,
                                    csp_tensor *)
{
    return missing("column_sums");
}

MISSING csp_status cuda_regularize(csp_backend *, csp_reg_kind, const csp_sparse *, int64_t,
                                   const csp_tensor *, int64_t, float, csp_tensor *, double *)
{
    return missing("regularize");
}

MISSING csp_status cuda_grad_squares(csp_backend *, const csp_optim_tensor *, int64_t, double *)
{
    return missing("grad_squares");
}

MISSING csp_status cuda_adamw(csp_backend *, csp_optim_tensor *, int64_t, const csp_adamw_args *)
{
    return missing("adamw");
}
