/*
 * quantize.h - integer impacts of weights.
 */
#pragma once

#include "core/status.h"

typedef enum csp_quant_kind {
    CSP_QUANT_NONE,  /* weights stay float32                                          */
    CSP_QUANT_ROUND, /* nearest integer of scale * w, halves away from 0              */
    CSP_QUANT_CEIL,  /* smallest integer not below scale * w: no weight is dropped    */
    CSP_QUANT_U8_MAX /* as round with scale 255 / (largest weight of the collection)  */
} csp_quant_kind;

typedef struct csp_quant {
    csp_quant_kind kind;
    double scale; /* of round and ceil; of u8-max once csp_quant_fit has set it */
} csp_quant;

/* Reads none, round:S, ceil:S (S > 0) or u8-max. Errors: CSP_ERR_ARGUMENT. */
CSP_CHECKED csp_status csp_quant_parse(const char *text, csp_quant *out);

/* "round", ...: without the scale. */
const char *csp_quant_name(csp_quant_kind kind);

/* Sets the scale of u8-max from the largest weight (1 if that is 0); leaves others as they are. */
void csp_quant_fit(csp_quant *quant, float largest);

typedef struct csp_quant_counts {
    int64_t kept;    /* impacts from 1 to the limit, clipped ones included */
    int64_t dropped; /* weights that became 0                              */
    int64_t clipped; /* weights whose impact was above the limit           */
} csp_quant_counts;

/*
 * The integer impact of a weight >= 0, in 0..limit; 0 means that the posting is dropped. Counts it.
 * Computed in double, so the same on every machine. quant is not CSP_QUANT_NONE (asserted).
 */
int32_t csp_quant_impact(const csp_quant *quant, float weight, int32_t limit,
                         csp_quant_counts *counts);
