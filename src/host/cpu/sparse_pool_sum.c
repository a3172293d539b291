/*
 * sparse_pool_sum.c - CPU side of ops/sparse_pool.h, backward of sum pooling.
 *
 * Every positive logit has a gradient, so the products are dense: the logits are formed again by
 * tiles and turned into dz = dw / (1 + k z) where z > 0. Once with threads that own rows (dh), once
 * with threads that own blocks of the vocabulary (de): four products in place of three, and no
 * element has two writers.
 */
#include <omp.h>
#include <string.h>

#include "core/size.h"
#include "cpu/gemm.h"
#include "cpu/sparse_pool.h"

enum { SUM_TERMS = 512, SUM_ROWS = 192 };

typedef struct sum_grad {
    const csp_sparse_pool_grad *g;
    const csp_head *head;
    cpu_pool_rows rows;
    int64_t V, D;
} sum_grad;

/* z := k dw / (1 + k z) where z > 0, else 0. dw is dense, of one text and the tile's terms. */
CPU_CLONES
static void tile_gradient(const float *dw, float scale, int64_t width, float *z)
{
#pragma omp simd
    for (int64_t j = 0; j < width; j++) {
        const float gradient = scale * dw[j] / (1.0f + scale * z[j]);

        z[j] = z[j] > 0.0f ? gradient : 0.0f;
    }
}

/* dw of text b for terms v .. v+width-1, 0 where there is no entry. */
static void spread(const sum_grad *p, int64_t b, int64_t v, int64_t width, float *dw)
{
    const int64_t *row_ptr = (const int64_t *)p->g->rows->row_ptr.data + p->g->first_row;
    const int32_t *term = p->g->rows->term.data;
    const float *given = p->g->dw.data;

    memset(dw, 0, (size_t)width * sizeof(float));
    for (int64_t i = cpu_entry_of_term(term, row_ptr[b], row_ptr[b + 1], v);
         i < row_ptr[b + 1] && term[i] < v + width; i++) {
        dw[term[i] - v] = given[i];
    }
}

/* dz of kept rows i .. i+count-1 and terms v .. v+width-1. */
static void form_tile(const sum_grad *p, int64_t i, int64_t count, int64_t v, int64_t width,
                      float *dw, float *tile)
{
    const float *e = (const float *)p->head->e.data + v * p->D;
    int64_t b = 0, spread_text = -1;

    cpu_pool_tile(p->rows.h + i * p->D, count, e, width, p->D, tile);
    for (int64_t n = i; n < i + count; n++) {
        while (p->rows.start[b + 1] <= n) {
            b++;
        }
        if (b != spread_text) {
            spread(p, b, v, width, dw);
            spread_text = b;
        }
        tile_gradient(dw, p->head->scale, width, tile + (n - i) * width);
    }
}

/* dh of kept rows i .. i+count-1. */
static void sum_rows(const sum_grad *p, int64_t i, int64_t count, float *scratch)
{
    float *tile = scratch, *dw = tile + SUM_TERMS * SUM_ROWS, *sum = dw + SUM_TERMS;
    float *dh = p->g->dh.data;

    for (int64_t v = 0; v < p->V; v += SUM_TERMS) {
        const int64_t width = p->V - v < SUM_TERMS ? p->V - v : SUM_TERMS;

        form_tile(p, i, count, v, width, dw, tile);
        cpu_gemm_serial(false, false, count, p->D, width, 1.0f, tile, width,
                        (const float *)p->head->e.data + v * p->D, p->D, v > 0 ? 1.0f : 0.0f, sum,
                        p->D);
    }
    for (int64_t n = 0; n < count; n++) {
        memcpy(dh + (int64_t)p->rows.row[i + n] * p->D, sum + n * p->D,
               (size_t)p->D * sizeof(float));
    }
}

/* de of terms v .. v+width-1. */
static void sum_terms(const sum_grad *p, int64_t v, int64_t width, float *scratch)
{
    float *tile = scratch, *dw = tile + SUM_TERMS * SUM_ROWS;

    for (int64_t i = 0; i < p->rows.count; i += SUM_ROWS) {
        const int64_t count = p->rows.count - i < SUM_ROWS ? p->rows.count - i : SUM_ROWS;

        form_tile(p, i, count, v, width, dw, tile);
        cpu_gemm_serial(true, false, width, p->D, count, 1.0f, tile, width, p->rows.h + i * p->D,
                        p->D, 1.0f, (float *)p->g->de.data + v * p->D, p->D);
    }
}

csp_status cpu_sparse_pool_sum_bwd(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    sum_grad p = { .g = g, .head = head, .V = head->e.dim[0], .D = head->e.dim[1] };
    const int64_t row_blocks = (g->dh.dim[0] + SUM_ROWS - 1) / SUM_ROWS;
    const int64_t term_blocks = (p.V + SUM_TERMS - 1) / SUM_TERMS;
    const int parts = cpu_parts(be, g->dh.dim[0] * p.V);
    int64_t kept;
    const size_t bytes = cpu_pool_rows_bytes(&g->texts, p.D, &kept);
    void *block;

    CSP_TRY(cpu_shared(be, bytes, &block));
    CSP_TRY(cpu_scratch_each(
        be, (SUM_TERMS * SUM_ROWS + SUM_TERMS + (size_t)SUM_ROWS * (size_t)p.D) * sizeof(float)));
    cpu_pool_rows_make(be, &g->h, &g->texts, block, &p.rows);
    memset(g->dh.data, 0, csp_tensor_bytes(&g->dh));
#pragma omp parallel for num_threads(parts) schedule(dynamic, 1)
    for (int64_t r = 0; r < row_blocks; r++) {
        const int64_t i = r * SUM_ROWS;
        const int64_t count = p.rows.count - i < SUM_ROWS ? p.rows.count - i : SUM_ROWS;

        if (count > 0) {
            sum_rows(&p, i, count, cpu_scratch_of(be, omp_get_thread_num()));
        }
    }
    if (g->de.ndim == 0) {
        return CSP_OK;
    }
#pragma omp parallel for num_threads(parts) schedule(dynamic, 1)
    for (int64_t r = 0; r < term_blocks; r++) {
        const int64_t v = r * SUM_TERMS;

        sum_terms(&p, v, p.V - v < SUM_TERMS ? p.V - v : SUM_TERMS,
                  cpu_scratch_of(be, omp_get_thread_num()));
    }
    return CSP_OK;
}
