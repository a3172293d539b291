/*
 * cusparse.cuh - cuSPARSE, which is opened when it is first asked for: csplade runs without it.
 */
#pragma once

#include <cusparse.h>

#include "device.h"

/* Its functions that are used here. */
typedef struct cusparse_table {
    decltype(&::cusparseCreate) create;
    decltype(&::cusparseDestroy) destroy;
    decltype(&::cusparseSetStream) set_stream;
    decltype(&::cusparseGetErrorString) error_string;
    decltype(&::cusparseCreateConstCsr) create_csr;
    decltype(&::cusparseDestroySpMat) destroy_sparse;
    decltype(&::cusparseCreateConstDnMat) create_const_dense;
    decltype(&::cusparseCreateDnMat) create_dense;
    decltype(&::cusparseDestroyDnMat) destroy_dense;
    decltype(&::cusparseSpMM_bufferSize) product_bytes;
    decltype(&::cusparseSpMM) product;
} cusparse_table;

/*
 * The functions, the library being open and started for be.
 *
 * Errors: CSP_ERR_DEVICE: it is not found, has not all of them, or does not start; in words.
 *         CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status cuda_cusparse(csp_backend *be, const cusparse_table **out);

/* Writes "12.6.3", or "not found" where the loader has none. Does not keep it open. */
void cuda_cusparse_version(char *text, size_t bytes);

/* Device memory that it has been given to work in so far. */
size_t cuda_cusparse_bytes(const cuda_state *state);

/* Closes it if it was opened. */
void cuda_cusparse_close(cuda_state *state);

/*
 * C (rows,D) = A (rows,columns) B (columns,D) + beta C with A as CSR, the same bits on every run as
 * far as the library keeps its word (cusparse.cu).
 *
 *   entries  in  of A, which the library takes from the host
 *   start    in  (rows+1) i32, column (entries) i32, value (entries) as B is stored
 *   in       in  storage of value and B; out: of C, in or f32. Products and sums in f32.
 *
 * The library's own scratch memory grows as the backend's does, up to CSP_POOL_CUSPARSE_BYTES.
 * Errors: CSP_ERR_DEVICE, CSP_ERR_MEMORY.
 */
typedef struct cusparse_product {
    int64_t rows, columns, D, entries;
    const int32_t *start, *column;
    const void *value, *b;
    void *c;
    csp_dtype in, out;
    float beta;
} cusparse_product;

CSP_CHECKED csp_status cuda_cusparse_product(csp_backend *be, const cusparse_product *m);
