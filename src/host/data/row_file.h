/*
 * row_file.h - any line of a text file, or of several that make one, by its ordinal, as it was when
 * the file was first read.
 *
 * A plain file is read again from the disk, so memory is 8 bytes a line and the system's page cache
 * decides what stays near. What cannot be read again at an offset (gzip, a pipe) is kept in memory
 * unpacked.
 */
#pragma once

#include "data/image.h"
#include "io/digest.h"

typedef struct csp_row_file csp_row_file;

/*
 * Prepares to hold lines of path, which the caller reads through once with csp_lines, handing each
 * line to csp_row_file_add. Errors: CSP_ERR_IO, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_row_file_open(const char *path, csp_row_file **out);
void csp_row_file_close(csp_row_file *file);

/* Lines added from here on are of another file, as if it stood behind the one before. */
CSP_CHECKED csp_status csp_row_file_go_on(csp_row_file *file, const char *path);

/*
 * Adds the next line: its ordinal is the number of lines added before.
 *
 *   offset  in  where it begins in the uncompressed file: csp_lines_tell before reading it
 *   line    in  bytes bytes
 */
CSP_CHECKED csp_status csp_row_file_add(csp_row_file *file, int64_t offset, const char *line,
                                        int64_t bytes);

/*
 * Line number row of those added, without its end; valid until the next call on this file.
 *
 * Errors: CSP_ERR_IO; CSP_ERR_ARGUMENT for a row that was not added; CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_row_file_read(csp_row_file *file, int64_t row, const char **line,
                                         int64_t *bytes);

int64_t csp_row_file_count(const csp_row_file *file);

/*
 * Visits the parts of a file (data/image.h), which is made where *file is NULL: a plain one is
 * opened there for reading rows, lines in memory are the image's. A rank whose path leads to
 * another file than the reader's, as to a copy, reads the lines once for the digest of its own. No
 * row is added to one that has become an image's.
 *
 * Errors: CSP_ERR_DATA where a plain file is none here; CSP_ERR_IO, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_row_file_share(csp_image *image, csp_row_file **file);

/*
 * The same lines once more, for another thread: what is known of them is that of `of`, which must
 * outlive it. No row is added to it. Errors: CSP_ERR_IO, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_row_file_again(const csp_row_file *of, csp_row_file **out);

/*
 * Bytes from where a row begins to where the next one does: lines between them that were not added
 * count too. Of the last row of a file 0: where it ends is not remembered.
 */
int64_t csp_row_file_row_bytes(const csp_row_file *file, int64_t row);

/*
 * Of the lines added, taken as they passed: equal for equal lines in the same order, wherever they
 * are stored and however they end.
 */
void csp_row_file_digest(const csp_row_file *file, char text[CSP_DIGEST_TEXT_BYTES]);

/* The file in which a row is, and its number there, from 0. */
const char *csp_row_file_path(const csp_row_file *file, int64_t row);
int64_t csp_row_file_row_in_file(const csp_row_file *file, int64_t row);

/* Whether the lines of any file lie in memory, and bytes of memory held. */
bool csp_row_file_in_memory(const csp_row_file *file);
int64_t csp_row_file_bytes(const csp_row_file *file);
