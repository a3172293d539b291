/* quantize.c - the ways to an integer impact, by their names. */
#include "eval/quantize.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = { "none", "round", "ceil", "u8-max" };

csp_status csp_quant_parse(const char *text, csp_quant *out)
{
    const char *colon = strchr(text, ':');
    const size_t word = colon != NULL ? (size_t)(colon - text) : strlen(text);

    for (int kind = 0; kind <= CSP_QUANT_U8_MAX; kind++) {
        const bool scaled = kind == CSP_QUANT_ROUND || kind == CSP_QUANT_CEIL;
        double scale = 0.0;
        char *end = NULL;

        if (strlen(names[kind]) != word || strncmp(names[kind], text, word) != 0 ||
            scaled != (colon != NULL)) {
            continue;
        }
        if (scaled) {
            scale = strtod(colon + 1, &end);
            if (end == colon + 1 || *end != '\0' || !(scale > 0.0 && isfinite(scale))) {
                return CSP_FAIL(CSP_ERR_ARGUMENT,
                                "quantisation '%.40s': the scale must be a number above 0", text);
            }
        }
        *out = (csp_quant) { (csp_quant_kind)kind, scale };
        return CSP_OK;
    }
    return CSP_FAIL(CSP_ERR_ARGUMENT,
                    "quantisation '%.40s': not one of none, round:SCALE, ceil:SCALE, u8-max", text);
}

const char *csp_quant_name(csp_quant_kind kind)
{
    CSP_ASSERT(kind >= CSP_QUANT_NONE && kind <= CSP_QUANT_U8_MAX);
    return names[kind];
}

void csp_quant_fit(csp_quant *quant, float largest)
{
    if (quant->kind == CSP_QUANT_U8_MAX) {
        quant->scale = largest > 0.0f ? 255.0 / (double)largest : 1.0;
    }
}

int32_t csp_quant_impact(const csp_quant *quant, float weight, int32_t limit,
                         csp_quant_counts *counts)
{
    double x = quant->scale * (double)weight;

    CSP_ASSERT(quant->kind != CSP_QUANT_NONE);
    x = quant->kind == CSP_QUANT_CEIL ? ceil(x) : round(x);
    if (!(x >= 1.0)) {
        counts->dropped++;
        return 0;
    }
    counts->kept++;
    if (x > (double)limit) {
        counts->clipped++;
        return limit;
    }
    return (int32_t)x;
}
