/*
 * file.h - whole files, and files that appear under their final name only when they are complete.
 */
#pragma once

#include <stdio.h>

#include "core/status.h"

/*
 * A file being written as PATH.tmp.<pid>; csp_file_commit flushes, fsyncs, renames it to PATH and
 * fsyncs the folder. csp_file_abandon (NULL allowed) removes it. A crash leaves PATH as it was.
 * Where PATH is a link to a file, PATH stands for that file here, and the link stays.
 */
typedef struct csp_file csp_file;

/*
 * Errors: CSP_ERR_IO: path and strerror; a folder, a device or a pipe, whose place a file would
 * take; "-", which is not standard output here. *out is written only on success.
 */
CSP_CHECKED csp_status csp_file_create(const char *path, csp_file **out);

/* The stream to write to. Owner: the csp_file. A write error on it is reported by commit. */
FILE *csp_file_stream(csp_file *file);

/* Appends bytes. Errors: CSP_ERR_IO with the path and the system's reason (disk full). */
CSP_CHECKED csp_status csp_file_put(csp_file *file, const void *bytes, int64_t count);

/* Appends text made by a printf format. Errors as csp_file_put. */
CSP_CHECKED csp_status csp_file_print(csp_file *file, const char *format, ...) CSP_PRINTF(2, 3);

/* The temporary name, for libraries that open files themselves (HDF5): close them first. */
const char *csp_file_temporary(const csp_file *file);

/*
 * Makes the file final and frees it, also on failure (the temporary is removed then).
 * Errors: CSP_ERR_IO, with the write error of the stream if there was one (disk full). PATH is as
 * it was then, except when only the fsync of the folder failed: PATH is new and whole, but may not
 * outlive a power cut.
 */
CSP_CHECKED csp_status csp_file_commit(csp_file *file);
void csp_file_abandon(csp_file *file);

/*
 * Reads a whole file of at most limit bytes; *text is NUL-terminated and freed by the caller.
 * Errors: CSP_ERR_IO, CSP_ERR_FORMAT (more than limit bytes), CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_file_read(const char *path, int64_t limit, char **text, int64_t *bytes);

/* Writes a whole small file through csp_file_create and csp_file_commit. */
CSP_CHECKED csp_status csp_file_write(const char *path, const void *bytes, int64_t count);

/* fsyncs the folder that holds path, so that a rename or a removal in it outlives a power cut. */
CSP_CHECKED csp_status csp_file_sync_folder(const char *path);

/* Makes a folder and its parents; an existing folder is fine. Errors: CSP_ERR_IO. */
CSP_CHECKED csp_status csp_file_make_dirs(const char *path);

/* "dir/name", malloc'ed. */
CSP_CHECKED csp_status csp_file_join(const char *dir, const char *name, char **out);

/*
 * Removes what writers that were killed left in a folder: files called NAME.tmp.<digits>. The
 * caller holds the folder's lock, so nobody is writing there. A folder that is not there has none;
 * a file that cannot be removed is a warning.
 */
void csp_file_remove_leftovers(const char *dir);

bool csp_file_exists(const char *path);
bool csp_file_is_dir(const char *path);

/* Bytes free for this user on the file system that holds path (or its nearest existing parent). */
CSP_CHECKED csp_status csp_file_free_bytes(const char *path, int64_t *out);

/*
 * Takes an exclusive lock on PATH (created if missing), which the system gives back when the
 * process ends, however it ends. The file stays behind, empty of meaning. On a file system without
 * locks a warning is logged and the lock is granted.
 *
 * Errors: CSP_ERR_IO naming the process that holds it.
 */
typedef struct csp_file_lock csp_file_lock;
CSP_CHECKED csp_status csp_file_lock_take(const char *path, csp_file_lock **out);
void csp_file_lock_release(csp_file_lock *lock);
