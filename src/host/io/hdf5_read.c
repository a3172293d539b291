/* hdf5_read.c - datasets read back: whole, in part, of strings, and their names. */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/hdf5_file.h"
#include "io/lines.h"

/* An open dataset and its shape; -1 in ndim when it has more than CSP_MAX_DIMS dimensions. */
typedef struct opened {
    hid_t dataset, type;
    int ndim;
    hsize_t dims[CSP_MAX_DIMS];
} opened;

static void close_dataset(opened *o)
{
    H5Tclose(o->type);
    H5Dclose(o->dataset);
}

/* Whether a dataset keeps its values elsewhere: in raw files, or in datasets of other files. */
static bool is_elsewhere(hid_t dataset)
{
    const hid_t list = H5Dget_create_plist(dataset);
    const bool elsewhere =
        list >= 0 && (H5Pget_external_count(list) != 0 || H5Pget_layout(list) == H5D_VIRTUAL);

    H5Pclose(list);
    return elsewhere;
}

/*
 * Refuses what no file of ours is: values in other files, which no seal covers; no values at all;
 * and sizes that the file cannot hold. Chunks that were never written are zeros to HDF5, so that a
 * few kilobytes may say they hold terabytes; what deflate packs best becomes a 1032th.
 */
static csp_status check_values(const csp_hdf5 *file, const char *name, const opened *o, hid_t space)
{
    const double most = 1100.0 * (double)file->disk.bytes;
    const double bytes = (double)H5Sget_simple_extent_npoints(space) * (double)H5Tget_size(o->type);

    if (is_elsewhere(o->dataset)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s: its values are in other files", file->path, name);
    }
    if (H5Sget_simple_extent_type(space) == H5S_NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s: a dataset without values", file->path, name);
    }
    if (!file->disk.writing && bytes > most) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: %s: says it has %.0f bytes, which a file of %llu cannot hold",
                        file->path, name, bytes, (unsigned long long)file->disk.bytes);
    }
    return CSP_OK;
}

static csp_status open_dataset(const csp_hdf5 *file, const char *name, opened *o)
{
    csp_status status;
    hid_t space;

    csp_hdf5_quiet();
    o->dataset = H5Dopen2(file->id, name, H5P_DEFAULT);
    if (o->dataset < 0) {
        return csp_hdf5_fail(file, CSP_ERR_FORMAT, name, "no such dataset");
    }
    o->type = H5Dget_type(o->dataset);
    space = H5Dget_space(o->dataset);
    o->ndim = H5Sget_simple_extent_ndims(space);
    if (o->ndim > CSP_MAX_DIMS || o->ndim < 0 || o->type < 0 ||
        (o->ndim > 0 && H5Sget_simple_extent_dims(space, o->dims, NULL) < 0)) {
        H5Sclose(space);
        close_dataset(o);
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s: a dataset of more than %d dimensions, or damaged",
                        file->path, name, CSP_MAX_DIMS);
    }
    status = check_values(file, name, o, space);
    H5Sclose(space);
    if (status != CSP_OK) {
        close_dataset(o);
        return status;
    }
    if (o->ndim == 0) { /* a scalar is one element */
        o->ndim = 1;
        o->dims[0] = 1;
    }
    return CSP_OK;
}

/* The shape as a tensor; products are checked, since they come from a file. */
static csp_status to_tensor(const csp_hdf5 *file, const char *name, const opened *o,
                            csp_tensor *out)
{
    const csp_dtype dtype = csp_hdf5_dtype(o->type);
    int64_t dims[CSP_MAX_DIMS], product = 8;

    if (dtype == CSP_DTYPE_COUNT) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s: a type csplade does not read", file->path, name);
    }
    for (int i = 0; i < o->ndim; i++) {
        dims[i] = (int64_t)o->dims[i];
        if (dims[i] < 0 || (dims[i] > 0 && __builtin_mul_overflow(product, dims[i], &product))) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s: its shape overflows 63 bits", file->path,
                            name);
        }
    }
    *out = csp_tensor_view(NULL, dtype, o->ndim, dims);
    return CSP_OK;
}

csp_status csp_hdf5_describe(const csp_hdf5 *file, const char *name, csp_tensor *out)
{
    CSP_HDF5_ONE_THREAD;
    csp_status status;
    opened o;

    CSP_TRY(open_dataset(file, name, &o));
    status = to_tensor(file, name, &o, out);
    close_dataset(&o);
    return status;
}

csp_status csp_hdf5_read(const csp_hdf5 *file, const char *name, csp_tensor *into)
{
    CSP_HDF5_ONE_THREAD;
    char have[96], want[96];
    csp_status status;
    csp_tensor stored;
    opened o;

    CSP_TRY(open_dataset(file, name, &o));
    CSP_TRY_GOTO(to_tensor(file, name, &o, &stored));
    if (!csp_tensor_is(&stored, into->dtype, into->ndim, into->dim)) {
        status = CSP_FAIL(CSP_ERR_SHAPE, "%s: %s is %s, but %s is wanted", file->path, name,
                          csp_tensor_describe(&stored, have, sizeof(have)),
                          csp_tensor_describe(into, want, sizeof(want)));
        goto fail;
    }
    if (csp_tensor_count(&stored) > 0 &&
        H5Dread(o.dataset, o.type, H5S_ALL, H5S_ALL, H5P_DEFAULT, into->data) < 0) {
        status = csp_hdf5_fail(file, CSP_ERR_FORMAT, name, "cannot read the dataset");
    }
fail:
    close_dataset(&o);
    return status;
}

csp_status csp_hdf5_read_range(const csp_hdf5 *file, const char *name, int64_t first, int64_t count,
                               void *into)
{
    CSP_HDF5_ONE_THREAD;
    const hsize_t start = (hsize_t)first, size = (hsize_t)count;
    csp_status status;
    csp_tensor stored;
    opened o;
    hid_t space, memory;

    CSP_TRY(open_dataset(file, name, &o));
    CSP_TRY_GOTO(to_tensor(file, name, &o, &stored));
    if (stored.ndim != 1 || first < 0 || count < 0 || first > stored.dim[0] ||
        count > stored.dim[0] - first) {
        status = CSP_FAIL(
            CSP_ERR_ARGUMENT, "%s: %s: %lld elements from number %lld on are not in its %lld",
            file->path, name, (long long)count, (long long)first, (long long)stored.dim[0]);
        goto fail;
    }
    if (count > 0) {
        space = H5Dget_space(o.dataset);
        memory = H5Screate_simple(1, &size, NULL);
        if (H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &size, NULL) < 0 ||
            H5Dread(o.dataset, o.type, memory, space, H5P_DEFAULT, into) < 0) {
            status = csp_hdf5_fail(file, CSP_ERR_FORMAT, name, "cannot read the dataset");
        }
        H5Sclose(memory);
        H5Sclose(space);
    }
fail:
    close_dataset(&o);
    return status;
}

/* HDF5 shall use malloc, whose blocks the caller can free. */
static void *allocate(size_t bytes, void *unused)
{
    (void)unused;
    return malloc(bytes > 0 ? bytes : 1);
}

static void release(void *block, void *unused)
{
    (void)unused;
    free(block);
}

static bool read_variable(const opened *o, char **strings)
{
    const hid_t transfer = H5Pcreate(H5P_DATASET_XFER);
    const bool done = transfer >= 0 &&
                      H5Pset_vlen_mem_manager(transfer, allocate, NULL, release, NULL) >= 0 &&
                      H5Dread(o->dataset, o->type, H5S_ALL, H5S_ALL, transfer, strings) >= 0;

    H5Pclose(transfer);
    return done;
}

/* Strings of one width, as numpy writes them, padded with NULs or spaces. */
static bool read_fixed(const opened *o, char **strings, int64_t count)
{
    const size_t width = H5Tget_size(o->type);
    const bool spaces = H5Tget_strpad(o->type) == H5T_STR_SPACEPAD;
    char *block =
        width > 0 && (size_t)count <= SIZE_MAX / 2 / width ? malloc((size_t)count * width) : NULL;
    bool done =
        block != NULL && H5Dread(o->dataset, o->type, H5S_ALL, H5S_ALL, H5P_DEFAULT, block) >= 0;

    for (int64_t i = 0; i < count && done; i++) {
        const char *text = block + (size_t)i * width;
        size_t length = strnlen(text, width);

        while (spaces && length > 0 && text[length - 1] == ' ') {
            length--;
        }
        strings[i] = strndup(text, length);
        done = strings[i] != NULL;
    }
    free(block);
    return done;
}

/* An empty string comes as NULL; whatever comes must be text. */
static csp_status check_strings(const csp_hdf5 *file, const char *name, char **strings,
                                int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (strings[i] == NULL) {
            CSP_TRY(csp_strdup(name, "", &strings[i]));
        }
        if (!csp_utf8_is_valid(strings[i], (int64_t)strlen(strings[i]), NULL)) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s: string %lld is not valid UTF-8", file->path,
                            name, (long long)i);
        }
    }
    return CSP_OK;
}

csp_status csp_hdf5_read_strings(const csp_hdf5 *file, const char *name, char ***out,
                                 int64_t *count)
{
    CSP_HDF5_ONE_THREAD;
    char **strings = NULL;
    int64_t n = 0;
    csp_status status;
    opened o;
    bool done = true;

    CSP_TRY(open_dataset(file, name, &o));
    if (H5Tget_class(o.type) != H5T_STRING || o.ndim != 1 || o.dims[0] > INT64_MAX / 16) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s: %s: not a list of strings", file->path, name);
        goto fail;
    }
    CSP_TRY_GOTO(csp_alloc_zero(name, (int64_t)o.dims[0], sizeof(*strings), &strings));
    n = (int64_t)o.dims[0];
    if (n > 0) {
        done = H5Tis_variable_str(o.type) > 0 ? read_variable(&o, strings)
                                              : read_fixed(&o, strings, n);
    }
    if (!done) {
        status = csp_hdf5_fail(file, CSP_ERR_FORMAT, name, "cannot read the strings");
        goto fail;
    }
    CSP_TRY_GOTO(check_strings(file, name, strings, n));
    *out = strings;
    *count = n;
    strings = NULL;
fail:
    for (int64_t i = 0; strings != NULL && i < n; i++) {
        free(strings[i]);
    }
    free(strings);
    close_dataset(&o);
    return status;
}

typedef struct names {
    const char *group;
    char **list;
    int64_t count, capacity;
    csp_status status;
} names;

static herr_t collect(hid_t group, const char *name, const H5O_info_t *info, void *context)
{
    names *all = context;
    char *full;

    (void)group;
    if (info->type != H5O_TYPE_DATASET) {
        return 0;
    }
    if (all->count == all->capacity) {
        const int64_t larger = all->capacity > 0 ? 2 * all->capacity : 64;

        all->status = csp_realloc(all->group, larger, sizeof(*all->list), &all->list);
        if (all->status != CSP_OK) {
            return -1;
        }
        all->capacity = larger;
    }
    all->status = csp_file_join(all->group, name, &full);
    if (all->status != CSP_OK) {
        return -1;
    }
    all->list[all->count++] = full;
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

csp_status csp_hdf5_visit(const csp_hdf5 *file, const char *group,
                          csp_status (*visit)(const char *name, void *context), void *context)
{
    CSP_HDF5_ONE_THREAD;
    names all = { .group = group, .status = CSP_OK };
    csp_status status;

    if (!csp_hdf5_has(file, group)) {
        return CSP_OK;
    }
    if (H5Ovisit_by_name2(file->id, group, H5_INDEX_NAME, H5_ITER_INC, collect, &all,
                          H5O_INFO_BASIC, H5P_DEFAULT) < 0 &&
        all.status == CSP_OK) {
        all.status = csp_hdf5_fail(file, CSP_ERR_FORMAT, group, "cannot list the group");
    }
    status = all.status;
    if (all.count > 0) {
        qsort(all.list, (size_t)all.count, sizeof(*all.list), by_text);
    }
    for (int64_t i = 0; i < all.count; i++) {
        if (status == CSP_OK) {
            status = visit(all.list[i], context);
        }
        free(all.list[i]);
    }
    free(all.list);
    return status;
}
