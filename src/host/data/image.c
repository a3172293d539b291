/*
 * image.c - an image is written as it is visited, found or sent as a whole, and visited again.
 *
 * The reader writes into memory that others can map (core/shared_memory). Where one of them cannot,
 * as between containers, all get the bytes by the communicator.
 */
#include "data/image.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/machine.h"
#include "core/memory.h"
#include "core/shared_memory.h"

enum { ALIGN = 64, PIECE = 4 << 20 };

static const char what[] = "the index of the data";

struct csp_image {
    csp_comm *machine;
    double told_s; /* when the reader last let the others know */
    bool gives;
    bool mapped;   /* data is a view of shared memory; else it is this rank's own */
    int fd;        /* of the reader while it writes and others look, -1: it has none */
    char *data;    /* of the whole; while it is written only where fd is -1 */
    int64_t bytes; /* of the whole, or written so far */
    int64_t room;  /* of data                         */
    int64_t at;    /* what is given next              */
};

/* What the reader tells the others. */
typedef struct word {
    int64_t is_ready; /* 0: it still reads, and nothing below counts */
    csp_shared_place place;
    int64_t bytes;
} word;

csp_status csp_image_create(csp_comm *machine, csp_image **out)
{
    csp_image *image = NULL;

    if (machine != NULL && csp_comm_size(machine) > 1) {
        CSP_TRY(csp_alloc_zero(what, 1, sizeof(*image), &image));
        image->machine = machine;
        image->told_s = csp_machine_seconds();
        image->fd = -1;
        if (csp_comm_rank(machine) == 0) {
            image->fd = csp_shared_memory_create();
        }
    }
    *out = image;
    return CSP_OK;
}

/* Leaves the bytes of the image, wherever they are. */
static void let_go(csp_image *image)
{
    if (image->mapped) {
        csp_shared_memory_leave(image->data, image->bytes);
    } else {
        free(image->data);
    }
    image->data = NULL;
    image->mapped = false;
}

static void close_fd(csp_image *image)
{
    if (image->fd >= 0) {
        (void)close(image->fd);
        image->fd = -1;
    }
}

void csp_image_destroy(csp_image *image)
{
    if (image != NULL) {
        let_go(image);
        close_fd(image);
        free(image);
    }
}

bool csp_image_reads(const csp_image *image)
{
    return image == NULL || csp_comm_rank(image->machine) == 0;
}

csp_status csp_image_waits(csp_image *image)
{
    word w = { .is_ready = 0 };
    double now;

    if (image == NULL) {
        return CSP_OK;
    }
    now = csp_machine_seconds();
    if (now - image->told_s < csp_comm_sign_s(image->machine)) {
        return CSP_OK;
    }
    image->told_s = now;
    return csp_comm_broadcast(image->machine, &w, sizeof(w), 0, what);
}

/* Bytes behind the last ones, from the next multiple of ALIGN on. */
static csp_status append(csp_image *image, const void *data, int64_t bytes)
{
    const int64_t at = (image->bytes + ALIGN - 1) / ALIGN * ALIGN;

    if (image->fd >= 0) {
        CSP_TRY(csp_shared_memory_write(image->fd, at, data, bytes));
    } else {
        if (at + bytes > image->room) {
            const int64_t room = (at + bytes) * 3 / 2;

            CSP_TRY(csp_realloc(what, room, 1, &image->data));
            image->room = room;
        }
        memset(image->data + image->bytes, 0, (size_t)(at - image->bytes));
        if (bytes > 0) {
            memcpy(image->data + at, data, (size_t)bytes);
        }
    }
    image->bytes = at + bytes;
    return CSP_OK;
}

/* The next bytes as they were appended. */
static const void *next(csp_image *image, int64_t bytes)
{
    const int64_t at = (image->at + ALIGN - 1) / ALIGN * ALIGN;

    CSP_ASSERT(at + bytes <= image->bytes);
    image->at = at + bytes;
    return image->data + at;
}

bool csp_image_gives(const csp_image *image)
{
    return image->gives;
}

csp_status csp_image_value(csp_image *image, void *value, size_t bytes)
{
    if (!image->gives) {
        return append(image, value, (int64_t)bytes);
    }
    memcpy(value, next(image, (int64_t)bytes), bytes);
    return CSP_OK;
}

csp_status csp_image_array(csp_image *image, int64_t *count, size_t size, void *block)
{
    void *old;
    const void *given;

    CSP_TRY(csp_image_value(image, count, sizeof(*count)));
    if (image->gives) {
        given = next(image, *count * (int64_t)size);
        memcpy(block, &given, sizeof(given));
        return CSP_OK;
    }
    memcpy(&old, block, sizeof(old));
    CSP_TRY(append(image, old, *count * (int64_t)size));
    free(old);
    old = NULL;
    memcpy(block, &old, sizeof(old));
    return CSP_OK;
}

csp_status csp_image_text(csp_image *image, char **text, int64_t *bytes)
{
    const void *given;
    char *own;

    CSP_TRY(csp_image_value(image, bytes, sizeof(*bytes)));
    if (!image->gives) {
        return append(image, *text, *bytes);
    }
    given = next(image, *bytes);
    if (*text == NULL) {
        CSP_TRY(csp_alloc(what, *bytes + 1, 1, &own));
        memcpy(own, given, (size_t)*bytes);
        own[*bytes] = '\0';
        *text = own;
    }
    return CSP_OK;
}

/* The reader looks at what it has written, as others will. */
static csp_status finish(csp_image *image, word *w)
{
    w->is_ready = 1;
    w->bytes = image->bytes;
    if (image->fd < 0) {
        return CSP_OK;
    }
    CSP_TRY(csp_shared_memory_place(image->fd, &w->place));
    image->data = (char *)(uintptr_t)csp_shared_memory_look(image->fd, image->bytes);
    if (image->data == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no room for a view of %lld bytes", what,
                        (long long)image->bytes);
    }
    image->mapped = true;
    return CSP_OK;
}

/* All get the reader's bytes, which stays with what it has. */
static csp_status send_all(csp_image *image)
{
    if (csp_image_reads(image)) {
        csp_log(CSP_LOG_INFO, "data",
                "ranks of a machine that cannot share memory hold copies of %s, %.1f MiB each",
                what, (double)image->bytes / 1048576.0);
    } else {
        let_go(image);
        CSP_TRY(csp_alloc(what, image->bytes, 1, &image->data));
    }
    for (int64_t at = 0; at < image->bytes; at += PIECE) {
        const int64_t left = image->bytes - at;

        CSP_TRY(csp_comm_broadcast(image->machine, image->data + at, left < PIECE ? left : PIECE, 0,
                                   what));
    }
    return CSP_OK;
}

/* Makes the reader's bytes those of all. */
static csp_status spread(csp_image *image, word *w)
{
    int32_t all;

    do { /* the reader's own comes once; before it those of csp_image_waits */
        CSP_TRY(csp_comm_broadcast(image->machine, w, sizeof(*w), 0, what));
    } while (w->is_ready == 0);
    if (!csp_image_reads(image)) {
        image->bytes = w->bytes;
        image->data = (char *)(uintptr_t)csp_shared_memory_find(&w->place);
        image->mapped = image->data != NULL;
    }
    all = image->mapped ? 1 : 0;
    CSP_TRY(csp_comm_reduce(image->machine, &all, CSP_I32, 1, CSP_COMM_MIN, what));
    close_fd(image);
    return all != 0 ? CSP_OK : send_all(image);
}

csp_status csp_image_share(csp_image *image, csp_status (*visit)(void *, csp_image *),
                           void *context)
{
    word w = { .is_ready = 0 };

    if (image == NULL) {
        return CSP_OK;
    }
    if (csp_image_reads(image)) {
        CSP_TRY(visit(context, image));
        CSP_TRY(finish(image, &w));
    }
    CSP_TRY(spread(image, &w));
    image->gives = true;
    return visit(context, image);
}

bool csp_image_is_mapped(const csp_image *image)
{
    return image->mapped;
}

int64_t csp_image_bytes(const csp_image *image)
{
    return image->bytes;
}
