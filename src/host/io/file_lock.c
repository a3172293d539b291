/* file_lock.c - one owner at a time for a folder: flock on a file, with the owner's name in it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "core/log.h"
#include "core/memory.h"
#include "io/file.h"

struct csp_file_lock {
    int fd;
};

/* "process 123 on host", or what is known of it. */
static void read_owner(int fd, char *text, size_t bytes)
{
    const ssize_t got = pread(fd, text, bytes - 1, 0);

    text[got > 0 ? got : 0] = '\0';
    for (char *c = text; *c != '\0'; c++) {
        if (*c < ' ' || *c > '~') { /* the rest of a file is nobody's name */
            *c = '\0';
            break;
        }
    }
    if (text[0] == '\0') {
        snprintf(text, bytes, "another process");
    }
}

/* Best effort: the name helps people, the lock does not depend on it. */
static void write_owner(int fd)
{
    char host[128] = "", text[192];
    int length;

    gethostname(host, sizeof(host) - 1);
    length = snprintf(text, sizeof(text), "process %ld on %s\n", (long)getpid(), host);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)length, 0) != length) {
        csp_log(CSP_LOG_DEBUG, "io", "the lock file does not name its owner: %s", strerror(errno));
    }
}

csp_status csp_file_lock_take(const char *path, csp_file_lock **out)
{
    csp_file_lock *lock = NULL;
    csp_status status;
    char owner[192];

    CSP_TRY(csp_alloc(path, 1, sizeof(*lock), &lock));
    lock->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock->fd < 0) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: cannot open the lock file: %s", path, strerror(errno));
        goto fail;
    }
    if (flock(lock->fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            read_owner(lock->fd, owner, sizeof(owner));
            status = CSP_FAIL(CSP_ERR_IO, "%s: locked by %s", path, owner);
            goto fail;
        }
        csp_log(CSP_LOG_WARN, "io", "%s cannot be locked (%s): a second run here goes unnoticed",
                path, strerror(errno));
    }
    write_owner(lock->fd);
    *out = lock;
    return CSP_OK;

fail:
    csp_file_lock_release(lock);
    return status;
}

void csp_file_lock_release(csp_file_lock *lock)
{
    if (lock == NULL) {
        return;
    }
    if (lock->fd >= 0) {
        close(lock->fd); /* gives the lock back */
    }
    free(lock);
}
