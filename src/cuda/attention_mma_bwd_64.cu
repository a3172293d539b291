/* attention_mma_bwd_64.cu - kernels of attention_mma_bwd_short.cuh for heads of 64. */
#include "attention_mma_bwd_short.cuh"

csp_status attention_mma_bwd_64(const bwd_launch<__nv_bfloat16> &l)
{
    return launch_bwd<64>(l);
}
