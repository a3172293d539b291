/*
 * sparse_pool.h - what the files of the CPU's retrieval head share. Private to this folder.
 *
 * Only rows with keep set take part in anything: their list is made once, and where some are not
 * kept (echo drops half) the kept hidden states are copied together, so that no product is formed
 * for the others.
 */
#pragma once

#include "cpu/cpu.h"

typedef struct cpu_pool_rows {
    int64_t B;     /* texts                                                        */
    int64_t count; /* kept rows                                                    */
    int64_t D;
    int32_t *start; /* (B+1) first kept row of each text                            */
    int32_t *row;   /* (count) its row in the packed batch                          */
    const float *h; /* (count,D) hidden states of the kept rows; NULL if not wanted */
} cpu_pool_rows;

/* Bytes that cpu_pool_rows_make needs, and the number of kept rows. */
size_t cpu_pool_rows_bytes(const csp_pool_texts *texts, int64_t D, int64_t *count);

/* Lists the kept rows in block (cpu_pool_rows_bytes long); h may stay where it is or be copied. */
void cpu_pool_rows_make(csp_backend *be, const csp_tensor *h, const csp_pool_texts *texts,
                        void *block, cpu_pool_rows *out);

/*
 * z = rows · terms^T for a tile, on the calling thread: z[i,j] = <h row i, e row j>.
 *
 *   h (rows,D), e (terms,D), z (rows,terms), all contiguous
 */
void cpu_pool_tile(const float *h, int64_t rows, const float *e, int64_t terms, int64_t D,
                   float *z);

/* First entry in first .. end-1 whose term is at least v, end if none: terms of a row ascend. */
static inline int64_t cpu_entry_of_term(const int32_t *term, int64_t first, int64_t end, int64_t v)
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

/* Max pooling's and sum pooling's way back; csp_sparse_pool_bwd picks. */
CSP_CHECKED csp_status cpu_sparse_pool_max_bwd(csp_backend *be, const csp_head *head,
                                               csp_sparse_pool_grad *g);
CSP_CHECKED csp_status cpu_sparse_pool_sum_bwd(csp_backend *be, const csp_head *head,
                                               csp_sparse_pool_grad *g);
