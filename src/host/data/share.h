/*
 * share.h - which rank computes which texts of a batch: as many each, and about as much work each.
 *
 * The longest text goes first, each to the rank that has least so far and is not full. Every rank
 * finds the same, because it is a function of the costs alone; what a step computes does not depend
 * on it.
 */
#pragma once

#include <stdint.h>

#include "data/heap.h"

/* Start from { 0 }; memory grows as needed and is kept. */
typedef struct csp_share {
    int64_t *cost;  /* (count) in: of each text, >= 0; room is made by csp_share_reserve          */
    int64_t *text;  /* (count) out: texts of rank 0, then those of rank 1, ...; ascending in each */
    int32_t *owner; /* (count) out: the rank of each text                                        */
    int64_t *load;  /* (ranks) in, out: what a rank has to do, to which the costs of its texts are
                       added                                                                     */
    int64_t *order;
    csp_heap least;
    int64_t room, ranks;
} csp_share;

void csp_share_clear(csp_share *share);

/* Makes room for count texts of so many ranks; loads are 0 afterwards. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_share_reserve(csp_share *share, int64_t count, int64_t ranks);

/*
 * Shares the texts out.
 *
 *   count   in   a multiple of ranks: each gets count / ranks
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_share_texts(csp_share *share, int64_t count, int64_t ranks);
