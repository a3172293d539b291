/* file.c - whole files, atomic replacement, folders. */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/fault.h"
#include "core/memory.h"

struct csp_file {
    char *path;
    char *temporary;
    FILE *stream;
    int write_errno; /* of the first write that failed, 0 if none */
};

/* What is no file stays: a rename would put a file in the place of a device or a pipe. */
static csp_status refuse_other_kinds(const char *path)
{
    struct stat info;

    if (strcmp(path, "-") == 0) {
        return CSP_FAIL(CSP_ERR_IO, "-: a file is written, not standard output: name one");
    }
    if (stat(path, &info) != 0 || S_ISREG(info.st_mode)) {
        return CSP_OK;
    }
    if (S_ISDIR(info.st_mode)) {
        return CSP_FAIL(CSP_ERR_IO, "%s: %s", path, strerror(EISDIR));
    }
    return CSP_FAIL(CSP_ERR_IO,
                    "%s: a device or pipe: files are written beside their name and take its place "
                    "when they are complete: name a file",
                    path);
}

/* The file that a link at path leads to, else path itself. */
static csp_status follow_link(const char *path, char **out)
{
    struct stat info;
    char *target = NULL;
    csp_status status;

    if (lstat(path, &info) == 0 && S_ISLNK(info.st_mode)) {
        target = realpath(path, NULL); /* NULL where it leads to nothing: the link is replaced */
    }
    status = csp_strdup(path, target != NULL ? target : path, out);
    free(target);
    return status;
}

csp_status csp_file_create(const char *path, csp_file **out)
{
    csp_file *file = NULL;
    csp_status status;
    size_t bytes;

    CSP_TRY(refuse_other_kinds(path));
    CSP_TRY(csp_alloc_zero(path, 1, sizeof(*file), &file));
    CSP_TRY_GOTO(follow_link(path, &file->path));
    bytes = strlen(file->path) + 32;
    CSP_TRY_GOTO(csp_alloc(path, (int64_t)bytes, 1, &file->temporary));
    snprintf(file->temporary, bytes, "%s.tmp.%ld", file->path, (long)getpid());
    errno = EIO; /* what an injected fault reports */
    file->stream = csp_fault_here() ? NULL : fopen(file->temporary, "w+b");
    if (file->stream == NULL) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: cannot create: %s", file->temporary, strerror(errno));
        goto fail;
    }
    *out = file;
    return CSP_OK;

fail:
    csp_file_abandon(file);
    return status;
}

FILE *csp_file_stream(csp_file *file)
{
    return file->stream;
}

const char *csp_file_temporary(const csp_file *file)
{
    return file->temporary;
}

/* Keeps the reason of the first failed write: the later ones only follow from it. */
static csp_status write_failed(csp_file *file, int reason)
{
    if (file->write_errno == 0) {
        file->write_errno = reason;
    }
    return CSP_FAIL(CSP_ERR_IO, "%s: cannot write: %s", file->path, strerror(file->write_errno));
}

csp_status csp_file_put(csp_file *file, const void *bytes, int64_t count)
{
    errno = EIO;
    if (csp_fault_here() ||
        (count > 0 && fwrite(bytes, 1, (size_t)count, file->stream) != (size_t)count)) {
        return write_failed(file, errno);
    }
    return CSP_OK;
}

csp_status csp_file_print(csp_file *file, const char *format, ...)
{
    bool fine;
    va_list args;

    errno = EIO;
    va_start(args, format);
    fine = !csp_fault_here() && vfprintf(file->stream, format, args) >= 0;
    va_end(args);
    return fine ? CSP_OK : write_failed(file, errno);
}

/* fsync of the folder part of path; file systems that cannot do it are not an error. */
static int sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash == NULL   ? strdup(".")
                   : slash == path ? strdup("/")
                                   : strndup(path, (size_t)(slash - path));
    int fd, reason = 0;

    if (folder == NULL) {
        return ENOMEM;
    }
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        reason = errno;
    } else {
        if (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EROFS) {
            reason = errno;
        }
        close(fd);
    }
    free(folder);
    /* A folder one may write but not list cannot be opened: nothing to be done about it. */
    return reason == EACCES ? 0 : reason;
}

csp_status csp_file_sync_folder(const char *path)
{
    const int reason = csp_fault_here() ? EIO : sync_folder(path);

    if (reason != 0) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot fsync its folder: %s", path, strerror(reason));
    }
    return CSP_OK;
}

csp_status csp_file_commit(csp_file *file)
{
    csp_status status;
    int closed;

    errno = EIO;
    if (csp_fault_here() || fflush(file->stream) != 0) {
        status = write_failed(file, errno);
        goto fail;
    }
    if (file->write_errno != 0 || ferror(file->stream)) {
        status = write_failed(file, EIO);
        goto fail;
    }
    errno = EIO;
    if (csp_fault_here() || fsync(fileno(file->stream)) != 0) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: cannot fsync: %s", file->path, strerror(errno));
        goto fail;
    }
    errno = EIO;
    closed = fclose(file->stream);
    file->stream = NULL;
    if (csp_fault_here() || closed != 0) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: cannot close: %s", file->path, strerror(errno));
        goto fail;
    }
    errno = EIO;
    if (csp_fault_here() || rename(file->temporary, file->path) != 0) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: cannot rename it to %s: %s", file->temporary, file->path,
                          strerror(errno));
        goto fail;
    }
    file->temporary[0] = '\0'; /* it is the final file now: not ours to remove */
    CSP_TRY_GOTO(csp_file_sync_folder(file->path));
fail:
    csp_file_abandon(file);
    return status;
}

void csp_file_abandon(csp_file *file)
{
    if (file == NULL) {
        return;
    }
    if (file->stream != NULL) {
        fclose(file->stream);
        file->stream = NULL;
    }
    if (file->temporary != NULL && file->temporary[0] != '\0') {
        unlink(file->temporary);
    }
    free(file->temporary);
    free(file->path);
    free(file);
}

csp_status csp_file_read(const char *path, int64_t limit, char **text, int64_t *bytes)
{
    enum { FIRST = 1 << 16 };
    FILE *stream = NULL;
    char *block = NULL;
    int64_t capacity = limit < FIRST ? limit + 1 : FIRST, used = 0;
    csp_status status;

    errno = EIO;
    stream = csp_fault_here() ? NULL : fopen(path, "rb");
    if (stream == NULL) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    CSP_TRY_GOTO(csp_alloc(path, capacity + 1, 1, &block));
    for (;;) {
        /* One byte more than allowed is asked for, so that a file too long is noticed. */
        const size_t got = fread(block + used, 1, (size_t)(capacity - used), stream);

        used += (int64_t)got;
        if (used < capacity) {
            break;
        }
        if (used > limit) {
            status = CSP_FAIL(CSP_ERR_FORMAT, "%s: more than the %lld bytes allowed", path,
                              (long long)limit);
            goto fail;
        }
        capacity = capacity > limit / 2 ? limit + 1 : capacity * 2;
        CSP_TRY_GOTO(csp_realloc(path, capacity + 1, 1, &block));
    }
    if (ferror(stream)) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
        goto fail;
    }
    fclose(stream);
    block[used] = '\0';
    *text = block;
    *bytes = used;
    return CSP_OK;

fail:
    fclose(stream);
    free(block);
    return status;
}

csp_status csp_file_write(const char *path, const void *bytes, int64_t count)
{
    csp_file *file;
    csp_status status;

    CSP_TRY(csp_file_create(path, &file));
    status = csp_file_put(file, bytes, count);
    if (status != CSP_OK) {
        csp_file_abandon(file);
        return status;
    }
    return csp_file_commit(file);
}

csp_status csp_file_make_dirs(const char *path)
{
    char *part;
    csp_status status = CSP_OK;
    const size_t length = strlen(path);

    CSP_TRY(csp_strdup(path, path, &part));
    for (size_t i = 1; i <= length && status == CSP_OK; i++) {
        if (i < length && part[i] != '/') {
            continue;
        }
        part[i] = '\0';
        errno = EIO;
        if (csp_fault_here() || (mkdir(part, 0777) != 0 && errno != EEXIST && errno != EISDIR)) {
            status = CSP_FAIL(CSP_ERR_IO, "%s: cannot make the folder: %s", part, strerror(errno));
        } else if (!csp_file_is_dir(part)) {
            status = CSP_FAIL(CSP_ERR_IO, "%s: exists and is not a folder", part);
        }
        part[i] = path[i];
    }
    free(part);
    return status;
}

csp_status csp_file_join(const char *dir, const char *name, char **out)
{
    const size_t length = strlen(dir);
    const bool slash = length > 0 && dir[length - 1] != '/';
    const size_t bytes = length + strlen(name) + 2;

    CSP_TRY(csp_alloc(name, (int64_t)bytes, 1, out));
    snprintf(*out, bytes, "%s%s%s", dir, slash ? "/" : "", name);
    return CSP_OK;
}

bool csp_file_exists(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0;
}

bool csp_file_is_dir(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

csp_status csp_file_free_bytes(const char *path, int64_t *out)
{
    struct statvfs info;
    char *part;
    int failed;

    CSP_TRY(csp_strdup(path, path, &part));
    while ((failed = statvfs(part, &info)) != 0 && errno == ENOENT) {
        char *slash = strrchr(part, '/');

        if (slash == NULL || (slash == part && part[1] == '\0')) {
            failed = statvfs(slash == NULL ? "." : "/", &info);
            break;
        }
        slash[slash == part ? 1 : 0] = '\0';
    }
    free(part);
    if (failed != 0) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot tell the free space: %s", path, strerror(errno));
    }
    if (__builtin_mul_overflow((int64_t)info.f_bavail, (int64_t)info.f_frsize, out)) {
        *out = INT64_MAX;
    }
    return CSP_OK;
}
