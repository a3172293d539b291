/*
 * impacts.h - sparse representations as small integers: what an index of impacts holds of a row.
 */
#pragma once

#include <float.h>

#include "core/quantize.h"
#include "ops/sparse_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What csp_impacts counts, places in csp_impact_rows.count. */
enum {
    CSP_IMPACTS_DROPPED, /* weights whose impact is 0                                      */
    CSP_IMPACTS_CLIPPED, /* finite weights whose impact was above CSP_IMPACT_MOST          */
    CSP_IMPACTS_LARGEST, /* impact stored, 0: none                                         */
    CSP_IMPACTS_COUNTS
};

/* The impact of a weight that is infinite or NaN, which no finite one has. */
#define CSP_IMPACT_INFINITE INT32_MAX

/* Rows of impacts. impact holds unsigned integers, one for each term, lowest byte first, all of
 * csp_impact_bytes(count[CSP_IMPACTS_LARGEST]) bytes. */
typedef struct csp_impact_rows {
    csp_tensor row_ptr; /* (rows+1) i64                  */
    csp_tensor term;    /* (cap) i32, ascending in a row */
    csp_tensor impact;  /* (4 cap) u8                    */
    csp_tensor count;   /* (CSP_IMPACTS_COUNTS) i64      */
} csp_impact_rows;

/* Bytes of each impact where the largest is this. */
static inline CSP_HD int32_t csp_impact_bytes(int64_t largest)
{
    return largest < 256 ? 1 : largest < 65536 ? 2 : 4;
}

/* What is stored of a weight: 1 .. CSP_IMPACT_MOST or CSP_IMPACT_INFINITE; 0: nothing. */
static inline CSP_HD int32_t csp_impact_stored(csp_quant quant, float weight, bool *clipped)
{
    const int64_t impact = csp_impact(quant.kind, quant.scale, weight);
    const bool infinite = !(weight <= FLT_MAX);

    *clipped = impact > CSP_IMPACT_MOST && !infinite;
    return infinite ? CSP_IMPACT_INFINITE
                    : (int32_t)(impact < CSP_IMPACT_MOST ? impact : CSP_IMPACT_MOST);
}

/*
 * Quantises rows: the impact of each weight, those of 0 left out.
 *
 *     impact = min(round(scale w), CSP_IMPACT_MOST), or ceil in place of round
 *
 * Source: docs/method.md 11; the rounding is csp_impact.
 *
 *   w      in   rows 0 .. rows-1; weights > 0, infinity among them, or NaN. argmax is not read
 *   quant  in   CSP_QUANT_ROUND or CSP_QUANT_CEIL, its scale finite and above 0
 *   out    out  overwritten; capacity for as many entries as w's
 *
 * Aliasing:   none.
 * Precision:  exact integers, the same on every run and backend.
 * Stream:     enqueued on be.
 * Errors:     CSP_ERR_SHAPE (also where out has less room), CSP_ERR_ARGUMENT, CSP_ERR_MEMORY,
 *             CSP_ERR_DEVICE. Outputs are untouched then.
 */
CSP_CHECKED csp_status csp_impacts(csp_backend *be, const csp_sparse *w, int64_t rows,
                                   const csp_quant *quant, csp_impact_rows *out);

#ifdef __cplusplus
}
#endif
