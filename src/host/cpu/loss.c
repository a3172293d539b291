/*
 * loss.c - CPU side of ops/loss.h: InfoNCE, column sums, and the sparsity terms.
 *
 * All are small beside the head: one pass over the scores or the entries, threads own rows or
 * ranges of the vocabulary, nothing depends on the number of threads.
 */
#include <math.h>
#include <omp.h>

#include "cpu/cpu.h"
#include "cpu/sparse_pool.h"

/* One query: its loss and scores, and ds of its row. ds may be s. */
static void query_loss(const float *s, const uint8_t *mask, int64_t P, int32_t positive, int64_t Q,
                       float *ds, double row[3])
{
    const double own = (double)s[positive];
    double best = -INFINITY, highest, sum = 0.0;

    for (int64_t p = 0; p < P; p++) {
        if (p != positive && (mask == NULL || mask[p] == 0) && (double)s[p] > best) {
            best = (double)s[p];
        }
    }
    highest = best > own ? best : own;
    for (int64_t p = 0; p < P; p++) {
        if (mask == NULL || mask[p] == 0) {
            sum += exp((double)s[p] - highest);
        }
    }
    row[0] = log(sum) + (highest - own);
    row[1] = own;
    row[2] = best;
    for (int64_t p = 0; p < P; p++) {
        const bool left_out = mask != NULL && mask[p] != 0;
        const double share = left_out ? 0.0 : exp((double)s[p] - highest) / sum;

        ds[p] = (float)((share - (p == positive ? 1.0 : 0.0)) / (double)Q);
    }
}

csp_status cpu_info_nce(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                        const csp_tensor *mask, csp_tensor *ds, csp_tensor *row)
{
    const int64_t Q = s->dim[0], P = s->dim[1];
    const uint8_t *left_out = mask != NULL && mask->ndim > 0 ? mask->data : NULL;
    const int32_t *own = positive->data;
    const float *score = s->data;
    float *gradient = ds->data;
    double *of_query = row->data;

#pragma omp parallel for num_threads(cpu_parts(be, 64 * Q * P)) schedule(static)
    for (int64_t q = 0; q < Q; q++) {
        query_loss(score + q * P, left_out != NULL ? left_out + q * P : NULL, P, own[q], Q,
                   gradient + q * P, of_query + q * 3);
    }
    return CSP_OK;
}

csp_status cpu_column_sums(csp_backend *be, const csp_sparse *w, int64_t rows, csp_tensor *sum,
                           csp_tensor *count)
{
    const int64_t *row_ptr = w->row_ptr.data;
    const int32_t *term = w->term.data;
    const float *weight = w->weight.data;
    double *total = sum->data;
    int32_t *seen = count != NULL && count->ndim > 0 ? count->data : NULL;
    const int parts = cpu_parts(be, row_ptr[rows]);

#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        const int64_t v = cpu_cut(w->vocab, 16, parts, part);
        const int64_t end = cpu_cut(w->vocab, 16, parts, part + 1);

        for (int64_t r = 0; r < rows; r++) {
            for (int64_t i = cpu_entry_of_term(term, row_ptr[r], row_ptr[r + 1], v);
                 i < row_ptr[r + 1] && term[i] < end; i++) {
                total[term[i]] += (double)weight[i];
                if (seen != NULL) {
                    seen[term[i]] += weight[i] > 0.0f;
                }
            }
        }
    }
    return CSP_OK;
}

csp_status cpu_position_counts(csp_backend *be, const csp_sparse *w, int64_t rows,
                               csp_tensor *count)
{
    const int64_t entries = ((const int64_t *)w->row_ptr.data)[rows], n = count->dim[0];
    const int32_t *argmax = w->argmax.data;
    int64_t *counts = count->data;

    (void)be;
    for (int64_t i = 0; i < entries; i++) {
        if (argmax[i] >= 0 && argmax[i] < n) {
            counts[argmax[i]]++;
        }
    }
    return CSP_OK;
}

csp_status cpu_regularize(csp_backend *be, csp_reg_kind kind, const csp_sparse *w, int64_t rows,
                          const csp_tensor *sum, int64_t M, float lambda, csp_tensor *dw,
                          csp_tensor *value)
{
    const bool is_flops = kind == CSP_REG_FLOPS;
    const int64_t entries = ((const int64_t *)w->row_ptr.data)[rows];
    const int32_t *term = w->term.data;
    const double *total = sum->data;
    const double m = (double)M,
                 factor = is_flops ? 2.0 * (double)lambda / (m * m) : (double)lambda / m;
    float *gradient = dw->data;
    double term_value = 0.0;

    for (int64_t v = 0; v < w->vocab; v++) {
        const double mean = total[v] / m;

        term_value += is_flops ? mean * mean : mean;
    }
#pragma omp parallel for num_threads(cpu_parts(be, entries)) schedule(static)
    for (int64_t i = 0; i < entries; i++) {
        gradient[i] += (float)(is_flops ? factor * total[term[i]] : factor);
    }
    *(double *)value->data = term_value;
    return CSP_OK;
}
