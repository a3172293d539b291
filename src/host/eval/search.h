/*
 * search.h - exact top-k by inner product over an inverted index, and rankings as runs.
 */
#pragma once

#include "eval/index.h"
#include "io/trec.h"

typedef struct csp_search_options {
    int64_t depth;       /* documents wanted for each query, at least 1                        */
    int64_t query_terms; /* keep this many largest weights of a query (csp_prune_row); 0 = all */
    int threads;         /* 0 = all that OpenMP offers; the result does not depend on it       */
    bool remove_query;   /* leave a document out whose id is the query's                       */
} csp_search_options;

/* Best first; ties by descending document id. */
typedef struct csp_hits {
    int64_t queries;
    int64_t depth;  /* places for each query                                 */
    int64_t *count; /* [queries] at most depth                               */
    int32_t *doc;   /* [queries x depth] numbers of the index                */
    float *score;   /* [queries x depth]                                     */
} csp_hits;

/*
 * Finds for each query the documents of the largest inner product; exact, never pruned.
 *
 *     s[q,d] = sum over terms t, ascending, of q_t d_t        documents with s > 0 only
 *
 * A term of a query outside the index's axis matches nothing.
 * Precision: products and sums in float32, added in the order of the query's terms, so the same
 *            bits for any number of threads and any other documents in the index.
 * Owner:  csp_hits_free.
 * Errors: CSP_ERR_ARGUMENT (depth below 1), CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_index_search(const csp_index *index, const csp_vectors *queries,
                                        const csp_search_options *options, csp_hits **out);
void csp_hits_free(csp_hits *hits);

/* A run in memory, for metrics, fusion and files. Ids are borrowed, see the functions. */
typedef struct csp_ranking {
    csp_trec trec; /* its memory is NULL: csp_trec_find does not work on it */
} csp_ranking;

/*
 * Hits with their ids. Queries without hits are there, with no rows.
 *
 *   query_id  in   [hits->queries]
 *
 * Owner:  csp_ranking_free; ids point into query_id's strings and index, which must live as long.
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_ranking_from_hits(const csp_hits *hits, const csp_index *index,
                                             char *const *query_id, csp_ranking **out);

/* Room for queries and rows in all; count starts at 0. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_ranking_create(int64_t queries, int64_t rows, csp_ranking **out);
void csp_ranking_free(csp_ranking *ranking);

/* Writes a TREC run. Errors: as csp_run_writer_append. */
CSP_CHECKED csp_status csp_ranking_write(const csp_ranking *ranking, const char *path,
                                         const char *tag);
