/*
 * step_texts.h - the texts of one optimizer step, made ready: drawn, shared out among ranks, read
 * and tokenised. What comes out is a function of (seed, step, rank) alone.
 */
#pragma once

#include "config/config.h"
#include "data/pairs.h"
#include "data/plain.h"
#include "data/share.h"
#include "data/text_encoder.h"
#include "data/token_lists.h"

/* Where texts come from, and what is worked with. One thread at a time. */
typedef struct csp_step_source {
    const csp_config *config;
    int rank, ranks;
    int group; /* ranks that share the span of queries which is drawn here: csp_negative_group */
    csp_text_encoder *encoder;
    csp_pairs *pairs; /* NULL without a contrastive phase */
    csp_plain *plain; /* NULL without an adaptation phase */
    csp_token_cache *query_cache;
    csp_token_cache *document_cache;
    csp_draw_list draw;         /* the span, in the order drawn                         */
    int64_t *number;            /* (queries of a span) of the step's                    */
    csp_draw_list whole;        /* of several blocks: the step                          */
    csp_share share_b;          /* of several: which block has which queries of whole   */
    csp_token_list ids;         /* of one text                                          */
    csp_share share_q, share_d; /* of a span: which rank of the group has which texts   */
    int64_t *column;            /* (documents of a span) among this rank's, -1: others' */
} csp_step_source;

/* Queries of a step in the blocks of negatives that this rank's group has. */
static inline int64_t csp_step_source_span(const csp_step_source *source)
{
    return source->config->contrastive.batch.queries / source->ranks * source->group;
}

void csp_step_source_clear(csp_step_source *source);

/* What the encoder had counted in all when a step was ready. */
typedef struct csp_step_counts {
    csp_text_counts query, passage, plain;
} csp_step_counts;

/* This rank's part of one step. Of adaptation only plain and passage_text are set. */
typedef struct csp_step_texts {
    int64_t step;
    csp_token_lists queries, passages, plain;
    int64_t *query_text, *passage_text; /* numbers of each list in the whole step   */
    int32_t *positive;                  /* (queries of the span) see csp_contrastive_texts */
    uint8_t *mask;                      /* (queries of the span x this rank's documents) */
    bool masked;                        /* mask leaves something out */
    csp_step_counts counts;
} csp_step_texts;

/* Makes room for steps of one phase. Owner: csp_step_texts_clear. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_step_texts_init(const csp_step_source *source, bool adapt,
                                           csp_step_texts *out);
void csp_step_texts_clear(csp_step_texts *texts);

/*
 * Makes step k = 0, 1, ... of a phase ready; texts was made for that phase, and is overwritten.
 *
 * Errors: CSP_ERR_DATA for a file that has changed, and, where data.strict, for an empty or over-
 *         long text; CSP_ERR_IO, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_step_texts_load(csp_step_source *source, bool adapt, int64_t k,
                                           csp_step_texts *texts);
