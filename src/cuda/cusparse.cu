/*
 * cusparse.cu - opens cuSPARSE, and multiplies a CSR matrix by it.
 *
 * The algorithm is CSR_ALG3 on a matrix that is not transposed: of those for CSR the one that
 * NVIDIA says gives the same bits on every run; of the library of CUDA 13.0 its release notes say
 * that it does not.
 */
#include "cusparse.cuh"

#include <stdio.h>
#include <stdlib.h>

#include "core/memory.h"
#include "core/size.h"
#include "launch.cuh"
#include "library.cuh"

/* "libcusparse.so.12", of the version that it was compiled for. */
#define AS_TEXT(x) #x
#define VERSION_TEXT(x) AS_TEXT(x)
static const char file_name[] = "libcusparse.so." VERSION_TEXT(CUSPARSE_VER_MAJOR);

struct cusparse_state {
    void *library;
    cusparse_table table;
    cusparseHandle_t handle;
    cuda_block buffer;
};

template <typename function>
static csp_status find(const cuda_state *state, void *library, const char *name, function *out)
{
    return cu::library_find(library, state->name, file_name, name, out);
}

static csp_status find_all(const cuda_state *state, void *library, cusparse_table *t)
{
    CSP_TRY(find(state, library, "cusparseCreate", &t->create));
    CSP_TRY(find(state, library, "cusparseDestroy", &t->destroy));
    CSP_TRY(find(state, library, "cusparseSetStream", &t->set_stream));
    CSP_TRY(find(state, library, "cusparseGetErrorString", &t->error_string));
    CSP_TRY(find(state, library, "cusparseCreateConstCsr", &t->create_csr));
    CSP_TRY(find(state, library, "cusparseDestroySpMat", &t->destroy_sparse));
    CSP_TRY(find(state, library, "cusparseCreateConstDnMat", &t->create_const_dense));
    CSP_TRY(find(state, library, "cusparseCreateDnMat", &t->create_dense));
    CSP_TRY(find(state, library, "cusparseDestroyDnMat", &t->destroy_dense));
    CSP_TRY(find(state, library, "cusparseSpMM_bufferSize", &t->product_bytes));
    return find(state, library, "cusparseSpMM", &t->product);
}

static csp_status failed(const csp_backend *be, const cusparse_table *t, const char *what,
                         cusparseStatus_t status)
{
    const cuda_state *state = (const cuda_state *)be->state;

    return CSP_FAIL(status == CUSPARSE_STATUS_ALLOC_FAILED ? CSP_ERR_MEMORY : CSP_ERR_DEVICE,
                    "%s: %s: cuSPARSE %s: %s", state->name, state->op, what,
                    t->error_string(status));
}

csp_status cuda_cusparse(csp_backend *be, const cusparse_table **out)
{
    cuda_state *state = cuda_state_of(be);
    struct cusparse_state *s;
    cusparseStatus_t started;
    const char *reason;
    csp_status status;

    if (state->cusparse != NULL) {
        *out = &state->cusparse->table;
        return CSP_OK;
    }
    CSP_TRY(csp_alloc_zero("cuSPARSE", 1, sizeof(*s), &s));
    state->cusparse = s;
    s->library = cu::library_open(file_name, &reason);
    if (s->library == NULL) {
        CSP_TRY_GOTO(CSP_FAIL(CSP_ERR_DEVICE,
                              "%s: cuSPARSE was asked for and cannot be opened: %s: install the "
                              "CUDA toolkit, or pip's nvidia-cusparse, and name its folder in "
                              "LD_LIBRARY_PATH",
                              state->name, reason));
    }
    CSP_TRY_GOTO(find_all(state, s->library, &s->table));
    started = s->table.create(&s->handle);
    if (started == CUSPARSE_STATUS_SUCCESS) {
        started = s->table.set_stream(s->handle, state->stream);
    }
    if (started != CUSPARSE_STATUS_SUCCESS) {
        CSP_TRY_GOTO(failed(be, &s->table, "does not start", started));
    }
    *out = &s->table;
    return CSP_OK;

fail:
    cuda_cusparse_close(state);
    return status;
}

void cuda_cusparse_version(char *text, size_t bytes)
{
    const char *reason;
    void *library = cu::library_open(file_name, &reason), *at;
    int version[3] = { 0, 0, 0 };

    (void)snprintf(text, bytes, "not found");
    if (library == NULL) {
        return;
    }
    at = cu::library_function(library, "cusparseGetProperty");
    if (at != NULL) {
        const auto ask = (decltype(&::cusparseGetProperty))at;

        (void)ask(MAJOR_VERSION, &version[0]);
        (void)ask(MINOR_VERSION, &version[1]);
        (void)ask(PATCH_LEVEL, &version[2]);
        (void)snprintf(text, bytes, "%d.%d.%d", version[0], version[1], version[2]);
    }
    cu::library_close(library);
}

size_t cuda_cusparse_bytes(const cuda_state *state)
{
    return state->cusparse != NULL ? state->cusparse->buffer.bytes : 0;
}

void cuda_cusparse_close(cuda_state *state)
{
    struct cusparse_state *s = state->cusparse;

    if (s == NULL) {
        return;
    }
    if (s->handle != NULL) {
        (void)s->table.destroy(s->handle);
    }
    (void)cudaFree(s->buffer.at);
    if (s->library != NULL) {
        cu::library_close(s->library);
    }
    free(s);
    state->cusparse = NULL;
}

/* The library's scratch memory, of at least bytes and never none; at most what is planned for. */
static csp_status grow(csp_backend *be, size_t bytes, const cusparse_product *m)
{
    cuda_state *state = cuda_state_of(be);
    cuda_block *buffer = &state->cusparse->buffer;
    const size_t more = csp_size_round_up(bytes + bytes / 4 + 1, 4096);
    const size_t wanted = more < CSP_POOL_CUSPARSE_BYTES ? more : CSP_POOL_CUSPARSE_BYTES;

    if (buffer->at != NULL && bytes <= buffer->bytes) {
        return CSP_OK;
    }
    if (bytes > CSP_POOL_CUSPARSE_BYTES) {
        return CSP_FAIL(CSP_ERR_MEMORY,
                        "%s: %s: cuSPARSE asks for %zu bytes to multiply %lld entries, %zu are "
                        "planned for it: name another device.head_backward",
                        state->name, state->op, bytes, (long long)m->entries,
                        CSP_POOL_CUSPARSE_BYTES);
    }
    CSP_TRY(cuda_wait_all(be));
    CUDA_TRY(cudaFree(buffer->at));
    *buffer = {};
    CSP_TRY(cuda_allocate(state, "cuSPARSE", wanted, &buffer->at));
    buffer->bytes = wanted;
    return CSP_OK;
}

static cudaDataType type_of(csp_dtype S)
{
    return S == CSP_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* A product's matrices as the library sees them; NULL: not made. */
typedef struct matrices {
    cusparseConstSpMatDescr_t a;
    cusparseConstDnMatDescr_t b;
    cusparseDnMatDescr_t c;
} matrices;

static csp_status describe(csp_backend *be, const cusparse_table *t, const cusparse_product *m,
                           matrices *out)
{
    const cudaDataType in = type_of(m->in);
    cusparseStatus_t status =
        t->create_csr(&out->a, m->rows, m->columns, m->entries, m->start, m->column, m->value,
                      CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, in);

    if (status == CUSPARSE_STATUS_SUCCESS) {
        status =
            t->create_const_dense(&out->b, m->columns, m->D, m->D, m->b, in, CUSPARSE_ORDER_ROW);
    }
    if (status == CUSPARSE_STATUS_SUCCESS) {
        status = t->create_dense(&out->c, m->rows, m->D, m->D, m->c, type_of(m->out),
                                 CUSPARSE_ORDER_ROW);
    }
    return status == CUSPARSE_STATUS_SUCCESS ? CSP_OK : failed(be, t, "takes no matrix", status);
}

static csp_status multiply(csp_backend *be, const cusparse_table *t, const cusparse_product *p,
                           const matrices *m)
{
    struct cusparse_state *s = cuda_state_of(be)->cusparse;
    const cusparseOperation_t plain = CUSPARSE_OPERATION_NON_TRANSPOSE;
    const float alpha = 1.0f;
    size_t bytes = 0;
    cusparseStatus_t status =
        t->product_bytes(s->handle, plain, plain, &alpha, m->a, m->b, &p->beta, m->c, CUDA_R_32F,
                         CUSPARSE_SPMM_CSR_ALG3, &bytes);

    if (status != CUSPARSE_STATUS_SUCCESS) {
        return failed(be, t, "product", status);
    }
    CSP_TRY(grow(be, bytes, p));
    status = t->product(s->handle, plain, plain, &alpha, m->a, m->b, &p->beta, m->c, CUDA_R_32F,
                        CUSPARSE_SPMM_CSR_ALG3, s->buffer.at);
    return status == CUSPARSE_STATUS_SUCCESS ? CSP_OK : failed(be, t, "product", status);
}

csp_status cuda_cusparse_product(csp_backend *be, const cusparse_product *m)
{
    const cusparse_table *t;
    matrices made = {};
    csp_status status;

    CSP_TRY(cuda_cusparse(be, &t));
    status = describe(be, t, m, &made);
    if (status == CSP_OK) {
        status = multiply(be, t, m, &made);
    }
    /* The product is enqueued; what described its matrices is no longer needed. */
    if (made.a != NULL) {
        (void)t->destroy_sparse(made.a);
    }
    if (made.b != NULL) {
        (void)t->destroy_dense(made.b);
    }
    if (made.c != NULL) {
        (void)t->destroy_dense(made.c);
    }
    return status;
}
