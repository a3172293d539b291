/*
 * kept_rows.h - representations of one micro-batch after the other, on their way to the host: the
 * strongest terms are taken on the device, their weights quantised there if that is asked for, and
 * only what is left is copied, while it computes the next.
 *
 *     csp_model_fwd                      of micro-batch i+1
 *     csp_kept_rows_fetch                of i: its rows are on the host; the device is at i+1
 *     csp_kept_rows_pool                 of i+1
 *     ...                                the host uses the rows of i
 */
#pragma once

#include "core/quantize.h"
#include "model/transformer.h"

typedef struct csp_kept_rows csp_kept_rows;

/* What the rows of one micro-batch may be at most, and whether they hold weights or impacts. */
typedef struct csp_kept_limits {
    int64_t texts;
    int64_t top_k;   /* the largest cut that is asked for, 0: none      */
    csp_quant quant; /* none, or round or ceil with their scale         */
} csp_kept_limits;

/* Rows on the host; addresses are valid until the next fetch. */
typedef struct csp_fetched_rows {
    int64_t texts;
    const int64_t *row_ptr;  /* [texts+1] */
    const int32_t *term;     /* ascending in a row */
    const float *weight;     /* quantised: whole numbers, infinity where the weight is */
    csp_quant_counts counts; /* of quantisation */
    int64_t bad_row;         /* the first token row whose hidden state is not finite, -1: none */
} csp_fetched_rows;

/* Device memory it takes; needs a table only. */
CSP_CHECKED csp_status csp_kept_rows_bytes(const csp_params *params, const csp_kept_limits *limits,
                                           size_t *out);

/* be must outlive it. Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE. */
CSP_CHECKED csp_status csp_kept_rows_create(csp_backend *be, const csp_params *params,
                                            const csp_kept_limits *limits, csp_kept_rows **out);
void csp_kept_rows_destroy(csp_kept_rows *kept);

/*
 * Pools the hidden states that a run holds and keeps the strongest terms. What was pooled before
 * has been fetched (asserted).
 *
 *   top_k    in   strongest terms of each text, at most the limit's; 0 = all
 *
 * Stream:  enqueued; waits only for memory the first times.
 * Errors:  those of csp_sparse_pool_fwd, csp_top_k and csp_impacts.
 */
CSP_CHECKED csp_status csp_kept_rows_pool(csp_kept_rows *kept, const csp_model *model,
                                          const csp_head *head, const csp_run *run,
                                          const csp_pool_texts *texts, int64_t top_k);

/*
 * Brings the rows pooled last to the host. Work enqueued since may not write to what
 * csp_kept_rows_create took, which is to say: not the next csp_kept_rows_pool.
 *
 * Stream:  waits for the work up to csp_kept_rows_pool and for the copies, not for what is behind.
 * Errors:  CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_kept_rows_fetch(csp_kept_rows *kept, csp_fetched_rows *out);
