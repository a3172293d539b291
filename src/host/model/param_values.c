/* param_values.c - conversion by pieces, so that no second copy of a large tensor is made. */
#include "model/param_values.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/scalar.h"
#include "ops/quantize.h"

enum { PIECE = 1 << 20 };

void csp_values_to_f32(csp_dtype dtype, const void *stored, int64_t n, float *values)
{
    const uint16_t *half = stored;

    if (dtype == CSP_F32) {
        memcpy(values, stored, (size_t)n * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        values[i] = dtype == CSP_BF16 ? csp_bf16_to_f32(half[i]) : csp_f16_to_f32(half[i]);
    }
}

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

/* Rows of a matrix in e4m3, through memory of the device for some at a time. */
static csp_status upload_quantized(csp_backend *be, csp_param *row, int64_t first, int64_t n,
                                   const float *values)
{
    const int64_t I = row->dim[1], most = CSP_PARAM_STAGED / I;
    const csp_tensor none = csp_tensor_none();

    CSP_ASSERT(first % I == 0 && n % I == 0);
    for (int64_t o = first / I; o < (first + n) / I; o += most) {
        const int64_t rows = (first + n) / I - o < most ? (first + n) / I - o : most;
        csp_tensor x = csp_tensor_view(row->staged.data, CSP_F32, 2, (int64_t[]) { rows, I });
        csp_tensor q = csp_tensor_rows(&row->value, o, rows);
        csp_tensor scale = csp_tensor_rows(&row->scale, o, rows);

        CSP_TRY(csp_backend_upload(be, values + (o * I - first), &x));
        CSP_TRY(csp_quantize_rows(be, &x, &none, &q, &scale));
    }
    return CSP_OK;
}

csp_status csp_state_upload(csp_backend *be, const csp_param *row, const csp_tensor *t,
                            int64_t first, int64_t n, const float *values)
{
    const int64_t own_end = row->own_first + row->own_count;
    const int64_t begin = first > row->own_first ? first : row->own_first;
    const int64_t end = first + n < own_end ? first + n : own_end;

    return begin < end ? csp_tensor_upload(be, t, begin - row->own_first, end - begin,
                                           values + (begin - first))
                       : CSP_OK;
}

csp_status csp_param_upload(csp_backend *be, csp_param *row, int64_t first, int64_t n,
                            const float *values)
{
    if (row->scale.ndim > 0) {
        return upload_quantized(be, row, first, n, values);
    }
    if (row->master.ndim > 0) {
        CSP_TRY(csp_state_upload(be, row, &row->master, first, n, values));
    }
    return csp_tensor_upload(be, &row->value, first, n, values);
}

static csp_status download_quantized(csp_backend *be, const csp_param *row, float *values)
{
    const int64_t n = csp_tensor_count(&row->value), I = row->dim[1];
    const uint8_t *narrow = (const uint8_t *)values + 3 * n;
    csp_status status;
    float *scale;

    CSP_TRY(csp_alloc(row->name, row->dim[0], sizeof(*scale), &scale));
    CSP_TRY_GOTO(csp_backend_download(be, &row->scale, scale));
    /* In the upper quarter, as below. */
    CSP_TRY_GOTO(csp_backend_download(be, &row->value, (char *)values + 3 * n));
    for (int64_t i = 0; i < n; i++) {
        values[i] = scale[i / I] * csp_e4m3_to_f32(narrow[i]);
    }
fail:
    free(scale);
    return status;
}

csp_status csp_param_download(csp_backend *be, const csp_param *row, float *values)
{
    const int64_t n = csp_tensor_count(&row->value);
    /* A shared out one may be whole here, and on other ranks is not: all take the value then. */
    const bool master = row->master.ndim > 0 && !row->shared_out;
    const csp_tensor *from = master ? &row->master : &row->value;
    char *narrow = (char *)values + (size_t)n * sizeof(uint16_t);

    if (row->scale.ndim > 0) {
        return download_quantized(be, row, values);
    }
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
    if (row->scale.ndim > 0) {
        CSP_TRY(csp_backend_zero(be, &row->scale));
    }
    if (row->master.ndim > 0) {
        CSP_TRY(csp_backend_zero(be, &row->master));
    }
    return csp_backend_zero(be, &row->value);
}
