/*
 * plain.h - unlabelled texts for adaptation: which of them each optimizer step takes, and their
 * tokens.
 *
 * Sources are plain text (.txt, a text a line), JSONL with "text", TSV (id and text), or a BEIR
 * folder (its corpus); several make one collection. Memory holds 8 bytes a text. Empty texts are
 * counted and left out.
 */
#pragma once

#include "data/text_encoder.h"
#include "data/text_row.h"
#include "data/token_lists.h"
#include "io/digest.h"

typedef struct csp_plain csp_plain;

/*
 *   paths      in  count >= 1 files or BEIR folders
 *   strict     in  an empty text is an error
 *   separator  in  between title and text, NULL = one space
 *
 * Owner:  the caller calls csp_plain_close.
 * Errors: those of csp_texts_open and csp_texts_next; CSP_ERR_DATA if there is no text at all.
 */
CSP_CHECKED csp_status csp_plain_open(const char *const *paths, int64_t count, bool strict,
                                      const char *separator, csp_plain **out);
void csp_plain_close(csp_plain *plain);

/* Texts, and empty ones that were left out. */
int64_t csp_plain_count(const csp_plain *plain);
int64_t csp_plain_empty(const csp_plain *plain);

/*
 * Of the lines of all files in their order, empty ones left out: whether two collections are the
 * same. Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_plain_digest(const csp_plain *plain, char text[CSP_DIGEST_TEXT_BYTES]);

/* A text by ordinal (files in the order given); valid until the next read. One thread at a time. */
CSP_CHECKED csp_status csp_plain_read(csp_plain *plain, int64_t text, csp_text_row *row);

/* How steps are made. */
typedef struct csp_plain_sampling {
    uint64_t seed;
    int64_t texts;   /* of a whole step, over all ranks           */
    int32_t max_len; /* tokens of a text, without BOS and EOS     */
    bool in_order;   /* no shuffle                                */
} csp_plain_sampling;

/* The text at place i of a step: text p = step * texts + i of the epochs, each shuffled anew. */
int64_t csp_plain_text_of(const csp_plain *plain, const csp_plain_sampling *sampling, int64_t step,
                          int64_t i);

/*
 * The token lists of texts first .. first + count - 1 of a step: a pure function of its arguments.
 *
 *   lists  out  overwritten; count lists
 *
 * Errors: CSP_ERR_ARGUMENT for sizes out of range, and those of reading and encoding.
 */
CSP_CHECKED csp_status csp_plain_load(csp_plain *plain, csp_text_encoder *encoder,
                                      const csp_plain_sampling *sampling, int64_t step,
                                      int64_t first, int64_t count, csp_token_lists *lists);

/*
 * How many texts make up about so many tokens a step: tokens / mean length, at least 1, measured on
 * the same up to 1,000 texts each time. Steps of a fixed number of texts are what makes every step
 * computable without the ones before it.
 */
CSP_CHECKED csp_status csp_plain_texts_per_step(csp_plain *plain, const csp_contract *contract,
                                                const csp_tokenizer *tokenizer, int32_t max_len,
                                                int64_t tokens, int64_t *texts);
