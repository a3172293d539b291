/* replicas.c - a line with name and digest for each trained tensor, which all ranks must share. */
#include "train/replicas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/digest.h"
#include "model/param_values.h"

enum { LINE = CSP_PARAM_NAME_BYTES + CSP_DIGEST_TEXT_BYTES + 4 };

/* Appends the line of one tensor. */
static csp_status describe(const csp_model *model, const csp_param *row, float **values, char *at)
{
    const int64_t count = csp_tensor_count(&row->value);
    char digest[CSP_DIGEST_TEXT_BYTES];
    csp_digest *d;

    CSP_TRY(csp_realloc("checksums", count, sizeof(**values), values));
    CSP_TRY(csp_param_download(model->be, row, *values));
    CSP_TRY(csp_digest_create(&d));
    csp_digest_add(d, *values, count * (int64_t)sizeof(**values));
    csp_digest_say(d, digest);
    csp_digest_destroy(d);
    snprintf(at, LINE, "%s %s\n", row->name, digest);
    return CSP_OK;
}

csp_status csp_replicas_agree(const csp_ranks *ranks, const csp_model *model)
{
    const csp_params *params = model->params;
    float *values = NULL;
    char *text = NULL;
    size_t used = 0;
    csp_status status;

    if (csp_ranks_size(ranks) == 1) {
        return CSP_OK;
    }
    CSP_TRY(csp_values_await(model, params->config.L));
    CSP_TRY(csp_alloc_zero("checksums", params->trained + 1, LINE, &text));
    for (int64_t i = 0; i < params->count; i++) {
        if (params->rows[i].trained) {
            CSP_TRY_GOTO(describe(model, &params->rows[i], &values, text + used));
            used += strlen(text + used);
        }
    }
    status = csp_comm_agree(ranks->comm, text, "the trained parameters");
    if (status == CSP_ERR_CONFIG) {
        char what[1024];

        snprintf(what, sizeof(what), "%s", csp_error_text());
        status = CSP_FAIL(CSP_ERR_DEVICE, "the ranks' models have drifted apart: %s", what);
    }

fail:
    free(values);
    free(text);
    return status;
}
