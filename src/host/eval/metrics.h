/*
 * metrics.h - retrieval measures from judgements and a run, equal to trec_eval and ir_measures.
 *
 * A ranking is the run's documents by score (compared as float32, as trec_eval does), ties by
 * descending document id in byte order; the order and the ranks of a file do not matter. A document
 * without a judgement has relevance 0, a negative relevance gains 0. A measure's relevant documents
 * are those judged at or above its threshold, 1 if none is given.
 */
#pragma once

#include "io/trec.h"

typedef enum csp_measure_kind {
    CSP_MEASURE_NDCG, /* linear gain, discount log2(rank + 1), ideal over all judged documents */
    CSP_MEASURE_RR,   /* 1 / rank of the first relevant document                               */
    CSP_MEASURE_R,    /* relevant documents found / relevant documents judged                  */
    CSP_MEASURE_AP,   /* sum of precision at each relevant document / relevant ones judged     */
    CSP_MEASURE_P     /* relevant documents in the first k / k                                 */
} csp_measure_kind;

typedef struct csp_measure {
    csp_measure_kind kind;
    int64_t cut;   /* the k of "@k"; 0 = the whole ranking                         */
    int64_t rel;   /* lowest relevance that counts as relevant; not used by nDCG   */
    char name[48]; /* as ir_measures writes it: "nDCG@10", "RR(rel=2)@10", "AP"    */
} csp_measure;

/*
 * Parses "nDCG@10, RR@10, R@100, AP, P@10" (commas or white space between). Recall, MRR, MAP and
 * Precision are read as R, RR, AP and P; R and P need "@k"; "(rel=2)" may follow all but nDCG.
 *
 * Owner:  the caller frees *out.
 * Errors: CSP_ERR_ARGUMENT names the measure and what is wrong with it; CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_measures_parse(const char *list, csp_measure **out, int64_t *count);

typedef struct csp_metrics_options {
    bool remove_query; /* leave a document out whose id is the query's (BEIR: ArguAna, Quora) */
} csp_metrics_options;

typedef struct csp_metrics {
    int64_t queries; /* judged queries, in the order of the judgements             */
    int64_t measures;
    char **query_id;      /* [queries]                                                  */
    double *value;        /* [queries x measures]                                       */
    double *mean;         /* [measures]                                                 */
    csp_measure *measure; /* [measures]                                                 */
    int64_t unanswered;   /* judged queries that the run does not have: they count 0    */
    int64_t unjudged;     /* queries of the run without judgements: they do not count   */
    int64_t found;        /* documents of the run, of judged queries: all, and with a judgement */
    int64_t found_judged;
    int64_t unfindable; /* judged queries without a relevant document: they count 0   */
} csp_metrics;

/*
 * Computes every measure for every judged query, and their means.
 *
 * The mean is over all queries of the judgements, as ir_measures has it: a query that the run does
 * not answer, or that has no relevant document, counts 0. (trec_eval without -c leaves the former
 * out, which rewards a run for not answering.)
 *
 *   run      in   only its queries and rows are used, so a csp_ranking's will do
 *   options  in   NULL = all off
 *
 * Owner:  csp_metrics_free. Nothing in *out refers to qrels or run.
 * Errors: CSP_ERR_DATA when there are no judgements, or no query of a non-empty run is judged;
 *         CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_metrics_compute(const csp_trec *qrels, const csp_trec *run,
                                           const csp_measure *measure, int64_t measures,
                                           const csp_metrics_options *options, csp_metrics **out);
void csp_metrics_free(csp_metrics *metrics);
