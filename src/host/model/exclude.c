/* exclude.c - a contract's excluded ids as flags on the device. */
#include "model/exclude.h"

#include <stdlib.h>

#include "core/memory.h"

csp_status csp_exclude_tensor(csp_backend *be, const csp_contract *contract, int64_t V,
                              csp_arena *keep, csp_tensor *out)
{
    uint8_t *flags = NULL;
    csp_status status;

    if (contract->exclude_count == 0) {
        *out = csp_tensor_none();
        return CSP_OK;
    }
    CSP_TRY(csp_arena_tensor(keep, CSP_U8, 1, &V, out));
    if (out->data == NULL) {
        return CSP_OK;
    }
    CSP_TRY(csp_alloc_zero("excluded terms", V, 1, &flags));
    for (int64_t i = 0; i < contract->exclude_count; i++) {
        if (contract->exclude_ids[i] < V) {
            flags[contract->exclude_ids[i]] = 1;
        }
    }
    status = csp_backend_upload(be, flags, out);
    free(flags);
    return status;
}
