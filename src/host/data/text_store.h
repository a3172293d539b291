/*
 * text_store.h - the texts of a collection by ordinal or id, for training: memory holds ids and
 * offsets, never the texts (except of gzip files and pipes, which cannot be read at an offset).
 *
 * The ordinal of a document is its key everywhere: in lists of positives, in masks, in caches.
 */
#pragma once

#include "data/corpus.h"
#include "io/digest.h"

typedef struct csp_text_store csp_text_store;

/*
 * Reads path once (see csp_texts_open) and remembers where each text is.
 *
 * Owner:  the caller calls csp_text_store_close.
 * Errors: as csp_texts_open and csp_texts_next.
 */
CSP_CHECKED csp_status csp_text_store_open(const char *path, const csp_texts_options *options,
                                           csp_text_store **out);
void csp_text_store_close(csp_text_store *store);

/*
 * Visits the parts of a store (data/image.h), which is made where *store is NULL, as it was opened
 * with options. Errors: those of csp_row_file_share.
 */
CSP_CHECKED csp_status csp_text_store_share(csp_image *image, const csp_texts_options *options,
                                            csp_text_store **store);

/*
 * The same texts once more, for another thread: ids and places are those of `of`, which must
 * outlive it. options: as those of `of`. Errors: those of csp_row_file_again.
 */
CSP_CHECKED csp_status csp_text_store_again(const csp_text_store *of,
                                            const csp_texts_options *options, csp_text_store **out);

/* Of its lines as they were read (csp_row_file_digest): whether two stores hold the same. */
void csp_text_store_digest(const csp_text_store *store, char text[CSP_DIGEST_TEXT_BYTES]);

int64_t csp_text_store_count(const csp_text_store *store);

/* How many texts are empty. */
int64_t csp_text_store_empty(const csp_text_store *store);

/* Ordinal of an id, -1 if it is not there; id of an ordinal. Stores without ids: -1 and NULL. */
int64_t csp_text_store_find(const csp_text_store *store, const char *id);
const char *csp_text_store_id(const csp_text_store *store, int64_t index);

/*
 * The text at an ordinal; row is valid until the next call on this store. One thread at a time.
 *
 * Errors: CSP_ERR_DATA if the file has changed since it was opened; CSP_ERR_IO, CSP_ERR_FORMAT,
 *         CSP_ERR_MEMORY, CSP_ERR_ARGUMENT.
 */
CSP_CHECKED csp_status csp_text_store_read(csp_text_store *store, int64_t index, csp_text_row *row);

/* Bytes of the line an ordinal's text is in, or a little more: how long it is about. */
int64_t csp_text_store_bytes(const csp_text_store *store, int64_t index);
