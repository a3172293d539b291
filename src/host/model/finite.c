/* finite.c - N numbers of the last norm and one row; parameters only when those are not fine. */
#include "model/finite.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/memory.h"
#include "core/scalar.h"
#include "model/param_values.h"

/* On the stack: a step allocates nothing. 16 KiB. */
enum { PIECE = 4096 };

/* The first row of which 1/sqrt(mean(x^2) + eps) is no positive number; -1: none. */
static csp_status find_bad_norm(const csp_model *model, const csp_run *run, int64_t *row)
{
    float rstd[PIECE];

    for (int64_t first = 0; first < run->N; first += PIECE) {
        const int64_t n = run->N - first < PIECE ? run->N - first : PIECE;
        const csp_tensor part = csp_tensor_rows(&run->rstd_final, first, n);

        CSP_TRY(csp_backend_download(model->be, &part, rstd));
        for (int64_t i = 0; i < n; i++) {
            if (!isfinite(rstd[i]) || rstd[i] <= 0.0f) {
                *row = first + i;
                return CSP_OK;
            }
        }
    }
    *row = -1;
    return CSP_OK;
}

/* Whether the first row of h is finite. */
static csp_status first_row_is_finite(const csp_model *model, const csp_run *run, bool *out)
{
    union {
        float f32[PIECE];
        uint16_t bf16[PIECE];
    } value;

    *out = true;
    for (int64_t first = 0; first < run->h.dim[1] && *out; first += PIECE) {
        const int64_t n = run->h.dim[1] - first < PIECE ? run->h.dim[1] - first : PIECE;
        char *at = (char *)run->h.data + (size_t)first * csp_dtype_bytes(run->h.dtype);
        const csp_tensor part = csp_tensor_view(at, run->h.dtype, 1, &n);

        CSP_TRY(csp_backend_download(model->be, &part, &value));
        for (int64_t i = 0; i < n && *out; i++) {
            *out = isfinite(part.dtype == CSP_F32 ? value.f32[i] : csp_bf16_to_f32(value.bf16[i]));
        }
    }
    return CSP_OK;
}

/*
 * The last norm has read all of a row and left 1/sqrt(mean(x^2) + eps) of it, which is not a
 * positive number where x holds a NaN or an infinity (0 then), or squares that overflow. Where it
 * is, h is finite unless the gain is not, and that shows in any row.
 */
csp_status csp_run_find_bad_row(const csp_model *model, const csp_run *run, int64_t *row)
{
    bool fine = true;

    CSP_TRY(find_bad_norm(model, run, row));
    if (*row < 0 && run->N > 0) {
        CSP_TRY(first_row_is_finite(model, run, &fine));
        *row = fine ? -1 : 0;
    }
    return CSP_OK;
}

static csp_status is_finite(const csp_model *model, const csp_param *row, bool *out)
{
    const int64_t count = csp_tensor_count(&row->value);
    float *values = NULL;
    csp_status status;

    CSP_TRY(csp_alloc(row->name, count, sizeof(*values), &values));
    status = csp_param_download(model->be, row, values);
    *out = true;
    for (int64_t i = 0; i < count && status == CSP_OK && *out; i++) {
        *out = isfinite(values[i]);
    }
    free(values);
    return status;
}

void csp_model_say_bad_parameter(const csp_model *model, char *text, size_t bytes)
{
    text[0] = '\0';
    for (int64_t i = 0; i < model->params->count; i++) {
        const csp_param *row = &model->params->rows[i];
        bool fine = true;

        if (is_finite(model, row, &fine) == CSP_OK && !fine) {
            snprintf(text, bytes, ", and so is %s", row->name);
            return;
        }
    }
}
