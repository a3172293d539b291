/*
 * vectors.h - sparse vectors with ids, in memory and in files.
 *
 * HDF5 (.h5, .hdf5): group /X with attributes encoding-type="csr_matrix", encoding-version="0.1.0",
 *     shape=[n,V] and datasets data (f4), indices (i4), indptr (i8), as AnnData has it; /ids
 *     (strings); / attributes: format="csplade-vectors", format_version=1, side, meta (JSON text).
 * JSONL (.jsonl, .jsonl.gz to read): a line {"id": "d1", "vector": {"17": 1.25}} for each text. Our
 *     first line, optional when reading, is
 *     {"csplade_vectors": {"format_version": 1, "vocab": V, "side": "document", "meta": {..}}}
 */
#pragma once

#include "core/status.h"

typedef struct csp_vectors {
    int64_t rows;     /* number of texts                                           */
    int64_t vocab;    /* size of the term axis                                     */
    int64_t *row_ptr; /* [rows+1]                                                  */
    int32_t *term;    /* [row_ptr[rows]] ascending in a row                        */
    float *weight;    /* [row_ptr[rows]] > 0, finite                               */
    char **ids;       /* [rows] unique, not empty                                  */
    char *meta;       /* JSON text of the contract and the model, or NULL          */
    char *side;       /* "document" or "query"; NULL where the file does not say   */
} csp_vectors;

/*
 * Reads a file by its extension and checks it: order, ranges, finite, unique ids. In JSONL, terms
 * may come in any order (JSON objects have none), an id may be a whole number, keys other than id
 * and vector are skipped, and without our first line vocab is the largest term + 1.
 *
 * Errors: CSP_ERR_IO, CSP_ERR_FORMAT, CSP_ERR_DATA (an id twice), CSP_ERR_MEMORY; texts of JSONL
 * files are "path:line: ...". CSP_ERR_ARGUMENT for another extension.
 */
CSP_CHECKED csp_status csp_vectors_read(const char *path, csp_vectors **out);
void csp_vectors_free(csp_vectors *vectors);

/* A file written row by row in constant memory, under a temporary name until committed. */
typedef struct csp_vectors_writer csp_vectors_writer;

/*
 * The extension of path decides the format (.h5, .hdf5, .jsonl).
 *
 *   vocab  in   1..INT32_MAX
 *   side   in   "document" or "query"
 *   meta   in   text of a JSON object, or NULL
 *
 * Errors: CSP_ERR_IO, CSP_ERR_ARGUMENT, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_vectors_create(const char *path, int64_t vocab, const char *side,
                                          const char *meta, csp_vectors_writer **out);
/*
 * nnz may be 0: an empty row. Terms ascending in 0..vocab-1. That ids are unique is checked by the
 * reader: it would take memory here.
 *
 * Errors: CSP_ERR_IO; CSP_ERR_DATA for an id that is empty or not UTF-8; CSP_ERR_NUMERIC for a
 * weight that is not finite; CSP_ERR_ARGUMENT for other breaches. Only abandon remains then.
 */
CSP_CHECKED csp_status csp_vectors_append(csp_vectors_writer *writer, const char *id, int64_t nnz,
                                          const int32_t *term, const float *weight);
/* Frees the writer, also on failure; a file that stood under the name is untouched then. */
CSP_CHECKED csp_status csp_vectors_commit(csp_vectors_writer *writer);
void csp_vectors_abandon(csp_vectors_writer *writer);
