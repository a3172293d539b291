/*
 * gemm.h - matrix products over all threads: OpenBLAS's sgemm in each thread of one region of
 * csplade's own. Private to this folder; nothing else of csplade calls BLAS.
 */
#pragma once

#include "ops/backend.h"

/*
 * C := alpha op(A) op(B) + beta C, row-major, in the order of arguments of BLAS.
 *
 *   trans_a, trans_b   in      op is the transpose
 *   M, N, K            in      op(A) is (M,K), op(B) (K,N), C (M,N); each < 2^31
 *   lda, ldb, ldc      in      elements from one stored row to the next
 *   beta               in      0: C is overwritten, whatever it held
 *
 * Aliasing:   C overlaps neither A nor B.
 * Precision:  f32; C is cut into be->threads rectangles by (M, N, K) and be->threads only, every
 *             element is the work of one thread: the same bits on every run.
 * Errors:     CSP_ERR_ARGUMENT (a size that BLAS cannot count); C is untouched then.
 */
CSP_CHECKED csp_status cpu_gemm(csp_backend *be, bool trans_a, bool trans_b, int64_t M, int64_t N,
                                int64_t K, float alpha, const float *a, int64_t lda, const float *b,
                                int64_t ldb, float beta, float *c, int64_t ldc);

/* The same by the calling thread alone, for use inside a region; sizes < 2^31 are the caller's. */
void cpu_gemm_serial(bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                     int64_t ldc);

/*
 * Makes OpenBLAS get and touch the work buffers of all threads of be. Without this its kernels
 * prefetch from pages of a buffer that nothing has written yet, which costs a failed address
 * translation each time: products with few columns then run at less than a third of their speed.
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status cpu_gemm_warm(csp_backend *be);
