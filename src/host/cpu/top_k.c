/*
 * top_k.c - CPU side of ops/top_k.h: threads own rows, which are selected from in a copy.
 */
#include <omp.h>
#include <string.h>

#include "core/prune_row.h"
#include "cpu/cpu.h"

/* Entries of the longest row. */
static int64_t longest_row(const int64_t *row_ptr, int64_t rows)
{
    int64_t longest = 0;

    for (int64_t r = 0; r < rows; r++) {
        const int64_t entries = row_ptr[r + 1] - row_ptr[r];

        longest = entries > longest ? entries : longest;
    }
    return longest;
}

/* Where the rows of out begin. */
static void place_rows(const int64_t *from, int64_t rows, int64_t k, int64_t *to)
{
    to[0] = 0;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t entries = from[r + 1] - from[r];

        to[r + 1] = to[r] + (entries < k ? entries : k);
    }
}

/* One row; memory has room for it. */
static void keep_row(const int32_t *term, const float *weight, int64_t entries, int64_t k,
                     void *memory, int32_t *out_term, float *out_weight)
{
    if (entries > k) {
        int32_t *term_copy = memory;
        float *weight_copy = (float *)(term_copy + entries);

        memcpy(term_copy, term, (size_t)entries * sizeof(*term));
        memcpy(weight_copy, weight, (size_t)entries * sizeof(*weight));
        entries = csp_prune_row(term_copy, weight_copy, entries, k);
        term = term_copy;
        weight = weight_copy;
    }
    memcpy(out_term, term, (size_t)entries * sizeof(*term));
    memcpy(out_weight, weight, (size_t)entries * sizeof(*weight));
}

csp_status cpu_top_k(csp_backend *be, const csp_sparse *w, int64_t rows, int64_t k, csp_sparse *out)
{
    const int64_t *from = w->row_ptr.data;
    const int32_t *term = w->term.data;
    const float *weight = w->weight.data;
    const int64_t longest = longest_row(from, rows);
    int64_t *to = out->row_ptr.data;
    int32_t *out_term = out->term.data;
    float *out_weight = out->weight.data;

    if (longest > k) {
        CSP_TRY(cpu_scratch_each(be, (size_t)longest * (sizeof(*term) + sizeof(*weight))));
    }
    place_rows(from, rows, k, to);
#pragma omp parallel for num_threads(cpu_parts(be, from[rows])) schedule(dynamic)
    for (int64_t r = 0; r < rows; r++) {
        keep_row(term + from[r], weight + from[r], from[r + 1] - from[r], k,
                 cpu_scratch_of(be, omp_get_thread_num()), out_term + to[r], out_weight + to[r]);
    }
    return CSP_OK;
}
