/*
 * lines.h - the lines of a text file, plain or gzip (recognised by its first bytes), in constant
 * memory, with line numbers for messages.
 */
#pragma once

#include "core/status.h"

typedef struct csp_lines csp_lines;

/* Opens path; "-" is standard input. Errors: CSP_ERR_IO. */
CSP_CHECKED csp_status csp_lines_open(const char *path, csp_lines **out);

/*
 * The next line, without its end ("\n" or "\r\n"). A byte order mark at the start of the file is
 * skipped. After a failure only csp_lines_close may be called.
 *
 *   line   out   NUL-terminated; may hold NUL bytes before *bytes; valid until the next call;
 *                NULL at the end of the file
 *   bytes  out   its length
 *
 * Errors: CSP_ERR_IO, CSP_ERR_FORMAT (damaged gzip, another compression, a line above 256 MiB) with
 * path and line.
 */
CSP_CHECKED csp_status csp_lines_next(csp_lines *lines, char **line, int64_t *bytes);

/* Number of the line last returned, from 1; the path as given. For "path:line: ..." texts. */
int64_t csp_lines_number(const csp_lines *lines);
const char *csp_lines_path(const csp_lines *lines);

/* Offset in the uncompressed text of the line after the one last returned. */
int64_t csp_lines_tell(const csp_lines *lines);

void csp_lines_close(csp_lines *lines);

/*
 * Whether bytes are valid UTF-8 (no surrogates, no overlong forms). at may be NULL; *at is the
 * offset at which the first bad sequence begins, written only when there is one.
 */
bool csp_utf8_is_valid(const char *text, int64_t bytes, int64_t *at);
