/*
 * hdf5.h - the only user of HDF5: named tensors and attributes in groups, checksummed, without
 * times.
 *
 * Files are written under a temporary name and renamed when complete (file.h). Datasets are chunked
 * with fletcher32 (strings without), object times are off, so that the same calls with the same
 * content give equal bytes. bf16 is stored as a 16-bit float type that h5py reads as float32.
 * Attributes are int64, float64 or UTF-8 strings of variable length, which h5py gives as str;
 * strings of fixed length, as files of earlier versions have them, are read too. No file locks are
 * taken: nobody else knows the temporary name, and what is complete never changes.
 *
 * Threads may use handles of their own at the same time, and one after the other the same handle:
 * calls into the library exclude each other (hdf5_lock.c).
 *
 * After the HDF5 data stand 32 bytes that other readers ignore, the seal:
 *     "csp-xxh3" | u64 little-endian: bytes before the seal | XXH3-128 of them, canonical order
 * It is checked before HDF5 sees a byte, so that a flipped bit is a clear message wherever it is;
 * that reads the file once more, unless it is kept in memory (csp_hdf5_open_by). A file without a
 * seal is read if it ends where HDF5 says: programs that change a file (h5py) cut the seal off.
 *
 * Handles may be used by one thread at a time.
 */
#pragma once

#include "core/tensor.h"

typedef struct csp_hdf5 csp_hdf5;

/* Creates PATH.tmp.<pid>. Nothing appears under path before csp_hdf5_commit. Errors: CSP_ERR_IO. */
CSP_CHECKED csp_status csp_hdf5_create(const char *path, csp_hdf5 **out);
/*
 * Marks complete (attribute complete = 1 of "/"), closes, seals, fsyncs, renames. Frees the handle,
 * also on failure; the earlier file of that name is untouched then (see csp_file_commit). A write
 * that failed before (disk full) is reported here again.
 */
CSP_CHECKED csp_status csp_hdf5_commit(csp_hdf5 *file);

/*
 * Opens for reading. Errors: CSP_ERR_IO; a truncated, damaged or incomplete file is CSP_ERR_FORMAT
 * with the path.
 */
CSP_CHECKED csp_status csp_hdf5_open(const char *path, csp_hdf5 **out);

/* How a file is opened; { 0 } is csp_hdf5_open. */
typedef struct csp_hdf5_way {
    bool is_checked; /* just this file was checked before, by whichever process: not again        */
    int64_t keep_most; /* bytes: a file of at most so many stays in memory as it is checked, so that
                          none of them is read twice                                              */
    csp_status (*goes_on)(void *context); /* called after each MiB that is checked, where that may
                                             take long; a failure of it is that of the call. NULL:
                                             it is not                                            */
    void *context;
} csp_hdf5_way;

/* Opens for reading. Errors: those of csp_hdf5_open, CSP_ERR_MEMORY, those of way->goes_on. */
CSP_CHECKED csp_status csp_hdf5_open_by(const char *path, const csp_hdf5_way *way, csp_hdf5 **out);

/* Bytes of memory that a file which is kept there takes; 0: it is not. */
int64_t csp_hdf5_kept(const csp_hdf5 *file);

/* Closes a reader, or abandons a file being written (its temporary is removed). NULL is fine. */
void csp_hdf5_close(csp_hdf5 *file);

/*
 * Writes a dataset. Groups on the way to name ("/optim/m/model.norm.weight") are made; each name
 * once. Sizes of 0 are fine.
 *
 * Errors, of all functions that write: CSP_ERR_IO (disk full), CSP_ERR_ARGUMENT (a name twice, a
 * handle open for reading). After CSP_ERR_IO only commit, which fails too, or close remain.
 */
CSP_CHECKED csp_status csp_hdf5_write(csp_hdf5 *file, const char *name, const csp_tensor *tensor);

/*
 * Attributes of the object at path: a dataset, "/" or a group, which is made if missing. One that
 * is there is replaced. value is valid UTF-8.
 */
CSP_CHECKED csp_status csp_hdf5_set_i64(csp_hdf5 *file, const char *path, const char *key,
                                        int64_t value);
CSP_CHECKED csp_status csp_hdf5_set_i64s(csp_hdf5 *file, const char *path, const char *key,
                                         const int64_t *values, int64_t count);
CSP_CHECKED csp_status csp_hdf5_set_f64(csp_hdf5 *file, const char *path, const char *key,
                                        double value);
CSP_CHECKED csp_status csp_hdf5_set_text(csp_hdf5 *file, const char *path, const char *key,
                                         const char *value);

bool csp_hdf5_has(const csp_hdf5 *file, const char *name);
/*
 * Shape and dtype (data is NULL). Errors, of all functions that read: CSP_ERR_FORMAT with the path
 * and the name (absent, of a type or shape csplade does not read, a wrong checksum); outputs are
 * untouched, except the memory of csp_hdf5_read and csp_hdf5_read_range.
 */
CSP_CHECKED csp_status csp_hdf5_describe(const csp_hdf5 *file, const char *name, csp_tensor *out);
/* Reads the whole dataset into memory of just its dtype and shape, else CSP_ERR_SHAPE. */
CSP_CHECKED csp_status csp_hdf5_read(const csp_hdf5 *file, const char *name, csp_tensor *into);
/*
 * Reads elements first .. first+count-1 of a one-dimensional dataset, in its own dtype. A range
 * beyond its end is CSP_ERR_ARGUMENT.
 */
CSP_CHECKED csp_status csp_hdf5_read_range(const csp_hdf5 *file, const char *name, int64_t first,
                                           int64_t count, void *into);
/* Attributes: integers of any size; f64 takes them too; get_i64s wants just count of them. */
CSP_CHECKED csp_status csp_hdf5_get_i64(const csp_hdf5 *file, const char *path, const char *key,
                                        int64_t *out);
CSP_CHECKED csp_status csp_hdf5_get_i64s(const csp_hdf5 *file, const char *path, const char *key,
                                         int64_t *values, int64_t count);
CSP_CHECKED csp_status csp_hdf5_get_f64(const csp_hdf5 *file, const char *path, const char *key,
                                        double *out);
/* Owner: the caller frees *out. */
CSP_CHECKED csp_status csp_hdf5_get_text(const csp_hdf5 *file, const char *path, const char *key,
                                         char **out);
bool csp_hdf5_has_attribute(const csp_hdf5 *file, const char *path, const char *key);

/* UTF-8 strings as one dataset h5py reads as str; count may be 0. */
CSP_CHECKED csp_status csp_hdf5_write_strings(csp_hdf5 *file, const char *name,
                                              const char *const *strings, int64_t count);
/* Owner: the caller frees (*out)[i] for all i and *out. */
CSP_CHECKED csp_status csp_hdf5_read_strings(const csp_hdf5 *file, const char *name, char ***out,
                                             int64_t *count);

/*
 * Calls visit with the full name ("/optim/m/x") of every dataset below group, in strcmp order;
 * stops at the first failure. A group that is not there has none.
 */
CSP_CHECKED csp_status csp_hdf5_visit(const csp_hdf5 *file, const char *group,
                                      csp_status (*visit)(const char *name, void *context),
                                      void *context);

/*
 * Growing one-dimensional datasets, for writers that do not know the length before: made by the
 * first append, which may be of 0 elements. Pieces of a multiple of 16,384 elements are fastest.
 */
CSP_CHECKED csp_status csp_hdf5_append(csp_hdf5 *file, const char *name, csp_dtype dtype,
                                       const void *data, int64_t count);
CSP_CHECKED csp_status csp_hdf5_append_strings(csp_hdf5 *file, const char *name,
                                               const char *const *strings, int64_t count);
