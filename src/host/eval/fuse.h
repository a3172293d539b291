/*
 * fuse.h - one run from two: "the model interpolated with BM25".
 *
 *     f(q,d) = alpha a'(q,d) + (1 - alpha) b'(q,d)
 *
 * over the documents of either list. A document that a list does not have gets that list's lowest
 * score for the query: its true score is not above it.
 */
#pragma once

#include "eval/metrics.h"
#include "eval/search.h"

typedef enum csp_fuse_norm {
    CSP_FUSE_MIN_MAX, /* a' = (a - min) / (max - min) over the query's list; 1 if all are equal */
    CSP_FUSE_RAW      /* a' = a: for scores of one kind                                        */
} csp_fuse_norm;

/*
 * Fuses two runs. Queries are those of a, then those of b only; rows best first, ties by descending
 * document id, at most depth of them (0 = all).
 *
 *   alpha  in   0..1, the weight of a
 *
 * Precision: double.
 * Owner:  csp_ranking_free; ids point into a and b, which must live as long.
 * Errors: CSP_ERR_ARGUMENT (alpha), CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_fuse(const csp_trec *a, const csp_trec *b, double alpha,
                                csp_fuse_norm norm, int64_t depth, csp_ranking **out);

/*
 * Tries alpha = 0, 1/steps, ..., 1 and returns the one of the best mean of measure, the lowest of
 * equals. To be run on other queries than the reported ones.
 *
 * Errors: as csp_fuse and csp_metrics_compute; CSP_ERR_ARGUMENT (steps below 1).
 */
CSP_CHECKED csp_status csp_fuse_tune(const csp_trec *qrels, const csp_trec *a, const csp_trec *b,
                                     csp_fuse_norm norm, const csp_measure *measure, int64_t steps,
                                     double *alpha, double *value);
