/* row_file.c - offsets into a plain file, or the lines themselves where it cannot be read twice. */
#include "data/row_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/memory.h"

#define FIRST_READ 8192

/* One of the files. */
typedef struct row_part {
    char *path;
    int fd;         /* -1 = in memory                  */
    int64_t device; /* which file it is, where fd is not -1 */
    int64_t inode;
    int64_t first;    /* its first row                   */
    int64_t kept_end; /* in kept, behind its last line   */
} row_part;

struct csp_row_file {
    row_part *parts;
    int64_t part_count;
    int64_t *offsets; /* of each line: in its file, or in kept      */
    int64_t count, room;
    char *kept; /* lines one after another, each with '\n' behind it */
    int64_t kept_bytes, kept_room;
    char *buffer; /* the line last read from the file */
    int64_t buffer_room;
    csp_digest *digest;                      /* of the lines, each with '\n' behind it */
    char digest_text[CSP_DIGEST_TEXT_BYTES]; /* of one that came by an image, and has no digest */
    bool is_given;                           /* offsets and kept are an image's, or another's   */
};

/* Opens a part for reading at offsets; leaves fd at -1 where that is not possible. */
static csp_status open_plain(row_part *part)
{
    unsigned char magic[2] = { 0, 0 };
    struct stat info;

    if (strcmp(part->path, "-") == 0) {
        return CSP_OK;
    }
    if (stat(part->path, &info) != 0) {
        return CSP_FAIL(CSP_ERR_IO, "%s: %s", part->path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) {
        return CSP_OK; /* opening a pipe a second time would take lines from the first reader */
    }
    part->fd = open(part->path, O_RDONLY | O_CLOEXEC);
    if (part->fd < 0) {
        return CSP_FAIL(CSP_ERR_IO, "%s: %s", part->path, strerror(errno));
    }
    if (pread(part->fd, magic, 2, 0) == 2 && magic[0] == 0x1F && magic[1] == 0x8B) {
        (void)close(part->fd);
        part->fd = -1;
        return CSP_OK;
    }
    part->device = (int64_t)info.st_dev;
    part->inode = (int64_t)info.st_ino;
    return CSP_OK;
}

csp_status csp_row_file_go_on(csp_row_file *file, const char *path)
{
    row_part *part;

    CSP_TRY(csp_realloc(path, file->part_count + 1, sizeof(*file->parts), &file->parts));
    part = &file->parts[file->part_count];
    *part = (row_part) { .fd = -1, .first = file->count, .kept_end = file->kept_bytes };
    CSP_TRY(csp_strdup(path, path, &part->path));
    file->part_count++;
    return open_plain(part);
}

csp_status csp_row_file_open(const char *path, csp_row_file **out)
{
    csp_status status;
    csp_row_file *file = NULL;

    CSP_TRY(csp_alloc_zero(path, 1, sizeof(*file), &file));
    CSP_TRY_GOTO(csp_digest_create(&file->digest));
    CSP_TRY_GOTO(csp_row_file_go_on(file, path));
    *out = file;
    return CSP_OK;

fail:
    csp_row_file_close(file);
    return status;
}

void csp_row_file_close(csp_row_file *file)
{
    if (file == NULL) {
        return;
    }
    for (int64_t i = 0; i < file->part_count; i++) {
        if (file->parts[i].fd >= 0) {
            (void)close(file->parts[i].fd);
        }
        free(file->parts[i].path);
    }
    csp_digest_destroy(file->digest);
    free(file->parts);
    if (!file->is_given) {
        free(file->offsets);
        free(file->kept);
    }
    free(file->buffer);
    free(file);
}

/* The part that has a row: the last one that does not begin behind it. */
static const row_part *part_of(const csp_row_file *file, int64_t row)
{
    int64_t low = 0, high = file->part_count - 1;

    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;

        if (file->parts[middle].first <= row) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return &file->parts[low];
}

/* Whether the row behind this one is of the same file. */
static bool has_next(const csp_row_file *file, int64_t row)
{
    return row + 1 < file->count && part_of(file, row + 1) == part_of(file, row);
}

static csp_status grow(const char *what, int64_t needed, size_t size, int64_t *room, void *block)
{
    if (needed > *room) {
        const int64_t wanted = needed + needed / 2 + 64;

        CSP_TRY(csp_realloc(what, wanted, size, block));
        *room = wanted;
    }
    return CSP_OK;
}

csp_status csp_row_file_add(csp_row_file *file, int64_t offset, const char *line, int64_t bytes)
{
    row_part *part = &file->parts[file->part_count - 1];

    CSP_ASSERT(!file->is_given);
    CSP_TRY(grow(part->path, file->count + 1, sizeof(*file->offsets), &file->room, &file->offsets));
    if (part->fd < 0) {
        offset = file->kept_bytes;
        CSP_TRY(grow(part->path, offset + bytes + 1, 1, &file->kept_room, &file->kept));
        memcpy(file->kept + offset, line, (size_t)bytes);
        file->kept[offset + bytes] = '\n';
        file->kept_bytes += bytes + 1;
        part->kept_end = file->kept_bytes;
    }
    file->offsets[file->count++] = offset;
    csp_digest_add(file->digest, line, bytes);
    csp_digest_add(file->digest, "\n", 1);
    return CSP_OK;
}

/*
 * Reads a row's line into the buffer: just what lies between it and the next row where that is
 * known, for a file may be far away; else, and where the file has changed, in pieces to its end.
 */
static csp_status read_line(csp_row_file *file, const row_part *part, int64_t row, int64_t *bytes)
{
    const int64_t offset = file->offsets[row], known = csp_row_file_row_bytes(file, row);
    int64_t have = 0;

    for (;;) {
        const int64_t piece = have == 0 && known > 0 ? known : FIRST_READ;
        char *end;
        ssize_t got;

        CSP_TRY(grow(part->path, have + piece, 1, &file->buffer_room, &file->buffer));
        got = pread(part->fd, file->buffer + have, (size_t)piece, (off_t)(offset + have));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return CSP_FAIL(CSP_ERR_IO, "%s: %s", part->path, strerror(errno));
        }
        end = got > 0 ? memchr(file->buffer + have, '\n', (size_t)got) : NULL;
        have += got;
        if (end != NULL || got == 0) {
            *bytes = end != NULL ? end - file->buffer : have;
            return CSP_OK;
        }
    }
}

csp_status csp_row_file_read(csp_row_file *file, int64_t row, const char **line, int64_t *bytes)
{
    const row_part *part = part_of(file, row);
    const char *start;
    int64_t length = 0;

    if (row < 0 || row >= file->count) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: row %lld of %lld", part->path, (long long)row,
                        (long long)file->count);
    }
    if (part->fd < 0) {
        const int64_t end = has_next(file, row) ? file->offsets[row + 1] : part->kept_end;

        *line = file->kept + file->offsets[row];
        *bytes = end - file->offsets[row] - 1;
        return CSP_OK;
    }
    CSP_TRY(read_line(file, part, row, &length));
    start = file->buffer;
    if (file->offsets[row] == 0 && length >= 3 && memcmp(start, "\xEF\xBB\xBF", 3) == 0) {
        start += 3; /* a byte order mark is no part of the first line, as in csp_lines */
        length -= 3;
    }
    if (length > 0 && start[length - 1] == '\r') {
        length--;
    }
    *line = start;
    *bytes = length;
    return CSP_OK;
}

int64_t csp_row_file_count(const csp_row_file *file)
{
    return file->count;
}

void csp_row_file_digest(const csp_row_file *file, char text[CSP_DIGEST_TEXT_BYTES])
{
    if (file->digest != NULL) {
        csp_digest_say(file->digest, text);
    } else {
        memcpy(text, file->digest_text, CSP_DIGEST_TEXT_BYTES);
    }
}

const char *csp_row_file_path(const csp_row_file *file, int64_t row)
{
    return part_of(file, row)->path;
}

int64_t csp_row_file_row_in_file(const csp_row_file *file, int64_t row)
{
    return row - part_of(file, row)->first;
}

bool csp_row_file_in_memory(const csp_row_file *file)
{
    bool any = false;

    for (int64_t i = 0; i < file->part_count; i++) {
        any = any || file->parts[i].fd < 0;
    }
    return any;
}

int64_t csp_row_file_bytes(const csp_row_file *file)
{
    return file->room * (int64_t)sizeof(*file->offsets) + file->kept_room + file->buffer_room;
}

int64_t csp_row_file_row_bytes(const csp_row_file *file, int64_t row)
{
    return row >= 0 && has_next(file, row) ? file->offsets[row + 1] - file->offsets[row] : 0;
}

/* Room for so many parts, none of them open. */
static csp_status make_parts(csp_row_file *file, int64_t count)
{
    CSP_TRY(csp_alloc_zero("text files", count, sizeof(*file->parts), &file->parts));
    for (; file->part_count < count; file->part_count++) {
        file->parts[file->part_count].fd = -1;
    }
    return CSP_OK;
}

/*
 * A part as the reader has it. A plain file that was not opened yet is; *is_other where it is not
 * the very file that the reader has.
 */
static csp_status share_part(csp_image *image, row_part *part, bool *is_other)
{
    const bool is_new = part->path == NULL;
    int64_t length = is_new ? 0 : (int64_t)strlen(part->path);
    struct {
        int64_t is_plain, device, inode, first, kept_end;
    } reader = { part->fd >= 0, part->device, part->inode, part->first, part->kept_end };

    CSP_TRY(csp_image_text(image, &part->path, &length));
    CSP_TRY(csp_image_value(image, &reader, sizeof(reader)));
    part->first = reader.first;
    part->kept_end = reader.kept_end;
    if (!is_new || reader.is_plain == 0) {
        return CSP_OK;
    }
    CSP_TRY(open_plain(part));
    if (part->fd < 0) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "%s: a plain file for the rank of this machine that reads it, and not for "
                        "this one",
                        part->path);
    }
    *is_other = *is_other || part->device != reader.device || part->inode != reader.inode;
    return CSP_OK;
}

static csp_status share_parts(csp_image *image, csp_row_file *file, bool *is_other)
{
    int64_t count = file->part_count;

    CSP_TRY(csp_image_value(image, &count, sizeof(count)));
    if (file->parts == NULL) {
        CSP_TRY(make_parts(file, count));
    }
    for (int64_t i = 0; i < count; i++) {
        CSP_TRY(share_part(image, &file->parts[i], is_other));
    }
    return CSP_OK;
}

/* The digest of the lines as they stand here at the offsets that were given. */
static csp_status digest_rows(csp_row_file *file)
{
    csp_digest *digest = NULL;
    csp_status status;

    CSP_TRY(csp_digest_create(&digest));
    for (int64_t row = 0; row < file->count; row++) {
        const char *line;
        int64_t bytes;

        CSP_TRY_GOTO(csp_row_file_read(file, row, &line, &bytes));
        csp_digest_add(digest, line, bytes);
        csp_digest_add(digest, "\n", 1);
    }
    csp_digest_say(digest, file->digest_text);
    status = CSP_OK;

fail:
    csp_digest_destroy(digest);
    return status;
}

csp_status csp_row_file_share(csp_image *image, csp_row_file **out)
{
    csp_row_file *file = *out;
    bool is_other = false;

    if (file == NULL) {
        CSP_TRY(csp_alloc_zero("text files", 1, sizeof(*file), &file));
        *out = file;
    }
    file->is_given = csp_image_gives(image);
    CSP_TRY(csp_image_array(image, &file->count, sizeof(*file->offsets), &file->offsets));
    CSP_TRY(csp_image_array(image, &file->kept_bytes, 1, &file->kept));
    file->room = file->count;
    file->kept_room = file->kept_bytes;
    if (file->digest != NULL) {
        csp_digest_say(file->digest, file->digest_text);
    }
    CSP_TRY(csp_image_value(image, file->digest_text, sizeof(file->digest_text)));
    CSP_TRY(share_parts(image, file, &is_other));
    return is_other ? digest_rows(file) : CSP_OK;
}

csp_status csp_row_file_again(const csp_row_file *of, csp_row_file **out)
{
    csp_status status;
    csp_row_file *file = NULL;

    CSP_TRY(csp_alloc_zero("text files", 1, sizeof(*file), &file));
    file->is_given = true;
    file->offsets = of->offsets;
    file->count = of->count;
    file->kept = of->kept;
    file->kept_bytes = of->kept_bytes;
    csp_row_file_digest(of, file->digest_text);
    CSP_TRY_GOTO(make_parts(file, of->part_count));
    for (int64_t i = 0; i < of->part_count; i++) {
        row_part *part = &file->parts[i];

        CSP_TRY_GOTO(csp_strdup("text files", of->parts[i].path, &part->path));
        part->first = of->parts[i].first;
        part->kept_end = of->parts[i].kept_end;
        if (of->parts[i].fd < 0) {
            continue;
        }
        part->fd = fcntl(of->parts[i].fd, F_DUPFD_CLOEXEC, 0);
        if (part->fd < 0) {
            status = CSP_FAIL(CSP_ERR_IO, "%s: %s", part->path, strerror(errno));
            goto fail;
        }
    }
    *out = file;
    return CSP_OK;

fail:
    csp_row_file_close(file);
    return status;
}
