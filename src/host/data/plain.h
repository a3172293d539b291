/*
 * plain.h - unlabelled texts for adaptation: which of them each optimizer step takes, and their
 * tokens.
 *
 * Sources are plain text (.txt, a text a line), JSONL with "text", TSV (id and text), or a BEIR
 * folder (its corpus); several make one collection. Memory holds 8 bytes a text. Empty texts are
 * counted and left out.
 */
#pragma once

#include "data/image.h"
#include "data/text_encoder.h"
#include "data/text_row.h"
#include "data/token_lists.h"
#include "io/digest.h"

typedef struct csp_plain csp_plain;

/*
 *   paths      in  count >= 1 files or BEIR folders
 *   strict     in  an empty text is an error
 *   separator  in  between title and text, NULL = one space
 *   image      in  ranks that wait for it (csp_image_waits), or NULL
 *
 * Owner:  the caller calls csp_plain_close.
 * Errors: those of csp_texts_open and csp_texts_next; CSP_ERR_DATA if there is no text at all.
 */
CSP_CHECKED csp_status csp_plain_open(const char *const *paths, int64_t count, bool strict,
                                      const char *separator, csp_image *image, csp_plain **out);
void csp_plain_close(csp_plain *plain);

/*
 * Visits the parts of a collection (data/image.h), which is made where *plain is NULL, as it was
 * opened with separator. Errors: those of csp_row_file_share.
 */
CSP_CHECKED csp_status csp_plain_share(csp_image *image, const char *separator, csp_plain **plain);

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

/* About how long a text is, in bytes, without reading it; the same in every process. */
int64_t csp_plain_bytes(const csp_plain *plain, int64_t text);

/*
 * The token lists of some texts of a step: a pure function of its arguments.
 *
 *   place  in   (count) their places in the step
 *   lists  out  overwritten; count lists
 *
 * Errors: CSP_ERR_ARGUMENT for sizes out of range, and those of reading and encoding.
 */
CSP_CHECKED csp_status csp_plain_load(csp_plain *plain, csp_text_encoder *encoder,
                                      const csp_plain_sampling *sampling, int64_t step,
                                      const int64_t *place, int64_t count, csp_token_lists *lists);
