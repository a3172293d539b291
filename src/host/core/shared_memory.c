/* shared_memory.c - a file of the system's memory, found by another process below /proc. */
#include "core/shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int csp_shared_memory_create(void)
{
    return memfd_create("csplade", MFD_CLOEXEC);
}

csp_status csp_shared_memory_write(int fd, int64_t offset, const void *data, int64_t bytes)
{
    const char *at = data;

    while (bytes > 0) {
        const ssize_t n = pwrite(fd, at, (size_t)bytes, (off_t)offset);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return CSP_FAIL(CSP_ERR_MEMORY, "memory that ranks share: %lld bytes at %lld: %s",
                            (long long)bytes, (long long)offset,
                            n < 0 ? strerror(errno) : "none were taken");
        }
        at += n;
        offset += n;
        bytes -= n;
    }
    return CSP_OK;
}

csp_status csp_shared_memory_place(int fd, csp_shared_place *out)
{
    struct stat info;

    if (fstat(fd, &info) != 0) {
        return CSP_FAIL(CSP_ERR_MEMORY, "memory that ranks share: %s", strerror(errno));
    }
    *out = (csp_shared_place) { .pid = getpid(),
                                .fd = fd,
                                .device = (int64_t)info.st_dev,
                                .file = (int64_t)info.st_ino,
                                .bytes = (int64_t)info.st_size };
    return CSP_OK;
}

const void *csp_shared_memory_look(int fd, int64_t bytes)
{
    void *data = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, fd, 0);

    return data != MAP_FAILED ? data : NULL;
}

/* Whether a file is the one of that place, and not what another process has by the same number. */
static bool is_at(const struct stat *info, const csp_shared_place *place)
{
    return S_ISREG(info->st_mode) && (int64_t)info->st_dev == place->device &&
           (int64_t)info->st_ino == place->file && (int64_t)info->st_size == place->bytes;
}

const void *csp_shared_memory_find(const csp_shared_place *place)
{
    const void *data = NULL;
    struct stat info;
    char path[64];
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%lld/fd/%lld", (long long)place->pid,
                   (long long)place->fd);
    /* Looked at before it is opened: what is there instead may be a pipe, or a device. */
    if (stat(path, &info) != 0 || !is_at(&info, place)) {
        return NULL;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return NULL;
    }
    if (fstat(fd, &info) == 0 && is_at(&info, place)) {
        data = csp_shared_memory_look(fd, place->bytes);
    }
    (void)close(fd);
    return data;
}

void csp_shared_memory_leave(const void *data, int64_t bytes)
{
    if (data != NULL) {
        (void)munmap((void *)(uintptr_t)data, (size_t)bytes);
    }
}
