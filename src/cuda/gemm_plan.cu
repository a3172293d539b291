/*
 * gemm_plan.cu - which algorithm of cuBLASLt computes a product: asked once for each key, timed if
 * that is wanted, and kept.
 *
 * The library is asked about the bucket's row count, whatever the first product's was. An algorithm
 * that the library does not take for a product's own rows is replaced by one asked for just those.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "device.h"
#include "gemm.h"
#include "gemm_pick.h"
#include "launch.cuh"

/* Algorithms that a timed choice is made of. */
#define CANDIDATES 8
/* Products between the two events of a timing: one alone would be mostly its launch. */
#define TIMED_PRODUCTS 5
/* What kernels ask of an address at most; more would make a choice depend on where things lie. */
#define MOST_ALIGNED ((uintptr_t)16)

struct cuda_gemm_plan {
    cuda_gemm_key key;
    int64_t M, K; /* what the layouts say, and what the algorithm was checked for          */
    bool exists;  /* false: cuBLASLt has no algorithm for the key                          */
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    cuda_gemm_plan *next;
};

static cudaDataType type_of(uint8_t dtype)
{
    return dtype == CSP_E4M3 ? CUDA_R_8F_E4M3 : dtype == CSP_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static uint8_t alignment_of(const void *address)
{
    const uintptr_t bits = (uintptr_t)address | MOST_ALIGNED;

    return (uint8_t)(bits & (~bits + 1));
}

/* The key of a product for M and K of the caller's choice. */
static cuda_gemm_key key_of(const cuda_product *p, int64_t M, int64_t K)
{
    const cuda_gemm_key key = { M,
                                p->N,
                                K,
                                p->lda,
                                p->ldb,
                                p->ldc,
                                p->trans_a,
                                p->trans_b,
                                (uint8_t)p->in,
                                (uint8_t)p->out,
                                alignment_of(p->a),
                                alignment_of(p->b),
                                alignment_of(p->c),
                                (uint8_t)(p->bias != NULL ? CUDA_GEMM_BIAS_ALIGN : 0) };

    return key;
}

/* Rows of a batch are what no leading dimension bounds: M, or K of A^T B. */
static cuda_gemm_key bucket_of(const cuda_product *p)
{
    return key_of(p, p->trans_a ? p->M : pick_gemm_rows(p->M),
                  p->trans_a && !p->trans_b ? pick_gemm_rows(p->K) : p->K);
}

/* FNV-1a. */
static uint32_t hash_of(const cuda_gemm_key *key)
{
    const uint8_t *byte = (const uint8_t *)key;
    uint32_t hash = 2166136261u;

    static_assert(sizeof(*key) == 6 * sizeof(int64_t) + 8, "compared byte by byte: no padding");
    for (size_t i = 0; i < sizeof(*key); i++) {
        hash = (hash ^ byte[i]) * 16777619u;
    }
    return hash;
}

static bool same_key(const cuda_gemm_key *a, const cuda_gemm_key *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

/* cuBLASLt counts columns first: its D is our C transposed, B^T A^T, so its A is our b. */
static cublasStatus_t describe_sizes(cuda_gemm_plan *plan, int64_t M, int64_t K)
{
    const cuda_gemm_key *k = &plan->key;
    const cudaDataType in = type_of(k->in), out = type_of(k->out);
    const uint64_t m = (uint64_t)M, n = (uint64_t)k->N, depth = (uint64_t)K;
    cublasStatus_t status;

    status = cublasLtMatrixLayoutInit(&plan->b, in, k->trans_b ? depth : n, k->trans_b ? n : depth,
                                      k->ldb);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutInit(&plan->a, in, k->trans_a ? m : depth,
                                          k->trans_a ? depth : m, k->lda);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutInit(&plan->c, out, n, m, k->ldc);
    }
    plan->M = M;
    plan->K = K;
    return status;
}

static cublasStatus_t set_bias(cuda_gemm_plan *plan, const void *bias)
{
    return cublasLtMatmulDescSetAttribute(&plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                          &bias, sizeof(bias));
}

/* Of rows and columns of C; cuBLASLt's A is our B. The heuristic reads no scales. */
static cublasStatus_t set_scales(cuda_gemm_plan *plan, const float *of_rows,
                                 const float *of_columns)
{
    const cublasStatus_t status = cublasLtMatmulDescSetAttribute(
        &plan->operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &of_columns, sizeof(of_columns));

    return status != CUBLAS_STATUS_SUCCESS
               ? status
               : cublasLtMatmulDescSetAttribute(&plan->operation,
                                                CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &of_rows,
                                                sizeof(of_rows));
}

static cublasStatus_t describe_scales(cuda_gemm_plan *plan)
{
    const int32_t outer = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const float *somewhere = (const float *)MOST_ALIGNED;
    cublasStatus_t status = cublasLtMatmulDescSetAttribute(
        &plan->operation, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &outer, sizeof(outer));

    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulDescSetAttribute(&plan->operation, CUBLASLT_MATMUL_DESC_B_SCALE_MODE,
                                                &outer, sizeof(outer));
    }
    return status == CUBLAS_STATUS_SUCCESS ? set_scales(plan, somewhere, somewhere) : status;
}

static cublasStatus_t describe_operation(cuda_gemm_plan *plan)
{
    const cuda_gemm_key *k = &plan->key;
    const cublasOperation_t of_a = k->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t of_b = k->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const int32_t bias_type = type_of(k->out);
    cublasLtMatmulDesc_t operation = &plan->operation;
    cublasStatus_t status = cublasLtMatmulDescInit(operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);

    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &of_a,
                                                sizeof(of_a));
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &of_b,
                                                sizeof(of_b));
    }
    if (status == CUBLAS_STATUS_SUCCESS && k->in == CSP_E4M3) {
        status = describe_scales(plan);
    }
    if (status == CUBLAS_STATUS_SUCCESS && k->align_bias > 0) {
        status = cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                                sizeof(epilogue));
        if (status == CUBLAS_STATUS_SUCCESS) {
            status = cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                                                    &bias_type, sizeof(bias_type));
        }
        /* The heuristic reads no bias. */
        if (status == CUBLAS_STATUS_SUCCESS) {
            status = set_bias(plan, (const void *)(uintptr_t)k->align_bias);
        }
    }
    return status;
}

/* Workspace, alignment, and that partial sums of split products are added in float32. */
static cublasStatus_t prefer(const cuda_gemm_state *g, const cuda_gemm_key *k,
                             cublasLtMatmulPreferenceOpaque_t *out)
{
    const uint64_t workspace = g->workspace_bytes;
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t align_a = k->align_b, align_b = k->align_a, align_c = k->align_c;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t bytes;
    } wanted[] = {
        { CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace) },
        { CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof(reduction) },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_a, sizeof(align_a) },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_b, sizeof(align_b) },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_c, sizeof(align_c) },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_c, sizeof(align_c) },
    };
    cublasStatus_t status = cublasLtMatmulPreferenceInit(out);

    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        if (status == CUBLAS_STATUS_SUCCESS) {
            status = cublasLtMatmulPreferenceSetAttribute(out, wanted[i].name, wanted[i].value,
                                                          wanted[i].bytes);
        }
    }
    return status;
}

/* Candidates for the key, the one thought fastest first; *count is 0 where there are none. */
static cublasStatus_t ask(cuda_gemm_state *g, cuda_gemm_plan *plan, cublasLtMatmulAlgo_t *out,
                          int *count)
{
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasStatus_t status = prefer(g, &plan->key, &preference);
    int answers = 0;

    *count = 0;
    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    g->asked++;
    status = cublasLtMatmulAlgoGetHeuristic(g->lt, &plan->operation, &plan->b, &plan->a, &plan->c,
                                            &plan->c, &preference, CANDIDATES, found, &answers);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) {
        return CUBLAS_STATUS_SUCCESS;
    }
    for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < answers; i++) {
        if (found[i].state == CUBLAS_STATUS_SUCCESS) {
            out[(*count)++] = found[i].algo;
        }
    }
    return status;
}

/* Whether the algorithm computes the product of the sizes in the layouts, in our workspace. */
static bool fits(const cuda_gemm_state *g, cuda_gemm_plan *plan,
                 const cublasLtMatmulAlgo_t *algorithm)
{
    cublasLtMatmulHeuristicResult_t result = {};

    return cublasLtMatmulAlgoCheck(g->lt, &plan->operation, &plan->b, &plan->a, &plan->c, &plan->c,
                                   algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= g->workspace_bytes;
}

cublasStatus_t cuda_gemm_run(csp_backend *be, const cuda_product *p, cuda_gemm_plan *plan, void *d)
{
    const cuda_state *state = cuda_state_of(be);
    const cuda_gemm_state *g = &state->gemm;

    if (p->bias != NULL) {
        const cublasStatus_t status = set_bias(plan, p->bias);

        if (status != CUBLAS_STATUS_SUCCESS) {
            return status;
        }
    }
    if (p->in == CSP_E4M3) {
        const cublasStatus_t status = set_scales(plan, p->scale_a, p->scale_b);

        if (status != CUBLAS_STATUS_SUCCESS) {
            return status;
        }
    }
    return cublasLtMatmul(g->lt, &plan->operation, &p->alpha, p->b, &plan->b, p->a, &plan->a,
                          &p->beta, p->c, &plan->c, d, &plan->c, &plan->algorithm, g->workspace,
                          g->workspace_bytes, state->stream);
}

/* Milliseconds of the plan's algorithm; INFINITY where the library does not run it after all. */
static csp_status time_one(csp_backend *be, const cuda_product *p, cuda_gemm_plan *plan, void *d,
                           const cudaEvent_t event[2], float *milliseconds)
{
    cuda_state *state = cuda_state_of(be);
    const cudaStream_t stream = state->stream;

    *milliseconds = INFINITY;
    if (cuda_gemm_run(be, p, plan, d) != CUBLAS_STATUS_SUCCESS) {
        return CSP_OK;
    }
    CUDA_TRY(cudaEventRecord(event[0], stream));
    for (int i = 0; i < TIMED_PRODUCTS; i++) {
        if (cuda_gemm_run(be, p, plan, d) != CUBLAS_STATUS_SUCCESS) {
            return CSP_OK;
        }
    }
    CUDA_TRY(cudaEventRecord(event[1], stream));
    CSP_TRY(cuda_wait_event(be, event[1]));
    CUDA_TRY(cudaEventElapsedTime(milliseconds, event[0], event[1]));
    return CSP_OK;
}

/* The fastest of the candidates, the earlier of equals, into plan->algorithm. */
static csp_status time_all(csp_backend *be, const cuda_product *p, cuda_gemm_plan *plan,
                           const cublasLtMatmulAlgo_t *candidate, int count, void *d)
{
    cudaEvent_t event[2] = { NULL, NULL };
    float best = INFINITY, milliseconds;
    int fastest = 0;
    csp_status status = CSP_OK;

    for (int i = 0; i < 2 && status == CSP_OK; i++) {
        const cudaError_t error = cudaEventCreate(&event[i]);

        if (error != cudaSuccess) {
            status = cuda_failed(error, "cudaEventCreate", __FILE__, __LINE__);
        }
    }
    for (int i = 0; i < count && status == CSP_OK; i++) {
        plan->algorithm = candidate[i];
        if (!fits(&cuda_state_of(be)->gemm, plan, &candidate[i])) {
            continue;
        }
        status = time_one(be, p, plan, d, event, &milliseconds);
        if (status == CSP_OK && milliseconds < best) {
            best = milliseconds;
            fastest = i;
        }
    }
    plan->algorithm = candidate[fastest];
    for (int i = 0; i < 2; i++) {
        if (event[i] != NULL) {
            (void)cudaEventDestroy(event[i]);
        }
    }
    return status;
}

/*
 * Times the candidates on the product's own operands and remembers the choice. Its C may be written
 * again and again where it is not read; else results go to memory taken for as long as that lasts,
 * and where there is none, the first candidate stays.
 */
static csp_status tune(csp_backend *be, const cuda_product *p, cuda_gemm_plan *plan,
                       const cublasLtMatmulAlgo_t *candidate, int count)
{
    cuda_state *state = cuda_state_of(be);
    const size_t size = csp_dtype_bytes(p->out);
    void *beside = NULL;
    csp_status status = CSP_OK;

    if (p->beta != 0.0f && cuda_allocate(state, "a timed product",
                                         (size_t)p->M * (size_t)p->ldc * size, &beside) != CSP_OK) {
        csp_log(CSP_LOG_DEBUG, "device", "products are not timed: %s", csp_error_text());
        return CSP_OK;
    }
    if (describe_sizes(plan, p->M, p->K) == CUBLAS_STATUS_SUCCESS) {
        status = time_all(be, p, plan, candidate, count, beside != NULL ? beside : p->c);
    }
    if (beside != NULL) {
        cuda_drain(be); /* something may still write to it */
        (void)cudaFree(beside);
    }
    plan->M = plan->K = -1; /* what was timed may not be what was chosen */
    CSP_TRY(status);
    be->tuned++;
    return cuda_gemm_remember(&state->gemm, &plan->key, &plan->algorithm);
}

/* Fills a plan that has its key. */
static csp_status choose(csp_backend *be, const cuda_product *p, cuda_gemm_plan *plan)
{
    cuda_gemm_state *g = &cuda_state_of(be)->gemm;
    const cublasLtMatmulAlgo_t *recalled = cuda_gemm_recall(g, &plan->key);
    cublasLtMatmulAlgo_t candidate[CANDIDATES];
    cublasStatus_t status = describe_operation(plan);
    int count = 0;

    if (status == CUBLAS_STATUS_SUCCESS) {
        status = describe_sizes(plan, plan->key.M, plan->key.K);
    }
    if (status == CUBLAS_STATUS_SUCCESS && recalled != NULL && fits(g, plan, recalled)) {
        plan->algorithm = *recalled;
        plan->exists = true;
        return CSP_OK;
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = ask(g, plan, candidate, &count);
    }
    if (status != CUBLAS_STATUS_SUCCESS) {
        const cuda_state *state = cuda_state_of(be);

        return CSP_FAIL(CSP_ERR_DEVICE,
                        "%s: %s: cuBLASLt cannot plan the product (%lld,%lld,%lld): %s",
                        state->name, state->op, (long long)p->M, (long long)p->N, (long long)p->K,
                        cublasLtGetStatusString(status));
    }
    plan->exists = count > 0;
    if (count > 0) {
        plan->algorithm = candidate[0];
    }
    return count > 1 && be->tune_products ? tune(be, p, plan, candidate, count) : CSP_OK;
}

static csp_status find_or_make(csp_backend *be, const cuda_product *p, const cuda_gemm_key *key,
                               cuda_gemm_plan **out)
{
    cuda_gemm_state *g = &cuda_state_of(be)->gemm;
    cuda_gemm_plan **chain = &g->chain[hash_of(key) % CUDA_GEMM_CHAINS];
    cuda_gemm_plan *plan;
    csp_status status;

    for (plan = *chain; plan != NULL; plan = plan->next) {
        if (same_key(&plan->key, key)) {
            *out = plan;
            return CSP_OK;
        }
    }
    if (cuda_state_of(be)->graphs.recording) {
        /* Its candidates could not be timed there, and a plan stays. */
        return CSP_FAIL(CSP_ERR_DEVICE, "a product (%lld,%lld,%lld) would be planned in a graph",
                        (long long)p->M, (long long)p->N, (long long)p->K);
    }
    CSP_TRY(csp_alloc_zero("matrix product", 1, sizeof(*plan), &plan));
    plan->key = *key;
    status = choose(be, p, plan);
    if (status != CSP_OK) {
        free(plan);
        return status;
    }
    plan->next = *chain;
    *chain = plan;
    g->plans++;
    *out = plan;
    return CSP_OK;
}

/* Whether the plan is one for this very product, to which its layouts are then set. */
static bool adapt(const cuda_gemm_state *g, const cuda_product *p, cuda_gemm_plan *plan)
{
    return (plan->M == p->M && plan->K == p->K) ||
           (describe_sizes(plan, p->M, p->K) == CUBLAS_STATUS_SUCCESS &&
            fits(g, plan, &plan->algorithm));
}

csp_status cuda_gemm_plan_for(csp_backend *be, const cuda_product *p, cuda_gemm_plan **out)
{
    const cuda_gemm_state *g = &cuda_state_of(be)->gemm;
    const cuda_gemm_key bucket = bucket_of(p), exact = key_of(p, p->M, p->K);
    cuda_gemm_plan *plan;

    CSP_TRY(find_or_make(be, p, &bucket, &plan));
    if (plan->exists && !adapt(g, p, plan)) {
        plan->M = plan->K = -1; /* not checked for what the layouts say */
        CSP_TRY(find_or_make(be, p, &exact, &plan));
        plan->exists = plan->exists && adapt(g, p, plan);
    }
    *out = plan->exists ? plan : NULL;
    return CSP_OK;
}

void cuda_gemm_forget(cuda_gemm_state *g)
{
    for (int i = 0; i < CUDA_GEMM_CHAINS; i++) {
        while (g->chain[i] != NULL) {
            cuda_gemm_plan *plan = g->chain[i];

            g->chain[i] = plan->next;
            free(plan);
        }
    }
}
