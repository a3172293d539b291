/*
 * contrastive_internal.h - what the contrastive step consists of, for contrastive.c (the step) and
 * contrastive_read.c (what came out of it).
 */
#pragma once

#include "model/contract_head.h"
#include "train/contrastive.h"
#include "train/step_numbers.h"

/* The representations of one side of the batch and their gradient. */
typedef struct side_rows {
    csp_sparse w;     /* its row_ptr is among the step's numbers      */
    csp_tensor dw;    /* (cap) f32                                    */
    csp_tensor sum;   /* (V) f64                                      */
    csp_tensor count; /* (V) i32  rows that have the term   a number  */
    csp_tensor reg;   /* (1) f64  the sparsity term         a number  */
    int64_t rows;     /* of this step                                 */
} side_rows;

struct csp_contrastive {
    csp_backend *be;
    const csp_model *model;
    const csp_contract *contract;
    csp_contrastive_options options;
    csp_chunked *chunks;
    csp_contract_head head;
    csp_health *health;
    csp_arena rows;       /* what follows lies in it */
    side_rows side[2];    /* by csp_side */
    csp_exchange queries; /* of all ranks of the group */
    csp_tensor s;        /* (Q,P) f32 scores, then their gradient; Q of the group, P of this rank */
    csp_tensor positive; /* (Q) i32 */
    csp_tensor mask;     /* (Q,P) u8 */
    csp_tensor sum;      /* (Q) f64 csp_nce_sum */
    csp_step_numbers numbers;
    csp_pending sums[2];
    int64_t *all_rows[2];      /* (all rows + 1) row_ptr of all ranks' rows of a side, where the
                                  ranks have to tell each other                                  */
    csp_tensor bad_row;        /* (Q+P) i64 csp_run_note_bad_row of each micro-batch */
    csp_tensor row;            /* (Q,2) f64 csp_nce_scores                           */
    csp_tensor nce;            /* (Q) f64   csp_nce_grad                             */
    csp_tensor positions;      /* (CSP_POSITIONS) i64 csp_position_counts of documents */
    csp_contrastive_step step; /* the last one */
    int64_t masked;            /* pairs that it left out on this rank */
    double flop;
};

/* The ranks whose documents this rank's queries are compared with. */
static inline const csp_ranks *csp_contrastive_group(const csp_contrastive_options *o)
{
    return o->group != NULL ? o->group : o->ranks;
}

/* Whether there are queries that this rank does not see. */
static inline bool csp_contrastive_has_groups(const csp_contrastive *c)
{
    return csp_ranks_size(csp_contrastive_group(&c->options)) < csp_ranks_size(c->options.ranks);
}

/* Queries of the step, over all ranks. */
static inline int64_t csp_contrastive_queries(const csp_contrastive *c)
{
    return c->side[CSP_SIDE_QUERY].rows * csp_ranks_size(c->options.ranks);
}
