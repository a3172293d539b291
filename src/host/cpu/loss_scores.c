/*
 * loss_scores.c - CPU side of csp_scores_fwd and _bwd: products of sparse rows with sparse rows.
 *
 * Two ways, picked by counting the pairs (entry of q, entry of p) that share a term:
 *
 *   by term    few pairs: one side is listed by term (a counting sort), the other walks its entries
 *              and meets only the rows that have the term
 *   by block   many pairs: blocks of the vocabulary of both sides are written out as dense matrices
 *              and multiplied by sgemm; the backward pass reads its results at the entries only
 *
 * Neither makes a (Q,V) or (P,V) matrix. Threads own passages, rows or blocks: no shared sums.
 */
#include <omp.h>
#include <string.h>

#include "core/size.h"
#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/sparse_pool.h"

enum {
    BLOCK_TERMS = 512,
    BLOCK_PASSAGES = 128,
    PAIR_COST = 24, /* one pair by term, in multiplications of sgemm            */
    SPREAD_COST = 2 /* one element of a dense block cleared, in the same measure */
};

/* The entries of some rows by term: those of term v are start[v] .. start[v+1]-1, rows ascending.
 */
typedef struct by_term {
    int64_t *start; /* (V+1) */
    int32_t *row;
    float *weight;
} by_term;

typedef struct side {
    const int64_t *row_ptr;
    const int32_t *term;
    const float *weight;
    int64_t rows, V;
} side;

static side side_of(const csp_sparse *w, int64_t rows)
{
    return (side) { w->row_ptr.data, w->term.data, w->weight.data, rows, w->vocab };
}

static size_t by_term_bytes(const side *w)
{
    const size_t entries = (size_t)w->row_ptr[w->rows];

    return csp_size_round_up((size_t)(w->V + 1) * sizeof(int64_t) +
                                 entries * (sizeof(int32_t) + sizeof(float)),
                             CSP_ARENA_ALIGN);
}

static by_term list_by_term(const side *w, void *memory)
{
    by_term t;

    t.start = memory;
    t.row = (int32_t *)(t.start + w->V + 1);
    t.weight = (float *)(t.row + w->row_ptr[w->rows]);
    memset(t.start, 0, (size_t)(w->V + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < w->row_ptr[w->rows]; i++) {
        t.start[w->term[i]]++;
    }
    /* start[v] becomes the end of v; filling from the last row backwards turns it into the start.
     */
    for (int64_t v = 0; v < w->V; v++) {
        t.start[v + 1] += t.start[v];
    }
    for (int64_t r = w->rows - 1; r >= 0; r--) {
        for (int64_t i = w->row_ptr[r]; i < w->row_ptr[r + 1]; i++) {
            const int64_t at = --t.start[w->term[i]];

            t.row[at] = (int32_t)r;
            t.weight[at] = w->weight[i];
        }
    }
    return t;
}

/* Pairs of entries that share a term. count is (V) of scratch. */
static int64_t count_pairs(const side *q, const side *p, int32_t *count)
{
    int64_t pairs = 0;

    memset(count, 0, (size_t)q->V * sizeof(int32_t));
    for (int64_t i = 0; i < q->row_ptr[q->rows]; i++) {
        count[q->term[i]]++;
    }
    for (int64_t i = 0; i < p->row_ptr[p->rows]; i++) {
        pairs += count[p->term[i]];
    }
    return pairs;
}

/* Whether to go by term: a function of the entries only. */
static csp_status pick_by_term(csp_backend *be, const side *q, const side *p, bool *out)
{
    void *count;

    CSP_TRY(cpu_shared(be, (size_t)q->V * sizeof(int32_t), &count));
    *out = PAIR_COST * count_pairs(q, p, count) <
           (q->rows * p->rows + SPREAD_COST * (q->rows + p->rows)) * q->V;
    return CSP_OK;
}

/* Rows first .. first+count-1, terms v .. v+width-1 as a dense (count,width) matrix. */
static void spread(const side *w, int64_t first, int64_t count, int64_t v, int64_t width,
                   float *dense)
{
    memset(dense, 0, (size_t)(count * width) * sizeof(float));
    for (int64_t r = 0; r < count; r++) {
        const int64_t end = w->row_ptr[first + r + 1];
        float *row = dense + r * width;

        for (int64_t i = cpu_entry_of_term(w->term, w->row_ptr[first + r], end, v);
             i < end && w->term[i] < v + width; i++) {
            row[w->term[i] - v] = w->weight[i];
        }
    }
}

/* Reads a dense (rows,width) matrix at the entries of w: the other way round. */
static void sample(const side *w, const float *dense, int64_t v, int64_t width, float *out)
{
    for (int64_t r = 0; r < w->rows; r++) {
        const int64_t end = w->row_ptr[r + 1];

        for (int64_t i = cpu_entry_of_term(w->term, w->row_ptr[r], end, v);
             i < end && w->term[i] < v + width; i++) {
            out[i] = dense[r * width + w->term[i] - v];
        }
    }
}

/* Column p of s, all queries. sum is (Q) of scratch. */
static void score_passage(const side *p, int64_t at, const by_term *q, int64_t Q, float scale,
                          double *sum, float *s)
{
    memset(sum, 0, (size_t)Q * sizeof(double));
    for (int64_t i = p->row_ptr[at]; i < p->row_ptr[at + 1]; i++) {
        const double weight = (double)p->weight[i];

        for (int64_t j = q->start[p->term[i]]; j < q->start[p->term[i] + 1]; j++) {
            sum[q->row[j]] += weight * (double)q->weight[j];
        }
    }
    for (int64_t n = 0; n < Q; n++) {
        s[n * p->rows + at] = (float)((double)scale * sum[n]);
    }
}

static csp_status scores_by_term(csp_backend *be, const side *q, const side *p, float scale,
                                 float *s)
{
    void *memory;
    by_term queries;

    CSP_TRY(cpu_shared(be, by_term_bytes(q), &memory));
    CSP_TRY(cpu_scratch_each(be, (size_t)q->rows * sizeof(double)));
    queries = list_by_term(q, memory);
#pragma omp parallel for num_threads(cpu_parts(be, p->row_ptr[p->rows])) schedule(dynamic, 1)
    for (int64_t at = 0; at < p->rows; at++) {
        score_passage(p, at, &queries, q->rows, scale, cpu_scratch_of(be, omp_get_thread_num()), s);
    }
    return CSP_OK;
}

/* Columns first .. first+count-1 of s. */
static void score_block(const side *q, const side *p, int64_t first, int64_t count, float scale,
                        float *scratch, float *s)
{
    float *queries = scratch, *passages = scratch + q->rows * BLOCK_TERMS;

    for (int64_t v = 0; v < q->V; v += BLOCK_TERMS) {
        const int64_t width = q->V - v < BLOCK_TERMS ? q->V - v : BLOCK_TERMS;

        spread(q, 0, q->rows, v, width, queries);
        spread(p, first, count, v, width, passages);
        cpu_gemm_serial(false, true, q->rows, count, width, scale, queries, width, passages, width,
                        v > 0 ? 1.0f : 0.0f, s + first, p->rows);
    }
}

csp_status cpu_scores_fwd(csp_backend *be, const csp_sparse *q, int64_t Q, const csp_sparse *p,
                          int64_t P, float scale, csp_tensor *s)
{
    const side queries = side_of(q, Q), passages = side_of(p, P);
    const int64_t share = (P + be->threads - 1) / be->threads;
    const int64_t width = share < BLOCK_PASSAGES ? share : BLOCK_PASSAGES;
    bool few;

    CSP_TRY(pick_by_term(be, &queries, &passages, &few));
    if (few) {
        return scores_by_term(be, &queries, &passages, scale, s->data);
    }
    CSP_TRY(cpu_scratch_each(be, (size_t)((Q + width) * BLOCK_TERMS) * sizeof(float)));
#pragma omp parallel for num_threads(cpu_parts(be, (Q + P) * q->vocab)) schedule(dynamic, 1)
    for (int64_t first = 0; first < P; first += width) {
        score_block(&queries, &passages, first, P - first < width ? P - first : width, scale,
                    cpu_scratch_of(be, omp_get_thread_num()), s->data);
    }
    return CSP_OK;
}

/* d[e] of row `at`: scale · sum over rows of the other side with the term of ds[at,row] · weight.
 */
static void back_row(const side *w, int64_t at, const by_term *other, const float *ds,
                     int64_t stride, float scale, float *d)
{
    for (int64_t i = w->row_ptr[at]; i < w->row_ptr[at + 1]; i++) {
        double sum = 0.0;

        for (int64_t j = other->start[w->term[i]]; j < other->start[w->term[i] + 1]; j++) {
            sum += (double)ds[other->row[j] * stride] * (double)other->weight[j];
        }
        d[i] = (float)((double)scale * sum);
    }
}

static csp_status back_by_term(csp_backend *be, const float *ds, const side *q, const side *p,
                               float scale, float *dq, float *dp)
{
    const int parts = cpu_parts(be, q->row_ptr[q->rows] + p->row_ptr[p->rows]);
    const size_t first = by_term_bytes(q);
    by_term queries, passages;
    char *memory;

    CSP_TRY(cpu_shared(be, first + by_term_bytes(p), (void **)&memory));
    queries = list_by_term(q, memory);
    passages = list_by_term(p, memory + first);
#pragma omp parallel for num_threads(parts) schedule(dynamic, 1)
    for (int64_t r = 0; r < q->rows + p->rows; r++) {
        if (r < q->rows) {
            back_row(q, r, &passages, ds + r * p->rows, 1, scale, dq);
        } else {
            back_row(p, r - q->rows, &queries, ds + (r - q->rows), p->rows, scale, dp);
        }
    }
    return CSP_OK;
}

/* Entries of both sides whose terms are v .. v+width-1. scratch: 2 (Q+P) rows of BLOCK_TERMS. */
static void back_block(const float *ds, const side *q, const side *p, int64_t v, int64_t width,
                       float scale, float *scratch, float *dq, float *dp)
{
    const int64_t Q = q->rows, P = p->rows;
    float *queries = scratch, *passages = queries + Q * BLOCK_TERMS;
    float *dqueries = passages + P * BLOCK_TERMS, *dpassages = dqueries + Q * BLOCK_TERMS;

    spread(q, 0, Q, v, width, queries);
    spread(p, 0, P, v, width, passages);
    cpu_gemm_serial(false, false, Q, width, P, scale, ds, P, passages, width, 0.0f, dqueries,
                    width);
    cpu_gemm_serial(true, false, P, width, Q, scale, ds, P, queries, width, 0.0f, dpassages, width);
    sample(q, dqueries, v, width, dq);
    sample(p, dpassages, v, width, dp);
}

csp_status cpu_scores_bwd(csp_backend *be, const csp_tensor *ds, const csp_sparse *q,
                          const csp_sparse *p, float scale, csp_tensor *dq, csp_tensor *dp)
{
    const int64_t Q = ds->dim[0], P = ds->dim[1];
    const side queries = side_of(q, Q), passages = side_of(p, P);
    const int64_t blocks = (q->vocab + BLOCK_TERMS - 1) / BLOCK_TERMS;
    bool few;

    CSP_TRY(pick_by_term(be, &queries, &passages, &few));
    if (few || Q == 0 || P == 0) {
        return back_by_term(be, ds->data, &queries, &passages, scale, dq->data, dp->data);
    }
    CSP_TRY(cpu_scratch_each(be, (size_t)(2 * (Q + P) * BLOCK_TERMS) * sizeof(float)));
#pragma omp parallel for num_threads(cpu_parts(be, (Q + P) * q->vocab)) schedule(dynamic, 1)
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t v = i * BLOCK_TERMS;

        back_block(ds->data, &queries, &passages, v,
                   q->vocab - v < BLOCK_TERMS ? q->vocab - v : BLOCK_TERMS, scale,
                   cpu_scratch_of(be, omp_get_thread_num()), dq->data, dp->data);
    }
    return CSP_OK;
}
