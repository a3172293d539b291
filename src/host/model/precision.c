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

csp_status csp_precision_base(const csp_backend *be, const csp_lora_settings *lora, bool *out)
{
    const bool asked = lora->enabled && lora->base_precision == CSP_LORA_BASE_FP8;

    if (asked && !be->fp8) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "lora.base_precision fp8: %s cannot multiply 8-bit floats with a scale for "
                        "each row and column: GPUs of compute capability 9.0 can, with cuBLAS 12.9",
                        be->name);
    }
    *out = asked;
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
