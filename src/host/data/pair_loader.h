/*
 * pair_loader.h - what a contrastive step reads: the tokens of its queries and documents, each text
 * tokenised once in a run as long as the cache has room.
 */
#pragma once

#include "data/pairs.h"
#include "data/text_encoder.h"
#include "data/token_lists.h"

typedef struct csp_pair_loader csp_pair_loader;

/*
 *   pairs, encoder  in  must outlive the loader
 *   cache_bytes     in  memory for token lists, queries and documents together; 0 = no cache
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_pair_loader_create(csp_pairs *pairs, csp_text_encoder *encoder,
                                              int64_t cache_bytes, csp_pair_loader **out);
void csp_pair_loader_destroy(csp_pair_loader *loader);

/* A step, or a rank's part of it. Start from { 0 }; memory is kept from step to step. */
typedef struct csp_pair_step {
    csp_draw_list drawn;       /* examples and document keys                                  */
    csp_token_lists queries;   /* one list a query                                            */
    csp_token_lists documents; /* G lists a query, the positive first                         */
    int64_t query_base;        /* index of the first query in the global batch                */
    int64_t document_base;     /* of the first document: all Q queries come before documents  */
} csp_pair_step;

void csp_pair_step_clear(csp_pair_step *step);

/*
 * Loads queries first .. first + count - 1 of an optimizer step, and their documents (see
 * csp_pairs_draw): a pure function of pairs, contract, sampling, step, first and count. The two
 * bases are the text_base of csp_batch_pack.
 *
 * Errors: those of csp_pairs_draw, of reading and of encoding.
 */
CSP_CHECKED csp_status csp_pair_loader_load(csp_pair_loader *loader, const csp_sampling *sampling,
                                            int64_t step, int64_t first, int64_t count,
                                            csp_pair_step *out);

/* Bytes the caches use and texts they hold. */
void csp_pair_loader_cached(const csp_pair_loader *loader, int64_t *bytes, int64_t *texts);
