/* step_numbers.c - two arenas with the same places. */
#include "train/step_numbers.h"

csp_status csp_step_numbers_open(csp_backend *be, size_t bytes, csp_step_numbers *out)
{
    csp_step_numbers n = { .be = be };
    csp_status status;

    CSP_TRY(csp_backend_reserve(be, bytes, &n.device));
    CSP_TRY_GOTO(csp_backend_host_reserve(be, bytes, &n.host));
    *out = n;
    return CSP_OK;

fail:
    csp_step_numbers_close(&n);
    return status;
}

void csp_step_numbers_close(csp_step_numbers *numbers)
{
    if (numbers->be != NULL) {
        csp_backend_release(numbers->be, &numbers->device);
        csp_backend_host_release(numbers->be, &numbers->host);
    }
}

csp_status csp_step_numbers_fetch(const csp_step_numbers *numbers)
{
    const int64_t bytes = (int64_t)numbers->device.used;
    const csp_tensor all = csp_tensor_view(numbers->device.base, CSP_U8, 1, &bytes);

    return csp_backend_fetch(numbers->be, &all, numbers->host.base);
}

const void *csp_step_numbers_at(const csp_step_numbers *numbers, const csp_tensor *t)
{
    return csp_step_numbers_edit(numbers, t);
}

void *csp_step_numbers_edit(const csp_step_numbers *numbers, const csp_tensor *t)
{
    return numbers->host.base + ((const char *)t->data - numbers->device.base);
}
