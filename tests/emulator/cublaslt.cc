/*
 * cublaslt.cc - the fake cuBLASLt: cublasLtMatmul with layouts, bias, ReLU and GELU epilogues, by
 * one of several algorithms, which differ in what they need and in the order of their additions. Of
 * e4m3 operands what compute capability 9.0 has: scales of rows of a and columns of b.
 *
 * Descriptors are opaque storage of the caller; ours lie in its first bytes.
 */
#include <cublasLt.h>

#include <stdlib.h>
#include <string.h>

#include "emulator/control.h"
#include "emulator/product.h"

using namespace emu;

namespace
{

struct Description {
    cublasComputeType_t compute;
    int32_t transpose_a, transpose_b;
    uint32_t epilogue;
    const void *bias;
    int32_t bias_type; /* -1: that of d */
    const float *scale_a, *scale_b;
    int32_t scale_mode_a, scale_mode_b;
};

struct Layout {
    uint32_t type;
    uint64_t rows, cols;
    int64_t ld;
    int32_t order, batches;
    int64_t batch_stride;
};

struct Preference {
    uint64_t workspace;
    uint32_t reduction;    /* mask of schemes                      */
    uint32_t alignment[4]; /* of a, b, c and d, promised in bytes  */
};

/* What an algorithm needs, and how it adds. */
struct Method {
    uint64_t workspace;
    uint32_t alignment; /* of addresses and of the bytes between columns */
    uint32_t reduction; /* cublasLtReductionScheme_t                     */
    int parts;          /* of the sum over k                             */
    int64_t columns;    /* of d: a multiple of these                     */
};

/* The dearest last; a heuristic names it first, as a fast algorithm would be. */
const Method METHODS[] = {
    { 0, 2, CUBLASLT_REDUCTION_SCHEME_NONE, 1, 1 },
    { 4096, 16, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 2, 1 },
    { 1 << 20, 16, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 3, 4 },
    { 1 << 20, 2, CUBLASLT_REDUCTION_SCHEME_INPLACE, 3, 1 },
    { 1 << 20, 2, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, 4, 1 },
};
const int METHOD_COUNT = (int)(sizeof(METHODS) / sizeof(METHODS[0]));

/* A method, made for operands of these types and transpositions. */
struct Algorithm {
    uint64_t mark, number, made_for;
};

/* What an algorithm that is not the favourite takes longer: more than any computer would. */
const double SLOWER_S = 1000.0;
const uint64_t MARK = 0x656D756C61746F72u;

/* Set for the process, until somebody asks otherwise. */
int first_favourite()
{
    const char *text = getenv("CSP_EMU_BLASLT_FAVOUR");

    return text != nullptr && *text != '\0' ? atoi(text) : -1;
}

int favourite = first_favourite();
bool refusing;
uint64_t heuristics;

static_assert(sizeof(Description) <= sizeof(cublasLtMatmulDescOpaque_t), "fits");
static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "fits");
static_assert(sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "fits");
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t), "fits");

/* Sets or refuses one attribute: its size must be right. */
template <typename T> cublasStatus_t assign(T *to, const void *value, size_t bytes)
{
    if (bytes != sizeof(T)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

Matrix matrix(const void *p, const Layout &layout)
{
    return {
        (void *)p, (cudaDataType)layout.type,          (int64_t)layout.rows, (int64_t)layout.cols,
        layout.ld, layout.order == CUBLASLT_ORDER_ROW, layout.batch_stride
    };
}

/*
 * Operands of 8 bits: only a^T b, all sizes and distances of columns in whole 16 bytes, as the manual
 * has it (versions that take any number of columns of b are known), a scale for each row of a^T and
 * each column of b. Other scales, which the library has too, are not emulated.
 */
cublasStatus_t describe_narrow(const Description &desc, Product *product)
{
    const Matrix &a = product->a, &b = product->b, &d = product->d;

    if (a.type != b.type || !product->transpose_a || product->transpose_b || a.row_order ||
        b.row_order || d.row_order || product->batches != 1 || product->c.type != d.type ||
        (d.type != CUDA_R_16BF && d.type != CUDA_R_32F) || desc.compute != CUBLAS_COMPUTE_32F ||
        a.rows % 16 != 0 || d.rows % 16 != 0 || d.cols % 16 != 0 || a.ld % 16 != 0 ||
        b.ld % 16 != 0 || d.ld * (int64_t)element_bytes(d.type) % 16 != 0 ||
        desc.epilogue != CUBLASLT_EPILOGUE_DEFAULT ||
        desc.scale_mode_a != CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F ||
        desc.scale_mode_b != CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F ||
        desc.scale_a == nullptr || desc.scale_b == nullptr) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    product->scale_a = desc.scale_a;
    product->scale_b = desc.scale_b;
    return CUBLAS_STATUS_SUCCESS;
}

/* Everything but the addresses; not CUBLAS_STATUS_SUCCESS where there is no such product. */
cublasStatus_t describe(const Description &desc, const Layout &a, const Layout &b, const Layout &c,
                        const Layout &d, Product *out)
{
    Product product = {};

    product.transpose_a = desc.transpose_a != CUBLAS_OP_N;
    product.transpose_b = desc.transpose_b != CUBLAS_OP_N;
    product.a = matrix(nullptr, a);
    product.b = matrix(nullptr, b);
    product.c = matrix(nullptr, c);
    product.d = matrix(nullptr, d);
    product.batches = d.batches;
    product.who = "cublasLtMatmul";
    const int64_t m = product.transpose_a ? product.a.cols : product.a.rows;
    const int64_t k = product.transpose_a ? product.a.rows : product.a.cols;
    const int64_t n = product.transpose_b ? product.b.rows : product.b.cols;
    const int64_t k_of_b = product.transpose_b ? product.b.cols : product.b.rows;
    if (!is_matrix(product.a) || !is_matrix(product.b) || !is_matrix(product.c) ||
        !is_matrix(product.d) || k != k_of_b || product.d.rows != m || product.d.cols != n ||
        product.c.rows != m || product.c.cols != n || a.batches != d.batches ||
        b.batches != d.batches || c.batches != d.batches) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (a.type == CUDA_R_8F_E4M3) {
        const cublasStatus_t status = describe_narrow(desc, &product);

        *out = product;
        return status;
    }
    if (a.type != b.type || c.type != d.type || (d.type != a.type && d.type != CUDA_R_32F)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    product.rounding = desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32   ? ROUND_TF32
                       : desc.compute == CUBLAS_COMPUTE_32F_FAST_16BF ? ROUND_BF16
                                                                      : ROUND_NOT;
    if ((product.rounding != ROUND_NOT && a.type != CUDA_R_32F) ||
        (desc.epilogue & ~(uint32_t)(1 | CUBLASLT_EPILOGUE_RELU | CUBLASLT_EPILOGUE_BIAS |
                                     CUBLASLT_EPILOGUE_GELU)) != 0) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    product.relu = (desc.epilogue & CUBLASLT_EPILOGUE_RELU) != 0;
    product.gelu = (desc.epilogue & CUBLASLT_EPILOGUE_GELU) != 0;
    if ((desc.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0) {
        product.bias = desc.bias;
        product.bias_type = desc.bias_type < 0 ? product.d.type : (cudaDataType)desc.bias_type;
        if (product.bias_type != product.d.type) {
            return CUBLAS_STATUS_NOT_SUPPORTED;
        }
    }
    *out = product;
    return CUBLAS_STATUS_SUCCESS;
}

uint64_t kind_of(const Product &product)
{
    return (uint64_t)product.a.type << 32 | (uint64_t)product.d.type << 16 |
           (product.bias != nullptr ? 4u : 0u) | (product.transpose_a ? 2u : 0u) |
           (product.transpose_b ? 1u : 0u);
}

bool is_aligned(const Matrix &m, uint32_t to)
{
    return (uintptr_t)m.p % to == 0 && (m.ld * (int64_t)element_bytes(m.type)) % (int64_t)to == 0;
}

/* Whether the method computes a product of these sizes; where addresses are set, from there. */
bool can_compute(const Method &method, const Product &product)
{
    return product.d.cols % method.columns == 0 && is_aligned(product.a, method.alignment) &&
           is_aligned(product.b, method.alignment) && is_aligned(product.c, method.alignment) &&
           is_aligned(product.d, method.alignment);
}

/* The method of an algorithm that was made for such operands; NULL: there is none. */
const Method *method_of(const cublasLtMatmulAlgo_t *algo, const Product &product)
{
    const Algorithm *algorithm = (const Algorithm *)algo;

    return algorithm->mark == MARK && algorithm->number < (uint64_t)METHOD_COUNT &&
                   algorithm->made_for == kind_of(product)
               ? &METHODS[algorithm->number]
               : nullptr;
}

bool is_preferred(const Method &method, const Preference &preference)
{
    bool aligned = true;

    for (uint32_t alignment : preference.alignment) {
        aligned = aligned && alignment >= method.alignment;
    }
    return aligned && method.workspace <= preference.workspace &&
           (method.reduction & ~preference.reduction) == 0;
}

} // namespace

void emu_blaslt_refuse(int refuses)
{
    refusing = refuses != 0;
}

void emu_blaslt_favour(int number)
{
    favourite = number;
}

uint64_t emu_blaslt_heuristics(void)
{
    return heuristics;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    static int something;

    if (planned_failure()) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    *out = (cublasLtHandle_t)&something;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void)
{
    return (size_t)emu_cublas_version();
}

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    return cublasGetStatusName(status);
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return cublasGetStatusName(status);
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t out, size_t,
                                               cublasComputeType_t compute, cudaDataType_t scale)
{
    const Description desc = { compute,     CUBLAS_OP_N,
                               CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT,
                               nullptr,     -1,
                               nullptr,     nullptr,
                               0,           0 };

    if (scale != CUDA_R_32F ||
        (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC &&
         compute != CUBLAS_COMPUTE_32F_FAST_TF32 && compute != CUBLAS_COMPUTE_32F_FAST_16BF)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    memcpy((void *)out, &desc, sizeof(desc));
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    cublasLtMatmulDesc_t desc = new cublasLtMatmulDescOpaque_t();
    const cublasStatus_t status =
        planned_failure() ? CUBLAS_STATUS_ALLOC_FAILED
                          : cublasLtMatmulDescInit_internal(desc, sizeof(*desc), compute, scale);

    if (status != CUBLAS_STATUS_SUCCESS) {
        delete desc;
        return status;
    }
    *out = desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t opaque,
                                              cublasLtMatmulDescAttributes_t which,
                                              const void *value, size_t bytes)
{
    Description *desc = (Description *)opaque;
    int32_t mode = 0;

    switch (which) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return assign(&desc->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return assign(&desc->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return assign(&desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return assign(&desc->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return assign(&desc->bias_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
        return assign(&desc->scale_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
        return assign(&desc->scale_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
        return assign(&desc->scale_mode_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
        return assign(&desc->scale_mode_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        memcpy(&mode, value, bytes < sizeof(mode) ? bytes : sizeof(mode));
        return mode == CUBLASLT_POINTER_MODE_HOST ? CUBLAS_STATUS_SUCCESS
                                                  : CUBLAS_STATUS_NOT_SUPPORTED;
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t out, size_t,
                                                 cudaDataType type, uint64_t rows, uint64_t cols,
                                                 int64_t ld)
{
    const Layout layout = { (uint32_t)type, rows, cols, ld, CUBLASLT_ORDER_COL, 1, 0 };

    memcpy((void *)out, &layout, sizeof(layout));
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    if (planned_failure()) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    *out = new cublasLtMatrixLayoutOpaque_t();
    return cublasLtMatrixLayoutInit_internal(*out, sizeof(**out), type, rows, cols, ld);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t opaque,
                                                cublasLtMatrixLayoutAttribute_t which,
                                                const void *value, size_t bytes)
{
    Layout *layout = (Layout *)opaque;

    switch (which) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        return assign(&layout->type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return assign(&layout->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return assign(&layout->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return assign(&layout->cols, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return assign(&layout->ld, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return assign(&layout->batches, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return assign(&layout->batch_stride, value, bytes);
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t out, size_t)
{
    const Preference preference = { 0, CUBLASLT_REDUCTION_SCHEME_MASK, { 256, 256, 256, 256 } };

    memcpy((void *)out, &preference, sizeof(preference));
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    if (planned_failure()) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    *out = new cublasLtMatmulPreferenceOpaque_t();
    return cublasLtMatmulPreferenceInit_internal(*out, sizeof(**out));
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t opaque,
                                                    cublasLtMatmulPreferenceAttributes_t which,
                                                    const void *value, size_t bytes)
{
    Preference *preference = (Preference *)opaque;

    switch (which) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return assign(&preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return assign(&preference->reduction, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return assign(&preference->alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return assign(&preference->alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return assign(&preference->alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return assign(&preference->alignment[3], value, bytes);
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int *returned)
{
    Preference standard;
    Product product;
    int found = 0;

    cublasLtMatmulPreferenceInit_internal((cublasLtMatmulPreference_t)&standard, sizeof(standard));
    *returned = 0;
    if (requested < 1) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    heuristics++;
    const cublasStatus_t status =
        describe(*(const Description *)desc, *(const Layout *)a, *(const Layout *)b,
                 *(const Layout *)c, *(const Layout *)d, &product);
    if (status != CUBLAS_STATUS_SUCCESS || refusing || planned_failure()) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    for (int i = METHOD_COUNT - 1; i >= 0 && found < requested; i--) {
        const Algorithm algorithm = { MARK, (uint64_t)i, kind_of(product) };
        cublasLtMatmulHeuristicResult_t *result = &results[found];

        if (!can_compute(METHODS[i], product) ||
            !is_preferred(METHODS[i],
                          preference == nullptr ? standard : *(const Preference *)preference)) {
            continue;
        }
        memset((void *)result, 0, sizeof(*result));
        memcpy((void *)&result->algo, &algorithm, sizeof(algorithm));
        result->workspaceSize = (size_t)METHODS[i].workspace;
        result->state = CUBLAS_STATUS_SUCCESS;
        result->wavesCount = 1.0f;
        found++;
    }
    *returned = found;
    return found > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    Product product;
    const cublasStatus_t status =
        describe(*(const Description *)desc, *(const Layout *)a, *(const Layout *)b,
                 *(const Layout *)c, *(const Layout *)d, &product);

    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    const Method *method = method_of(algo, product);
    if (method == nullptr) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (!can_compute(*method, product)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    result->workspaceSize = (size_t)method->workspace;
    result->state = CUBLAS_STATUS_SUCCESS;
    result->wavesCount = 1.0f;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    Product product;
    const cublasStatus_t status =
        describe(*(const Description *)desc, *(const Layout *)a_layout, *(const Layout *)b_layout,
                 *(const Layout *)c_layout, *(const Layout *)d_layout, &product);

    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    if (workspace_bytes > 0 && (uintptr_t)workspace % 16 != 0) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (product.bias != nullptr && (uintptr_t)product.bias % 16 != 0) {
        /* No preference names its alignment: an algorithm may read it by vectors. */
        fail({ nullptr, 0 }, "cublasLtMatmul: the bias at %p is not aligned to 16 bytes",
             product.bias);
    }
    if (product.scale_a != nullptr &&
        (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d) % 16 != 0)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    product.a.p = (void *)a;
    product.b.p = (void *)b;
    product.c.p = (void *)c;
    product.d.p = d;
    product.alpha = *(const float *)alpha;
    product.beta = *(const float *)beta;
    product.workspace = workspace;
    product.workspace_bytes = workspace_bytes;
    bool slow = false;
    if (algo != nullptr) {
        const Method *method = method_of(algo, product);

        if (method == nullptr || method->workspace > workspace_bytes ||
            !can_compute(*method, product)) {
            return CUBLAS_STATUS_INVALID_VALUE;
        }
        product.workspace_bytes = (size_t)method->workspace;
        product.parts = method->parts;
        product.rounds_partial_sums =
            (method->reduction &
             (CUBLASLT_REDUCTION_SCHEME_INPLACE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE)) != 0;
        slow = favourite >= 0 && method != &METHODS[favourite];
    }
    const auto work = [product, slow]() {
        multiply(product);
        if (slow) {
            pass_time(SLOWER_S);
        }
    };
    if (planned_failure() || enqueue(stream, work, product.who) != cudaSuccess) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    return CUBLAS_STATUS_SUCCESS;
}
