/*
 * quantize.h - integer impacts of weights: the schemes by name, and the one definition of how a
 * weight is rounded, which exports and backends share.
 */
#pragma once

#include "core/scalar.h"
#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum csp_quant_kind {
    CSP_QUANT_NONE,  /* weights stay float32                                          */
    CSP_QUANT_ROUND, /* nearest integer of scale * w, halves away from 0              */
    CSP_QUANT_CEIL,  /* smallest integer not below scale * w: no weight is dropped    */
    CSP_QUANT_U8_MAX /* as round with scale 255 / (largest weight of the collection)  */
} csp_quant_kind;

typedef struct csp_quant {
    csp_quant_kind kind;
    double
        scale; /* of round and ceil, 0: the contract's; of u8-max once csp_quant_fit has set it */
} csp_quant;

/*
 * The largest impact of a scaled weight. A float32 holds every integer up to it, so that vectors in
 * memory, and search, lose nothing of an impact.
 */
#define CSP_IMPACT_MOST 16777216

/*
 * The integer impact of a weight >= 0; 0: it is dropped. What is above 2^40, or NaN, is 2^40.
 *
 * scale * w is rounded once, to double, and then only compared with numbers that a double holds
 * exactly: no compiler can fuse the product with an addition, and all backends give the same.
 */
static inline CSP_HD int64_t csp_impact(csp_quant_kind kind, double scale, float weight)
{
    const int64_t beyond = (int64_t)1 << 40;
    const double x = scale * (double)weight;
    int64_t whole;

    if (!(x < (double)beyond)) {
        return beyond;
    }
    whole = (int64_t)x;
    if (kind == CSP_QUANT_CEIL) {
        return whole + (x > (double)whole);
    }
    return whole + (x >= (double)whole + 0.5);
}

/*
 * Reads none, round:S, ceil:S (S > 0), round, ceil (scale 0: the contract's) or u8-max. Errors:
 * CSP_ERR_ARGUMENT.
 */
CSP_CHECKED csp_status csp_quant_parse(const char *text, csp_quant *out);

/* "round", ...: without the scale. */
const char *csp_quant_name(csp_quant_kind kind);

/* Writes "round:100", "ceil", "none": what csp_quant_parse reads; 48 bytes do. Returns text. */
const char *csp_quant_describe(const csp_quant *quant, char *text, size_t bytes);

bool csp_quant_equal(const csp_quant *a, const csp_quant *b);

/* Whether it is round or ceil without a scale; csp_quant_settle sets it then, and else nothing. */
bool csp_quant_lacks_scale(const csp_quant *quant);
void csp_quant_settle(csp_quant *quant, double scale_of_contract);

/* Sets the scale of u8-max from the largest weight (1 if that is 0); leaves others as they are. */
void csp_quant_fit(csp_quant *quant, float largest);

typedef struct csp_quant_counts {
    int64_t kept;    /* impacts from 1 to the limit, clipped ones included */
    int64_t dropped; /* weights that became 0                              */
    int64_t clipped; /* weights whose impact was above the limit           */
} csp_quant_counts;

/*
 * csp_impact of a weight >= 0, at most limit. Counts it. quant is not CSP_QUANT_NONE, and its scale
 * is set (asserted).
 */
int32_t csp_quant_impact(const csp_quant *quant, float weight, int32_t limit,
                         csp_quant_counts *counts);

#ifdef __cplusplus
}
#endif
