/* gunzip.c - read(), and zlib's inflate member by member. */
#include "io/gunzip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "core/memory.h"

/* Of the file at once. ENOUGH tell a compression by its first bytes. */
enum { PIECE_BYTES = 1 << 17, ENOUGH = 10 };

/* What comes next in the file. */
typedef enum part {
    PART_UNKNOWN, /* nothing was read yet */
    PART_PLAIN,   /* it is not compressed */
    PART_MEMBER,  /* gzip data that has not ended */
    PART_BETWEEN, /* the end, or another member */
    PART_ZEROS    /* the end, or more zeros: padding of a tape or a block device */
} part;

struct csp_gunzip {
    int fd;
    char *path;
    part part;
    bool ended; /* the file has no more bytes than those in packed */
    bool made;  /* inflate has memory */
    z_stream inflate;
    unsigned char *packed; /* PIECE_BYTES; unread are inflate's next_in, avail_in */
};

csp_status csp_gunzip_open(int fd, const char *path, csp_gunzip **out)
{
    csp_gunzip *from = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc_zero(path, 1, sizeof(*from), &from));
    from->fd = fd;
    fd = -1;
    CSP_TRY_GOTO(csp_strdup(path, path, &from->path));
    CSP_TRY_GOTO(csp_alloc(path, PIECE_BYTES, 1, &from->packed));
    *out = from;
    return CSP_OK;

fail:
    if (fd >= 0) {
        close(fd);
    }
    csp_gunzip_close(from);
    return status;
}

void csp_gunzip_close(csp_gunzip *from)
{
    if (from == NULL) {
        return;
    }
    if (from->made) {
        (void)inflateEnd(&from->inflate);
    }
    close(from->fd);
    free(from->packed);
    free(from->path);
    free(from);
}

static csp_status read_some(csp_gunzip *from, int64_t line, void *to, int64_t room, int64_t *got)
{
    ssize_t n;

    do {
        n = read(from->fd, to, (size_t)room);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return CSP_FAIL(CSP_ERR_IO, "%s:%lld: cannot read: %s", from->path, (long long)line,
                        strerror(errno));
    }
    from->ended = n == 0;
    *got = n;
    return CSP_OK;
}

/* Reads on until packed holds so many bytes, which it may from its beginning, or the file ends. */
static csp_status fill(csp_gunzip *from, int64_t line, uInt least)
{
    if (from->inflate.avail_in == 0) {
        from->inflate.next_in = from->packed;
    }
    while (from->inflate.avail_in < least && !from->ended) {
        unsigned char *end = from->inflate.next_in + from->inflate.avail_in;
        int64_t got;

        CSP_TRY(read_some(from, line, end, from->packed + PIECE_BYTES - end, &got));
        from->inflate.avail_in += (uInt)got;
    }
    return CSP_OK;
}

/* Says so where the file is packed in another way, which would read as bad text. */
static csp_status refuse_other(const csp_gunzip *from)
{
    static const struct {
        const char *name, *bytes;
        size_t at, count;
    } others[] = {
        { "zstd", "\x28\xB5\x2F\xFD", 0, 4 },
        { "xz", "\xFD\x37\x7A\x58\x5A\x00", 0, 6 },
        { "bzip2", "\x31\x41\x59\x26\x53\x59", 4, 6 },
        { "zip", "PK\x03\x04", 0, 4 },
    };

    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (from->inflate.avail_in >= others[i].at + others[i].count &&
            memcmp(from->packed + others[i].at, others[i].bytes, others[i].count) == 0) {
            return CSP_FAIL(CSP_ERR_FORMAT,
                            "%s: compressed by %s: csplade reads gzip and plain text, unpack it "
                            "first",
                            from->path, others[i].name);
        }
    }
    return CSP_OK;
}

static csp_status find_out(csp_gunzip *from, int64_t line)
{
    CSP_TRY(fill(from, line, ENOUGH));
    if (from->inflate.avail_in < 2 || memcmp(from->packed, "\x1F\x8B", 2) != 0) {
        from->part = PART_PLAIN;
        return refuse_other(from);
    }
    if (inflateInit2(&from->inflate, 16 + MAX_WBITS) != Z_OK) { /* 16: gzip, with its checksums */
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for zlib", from->path);
    }
    from->made = true;
    from->part = PART_MEMBER;
    return CSP_OK;
}

/* Up to the next member, or the end. */
static csp_status go_on(csp_gunzip *from, int64_t line)
{
    z_stream *in = &from->inflate;

    CSP_TRY(fill(from, line, 1));
    while (in->avail_in > 0 && in->next_in[0] == 0) {
        from->part = PART_ZEROS;
        in->next_in++;
        in->avail_in--;
        CSP_TRY(fill(from, line, 1));
    }
    if (in->avail_in == 0) {
        return CSP_OK;
    }
    if (from->part == PART_ZEROS || in->next_in[0] != 0x1F) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s:%lld: what follows here in the file is not gzip data: damaged, or "
                        "appended to it unpacked",
                        from->path, (long long)line);
    }
    from->part = PART_MEMBER;
    (void)inflateReset(in);
    return CSP_OK;
}

static csp_status unpack(csp_gunzip *from, int64_t line, char *to, int64_t room, int64_t *got)
{
    z_stream *in = &from->inflate;
    int result;

    CSP_TRY(fill(from, line, 1));
    if (in->avail_in == 0) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: damaged gzip data: it ends too early", from->path,
                        (long long)line);
    }
    in->next_out = (Bytef *)to;
    in->avail_out = room < INT32_MAX ? (uInt)room : INT32_MAX;
    result = inflate(in, Z_NO_FLUSH);
    if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) {
        return CSP_FAIL(result == Z_MEM_ERROR ? CSP_ERR_MEMORY : CSP_ERR_FORMAT,
                        "%s:%lld: damaged gzip data: %s", from->path, (long long)line,
                        in->msg != NULL ? in->msg : zError(result));
    }
    if (result == Z_STREAM_END) {
        from->part = PART_BETWEEN;
    }
    *got = (char *)in->next_out - to;
    return CSP_OK;
}

/* What find_out has read of a plain file, then the rest. */
static csp_status copy(csp_gunzip *from, int64_t line, char *to, int64_t room, int64_t *got)
{
    z_stream *in = &from->inflate;
    const int64_t held = (int64_t)in->avail_in;

    if (held == 0) {
        *got = 0;
        return from->ended ? CSP_OK : read_some(from, line, to, room, got);
    }
    *got = held < room ? held : room;
    memcpy(to, in->next_in, (size_t)*got);
    in->next_in += *got;
    in->avail_in -= (uInt)*got;
    return CSP_OK;
}

csp_status csp_gunzip_read(csp_gunzip *from, int64_t line, char *to, int64_t room, int64_t *got)
{
    int64_t n = 0;

    if (from->part == PART_UNKNOWN) {
        CSP_TRY(find_out(from, line));
    }
    if (from->part == PART_PLAIN) {
        return copy(from, line, to, room, got);
    }
    while (n == 0) {
        if (from->part != PART_MEMBER) {
            CSP_TRY(go_on(from, line));
        }
        if (from->part != PART_MEMBER) {
            break;
        }
        CSP_TRY(unpack(from, line, to, room, &n));
    }
    *got = n;
    return CSP_OK;
}
