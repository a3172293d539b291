/* param_values.c - conversion by pieces, so that no second copy of a large tensor is made. */
#include "model/param_values.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/scalar.h"

enum { PIECE = 1 << 20 };

/*
 * As many elements from first on as one view can hold, at most n: all of them, or of a matrix whose
 * rows lie apart a part of a row, or whole rows.
 */
static csp_tensor part_of(const csp_tensor *t, int64_t first, int64_t n)
{
    const int64_t columns = t->dim[1], column = first % columns;
    const size_t size = csp_dtype_bytes(t->dtype);
    int64_t at = first;

    if (t->apart > 0 && column == 0 && n >= columns) {
        return csp_tensor_rows(t, first / columns, n / columns);
    }
    if (t->apart > 0) {
        at = first / columns * t->apart + column;
        n = n < columns - column ? n : columns - column;
    }
    return csp_tensor_view((char *)t->data + (size_t)at * size, t->dtype, 1, &n);
}

csp_status csp_tensor_upload_stored(csp_backend *be, const csp_tensor *t, int64_t first, int64_t n,
                                    const void *stored)
{
    const size_t size = csp_dtype_bytes(t->dtype);

    for (int64_t done = 0; done < n;) {
        csp_tensor part = part_of(t, first + done, n - done);

        CSP_TRY(csp_backend_upload(be, (const char *)stored + (size_t)done * size, &part));
        done += csp_tensor_count(&part);
    }
    return CSP_OK;
}

csp_status csp_tensor_upload(csp_backend *be, const csp_tensor *t, int64_t first, int64_t n,
                             const float *values)
{
    uint16_t *rounded;
    csp_status status = CSP_OK;

    if (t->dtype == CSP_F32) {
        return csp_tensor_upload_stored(be, t, first, n, values);
    }
    CSP_TRY(csp_alloc("weights", n < PIECE ? n : PIECE, sizeof(*rounded), &rounded));
    for (int64_t done = 0; done < n && status == CSP_OK; done += PIECE) {
        const int64_t count = n - done < PIECE ? n - done : PIECE;

        for (int64_t i = 0; i < count; i++) {
            rounded[i] = csp_f32_to_bf16(values[done + i]);
        }
        status = csp_tensor_upload_stored(be, t, first + done, count, rounded);
    }
    free(rounded);
    return status;
}

csp_status csp_param_upload(csp_backend *be, csp_param *row, int64_t first, int64_t n,
                            const float *values)
{
    if (row->master.ndim > 0) {
        CSP_TRY(csp_tensor_upload(be, &row->master, first, n, values));
    }
    return csp_tensor_upload(be, &row->value, first, n, values);
}

csp_status csp_param_download(csp_backend *be, const csp_param *row, float *values)
{
    const csp_tensor *from = row->master.ndim > 0 ? &row->master : &row->value;
    const int64_t n = csp_tensor_count(from);
    char *narrow = (char *)values + (size_t)n * sizeof(uint16_t);

    if (from->dtype == CSP_F32) {
        return csp_backend_download(be, from, values);
    }
    /* The narrow numbers go into the upper half; widening from below never overtakes them. */
    CSP_TRY(csp_backend_download(be, from, narrow));
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits;

        memcpy(&bits, narrow + (size_t)i * sizeof(bits), sizeof(bits));
        values[i] = csp_bf16_to_f32(bits);
    }
    return CSP_OK;
}

csp_status csp_param_zero(csp_backend *be, csp_param *row)
{
    if (row->master.ndim > 0) {
        CSP_TRY(csp_backend_zero(be, &row->master));
    }
    return csp_backend_zero(be, &row->value);
}
