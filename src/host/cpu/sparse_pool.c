/*
 * sparse_pool.c - CPU side of ops/sparse_pool.h, forward.
 *
 * The kept rows are packed once, the vocabulary by blocks of POOL_TERMS. Sixteen logits of each of
 * up to POOL_ROWS rows (cpu/panel.h) stay in the first-level cache and are folded at once into a
 * table of the best logit and its row for each (text, term). Threads take blocks of the vocabulary,
 * so no two write the same entry and the result does not depend on their number. The table covers
 * as many texts as fit in POOL_TABLE_BYTES; from it the sparse rows are written in two passes,
 * count and fill. The arithmetic bound is 2·kept·V·D; folding costs 2 % at D = 256.
 */
#include "cpu/sparse_pool.h"

#include <omp.h>
#include <string.h>

#include "core/size.h"
#include "cpu/panel.h"
#include "cpu/vlog1p.h"

enum { POOL_TERMS = 256, POOL_ROWS = 96, LANES = CPU_PANEL_COLUMNS };
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
    float *packed;  /* panels of the kept rows of the table's texts                      */
    float *best;    /* (group,V) max: best logit, at least 0; sum: the weight             */
    int32_t *arg;   /* (group,V) max: position in the text; unset where best is 0         */
    int64_t *count; /* (group) entries of each row                                        */
} pool_pass;

/* Half of a panel's logits, and their places or truth values. */
typedef float half __attribute__((vector_size(32), aligned(4)));
typedef int32_t half_places __attribute__((vector_size(32), aligned(4)));

/* Where logit is larger than top, or the first NaN, top and at become logit and position. */
static inline __attribute__((always_inline)) void keep_larger(half logit, int32_t position,
                                                              half *top, half_places *at)
{
    const half_places better = ~(logit <= *top) & (*top == *top);

    *at = (better & position) | (~better & *at);
    *top = (half)((better & (half_places)logit) | (~better & (half_places)*top));
}

/*
 * best = max(best, z) over rows of one text; the first row that reaches the maximum stays. Written
 * with vectors: a compiler makes branches of the selections, which nothing predicts.
 */
CPU_CLONES
static void fold_max(const float *z, int64_t width, const int32_t *row, int64_t rows, int32_t base,
                     float *best, int32_t *arg)
{
    half top[2] = { { 0.0f }, { 0.0f } };
    half_places at[2] = { { 0 }, { 0 } };

    memcpy(top, best, (size_t)width * sizeof(float));
    memcpy(at, arg, (size_t)width * sizeof(int32_t));
    for (int64_t i = 0; i < rows; i++) {
        const half *logit = (const half *)(z + i * LANES);

        keep_larger(logit[0], row[i] - base, &top[0], &at[0]);
        keep_larger(logit[1], row[i] - base, &top[1], &at[1]);
    }
    memcpy(best, top, (size_t)width * sizeof(float));
    memcpy(arg, at, (size_t)width * sizeof(int32_t));
}

/* weight += log(1 + ReLU(k z)) over rows of one text. */
CPU_CLONES
static void fold_sum(const float *z, int64_t width, int64_t rows, float scale, float *weight)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *logit = z + i * LANES;

#pragma omp simd
        for (int64_t j = 0; j < width; j++) {
            const float active = logit[j] < 0.0f ? 0.0f : logit[j]; /* keeps a NaN */

            weight[j] += cpu_log1pf(scale * active);
        }
    }
}

/* Folds rows from .. from+count-1 (all of the table's texts) of terms v .. v+width-1. */
static void fold_panel(const pool_pass *p, const float *z, int64_t from, int64_t count, int64_t v,
                       int64_t width, int64_t text)
{
    for (int64_t i = from; i < from + count;) {
        while (p->rows.start[text + 1] <= i) {
            text++;
        }
        const int64_t end =
            p->rows.start[text + 1] < from + count ? p->rows.start[text + 1] : from + count;
        const int64_t at = (text - p->first) * p->V + v;

        if (p->head->pooling == CSP_POOL_MAX) {
            fold_max(z + (i - from) * LANES, width, p->rows.row + i, end - i, p->seq_start[text],
                     p->best + at, p->arg + at);
        } else {
            fold_sum(z + (i - from) * LANES, width, end - i, p->head->scale, p->best + at);
        }
        i = end;
    }
}

/* z (count,LANES) = logits of a block of packed rows and one packed panel of terms. */
static void panel_logits(const float *rows, int64_t count, const float *terms, int64_t D, float *z)
{
    const int64_t part = cpu_panel_steps(D);

    for (int64_t k = 0; k < D; k += part) {
        const int64_t steps = D - k < part ? D - k : part;

        for (int64_t i = 0; i < count; i += CPU_PANEL_ROWS) {
            cpu_tile(steps, rows + i * D + k * CPU_PANEL_ROWS, terms + k * LANES, CPU_PANEL_ROWS,
                     LANES, k > 0, z + i * LANES, LANES);
        }
    }
}

/* Floats of scratch of a thread: a block of terms, packed, and the logits of one panel of it. */
static int64_t block_floats(int64_t D)
{
    return cpu_panel_floats(POOL_TERMS, LANES, D) + POOL_ROWS * LANES;
}

/* Fills the table's columns v .. v+width-1. */
static void pool_block(const pool_pass *p, int64_t v, int64_t width, float *scratch)
{
    const int64_t D = p->rows.D, first = p->rows.start[p->first];
    const int64_t end = p->rows.start[p->first + p->texts];
    float *terms = scratch, *z = scratch + cpu_panel_floats(POOL_TERMS, LANES, D);
    int64_t text = p->first;

    for (int64_t b = 0; b < p->texts; b++) {
        memset(p->best + b * p->V + v, 0, (size_t)width * sizeof(float));
    }
    cpu_pack_columns((const float *)p->head->e.data + v * D, D, width, D, 0,
                     cpu_panels(width, LANES), 0, D, terms);
    for (int64_t i = first; i < end; i += POOL_ROWS) {
        const int64_t count = end - i < POOL_ROWS ? end - i : POOL_ROWS;

        while (p->rows.start[text + 1] <= i) {
            text++;
        }
        for (int64_t j = 0; j < width; j += LANES) {
            panel_logits(p->packed + (i - first) * D, count, terms + j * D, D, z);
            fold_panel(p, z, i, count, v + j, width - j < LANES ? width - j : LANES, text);
        }
    }
}

/* Packs the kept rows of the table's texts. */
static void pack_texts(csp_backend *be, const pool_pass *p)
{
    const int64_t D = p->rows.D, first = p->rows.start[p->first];
    const int64_t rows = p->rows.start[p->first + p->texts] - first;
    const int64_t panels = cpu_panels(rows, CPU_PANEL_ROWS);

#pragma omp parallel for num_threads(cpu_parts(be, rows *D)) schedule(static)
    for (int64_t panel = 0; panel < panels; panel++) {
        cpu_pack_rows(p->rows.h + first * D, D, rows, D, panel, 1, 0, D, p->packed);
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
        count += !(best[v] <= 0.0f);
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
        if (!(best[v] <= 0.0f)) {
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
static csp_status pool_begin(csp_backend *be, const csp_tensor *h, const csp_pool_texts *texts,
                             pool_pass *p)
{
    const int64_t B = texts->seq_start.dim[0] - 1;
    const int64_t row_bytes = p->V * (int64_t)(sizeof(float) + sizeof(int32_t));
    const int64_t fit = POOL_TABLE_BYTES / row_bytes > 1 ? POOL_TABLE_BYTES / row_bytes : 1;
    const int64_t D = h->dim[1];
    int64_t kept;
    const size_t list = csp_size_round_up(cpu_pool_rows_bytes(texts, D, &kept), CSP_ARENA_ALIGN);
    const size_t packed = csp_size_round_up(
        (size_t)cpu_panel_floats(kept, CPU_PANEL_ROWS, D) * sizeof(float), CSP_ARENA_ALIGN);
    char *block;

    p->group = B < fit ? B : fit;
    CSP_TRY(cpu_shared(be, list + packed + (size_t)p->group * ((size_t)row_bytes + sizeof(int64_t)),
                       (void **)&block));
    CSP_TRY(cpu_scratch_each(be, (size_t)block_floats(D) * sizeof(float)));
    cpu_pool_rows_make(be, h, texts, block, &p->rows);
    p->packed = (float *)(block + list);
    p->count = (int64_t *)(block + list + packed);
    p->best = (float *)(p->count + p->group);
    p->arg = (int32_t *)(p->best + p->group * p->V);
    return CSP_OK;
}

csp_status cpu_sparse_pool_fwd(csp_backend *be, const csp_head *head, const csp_tensor *h,
                               const csp_pool_texts *texts, int64_t first_row, csp_sparse *out)
{
    pool_pass p = { .head = head, .seq_start = texts->seq_start.data, .V = head->e.dim[0] };

    CSP_TRY(pool_begin(be, h, texts, &p));
    for (p.first = 0; p.first < p.rows.B; p.first += p.texts) {
        const int64_t blocks = (p.V + POOL_TERMS - 1) / POOL_TERMS;
        const int64_t left = p.rows.B - p.first;

        p.texts = left < p.group ? left : p.group;
        pack_texts(be, &p);
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

csp_status cpu_sparse_pool_choose(csp_backend *be, csp_pool_way way)
{
    (void)be;
    return way == CSP_POOL_AUTO ? CSP_OK
                                : CSP_FAIL(CSP_ERR_UNSUPPORTED,
                                           "device.head_backward is of a GPU: a CPU has one way "
                                           "only, auto");
}

csp_status cpu_sparse_pool_choose_forward(csp_backend *be, csp_pool_forward way)
{
    (void)be;
    return way == CSP_POOL_FORWARD_AUTO
               ? CSP_OK
               : CSP_FAIL(CSP_ERR_UNSUPPORTED,
                          "device.head_forward is of a GPU: a CPU has one way only, auto");
}
