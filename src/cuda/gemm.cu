/*
 * gemm.cu - matrix products: by the plan that gemm_plan.cu has for them, or by cuBLAS where
 * cuBLASLt has no algorithm.
 *
 * Memory: the workspace of both libraries, WORKSPACE_BYTES, for the life of the backend; where
 * cuBLASLt takes rows of 8-bit floats only by sixteens, sixteen rows of the largest A and C.
 */
#include "gemm.h"

#include <stdlib.h>

#include "core/log.h"
#include "core/size.h"
#include "device.h"
#include "gemm.cuh"
#include "launch.cuh"
#include "vec.cuh"

/* What NVIDIA recommends for Hopper; a fixed workspace also makes cuBLAS repeat its bits. */
#define WORKSPACE_BYTES ((size_t)32 << 20)
#define BIAS_THREADS 128
/* Rows of 8-bit floats that cuBLASLt's manual asks a multiple of; some versions take any number. */
#define NARROW_ROWS 16

static csp_status open_blas(cuda_state *state)
{
    cuda_gemm_state *g = &state->gemm;
    cublasStatus_t blas = cublasCreate(&g->blas);

    /* Or partial sums of a product that is stored as bf16 may be added in bf16. */
    if (blas == CUBLAS_STATUS_SUCCESS) {
        blas = cublasSetMathMode(
            g->blas,
            (cublasMath_t)(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
    }
    if (blas == CUBLAS_STATUS_SUCCESS) {
        blas = cublasSetStream(g->blas, state->stream);
    }
    if (blas == CUBLAS_STATUS_SUCCESS) {
        blas = cublasSetWorkspace(g->blas, g->workspace, g->workspace_bytes);
    }
    if (blas != CUBLAS_STATUS_SUCCESS) {
        return CSP_FAIL(CSP_ERR_DEVICE, "%s: cuBLAS does not start: %s", state->name,
                        cublasGetStatusString(blas));
    }
    return CSP_OK;
}

csp_status cuda_gemm_open(cuda_state *state)
{
    cuda_gemm_state *g = &state->gemm;
    cublasStatus_t status;

    CSP_TRY(cuda_allocate(state, "cuBLAS workspace", WORKSPACE_BYTES, &g->workspace));
    g->workspace_bytes = WORKSPACE_BYTES;
    CSP_TRY(open_blas(state));
    status = cublasLtCreate(&g->lt);
    if (status != CUBLAS_STATUS_SUCCESS) {
        return CSP_FAIL(CSP_ERR_DEVICE, "%s: cuBLASLt does not start: %s", state->name,
                        cublasLtGetStatusString(status));
    }
    return CSP_OK;
}

void cuda_gemm_close(cuda_gemm_state *g)
{
    cuda_gemm_forget(g);
    free(g->choices);
    if (g->lt != NULL) {
        (void)cublasLtDestroy(g->lt);
    }
    if (g->blas != NULL) {
        (void)cublasDestroy(g->blas);
    }
    (void)cudaFree(g->workspace);
    (void)cudaFree(g->tail.at);
}

static csp_status product_failed(csp_backend *be, const cuda_product *p, const char *library,
                                 const char *words)
{
    const cuda_state *state = cuda_state_of(be);

    return CSP_FAIL(CSP_ERR_DEVICE, "%s: %s: %s product (%lld,%lld,%lld): %s", state->name,
                    state->op, library, (long long)p->M, (long long)p->N, (long long)p->K, words);
}

/* c = bias, or c + bias. Any grid works: threads stride over the elements of c. */
template <typename T, bool added>
static __global__ void __launch_bounds__(BIAS_THREADS)
    gemm_bias_kernel(const T *__restrict__ bias, // (N)
                     T *__restrict__ c,          // (M,N), rows ldc apart
                     int64_t M, int64_t N, int64_t ldc)
{
    for (int64_t i = grid_thread(); i < M * N; i += grid_threads()) {
        const int64_t n = i % N;
        T *at = c + i / N * ldc + n;

        *at = added ? from_f32<T>(to_f32(*at) + to_f32(bias[n])) : bias[n];
    }
}

/* Whether an error says that there is no code, or none that the driver can make something of. */
static bool is_of_code(cudaError_t error)
{
    return error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
           error == cudaErrorInvalidPtx || error == cudaErrorUnsupportedPtxVersion ||
           error == cudaErrorJitCompilerNotFound || error == cudaErrorJitCompilationDisabled;
}

csp_status cuda_code_check(const cuda_state *state)
{
    cudaFuncAttributes attributes;
    int major, minor;
    const cudaError_t error =
        cudaFuncGetAttributes(&attributes, (const void *)gemm_bias_kernel<float, true>);

    if (!is_of_code(error)) {
        return error == cudaSuccess
                   ? CSP_OK
                   : cuda_failed(error, "cudaFuncGetAttributes", __FILE__, __LINE__);
    }
    (void)cudaGetLastError();
    CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, state->device));
    CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, state->device));
    return CSP_FAIL(CSP_ERR_DEVICE,
                    "%s: this build has no kernels for compute capability %d.%d: %s (%s): build it "
                    "with -DCSPLADE_CUDA_ARCHITECTURES=%d%d",
                    state->name, major, minor, cudaGetErrorString(error), cudaGetErrorName(error),
                    major, minor);
}

template <typename T> static csp_status put_bias(csp_backend *be, const cuda_product *p, bool add)
{
    const cuda_state *state = cuda_state_of(be);
    const dim3 grid = stride_grid(p->M * p->N, BIAS_THREADS, (int64_t)state->processors * 16);

    CUDA_TRY(cu::launch(add ? gemm_bias_kernel<T, true> : gemm_bias_kernel<T, false>, grid,
                        BIAS_THREADS, 0, state->stream, (const T *)p->bias, (T *)p->c, p->M, p->N,
                        p->ldc));
    return CSP_OK;
}

static csp_status bias_into(csp_backend *be, const cuda_product *p, bool add)
{
    return p->out == CSP_BF16 ? put_bias<__nv_bfloat16>(be, p, add) : put_bias<float>(be, p, add);
}

static csp_status by_cublas(csp_backend *be, const cuda_product *p)
{
    const cudaDataType of_in = p->in == CSP_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const cudaDataType of_out = p->out == CSP_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const int64_t size[] = { p->M, p->N, p->K, p->lda, p->ldb, p->ldc };
    int32_t as_int[6];
    cublasStatus_t status;

    for (int i = 0; i < 6; i++) {
        CSP_TRY(csp_size_i32("matrix product", size[i], &as_int[i]));
    }
    /* cuBLAS counts columns first: what is C there is the transpose of ours, B^T A^T. */
    status = cublasGemmEx(cuda_state_of(be)->gemm.blas, p->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                          p->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, as_int[1], as_int[0], as_int[2],
                          &p->alpha, p->b, of_in, as_int[4], p->a, of_in, as_int[3], &p->beta, p->c,
                          of_out, as_int[5], CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return status == CUBLAS_STATUS_SUCCESS
               ? CSP_OK
               : product_failed(be, p, "cuBLAS", cublasGetStatusString(status));
}

/*
 * The bias by a kernel of ours: it is what C holds before where C is not read, and is added after
 * otherwise, which rounds a bf16 C twice.
 */
static csp_status bias_apart(csp_backend *be, const cuda_product *p)
{
    const bool before = p->beta == 0.0f;
    cuda_product product = *p;

    product.bias = NULL;
    if (before) {
        CSP_TRY(bias_into(be, p, false));
        product.beta = 1.0f;
    }
    CSP_TRY(cuda_multiply(be, &product));
    return before ? CSP_OK : bias_into(be, p, true);
}

/* Memory for the last rows of a product; graphs hold its address, so they are dropped with it. */
static csp_status tail_room(csp_backend *be, size_t bytes, char **out)
{
    cuda_state *state = cuda_state_of(be);
    cuda_block *tail = &state->gemm.tail;

    if (bytes > tail->bytes) {
        if (state->graphs.recording) {
            return CSP_FAIL(CSP_ERR_DEVICE, "%zu bytes for the last rows of a product in a graph",
                            bytes);
        }
        CSP_TRY(cuda_wait_all(be));
        cuda_graphs_drop(&state->graphs);
        CUDA_TRY(cudaFree(tail->at));
        *tail = {};
        CSP_TRY(cuda_allocate(state, "rows of 8-bit floats", bytes, &tail->at));
        tail->bytes = bytes;
    }
    *out = (char *)tail->at;
    return CSP_OK;
}

/*
 * The last rows of an e4m3 product, fewer than NARROW_ROWS, as so many: those beyond are 0, and
 * what comes of them stays in memory of our own.
 */
static csp_status multiply_tail(csp_backend *be, const cuda_product *p)
{
    const cudaStream_t stream = cuda_state_of(be)->stream;
    const size_t width = (size_t)p->N * csp_dtype_bytes(p->out), rows = (size_t)p->M;
    const size_t pitch = (size_t)p->ldc * csp_dtype_bytes(p->out), K = (size_t)p->K;
    const size_t a_bytes = csp_size_round_up(NARROW_ROWS * K, 256);
    const size_t c_bytes = csp_size_round_up(NARROW_ROWS * width, 256);
    const size_t scale_bytes = NARROW_ROWS * sizeof(float);
    cuda_product whole = *p;
    char *room = NULL;

    CSP_TRY(tail_room(be, a_bytes + c_bytes + scale_bytes, &room));
    CUDA_TRY(cudaMemsetAsync(room, 0, a_bytes + c_bytes + scale_bytes, stream));
    CUDA_TRY(cudaMemcpy2DAsync(room, K, p->a, (size_t)p->lda, K, rows, cudaMemcpyDeviceToDevice,
                               stream));
    CUDA_TRY(cudaMemcpyAsync(room + a_bytes + c_bytes, p->scale_a, rows * sizeof(float),
                             cudaMemcpyDeviceToDevice, stream));
    if (p->beta != 0.0f) {
        CUDA_TRY(cudaMemcpy2DAsync(room + a_bytes, width, p->c, pitch, width, rows,
                                   cudaMemcpyDeviceToDevice, stream));
    }
    whole.M = NARROW_ROWS;
    whole.a = room;
    whole.lda = p->K;
    whole.c = room + a_bytes;
    whole.ldc = p->N;
    whole.scale_a = (const float *)(room + a_bytes + c_bytes);
    CSP_TRY(cuda_multiply(be, &whole));
    CUDA_TRY(cudaMemcpy2DAsync(p->c, pitch, room + a_bytes, width, width, rows,
                               cudaMemcpyDeviceToDevice, stream));
    return CSP_OK;
}

/* An e4m3 product whose rows are no multiple of NARROW_ROWS, in two. */
static csp_status by_sixteens(csp_backend *be, const cuda_product *p)
{
    const int64_t first = p->M / NARROW_ROWS * NARROW_ROWS;
    cuda_product body = *p, tail = *p;

    body.M = first;
    CSP_TRY(cuda_multiply(be, &body));
    tail.M = p->M - first;
    tail.a = (const char *)p->a + first * p->lda;
    tail.c = (char *)p->c + (size_t)(first * p->ldc) * csp_dtype_bytes(p->out);
    tail.scale_a = p->scale_a + first;
    return multiply_tail(be, &tail);
}

csp_status cuda_multiply(csp_backend *be, const cuda_product *p)
{
    cuda_gemm_state *g = &cuda_state_of(be)->gemm;
    cuda_gemm_plan *plan = NULL;
    cublasStatus_t status;

    if (p->M == 0 || p->N == 0) {
        return CSP_OK;
    }
    /* cuBLASLt is not told how a bias is aligned; its kernel may read it by vectors. */
    if ((uintptr_t)p->bias % CUDA_GEMM_BIAS_ALIGN != 0) {
        return bias_apart(be, p);
    }
    if (g->rows_by_16 && p->in == CSP_E4M3 && p->M % NARROW_ROWS != 0) {
        return by_sixteens(be, p);
    }
    if (p->K > 0) {
        CSP_TRY(cuda_gemm_plan_for(be, p, &plan));
    }
    if (plan != NULL) {
        status = cuda_gemm_run(be, p, plan, p->c);
        return status == CUBLAS_STATUS_SUCCESS
                   ? CSP_OK
                   : product_failed(be, p, "cuBLASLt", cublasLtGetStatusString(status));
    }
    if (p->in == CSP_E4M3 && p->M % NARROW_ROWS != 0) {
        g->rows_by_16 = true; /* it need not be asked about each number of rows */
        return by_sixteens(be, p);
    }
    if (p->in == CSP_E4M3) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "%s: cuBLASLt has no algorithm for a product (%lld,%lld,%lld) of 8-bit "
                        "floats with a scale for each row and column",
                        cuda_state_of(be)->name, (long long)p->M, (long long)p->N, (long long)p->K);
    }
    if (!g->said_fallback) {
        csp_log(CSP_LOG_DEBUG, "device",
                "cuBLASLt has no algorithm for a product (%lld,%lld,%lld): cuBLAS computes it, and "
                "others like it",
                (long long)p->M, (long long)p->N, (long long)p->K);
        g->said_fallback = true;
    }
    return p->bias != NULL ? bias_apart(be, p) : by_cublas(be, p);
}

csp_status cuda_gemm_stored(csp_backend *be, bool trans_a, bool trans_b, int64_t M, int64_t N,
                            int64_t K, float alpha, csp_dtype in, const void *a, int64_t lda,
                            const void *b, int64_t ldb, float beta, csp_dtype out, void *c,
                            int64_t ldc)
{
    const cuda_product p = { trans_a, trans_b, M, N,   K,   alpha, beta, in,   out,
                             a,       b,       c, lda, ldb, ldc,   NULL, NULL, NULL };

    return cuda_multiply(be, &p);
}
