/*
 * hdf5_file.h - private to io/hdf5*.c: the handle, the driver, types, and messages.
 */
#pragma once

#include <hdf5.h>

#include "io/file.h"
#include "io/hdf5.h"
#include "io/hdf5_lock.h"

/*
 * What HDF5 reads and writes through. A failed write is remembered and reported to HDF5 as done:
 * the library cannot close a file it could not flush, and would keep it for ever and complain at
 * the end of the process. Every function here asks write_errno after its calls.
 */
typedef struct csp_hdf5_disk {
    int fd;
    bool writing;
    int write_errno; /* of the first write that failed, 0 if none */
    haddr_t bytes;   /* a reader's HDF5 data: the file without its seal */
    haddr_t end;     /* where they end according to HDF5 */
    char *kept;      /* (bytes) all of them, where a reader has them in memory, else NULL */
} csp_hdf5_disk;

struct csp_hdf5 {
    char *path;
    hid_t id, driver; /* H5I_INVALID_HID: not open */
    csp_file *file;   /* NULL for readers */
    csp_hdf5_disk disk;
};

/*
 * Keeps other threads out of HDF5 until the block ends. The library has global state; only some
 * builds of it, such as Debian's, have a lock of their own (H5is_library_threadsafe), and a
 * checkpoint is written by a thread beside training. First statement of every function that calls
 * HDF5 or names one of its types, which are calls too; those that are only called by such a
 * function need none. Files are read, hashed and synced outside.
 */
#define CSP_HDF5_ONE_THREAD                                                             \
    __attribute__((cleanup(csp_hdf5_leave))) const bool csp_inside_ = csp_hdf5_enter(); \
    (void)csp_inside_

/* Registers the driver; the id goes back with H5FDunregister. Below 0: HDF5 refused. */
hid_t csp_hdf5_driver(void);

/* Appends the seal to a file that HDF5 has closed. Errors: CSP_ERR_IO. */
CSP_CHECKED csp_status csp_hdf5_seal(csp_file *file, const char *path);

/*
 * Checks the seal of disk->fd where there is one; disk->bytes is then what it covers, or the size
 * of the file, and disk->kept what was read, if way says so.
 */
CSP_CHECKED csp_status csp_hdf5_check_seal(csp_hdf5_disk *disk, const char *path,
                                           const csp_hdf5_way *way);

/*
 * Keeps HDF5 from printing in this thread, and forgets the cause of earlier failures. First call of
 * every public function, and after calls that may fail without harm.
 */
void csp_hdf5_quiet(void);

/*
 * Raises status, or CSP_ERR_IO if the disk refused a write before, as "path: name: what: cause"
 * with the innermost reason HDF5 gives.
 */
csp_status csp_hdf5_fail(const csp_hdf5 *file, csp_status status, const char *name,
                         const char *what);

/* CSP_OK if done and the disk has refused nothing; otherwise as csp_hdf5_fail. */
csp_status csp_hdf5_written(const csp_hdf5 *file, bool done, const char *name, const char *what);

/* CSP_ERR_ARGUMENT unless the file is open for writing; CSP_ERR_IO after a failed write. */
csp_status csp_hdf5_check_writing(const csp_hdf5 *file, const char *name);

/* A type of the file, which is also the type in memory. The caller closes it. */
hid_t csp_hdf5_type(csp_dtype dtype);

/* The dtype of a type of the file, CSP_DTYPE_COUNT if none. */
csp_dtype csp_hdf5_dtype(hid_t type);

/* UTF-8 strings of any length, which h5py reads as str. The caller closes it. */
hid_t csp_hdf5_text_type(void);

/* Creation lists without times; for links: makes groups on the way, UTF-8. The caller closes. */
hid_t csp_hdf5_object_list(hid_t list_class);
hid_t csp_hdf5_link_list(void);
