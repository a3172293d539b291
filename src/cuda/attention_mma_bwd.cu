/*
 * attention_mma_bwd.cu - csp_attention_bwd for bf16 rows on tensor cores; attention_mma.cuh has
 * what heads these kernels take, attention_bwd.cu picks them.
 *
 * Short texts: attention_mma_bwd_short.cuh, whose kernels for heads of 16 and 32 are made here; the
 * others in attention_mma_bwd_64.cu and attention_mma_bwd_wide.cu, so that they are compiled side
 * by side. Longer texts: attention_mma_bwd_long.cu.
 */
#include "attention_mma.h"
#include "attention_mma_bwd_short.cuh"

csp_status attention_mma_bwd(csp_backend *be, const csp_attention *a, const csp_attention_grad *g)
{
    const bwd_launch<__nv_bfloat16> l = bwd_launch_of<__nv_bfloat16>(be, a, g);

    switch (a->E) {
    case 16:
        return launch_bwd<16>(l);
    case 32:
        return launch_bwd<32>(l);
    case 64:
        return attention_mma_bwd_64(l);
    default:
        return attention_mma_bwd_wide(l);
    }
}
