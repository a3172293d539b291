/*
 * attention_bwd_bf16.cu - the kernels of attention_bwd_tile.cuh for bf16 rows. Few heads come here,
 * so that two widths are enough.
 */
#include "attention_bwd_tile.cuh"

csp_status attention_bwd_bf16(csp_backend *be, const csp_attention *a, const csp_attention_grad *g)
{
    const bwd_launch<__nv_bfloat16> l = bwd_launch_of<__nv_bfloat16>(be, a, g);

    return a->E <= 128 ? launch_bwd<128>(l) : launch_bwd<256>(l);
}
