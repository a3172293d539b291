/*
 * gemm.h - matrix products of the CUDA backend, by cuBLASLt, and how their algorithms are chosen.
 *
 * cuBLASLt is asked once for each kind of product, which a cuda_gemm_key names, and what it chose
 * is kept as a plan: after the first steps a product is one call. Row counts enter a key as their
 * bucket (gemm_pick.h), so that the choice is a function of shapes, alignments, the device and the
 * library, never of which micro-batch came first. Where be->tune_products is set, the candidates
 * are timed at the first product of a kind; those choices are the tuning of the backend
 * (csp_backend_tuning), which a checkpoint carries. Private to this folder and its tests.
 */
#pragma once

#include <cublasLt.h>
#include <cublas_v2.h>

#include "core/tensor.h"
#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* C (M,N) = alpha op(A) op(B) + beta C + bias in every row; all row-major. With scales a term of
 * element (m,n) is multiplied by scale_a[m] scale_b[n]. */
typedef struct cuda_product {
    bool trans_a, trans_b; /* op is the transpose: A is stored (K,M), B (N,K)                  */
    int64_t M, N, K;
    float alpha, beta; /* C is not read where beta is 0                                    */
    csp_dtype in, out; /* of A and B, CSP_F32 or CSP_BF16; of C, the same or CSP_F32; or A and B
                              CSP_E4M3 with scales, where be has it (csp_backend.fp8)           */
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc; /* distance of rows in elements                                     */
    const void *bias;      /* (N) stored as out, or NULL: none                                 */
    const float *scale_a, *scale_b; /* (M), (N): of e4m3 operands alone, which must be A as
                              stored and B transposed, N, K, lda and ldb multiples of 16        */
} cuda_product;

/* What a choice depends on besides the device and the library; compared and hashed byte by byte. */
typedef struct cuda_gemm_key {
    int64_t M, N, K; /* M of a product with A as stored, K of A^T B: the bucket of its rows */
    int64_t lda, ldb, ldc;
    uint8_t trans_a, trans_b, in, out;
    uint8_t align_a, align_b, align_c; /* of the addresses, bytes up to 16                 */
    uint8_t align_bias;                /* 0: no bias; else CUDA_GEMM_BIAS_ALIGN            */
} cuda_gemm_key;

/* An algorithm that was timed, here or before a checkpoint. */
typedef struct cuda_gemm_choice {
    cuda_gemm_key key;
    cublasLtMatmulAlgo_t algorithm;
} cuda_gemm_choice;

typedef struct cuda_gemm_plan cuda_gemm_plan;

/* Of a bias that cuBLASLt adds, bytes: its preferences name the matrices' alignments alone. */
enum { CUDA_GEMM_BIAS_ALIGN = 16 };

enum { CUDA_GEMM_CHAINS = 256 };

/* A block that only ever grows. */
typedef struct cuda_block {
    void *at;
    size_t bytes;
} cuda_block;

/* The part of cuda_state that products own. */
typedef struct cuda_gemm_state {
    cublasHandle_t blas; /* bound to the stream; for what cuBLASLt has no algorithm for */
    cublasLtHandle_t lt;
    void *workspace; /* of both */
    size_t workspace_bytes;
    cuda_gemm_plan *chain[CUDA_GEMM_CHAINS];
    cuda_gemm_choice *choices; /* the tuning, in the order of first use            */
    int64_t choice_count;
    bool said_fallback;
    bool rows_by_16;      /* e4m3: the library has refused other row counts                  */
    cuda_block tail;      /* memory for the last of such rows                                */
    int64_t plans, asked; /* made, heuristics asked: a test watches them stand */
} cuda_gemm_state;

/*
 * Computes a product.
 *
 * Aliasing:  c overlaps none of a, b and bias.
 * Precision: products and sums in float32, f32 operands not as tf32, partial sums never rounded
 *            below float32; C is rounded once, or twice with both beta and a bias, where cuBLASLt
 *            has no algorithm for them or the bias is not aligned to CUDA_GEMM_BIAS_ALIGN. The same
 *            bits whenever the same product is computed on the same device by the same library
 *            under the same tuning.
 * Stream:    enqueued on be; waits for it only where the candidates are timed.
 * Errors:    CSP_ERR_DEVICE, CSP_ERR_MEMORY (host), CSP_ERR_ARGUMENT (a size beyond 31 bits for
 *            which cuBLASLt has no algorithm), CSP_ERR_UNSUPPORTED (e4m3, no algorithm).
 */
CSP_CHECKED csp_status cuda_multiply(csp_backend *be, const cuda_product *p);

/* The entries of csp_ops, contracts in ops/backend.h. */
csp_status cuda_tuning_get(csp_backend *be, char **text);
csp_status cuda_tuning_set(csp_backend *be, const char *text);
csp_status cuda_versions(csp_backend *be, char text[CSP_VERSIONS_BYTES]);

#ifdef __cplusplus
}

struct cuda_state;

/* Between the files of products. */

/* Starts the libraries on the state's stream; close accepts a half-opened state. */
CSP_CHECKED csp_status cuda_gemm_open(struct cuda_state *state);
void cuda_gemm_close(cuda_gemm_state *g);
/* Forgets all plans: the next product of each kind is planned anew. */
void cuda_gemm_forget(cuda_gemm_state *g);

/*
 * The plan for a product with K > 0, set to its very sizes; NULL: cuBLASLt has no algorithm.
 * cuda_gemm_run computes the product by it, with d as its result in place of p->c.
 */
CSP_CHECKED csp_status cuda_gemm_plan_for(csp_backend *be, const cuda_product *p,
                                          cuda_gemm_plan **out);
cublasStatus_t cuda_gemm_run(csp_backend *be, const cuda_product *p, cuda_gemm_plan *plan, void *d);

/* Adds a choice to the tuning. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status cuda_gemm_remember(cuda_gemm_state *g, const cuda_gemm_key *key,
                                          const cublasLtMatmulAlgo_t *algorithm);
/* The algorithm that the tuning has for a key, or NULL. */
const cublasLtMatmulAlgo_t *cuda_gemm_recall(const cuda_gemm_state *g, const cuda_gemm_key *key);
#endif
