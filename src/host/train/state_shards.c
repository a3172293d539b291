/* state_shards.c - copying, writing, finding and reading a rank's part of AdamW's state. */
#include "train/state_shards.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"
#include "core/memory.h"
#include "core/size.h"
#include "io/digest.h"
#include "io/file.h"
#include "model/param_values.h"

enum { KINDS = 3, DIGITS = 16 };

static const char *const kinds[KINDS] = { "m", "v", "master" };

static const csp_tensor *state_of(const csp_param *row, int kind)
{
    return kind == 0 ? &row->m : kind == 1 ? &row->v : &row->master;
}

static void piece_name(const csp_param *row, int kind, char *out, size_t bytes)
{
    snprintf(out, bytes, "/optim/%s/%s", kinds[kind], row->name);
}

/* Whether a rank has elements of its own of an array. */
static bool has_piece(const csp_param *row, int kind)
{
    return state_of(row, kind)->ndim > 0 && row->own_count > 0;
}

int64_t csp_state_copy_bytes(const csp_params *params)
{
    size_t bytes = 0;

    for (int64_t i = 0; i < params->count; i++) {
        for (int kind = 0; kind < KINDS; kind++) {
            const csp_tensor *t = state_of(&params->rows[i], kind);

            bytes += has_piece(&params->rows[i], kind)
                         ? csp_size_round_up(csp_tensor_bytes(t), CSP_ARENA_ALIGN)
                         : 0;
        }
    }
    return (int64_t)bytes;
}

/* Which pieces there are; they get their values with the first copy. */
static void list_pieces(const csp_params *params, csp_state_copy *c)
{
    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];

        for (int kind = 0; kind < KINDS; kind++) {
            csp_state_piece *piece = &c->pieces[c->count];

            c->masters = c->masters || (kind == 2 && row->master.ndim > 0);
            if (has_piece(row, kind)) {
                piece_name(row, kind, piece->name, sizeof(piece->name));
                piece->first = row->own_first;
                piece->count = row->own_count;
                c->parts[c->count++] = *state_of(row, kind);
            }
        }
    }
}

csp_status csp_state_copy_init(const csp_model *model, csp_state_copy *copy)
{
    const csp_params *params = model->params;
    const int64_t most = KINDS * params->count;
    csp_state_copy c = { .be = model->be };
    csp_status status;

    CSP_TRY_GOTO(csp_alloc_zero("state", most, sizeof(*c.pieces), &c.pieces));
    CSP_TRY_GOTO(csp_alloc_zero("state", most, sizeof(*c.parts), &c.parts));
    CSP_TRY_GOTO(csp_alloc_zero("state", most, sizeof(*c.at), &c.at));
    list_pieces(params, &c);
    /* Just what is needed: a download that finds it too small would take a quarter more. */
    CSP_TRY_GOTO(c.count > 0 ? csp_backend_host_reserve(c.be, (size_t)csp_state_copy_bytes(params),
                                                        &c.copy.host)
                             : CSP_OK);
    *copy = c;
    return CSP_OK;

fail:
    csp_state_copy_clear(&c);
    return status;
}

void csp_state_copy_clear(csp_state_copy *copy)
{
    if (copy->be != NULL) {
        csp_download_clear(copy->be, &copy->copy);
    }
    free(copy->pieces);
    free(copy->parts);
    free(copy->at);
    *copy = (csp_state_copy) { 0 };
}

csp_status csp_state_copy_start(csp_state_copy *copy)
{
    CSP_TRY(csp_download_mark(copy->be, &copy->copy));
    CSP_TRY(csp_download_start(copy->be, &copy->copy, copy->parts, copy->count, copy->at));
    for (int i = 0; i < copy->count; i++) {
        copy->pieces[i].values = copy->at[i];
    }
    return CSP_OK;
}

csp_status csp_state_copy_wait(csp_state_copy *copy)
{
    return csp_download_wait(copy->be, &copy->copy);
}

void csp_state_copy_drop(csp_state_copy *copy)
{
    __atomic_store_n(&copy->dropped, true, __ATOMIC_RELAXED);
}

csp_status csp_state_copy_take(const csp_model *model, csp_state_copy *out)
{
    csp_state_copy c;
    csp_status status;

    CSP_TRY(csp_state_copy_init(model, &c));
    CSP_TRY_GOTO(csp_state_copy_start(&c));
    CSP_TRY_GOTO(csp_state_copy_wait(&c));
    *out = c;
    return CSP_OK;

fail:
    csp_state_copy_clear(&c);
    return status;
}

static csp_status digest_of(const csp_state_copy *copy, char text[CSP_DIGEST_TEXT_BYTES])
{
    csp_digest *digest;

    CSP_TRY(csp_digest_create(&digest));
    for (int i = 0; i < copy->count; i++) {
        const csp_state_piece *p = &copy->pieces[i];
        const int64_t place[] = { p->first, p->count };

        csp_digest_add(digest, p->name, (int64_t)strlen(p->name));
        csp_digest_add(digest, place, sizeof(place));
        csp_digest_add(digest, p->values, p->count * (int64_t)sizeof(*p->values));
    }
    csp_digest_say(digest, text);
    csp_digest_destroy(digest);
    return CSP_OK;
}

static csp_status write_pieces(csp_hdf5 *file, const csp_state_copy *copy)
{
    CSP_TRY(csp_hdf5_set_text(file, "/", "format", "csplade-state"));
    CSP_TRY(csp_hdf5_set_i64(file, "/", "format_version", CSP_STATE_VERSION));
    CSP_TRY(csp_hdf5_set_i64(file, "/", "masters", copy->masters ? 1 : 0));
    for (int i = 0; i < copy->count; i++) {
        const csp_state_piece *p = &copy->pieces[i];
        const csp_tensor t = csp_tensor_view((void *)(uintptr_t)p->values, CSP_F32, 1, &p->count);

        if (__atomic_load_n(&copy->dropped, __ATOMIC_RELAXED)) {
            return CSP_FAIL(CSP_ERR_INTERRUPTED, "state files: nobody wants this one any more");
        }
        CSP_TRY(csp_hdf5_write(file, p->name, &t));
        CSP_TRY(csp_hdf5_set_i64(file, p->name, "first", p->first));
    }
    return CSP_OK;
}

csp_status csp_state_name(const char *stem, int rank, int ranks, const csp_state_copy *copy,
                          char name[CSP_STATE_NAME_BYTES])
{
    char digest[CSP_DIGEST_TEXT_BYTES];

    CSP_TRY(digest_of(copy, digest));
    snprintf(name, CSP_STATE_NAME_BYTES, "%s.rank%dof%d.%.*s.state", stem, rank, ranks, DIGITS,
             digest);
    return CSP_OK;
}

csp_status csp_state_write(const char *dir, const char *name, const csp_state_copy *copy)
{
    char *path = NULL;
    csp_hdf5 *file = NULL;
    csp_status status;

    CSP_TRY(csp_file_join(dir, name, &path));
    CSP_TRY_GOTO(csp_hdf5_create(path, &file));
    status = write_pieces(file, copy);
    if (status != CSP_OK) {
        csp_hdf5_close(file);
        goto fail;
    }
    status = csp_hdf5_commit(file);

fail:
    free(path);
    return status;
}

void csp_state_files_clear(csp_state_files *files)
{
    for (int64_t i = 0; i < files->count; i++) {
        csp_hdf5_close(files->kept != NULL ? files->kept[i] : NULL);
        free(files->names[i]);
    }
    free(files->kept);
    free(files->names);
    *files = (csp_state_files) { 0 };
}

/* The folder that a file lies in, "." where its path has none. Owner: the caller frees *out. */
static csp_status folder_of(const char *path, char **out)
{
    const char *slash = strrchr(path, '/');

    CSP_TRY(csp_strdup("checkpoint", slash != NULL ? path : ".", out));
    if (slash != NULL) {
        (*out)[slash > path ? slash - path : 1] = '\0';
    }
    return CSP_OK;
}

/* Where file i lies, which a name with a slash does not say. Owner: the caller frees *out. */
static csp_status path_of(const char *checkpoint, const csp_state_files *files, int64_t i,
                          char **out)
{
    const char *name = files->names[i];
    char *dir = NULL, *path = NULL;
    csp_status status;

    CSP_TRY_GOTO(folder_of(checkpoint, &dir));
    CSP_TRY_GOTO(csp_file_join(dir, name, &path));
    if (strchr(name, '/') != NULL || !csp_file_exists(path)) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s: its state file %s is missing", checkpoint, name);
        goto fail;
    }
    *out = path;
    path = NULL;

fail:
    free(dir);
    free(path);
    return status;
}

csp_status csp_state_file_bytes(const char *checkpoint, const csp_state_files *files, int64_t i,
                                int64_t *out)
{
    struct stat info;
    char *path;
    csp_status status = CSP_OK;

    CSP_TRY(path_of(checkpoint, files, i, &path));
    if (stat(path, &info) != 0) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s: %s", path, strerror(errno));
    } else {
        *out = (int64_t)info.st_size;
    }
    free(path);
    return status;
}

csp_status csp_state_file_open(const char *checkpoint, const csp_state_files *files, int64_t i,
                               const csp_hdf5_way *way, csp_hdf5 **out)
{
    char *path, *format = NULL;
    csp_hdf5 *file = NULL;
    csp_status status;
    bool right;

    CSP_TRY(path_of(checkpoint, files, i, &path));
    CSP_TRY_GOTO(csp_hdf5_open_by(path, way, &file));
    CSP_TRY_GOTO(csp_hdf5_get_text(file, "/", "format", &format));
    right = strcmp(format, "csplade-state") == 0;
    if (!right) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s: not a state file of csplade", path);
        goto fail;
    }
    *out = file;
    file = NULL;

fail:
    csp_hdf5_close(file);
    free(path);
    free(format);
    return status;
}

/* What is still to be found of each array of a model. */
typedef struct wanted {
    int64_t *left; /* (rows, KINDS) elements */
    int64_t open;  /* arrays that want some  */
    bool settled;  /* whether masters are among them is known */
    float *values; /* room for one piece     */
} wanted;

/* Elements of a row that the model wants of an array: from *first on so many. */
static int64_t range_of(const csp_param *row, int kind, bool masters, int64_t *first)
{
    const bool whole = kind == 2 && masters && row->master.ndim == 0 && row->value.dtype == CSP_F32;
    const bool own = kind < 2 || (masters && row->master.ndim > 0);

    *first = whole ? 0 : row->own_first;
    return !row->trained ? 0 : whole ? csp_tensor_count(&row->value) : own ? row->own_count : 0;
}

static void settle(const csp_params *params, bool masters, wanted *w)
{
    for (int64_t i = 0; i < params->count && !w->settled; i++) {
        for (int kind = 0; kind < KINDS; kind++) {
            int64_t first;

            w->left[i * KINDS + kind] = range_of(&params->rows[i], kind, masters, &first);
            w->open += w->left[i * KINDS + kind] > 0;
        }
    }
    w->settled = true;
}

/* Takes what is wanted of one array out of a file. */
static csp_status read_piece(const csp_hdf5 *file, csp_model *model, csp_param *row, int kind,
                             bool masters, int64_t *left, wanted *w)
{
    char name[CSP_PARAM_NAME_BYTES + 16];
    csp_tensor there;
    int64_t first, begin, end, want_first;
    const int64_t want = range_of(row, kind, masters, &want_first);

    piece_name(row, kind, name, sizeof(name));
    if (!csp_hdf5_has(file, name)) {
        return CSP_OK;
    }
    CSP_TRY(csp_hdf5_describe(file, name, &there));
    CSP_TRY(csp_hdf5_get_i64(file, name, "first", &first));
    if (there.dtype != CSP_F32 || there.ndim != 1 || first < 0 ||
        there.dim[0] > csp_tensor_count(&row->value) - first) {
        return CSP_FAIL(CSP_ERR_FORMAT, "a state file's %s is not of elements of the model's",
                        name);
    }
    begin = first > want_first ? first : want_first;
    end = first + there.dim[0] < want_first + want ? first + there.dim[0] : want_first + want;
    if (begin >= end) {
        return CSP_OK;
    }
    CSP_TRY(csp_realloc("state", end - begin, sizeof(*w->values), &w->values));
    CSP_TRY(csp_hdf5_read_range(file, name, begin - first, end - begin, w->values));
    CSP_TRY(
        kind == 2 && row->master.ndim == 0
            ? csp_param_upload(model->be, row, begin, end - begin, w->values)
            : csp_state_upload(model->be, row, state_of(row, kind), begin, end - begin, w->values));
    *left -= end - begin;
    w->open -= *left == 0;
    return CSP_OK;
}

static csp_status read_file(const csp_hdf5 *file, csp_model *model, csp_keepalive *alive, wanted *w)
{
    int64_t masters;

    CSP_TRY(csp_hdf5_get_i64(file, "/", "masters", &masters));
    settle(model->params, masters != 0, w);
    for (int64_t i = 0; i < model->params->count; i++) {
        for (int kind = 0; kind < KINDS; kind++) {
            int64_t *left = &w->left[i * KINDS + kind];

            if (*left > 0) {
                CSP_TRY(
                    read_piece(file, model, &model->params->rows[i], kind, masters != 0, left, w));
                CSP_TRY(csp_keepalive_tick(alive));
            }
        }
    }
    return CSP_OK;
}

static csp_status goes_on(void *context)
{
    return csp_keepalive_tick(context);
}

/* Names an array of which elements are in no file. */
static csp_status refuse(const char *checkpoint, const csp_params *params, const wanted *w)
{
    int64_t i = 0;

    while (w->left[i] <= 0) {
        i++;
    }
    return CSP_FAIL(CSP_ERR_FORMAT,
                    "%s: %lld elements of /optim/%s/%s are in none of its state files", checkpoint,
                    (long long)w->left[i], kinds[i % KINDS], params->rows[i / KINDS].name);
}

/* Takes file i from where it is kept, or opens it. */
static csp_status take_file(const char *checkpoint, csp_state_files *files, int64_t i,
                            csp_keepalive *alive, csp_hdf5 **out)
{
    const csp_hdf5_way way = { .is_checked = files->is_checked,
                               .goes_on = goes_on,
                               .context = alive };

    if (files->kept != NULL && files->kept[i] != NULL) {
        *out = files->kept[i];
        files->kept[i] = NULL;
        return CSP_OK;
    }
    return csp_state_file_open(checkpoint, files, i, &way, out);
}

csp_status csp_state_files_read(const char *checkpoint, csp_state_files *files,
                                csp_keepalive *alive, csp_model *model)
{
    const csp_params *params = model->params;
    const int64_t own =
        csp_params_shards(params) == files->count ? params->storage.sharing.rank : 0;
    wanted w = { 0 };
    csp_hdf5 *file = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc_zero("state", params->count * KINDS, sizeof(*w.left), &w.left));
    for (int64_t i = 0; i < files->count && (!w.settled || w.open > 0); i++) {
        CSP_TRY_GOTO(take_file(checkpoint, files, (own + i) % files->count, alive, &file));
        CSP_TRY_GOTO(read_file(file, model, alive, &w));
        csp_hdf5_close(file);
        file = NULL;
    }
    status = w.open > 0 ? refuse(checkpoint, params, &w) : CSP_OK;

fail:
    csp_hdf5_close(file);
    free(w.left);
    free(w.values);
    return status;
}

/* Whether a name is that of a state file; bytes of the stem before ".rank". */
static bool is_state_file(const char *name, size_t *stem)
{
    const char *rank = strstr(name, ".rank"), *end = strrchr(name, '.');

    *stem = rank != NULL ? (size_t)(rank - name) : 0;
    return rank != NULL && end > rank && strcmp(end, ".state") == 0;
}

static bool names(const csp_state_files *files, const char *name)
{
    for (int64_t i = 0; files != NULL && i < files->count; i++) {
        if (strcmp(files->names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Whether the checkpoint of a stem is in the folder. */
static bool has_checkpoint(const char *dir, const char *name, size_t stem)
{
    char file[CSP_STATE_NAME_BYTES], *path = NULL;
    bool there;

    snprintf(file, sizeof(file), "%.*s.h5", (int)stem, name);
    there = csp_file_join(dir, file, &path) != CSP_OK || csp_file_exists(path);
    free(path);
    return there;
}

static void remove_file(const char *dir, const char *name)
{
    char *path = NULL;

    if (csp_file_join(dir, name, &path) == CSP_OK && unlink(path) != 0) {
        csp_log(CSP_LOG_WARN, "train", "%s: cannot be removed: %s", path, strerror(errno));
    }
    free(path);
}

void csp_state_files_remove(const char *dir, const char *stem, const csp_state_files *keep)
{
    DIR *folder = opendir(dir);

    for (struct dirent *e = folder != NULL ? readdir(folder) : NULL; e != NULL;
         e = readdir(folder)) {
        size_t bytes;
        bool goes;

        if (!is_state_file(e->d_name, &bytes)) {
            continue;
        }
        goes = stem == NULL ? !has_checkpoint(dir, e->d_name, bytes)
                            : strlen(stem) == bytes && strncmp(stem, e->d_name, bytes) == 0;
        if (goes && !names(keep, e->d_name)) {
            remove_file(dir, e->d_name);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}
