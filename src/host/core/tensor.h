/*
 * tensor.h - a typed, shaped view of memory. Row-major, never owns what it points to. Contiguous,
 * but for matrices that are columns of a wider one: their rows lie apart.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Never renumber: checkpoints store these. */
typedef enum csp_dtype {
    CSP_F32 = 0,
    CSP_BF16 = 1,
    CSP_F16 = 2,
    CSP_F64 = 3,
    CSP_I32 = 4,
    CSP_I64 = 5,
    CSP_U8 = 6,
    CSP_E4M3 = 7,
    CSP_DTYPE_COUNT
} csp_dtype;

enum { CSP_MAX_DIMS = 4 };

typedef struct csp_tensor {
    void *data; /* NULL while only measured, or an absent optional tensor */
    csp_dtype dtype;
    int32_t ndim;              /* 0: no tensor */
    int64_t dim[CSP_MAX_DIMS]; /* dim[i] = 1 for i >= ndim */
    int64_t apart; /* 0: contiguous; else, of a matrix, elements from one row to the next */
} csp_tensor;

/* A tensor that is not there: what optional arguments are set to. */
static inline csp_tensor csp_tensor_none(void)
{
    csp_tensor t = { NULL, CSP_F32, 0, { 1, 1, 1, 1 }, 0 };
    return t;
}

/* Bytes of one element. */
size_t csp_dtype_bytes(csp_dtype dtype);

/* "f32", "bf16", ... */
const char *csp_dtype_name(csp_dtype dtype);

/* A view of data. dims holds ndim sizes >= 0, ndim in 1..CSP_MAX_DIMS (asserted). */
csp_tensor csp_tensor_view(void *data, csp_dtype dtype, int ndim, const int64_t *dims);

/* Number of elements, 0 for csp_tensor_none(). */
int64_t csp_tensor_count(const csp_tensor *t);

/* Bytes of the elements; what lies between rows apart is not counted. */
size_t csp_tensor_bytes(const csp_tensor *t);

/* Rows first .. first+count-1 of the leading dimension, as a view. Asserts the range. */
csp_tensor csp_tensor_rows(const csp_tensor *t, int64_t first, int64_t count);

/* Elements from one row of the leading dimension to the next. */
int64_t csp_tensor_row(const csp_tensor *t);

/* Columns first .. first+count-1 of a matrix, as a view. Asserts the range. */
csp_tensor csp_tensor_columns(const csp_tensor *t, int64_t first, int64_t count);

/*
 * Whether the columns of b come right behind those of a, in the same rows of one wider matrix; and
 * whether the rows of b come right below those of a, at the same distance. Not if either is none.
 */
bool csp_tensor_is_beside(const csp_tensor *a, const csp_tensor *b);
bool csp_tensor_is_below(const csp_tensor *a, const csp_tensor *b);

/* Whether t has just this dtype and these dimensions. */
bool csp_tensor_is(const csp_tensor *t, csp_dtype dtype, int ndim, const int64_t *dims);

/* Writes "f32 (3,4)" into text (at least 96 bytes); returns text. For error messages. */
const char *csp_tensor_describe(const csp_tensor *t, char *text, size_t bytes);

#ifdef __cplusplus
}
#endif
