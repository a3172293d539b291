/* attention_mma_bwd_wide.cu - kernels of attention_mma_bwd_short.cuh for heads of 96 and 128. */
#include "attention_mma_bwd_short.cuh"

csp_status attention_mma_bwd_wide(const bwd_launch<__nv_bfloat16> &l)
{
    return l.batch.E == 96 ? launch_bwd<96>(l) : launch_bwd<128>(l);
}
