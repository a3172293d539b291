/*
 * gemm.cuh - products as code that is templated on storage types writes them: by the types of
 * addresses. Contract in gemm.h.
 */
#pragma once

#include "device.h"
#include "portable.cuh"

template <typename T> static inline csp_dtype cuda_stored_as();

template <> inline csp_dtype cuda_stored_as<float>()
{
    return CSP_F32;
}

template <> inline csp_dtype cuda_stored_as<__nv_bfloat16>()
{
    return CSP_BF16;
}

/* A product without a bias, which a caller may add. */
template <typename in, typename out>
static inline cuda_product cuda_product_of(bool trans_a, bool trans_b, int64_t M, int64_t N,
                                           int64_t K, float alpha, const in *a, int64_t lda,
                                           const in *b, int64_t ldb, float beta, out *c,
                                           int64_t ldc)
{
    return { trans_a,
             trans_b,
             M,
             N,
             K,
             alpha,
             beta,
             cuda_stored_as<in>(),
             cuda_stored_as<out>(),
             a,
             b,
             c,
             lda,
             ldb,
             ldc,
             NULL,
             NULL,
             NULL };
}

template <typename in, typename out>
static inline csp_status cuda_gemm(csp_backend *be, bool trans_a, bool trans_b, int64_t M,
                                   int64_t N, int64_t K, float alpha, const in *a, int64_t lda,
                                   const in *b, int64_t ldb, float beta, out *c, int64_t ldc)
{
    const cuda_product p =
        cuda_product_of(trans_a, trans_b, M, N, K, alpha, a, lda, b, ldb, beta, c, ldc);

    return cuda_multiply(be, &p);
}
