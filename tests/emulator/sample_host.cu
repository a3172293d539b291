/*
 * sample_host.cu - uses of streams, memory, graphs and libraries, each right, and wrong in several
 * ways, one at a time. Called and judged like sample_kernels.cu.
 */
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cusparse.h>

#include "emulator/control.h"
#include "emulator/sample.h"

/* Fails the case with the line. */
#define EXPECT(condition)                                                           \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            return 1;                                                               \
        }                                                                           \
    } while (0)

/* y := a x + b. */
static __global__ void line_kernel(const float *x, float *y, float a, float b, int n)
{
    for (int i = (int)(blockIdx.x * blockDim.x + threadIdx.x); i < n;
         i += (int)(gridDim.x * blockDim.x)) {
        y[i] = a * x[i] + b;
    }
}

static void line(cudaStream_t stream, const float *x, float *y, float a, float b, int n)
{
    SAMPLE_TRY(cu::launch(line_kernel, 2, 32, 0, stream, x, y, a, b, n));
}

static cudaEvent_t event_on(cudaStream_t stream)
{
    cudaEvent_t event;

    SAMPLE_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    SAMPLE_TRY(cudaEventRecord(event, stream));
    return event;
}

/*
 * One stream makes what another uses. 1: without waiting for it; 2: the host reads before it waits;
 * 3: the host reuses the buffer of an upload; 4: the other stream overwrites what is still read.
 */
static int streams(cudaStream_t first, int mistake)
{
    enum { N = 100 };
    const cudaStream_t second = sample_stream();
    float x[N], *y, want[N], *dx = sample_device<float>(N), *dy = sample_device<float>(N);

    SAMPLE_TRY(cudaHostAlloc((void **)&y, N * sizeof(float), cudaHostAllocDefault));
    for (int i = 0; i < N; i++) {
        x[i] = (float)i;
        want[i] = 6.0f * (float)i + 5.0f;
    }
    SAMPLE_TRY(cudaMemcpyAsync(dx, x, sizeof(x), cudaMemcpyHostToDevice, first));
    if (mistake == 3) {
        memset(x, 0, sizeof(x));
    }
    line(first, dx, dx, 2.0f, 1.0f, N);
    const cudaEvent_t made = event_on(first);
    if (mistake != 1) {
        SAMPLE_TRY(cudaStreamWaitEvent(second, made, 0));
    }
    line(second, dx, dy, 3.0f, 2.0f, N);
    const cudaEvent_t used = event_on(second);
    if (mistake != 4) {
        SAMPLE_TRY(cudaStreamWaitEvent(first, used, 0));
    }
    SAMPLE_TRY(cudaMemsetAsync(dx, 0, sizeof(x), first));
    SAMPLE_TRY(cudaMemcpyAsync(y, dy, sizeof(x), cudaMemcpyDeviceToHost, second));
    if (mistake == 2) {
        return sample_compare(y, want, N, 0.0f);
    }
    SAMPLE_TRY(cudaStreamSynchronize(second));
    const int status = sample_compare(y, want, N, 0.0f);
    SAMPLE_TRY(cudaStreamSynchronize(first));
    SAMPLE_TRY(cudaEventDestroy(made));
    SAMPLE_TRY(cudaEventDestroy(used));
    SAMPLE_TRY(cudaStreamDestroy(second));
    SAMPLE_TRY(cudaFreeHost(y));
    return status;
}

/*
 * 1: the host reads device memory; 2: and writes it; 3: a kernel uses a freed buffer; 4: a copy
 * runs over the end; 5: a kernel is given host memory.
 */
static int memory(cudaStream_t stream, int mistake)
{
    enum { N = 100 };
    float x[N], y[N], *dx = sample_device<float>(N), *dy = sample_device<float>(N);

    for (int i = 0; i < N; i++) {
        x[i] = (float)i;
    }
    SAMPLE_TRY(cudaMemcpyAsync(dx, x, sizeof(x), cudaMemcpyHostToDevice, stream));
    SAMPLE_TRY(cudaStreamSynchronize(stream));
    if (mistake == 1) {
        y[0] = *(volatile float *)dx;
    }
    if (mistake == 2) {
        *(volatile float *)dx = 1.0f;
    }
    if (mistake == 3) {
        SAMPLE_TRY(cudaFree(dx));
    }
    line(stream, mistake == 5 ? x : dx, dy, 1.0f, 0.0f, N);
    SAMPLE_TRY(
        cudaMemcpyAsync(y, dy, sizeof(y) + (mistake == 4 ? 4 : 0), cudaMemcpyDeviceToHost, stream));
    SAMPLE_TRY(cudaStreamSynchronize(stream));
    return sample_compare(y, x, N, 0.0f);
}

/*
 * Two branches of a captured graph, replayed. 1: the second does not wait for what the first makes.
 * 2: memory that the graph uses is freed before the last replay.
 */
static int graph(cudaStream_t stream, int mistake)
{
    enum { N = 64 };
    const cudaStream_t side = sample_stream();
    float y[2 * N], *d = sample_device<float>(N), *e = sample_device<float>(2 * N);
    cudaGraph_t recorded;
    cudaGraphExec_t replay;

    SAMPLE_TRY(cudaMemsetAsync(d, 0, N * sizeof(float), stream));
    SAMPLE_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    const cudaEvent_t fork = event_on(stream);
    if (mistake != 1) {
        line(stream, d, d, 1.0f, 1.0f, N); /* d := d + 1 */
        SAMPLE_TRY(cudaEventRecord(fork, stream));
    }
    SAMPLE_TRY(cudaStreamWaitEvent(side, fork, 0));
    line(side, d, e, 2.0f, 0.0f, N);
    if (mistake == 1) {
        line(stream, d, d, 1.0f, 1.0f, N);
    }
    line(stream, d, e + N, 3.0f, 0.0f, N);
    const cudaEvent_t join = event_on(side);
    SAMPLE_TRY(cudaStreamWaitEvent(stream, join, 0));
    SAMPLE_TRY(cudaStreamEndCapture(stream, &recorded));
    SAMPLE_TRY(cudaGraphInstantiate(&replay, recorded, 0));
    for (int time = 1; time <= 3; time++) {
        if (mistake == 2 && time == 3) {
            SAMPLE_TRY(cudaFree(d));
        }
        SAMPLE_TRY(cudaGraphLaunch(replay, stream));
        sample_download(y, e, 2 * N, stream);
        for (int i = 0; i < 2 * N; i++) {
            if (y[i] != (float)((i < N ? 2 : 3) * time)) {
                fprintf(stderr, "wrong numbers: %g in replay %d\n", (double)y[i], time);
                return 1;
            }
        }
    }
    SAMPLE_TRY(cudaGraphExecDestroy(replay));
    SAMPLE_TRY(cudaGraphDestroy(recorded));
    SAMPLE_TRY(cudaEventDestroy(fork));
    SAMPLE_TRY(cudaEventDestroy(join));
    SAMPLE_TRY(cudaStreamDestroy(side));
    return 0;
}

/* Operations on matrices of columns: op(a) is (M,K), op(b) is (K,N), c is (M,N). */
enum { M = 7, N = 5, K = 9 };

static void expected(const float *a, bool transpose_a, const float *b, bool transpose_b,
                     float alpha, float *c)
{
    for (int i = 0; i < M; i++) {
        for (int j = 0; j < N; j++) {
            double sum = 0.0;

            for (int k = 0; k < K; k++) {
                sum += (double)a[transpose_a ? i * K + k : k * M + i] *
                       b[transpose_b ? k * N + j : j * K + k];
            }
            c[j * M + i] = alpha * (float)sum;
        }
    }
}

/* cuBLAS in f32, all four transpositions, c not read. 1: a leading dimension that leads outside. */
static int gemm(cudaStream_t stream, int mistake)
{
    float a[M * K], b[K * N], want[M * N], got[M * N];
    const float alpha = 0.5f, beta = 0.0f;
    cublasHandle_t handle;

    for (int i = 0; i < M * K; i++) {
        a[i] = sample_number((uint32_t)i);
    }
    for (int i = 0; i < K * N; i++) {
        b[i] = sample_number((uint32_t)i + 1000);
    }
    float *da = sample_upload(a, M * K, stream), *db = sample_upload(b, K * N, stream);
    float *dc = sample_device<float>(M * N);
    EXPECT(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasSetStream(handle, stream) == CUBLAS_STATUS_SUCCESS);
    for (int t = 0; t < 4; t++) {
        const bool ta = t % 2 != 0, tb = t / 2 != 0;

        EXPECT(cublasSgemm(handle, ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N,
                           M, N, K, &alpha, da, (ta ? K : M) + (mistake == 1), db, tb ? N : K,
                           &beta, dc, M) == CUBLAS_STATUS_SUCCESS);
        sample_download(got, dc, M * N, stream);
        expected(a, ta, b, tb, alpha, want);
        if (sample_compare(got, want, M * N, 1e-5f) != 0) {
            return 1;
        }
    }
    EXPECT(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, M, N, K, &alpha, da, M - 1, db, K, &beta,
                       dc, M) == CUBLAS_STATUS_INVALID_VALUE);
    EXPECT(cublasDestroy(handle) == CUBLAS_STATUS_SUCCESS);
    return 0;
}

/* One product of bf16 columns into `type`, judged element by element: one rounding of that type. */
static int gemm_bf16_into(cudaStream_t stream, cublasHandle_t handle, cudaDataType type,
                          const float *a, const float *b, void *dc)
{
    const double unit = type == CUDA_R_16BF ? 0x1p-8 : 0x1p-20;
    const float alpha = 0.5f, beta = 0.0f;
    __nv_bfloat16 left[M * K], right[K * N], halves[M * N];
    float want[M * N], got[M * N];

    for (int i = 0; i < M * K; i++) {
        left[i] = __float2bfloat16_rn(a[i]);
    }
    for (int i = 0; i < K * N; i++) {
        right[i] = __float2bfloat16_rn(b[i]);
    }
    EXPECT(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, M, N, K, &alpha,
                        sample_upload(left, M * K, stream), CUDA_R_16BF, M,
                        sample_upload(right, K * N, stream), CUDA_R_16BF, K, &beta, dc, type, M,
                        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS);
    sample_download(halves, (const __nv_bfloat16 *)dc, M * N, stream);
    if (type == CUDA_R_32F) {
        sample_download(got, (const float *)dc, M * N, stream);
    }
    expected(a, false, b, false, alpha, want);
    for (int i = 0; i < M * N; i++) {
        const float one = type == CUDA_R_32F ? got[i] : __bfloat162float(halves[i]);

        if (sample_compare(&one, &want[i], 1, (float)(unit * fabs(want[i]) + 1e-6)) != 0) {
            return 1;
        }
    }
    return 0;
}

/* Operands in bf16. 1: partial sums may be rounded to it as well. */
static int gemm_bf16(cudaStream_t stream, int mistake)
{
    float a[M * K], b[K * N], *dc = sample_device<float>(M * N);
    const float one = 1.0f;
    cublasHandle_t handle;

    for (int i = 0; i < M * K; i++) {
        a[i] = __bfloat162float(__float2bfloat16_rn(sample_number((uint32_t)i)));
    }
    for (int i = 0; i < K * N; i++) {
        b[i] = __bfloat162float(__float2bfloat16_rn(sample_number((uint32_t)i + 1000)));
    }
    EXPECT(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasSetStream(handle, stream) == CUBLAS_STATUS_SUCCESS);
    if (mistake != 1) {
        EXPECT(cublasSetMathMode(handle, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION) ==
               CUBLAS_STATUS_SUCCESS);
    }
    EXPECT(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, M, N, K, &one, dc, CUDA_R_32F, M, dc,
                        CUDA_R_32F, K, &one, dc, CUDA_R_16BF, M, CUBLAS_COMPUTE_32F,
                        CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_NOT_SUPPORTED);
    const int status = gemm_bf16_into(stream, handle, CUDA_R_32F, a, b, dc);
    if (status != 0) {
        return status;
    }
    EXPECT(gemm_bf16_into(stream, handle, CUDA_R_16BF, a, b, dc) == 0);
    EXPECT(cublasDestroy(handle) == CUBLAS_STATUS_SUCCESS);
    return 0;
}

/* cuBLASLt in rows: d (M,N) = relu(a (M,K) b (K,N) + c + bias of each row). */
static int gemm_lt(cudaStream_t stream, int)
{
    float a[M * K], b[K * N], c[M * N], bias[M], want[M * N], got[M * N];
    const float one = 1.0f;
    const cublasLtOrder_t row_order = CUBLASLT_ORDER_ROW;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_RELU_BIAS;
    const size_t most = 1 << 20;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t la, lb, lc;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found[4];
    int count = 0;

    for (int i = 0; i < M * K; i++) {
        a[i] = sample_number((uint32_t)i);
    }
    for (int i = 0; i < K * N; i++) {
        b[i] = sample_number((uint32_t)i + 1000);
    }
    for (int i = 0; i < M * N; i++) {
        c[i] = sample_number((uint32_t)i + 2000);
    }
    for (int i = 0; i < M; i++) {
        bias[i] = sample_number((uint32_t)i + 3000);
    }
    for (int i = 0; i < M; i++) {
        for (int j = 0; j < N; j++) {
            float sum = c[i * N + j] + bias[i];

            for (int k = 0; k < K; k++) {
                sum += a[i * K + k] * b[k * N + j];
            }
            want[i * N + j] = sum > 0.0f ? sum : 0.0f;
        }
    }
    float *da = sample_upload(a, M * K, stream), *db = sample_upload(b, K * N, stream);
    float *dc = sample_upload(c, M * N, stream), *dbias = sample_upload(bias, M, stream);
    float *dd = sample_device<float>(M * N);
    void *workspace = sample_device<char>((int64_t)most);
    EXPECT(cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
           CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                   sizeof(epilogue));
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &dbias, sizeof(dbias));
    EXPECT(cublasLtMatrixLayoutCreate(&la, CUDA_R_32F, M, K, K) == CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasLtMatrixLayoutCreate(&lb, CUDA_R_32F, K, N, N) == CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasLtMatrixLayoutCreate(&lc, CUDA_R_32F, M, N, N) == CUBLAS_STATUS_SUCCESS);
    for (cublasLtMatrixLayout_t layout : { la, lb, lc }) {
        cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &row_order,
                                         sizeof(row_order));
    }
    EXPECT(cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &most, sizeof(most));
    EXPECT(cublasLtMatmulAlgoGetHeuristic(handle, desc, la, lb, lc, lc, preference, 4, found,
                                          &count) == CUBLAS_STATUS_SUCCESS);
    EXPECT(count == 3);
    EXPECT(cublasLtMatmul(handle, desc, &one, da, la, db, lb, &one, dc, lc, dd, lc, &found[0].algo,
                          workspace, 16, stream) == CUBLAS_STATUS_INVALID_VALUE);
    for (int i = 0; i < count; i++) {
        EXPECT(cublasLtMatmul(handle, desc, &one, da, la, db, lb, &one, dc, lc, dd, lc,
                              &found[i].algo, workspace, most, stream) == CUBLAS_STATUS_SUCCESS);
        sample_download(got, dd, M * N, stream);
        EXPECT(sample_compare(got, want, M * N, 1e-5f) == 0);
    }
    cublasLtMatmulPreferenceDestroy(preference);
    for (cublasLtMatrixLayout_t layout : { la, lb, lc }) {
        cublasLtMatrixLayoutDestroy(layout);
    }
    cublasLtMatmulDescDestroy(desc);
    cublasLtDestroy(handle);
    return 0;
}

/* Columns of bf16: d (LM,LN) = a (LM,LK) b (LK,LN) + bias of each row. */
enum { LM = 8, LN = 8, LK = 96, LT_WORKSPACE = 1 << 20 };

/* What an algorithm is asked for, and used with. */
struct lt_case {
    cublasLtHandle_t handle;
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, d;
};

static int lt_layouts(lt_case *c, int columns)
{
    EXPECT(cublasLtMatrixLayoutInit(&c->a, CUDA_R_16BF, LM, LK, LM) == CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasLtMatrixLayoutInit(&c->b, CUDA_R_16BF, LK, (uint64_t)columns, LK) ==
           CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasLtMatrixLayoutInit(&c->d, CUDA_R_16BF, LM, (uint64_t)columns, LM) ==
           CUBLAS_STATUS_SUCCESS);
    return 0;
}

static int lt_describe(lt_case *c, const void *bias)
{
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const int32_t wrong = CUDA_R_32F, right = CUDA_R_16BF;
    cublasLtMatmulHeuristicResult_t found[1];
    int count = 0;

    EXPECT(cublasLtCreate(&c->handle) == CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasLtMatmulDescInit(&c->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
           CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasLtMatmulDescSetAttribute(&c->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                          sizeof(epilogue)) == CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasLtMatmulDescSetAttribute(&c->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                          sizeof(bias)) == CUBLAS_STATUS_SUCCESS);
    EXPECT(lt_layouts(c, LN) == 0);
    cublasLtMatmulDescSetAttribute(&c->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &wrong,
                                   sizeof(wrong));
    EXPECT(cublasLtMatmulAlgoGetHeuristic(c->handle, &c->desc, &c->a, &c->b, &c->d, &c->d, NULL, 1,
                                          found, &count) == CUBLAS_STATUS_NOT_SUPPORTED);
    cublasLtMatmulDescSetAttribute(&c->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &right,
                                   sizeof(right));
    return 0;
}

/* The algorithm that comes first, with this workspace; partial sums in f32 unless any may be. */
static int lt_choose(lt_case *c, bool any, cublasLtMatmulAlgo_t *out)
{
    const size_t most = LT_WORKSPACE;
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, narrow = 2;
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t found[8], checked;
    int count = 0;

    EXPECT(cublasLtMatmulPreferenceInit(&preference) == CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &most, sizeof(most));
    if (!any) {
        cublasLtMatmulPreferenceSetAttribute(
            &preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof(reduction));
    }
    EXPECT(cublasLtMatmulAlgoGetHeuristic(c->handle, &c->desc, &c->a, &c->b, &c->d, &c->d,
                                          &preference, 8, found, &count) == CUBLAS_STATUS_SUCCESS);
    EXPECT(count == (any ? 5 : 3));
    *out = found[0].algo;
    EXPECT(cublasLtMatmulAlgoCheck(c->handle, &c->desc, &c->a, &c->b, &c->d, &c->d, out,
                                   &checked) == CUBLAS_STATUS_SUCCESS);
    EXPECT(checked.workspaceSize == found[0].workspaceSize && checked.workspaceSize == most);
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                         &narrow, sizeof(narrow));
    EXPECT(cublasLtMatmulAlgoGetHeuristic(c->handle, &c->desc, &c->a, &c->b, &c->d, &c->d,
                                          &preference, 8, found, &count) == CUBLAS_STATUS_SUCCESS);
    EXPECT(count == (any ? 3 : 1));
    return 0;
}

static void lt_expected(const __nv_bfloat16 *a, const __nv_bfloat16 *b, const __nv_bfloat16 *bias,
                        float *want)
{
    for (int i = 0; i < LM; i++) {
        for (int j = 0; j < LN; j++) {
            double sum = __bfloat162float(bias[i]);

            for (int k = 0; k < LK; k++) {
                sum += (double)__bfloat162float(a[k * LM + i]) * __bfloat162float(b[j * LK + k]);
            }
            want[j * LM + i] = (float)sum;
        }
    }
}

/*
 * 1: less workspace than is told; 2: a bias that is too short; 3: a bias of f32 where bf16 is read;
 * 4: partial sums may be rounded; 5: an algorithm of another number of columns, whose refusal
 * nobody looks at; 6: the same of a misaligned operand.
 */
static int gemm_lt_bias(cudaStream_t stream, int mistake)
{
    __nv_bfloat16 a[LM * LK + 1], b[LK * LN], bias[LM], got[LM * LN];
    float want[LM * LN], wide[LM];
    const float one = 1.0f, zero = 0.0f;
    cublasLtMatmulAlgo_t algo;
    lt_case c;

    for (int i = 0; i < LM * LK + 1; i++) {
        a[i] = __float2bfloat16_rn(sample_number((uint32_t)i));
    }
    for (int i = 0; i < LK * LN; i++) {
        b[i] = __float2bfloat16_rn(sample_number((uint32_t)i + 1000));
    }
    for (int i = 0; i < LM; i++) {
        bias[i] = __float2bfloat16_rn(wide[i] = sample_number((uint32_t)i + 3000));
    }
    lt_expected(a, b, bias, want);
    __nv_bfloat16 *da = sample_upload(a, LM * LK + 1, stream);
    const __nv_bfloat16 *db = sample_upload(b, LK * LN, stream);
    const void *dbias = mistake == 3 ? (const void *)sample_upload(wide, LM, stream)
                                     : sample_upload(bias, mistake == 2 ? LM - 1 : LM, stream);
    __nv_bfloat16 *dd = sample_device<__nv_bfloat16>(LM * LN);
    void *workspace = sample_device<char>(mistake == 1 ? 4096 : LT_WORKSPACE);
    EXPECT(lt_describe(&c, dbias) == 0);
    EXPECT(lt_choose(&c, mistake == 4, &algo) == 0);
    if (mistake == 5) {
        EXPECT(lt_layouts(&c, LN - 1) == 0);
    }
    const cublasStatus_t status =
        cublasLtMatmul(c.handle, &c.desc, &one, da + (mistake == 6), &c.a, db, &c.b, &zero, dd,
                       &c.d, dd, &c.d, &algo, workspace, LT_WORKSPACE, stream);
    EXPECT((status == CUBLAS_STATUS_SUCCESS) == (mistake < 5));
    sample_download(got, dd, LM * LN, stream);
    for (int i = 0; i < LM * LN; i++) {
        const float value = __bfloat162float(got[i]);

        if (sample_compare(&value, &want[i], 1, 0x1.02p-8f * fabsf(want[i]) + 1e-5f) != 0) {
            return 1;
        }
    }
    EXPECT(cublasLtDestroy(c.handle) == CUBLAS_STATUS_SUCCESS);
    return 0;
}

/* cuSPARSE: c (3,2) in rows = a (3,4) in CSR times b (4,2). 1: a column index outside of a. */
static int spmm(cudaStream_t stream, int mistake)
{
    const int32_t start[] = { 0, 2, 2, 3 }, column[] = { 0, mistake == 1 ? 4 : 3, 1 };
    const float value[] = { 2.0f, -1.0f, 0.5f }, b[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    const float want[] = { 2 - 7, 4 - 8, 0, 0, 1.5f, 2 }, one = 1.0f, zero = 0.0f;
    float got[6];
    cusparseHandle_t handle;
    cusparseSpMatDescr_t a;
    cusparseDnMatDescr_t mb, mc;
    size_t bytes = 0;
    float *dc = sample_device<float>(6);

    EXPECT(cusparseCreate(&handle) == CUSPARSE_STATUS_SUCCESS);
    EXPECT(cusparseSetStream(handle, stream) == CUSPARSE_STATUS_SUCCESS);
    EXPECT(cusparseCreateCsr(&a, 3, 4, 3, sample_upload(start, 4, stream),
                             sample_upload(column, 3, stream), sample_upload(value, 3, stream),
                             CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO,
                             CUDA_R_32F) == CUSPARSE_STATUS_SUCCESS);
    EXPECT(cusparseCreateDnMat(&mb, 4, 2, 2, sample_upload(b, 8, stream), CUDA_R_32F,
                               CUSPARSE_ORDER_ROW) == CUSPARSE_STATUS_SUCCESS);
    EXPECT(cusparseCreateDnMat(&mc, 3, 2, 2, dc, CUDA_R_32F, CUSPARSE_ORDER_ROW) ==
           CUSPARSE_STATUS_SUCCESS);
    const cusparseOperation_t op = CUSPARSE_OPERATION_NON_TRANSPOSE;
    EXPECT(cusparseSpMM_bufferSize(handle, op, op, &one, a, mb, &zero, mc, CUDA_R_32F,
                                   CUSPARSE_SPMM_CSR_ALG2, &bytes) == CUSPARSE_STATUS_SUCCESS);
    EXPECT(cusparseSpMM(handle, op, op, &one, a, mb, &zero, mc, CUDA_R_32F, CUSPARSE_SPMM_CSR_ALG2,
                        sample_device<char>((int64_t)bytes)) == CUSPARSE_STATUS_SUCCESS);
    sample_download(got, dc, 6, stream);
    cusparseDestroySpMat(a);
    cusparseDestroyDnMat(mb);
    cusparseDestroyDnMat(mc);
    cusparseDestroy(handle);
    return sample_compare(got, want, 6, 1e-6f);
}

static __global__ void trap_kernel()
{
    __syncthreads();
    if (threadIdx.x == 40) {
        cu::trap();
    }
    __syncthreads();
}

/* A capture in which such a call was made ends as it must: without a graph, and nothing is left. */
static bool ends_invalid(cudaStream_t stream)
{
    cudaGraph_t recorded = nullptr;
    enum cudaStreamCaptureStatus status;

    return cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
           status == cudaStreamCaptureStatusInvalidated &&
           cudaStreamEndCapture(stream, &recorded) == cudaErrorStreamCaptureInvalidated &&
           recorded == nullptr && cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
           status == cudaStreamCaptureStatusNone;
}

/* What cannot be part of a graph, or would wait for one that is not there yet. */
static int captures(cudaStream_t stream, int)
{
    enum { CALLS = 8 };
    float x = 0.0f, *d = sample_device<float>(4);
    const cudaEvent_t event = event_on(stream);
    void *none = nullptr, *page_locked;
    cudaGraph_t recorded = nullptr;

    SAMPLE_TRY(cudaMallocHost(&page_locked, 4));
    *(float *)page_locked = 7.0f;
    for (int i = 0; i < CALLS; i++) {
        const cudaError_t want = cudaErrorStreamCaptureUnsupported;

        EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
        EXPECT(i != 0 || cudaStreamSynchronize(stream) == want);
        EXPECT(i != 1 || cudaDeviceSynchronize() == want);
        EXPECT(i != 2 || cudaStreamQuery(stream) == want);
        EXPECT(i != 3 || cudaEventQuery(event) == want);
        EXPECT(i != 4 || cudaMalloc(&none, 16) == want);
        EXPECT(i != 5 || cudaMallocHost(&none, 16) == want);
        EXPECT(i != 6 || cudaFree(d) == want);
        EXPECT(i != 7 || cudaMemcpyAsync(d, &x, 4, cudaMemcpyHostToDevice, stream) == want);
        EXPECT(cu::launch(line_kernel, 1, 32, 0, stream, d, d, 1.0f, 0.0f, 4) ==
               cudaErrorStreamCaptureInvalidated);
        EXPECT(ends_invalid(stream) && none == nullptr);
    }
    EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess);
    EXPECT(cudaMemcpyAsync(d, page_locked, 4, cudaMemcpyHostToDevice, stream) == cudaSuccess);
    EXPECT(cudaEventRecord(event, stream) == cudaSuccess);
    EXPECT(cudaStreamEndCapture(stream, &recorded) == cudaSuccess && recorded != nullptr);
    EXPECT(cudaStreamEndCapture(stream, &recorded) == cudaErrorStreamCaptureUnmatched);
    /* The event is the capture's until it is recorded again. */
    EXPECT(cudaEventQuery(event) == cudaErrorCapturedEvent);
    EXPECT(cudaEventSynchronize(event) == cudaErrorCapturedEvent);
    EXPECT(cudaStreamWaitEvent(stream, event, 0) == cudaErrorCapturedEvent);
    EXPECT(cudaEventRecord(event, stream) == cudaSuccess);
    EXPECT(cudaEventSynchronize(event) == cudaSuccess);
    EXPECT(cudaStreamSynchronize(stream) == cudaSuccess);
    EXPECT(cudaFreeHost(page_locked) == cudaSuccess && cudaFree(d) == cudaSuccess);
    EXPECT(cudaEventDestroy(event) == cudaSuccess);
    return 0;
}

/* What the runtime must refuse, and how a fault comes to light. */
static int refusals(cudaStream_t stream, int)
{
    float x = 0.0f, *d = sample_device<float>(4);
    void *none = nullptr;

    EXPECT(cu::launch(line_kernel, 1, 32, 0, (cudaStream_t) nullptr, d, d, 1.0f, 0.0f, 4) ==
           cudaErrorInvalidResourceHandle);
    EXPECT(cu::launch(line_kernel, 0, 32, 0, stream, d, d, 1.0f, 0.0f, 4) ==
           cudaErrorInvalidConfiguration);
    EXPECT(cu::launch(line_kernel, 1, 1025, 0, stream, d, d, 1.0f, 0.0f, 4) ==
           cudaErrorInvalidConfiguration);
    EXPECT(cu::launch(line_kernel, dim3(1, 65536), 32, 0, stream, d, d, 1.0f, 0.0f, 4) ==
           cudaErrorInvalidConfiguration);
    EXPECT(cu::launch(line_kernel, 1, 32, 49 * 1024, stream, d, d, 1.0f, 0.0f, 4) ==
           cudaErrorInvalidValue);
    EXPECT(cu::allow_shared(line_kernel, 228 * 1024) == cudaErrorInvalidValue);
    EXPECT(cu::allow_shared(line_kernel, 227 * 1024) == cudaSuccess);
    EXPECT(cudaMemcpyAsync(d, &x, 4, cudaMemcpyDeviceToHost, stream) ==
           cudaErrorInvalidMemcpyDirection);
    EXPECT(cudaMemcpyAsync(&x, &x, 4, cudaMemcpyHostToDevice, stream) ==
           cudaErrorInvalidMemcpyDirection);
    EXPECT(cudaMalloc(&none, (size_t)1 << 40) == cudaErrorMemoryAllocation && none == nullptr);
    EXPECT(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
    emu_fail_call(1);
    EXPECT(cudaMalloc(&none, 16) == cudaErrorMemoryAllocation);
    EXPECT(cudaMalloc(&none, 16) == cudaSuccess);
    EXPECT(cudaFree(none) == cudaSuccess && cudaFree(none) == cudaErrorInvalidValue);
    EXPECT(cu::launch(trap_kernel, 2, 64, 0, stream) == cudaSuccess);
    EXPECT(cudaStreamSynchronize(stream) == cudaErrorLaunchFailure);
    EXPECT(cudaStreamSynchronize(stream) == cudaErrorLaunchFailure); /* it stays */
    EXPECT(cu::launch(trap_kernel, 1, 32, 0, stream) == cudaErrorLaunchFailure);
    return 0;
}

/* One warp: y (8,8) = transpose by ldmatrix; z (16,8) = a (16,8) b (8,8) in tf32. */
static __global__ void fragment_kernel(const float *a, const float *b, uint16_t *y, float *z)
{
    SHARED(tile, uint16_t[4][8][8]);
    const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t r[4], one[1], pair[2], left[4], right[2];
    float sum[4] = {};

    for (unsigned i = lane; i < 4 * 64; i += 32) {
        tile[i / 64][i / 8 % 8][i % 8] = (uint16_t)(100 * (i / 64) + 10 * (i / 8 % 8) + i % 8);
    }
    __syncwarp();
    cu::ldmatrix_x4_trans(r, tile[lane / 8][lane % 8]);
    cu::ldmatrix_x1(one, tile[0][lane % 8]);
    cu::ldmatrix_x2(pair, tile[lane / 8 % 2][lane % 8]);
    for (unsigned m = 0; m < 4; m++) {
        y[64 * m + 8 * g + 2 * t] = (uint16_t)r[m];
        y[64 * m + 8 * g + 2 * t + 1] = (uint16_t)(r[m] >> 16);
    }
    y[256 + 8 * g + 2 * t] = (uint16_t)one[0];
    y[256 + 8 * g + 2 * t + 1] = (uint16_t)(pair[1] >> 16);
    left[0] = cu::to_tf32(a[8 * g + t]);
    left[1] = cu::to_tf32(a[8 * (g + 8) + t]);
    left[2] = cu::to_tf32(a[8 * g + t + 4]);
    left[3] = cu::to_tf32(a[8 * (g + 8) + t + 4]);
    right[0] = cu::to_tf32(b[8 * t + g]);
    right[1] = cu::to_tf32(b[8 * (t + 4) + g]);
    cu::mma_tf32(sum, left, right);
    for (unsigned i = 0; i < 4; i++) {
        z[8 * (g + i / 2 * 8) + 2 * t + i % 2] = sum[i];
    }
}

static int fragments(cudaStream_t stream, int)
{
    float a[16 * 8], b[8 * 8], z[16 * 8], want[16 * 8];
    uint16_t y[320];

    for (int i = 0; i < 16 * 8; i++) {
        a[i] = sample_number((uint32_t)i);
        b[i % 64] = sample_number((uint32_t)(i % 64) + 500);
    }
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 8; j++) {
            want[8 * i + j] = 0.0f;
            for (int k = 0; k < 8; k++) {
                want[8 * i + j] += a[8 * i + k] * b[8 * k + j];
            }
        }
    }
    uint16_t *dy = sample_device<uint16_t>(320);
    float *dz = sample_device<float>(16 * 8);
    SAMPLE_TRY(cu::launch(fragment_kernel, 1, 32, 0, stream, sample_upload(a, 16 * 8, stream),
                          sample_upload(b, 64, stream), dy, dz));
    sample_download(y, dy, 320, stream);
    sample_download(z, dz, 16 * 8, stream);
    for (int i = 0; i < 256; i++) {
        EXPECT(y[i] == 100 * (i / 64) + 10 * (i % 8) + i / 8 % 8);
    }
    for (int i = 0; i < 64; i++) {
        EXPECT(y[256 + i] == (i % 2 != 0 ? 100 : 0) + 10 * (i / 8) + i % 8);
    }
    return sample_compare(z, want, 16 * 8, 8 * 0x1p-10f); /* operands of 10 bits, 8 terms below 1 */
}

/* In this order by "all", without mistakes. */
static const sample_case cases[] = { { "streams", streams },
                                     { "memory", memory },
                                     { "graph", graph },
                                     { "gemm", gemm },
                                     { "gemm_bf16", gemm_bf16 },
                                     { "gemm_lt", gemm_lt },
                                     { "gemm_lt_bias", gemm_lt_bias },
                                     { "spmm", spmm },
                                     { "fragments", fragments },
                                     { "captures", captures },
                                     { "refusals", refusals } };

int main(int argc, char **argv)
{
    return sample_main(argc, argv, cases, (int)(sizeof(cases) / sizeof(cases[0])));
}
