/* quantize.c - the ways to an integer impact, by their names. */
#include "core/quantize.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/number.h"

static const char *const names[] = { "none", "round", "ceil", "u8-max" };

static bool is_scaled(csp_quant_kind kind)
{
    return kind == CSP_QUANT_ROUND || kind == CSP_QUANT_CEIL;
}

csp_status csp_quant_parse(const char *text, csp_quant *out)
{
    const char *colon = strchr(text, ':');
    const size_t word = colon != NULL ? (size_t)(colon - text) : strlen(text);

    for (int kind = 0; kind <= CSP_QUANT_U8_MAX; kind++) {
        double scale = 0.0;

        if (strlen(names[kind]) != word || strncmp(names[kind], text, word) != 0 ||
            (colon != NULL && !is_scaled((csp_quant_kind)kind))) {
            continue;
        }
        if (colon != NULL) {
            if (!csp_parse_f64(colon + 1, &scale) || !(scale > 0.0 && isfinite(scale))) {
                return CSP_FAIL(CSP_ERR_ARGUMENT,
                                "quantisation '%.40s': the scale must be a number above 0", text);
            }
        }
        *out = (csp_quant) { (csp_quant_kind)kind, scale };
        return CSP_OK;
    }
    return CSP_FAIL(CSP_ERR_ARGUMENT,
                    "quantisation '%.40s': not one of none, round[:SCALE], ceil[:SCALE], u8-max",
                    text);
}

const char *csp_quant_name(csp_quant_kind kind)
{
    CSP_ASSERT(kind >= CSP_QUANT_NONE && kind <= CSP_QUANT_U8_MAX);
    return names[kind];
}

/* In as few digits as bring the number back. */
static void put_scale(char *text, size_t bytes, double scale)
{
    for (int digits = 6; digits <= 17; digits++) {
        (void)snprintf(text, bytes, "%.*g", digits, scale);
        if (strtod(text, NULL) == scale) {
            return;
        }
    }
}

const char *csp_quant_describe(const csp_quant *quant, char *text, size_t bytes)
{
    char scale[32] = "";

    if (is_scaled(quant->kind) && quant->scale > 0.0) {
        put_scale(scale, sizeof(scale), quant->scale);
    }
    (void)snprintf(text, bytes, "%s%s%s", csp_quant_name(quant->kind), scale[0] != '\0' ? ":" : "",
                   scale);
    return text;
}

bool csp_quant_equal(const csp_quant *a, const csp_quant *b)
{
    return a->kind == b->kind && a->scale == b->scale;
}

bool csp_quant_lacks_scale(const csp_quant *quant)
{
    return is_scaled(quant->kind) && quant->scale == 0.0;
}

void csp_quant_settle(csp_quant *quant, double scale_of_contract)
{
    if (csp_quant_lacks_scale(quant)) {
        quant->scale = scale_of_contract;
    }
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
    int64_t impact;

    CSP_ASSERT(quant->kind != CSP_QUANT_NONE && quant->scale > 0.0);
    impact = csp_impact(quant->kind, quant->scale, weight);
    if (impact < 1) {
        counts->dropped++;
        return 0;
    }
    counts->kept++;
    if (impact > limit) {
        counts->clipped++;
        return limit;
    }
    return (int32_t)impact;
}
