/*
 * shared_memory.h - memory of one process that others of its machine read: written once, piece by
 * piece, then looked at. It has no name, so nothing is left of it, however its processes end.
 */
#pragma once

#include "core/status.h"

/* By which another process finds it. In another container it means nothing, or something else. */
typedef struct csp_shared_place {
    int64_t pid, fd;
    int64_t device, file; /* what the system numbers it by: whether it is what was found */
    int64_t bytes;
} csp_shared_place;

/*
 * Makes an empty one. Returns a descriptor, -1 where the system gives none.
 *
 * Owner: the caller closes it; the memory stays as long as anyone holds or looks at it.
 */
int csp_shared_memory_create(void);

/* Writes bytes at an offset. Errors: CSP_ERR_MEMORY in the system's words. */
CSP_CHECKED csp_status csp_shared_memory_write(int fd, int64_t offset, const void *data,
                                               int64_t bytes);

/* What others need to find it; fd stays open until they have. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_shared_memory_place(int fd, csp_shared_place *out);

/*
 * All of its bytes > 0, read only: in the process that made it (fd), or in another one. NULL where
 * they are not to be had, as of a process in another container.
 *
 * Owner: csp_shared_memory_leave.
 */
const void *csp_shared_memory_look(int fd, int64_t bytes);
const void *csp_shared_memory_find(const csp_shared_place *place);
void csp_shared_memory_leave(const void *data, int64_t bytes);
