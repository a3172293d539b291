/*
 * collection.h - what the writers of vector formats share: the rows of all files, quantised, and
 * the keys of the terms that occur. Internal to export/.
 */
#pragma once

#include "export/vectors.h"

typedef struct csp_collection {
    csp_vectors **part; /* [parts] */
    int64_t parts;
    int64_t rows;
    int64_t empty_rows; /* without a posting after quantisation */
    int64_t vocab;
    int64_t postings;   /* after quantisation */
    int64_t max_term;   /* -1: none           */
    int64_t max_impact; /* 0 for float weights */

    csp_quant quant;      /* as asked for, or of quantised vectors, with the scale used */
    csp_quant arithmetic; /* what impacts are computed with from the vectors' weights   */
    bool is_float;        /* weights are written as they are          */
    int32_t limit;        /* largest impact                           */
    csp_quant_counts counts;

    int64_t distinct;
    char **key;          /* [vocab] NULL for a term without postings    */
    int32_t *order;      /* [distinct] terms by their keys, bytewise    */
    int64_t longest_key; /* characters                                 */
} csp_collection;

typedef struct csp_collection_row {
    const char *id;
    const int32_t *term;
    const float *weight;
    int64_t nnz;
} csp_collection_row;

/* Reads, quantises and checks everything that can be refused. Errors: see csp_export_vectors. */
CSP_CHECKED csp_status csp_collection_open(const char *const *path, int64_t paths,
                                           const csp_export_options *options, csp_collection **out);
void csp_collection_close(csp_collection *collection);

/* Row r of all parts together. */
csp_collection_row csp_collection_at(const csp_collection *collection, int64_t r);

/* The impact of a weight, 0 = dropped. Not for float collections (asserted). */
int32_t csp_collection_impact(const csp_collection *collection, float weight);
