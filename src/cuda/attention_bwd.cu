/*
 * attention_bwd.cu - CUDA side of csp_attention_bwd (ops/attention.h): which kernels a call gets,
 * and those of attention_bwd_tile.cuh for f32. attention.cu has the other direction.
 */
#include "attention_bwd_tile.cuh"
#include "attention_mma.h"

/* The kernels for heads of a width. */
static csp_status launch_width(const bwd_launch<float> &l)
{
    switch (attention_width(l.batch.E)) {
    case 32:
        return launch_bwd<32>(l);
    case 64:
        return launch_bwd<64>(l);
    case 128:
        return launch_bwd<128>(l);
    default:
        return launch_bwd<256>(l);
    }
}

csp_status cuda_attention_bwd(csp_backend *be, const csp_attention *a, csp_attention_grad *g)
{
    const csp_tensor *const rows[] = {
        &g->q, &g->k, &g->v, &g->o, &g->d_o, &g->dq, &g->dk, &g->dv
    };

    CSP_TRY(check_attention(a));
    if (attention_mma_takes(a, rows, 8)) {
        return attention_mma_bwd(be, a, g);
    }
    return g->q.dtype == CSP_BF16 ? attention_bwd_bf16(be, a, g)
                                  : launch_width(bwd_launch_of<float>(be, a, g));
}
