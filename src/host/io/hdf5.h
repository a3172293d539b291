/*
 * hdf5.h - the only user of HDF5: named tensors and attributes in groups, checksummed, without
 * times.
 *
 * Files are written under a temporary name and renamed when complete (file.h). Datasets are chunked
 * with fletcher32, object times are off, so that equal content gives equal bytes. bf16 is stored as
 * a 16-bit float type that h5py reads as float32. Attributes are int64, float64 or fixed-length
 * UTF-8 strings.
 */
#pragma once

#include "core/tensor.h"

typedef struct csp_hdf5 csp_hdf5;

/* Creates PATH.tmp.<pid>. Nothing appears under path before csp_hdf5_commit. Errors: CSP_ERR_IO. */
CSP_CHECKED csp_status csp_hdf5_create(const char *path, csp_hdf5 **out);
/* Marks complete, flushes, closes, fsyncs, renames. Frees the handle, also on failure. */
CSP_CHECKED csp_status csp_hdf5_commit(csp_hdf5 *file);

/* Opens for reading; a truncated, damaged or incomplete file is CSP_ERR_FORMAT with the path. */
CSP_CHECKED csp_status csp_hdf5_open(const char *path, csp_hdf5 **out);

/* Closes a reader, or abandons a file being written (its temporary is removed). NULL is fine. */
void csp_hdf5_close(csp_hdf5 *file);

/* Groups on the way to name ("/optim/m/model.norm.weight") are made. Writers: each name once. */
CSP_CHECKED csp_status csp_hdf5_write(csp_hdf5 *file, const char *name, const csp_tensor *tensor);

/* Attributes of the object at path ("/" or a group, made if missing). */
CSP_CHECKED csp_status csp_hdf5_set_i64(csp_hdf5 *file, const char *path, const char *key,
                                        int64_t value);
CSP_CHECKED csp_status csp_hdf5_set_i64s(csp_hdf5 *file, const char *path, const char *key,
                                         const int64_t *values, int64_t count);
CSP_CHECKED csp_status csp_hdf5_set_f64(csp_hdf5 *file, const char *path, const char *key,
                                        double value);
CSP_CHECKED csp_status csp_hdf5_set_text(csp_hdf5 *file, const char *path, const char *key,
                                         const char *value);

bool csp_hdf5_has(const csp_hdf5 *file, const char *name);
/* Shape and dtype (data is NULL). */
CSP_CHECKED csp_status csp_hdf5_describe(const csp_hdf5 *file, const char *name, csp_tensor *out);
/* Reads the whole dataset into memory of just its dtype and shape; checksum errors name it. */
CSP_CHECKED csp_status csp_hdf5_read(const csp_hdf5 *file, const char *name, csp_tensor *into);
/* Reads elements first .. first+count-1 of a one-dimensional dataset. */
CSP_CHECKED csp_status csp_hdf5_read_range(const csp_hdf5 *file, const char *name, int64_t first,
                                           int64_t count, void *into);
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

/* Variable number of UTF-8 strings as one dataset h5py reads as str. */
CSP_CHECKED csp_status csp_hdf5_write_strings(csp_hdf5 *file, const char *name,
                                              const char *const *strings, int64_t count);
/* Owner: the caller frees (*out)[i] for all i and *out. */
CSP_CHECKED csp_status csp_hdf5_read_strings(const csp_hdf5 *file, const char *name, char ***out,
                                             int64_t *count);

/* Calls visit for every dataset below group, in name order; stops at the first failure. */
CSP_CHECKED csp_status csp_hdf5_visit(const csp_hdf5 *file, const char *group,
                                      csp_status (*visit)(const char *name, void *context),
                                      void *context);

/* Growing one-dimensional datasets, for writers that do not know the length before. */
CSP_CHECKED csp_status csp_hdf5_append(csp_hdf5 *file, const char *name, csp_dtype dtype,
                                       const void *data, int64_t count);
