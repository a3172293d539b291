/* param_values.c - conversion by pieces, so that no second copy of a large tensor is made. */
#include "model/param_values.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/scalar.h"

enum { PIECE = 1 << 20 };

/* Elements first .. first+n-1 of a tensor, as a view. */
static csp_tensor part_of(const csp_tensor *t, int64_t first, int64_t n)
{
    char *at = (char *)t->data + (size_t)first * csp_dtype_bytes(t->dtype);

    return csp_tensor_view(at, t->dtype, 1, &n);
}

csp_status csp_tensor_upload(csp_backend *be, const csp_tensor *t, int64_t first, int64_t n,
                             const float *values)
{
    uint16_t *rounded;
    csp_status status = CSP_OK;

    if (t->dtype == CSP_F32) {
        csp_tensor part = part_of(t, first, n);

        return csp_backend_upload(be, values, &part);
    }
    CSP_TRY(csp_alloc("weights", n < PIECE ? n : PIECE, sizeof(*rounded), &rounded));
    for (int64_t done = 0; done < n && status == CSP_OK; done += PIECE) {
        const int64_t count = n - done < PIECE ? n - done : PIECE;
        csp_tensor part = part_of(t, first + done, count);

        for (int64_t i = 0; i < count; i++) {
            rounded[i] = csp_f32_to_bf16(values[done + i]);
        }
        status = csp_backend_upload(be, rounded, &part);
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
