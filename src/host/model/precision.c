/* precision.c - bf16 where the device has it. */
#include "model/precision.h"

#include <string.h>

csp_status csp_precision_choose(const csp_backend *be, csp_precision asked, csp_dtype *out)
{
    if (asked == CSP_PRECISION_BF16 && !be->bf16) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "precision bf16: %s computes in fp32 only", be->name);
    }
    *out = asked != CSP_PRECISION_FP32 && be->bf16 ? CSP_BF16 : CSP_F32;
    return CSP_OK;
}

const char *csp_precision_name(csp_dtype dtype)
{
    return dtype == CSP_BF16 ? "bf16" : "fp32";
}

csp_precision csp_precision_named(const char *name)
{
    return strcmp(name, "bf16") == 0   ? CSP_PRECISION_BF16
           : strcmp(name, "fp32") == 0 ? CSP_PRECISION_FP32
                                       : CSP_PRECISION_AUTO;
}
