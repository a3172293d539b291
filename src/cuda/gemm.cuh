/*
 * gemm.cuh - cuda_gemm of device.h for bf16 operands, so that code that is templated on the storage
 * type calls one name. Products and sums are in float32; C is rounded once where it is bf16.
 */
#pragma once

#include "device.h"
#include "portable.cuh"

static inline csp_status cuda_gemm(csp_backend *be, bool trans_a, bool trans_b, int64_t M,
                                   int64_t N, int64_t K, float alpha, const __nv_bfloat16 *a,
                                   int64_t lda, const __nv_bfloat16 *b, int64_t ldb, float beta,
                                   __nv_bfloat16 *c, int64_t ldc)
{
    return cuda_gemm_stored(be, trans_a, trans_b, M, N, K, alpha, CSP_BF16, a, lda, b, ldb, beta,
                            CSP_BF16, c, ldc);
}

static inline csp_status cuda_gemm(csp_backend *be, bool trans_a, bool trans_b, int64_t M,
                                   int64_t N, int64_t K, float alpha, const __nv_bfloat16 *a,
                                   int64_t lda, const __nv_bfloat16 *b, int64_t ldb, float beta,
                                   float *c, int64_t ldc)
{
    return cuda_gemm_stored(be, trans_a, trans_b, M, N, K, alpha, CSP_BF16, a, lda, b, ldb, beta,
                            CSP_F32, c, ldc);
}
