/*
 * sparse_pool.c - CPU side of ops/sparse_pool.h, forward.
 *
 * The vocabulary is cut into blocks of POOL_TERMS and the kept rows into blocks of POOL_ROWS: a
 * tile of logits (one call of OpenBLAS, on one thread) stays in the second-level cache and is
 * folded at once into a table of the best logit and its row for each (text, term). Threads take
 * blocks of the vocabulary, so no two write the same entry and the result does not depend on their
 * number. The table covers as many texts as fit in POOL_TABLE_BYTES; from it the sparse rows are
 * written in two passes, count and fill. The arithmetic bound is 2·kept·V·D; folding costs 2 % at D
 * = 256.
 */
#include "cpu/sparse_pool.h"

#include <omp.h>
#include <string.h>

#include "core/size.h"
#include "cpu/vlog1p.h"

enum { POOL_TERMS = 256, POOL_ROWS = 384 };
static const int64_t POOL_TABLE_BYTES = (int64_t)64 << 20; /* or one text, if that is more */

/* One call: the rows, and the table of texts first .. first+texts-1. */
typedef struct pool_pass {
    const csp_head *head;
    const int32_t *seq_start;
    cpu_pool_rows rows;
    int64_t V;
    int64_t group;  /* texts the table has room for                                       */
    int64_t first;  /* text of the table's first row                                      */
    int64_t texts;  /* rows of the table in use                                           */
    float *best;    /* (group,V) max: best logit, at least 0; sum: the weight             */
    int32_t *arg;   /* (group,V) max: position in the text; unset where best is 0         */
    int64_t *count; /* (group) entries of each row                                        */
} pool_pass;

/* best = max(best, z) over rows of one text; the first row that reaches the maximum stays. */
CPU_CLONES
static void fold_max(const float *z, int64_t stride, int64_t width, const int32_t *row,
                     int64_t rows, int32_t base, float *best, int32_t *arg)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *logit = z + i * stride;
        const int32_t position = row[i] - base;

#pragma omp simd
        for (int64_t j = 0; j < width; j++) {
            const bool better = logit[j] > best[j]; /* false for a NaN */

            arg[j] = better ? position : arg[j];
            best[j] = better ? logit[j] : best[j];
        }
    }
}

/* weight += log(1 + ReLU(k z)) over rows of one text. */
CPU_CLONES
static void fold_sum(const float *z, int64_t stride, int64_t width, int64_t rows, float scale,
                     float *weight)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *logit = z + i * stride;

#pragma omp simd
        for (int64_t j = 0; j < width; j++) {
            const float active = logit[j] > 0.0f ? logit[j] : 0.0f;

            weight[j] += cpu_log1pf(scale * active);
        }
    }
}

/* Folds a tile of rows from .. from+count-1 (all of the table's texts) and terms v .. v+width-1. */
static void fold_tile(const pool_pass *p, const float *z, int64_t from, int64_t count, int64_t v,
                      int64_t width, int64_t *text)
{
    int64_t i = from;

    while (i < from + count) {
        while (p->rows.start[*text + 1] <= i) {
            (*text)++;
        }
        const int64_t end =
            p->rows.start[*text + 1] < from + count ? p->rows.start[*text + 1] : from + count;
        const int64_t at = (*text - p->first) * p->V + v;

        if (p->head->pooling == CSP_POOL_MAX) {
            fold_max(z + (i - from) * width, width, width, p->rows.row + i, end - i,
                     p->seq_start[*text], p->best + at, p->arg + at);
        } else {
            fold_sum(z + (i - from) * width, width, width, end - i, p->head->scale, p->best + at);
        }
        i = end;
    }
}

/* Fills the table's columns v .. v+width-1. */
static void pool_block(const pool_pass *p, int64_t v, int64_t width, float *tile)
{
    const float *e = (const float *)p->head->e.data + v * p->rows.D;
    const int64_t end = p->rows.start[p->first + p->texts];
    int64_t text = p->first;

    for (int64_t b = 0; b < p->texts; b++) {
        memset(p->best + b * p->V + v, 0, (size_t)width * sizeof(float));
    }
    for (int64_t i = p->rows.start[p->first]; i < end; i += POOL_ROWS) {
        const int64_t count = end - i < POOL_ROWS ? end - i : POOL_ROWS;

        cpu_pool_tile(p->rows.h + i * p->rows.D, count, e, width, p->rows.D, tile);
        fold_tile(p, tile, i, count, v, width, &text);
    }
}

/* Applies scale and exclusion to a row of the table, and counts what stays. */
CPU_CLONES
static int64_t finish_row(float *best, const uint8_t *exclude, float scale, int64_t V)
{
    int64_t count = 0;

    if (exclude != NULL) {
#pragma omp simd
        for (int64_t v = 0; v < V; v++) {
            best[v] = exclude[v] != 0 ? 0.0f : best[v];
        }
    }
#pragma omp simd reduction(+ : count)
    for (int64_t v = 0; v < V; v++) {
        best[v] *= scale;
        count += best[v] > 0.0f;
    }
    return count;
}

CPU_CLONES
static void saturate(float *weight, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        weight[i] = cpu_log1pf(weight[i]);
    }
}

/* Writes one row of the table as entries. */
static void fill_row(const pool_pass *p, int64_t b, int64_t first_entry, csp_sparse *out)
{
    const bool is_max = p->head->pooling == CSP_POOL_MAX;
    const float *best = p->best + b * p->V;
    const int32_t *arg = p->arg + b * p->V;
    int32_t *term = (int32_t *)out->term.data + first_entry;
    int32_t *argmax = is_max ? (int32_t *)out->argmax.data + first_entry : NULL;
    float *weight = (float *)out->weight.data + first_entry;
    int64_t n = 0;

    for (int64_t v = 0; v < p->V; v++) {
        if (best[v] > 0.0f) {
            term[n] = (int32_t)v;
            weight[n] = best[v];
            if (is_max) {
                argmax[n] = arg[v];
            }
            n++;
        }
    }
    if (is_max) {
        saturate(weight, n);
    }
}

/* Counts the rows of the table and appends them to out after first_row. */
static csp_status append_rows(csp_backend *be, pool_pass *p, int64_t first_row, csp_sparse *out)
{
    const uint8_t *exclude = p->head->exclude.ndim > 0 ? p->head->exclude.data : NULL;
    const float scale = p->head->pooling == CSP_POOL_MAX ? p->head->scale : 1.0f;
    const int parts = cpu_parts(be, p->texts * p->V);
    int64_t *row_ptr = (int64_t *)out->row_ptr.data + first_row;
    int64_t need;

#pragma omp parallel for num_threads(parts) schedule(dynamic, 1)
    for (int64_t b = 0; b < p->texts; b++) {
        p->count[b] = finish_row(p->best + b * p->V, exclude, scale, p->V);
    }
    if (first_row == 0) {
        row_ptr[0] = 0;
    }
    need = row_ptr[0];
    for (int64_t b = 0; b < p->texts; b++) {
        need += p->count[b];
    }
    if (need > out->term.dim[0]) {
        return CSP_FAIL(
            CSP_ERR_MEMORY, "sparse_pool: rows 0 to %lld need %lld entries, there is room for %lld",
            (long long)(first_row + p->texts - 1), (long long)need, (long long)out->term.dim[0]);
    }
    for (int64_t b = 0; b < p->texts; b++) {
        row_ptr[b + 1] = row_ptr[b] + p->count[b];
    }
#pragma omp parallel for num_threads(parts) schedule(dynamic, 1)
    for (int64_t b = 0; b < p->texts; b++) {
        fill_row(p, b, row_ptr[b], out);
    }
    return CSP_OK;
}

/* Gets and divides the memory of a call; the table's size is picked here. */
static csp_status pool_begin(csp_backend *be, const csp_tensor *h, const csp_tensor *seq_start,
                             const csp_tensor *keep, pool_pass *p)
{
    const int64_t B = seq_start->dim[0] - 1;
    const int64_t row_bytes = p->V * (int64_t)(sizeof(float) + sizeof(int32_t));
    const int64_t fit = POOL_TABLE_BYTES / row_bytes > 1 ? POOL_TABLE_BYTES / row_bytes : 1;
    int64_t kept;
    const size_t list =
        csp_size_round_up(cpu_pool_rows_bytes(seq_start, keep, h->dim[1], &kept), CSP_ARENA_ALIGN);
    char *block;

    p->group = B < fit ? B : fit;
    CSP_TRY(cpu_shared(be, list + (size_t)p->group * ((size_t)row_bytes + sizeof(int64_t)),
                       (void **)&block));
    CSP_TRY(cpu_scratch_each(be, (size_t)POOL_TERMS * POOL_ROWS * sizeof(float)));
    cpu_pool_rows_make(be, h, seq_start, keep, block, &p->rows);
    p->count = (int64_t *)(block + list);
    p->best = (float *)(p->count + p->group);
    p->arg = (int32_t *)(p->best + p->group * p->V);
    return CSP_OK;
}

csp_status cpu_sparse_pool_fwd(csp_backend *be, const csp_head *head, const csp_tensor *h,
                               const csp_tensor *seq_start, const csp_tensor *keep,
                               int64_t first_row, csp_sparse *out)
{
    pool_pass p = { .head = head, .seq_start = seq_start->data, .V = head->e.dim[0] };

    CSP_TRY(pool_begin(be, h, seq_start, keep, &p));
    for (p.first = 0; p.first < p.rows.B; p.first += p.texts) {
        const int64_t blocks = (p.V + POOL_TERMS - 1) / POOL_TERMS;
        const int64_t left = p.rows.B - p.first;

        p.texts = left < p.group ? left : p.group;
#pragma omp parallel for num_threads(cpu_parts(be, p.rows.count *p.V)) schedule(dynamic, 1)
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t v = i * POOL_TERMS;
            const int64_t width = p.V - v < POOL_TERMS ? p.V - v : POOL_TERMS;

            pool_block(&p, v, width, cpu_scratch_of(be, omp_get_thread_num()));
        }
        CSP_TRY(append_rows(be, &p, first_row + p.first, out));
    }
    return CSP_OK;
}

csp_status cpu_sparse_pool_bwd(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    return head->pooling == CSP_POOL_MAX ? cpu_sparse_pool_max_bwd(be, head, g)
                                         : cpu_sparse_pool_sum_bwd(be, head, g);
}
