/* safetensors_dtype.c - the one table of dtypes of safetensors files. */
#include <string.h>

#include "io/safetensors_header.h"

static const struct {
    const char *name;
    int bits;
    csp_dtype ours; /* CSP_DTYPE_COUNT: csplade has no use for it */
} dtypes[] = {
    { "F32", 32, CSP_F32 },
    { "BF16", 16, CSP_BF16 },
    { "F16", 16, CSP_F16 },
    { "F64", 64, CSP_F64 },
    { "I32", 32, CSP_I32 },
    { "I64", 64, CSP_I64 },
    { "U8", 8, CSP_U8 },
    { "BOOL", 8, CSP_DTYPE_COUNT },
    { "I8", 8, CSP_DTYPE_COUNT },
    { "I16", 16, CSP_DTYPE_COUNT },
    { "U16", 16, CSP_DTYPE_COUNT },
    { "U32", 32, CSP_DTYPE_COUNT },
    { "U64", 64, CSP_DTYPE_COUNT },
    { "C64", 64, CSP_DTYPE_COUNT },
    { "F8_E4M3", 8, CSP_DTYPE_COUNT },
    { "F8_E5M2", 8, CSP_DTYPE_COUNT },
    { "F8_E8M0", 8, CSP_DTYPE_COUNT },
    { "F8_E4M3FNUZ", 8, CSP_DTYPE_COUNT },
    { "F8_E5M2FNUZ", 8, CSP_DTYPE_COUNT },
    { "F6_E2M3", 6, CSP_DTYPE_COUNT },
    { "F6_E3M2", 6, CSP_DTYPE_COUNT },
    { "F4", 4, CSP_DTYPE_COUNT },
};

const char *csp_safetensors_dtype_name(csp_dtype dtype)
{
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
        if (dtypes[i].ours == dtype) {
            return dtypes[i].name;
        }
    }
    return NULL;
}

int csp_safetensors_dtype_bits(const char *name, csp_dtype *ours)
{
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            *ours = dtypes[i].ours;
            return dtypes[i].bits;
        }
    }
    *ours = CSP_DTYPE_COUNT;
    return 0;
}
