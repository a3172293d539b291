/*
 * vectors.h - sparse vectors with ids, in memory and in files.
 *
 * HDF5 (.h5, .hdf5): group /X with attributes encoding-type="csr_matrix", encoding-version="0.1.0",
 *     shape=[n,V] and datasets data (f4), indices (i4), indptr (i8), as AnnData has it; /ids
 *     (strings); / attributes: format="csplade-vectors", format_version=1, side, meta (JSON text).
 *     Of quantised vectors data are impacts (i4), and / has the attributes quant_scheme ("round" or
 *     "ceil"), quant_scale (f8), quant_dropped and quant_clipped (weights that became 0, and that
 *     were above CSP_IMPACT_MOST).
 * JSONL (.jsonl, .jsonl.gz to read): a line {"id": "d1", "vector": {"17": 1.25}} for each text. Our
 *     first line, optional when reading, is
 *     {"csplade_vectors": {"format_version": 1, "vocab": V, "side": "document", "meta": {..}}}
 *     with, before meta, of quantised vectors
 *     "quantisation": {"scheme": "round", "scale": 100.0, "dropped": 1, "clipped": 0}
 */
#pragma once

#include "core/quantize.h"
#include "io/contract.h"

typedef struct csp_vectors {
    int64_t rows;            /* number of texts                                           */
    int64_t vocab;           /* size of the term axis                                     */
    int64_t *row_ptr;        /* [rows+1]                                                  */
    int32_t *term;           /* [row_ptr[rows]] ascending in a row                        */
    float *weight;           /* [row_ptr[rows]] > 0, finite; quantised: impacts           */
    char **ids;              /* [rows] unique, not empty                                  */
    char *meta;              /* JSON text of the contract and the model, or NULL          */
    char *side;              /* "document" or "query"; NULL where the file does not say   */
    csp_quant quant;         /* none; or round or ceil, with their scale                  */
    csp_quant_counts counts; /* of quantisation; kept is not set                   */
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

/*
 * The text contract that meta holds, {"contract": {..}}; *has is false where there is none.
 *
 *   path   in   for the text of an error
 *
 * Owner:  the caller calls csp_contract_clear if *has.
 * Errors: those of csp_contract_from_json; *out is written only where *has.
 */
CSP_CHECKED csp_status csp_vectors_contract(const csp_vectors *vectors, const char *path,
                                            csp_contract *out, bool *has);

/*
 * Terms of a file: as many as a model may have (config.json's vocab_size). An index has an entry
 * for each of them, whether it occurs or not.
 */
enum { CSP_VECTORS_MOST_TERMS = 1 << 24 };

/* A file written row by row in constant memory, under a temporary name until committed. */
typedef struct csp_vectors_writer csp_vectors_writer;

/* What a file says of its rows. */
typedef struct csp_vectors_head {
    int64_t vocab;    /* 1..CSP_VECTORS_MOST_TERMS                               */
    const char *side; /* "document" or "query"                                   */
    const char *meta; /* text of a JSON object, or NULL                          */
    csp_quant quant;  /* none; or round or ceil with their scale: weights are impacts */
} csp_vectors_head;

/*
 * The extension of path decides the format (.h5, .hdf5, .jsonl).
 *
 * Errors: CSP_ERR_IO, CSP_ERR_ARGUMENT, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_vectors_create(const char *path, const csp_vectors_head *head,
                                          csp_vectors_writer **out);
/* Adds to what is counted as dropped and clipped. JSONL has it in its first line: before any row
 * (asserted). */
void csp_vectors_count(csp_vectors_writer *writer, const csp_quant_counts *counts);
/*
 * nnz may be 0: an empty row. Terms ascending in 0..vocab-1. That ids are unique is checked by the
 * reader: it would take memory here.
 *
 * Errors: CSP_ERR_IO; CSP_ERR_DATA for an id that is empty or not UTF-8; CSP_ERR_NUMERIC for a
 * weight that is not finite; CSP_ERR_ARGUMENT for other breaches, an impact among them that is no
 * whole number up to CSP_IMPACT_MOST. Only abandon remains then.
 */
CSP_CHECKED csp_status csp_vectors_append(csp_vectors_writer *writer, const char *id, int64_t nnz,
                                          const int32_t *term, const float *weight);
/* Frees the writer, also on failure; a file that stood under the name is untouched then. */
CSP_CHECKED csp_status csp_vectors_commit(csp_vectors_writer *writer);
void csp_vectors_abandon(csp_vectors_writer *writer);
