/*
 * vectors_file.h - private to io/vectors*.c: formats, and the set of ids that finds one met twice.
 */
#pragma once

#include "io/vectors.h"

enum { CSP_VECTORS_VERSION = 1 };

typedef enum csp_vectors_format {
    CSP_VECTORS_HDF5,
    CSP_VECTORS_JSONL,
    CSP_VECTORS_JSONL_GZ,
    CSP_VECTORS_UNKNOWN
} csp_vectors_format;

csp_vectors_format csp_vectors_format_of(const char *path);

/* Whether a file may say so: none, or round or ceil with a finite scale above 0. */
bool csp_vectors_quant_is_known(const csp_quant *quant);

/* What a file says of its quantisation. Errors: CSP_ERR_FORMAT where csplade writes no such. */
CSP_CHECKED csp_status csp_vectors_take_quant(const char *path, const char *scheme, double scale,
                                              csp_quant *out);

/* Whether a weight is a whole number in 1 .. CSP_IMPACT_MOST. */
bool csp_vectors_is_impact(float weight);

/* Row numbers by id, open addressing; zeroed to begin with, the caller frees table. */
typedef struct csp_id_set {
    int64_t *table; /* row + 1, 0 = free */
    int64_t size, used;
} csp_id_set;

/* Adds ids[row]. *twice is the row that has the same id already, or -1. */
CSP_CHECKED csp_status csp_id_set_add(csp_id_set *set, char *const *ids, int64_t row,
                                      int64_t *twice);

/* Fill *out, which is zeroed; the caller frees it with csp_vectors_free, also on failure. */
CSP_CHECKED csp_status csp_vectors_read_hdf5(const char *path, csp_vectors *out);
CSP_CHECKED csp_status csp_vectors_read_jsonl(const char *path, csp_vectors *out);

/*
 * Writes value > 0, finite, so that reading it as a float gives it back: 6 to 9 digits. Returns the
 * end of the text, at most 24 bytes on, without a NUL.
 */
char *csp_vectors_put_float(char *to, float value);
