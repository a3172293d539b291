/* hdf5_attribute.c - attributes: int64, float64 and UTF-8 text. */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/hdf5_file.h"
#include "io/lines.h"

/* The object at path, or a new group there. */
static hid_t object_or_group(const csp_hdf5 *file, const char *path)
{
    hid_t object = H5Oopen(file->id, path, H5P_DEFAULT);

    if (object < 0) {
        csp_hdf5_quiet();
        const hid_t links = csp_hdf5_link_list();
        const hid_t creation = csp_hdf5_object_list(H5P_GROUP_CREATE);

        object = H5Gcreate2(file->id, path, links, creation, H5P_DEFAULT);
        H5Pclose(links);
        H5Pclose(creation);
    }
    return object;
}

/* Writes one attribute; count -1 is a scalar. */
static csp_status set_attribute(csp_hdf5 *file, const char *path, const char *key, hid_t type,
                                int64_t count, const void *values)
{
    const hsize_t size = (hsize_t)count;
    hid_t object, space, attribute = H5I_INVALID_HID;
    bool done;

    CSP_TRY(csp_hdf5_check_writing(file, key));
    object = object_or_group(file, path);
    space = count < 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &size, NULL);
    if (object >= 0 && H5Aexists(object, key) > 0) {
        H5Adelete(object, key);
    }
    if (object >= 0) {
        attribute = H5Acreate2(object, key, type, space, H5P_DEFAULT, H5P_DEFAULT);
    }
    done = attribute >= 0 && H5Awrite(attribute, type, values) >= 0;
    done = attribute >= 0 && H5Aclose(attribute) >= 0 && done;
    H5Sclose(space);
    done = object >= 0 && H5Oclose(object) >= 0 && done;
    return csp_hdf5_written(file, done, path, "cannot write an attribute");
}

csp_status csp_hdf5_set_i64(csp_hdf5 *file, const char *path, const char *key, int64_t value)
{
    CSP_HDF5_ONE_THREAD;
    return set_attribute(file, path, key, H5T_STD_I64LE, -1, &value);
}

csp_status csp_hdf5_set_i64s(csp_hdf5 *file, const char *path, const char *key,
                             const int64_t *values, int64_t count)
{
    CSP_HDF5_ONE_THREAD;
    return set_attribute(file, path, key, H5T_STD_I64LE, count, values);
}

csp_status csp_hdf5_set_f64(csp_hdf5 *file, const char *path, const char *key, double value)
{
    CSP_HDF5_ONE_THREAD;
    return set_attribute(file, path, key, H5T_IEEE_F64LE, -1, &value);
}

csp_status csp_hdf5_set_text(csp_hdf5 *file, const char *path, const char *key, const char *value)
{
    CSP_HDF5_ONE_THREAD;
    csp_status status;
    hid_t type;

    if (!csp_utf8_is_valid(value, (int64_t)strlen(value), NULL)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: attribute %s of %s is not valid UTF-8", file->path,
                        key, path);
    }
    csp_hdf5_quiet();
    type = csp_hdf5_text_type();
    status = set_attribute(file, path, key, type, -1, &value);
    H5Tclose(type);
    return status;
}

bool csp_hdf5_has_attribute(const csp_hdf5 *file, const char *path, const char *key)
{
    CSP_HDF5_ONE_THREAD;
    csp_hdf5_quiet();
    return H5Aexists_by_name(file->id, path, key, H5P_DEFAULT) > 0;
}

static csp_status no_attribute(const csp_hdf5 *file, const char *path, const char *key,
                               const char *problem)
{
    return CSP_FAIL(CSP_ERR_FORMAT, "%s: attribute %s of %s %s", file->path, key, path, problem);
}

/* Opens an attribute of count elements whose type is of a class that accepts allows. */
static csp_status open_attribute(const csp_hdf5 *file, const char *path, const char *key,
                                 int64_t count, bool (*accepts)(H5T_class_t), hid_t *out)
{
    hid_t attribute, space, type;
    bool right_type, right_count;

    csp_hdf5_quiet();
    attribute = H5Aopen_by_name(file->id, path, key, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0) {
        return no_attribute(file, path, key, "is not there");
    }
    type = H5Aget_type(attribute);
    space = H5Aget_space(attribute);
    right_type = accepts(H5Tget_class(type));
    right_count = H5Sget_simple_extent_npoints(space) == count;
    H5Tclose(type);
    H5Sclose(space);
    if (!right_type || !right_count) {
        H5Aclose(attribute);
        return no_attribute(file, path, key,
                            right_type ? "has another number of values" : "is of another type");
    }
    *out = attribute;
    return CSP_OK;
}

static bool is_integer(H5T_class_t type)
{
    return type == H5T_INTEGER;
}

static bool is_number(H5T_class_t type)
{
    return type == H5T_INTEGER || type == H5T_FLOAT;
}

static bool is_text(H5T_class_t type)
{
    return type == H5T_STRING;
}

static csp_status read_numbers(const csp_hdf5 *file, const char *path, const char *key,
                               int64_t count, bool (*accepts)(H5T_class_t), hid_t type,
                               void *values)
{
    hid_t attribute;
    bool done;

    CSP_TRY(open_attribute(file, path, key, count, accepts, &attribute));
    done = H5Aread(attribute, type, values) >= 0;
    H5Aclose(attribute);
    return done ? CSP_OK : csp_hdf5_fail(file, CSP_ERR_FORMAT, path, "cannot read an attribute");
}

csp_status csp_hdf5_get_i64(const csp_hdf5 *file, const char *path, const char *key, int64_t *out)
{
    CSP_HDF5_ONE_THREAD;
    int64_t value;

    CSP_TRY(read_numbers(file, path, key, 1, is_integer, H5T_NATIVE_INT64, &value));
    *out = value;
    return CSP_OK;
}

csp_status csp_hdf5_get_i64s(const csp_hdf5 *file, const char *path, const char *key,
                             int64_t *values, int64_t count)
{
    CSP_HDF5_ONE_THREAD;
    return read_numbers(file, path, key, count, is_integer, H5T_NATIVE_INT64, values);
}

csp_status csp_hdf5_get_f64(const csp_hdf5 *file, const char *path, const char *key, double *out)
{
    CSP_HDF5_ONE_THREAD;
    double value;

    CSP_TRY(read_numbers(file, path, key, 1, is_number, H5T_NATIVE_DOUBLE, &value));
    *out = value;
    return CSP_OK;
}

/* A NUL-terminated copy of the text in an open attribute; NULL without memory or on failure. */
static char *read_text(hid_t attribute, hid_t type)
{
    const bool variable = H5Tis_variable_str(type) > 0;
    const hid_t memory = H5Tcopy(type);
    char *text = NULL;

    if (memory >= 0 && variable) {
        char *theirs = NULL;

        if (H5Aread(attribute, memory, &theirs) >= 0) {
            text = strdup(theirs != NULL ? theirs : "");
            H5free_memory(theirs);
        }
    } else if (memory >= 0) {
        const size_t bytes = H5Tget_size(type);

        text = bytes < ((size_t)1 << 31) ? calloc(bytes + 1, 1) : NULL;
        if (text != NULL && H5Aread(attribute, memory, text) < 0) {
            free(text);
            text = NULL;
        }
    }
    H5Tclose(memory);
    return text;
}

csp_status csp_hdf5_get_text(const csp_hdf5 *file, const char *path, const char *key, char **out)
{
    CSP_HDF5_ONE_THREAD;
    hid_t attribute, type;
    char *text;

    CSP_TRY(open_attribute(file, path, key, 1, is_text, &attribute));
    type = H5Aget_type(attribute);
    text = read_text(attribute, type);
    H5Tclose(type);
    H5Aclose(attribute);
    if (text == NULL) {
        return csp_hdf5_fail(file, CSP_ERR_FORMAT, path, "cannot read an attribute");
    }
    if (!csp_utf8_is_valid(text, (int64_t)strlen(text), NULL)) {
        free(text);
        return no_attribute(file, path, key, "is not valid UTF-8");
    }
    *out = text;
    return CSP_OK;
}
