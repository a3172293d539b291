/* shared_values.c - rows of the table from a file, read once for all ranks of a machine. */
#include "model/shared_values.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "model/param_values.h"

static bool is_shared(const csp_comm *machine)
{
    return machine != NULL && csp_comm_size(machine) > 1;
}

bool csp_shared_reads(const csp_comm *machine)
{
    return !is_shared(machine) || csp_comm_rank(machine) == 0;
}

csp_status csp_shared_bytes(csp_comm *machine, void *data, int64_t bytes, const char *what)
{
    return is_shared(machine) ? csp_comm_broadcast(machine, data, bytes, 0, what) : CSP_OK;
}

csp_status csp_shared_values_open(csp_shared_values *v)
{
    CSP_TRY(csp_alloc("weights", CSP_PARAM_STAGED, sizeof(*v->buffer), &v->buffer));
    return csp_shared_reads(v->machine)
               ? CSP_OK
               : csp_alloc("weights", CSP_PARAM_STAGED, sizeof(float), &v->received);
}

void csp_shared_values_close(csp_shared_values *v)
{
    free(v->buffer);
    free(v->received);
    v->buffer = NULL;
    v->received = NULL;
}

static csp_status check_finite(const csp_shared_values *v, const csp_param *row, int64_t first,
                               int64_t n)
{
    for (int64_t i = 0; i < n && v->finite; i++) {
        if (!isfinite(v->buffer[i])) {
            return CSP_FAIL(CSP_ERR_NUMERIC, "%s: %s holds %g at element %lld", v->where, row->name,
                            (double)v->buffer[i], (long long)(first + i));
        }
    }
    return CSP_OK;
}

/* Elements first .. first+n-1, which are in the buffer and, as in the file, at stored. */
static csp_status put(csp_shared_values *v, csp_param *row, csp_dtype dtype, int64_t first,
                      int64_t n, const void *stored)
{
    if (v->digest != NULL) {
        csp_digest_add(v->digest, v->buffer, n * (int64_t)sizeof(float));
    }
    return dtype == row->value.dtype && row->master.ndim == 0
               ? csp_tensor_upload_stored(v->be, &row->value, first, n, stored)
               : csp_param_upload(v->be, row, first, n, v->buffer);
}

/* The reader's piece: on its way to the others while it is put where it belongs here. */
static csp_status send_piece(csp_shared_values *v, csp_param *row, csp_dtype dtype, int64_t first,
                             int64_t n, const char *stored)
{
    const int64_t bytes = n * (int64_t)csp_dtype_bytes(dtype);
    csp_status status, sent = CSP_OK;
    int64_t ticket;

    csp_values_to_f32(dtype, stored, n, v->buffer);
    CSP_TRY(check_finite(v, row, first, n));
    if (!is_shared(v->machine)) {
        return put(v, row, dtype, first, n, stored);
    }
    CSP_TRY(csp_comm_broadcast_start(v->machine, (void *)(uintptr_t)stored, bytes, 0, "weights",
                                     &ticket));
    status = put(v, row, dtype, first, n, stored);
    /* The file must stay open until the piece has left, whatever has become of it here. */
    sent = csp_comm_wait(v->machine, ticket);
    return status != CSP_OK ? status : sent;
}

static csp_status receive_piece(csp_shared_values *v, csp_param *row, csp_dtype dtype,
                                int64_t first, int64_t n)
{
    CSP_TRY(csp_comm_broadcast(v->machine, v->received, n * (int64_t)csp_dtype_bytes(dtype), 0,
                               "weights"));
    csp_values_to_f32(dtype, v->received, n, v->buffer);
    return put(v, row, dtype, first, n, v->received);
}

csp_status csp_shared_row(csp_shared_values *v, csp_param *row, const csp_tensor *stored)
{
    const bool reads = csp_shared_reads(v->machine);
    const int64_t count = csp_tensor_count(&row->value);
    /* A matrix in 8 bits by whole rows. */
    const int64_t piece =
        row->scale.ndim > 0 ? CSP_PARAM_STAGED / row->dim[1] * row->dim[1] : CSP_PARAM_STAGED;
    int32_t dtype = reads ? (int32_t)stored->dtype : 0;

    CSP_TRY(csp_shared_bytes(v->machine, &dtype, sizeof(dtype), row->name));
    if (v->digest != NULL) {
        csp_digest_add(v->digest, row->name, (int64_t)strlen(row->name));
    }
    for (int64_t first = 0; first < count; first += piece) {
        const int64_t n = count - first < piece ? count - first : piece;
        const size_t offset = (size_t)first * csp_dtype_bytes((csp_dtype)dtype);

        CSP_TRY(reads ? send_piece(v, row, (csp_dtype)dtype, first, n,
                                   (const char *)stored->data + offset)
                      : receive_piece(v, row, (csp_dtype)dtype, first, n));
    }
    return CSP_OK;
}
