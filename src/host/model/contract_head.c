/* contract_head.c - a contract's excluded ids as flags on the device, and the rest of its head. */
#include "model/contract_head.h"

#include <stdlib.h>

#include "core/memory.h"

/* (V) u8, 1 for an excluded term. */
static csp_status upload_flags(csp_backend *be, const csp_contract *contract, csp_tensor *exclude)
{
    const int64_t V = exclude->dim[0];
    uint8_t *flags = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero("excluded terms", V, 1, &flags));
    for (int64_t i = 0; i < contract->exclude_count; i++) {
        flags[contract->exclude_ids[i]] = 1;
    }
    status = csp_backend_upload(be, flags, exclude);
    free(flags);
    return status;
}

csp_status csp_contract_head_open(csp_backend *be, const csp_model *model,
                                  const csp_contract *contract, csp_contract_head *out)
{
    const int64_t V = model->params->config.V;
    csp_tensor exclude = csp_tensor_none();
    csp_arena ruler = { 0 };

    out->be = be;
    if (contract->exclude_count > 0) {
        const int32_t highest = contract->exclude_ids[contract->exclude_count - 1];

        if (highest >= V) {
            return CSP_FAIL(CSP_ERR_DATA,
                            "the contract's exclude_ids holds %d, not below vocab_size %lld",
                            (int)highest, (long long)V);
        }
        CSP_TRY(csp_arena_tensor(&ruler, CSP_U8, 1, &V, &exclude));
        CSP_TRY(csp_backend_reserve(be, ruler.peak, &out->memory));
        CSP_TRY(csp_arena_tensor(&out->memory, CSP_U8, 1, &V, &exclude));
        CSP_TRY(upload_flags(be, contract, &exclude));
    }
    out->head = csp_model_head(model, (float)contract->logit_scale,
                               contract->pooling == CSP_POOLING_SUM ? CSP_POOL_SUM : CSP_POOL_MAX,
                               &exclude);
    return CSP_OK;
}

void csp_contract_head_close(csp_contract_head *head)
{
    if (head->be != NULL) {
        csp_backend_release(head->be, &head->memory);
    }
    *head = (csp_contract_head) { .be = NULL };
}
