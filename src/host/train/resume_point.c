/* resume_point.c - candidates one after the other, each checked by all ranks together. */
#include "train/resume_point.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/machine.h"
#include "core/memory.h"
#include "io/file.h"
#include "train/checkpoint_list.h"
#include "train/keepalive.h"

static const char what[] = "the check of the checkpoint";

/* What is wrong with a checkpoint, if anything is; the same on all ranks in the end. */
typedef struct finding {
    int32_t status; /* CSP_OK: nothing */
    char text[1100];
} finding;

/* A check of one checkpoint. */
typedef struct check {
    const csp_ranks *ranks;
    csp_keepalive alive;
    int64_t keep_most; /* bytes that this rank may still keep in memory */
    int64_t *bytes;    /* (state.count) of each state file              */
    int *owner;        /* (state.count)                                 */
    csp_resume_point point;
    finding bad;
} check;

static csp_status tell_all(const csp_ranks *ranks, void *data, int64_t bytes, int root)
{
    return csp_ranks_size(ranks) > 1 ? csp_comm_broadcast(ranks->comm, data, bytes, root, what)
                                     : CSP_OK;
}

/* Whether a failed call has found a file that is not whole; else this rank itself has failed. */
static bool is_of_file(csp_status status)
{
    return status == CSP_ERR_FORMAT || status == CSP_ERR_IO;
}

static void note(check *c, csp_status status)
{
    c->bad.status = (int32_t)status;
    (void)snprintf(c->bad.text, sizeof(c->bad.text), "%s", csp_error_text());
}

static csp_status goes_on(void *context)
{
    return csp_keepalive_tick(context);
}

static csp_hdf5_way way_of(check *c)
{
    return (csp_hdf5_way) { .keep_most = c->keep_most, .goes_on = goes_on, .context = &c->alive };
}

/* A quarter of what this machine has left, as of all copies on a CPU (train/saver.h). */
static int64_t memory_to_keep(const csp_ranks *ranks)
{
    const int64_t free = csp_machine_available_bytes();
    const int here = csp_ranks_size(ranks) > 1 ? csp_comm_local_size(ranks->comm) : 1;

    return free == INT64_MAX ? free : free / 4 / here;
}

/* The names of state files that a checkpoint has, if any, each of a file beside it. */
static csp_status read_names(const csp_resume_point *point, csp_state_files *out)
{
    csp_state_files files = { 0 };

    if (!csp_hdf5_has(point->file, "/state_files")) {
        return CSP_OK;
    }
    CSP_TRY(csp_hdf5_read_strings(point->file, "/state_files", &files.names, &files.count));
    for (int64_t i = 0; i < files.count; i++) {
        if (strlen(files.names[i]) >= CSP_STATE_NAME_BYTES || strchr(files.names[i], '/') != NULL) {
            const csp_status status =
                CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%.100s\" is not the name of a state file",
                         point->path, files.names[i]);

            csp_state_files_clear(&files);
            return status;
        }
    }
    *out = files;
    return CSP_OK;
}

/* Rank 0: the model's file, and that the others are there. */
static csp_status check_model(check *c)
{
    const csp_hdf5_way way = way_of(c);
    csp_resume_point *point = &c->point;

    CSP_TRY(csp_hdf5_open_by(point->path, &way, &point->file));
    c->keep_most -= csp_hdf5_kept(point->file);
    CSP_TRY(read_names(point, &point->state));
    CSP_TRY(csp_alloc_zero(what, point->state.count, sizeof(*c->bytes), &c->bytes));
    for (int64_t i = 0; i < point->state.count; i++) {
        CSP_TRY(csp_state_file_bytes(point->path, &point->state, i, &c->bytes[i]));
    }
    return CSP_OK;
}

/* What rank 0 has found out goes to all: whether they go on, with the names of how many files. */
static csp_status share_names(check *c)
{
    const bool reads = csp_ranks_rank(c->ranks) == 0;
    csp_state_files *files = &c->point.state;
    char(*names)[CSP_STATE_NAME_BYTES] = NULL;
    int64_t count = files->count;
    csp_status status;

    CSP_TRY(tell_all(c->ranks, &c->bad, sizeof(c->bad), 0));
    CSP_TRY(c->bad.status == CSP_OK ? tell_all(c->ranks, &count, sizeof(count), 0) : CSP_OK);
    if (c->bad.status != CSP_OK || count == 0) {
        return CSP_OK;
    }
    CSP_TRY_GOTO(csp_alloc_zero(what, count, sizeof(*names), &names));
    for (int64_t i = 0; reads && i < count; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "%s", files->names[i]);
    }
    if (!reads) {
        CSP_TRY_GOTO(csp_alloc_zero(what, count, sizeof(*c->bytes), &c->bytes));
        CSP_TRY_GOTO(csp_alloc_zero(what, count, sizeof(*files->names), &files->names));
    }
    CSP_TRY_GOTO(tell_all(c->ranks, names, count * (int64_t)sizeof(*names), 0));
    CSP_TRY_GOTO(tell_all(c->ranks, c->bytes, count * (int64_t)sizeof(*c->bytes), 0));
    for (; !reads && files->count < count; files->count++) {
        CSP_TRY_GOTO(csp_strdup(what, names[files->count], &files->names[files->count]));
    }

fail:
    free(names);
    return status;
}

void csp_resume_point_share(const int64_t *bytes, int64_t count, int ranks, int *owner)
{
    double all = 0.0, before = 0.0;

    for (int64_t i = 0; i < count; i++) {
        all += (double)bytes[i];
    }
    for (int64_t i = 0; i < count; i++) {
        /* The rank in whose part of all bytes the middle of the file lies. */
        const double middle = before + (double)bytes[i] / 2.0;
        const int r = all > 0.0 ? (int)(middle / all * ranks) : 0;

        owner[i] = count == ranks ? (int)i : r < ranks ? r : ranks - 1;
        before += (double)bytes[i];
    }
}

/* This rank's part of the state files. Its first that is not whole: *first, and c->bad. */
static csp_status check_own(check *c, int32_t *first)
{
    const int own = csp_ranks_rank(c->ranks);
    csp_state_files *files = &c->point.state;

    CSP_TRY(csp_alloc_zero(what, files->count, sizeof(*files->kept), &files->kept));
    for (int64_t i = 0; i < files->count && c->bad.status == CSP_OK; i++) {
        const csp_hdf5_way way = way_of(c);
        csp_status status;

        if (c->owner[i] != own) {
            continue;
        }
        status = csp_state_file_open(c->point.path, files, i, &way, &files->kept[i]);
        if (status == CSP_OK && csp_hdf5_kept(files->kept[i]) == 0) {
            csp_hdf5_close(files->kept[i]);
            files->kept[i] = NULL;
        } else if (status == CSP_OK) {
            c->keep_most -= csp_hdf5_kept(files->kept[i]);
        } else if (is_of_file(status)) {
            *first = (int32_t)i;
            note(c, status);
        } else {
            return status;
        }
    }
    return CSP_OK;
}

/* All ranks: the state files, and that every rank sees them. c->bad: the first not whole. */
static csp_status check_state(check *c)
{
    const int own = csp_ranks_rank(c->ranks);
    csp_state_files *files = &c->point.state;
    int32_t first = (int32_t)files->count;

    if (own > 0) {
        CSP_TRY(csp_hdf5_open_by(c->point.path, &(csp_hdf5_way) { .is_checked = true },
                                 &c->point.file));
    }
    for (int64_t i = 0; i < files->count; i++) {
        int64_t bytes;

        /* Rank 0 has seen it: this is no damage but another file system, or none. */
        if (csp_state_file_bytes(c->point.path, files, i, &bytes) != CSP_OK) {
            return CSP_FAIL(CSP_ERR_IO, "%s: rank 0 sees its state file %s, rank %d does not",
                            c->point.path, files->names[i], own);
        }
    }
    CSP_TRY(csp_alloc(what, files->count, sizeof(*c->owner), &c->owner));
    csp_resume_point_share(c->bytes, files->count, csp_ranks_size(c->ranks), c->owner);
    CSP_TRY(check_own(c, &first));
    CSP_TRY(csp_keepalive_end(&c->alive));
    CSP_TRY(csp_ranks_reduce_host(c->ranks, &first, CSP_I32, 1, CSP_COMM_MIN, what));
    if (first < (int32_t)files->count) {
        CSP_TRY(tell_all(c->ranks, &c->bad, sizeof(c->bad), c->owner[first]));
    }
    files->is_checked = true;
    return CSP_OK;
}

/* Makes c->point that of the path, or c->bad what is wrong with it. */
static csp_status check_all(check *c, const char *path)
{
    csp_status status = CSP_OK;

    CSP_TRY(csp_strdup(what, path, &c->point.path));
    csp_keepalive_begin(&c->alive, c->ranks, what);
    if (csp_ranks_rank(c->ranks) == 0) {
        status = check_model(c);
        if (is_of_file(status)) {
            note(c, status);
            status = CSP_OK;
        }
        CSP_TRY(status);
    }
    CSP_TRY(csp_keepalive_end(&c->alive));
    CSP_TRY(share_names(c));
    if (c->bad.status != CSP_OK) {
        return CSP_OK;
    }
    csp_keepalive_begin(&c->alive, c->ranks, what);
    return check_state(c);
}

/* *out is all 0 where the checkpoint is not whole, and bad says why. */
static csp_status open_candidate(const char *path, const csp_ranks *ranks, csp_resume_point *out,
                                 finding *bad)
{
    const double begin = csp_machine_seconds();
    check c = { .ranks = ranks, .keep_most = memory_to_keep(ranks) };
    const csp_status status = check_all(&c, path);

    if (status != CSP_OK) {
        csp_keepalive_leave(&c.alive, status);
    } else if (c.bad.status == CSP_OK) {
        *out = c.point;
        c.point = (csp_resume_point) { 0 };
        if (csp_ranks_rank(ranks) == 0 && csp_machine_seconds() - begin > 1.0) {
            csp_log(CSP_LOG_INFO, "train", "%s and %lld state files checked in %.1f s", path,
                    (long long)out->state.count, csp_machine_seconds() - begin);
        }
    }
    *bad = c.bad;
    csp_resume_point_clear(&c.point);
    free(c.bytes);
    free(c.owner);
    return status;
}

/* Rank 0's path on all ranks; NULL where it has none. Owner: the caller frees *out. */
static csp_status share_path(const char *own, const csp_ranks *ranks, char **out)
{
    int64_t bytes = own != NULL ? (int64_t)strlen(own) + 1 : 0;
    char *path = NULL;
    csp_status status;

    CSP_TRY(tell_all(ranks, &bytes, sizeof(bytes), 0));
    if (bytes > 0) {
        CSP_TRY(csp_alloc_zero("checkpoint", bytes, 1, &path));
        if (own != NULL) {
            memcpy(path, own, (size_t)(csp_ranks_rank(ranks) == 0 ? bytes : 0));
        }
        CSP_TRY_GOTO(tell_all(ranks, path, bytes, 0));
    }
    *out = path;
    return CSP_OK;

fail:
    free(path);
    return status;
}

csp_status csp_resume_point_open(const char *path, const csp_ranks *ranks, csp_resume_point *out)
{
    csp_resume_point point = { 0 };
    char *shared;
    finding bad;
    csp_status status;

    CSP_TRY(share_path(path, ranks, &shared));
    status = open_candidate(shared, ranks, &point, &bad);
    free(shared);
    CSP_TRY(status);
    if (bad.status != CSP_OK) {
        return CSP_FAIL((csp_status)bad.status, "%s", bad.text);
    }
    *out = point;
    return CSP_OK;
}

/* Paths of a folder's checkpoints in the order in which they are tried. */
typedef struct candidates {
    char *dir, *latest;
    csp_checkpoint_entry *list;
    int64_t count;
    int64_t next; /* -1: latest */
} candidates;

/* Owner: close_candidates, also after a failure. */
static csp_status open_candidates(const char *run_dir, candidates *c)
{
    CSP_TRY(csp_checkpoint_dir(run_dir, &c->dir));
    CSP_TRY(csp_checkpoint_list(c->dir, &c->list, &c->count));
    CSP_TRY(csp_checkpoint_read_latest(c->dir, &c->latest));
    c->next = c->latest != NULL ? -1 : 0;
    return CSP_OK;
}

static void close_candidates(candidates *c)
{
    free(c->dir);
    free(c->latest);
    free(c->list);
}

/* The next path, or NULL. Owner: the caller frees *out. */
static csp_status next_candidate(candidates *c, char **out)
{
    const char *name = c->latest;

    *out = NULL;
    if (c->next >= 0) {
        while (c->next < c->count && c->latest != NULL &&
               strcmp(c->list[c->next].name, c->latest) == 0) {
            c->next++;
        }
        name = c->next < c->count ? c->list[c->next].name : NULL;
    }
    c->next++;
    return name != NULL ? csp_file_join(c->dir, name, out) : CSP_OK;
}

/* Rank 0 names the next one, and all check it, until one is whole or there is none. */
static csp_status try_all(candidates *list, const csp_ranks *ranks, csp_resume_point *out)
{
    while (out->path == NULL) {
        char *own = NULL, *path = NULL;
        finding bad = { 0 };
        csp_status status;

        CSP_TRY(csp_ranks_rank(ranks) == 0 ? next_candidate(list, &own) : CSP_OK);
        status = share_path(own, ranks, &path);
        free(own);
        CSP_TRY(status);
        if (path == NULL) {
            return CSP_OK;
        }
        status = open_candidate(path, ranks, out, &bad);
        free(path);
        CSP_TRY(status);
        if (bad.status != CSP_OK && csp_ranks_rank(ranks) == 0) {
            csp_log(CSP_LOG_WARN, "train", "passed over a damaged checkpoint: %s", bad.text);
        }
    }
    return CSP_OK;
}

csp_status csp_resume_point_find(const char *run_dir, const csp_ranks *ranks, csp_resume_point *out)
{
    csp_resume_point point = { 0 };
    candidates list = { 0 };
    int64_t count;
    csp_status status = CSP_OK;

    if (csp_ranks_rank(ranks) == 0) {
        CSP_TRY_GOTO(open_candidates(run_dir, &list));
    }
    CSP_TRY_GOTO(try_all(&list, ranks, &point));
    count = list.count;
    CSP_TRY_GOTO(tell_all(ranks, &count, sizeof(count), 0));
    if (point.path == NULL && count > 0) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s: none of its %lld checkpoints can be read", run_dir,
                          (long long)count);
        goto fail;
    }
    *out = point;
    point = (csp_resume_point) { 0 };

fail:
    csp_resume_point_clear(&point);
    close_candidates(&list);
    return status;
}

csp_status csp_resume_point_exists(const char *run_dir, bool *out)
{
    csp_checkpoint_entry *list = NULL;
    char *dir = NULL;
    int64_t count;
    csp_status status;

    CSP_TRY_GOTO(csp_checkpoint_dir(run_dir, &dir));
    CSP_TRY_GOTO(csp_checkpoint_list(dir, &list, &count));
    *out = count > 0;

fail:
    free(dir);
    free(list);
    return status;
}

void csp_resume_point_clear(csp_resume_point *point)
{
    csp_state_files_clear(&point->state);
    csp_hdf5_close(point->file);
    free(point->path);
    *point = (csp_resume_point) { 0 };
}
