/* check.c - one sentence for every tensor of the wrong shape. */
#include "ops/check.h"

enum { DESCRIPTION = 128 };

static csp_status check_memory(const char *op, const char *name, const csp_tensor *t)
{
    if (t->data == NULL && csp_tensor_count(t) > 0) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: %s has a shape but no memory", op, name);
    }
    return CSP_OK;
}

csp_status csp_check_tensor(const char *op, const char *name, const csp_tensor *t, csp_dtype dtype,
                            int ndim, const int64_t *dims)
{
    if (!csp_check_given(t) || !csp_tensor_is(t, dtype, ndim, dims) || t->apart > 0) {
        const csp_tensor want = csp_tensor_view(NULL, dtype, ndim, dims);
        char wanted[DESCRIPTION], given[DESCRIPTION];

        return CSP_FAIL(CSP_ERR_SHAPE, "%s: %s must be %s, not %s", op, name,
                        csp_tensor_describe(&want, wanted, sizeof(wanted)),
                        csp_check_given(t) ? csp_tensor_describe(t, given, sizeof(given)) : "none");
    }
    return check_memory(op, name, t);
}

csp_status csp_check_matrix(const csp_backend *be, const char *op, const char *name,
                            const csp_tensor *t, csp_dtype dtype, int64_t rows, int64_t columns)
{
    csp_tensor dense = t != NULL ? *t : csp_tensor_none();

    dense.apart = 0;
    CSP_TRY(csp_check_tensor(op, name, &dense, dtype, 2, (int64_t[]) { rows, columns }));
    if (t->apart > 0 && !be->apart) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: the rows of %s lie apart, which %s has not", op,
                        name, be->name);
    }
    if (t->apart > 0 && t->apart < columns) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: the rows of %s overlap", op, name);
    }
    return CSP_OK;
}

csp_status csp_check_rank(const char *op, const char *name, const csp_tensor *t, csp_dtype dtype,
                          int ndim)
{
    if (!csp_check_given(t) || t->dtype != dtype || t->ndim != ndim || t->apart > 0) {
        char given[DESCRIPTION];

        return CSP_FAIL(CSP_ERR_SHAPE, "%s: %s must be %s with %d dimensions, not %s", op, name,
                        csp_dtype_name(dtype), ndim,
                        csp_check_given(t) ? csp_tensor_describe(t, given, sizeof(given)) : "none");
    }
    return check_memory(op, name, t);
}

csp_status csp_check_fp8_rows(const char *op, const csp_fp8_rows *rows, int64_t N, int64_t K)
{
    if (!csp_check_fp8_given(rows)) {
        return CSP_OK;
    }
    CSP_TRY(csp_check_tensor(op, "q", &rows->q, CSP_E4M3, 2, (int64_t[]) { N, K }));
    return csp_check_tensor(op, "scale", &rows->scale, CSP_F32, 1, &N);
}

csp_status csp_check_storage(const csp_backend *be, const char *op, const char *name,
                             const csp_tensor *t, int ndim, csp_dtype *out)
{
    const bool is_bf16 = csp_check_given(t) && t->dtype == CSP_BF16;

    CSP_TRY(csp_check_rank(op, name, t, is_bf16 ? CSP_BF16 : CSP_F32, ndim));
    if (is_bf16 && !be->bf16) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "%s: %s is bf16, with which %s does not compute: bf16 needs a CUDA device",
                        op, name, be->name);
    }
    *out = t->dtype;
    return CSP_OK;
}

/* Bytes from the first element to the last. */
static size_t extent(const csp_tensor *t)
{
    const int64_t between = t->apart > 0 && t->dim[0] > 0 ? t->apart - t->dim[1] : 0;

    return csp_tensor_bytes(t) + (size_t)(between * (t->dim[0] - 1)) * csp_dtype_bytes(t->dtype);
}

bool csp_check_apart(const csp_tensor *a, const csp_tensor *b)
{
    const char *a_at = a->data, *b_at = b->data;

    if (a_at != NULL && b_at != NULL && a->apart > 0 && a->apart == b->apart) {
        /* Of one matrix: other columns, or other rows. */
        const size_t size = csp_dtype_bytes(a->dtype), row = (size_t)a->apart * size;
        const size_t distance = a_at < b_at ? (size_t)(b_at - a_at) : (size_t)(a_at - b_at);
        const csp_tensor *low = a_at < b_at ? a : b, *high = a_at < b_at ? b : a;

        return distance / row >= (size_t)low->dim[0] ||
               (distance % row >= (size_t)low->dim[1] * size &&
                distance % row + (size_t)high->dim[1] * size <= row);
    }
    return a_at == NULL || b_at == NULL || a_at + extent(a) <= b_at || b_at + extent(b) <= a_at;
}
