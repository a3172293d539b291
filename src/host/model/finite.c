/* finite.c - one reduction on the device, a search on the host only when it fails. */
#include "model/finite.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/memory.h"

/* Whether every element is finite: the reduction that also gives the gradient's norm. */
static csp_status is_finite(const csp_model *model, const csp_tensor *t, bool *out)
{
    const csp_optim_tensor reduced = { .grad = *t };
    double squares = 0.0;

    CSP_TRY(csp_grad_squares(model->be, &reduced, 1, &squares));
    *out = isfinite(squares);
    return CSP_OK;
}

csp_status csp_run_find_bad_row(const csp_model *model, const csp_run *run, int64_t *row)
{
    const int64_t D = model->params->config.D, count = csp_tensor_count(&run->h);
    float *h = NULL;
    bool fine = true;
    csp_status status;

    *row = -1;
    if (count == 0) {
        return CSP_OK;
    }
    CSP_TRY(is_finite(model, &run->h, &fine));
    if (fine) {
        return CSP_OK;
    }
    CSP_TRY(csp_alloc("hidden states", count, sizeof(*h), &h));
    CSP_TRY_GOTO(csp_backend_download(model->be, &run->h, h));
    for (int64_t i = 0; i < count && *row < 0; i++) {
        *row = isfinite(h[i]) ? -1 : i / D;
    }

fail:
    free(h);
    return status;
}

void csp_model_say_bad_parameter(const csp_model *model, char *text, size_t bytes)
{
    text[0] = '\0';
    for (int64_t i = 0; i < model->params->count; i++) {
        const csp_param *row = &model->params->rows[i];
        bool fine = true;

        if (is_finite(model, &row->value, &fine) == CSP_OK && !fine) {
            snprintf(text, bytes, ", and so is %s", row->name);
            return;
        }
    }
}
