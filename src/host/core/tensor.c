/* tensor.c - shapes and views. */
#include "core/tensor.h"

#include <stdio.h>

size_t csp_dtype_bytes(csp_dtype dtype)
{
    static const size_t bytes[CSP_DTYPE_COUNT] = {
        [CSP_F32] = 4, [CSP_BF16] = 2, [CSP_F16] = 2, [CSP_F64] = 8,
        [CSP_I32] = 4, [CSP_I64] = 8,  [CSP_U8] = 1,  [CSP_E4M3] = 1
    };

    CSP_ASSERT((int)dtype >= 0 && (int)dtype < CSP_DTYPE_COUNT);
    return bytes[dtype];
}

const char *csp_dtype_name(csp_dtype dtype)
{
    static const char *const names[CSP_DTYPE_COUNT] = {
        [CSP_F32] = "f32", [CSP_BF16] = "bf16", [CSP_F16] = "f16", [CSP_F64] = "f64",
        [CSP_I32] = "i32", [CSP_I64] = "i64",   [CSP_U8] = "u8",   [CSP_E4M3] = "e4m3"
    };

    return (int)dtype >= 0 && (int)dtype < CSP_DTYPE_COUNT ? names[dtype] : "unknown";
}

csp_tensor csp_tensor_view(void *data, csp_dtype dtype, int ndim, const int64_t *dims)
{
    csp_tensor t = csp_tensor_none();

    CSP_ASSERT(ndim >= 1 && ndim <= CSP_MAX_DIMS);
    t.data = data;
    t.dtype = dtype;
    t.ndim = ndim;
    for (int i = 0; i < ndim; i++) {
        CSP_ASSERT(dims[i] >= 0);
        t.dim[i] = dims[i];
    }
    return t;
}

int64_t csp_tensor_count(const csp_tensor *t)
{
    int64_t count = t->ndim > 0 ? 1 : 0;

    for (int i = 0; i < t->ndim; i++) {
        CSP_ASSERT(!__builtin_mul_overflow(count, t->dim[i], &count));
    }
    return count;
}

size_t csp_tensor_bytes(const csp_tensor *t)
{
    return (size_t)csp_tensor_count(t) * csp_dtype_bytes(t->dtype);
}

int64_t csp_tensor_row(const csp_tensor *t)
{
    int64_t row = 1;

    for (int i = 1; i < t->ndim; i++) {
        row *= t->dim[i];
    }
    return t->apart > 0 ? t->apart : row;
}

/* The address of an element; NULL where there is no memory. */
static void *element(const csp_tensor *t, int64_t at)
{
    return t->data != NULL ? (char *)t->data + (size_t)at * csp_dtype_bytes(t->dtype) : NULL;
}

csp_tensor csp_tensor_rows(const csp_tensor *t, int64_t first, int64_t count)
{
    csp_tensor rows = *t;

    CSP_ASSERT(t->ndim >= 1 && first >= 0 && count >= 0 && first + count <= t->dim[0]);
    rows.dim[0] = count;
    rows.data = element(t, first * csp_tensor_row(t));
    return rows;
}

csp_tensor csp_tensor_columns(const csp_tensor *t, int64_t first, int64_t count)
{
    csp_tensor columns = *t;

    CSP_ASSERT(t->ndim == 2 && first >= 0 && count >= 0 && first + count <= t->dim[1]);
    columns.dim[1] = count;
    columns.apart = csp_tensor_row(t) == count ? 0 : csp_tensor_row(t);
    columns.data = element(t, first);
    return columns;
}

/* Whether two matrices are there, of one type, their rows as far from one another. */
static bool is_alike(const csp_tensor *a, const csp_tensor *b)
{
    return a->ndim == 2 && b->ndim == 2 && a->data != NULL && a->dtype == b->dtype &&
           csp_tensor_row(a) == csp_tensor_row(b);
}

bool csp_tensor_is_beside(const csp_tensor *a, const csp_tensor *b)
{
    return is_alike(a, b) && a->dim[1] + b->dim[1] <= csp_tensor_row(a) &&
           b->data == element(a, a->dim[1]);
}

bool csp_tensor_is_below(const csp_tensor *a, const csp_tensor *b)
{
    return is_alike(a, b) && b->data == element(a, a->dim[0] * csp_tensor_row(a));
}

bool csp_tensor_is(const csp_tensor *t, csp_dtype dtype, int ndim, const int64_t *dims)
{
    bool same = t->ndim == ndim && t->dtype == dtype;

    for (int i = 0; same && i < ndim; i++) {
        same = t->dim[i] == dims[i];
    }
    return same;
}

const char *csp_tensor_describe(const csp_tensor *t, char *text, size_t bytes)
{
    int used = snprintf(text, bytes, "%s (", csp_dtype_name(t->dtype));

    for (int i = 0; i < t->ndim && used >= 0 && (size_t)used < bytes; i++) {
        used += snprintf(text + used, bytes - (size_t)used, i > 0 ? ",%lld" : "%lld",
                         (long long)t->dim[i]);
    }
    if (used >= 0 && (size_t)used < bytes) {
        snprintf(text + used, bytes - (size_t)used, t->apart > 0 ? ") in rows %lld apart" : ")",
                 (long long)t->apart);
    }
    return text;
}
