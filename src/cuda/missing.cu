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
