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

static bool is_left_out(const uint8_t *mask, int64_t at)
{
    return mask != NULL && mask[at] != 0;
}

static const uint8_t *mask_of(const csp_tensor *mask)
{
    return mask != NULL && mask->ndim > 0 ? mask->data : NULL;
}

/* The larger of a query's own score and the best other one. */
static double top_of(const double *row, int64_t q)
{
    return row[2 * q + 1] > row[2 * q] ? row[2 * q + 1] : row[2 * q];
}

csp_status cpu_nce_scores(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                          const csp_tensor *mask, csp_tensor *row)
{
    const int64_t Q = s->dim[0], P = s->dim[1];
    const uint8_t *left_out = mask_of(mask);
    const int32_t *own = positive->data;
    const float *score = s->data;
    double *out = row->data;

#pragma omp parallel for num_threads(cpu_parts(be, Q *P)) schedule(static)
    for (int64_t q = 0; q < Q; q++) {
        double best = -INFINITY;

        for (int64_t p = 0; p < P; p++) {
            const double here = (double)score[q * P + p];

            if (p != own[q] && !is_left_out(left_out, q * P + p) && here > best) {
                best = here;
            }
        }
        out[2 * q] = own[q] >= 0 ? (double)score[q * P + own[q]] : -INFINITY;
        out[2 * q + 1] = best;
    }
    return CSP_OK;
}

csp_status cpu_nce_sum(csp_backend *be, const csp_tensor *s, const csp_tensor *mask,
                       const csp_tensor *row, csp_tensor *sum)
{
    const int64_t Q = s->dim[0], P = s->dim[1];
    const uint8_t *left_out = mask_of(mask);
    const float *score = s->data;
    double *out = sum->data;

#pragma omp parallel for num_threads(cpu_parts(be, 32 * Q * P)) schedule(static)
    for (int64_t q = 0; q < Q; q++) {
        const double top = top_of(row->data, q);
        double total = 0.0;

        for (int64_t p = 0; p < P; p++) {
            if (!is_left_out(left_out, q * P + p)) {
                total += exp((double)score[q * P + p] - top);
            }
        }
        out[q] = total;
    }
    return CSP_OK;
}

csp_status cpu_nce_grad(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                        const csp_tensor *mask, const csp_tensor *row, const csp_tensor *sum,
                        int64_t M, csp_tensor *ds, csp_tensor *loss)
{
    const int64_t Q = s->dim[0], P = s->dim[1];
    const uint8_t *left_out = mask_of(mask);
    const int32_t *own = positive->data;
    const double *total = sum->data, *scores = row->data;
    const float *score = s->data;
    float *gradient = ds->data;
    double *out = loss->data;

#pragma omp parallel for num_threads(cpu_parts(be, 32 * Q * P)) schedule(static)
    for (int64_t q = 0; q < Q; q++) {
        const double top = top_of(scores, q);

        out[q] = log(total[q]) + (top - scores[2 * q]);
        for (int64_t p = 0; p < P; p++) {
            const int64_t at = q * P + p;
            const double share =
                is_left_out(left_out, at) ? 0.0 : exp((double)score[at] - top) / total[q];

            gradient[at] = (float)((share - (p == own[q] ? 1.0 : 0.0)) / (double)M);
        }
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
