/*
 * tfevents.c - TensorBoard records by hand: a dozen bytes of protobuf in a checksummed frame.
 *
 * Worked example, the scalar "a" = 1.0 at step 3, wall time 2.0:
 *     17 00 00 00 00 00 00 00   length 23        xx xx xx xx   masked crc32c of the 8 bytes
 *     09 00 00 00 00 00 00 00 40                 field 1, double 2.0
 *     10 03                                      field 2, varint 3
 *     2A 0A  0A 08  0A 01 61  15 00 00 80 3F     field 5 { field 1 { field 1 "a", field 2 1.0f } }
 *     xx xx xx xx                                masked crc32c of the 23 bytes of data
 */
#include "io/tfevents.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/fault.h"
#include "core/memory.h"
#include "io/file.h"
#include "io/lines.h"

enum { TAG_LIMIT = 1000 };

struct csp_tfevents {
    char *path;
    FILE *stream;
    uint32_t crc_table[256];
};

/* CRC-32C, polynomial 0x82F63B78 in reflected form (RFC 3720, B.4). */
static void make_table(uint32_t table[256])
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;

        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82F63B78u : 0);
        }
        table[i] = crc;
    }
}

static uint32_t masked_crc(const uint32_t table[256], const unsigned char *bytes, size_t count)
{
    uint32_t crc = 0xFFFFFFFFu;

    for (size_t i = 0; i < count; i++) {
        crc = crc >> 8 ^ table[(crc ^ bytes[i]) & 0xFF];
    }
    crc ^= 0xFFFFFFFFu;
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/* count bytes of value, the lowest first; returns the end. */
static unsigned char *put_le(unsigned char *to, uint64_t value, int count)
{
    for (int i = 0; i < count; i++) {
        *to++ = (unsigned char)(value >> (8 * i));
    }
    return to;
}

static unsigned char *put_varint(unsigned char *to, uint64_t value)
{
    while (value >= 0x80) {
        *to++ = (unsigned char)(value | 0x80);
        value >>= 7;
    }
    *to++ = (unsigned char)value;
    return to;
}

static unsigned char *put_bytes(unsigned char *to, unsigned char key, const void *bytes,
                                size_t count)
{
    *to++ = key;
    to = put_varint(to, count);
    memcpy(to, bytes, count);
    return to + count;
}

static unsigned char *put_wall_time(unsigned char *to)
{
    struct timespec now;
    double seconds;
    uint64_t bits;

    clock_gettime(CLOCK_REALTIME, &now);
    seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    memcpy(&bits, &seconds, sizeof(bits));
    *to++ = 0x09;
    return put_le(to, bits, 8);
}

/* One frame, written and flushed as a whole. */
static csp_status put_record(csp_tfevents *e, const unsigned char *data, size_t count)
{
    unsigned char frame[TAG_LIMIT + 128], *to = frame;

    to = put_le(to, count, 8);
    to = put_le(to, masked_crc(e->crc_table, frame, 8), 4);
    memcpy(to, data, count);
    to = put_le(to + count, masked_crc(e->crc_table, data, count), 4);
    errno = EIO;
    if (csp_fault_here() ||
        fwrite(frame, 1, (size_t)(to - frame), e->stream) != (size_t)(to - frame) ||
        fflush(e->stream) != 0) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot write: %s", e->path, strerror(errno));
    }
    return CSP_OK;
}

static csp_status put_version(csp_tfevents *e)
{
    static const char version[] = "brain.Event:2";
    unsigned char data[64], *to = put_wall_time(data);

    to = put_bytes(to, 0x1A, version, sizeof(version) - 1);
    return put_record(e, data, (size_t)(to - data));
}

/* A name no other run has: the number at its end counts up where two begin in one second. */
static csp_status open_new(csp_tfevents *e, const char *dir)
{
    const long seconds = (long)time(NULL);
    char host[128] = "", name[256];

    gethostname(host, sizeof(host) - 1);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "events.out.tfevents.%ld.%s.%ld.%d", seconds, host,
                 (long)getpid(), i);
        free(e->path);
        e->path = NULL;
        CSP_TRY(csp_file_join(dir, name, &e->path));
        errno = EIO;
        e->stream = csp_fault_here() ? NULL : fopen(e->path, "wbxe");
        if (e->stream != NULL) {
            return CSP_OK;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    return CSP_FAIL(CSP_ERR_IO, "%s: cannot create: %s", e->path, strerror(errno));
}

csp_status csp_tfevents_create(const char *dir, csp_tfevents **out)
{
    csp_tfevents *e = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero(dir, 1, sizeof(*e), &e));
    make_table(e->crc_table);
    CSP_TRY_GOTO(open_new(e, dir));
    CSP_TRY_GOTO(put_version(e));
    *out = e;
    return CSP_OK;

fail:
    if (e->stream != NULL) {
        unlink(e->path);
    }
    csp_tfevents_close(e);
    return status;
}

csp_status csp_tfevents_scalar(csp_tfevents *e, int64_t step, const char *tag, double value)
{
    unsigned char inner[TAG_LIMIT + 16], outer[TAG_LIMIT + 24], data[TAG_LIMIT + 64], *to;
    const float single = (float)value;
    uint32_t bits;

    if (tag[0] == '\0' || strlen(tag) > TAG_LIMIT ||
        !csp_utf8_is_valid(tag, (int64_t)strlen(tag), NULL)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: a tag must be 1 to %d bytes of UTF-8", e->path,
                        TAG_LIMIT);
    }
    memcpy(&bits, &single, sizeof(bits));
    to = put_bytes(inner, 0x0A, tag, strlen(tag));
    *to++ = 0x15;
    to = put_le(to, bits, 4);
    to = put_bytes(outer, 0x0A, inner, (size_t)(to - inner));
    const size_t outer_bytes = (size_t)(to - outer);

    to = put_wall_time(data);
    *to++ = 0x10;
    to = put_varint(to, (uint64_t)step);
    to = put_bytes(to, 0x2A, outer, outer_bytes);
    return put_record(e, data, (size_t)(to - data));
}

csp_status csp_tfevents_flush(csp_tfevents *e)
{
    errno = EIO;
    if (csp_fault_here() || fflush(e->stream) != 0 || fsync(fileno(e->stream)) != 0) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot flush: %s", e->path, strerror(errno));
    }
    return CSP_OK;
}

void csp_tfevents_close(csp_tfevents *e)
{
    if (e == NULL) {
        return;
    }
    if (e->stream != NULL) {
        fclose(e->stream);
    }
    free(e->path);
    free(e);
}
