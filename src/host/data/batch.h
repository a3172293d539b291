/*
 * batch.h - token lists packed without padding: what the model reads in one micro-batch.
 *
 * Text b occupies rows seq_start[b] .. seq_start[b + 1] - 1; positions count from its own start.
 * An example, variant echo with BOS (id 1), texts [1 5 6] and [1 7]:
 *
 *     row        0  1  2  3  4 | 5  6  7
 *     tokens     1  5  6  5  6 | 1  7  7
 *     keep       0  0  0  1  1 | 0  0  1
 *     seq_start  0, 5, 8
 */
#pragma once

#include "data/token_lists.h"
#include "io/contract.h"

/* row_key = text index in the global batch * CSP_ROW_KEY_TEXT + position. */
#define CSP_ROW_KEY_TEXT ((int64_t)1 << 20)

/* Start from { 0 }. Host arrays; memory grows as needed and is kept from pack to pack. */
typedef struct csp_batch {
    int64_t B, N;       /* texts, token rows                                               */
    int64_t max_len;    /* rows of the longest text                                        */
    int64_t kept;       /* pooled rows                                                     */
    int64_t predicted;  /* rows with a target: adaptation's share of n_tok                 */
    int32_t *tokens;    /* (N)                                                             */
    int32_t *seq_start; /* (B+1)                                                           */
    int32_t *order;     /* (B)   texts, longest first; equally long ones as they lie       */
    uint8_t *keep;      /* (N)   1 = pooled position                                       */
    int64_t *row_key;   /* (N)   for dropout: the same in every split of the same batch    */
    int32_t *target;    /* (N)   next token of the same text, or -1; -1 outside adaptation */
    int32_t *of_length; /* (max_len+1) for finding order: where texts of a length begin    */
    int64_t text_room, row_room;
} csp_batch;

void csp_batch_clear(csp_batch *batch);

/* The text that row 0 <= row < N belongs to; row becomes the position in it. */
int64_t csp_batch_text_of(const csp_batch *batch, int64_t *row);

/* Memory for B texts and N rows, so that packs up to there allocate nothing. CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_batch_reserve(csp_batch *batch, int64_t B, int64_t N);

/*
 * Packs lists first .. last - 1, made by csp_text_encode under the same contract, for encoding.
 *
 *     causal, bi   ids;            pooled: every token (BOS and EOS too, where the contract adds
 * them) echo         [BOS] ids ids;  pooled: the second copy
 *
 * Source: docs/method.md 2.
 *
 *   text       in   index of each list in the global batch, less text_base; NULL: its own number.
 *                   row_key is the same however the batch is split
 *   text_base  in   added to it. Queries and documents of a step must not share indices: documents
 *                   start at the number of queries of the whole step.
 *   batch      out  overwritten; an empty list is a text without rows
 *
 * Errors: CSP_ERR_ARGUMENT for a text of more than 2^20 rows or a batch of 2^31; CSP_ERR_MEMORY.
 *         B and N are 0 then.
 */
CSP_CHECKED csp_status csp_batch_pack(const csp_contract *contract, const csp_token_lists *lists,
                                      int64_t first, int64_t last, const int64_t *text,
                                      int64_t text_base, csp_batch *batch);

/*
 * Packs lists for adaptation: causal whatever the variant, one copy, every token kept. target is
 * the next token of the same text; -1 at its last, and where the contract excludes the next token,
 * which is in neither softmax. Arguments and errors as csp_batch_pack.
 */
CSP_CHECKED csp_status csp_batch_pack_adapt(const csp_contract *contract,
                                            const csp_token_lists *lists, int64_t first,
                                            int64_t last, const int64_t *text, int64_t text_base,
                                            csp_batch *batch);

/* Rows with a target: n_tok of these lists, before any is packed. */
int64_t csp_batch_predicted(const csp_contract *contract, const csp_token_lists *lists);

/*
 * Cuts the lists into micro-batches of at most max_rows rows, in order and without cutting a text;
 * a text that is longer has one to itself.
 *
 *   contract  in   NULL for adaptation (one copy)
 *   max_rows  in   0 = everything in one
 *   edges     out  room for lists->count + 1; micro-batch i is lists edges[i] .. edges[i + 1] - 1
 *   count     out  number of micro-batches; 0 without lists
 */
void csp_batch_split(const csp_contract *contract, const csp_token_lists *lists, int64_t max_rows,
                     int64_t *edges, int64_t *count);
