/* finite.c - asks the last norm; looks at parameters only when it has found something. */
#include "model/finite.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/memory.h"
#include "model/param_values.h"
#include "ops/norm.h"

csp_status csp_run_note_bad_row(const csp_model *model, const csp_run *run, csp_tensor *row)
{
    return csp_norm_bad_row(model->be, &run->rstd_final, &run->h, row);
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
