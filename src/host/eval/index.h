/*
 * index.h - an exact inverted index over sparse vectors, in memory.
 *
 * Documents are numbered by descending id (byte order), so that of two documents with equal scores
 * the lower number comes first, which is how trec_eval breaks ties. They are cut into blocks of
 * CSP_INDEX_BLOCK, and each block has its own posting lists: one block's scores stay in the
 * second-level cache while a query's lists are added up, and a posting's document needs 16 bits.
 */
#pragma once

#include "io/vectors.h"

/* Documents of a block: 128 KiB of float scores. */
enum { CSP_INDEX_BLOCK = 32768 };

typedef struct csp_index {
    int32_t docs;
    int64_t vocab; /* size of the term axis                                          */
    int64_t postings;
    int64_t blocks;
    int64_t *block_start; /* [blocks+1] first posting of each block                        */
    uint32_t *term_start; /* [blocks x (vocab+1)] first posting of a term, from its block's */
    uint16_t *doc;        /* [postings] document minus its block's first, ascending in a list */
    float *weight;        /* [postings]                                                     */
    const char **id;      /* [docs] descending                                              */
    char *id_bytes;       /* private: what id points into                                   */
} csp_index;

/*
 * Builds the index of the rows of several sets of vectors (the shards of one collection) together.
 *
 *   part     in   of one vocabulary size; may be freed afterwards
 *   threads  in   0 = all that OpenMP offers; the result does not depend on it
 *
 * Owner:  csp_index_free.
 * Errors: CSP_ERR_DATA: sizes of the term axis or quantisation differ, an id twice, a term outside
 *         the axis, a weight that is not positive and finite; CSP_ERR_UNSUPPORTED: more than 2^31-1
 *         documents or a block of more than 2^32-1 postings; CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_index_build(const csp_vectors *const *part, int64_t parts, int threads,
                                       csp_index **out);
void csp_index_free(csp_index *index);

/* The document with this id, or -1. */
int32_t csp_index_find(const csp_index *index, const char *id);

typedef struct csp_index_stats {
    int64_t docs;
    int64_t empty_docs; /* without any term: no query finds them */
    int64_t terms;      /* with at least one posting             */
    int64_t postings;
    double mean_terms;    /* postings / docs                       */
    int64_t memory_bytes; /* this index in memory, ids included    */
    int64_t packed_bytes; /* see below                             */
} csp_index_stats;

/*
 * Measures an index. packed_bytes is what its posting lists take in the plain compressed form that
 * impact indexes start from, and what tables of index sizes should show: for each list with
 * postings 8 bytes, and for each posting the varint of the gap to the one before (7 bits a byte)
 * and one byte of impact. Ids and term strings are not in it. (A CIFF file carries up to 6 bytes
 * more a posting in protobuf tags; an export's manifest has its real size.)
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_index_measure(const csp_index *index, csp_index_stats *out);

/*
 * Expected number of postings of one document that one query touches:
 *
 *     FLOPS = sum over t of p_q(t) p_d(t),   p(t) = share of rows in which t is active
 *
 * Errors: CSP_ERR_MEMORY. 0 for no queries or no documents.
 */
CSP_CHECKED csp_status csp_index_flops(const csp_index *index, const csp_vectors *queries,
                                       double *out);
