/*
 * lines.c - lines of a plain or gzip file through one growing buffer.
 *
 * The buffer holds the unread text in [at, end); base is the offset of buffer[0] in the
 * uncompressed text.
 */
#include "io/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/memory.h"
#include "io/gunzip.h"

enum { FIRST_BYTES = 1 << 18, LINE_LIMIT = 1 << 28 };

struct csp_lines {
    char *path;
    csp_gunzip *stream;
    char *buffer;
    int64_t capacity; /* of buffer, without the byte for the last NUL */
    int64_t base, at, end;
    int64_t number;
    bool ended; /* the stream has no more bytes than the buffer holds */
};

csp_status csp_lines_open(const char *path, csp_lines **out)
{
    csp_lines *lines = NULL;
    struct stat info;
    csp_status status;
    int fd = -1;

    CSP_TRY(csp_alloc_zero(path, 1, sizeof(*lines), &lines));
    CSP_TRY_GOTO(csp_strdup(path, path, &lines->path));
    CSP_TRY_GOTO(csp_alloc(path, FIRST_BYTES + 1, 1, &lines->buffer));
    lines->capacity = FIRST_BYTES;
    fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
        goto fail;
    }
    if (fstat(fd, &info) == 0 && S_ISDIR(info.st_mode)) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: is a folder, not a file of lines", path);
        goto fail;
    }
    status = csp_gunzip_open(fd, path, &lines->stream);
    fd = -1; /* the stream owns it now */
    if (status != CSP_OK) {
        goto fail;
    }
    *out = lines;
    return CSP_OK;

fail:
    if (fd >= 0) {
        close(fd);
    }
    csp_lines_close(lines);
    return status;
}

/* Makes room behind end: moves the unread text to the front, and grows when it fills the buffer. */
static csp_status make_room(csp_lines *lines)
{
    if (lines->at > 0) {
        memmove(lines->buffer, lines->buffer + lines->at, (size_t)(lines->end - lines->at));
        lines->base += lines->at;
        lines->end -= lines->at;
        lines->at = 0;
    }
    if (lines->end < lines->capacity) {
        return CSP_OK;
    }
    if (lines->capacity >= LINE_LIMIT) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: a line of more than %d bytes", lines->path,
                        (long long)lines->number + 1, LINE_LIMIT);
    }
    CSP_TRY(csp_realloc(lines->path, lines->capacity * 2 + 1, 1, &lines->buffer));
    lines->capacity *= 2;
    return CSP_OK;
}

static csp_status fill(csp_lines *lines)
{
    int64_t got;

    CSP_TRY(make_room(lines));
    CSP_TRY(csp_gunzip_read(lines->stream, lines->number + 1, lines->buffer + lines->end,
                            lines->capacity - lines->end, &got));
    lines->end += got;
    lines->ended = got == 0;
    return CSP_OK;
}

/* A byte order mark in front of the first line is no part of it. */
static csp_status skip_mark(csp_lines *lines)
{
    while (!lines->ended && lines->end < 3) {
        CSP_TRY(fill(lines));
    }
    if (lines->end >= 3 && memcmp(lines->buffer, "\xEF\xBB\xBF", 3) == 0) {
        lines->at = 3;
    }
    return CSP_OK;
}

csp_status csp_lines_next(csp_lines *lines, char **line, int64_t *bytes)
{
    int64_t searched = 0, length;
    char *newline = NULL;

    if (lines->base == 0 && lines->at == 0) {
        CSP_TRY(skip_mark(lines));
    }
    for (;;) {
        const int64_t left = lines->end - lines->at - searched;

        if (left > 0) {
            newline = memchr(lines->buffer + lines->at + searched, '\n', (size_t)left);
        }
        if (newline != NULL || lines->ended) {
            break;
        }
        searched = lines->end - lines->at;
        CSP_TRY(fill(lines));
    }
    if (newline == NULL && lines->at == lines->end) {
        *line = NULL;
        *bytes = 0;
        return CSP_OK;
    }
    *line = lines->buffer + lines->at;
    length = (newline != NULL ? newline - lines->buffer : lines->end) - lines->at;
    lines->at += length + (newline != NULL ? 1 : 0);
    lines->number++;
    if (length > 0 && (*line)[length - 1] == '\r') {
        length--;
    }
    (*line)[length] = '\0';
    *bytes = length;
    return CSP_OK;
}

int64_t csp_lines_number(const csp_lines *lines)
{
    return lines->number;
}

const char *csp_lines_path(const csp_lines *lines)
{
    return lines->path;
}

int64_t csp_lines_tell(const csp_lines *lines)
{
    return lines->base + lines->at;
}

void csp_lines_close(csp_lines *lines)
{
    if (lines == NULL) {
        return;
    }
    csp_gunzip_close(lines->stream);
    free(lines->buffer);
    free(lines->path);
    free(lines);
}
