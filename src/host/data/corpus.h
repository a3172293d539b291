/*
 * corpus.h - documents or queries of a collection, one after the other: id and text.
 *
 * The texts are streamed: memory holds one line, and the ids (where duplicates are checked),
 * whatever the size of the file.
 *
 * Bad input: a malformed line, a missing or duplicate id and invalid UTF-8 are errors with file and
 * line. An empty text is none: it is handed out and counted, unless strict. A blank line is passed
 * over, except in plain text, where it is an empty text.
 */
#pragma once

#include "data/id_table.h"
#include "data/text_row.h"

typedef struct csp_texts_options {
    csp_text_format format; /* CSP_TEXT_AUTO finds out                                       */
    csp_side side;          /* documents or queries: keys of JSONL, file of a BEIR folder    */
    bool strict;            /* an empty text is an error                                     */
    bool skip_empty;        /* an empty text is counted and passed over; only without_ids    */
    bool without_ids;       /* unlabelled text: ids are neither needed nor checked           */
    const char *separator;  /* between title and text, NULL = one space (see the contract)   */
    csp_image *image;       /* of a text store: ranks that wait for it (csp_image_waits)     */
} csp_texts_options;

typedef struct csp_texts csp_texts;

/*
 * Opens path: a file, plain or gzip; "-" for standard input; or a BEIR folder, of which
 * corpus.jsonl or queries.jsonl (or .jsonl.gz, or all their shards as one) is read by side:
 * data/text_files.h.
 *
 *   options  in   NULL = documents, found format, lenient, ids checked; a zeroed struct is queries
 *
 * Owner:  the caller calls csp_texts_close.
 * Errors: CSP_ERR_IO; CSP_ERR_ARGUMENT for a format that cannot be told; those of the first line.
 */
CSP_CHECKED csp_status csp_texts_open(const char *path, const csp_texts_options *options,
                                      csp_texts **out);

/*
 * The next text. At the end row->text is NULL. row is valid until the next call.
 *
 * Errors: CSP_ERR_FORMAT, CSP_ERR_DATA (duplicate id, empty text where strict), CSP_ERR_IO,
 *         CSP_ERR_MEMORY; the texts can only be closed then.
 */
CSP_CHECKED csp_status csp_texts_next(csp_texts *texts, csp_text_row *row);

/*
 * Where the row last handed out began, in the uncompressed file; its line; the file's path, and its
 * number among the files of the collection, from 0.
 */
int64_t csp_texts_offset(const csp_texts *texts);
int64_t csp_texts_line(const csp_texts *texts);
const char *csp_texts_path(const csp_texts *texts);
int64_t csp_texts_file(const csp_texts *texts);

/* The line itself, valid until the next call of csp_texts_next. */
const char *csp_texts_raw(const csp_texts *texts, int64_t *bytes);

csp_text_format csp_texts_format(const csp_texts *texts);

/* Rows handed out so far, and how many of them had an empty text. */
int64_t csp_texts_count(const csp_texts *texts);
int64_t csp_texts_empty(const csp_texts *texts);

/* Hands the table of ids over to the caller (ordinal = row). Only after the last row. */
csp_id_table *csp_texts_take_ids(csp_texts *texts);

void csp_texts_close(csp_texts *texts);
