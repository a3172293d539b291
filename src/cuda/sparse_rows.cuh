/*
 * sparse_rows.cuh - rows of a csp_sparse as kernels take them.
 */
#pragma once

#include "ops/sparse_pool.h"
#include "portable.cuh"

typedef struct sparse_rows {
    const int64_t *row_ptr; /* (rows+1) places in term and weight */
    const int32_t *term;    /* ascending in a row                 */
    const float *weight;
    int64_t rows;
} sparse_rows;

/* Rows first .. first+rows-1 of w. */
static inline sparse_rows sparse_rows_of(const csp_sparse *w, int64_t first, int64_t rows)
{
    const sparse_rows part = { (const int64_t *)w->row_ptr.data + first,
                               (const int32_t *)w->term.data, (const float *)w->weight.data, rows };

    return part;
}

/* First entry in first .. end-1 whose term is at least v, end if none. */
static __device__ __forceinline__ int64_t entry_of_term(const int32_t *term, int64_t first,
                                                        int64_t end, int64_t v)
{
    while (first < end) {
        const int64_t middle = first + (end - first) / 2;

        if (term[middle] < v) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    return first;
}
