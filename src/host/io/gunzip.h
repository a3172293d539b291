/*
 * gunzip.h - the bytes of a file, uncompressed where it is gzip, from its beginning to its end.
 *
 * zlib's own gzread will not do: it takes whatever follows a gzip member and is no other for
 * nothing, so that a flipped bit in the header of a later one, or a text appended to a packed file,
 * ends the file there without a word.
 */
#pragma once

#include "core/status.h"

typedef struct csp_gunzip csp_gunzip;

/* Reads fd, which it owns from now on, also where it fails. path is for messages. */
CSP_CHECKED csp_status csp_gunzip_open(int fd, const char *path, csp_gunzip **out);

/*
 * The next bytes, as many as there are at once.
 *
 *   line   in   number of the line that the caller is in, for messages
 *   room   in   of to, above 0
 *   got    out  bytes written to to; 0 at the end of the file
 *
 * Members that follow each other are one text; zeros may follow the last. Errors: CSP_ERR_IO;
 * CSP_ERR_FORMAT for damaged gzip data, anything else behind it, and the beginning of another
 * compression (zstd, xz, bzip2, zip), which would be no text anyway.
 */
CSP_CHECKED csp_status csp_gunzip_read(csp_gunzip *from, int64_t line, char *to, int64_t room,
                                       int64_t *got);

void csp_gunzip_close(csp_gunzip *from);
