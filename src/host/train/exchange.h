/*
 * exchange.h - the queries of all ranks, which each rank compares with its own documents, and the
 * way back of their gradient. Documents never travel.
 *
 * Queries are encoded before most documents, and are on their way while those are encoded:
 *
 *     csp_exchange_lengths(x, &own)    when the queries of this rank are there
 *     ...                              the first documents
 *     csp_exchange_entries(x)          terms and weights leave
 *     ...                              the other documents
 *     csp_exchange_arrive(x)           x->all is there
 *     ...                              scores, gradients: x->dw
 *     csp_exchange_return(x, &dw)      dw is the sum of all ranks' x->dw at this rank's queries
 *
 * A gradient lives where its weight is above 0 alone, so it comes back without terms.
 *
 * On one rank all is own, dw is the caller's, and nothing moves.
 */
#pragma once

#include "ops/sparse_pool.h"
#include "train/ranks.h"

typedef struct csp_exchange {
    const csp_ranks *ranks; /* NULL: one rank */
    csp_backend *be;
    int64_t queries;  /* of a step, over all ranks, at most                             */
    csp_sparse all;   /* rank by rank                                                   */
    csp_tensor dw;    /* (cap of all) f32                                               */
    int64_t *row_ptr; /* (queries + 1) of all, on the host; not on one rank             */
    int64_t *lengths; /* (queries) entries of each query                                */
    int64_t *entries; /* (ranks) of each rank                                           */
    csp_sparse own;   /* of this step                                                   */
    int64_t rows;     /* of own                                                         */
    int64_t ticket;   /* of lengths                                                     */
    csp_pending term, weight;
} csp_exchange;

/* What the exchange needs of an arena; on a ruler this measures. Nothing on one rank. */
CSP_CHECKED csp_status csp_exchange_place(csp_exchange *x, int64_t vocab, csp_arena *arena);

/*
 *   queries   in   of a step, over all ranks, at most
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_exchange_open(csp_backend *be, const csp_ranks *ranks, int64_t queries,
                                         csp_exchange *out);
void csp_exchange_close(csp_exchange *x);

/*
 * The steps above. own: rows queries of this rank, as many on each; dw: beside own's entries.
 *
 * Stream: lengths waits for be, which must have made own; arrive and return wait for the ranks.
 */
CSP_CHECKED csp_status csp_exchange_lengths(csp_exchange *x, const csp_sparse *own, int64_t rows,
                                            const csp_tensor *dw);
CSP_CHECKED csp_status csp_exchange_entries(csp_exchange *x);
CSP_CHECKED csp_status csp_exchange_arrive(csp_exchange *x);
CSP_CHECKED csp_status csp_exchange_return(csp_exchange *x, csp_tensor *dw);
