/*
 * text_encoder.h - text to token ids under a text contract, and what happened on the way.
 *
 *     ids(s) = [BOS] first max_len tokens of (prefix + text) [EOS]
 *
 * Prefix and text are tokenised as one string. max_len counts prefix and text, never BOS and EOS;
 * what is too long loses its end. The post-processor of tokenizer.json is not applied: the contract
 * decides alone. An empty text (nothing but white space) has no ids at all, neither prefix nor BOS:
 * its vector is an empty row.
 */
#pragma once

#include <stddef.h>

#include "data/tokenizer.h"
#include "io/contract.h"

/* What was encoded; all zero to begin with. */
typedef struct csp_text_counts {
    int64_t texts;     /* encoded, the empty ones included                        */
    int64_t empty;     /* texts without content: no tokens                        */
    int64_t truncated; /* texts that lost their end                               */
    int64_t longest;   /* tokens of the longest prefix + text, before truncation  */
    int64_t tokens;    /* ids handed out, with BOS and EOS                        */
} csp_text_counts;

/* to += from. */
void csp_text_counts_add(csp_text_counts *to, const csp_text_counts *from);

/*
 * The counts in words, "5183 documents, 2 empty, 310 cut at 192 tokens (longest 1041)", cut to size
 * bytes. what is the plural noun, max_len the limit that applied.
 */
void csp_text_counts_say(const csp_text_counts *counts, const char *what, int32_t max_len,
                         char *text, size_t size);

/* Not shared between threads: each has its own. */
typedef struct csp_text_encoder csp_text_encoder;

/*
 *   contract, tokenizer  in   must outlive the encoder
 *   strict               in   an empty and an over-long text are errors (data.strict)
 *
 * Errors: CSP_ERR_MEMORY; CSP_ERR_CONFIG if the contract's BOS or EOS, where it adds them, is not
 * in the tokenizer's vocabulary.
 */
CSP_CHECKED csp_status csp_text_encoder_create(const csp_contract *contract,
                                               const csp_tokenizer *tokenizer, bool strict,
                                               csp_text_encoder **out);
void csp_text_encoder_destroy(csp_text_encoder *encoder);

/*
 * The ids of a query or passage.
 *
 *   id    in   for messages, may be NULL
 *   text  in   bytes of UTF-8
 *   out   out  overwritten; empty for an empty text
 *
 * Errors: CSP_ERR_DATA for invalid UTF-8, and, where strict, for an empty or over-long text, with
 *         the id; CSP_ERR_MEMORY. out's contents are unspecified then.
 */
CSP_CHECKED csp_status csp_text_encode(csp_text_encoder *encoder, csp_side side, const char *id,
                                       const char *text, int64_t bytes, csp_token_list *out);

/*
 * The ids of an unlabelled text for adaptation: no prefix, at most max_len tokens, BOS and EOS as
 * in the contract. id, errors and counting as above (an over-long text is never an error here:
 * language modelling loses nothing by a cut).
 */
CSP_CHECKED csp_status csp_text_encode_plain(csp_text_encoder *encoder, int32_t max_len,
                                             const char *id, const char *text, int64_t bytes,
                                             csp_token_list *out);

/* What this encoder has encoded so far: queries, passages, unlabelled texts. */
const csp_text_counts *csp_text_encoder_counts(const csp_text_encoder *encoder, csp_side side);
const csp_text_counts *csp_text_encoder_plain_counts(const csp_text_encoder *encoder);

const csp_contract *csp_text_encoder_contract(const csp_text_encoder *encoder);
const csp_tokenizer *csp_text_encoder_tokenizer(const csp_text_encoder *encoder);
