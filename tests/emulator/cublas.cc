/*
 * cublas.cc - the fake cuBLAS: single and strided-batched products in bf16, half and f32.
 */
#include <cublas_v2.h>

#include <stdlib.h>

#include "emulator/product.h"

struct cublasContext {
    cudaStream_t stream;
    cublasMath_t math;
    void *workspace;
    size_t workspace_bytes;
};

using namespace emu;

namespace
{

/* Rounding of f32 operands under a compute type; false where the combination does not exist. */
bool find_rounding(cublasComputeType_t compute, cublasMath_t math, cudaDataType type, Rounding *out)
{
    *out = ROUND_NOT;
    switch (compute) {
    case CUBLAS_COMPUTE_32F:
        if (type == CUDA_R_32F && (math & CUBLAS_TF32_TENSOR_OP_MATH) != 0) {
            *out = ROUND_TF32;
        }
        return true;
    case CUBLAS_COMPUTE_32F_PEDANTIC:
        return true;
    case CUBLAS_COMPUTE_32F_FAST_TF32:
        *out = ROUND_TF32;
        return type == CUDA_R_32F;
    case CUBLAS_COMPUTE_32F_FAST_16BF:
        *out = ROUND_BF16;
        return type == CUDA_R_32F;
    default:
        return false;
    }
}

Matrix operand(const void *p, cudaDataType type, int64_t rows, int64_t cols, int64_t ld,
               bool transposed, int64_t batch_stride)
{
    return { (void *)p, type,        transposed ? cols : rows, transposed ? rows : cols, ld,
             false,     batch_stride };
}

} // namespace

cublasStatus_t cublasCreate(cublasHandle_t *out)
{
    if (planned_failure()) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    *out = new cublasContext { nullptr, CUBLAS_DEFAULT_MATH, nullptr, 0 };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

int emu_cublas_version(void)
{
    const char *text = getenv("CSP_EMU_CUBLAS");

    return text != nullptr ? atoi(text) : CUBLAS_VERSION;
}

cublasStatus_t cublasGetProperty(libraryPropertyType which, int *value)
{
    const int version = emu_cublas_version();

    *value = which == MAJOR_VERSION   ? version / 10000
             : which == MINOR_VERSION ? version / 100 % 100
                                      : version % 100;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion(cublasHandle_t, int *version)
{
    *version = emu_cublas_version();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    handle->workspace = nullptr; /* as documented: the default workspace again */
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetStream(cublasHandle_t handle, cudaStream_t *out)
{
    *out = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode)
{
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *out)
{
    *out = handle->math;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *workspace, size_t bytes)
{
    if ((uintptr_t)workspace % 256 != 0) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    handle->workspace = workspace;
    handle->workspace_bytes = bytes;
    return CUBLAS_STATUS_SUCCESS;
}

/* Scalars are read on the host when a product is enqueued. */
cublasStatus_t cublasSetPointerMode(cublasHandle_t, cublasPointerMode_t mode)
{
    return mode == CUBLAS_POINTER_MODE_HOST ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

const char *cublasGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    }
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    return cublasGetStatusName(status);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType a_type,
                                          int lda, long long a_stride, const void *b,
                                          cudaDataType b_type, int ldb, long long b_stride,
                                          const void *beta, void *c, cudaDataType c_type, int ldc,
                                          long long c_stride, int batches,
                                          cublasComputeType_t compute, cublasGemmAlgo_t)
{
    Product product = {};

    product.transpose_a = op_a != CUBLAS_OP_N;
    product.transpose_b = op_b != CUBLAS_OP_N;
    product.a = operand(a, a_type, m, k, lda, product.transpose_a, a_stride);
    product.b = operand(b, b_type, k, n, ldb, product.transpose_b, b_stride);
    product.d = operand(c, c_type, m, n, ldc, false, c_stride);
    product.c = product.d;
    product.alpha = *(const float *)alpha;
    product.beta = *(const float *)beta;
    product.batches = batches;
    product.parts = 2;
    product.rounds_partial_sums =
        (handle->math & CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION) == 0;
    product.workspace = handle->workspace;
    product.workspace_bytes = handle->workspace_bytes;
    product.who = "cublasGemm";
    if (!is_matrix(product.a) || !is_matrix(product.b) || !is_matrix(product.d) || k < 0 ||
        batches < 0) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (a_type != b_type || (c_type != a_type && c_type != CUDA_R_32F) ||
        a_type == CUDA_R_8F_E4M3 || /* cuBLASLt alone has it */
        !find_rounding(compute, handle->math, a_type, &product.rounding)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (planned_failure() ||
        enqueue(
            handle->stream, [product]() { multiply(product); }, product.who) != cudaSuccess) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                            int m, int n, int k, const void *alpha, const void *a,
                            cudaDataType a_type, int lda, const void *b, cudaDataType b_type,
                            int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, 0, b,
                                      b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute,
                                      algorithm);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t op_a,
                                         cublasOperation_t op_b, int m, int n, int k,
                                         const float *alpha, const float *a, int lda,
                                         long long a_stride, const float *b, int ldb,
                                         long long b_stride, const float *beta, float *c, int ldc,
                                         long long c_stride, int batches)
{
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, CUDA_R_32F, lda,
                                      a_stride, b, CUDA_R_32F, ldb, b_stride, beta, c, CUDA_R_32F,
                                      ldc, c_stride, batches, CUBLAS_COMPUTE_32F,
                                      CUBLAS_GEMM_DEFAULT);
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                           int m, int n, int k, const float *alpha, const float *a, int lda,
                           const float *b, int ldb, const float *beta, float *c, int ldc)
{
    return cublasSgemmStridedBatched(handle, op_a, op_b, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta,
                                     c, ldc, 0, 1);
}
