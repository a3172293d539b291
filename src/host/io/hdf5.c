/* hdf5.c - opening, creating, committing and closing HDF5 files; their types and messages. */
#include "io/hdf5_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/fault.h"
#include "core/memory.h"

/* Part of the error text: the innermost reason of the first HDF5 call that failed. */
static _Thread_local char cause[256];

static herr_t take_innermost(unsigned n, const H5E_error2_t *error, void *unused)
{
    (void)n;
    (void)unused;
    snprintf(cause, sizeof(cause), "%s", error->desc != NULL ? error->desc : "");
    return 1; /* enough */
}

/* HDF5 calls this instead of printing, before its next call forgets the reason. */
static herr_t keep_cause(hid_t stack, void *unused)
{
    (void)unused;
    if (cause[0] == '\0') {
        H5Ewalk2(stack, H5E_WALK_UPWARD, take_innermost, NULL);
    }
    return 0;
}

void csp_hdf5_quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, keep_cause, NULL);
    cause[0] = '\0';
}

csp_status csp_hdf5_fail(const csp_hdf5 *file, csp_status status, const char *name,
                         const char *what)
{
    if (file->disk.write_errno != 0) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot write: %s", file->path,
                        strerror(file->disk.write_errno));
    }
    return CSP_FAIL(status, "%s: %s: %s%s%s", file->path, name, what, cause[0] != '\0' ? ": " : "",
                    cause);
}

csp_status csp_hdf5_written(const csp_hdf5 *file, bool done, const char *name, const char *what)
{
    return done && file->disk.write_errno == 0 ? CSP_OK
                                               : csp_hdf5_fail(file, CSP_ERR_ARGUMENT, name, what);
}

csp_status csp_hdf5_check_writing(const csp_hdf5 *file, const char *name)
{
    csp_hdf5_quiet();
    if (file->file == NULL) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: %s: the file is open for reading only", file->path,
                        name);
    }
    if (csp_fault_here()) {
        return CSP_FAIL(CSP_ERR_IO, "%s: %s: cannot write (injected)", file->path, name);
    }
    return csp_hdf5_written(file, true, name, "");
}

/* The fields of IEEE half precision, or of its relative with float32's exponent. */
static hid_t float16_type(bool bf16)
{
    const size_t mantissa = bf16 ? 7 : 10, exponent = bf16 ? 8 : 5;
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);

    if (type >= 0 && (H5Tset_fields(type, 15, mantissa, exponent, 0, mantissa) < 0 ||
                      H5Tset_size(type, 2) < 0 || H5Tset_ebias(type, bf16 ? 127 : 15) < 0)) {
        H5Tclose(type);
        return H5I_INVALID_HID;
    }
    return type;
}

hid_t csp_hdf5_type(csp_dtype dtype)
{
    switch (dtype) {
    case CSP_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case CSP_BF16:
        return float16_type(true);
    case CSP_F16:
        return float16_type(false);
    case CSP_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case CSP_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case CSP_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case CSP_U8:
        return H5Tcopy(H5T_STD_U8LE);
    default:
        return H5I_INVALID_HID;
    }
}

csp_dtype csp_hdf5_dtype(hid_t type)
{
    int found = CSP_DTYPE_COUNT;

    for (int i = 0; i < CSP_DTYPE_COUNT && found == CSP_DTYPE_COUNT; i++) {
        const hid_t candidate = csp_hdf5_type((csp_dtype)i);

        if (candidate >= 0) {
            found = H5Tequal(candidate, type) > 0 ? i : found;
            H5Tclose(candidate);
        }
    }
    return (csp_dtype)found;
}

hid_t csp_hdf5_text_type(void)
{
    const hid_t type = H5Tcopy(H5T_C_S1);

    if (type >= 0 && (H5Tset_size(type, H5T_VARIABLE) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0 ||
                      H5Tset_strpad(type, H5T_STR_NULLTERM) < 0)) {
        H5Tclose(type);
        return H5I_INVALID_HID;
    }
    return type;
}

hid_t csp_hdf5_object_list(hid_t list_class)
{
    const hid_t list = H5Pcreate(list_class);

    if (list >= 0 && H5Pset_obj_track_times(list, 0) < 0) {
        H5Pclose(list);
        return H5I_INVALID_HID;
    }
    return list;
}

hid_t csp_hdf5_link_list(void)
{
    const hid_t list = H5Pcreate(H5P_LINK_CREATE);

    if (list >= 0 && (H5Pset_create_intermediate_group(list, 1) < 0 ||
                      H5Pset_char_encoding(list, H5T_CSET_UTF8) < 0)) {
        H5Pclose(list);
        return H5I_INVALID_HID;
    }
    return list;
}

/* Hands the descriptor to HDF5. A file is created if it is for writing. */
static bool open_id(csp_hdf5 *file)
{
    CSP_HDF5_ONE_THREAD;
    csp_hdf5_disk *disk = &file->disk;
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    const hid_t creation = csp_hdf5_object_list(H5P_FILE_CREATE);
    /* Only labels: the driver uses the descriptor. */
    const char *name = file->path;

    file->driver = csp_hdf5_driver();
    if (access >= 0 && creation >= 0 && file->driver >= 0 &&
        H5Pset_driver(access, file->driver, &disk) >= 0 &&
        H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_LATEST) >= 0) {
        file->id = disk->writing ? H5Fcreate(name, H5F_ACC_TRUNC, creation, access)
                                 : H5Fopen(name, H5F_ACC_RDONLY, access);
    }
    H5Pclose(access);
    H5Pclose(creation);
    return file->id >= 0;
}

static csp_status make_handle(const char *path, csp_hdf5 **out)
{
    CSP_HDF5_ONE_THREAD;
    csp_hdf5 *file;
    csp_status status;

    csp_hdf5_quiet();
    CSP_TRY(csp_alloc_zero(path, 1, sizeof(*file), &file));
    file->id = file->driver = H5I_INVALID_HID;
    file->disk.fd = -1;
    status = csp_strdup(path, path, &file->path);
    if (status != CSP_OK) {
        free(file);
        return status;
    }
    *out = file;
    return CSP_OK;
}

csp_status csp_hdf5_create(const char *path, csp_hdf5 **out)
{
    csp_hdf5 *file;
    csp_status status;

    CSP_TRY(make_handle(path, &file));
    CSP_TRY_GOTO(csp_file_create(path, &file->file));
    file->disk.fd = fileno(csp_file_stream(file->file));
    file->disk.writing = true;
    if (!open_id(file) || file->disk.write_errno != 0) {
        status = csp_hdf5_fail(file, CSP_ERR_IO, "/", "HDF5 cannot create the file");
        goto fail;
    }
    *out = file;
    return CSP_OK;

fail:
    csp_hdf5_close(file);
    return status;
}

csp_status csp_hdf5_open(const char *path, csp_hdf5 **out)
{
    return csp_hdf5_open_by(path, &(csp_hdf5_way) { 0 }, out);
}

int64_t csp_hdf5_kept(const csp_hdf5 *file)
{
    return file->disk.kept != NULL ? (int64_t)file->disk.bytes : 0;
}

csp_status csp_hdf5_open_by(const char *path, const csp_hdf5_way *way, csp_hdf5 **out)
{
    csp_hdf5 *file;
    csp_status status;
    int64_t complete = 0;

    CSP_TRY(make_handle(path, &file));
    errno = EIO;
    file->disk.fd = csp_fault_here() ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file->disk.fd < 0) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
        goto fail;
    }
    CSP_TRY_GOTO(csp_hdf5_check_seal(&file->disk, path, way));
    if (!open_id(file)) {
        status = csp_hdf5_fail(file, CSP_ERR_FORMAT, "/", "damaged, cut short or not HDF5");
        goto fail;
    }
    if (file->disk.end != file->disk.bytes) {
        status = CSP_FAIL(CSP_ERR_FORMAT,
                          "%s: %llu bytes, of which HDF5 knows %llu, and no seal: "
                          "damaged or cut short",
                          path, (unsigned long long)file->disk.bytes,
                          (unsigned long long)file->disk.end);
        goto fail;
    }
    if (csp_hdf5_has_attribute(file, "/", "complete")) {
        CSP_TRY_GOTO(csp_hdf5_get_i64(file, "/", "complete", &complete));
    }
    if (complete != 1) {
        status =
            CSP_FAIL(CSP_ERR_FORMAT, "%s: was never completed (no attribute complete = 1)", path);
        goto fail;
    }
    *out = file;
    return CSP_OK;

fail:
    csp_hdf5_close(file);
    return status;
}

/* Lets HDF5 write what it still holds, and forget the file. */
static bool close_id(csp_hdf5 *file)
{
    CSP_HDF5_ONE_THREAD;
    bool fine = true;

    csp_hdf5_quiet();
    if (file->id >= 0) {
        fine = H5Fclose(file->id) >= 0;
        file->id = H5I_INVALID_HID;
    }
    if (file->driver >= 0) {
        H5FDunregister(file->driver);
        file->driver = H5I_INVALID_HID;
    }
    return fine;
}

csp_status csp_hdf5_commit(csp_hdf5 *file)
{
    csp_file *plain;
    csp_status status;
    bool closed;

    CSP_TRY_GOTO(csp_hdf5_set_i64(file, "/", "complete", 1));
    closed = close_id(file);
    CSP_TRY_GOTO(csp_hdf5_written(file, closed, "/", "cannot be closed"));
    CSP_TRY_GOTO(csp_hdf5_seal(file->file, file->path));
    plain = file->file;
    file->file = NULL;
    csp_hdf5_close(file);
    return csp_file_commit(plain);

fail:
    csp_hdf5_close(file);
    return status;
}

void csp_hdf5_close(csp_hdf5 *file)
{
    if (file == NULL) {
        return;
    }
    close_id(file);
    if (file->disk.fd >= 0 && !file->disk.writing) {
        close(file->disk.fd);
    }
    csp_file_abandon(file->file);
    free(file->disk.kept);
    free(file->path);
    free(file);
}

bool csp_hdf5_has(const csp_hdf5 *file, const char *name)
{
    CSP_HDF5_ONE_THREAD;
    hid_t object;

    csp_hdf5_quiet();
    object = H5Oopen(file->id, name, H5P_DEFAULT);
    if (object >= 0) {
        H5Oclose(object);
    }
    csp_hdf5_quiet(); /* absence is an answer, not a cause */
    return object >= 0;
}
