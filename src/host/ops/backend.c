/*
 * backend.c - the list of backends this program carries, and the checks around memory and copies.
 *
 * The list is filled at start by cli/ (or a test) before any thread is made, and only read after.
 */
#include "ops/backend.h"

#include <string.h>

#include "core/log.h"
#include "core/size.h"
#include "ops/check.h"

enum { MAX_BACKENDS = 8 };

static struct {
    const char *prefix;
    csp_backend_opener open;
} registered[MAX_BACKENDS];
static int registered_count;

void csp_backend_register(const char *prefix, csp_backend_opener opener)
{
    for (int i = 0; i < registered_count; i++) {
        if (strcmp(registered[i].prefix, prefix) == 0) {
            registered[i].open = opener;
            return;
        }
    }
    CSP_ASSERT(registered_count < MAX_BACKENDS);
    registered[registered_count].prefix = prefix;
    registered[registered_count].open = opener;
    registered_count++;
}

/* "cuda" and "cuda:0" are both for the opener of "cuda". */
static bool is_for(const char *name, const char *prefix)
{
    const size_t n = strlen(prefix);

    return strncmp(name, prefix, n) == 0 && (name[n] == '\0' || name[n] == ':');
}

/* The last registered that opens: cli/ registers the plain one first and what is faster later. */
static csp_status open_best(int threads, csp_backend **out)
{
    for (int i = registered_count - 1; i >= 0; i--) {
        const csp_status status = registered[i].open(registered[i].prefix, threads, out);

        if (status != CSP_ERR_DEVICE && status != CSP_ERR_UNSUPPORTED) {
            return status;
        }
        csp_log(CSP_LOG_INFO, "device", "%s is not used: %s", registered[i].prefix,
                csp_error_text());
    }
    return CSP_FAIL(CSP_ERR_DEVICE, "device auto: no backend of this program can be opened");
}

csp_status csp_backend_create(const char *name, int threads, csp_backend **out)
{
    if (threads < 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "device %s: %d threads, at least 0 are needed", name,
                        threads);
    }
    if (strcmp(name, "auto") == 0) {
        return open_best(threads, out);
    }
    for (int i = 0; i < registered_count; i++) {
        if (is_for(name, registered[i].prefix)) {
            return registered[i].open(name, threads, out);
        }
    }
    if (is_for(name, "cuda")) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "device %s: this program was built without CUDA",
                        name);
    }
    return CSP_FAIL(CSP_ERR_ARGUMENT, "device %s: no such device (cpu, cuda, cuda:<n> or auto)",
                    name);
}

void csp_backend_destroy(csp_backend *be)
{
    if (be != NULL) {
        be->ops->destroy(be);
    }
}

csp_status csp_backend_reserve(csp_backend *be, size_t bytes, csp_arena *out)
{
    return be->ops->reserve(be, bytes, out);
}

void csp_backend_release(csp_backend *be, csp_arena *arena)
{
    if (arena->base != NULL) {
        be->ops->release(be, arena);
    }
    *arena = (csp_arena) { NULL, 0, 0, 0 };
}

csp_status csp_backend_memory(csp_backend *be, csp_memory *out)
{
    return be->ops->memory(be, out);
}

/* Rows apart, where the backend has none. */
static csp_status check_apart(const csp_backend *be, const char *what, const csp_tensor *t)
{
    return t->apart > 0 && !be->apart
               ? CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: rows that lie apart, which %s has not", what,
                          be->name)
               : CSP_OK;
}

csp_status csp_backend_upload(csp_backend *be, const void *host, csp_tensor *dst)
{
    CSP_TRY(check_apart(be, "upload", dst));
    csp_profile_note(be, (int64_t)csp_tensor_bytes(dst), 0, 0);
    return csp_tensor_bytes(dst) > 0 ? csp_op_marked(be, be->ops->upload(be, host, dst)) : CSP_OK;
}

csp_status csp_backend_download(csp_backend *be, const csp_tensor *src, void *host)
{
    CSP_TRY(check_apart(be, "download", src));
    csp_profile_note(be, (int64_t)csp_tensor_bytes(src), 0, 0);
    return csp_tensor_bytes(src) > 0 ? csp_op_marked(be, be->ops->download(be, src, host)) : CSP_OK;
}

csp_status csp_download_mark(csp_backend *be, csp_download *d)
{
    return be->ops->download_mark(be, d);
}

csp_status csp_download_start(csp_backend *be, csp_download *d, const csp_tensor *parts, int count,
                              void **at)
{
    size_t bytes = 0, place = 0;

    for (int i = 0; i < count; i++) {
        if (parts[i].apart > 0) {
            return CSP_FAIL(CSP_ERR_UNSUPPORTED, "download: rows that lie apart");
        }
        bytes += csp_size_round_up(csp_tensor_bytes(&parts[i]), CSP_ARENA_ALIGN);
    }
    if (bytes > d->host.capacity) {
        /* A quarter more than asked, so that slowly growing parts do not allocate each time. */
        csp_backend_host_release(be, &d->host);
        CSP_TRY(csp_backend_host_reserve(be, csp_size_round_up(bytes + bytes / 4, 4096), &d->host));
    }
    for (int i = 0; i < count; i++) {
        const size_t size = csp_tensor_bytes(&parts[i]);

        at[i] = d->host.base + place;
        if (size > 0) {
            CSP_TRY(be->ops->download_part(be, d, &parts[i], at[i]));
        }
        place += csp_size_round_up(size, CSP_ARENA_ALIGN);
    }
    return CSP_OK;
}

csp_status csp_download_wait(csp_backend *be, csp_download *d)
{
    return be->ops->download_wait(be, d);
}

void csp_download_clear(csp_backend *be, csp_download *d)
{
    be->ops->download_clear(be, d);
    d->state = NULL;
    csp_backend_host_release(be, &d->host);
}

csp_status csp_backend_copy(csp_backend *be, const csp_tensor *src, csp_tensor *dst)
{
    if (csp_tensor_bytes(src) != csp_tensor_bytes(dst)) {
        return CSP_FAIL(CSP_ERR_SHAPE, "copy: source has %zu bytes, destination %zu",
                        csp_tensor_bytes(src), csp_tensor_bytes(dst));
    }
    if (src->apart > 0 || dst->apart > 0) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "copy: rows that lie apart");
    }
    csp_profile_note(be, (int64_t)csp_tensor_bytes(src), 0, 0);
    return csp_tensor_bytes(src) > 0 ? csp_op_marked(be, be->ops->copy(be, src, dst)) : CSP_OK;
}

csp_status csp_backend_zero(csp_backend *be, csp_tensor *t)
{
    CSP_TRY(check_apart(be, "zero", t));
    csp_profile_note(be, (int64_t)csp_tensor_bytes(t), 0, 0);
    return csp_tensor_bytes(t) > 0 ? csp_op_marked(be, be->ops->zero(be, t)) : CSP_OK;
}

csp_status csp_backend_host_reserve(csp_backend *be, size_t bytes, csp_arena *out)
{
    return be->ops->host_reserve(be, bytes, out);
}

void csp_backend_host_release(csp_backend *be, csp_arena *arena)
{
    if (arena->base != NULL) {
        be->ops->host_release(be, arena);
    }
    *arena = (csp_arena) { NULL, 0, 0, 0 };
}

csp_status csp_backend_fetch(csp_backend *be, const csp_tensor *src, void *host)
{
    if (src->apart > 0) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "fetch: rows that lie apart");
    }
    csp_profile_note(be, (int64_t)csp_tensor_bytes(src), 0, 0);
    return csp_tensor_bytes(src) > 0 ? csp_op_marked(be, be->ops->fetch(be, src, host)) : CSP_OK;
}

csp_status csp_backend_tuning_get(csp_backend *be, char **text)
{
    return be->ops->tuning_get(be, text);
}

csp_status csp_backend_tuning_set(csp_backend *be, const char *text)
{
    return be->ops->tuning_set(be, text);
}

csp_status csp_backend_versions(csp_backend *be, char text[CSP_VERSIONS_BYTES])
{
    return be->ops->versions(be, text);
}

csp_status csp_backend_sync(csp_backend *be)
{
    return be->ops->sync(be);
}

csp_status csp_backend_mark(csp_backend *be, int64_t index)
{
    if (index < 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "mark: %lld is no index", (long long)index);
    }
    return be->ops->mark(be, index);
}

csp_status csp_backend_elapsed(csp_backend *be, int64_t from, int64_t to, double *seconds)
{
    if (from < 0 || to < 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "elapsed: %lld is no index",
                        (long long)(from < 0 ? from : to));
    }
    return be->ops->elapsed(be, from, to, seconds);
}
