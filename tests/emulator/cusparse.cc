/*
 * cusparse.cc - the fake cuSPARSE: products of a CSR matrix, plain or transposed, with a dense one.
 */
#include <cusparse.h>

#include <vector>

#include "emulator/control.h"
#include "emulator/product.h"
#include "emulator/sanitizer.h"

using namespace emu;

struct cusparseContext {
    cudaStream_t stream;
};

struct cusparseSpMatDescr {
    int64_t rows, cols, nnz;
    const void *row_start, *column, *value;
    bool wide_start, wide_column; /* 64-bit indices */
    int base;
    cudaDataType type;
};

struct cusparseDnMatDescr {
    Matrix m;
};

namespace
{

size_t asked = 0; /* emu_cusparse_ask */

/* What a product asks for: more for more nonzeros and rows. */
size_t buffer_bytes(const cusparseSpMatDescr &a)
{
    return asked > 0 ? asked : (size_t)(1024 + 8 * a.nnz + 4 * a.rows);
}

int64_t index_at(const void *p, bool wide, int64_t i)
{
    return wide ? ((const int64_t *)p)[i] : (int64_t)((const int32_t *)p)[i];
}

/* c := alpha op(a) op(b) + beta c; sums in f32 in the order of the nonzeros. */
void compute(const cusparseSpMatDescr &a, bool transpose_a, const Matrix &b, bool transpose_b,
             const Matrix &c, float alpha, float beta)
{
    std::vector<float> sum((size_t)(c.rows * c.cols), 0.0f);

    for (int64_t row = 0; row < a.rows; row++) {
        const int64_t begin = index_at(a.row_start, a.wide_start, row) - a.base;
        const int64_t end = index_at(a.row_start, a.wide_start, row + 1) - a.base;

        for (int64_t i = begin; i < end; i++) {
            const int64_t column = index_at(a.column, a.wide_column, i) - a.base;
            const int64_t from = transpose_a ? row : column, to = transpose_a ? column : row;

            for (int64_t j = 0; j < c.cols; j++) {
                const int64_t r = transpose_b ? j : from, s = transpose_b ? from : j;

                sum[(size_t)(to * c.cols + j)] +=
                    load_element(a.value, a.type, i) *
                    load_element(b.p, b.type, b.row_order ? r * b.ld + s : s * b.ld + r);
            }
        }
    }
    for (int64_t i = 0; i < c.rows; i++) {
        for (int64_t j = 0; j < c.cols; j++) {
            const int64_t at = c.row_order ? i * c.ld + j : j * c.ld + i;
            const float old = beta != 0.0f ? beta * load_element(c.p, c.type, at) : 0.0f;

            store_element(c.p, c.type, at, alpha * sum[(size_t)(i * c.cols + j)] + old);
        }
    }
}

/* Ends the process unless rows are all nonzeros, one after the other, and all indices lie inside. */
void check_indices(const cusparseSpMatDescr &a, const char *who)
{
    const int64_t first = index_at(a.row_start, a.wide_start, 0) - a.base;
    const int64_t last = index_at(a.row_start, a.wide_start, a.rows) - a.base;

    if (first != 0 || last != a.nnz) {
        fail({ nullptr, 0 }, "%s: rows go from %lld to %lld of %lld nonzeros", who,
             (long long)first, (long long)last, (long long)a.nnz);
    }
    for (int64_t row = 0; row < a.rows; row++) {
        const int64_t begin = index_at(a.row_start, a.wide_start, row) - a.base;
        const int64_t end = index_at(a.row_start, a.wide_start, row + 1) - a.base;

        if (begin < 0 || end < begin || end > a.nnz) {
            fail({ nullptr, 0 }, "%s: row %lld goes from %lld to %lld of %lld nonzeros", who,
                 (long long)row, (long long)begin, (long long)end, (long long)a.nnz);
        }
        for (int64_t i = begin; i < end; i++) {
            const int64_t column = index_at(a.column, a.wide_column, i) - a.base;

            if (column < 0 || column >= a.cols) {
                fail({ nullptr, 0 }, "%s: column %lld of %lld", who, (long long)column,
                     (long long)a.cols);
            }
        }
    }
}

void spmm(const cusparseSpMatDescr &a, bool transpose_a, const Matrix &b, bool transpose_b,
          const Matrix &c, float alpha, float beta)
{
    const char *who = "cusparseSpMM";

    check_read(a.row_start, (size_t)(a.rows + 1) * (a.wide_start ? 8 : 4), who);
    check_read(a.column, (size_t)a.nnz * (a.wide_column ? 8 : 4), who);
    check_read(a.value, (size_t)a.nnz * element_bytes(a.type), who);
    check_indices(a, who);
    check_matrix(b, false, who);
    if (beta != 0.0f) {
        check_matrix(c, false, who);
    }
    check_matrix(c, true, who);
    tsan_ignore_begin();
    compute(a, transpose_a, b, transpose_b, c, alpha, beta);
    tsan_ignore_end();
}

bool is_index(cusparseIndexType_t type)
{
    return type == CUSPARSE_INDEX_32I || type == CUSPARSE_INDEX_64I;
}

/* The sizes of a product agree, and its types are emulated. */
cusparseStatus_t check_product(bool transpose_a, bool transpose_b, const cusparseSpMatDescr *a,
                               const Matrix &b, const Matrix &c, cudaDataType compute,
                               cusparseSpMMAlg_t algorithm)
{
    const int64_t m = transpose_a ? a->cols : a->rows, k = transpose_a ? a->rows : a->cols;
    const int64_t k_of_b = transpose_b ? b.cols : b.rows, n = transpose_b ? b.rows : b.cols;

    if (c.rows != m || c.cols != n || k != k_of_b) {
        return CUSPARSE_STATUS_INVALID_VALUE;
    }
    if (algorithm == CUSPARSE_SPMM_CSR_ALG3 && transpose_a) {
        return CUSPARSE_STATUS_NOT_SUPPORTED; /* it has no such form */
    }
    return compute == CUDA_R_32F && a->type == b.type && a->type != CUDA_R_8F_E4M3 &&
                   (c.type == a->type || c.type == CUDA_R_32F)
               ? CUSPARSE_STATUS_SUCCESS
               : CUSPARSE_STATUS_NOT_SUPPORTED;
}

} // namespace

void emu_cusparse_ask(uint64_t bytes)
{
    asked = (size_t)bytes;
}

cusparseStatus_t cusparseCreate(cusparseHandle_t *out)
{
    if (planned_failure()) {
        return CUSPARSE_STATUS_NOT_INITIALIZED;
    }
    *out = new cusparseContext { nullptr };
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseDestroy(cusparseHandle_t handle)
{
    delete handle;
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSetStream(cusparseHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseGetProperty(libraryPropertyType which, int *value)
{
    *value = which == MAJOR_VERSION   ? CUSPARSE_VER_MAJOR
             : which == MINOR_VERSION ? CUSPARSE_VER_MINOR
                                      : CUSPARSE_VER_PATCH;
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseGetVersion(cusparseHandle_t, int *version)
{
    *version = CUSPARSE_VERSION;
    return CUSPARSE_STATUS_SUCCESS;
}

const char *cusparseGetErrorName(cusparseStatus_t status)
{
    switch (status) {
    case CUSPARSE_STATUS_SUCCESS:
        return "CUSPARSE_STATUS_SUCCESS";
    case CUSPARSE_STATUS_NOT_INITIALIZED:
        return "CUSPARSE_STATUS_NOT_INITIALIZED";
    case CUSPARSE_STATUS_ALLOC_FAILED:
        return "CUSPARSE_STATUS_ALLOC_FAILED";
    case CUSPARSE_STATUS_INVALID_VALUE:
        return "CUSPARSE_STATUS_INVALID_VALUE";
    case CUSPARSE_STATUS_NOT_SUPPORTED:
        return "CUSPARSE_STATUS_NOT_SUPPORTED";
    default:
        return "CUSPARSE_STATUS_EXECUTION_FAILED";
    }
}

const char *cusparseGetErrorString(cusparseStatus_t status)
{
    return cusparseGetErrorName(status);
}

cusparseStatus_t cusparseCreateConstCsr(cusparseConstSpMatDescr_t *out, int64_t rows, int64_t cols,
                                        int64_t nnz, const void *row_start, const void *column,
                                        const void *value, cusparseIndexType_t start_type,
                                        cusparseIndexType_t column_type, cusparseIndexBase_t base,
                                        cudaDataType type)
{
    if (planned_failure()) {
        return CUSPARSE_STATUS_ALLOC_FAILED;
    }
    if (rows < 0 || cols < 0 || nnz < 0 || !is_index(start_type) || !is_index(column_type)) {
        return CUSPARSE_STATUS_INVALID_VALUE;
    }
    if (element_bytes(type) == 0) {
        return CUSPARSE_STATUS_NOT_SUPPORTED;
    }
    *out = new cusparseSpMatDescr { rows,
                                    cols,
                                    nnz,
                                    row_start,
                                    column,
                                    value,
                                    start_type == CUSPARSE_INDEX_64I,
                                    column_type == CUSPARSE_INDEX_64I,
                                    base == CUSPARSE_INDEX_BASE_ONE,
                                    type };
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseCreateCsr(cusparseSpMatDescr_t *out, int64_t rows, int64_t cols,
                                   int64_t nnz, void *row_start, void *column, void *value,
                                   cusparseIndexType_t start_type, cusparseIndexType_t column_type,
                                   cusparseIndexBase_t base, cudaDataType type)
{
    cusparseConstSpMatDescr_t made = nullptr;
    const cusparseStatus_t status = cusparseCreateConstCsr(
        &made, rows, cols, nnz, row_start, column, value, start_type, column_type, base, type);

    if (status == CUSPARSE_STATUS_SUCCESS) {
        *out = (cusparseSpMatDescr_t)made;
    }
    return status;
}

cusparseStatus_t cusparseCsrSetPointers(cusparseSpMatDescr_t a, void *row_start, void *column,
                                        void *value)
{
    a->row_start = row_start;
    a->column = column;
    a->value = value;
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseDestroySpMat(cusparseConstSpMatDescr_t a)
{
    delete a;
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseCreateConstDnMat(cusparseConstDnMatDescr_t *out, int64_t rows,
                                          int64_t cols, int64_t ld, const void *values,
                                          cudaDataType type, cusparseOrder_t order)
{
    const Matrix m = { (void *)values, type, rows, cols, ld, order == CUSPARSE_ORDER_ROW, 0 };

    if (planned_failure()) {
        return CUSPARSE_STATUS_ALLOC_FAILED;
    }
    if (!is_matrix(m)) {
        return CUSPARSE_STATUS_INVALID_VALUE;
    }
    *out = new cusparseDnMatDescr { m };
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseCreateDnMat(cusparseDnMatDescr_t *out, int64_t rows, int64_t cols,
                                     int64_t ld, void *values, cudaDataType type,
                                     cusparseOrder_t order)
{
    cusparseConstDnMatDescr_t made = nullptr;
    const cusparseStatus_t status =
        cusparseCreateConstDnMat(&made, rows, cols, ld, values, type, order);

    if (status == CUSPARSE_STATUS_SUCCESS) {
        *out = (cusparseDnMatDescr_t)made;
    }
    return status;
}

cusparseStatus_t cusparseDnMatSetValues(cusparseDnMatDescr_t m, void *values)
{
    m->m.p = values;
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseDestroyDnMat(cusparseConstDnMatDescr_t m)
{
    delete m;
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSpMM_bufferSize(cusparseHandle_t, cusparseOperation_t op_a,
                                         cusparseOperation_t op_b, const void *,
                                         cusparseConstSpMatDescr_t a, cusparseConstDnMatDescr_t b,
                                         const void *, cusparseDnMatDescr_t c, cudaDataType compute,
                                         cusparseSpMMAlg_t algorithm, size_t *bytes)
{
    *bytes = buffer_bytes(*a);
    return check_product(op_a != CUSPARSE_OPERATION_NON_TRANSPOSE,
                         op_b != CUSPARSE_OPERATION_NON_TRANSPOSE, a, b->m, c->m, compute,
                         algorithm);
}

cusparseStatus_t cusparseSpMM(cusparseHandle_t handle, cusparseOperation_t op_a,
                              cusparseOperation_t op_b, const void *alpha,
                              cusparseConstSpMatDescr_t a, cusparseConstDnMatDescr_t b,
                              const void *beta, cusparseDnMatDescr_t c, cudaDataType compute,
                              cusparseSpMMAlg_t algorithm, void *buffer)
{
    const bool transpose_a = op_a != CUSPARSE_OPERATION_NON_TRANSPOSE;
    const bool transpose_b = op_b != CUSPARSE_OPERATION_NON_TRANSPOSE;
    const cusparseStatus_t status =
        check_product(transpose_a, transpose_b, a, b->m, c->m, compute, algorithm);
    const float by = *(const float *)alpha, keep = *(const float *)beta;
    const cusparseSpMatDescr sparse = *a;
    const Matrix dense = b->m, out = c->m;

    if (status != CUSPARSE_STATUS_SUCCESS) {
        return status;
    }
    if (planned_failure() || buffer == nullptr) {
        return CUSPARSE_STATUS_EXECUTION_FAILED;
    }
    if (enqueue(
            handle->stream,
            [=]() {
                spoil(buffer, buffer_bytes(sparse), "cusparseSpMM");
                spmm(sparse, transpose_a, dense, transpose_b, out, by, keep);
            },
            "cusparseSpMM") != cudaSuccess) {
        return CUSPARSE_STATUS_EXECUTION_FAILED;
    }
    return CUSPARSE_STATUS_SUCCESS;
}

/* Its result would be kept in the buffer, which is the library's from now on: it is spoiled. */
cusparseStatus_t cusparseSpMM_preprocess(cusparseHandle_t handle, cusparseOperation_t,
                                         cusparseOperation_t, const void *,
                                         cusparseConstSpMatDescr_t a, cusparseConstDnMatDescr_t,
                                         const void *, cusparseDnMatDescr_t, cudaDataType,
                                         cusparseSpMMAlg_t, void *buffer)
{
    const size_t bytes = buffer_bytes(*a);

    return enqueue(
               handle->stream, [=]() { spoil(buffer, bytes, "cusparseSpMM"); }, "cusparseSpMM") ==
                   cudaSuccess
               ? CUSPARSE_STATUS_SUCCESS
               : CUSPARSE_STATUS_EXECUTION_FAILED;
}
