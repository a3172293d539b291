/* hdf5_seal.c - the 32 bytes after the HDF5 data; io/hdf5.h draws them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/fault.h"
#include "core/memory.h"
#include "io/hdf5_file.h"

enum { SEAL_BYTES = 32, PIECE_BYTES = 1 << 20 };

static const char magic[8] = { 'c', 's', 'p', '-', 'x', 'x', 'h', '3' };

/* Reads just bytes at offset, or fails. */
static csp_status read_at(int fd, const char *path, void *buffer, size_t bytes, int64_t offset)
{
    char *to = buffer;

    while (bytes > 0) {
        ssize_t got;

        errno = EIO;
        got = csp_fault_here() ? -1 : pread(fd, to, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return CSP_FAIL(CSP_ERR_IO, "%s: cannot read: %s", path,
                            got < 0 ? strerror(errno) : "it became shorter");
        }
        to += got;
        offset += got;
        bytes -= (size_t)got;
    }
    return CSP_OK;
}

/* Reads and hashes the first bytes of a file; into all where that is not NULL, for as many. */
static csp_status hash_file(int fd, const char *path, int64_t bytes, const csp_hdf5_way *way,
                            char *all, XXH128_canonical_t *out)
{
    XXH3_state_t *state = XXH3_createState();
    char *piece = NULL;
    csp_status status = CSP_OK;

    if (state == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for its checksum", path);
    }
    XXH3_128bits_reset(state);
    if (all == NULL) {
        CSP_TRY_GOTO(csp_alloc(path, PIECE_BYTES, 1, &piece));
    }
    for (int64_t at = 0; at < bytes; at += PIECE_BYTES) {
        const size_t part = (size_t)(bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES);
        char *to = all != NULL ? all + at : piece;

        CSP_TRY_GOTO(read_at(fd, path, to, part, at));
        XXH3_128bits_update(state, to, part);
        CSP_TRY_GOTO(way->goes_on != NULL ? way->goes_on(way->context) : CSP_OK);
    }
    XXH128_canonicalFromHash(out, XXH3_128bits_digest(state));
fail:
    free(piece);
    XXH3_freeState(state);
    return status;
}

static csp_status file_bytes(int fd, const char *path, int64_t *out)
{
    struct stat info;

    if (fstat(fd, &info) != 0 || S_ISDIR(info.st_mode)) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot read: %s", path,
                        strerror(S_ISDIR(info.st_mode) ? EISDIR : errno));
    }
    *out = (int64_t)info.st_size;
    return CSP_OK;
}

static void put_le64(unsigned char *to, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        to[i] = (unsigned char)(value >> (8 * i));
    }
}

static uint64_t get_le64(const unsigned char *from)
{
    uint64_t value = 0;

    for (int i = 7; i >= 0; i--) {
        value = value << 8 | from[i];
    }
    return value;
}

csp_status csp_hdf5_seal(csp_file *file, const char *path)
{
    const int fd = fileno(csp_file_stream(file));
    unsigned char seal[SEAL_BYTES];
    XXH128_canonical_t hash;
    int64_t bytes;

    CSP_TRY(file_bytes(fd, path, &bytes));
    CSP_TRY(hash_file(fd, path, bytes, &(csp_hdf5_way) { 0 }, NULL, &hash));
    memcpy(seal, magic, 8);
    put_le64(seal + 8, (uint64_t)bytes);
    memcpy(seal + 16, hash.digest, 16);
    if (fseeko(csp_file_stream(file), (off_t)bytes, SEEK_SET) != 0) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    }
    return csp_file_put(file, seal, SEAL_BYTES);
}

/* Compares what a seal says of the first bytes of a file with what they are. */
static csp_status check_bytes(csp_hdf5_disk *disk, const char *path, int64_t bytes,
                              const unsigned char *seal, const csp_hdf5_way *way)
{
    XXH128_canonical_t hash;
    char *all = NULL;
    csp_status status;

    if (bytes > 0 && bytes <= way->keep_most) {
        CSP_TRY(csp_alloc(path, bytes, 1, &all));
    }
    CSP_TRY_GOTO(hash_file(disk->fd, path, bytes, way, all, &hash));
    if (memcmp(seal + 16, hash.digest, 16) != 0) {
        status =
            CSP_FAIL(CSP_ERR_FORMAT, "%s: its bytes do not match their checksum: damaged", path);
        goto fail;
    }
    disk->kept = all;
    all = NULL;

fail:
    free(all);
    return status;
}

csp_status csp_hdf5_check_seal(csp_hdf5_disk *disk, const char *path, const csp_hdf5_way *way)
{
    unsigned char seal[SEAL_BYTES];
    int64_t size;

    CSP_TRY(file_bytes(disk->fd, path, &size));
    if (size >= SEAL_BYTES) {
        CSP_TRY(read_at(disk->fd, path, seal, SEAL_BYTES, size - SEAL_BYTES));
    }
    if (size < SEAL_BYTES || memcmp(seal, magic, 8) != 0) {
        disk->bytes = (haddr_t)size;
        return CSP_OK;
    }
    size -= SEAL_BYTES;
    if (get_le64(seal + 8) != (uint64_t)size) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: its seal is for %llu bytes, but it has %lld: damaged",
                        path, (unsigned long long)get_le64(seal + 8), (long long)size);
    }
    disk->bytes = (haddr_t)size;
    return way->is_checked ? CSP_OK : check_bytes(disk, path, size, seal, way);
}
