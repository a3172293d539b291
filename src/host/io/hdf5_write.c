/* hdf5_write.c - datasets: whole, growing, and of strings. */
#include <string.h>

#include "io/hdf5_file.h"
#include "io/lines.h"

/* Bytes of a chunk: 64 KiB to 1 MiB where the dataset is that large. */
enum { CHUNK_BYTES = 1 << 19, GROWING_CHUNK = 1 << 14, STRINGS_CHUNK = 1 << 12 };

/*
 * Chunk sizes of about CHUNK_BYTES, whole rows first; each dimension is cut into equal parts, so
 * that the last one wastes less than one element per cut. False if the dataset is empty.
 */
static bool chunk_shape(const csp_tensor *t, hsize_t *chunk)
{
    int64_t room = CHUNK_BYTES / (int64_t)csp_dtype_bytes(t->dtype);

    for (int i = t->ndim - 1; i >= 0; i--) {
        int64_t parts;

        if (t->dim[i] == 0) {
            return false;
        }
        parts = (t->dim[i] + room - 1) / room;
        chunk[i] = (hsize_t)((t->dim[i] + parts - 1) / parts);
        room /= (int64_t)chunk[i];
        room = room > 0 ? room : 1;
    }
    return true;
}

/* Creation list of a dataset; chunk NULL: contiguous (and empty). */
static hid_t dataset_list(int ndim, const hsize_t *chunk, bool checksums)
{
    const hid_t list = csp_hdf5_object_list(H5P_DATASET_CREATE);

    if (list >= 0 && chunk != NULL &&
        (H5Pset_chunk(list, ndim, chunk) < 0 || (checksums && H5Pset_fletcher32(list) < 0))) {
        H5Pclose(list);
        return H5I_INVALID_HID;
    }
    return list;
}

static hid_t create_dataset(const csp_hdf5 *file, const char *name, hid_t type, hid_t space,
                            int ndim, const hsize_t *chunk)
{
    /* HDF5 has no checksums for strings: they lie in its heap. The seal covers them. */
    const hid_t list = dataset_list(ndim, chunk, H5Tget_class(type) != H5T_STRING);
    const hid_t links = csp_hdf5_link_list();
    const hid_t dataset = H5Dcreate2(file->id, name, type, space, links, list, H5P_DEFAULT);

    H5Pclose(list);
    H5Pclose(links);
    return dataset;
}

csp_status csp_hdf5_write(csp_hdf5 *file, const char *name, const csp_tensor *tensor)
{
    CSP_HDF5_ONE_THREAD;
    hsize_t dims[CSP_MAX_DIMS], chunk[CSP_MAX_DIMS];
    hid_t type, space, dataset;
    bool done, full;

    CSP_TRY(csp_hdf5_check_writing(file, name));
    if (tensor->ndim < 1) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: %s: there is no tensor to write", file->path, name);
    }
    for (int i = 0; i < tensor->ndim; i++) {
        dims[i] = (hsize_t)tensor->dim[i];
    }
    full = chunk_shape(tensor, chunk);
    type = csp_hdf5_type(tensor->dtype);
    space = H5Screate_simple(tensor->ndim, dims, NULL);
    dataset = create_dataset(file, name, type, space, tensor->ndim, full ? chunk : NULL);
    done = dataset >= 0 &&
           (!full || H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor->data) >= 0);
    done = dataset >= 0 && H5Dclose(dataset) >= 0 && done;
    H5Sclose(space);
    H5Tclose(type);
    return csp_hdf5_written(file, done, name, "cannot write the dataset");
}

/* The one-dimensional dataset of that name, made if it is not there. */
static hid_t growing_dataset(const csp_hdf5 *file, const char *name, hid_t type, hsize_t chunk)
{
    const hsize_t none = 0, unlimited = H5S_UNLIMITED;
    hid_t dataset, space;

    if (csp_hdf5_has(file, name)) {
        return H5Dopen2(file->id, name, H5P_DEFAULT);
    }
    space = H5Screate_simple(1, &none, &unlimited);
    dataset = create_dataset(file, name, type, space, 1, &chunk);
    H5Sclose(space);
    return dataset;
}

/* Writes count elements behind the last. */
static bool extend(hid_t dataset, hid_t type, const void *data, hsize_t count)
{
    hid_t space = H5Dget_space(dataset), memory;
    hsize_t before = 0, after;
    bool done = H5Sget_simple_extent_ndims(space) == 1 &&
                H5Sget_simple_extent_dims(space, &before, NULL) == 1;

    H5Sclose(space);
    after = before + count;
    if (!done || count == 0) {
        return done;
    }
    if (H5Dset_extent(dataset, &after) < 0) {
        return false;
    }
    space = H5Dget_space(dataset);
    memory = H5Screate_simple(1, &count, NULL);
    done = H5Sselect_hyperslab(space, H5S_SELECT_SET, &before, NULL, &count, NULL) >= 0 &&
           H5Dwrite(dataset, type, memory, space, H5P_DEFAULT, data) >= 0;
    H5Sclose(memory);
    H5Sclose(space);
    return done;
}

static csp_status append(csp_hdf5 *file, const char *name, hid_t type, hsize_t chunk,
                         const void *data, int64_t count)
{
    const hid_t dataset = growing_dataset(file, name, type, chunk);
    bool done = dataset >= 0;

    if (done) {
        const hid_t stored = H5Dget_type(dataset);

        done = H5Tequal(stored, type) > 0 && extend(dataset, type, data, (hsize_t)count);
        H5Tclose(stored);
        done = H5Dclose(dataset) >= 0 && done;
    }
    return csp_hdf5_written(file, done, name, "cannot append to the dataset");
}

csp_status csp_hdf5_append(csp_hdf5 *file, const char *name, csp_dtype dtype, const void *data,
                           int64_t count)
{
    CSP_HDF5_ONE_THREAD;
    csp_status status;
    hid_t type;

    CSP_TRY(csp_hdf5_check_writing(file, name));
    type = csp_hdf5_type(dtype);
    status = append(file, name, type, GROWING_CHUNK, data, count);
    H5Tclose(type);
    return status;
}

csp_status csp_hdf5_append_strings(csp_hdf5 *file, const char *name, const char *const *strings,
                                   int64_t count)
{
    CSP_HDF5_ONE_THREAD;
    csp_status status;
    hid_t type;

    CSP_TRY(csp_hdf5_check_writing(file, name));
    for (int64_t i = 0; i < count; i++) {
        if (!csp_utf8_is_valid(strings[i], (int64_t)strlen(strings[i]), NULL)) {
            return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: %s: string %lld is not valid UTF-8", file->path,
                            name, (long long)i);
        }
    }
    type = csp_hdf5_text_type();
    status = append(file, name, type, STRINGS_CHUNK, strings, count);
    H5Tclose(type);
    return status;
}

csp_status csp_hdf5_write_strings(csp_hdf5 *file, const char *name, const char *const *strings,
                                  int64_t count)
{
    CSP_HDF5_ONE_THREAD;
    if (csp_hdf5_has(file, name)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: %s: name already exists", file->path, name);
    }
    return csp_hdf5_append_strings(file, name, strings, count);
}
