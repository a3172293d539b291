/*
 * vectors.h - sparse vectors with ids, in memory and in files.
 *
 * HDF5 (.h5): group /X with attributes encoding-type="csr_matrix", encoding-version="0.1.0",
 *     shape=[n,V] and datasets data (f4), indices (i4), indptr (i8), as AnnData has it; /ids
 *     (strings); / attributes: format="csplade-vectors", format_version, side, meta (JSON text).
 * JSONL (.jsonl, .jsonl.gz to read): {"id": "d1", "vector": {"17": 1.25}} a line, terms ascending.
 *     A first line {"csplade_vectors": {...meta...}} is written by us and optional when reading.
 */
#pragma once

#include "core/status.h"

typedef struct csp_vectors {
    int64_t rows;     /* number of texts                                  */
    int64_t vocab;    /* size of the term axis                            */
    int64_t *row_ptr; /* [rows+1]                                         */
    int32_t *term;    /* [row_ptr[rows]] ascending in a row               */
    float *weight;    /* [row_ptr[rows]] > 0, finite                      */
    char **ids;       /* [rows] unique, not empty                         */
    char *meta;       /* JSON text of the contract and the model, or NULL */
} csp_vectors;

/* Reads a file by its extension and checks it: order, ranges, finite, unique ids. */
CSP_CHECKED csp_status csp_vectors_read(const char *path, csp_vectors **out);
void csp_vectors_free(csp_vectors *vectors);

/* A file written row by row in constant memory, under a temporary name until committed. */
typedef struct csp_vectors_writer csp_vectors_writer;

/* The extension of path decides the format (.h5, .hdf5, .jsonl). side: "document" or "query". */
CSP_CHECKED csp_status csp_vectors_create(const char *path, int64_t vocab, const char *side,
                                          const char *meta, csp_vectors_writer **out);
/* nnz may be 0: an empty row. Terms ascending. */
CSP_CHECKED csp_status csp_vectors_append(csp_vectors_writer *writer, const char *id, int64_t nnz,
                                          const int32_t *term, const float *weight);
CSP_CHECKED csp_status csp_vectors_commit(csp_vectors_writer *writer);
void csp_vectors_abandon(csp_vectors_writer *writer);
