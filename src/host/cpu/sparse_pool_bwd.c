/*
 * sparse_pool_bwd.c - CPU side of ops/sparse_pool.h, backward of max pooling.
 *
 * The gradient of the logits has one non-zero for each stored entry: dz[a,j] = dw exp(-w). Two
 * passes over the entries, no atomics and the same order of additions for any number of threads:
 *
 *   dh   a thread owns whole texts (or, with few texts, columns of all of them). It walks its texts
 *        in runs of entries, sorts a run by position and adds to each row of dh the rows of e that
 *        it won, in order of terms, eight vectors in registers. A run ends where a block of the
 *        vocabulary does, so that with dense rows the texts of a thread share the block's rows of e
 *        in the cache; with sparse rows one block is the whole vocabulary.
 *   de   a thread owns a range of the vocabulary. It sorts the entries of a block of terms by term
 *        and adds to each row of de the rows of h that won it, in order of texts.
 *
 * Both are bound by reading D floats for each entry from the caches. Entries whose dw is 0 are left
 * out.
 */
#include <omp.h>
#include <string.h>

#include "core/size.h"
#include "cpu/gather.h"
#include "cpu/sparse_pool.h"
#include "cpu/vexp.h"

enum {
    RUN = 4096,           /* entries sorted at once for dh                           */
    RUN_WANTED = 2048,    /* entries of one text a block of the vocabulary should have */
    BLOCK_ENTRIES = 65536 /* entries sorted at once for de, unless there are more texts */
};

typedef struct pool_grad {
    const csp_sparse_pool_grad *g;
    const int64_t *row_ptr; /* of the batch's first row */
    const int32_t *term, *argmax, *seq_start;
    const float *weight, *dw;
    int64_t B, V, D;
    float scale;
} pool_grad;

/* dz of n entries: k dw exp(-w). */
CPU_CLONES
static void logit_gradients(const float *weight, const float *dw, float scale, int64_t n, float *dz)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        dz[i] = scale * dw[i] * cpu_expf(-weight[i]);
    }
}

/* Scratch of a thread for dh. */
typedef struct run_scratch {
    float dz[RUN], coefficient[RUN];
    int32_t term[RUN];
    int64_t start[]; /* (longest text + 1) */
} run_scratch;

/* dh rows of text b, columns from .. from+width-1, += entries first .. first+n-1, n <= RUN. */
static void add_run(const pool_grad *p, int64_t b, int64_t first, int64_t n, const float *e,
                    int64_t from, int64_t width, run_scratch *s)
{
    const int64_t T = p->seq_start[b + 1] - p->seq_start[b];
    const int32_t *argmax = p->argmax + first;
    float *dh = (float *)p->g->dh.data + (int64_t)p->seq_start[b] * p->D + from;

    logit_gradients(p->weight + first, p->dw + first, p->scale, n, s->dz);
    memset(s->start, 0, (size_t)(T + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < n; i++) {
        s->start[argmax[i] + 1] += p->dw[first + i] != 0.0f;
    }
    for (int64_t t = 0; t < T; t++) {
        s->start[t + 1] += s->start[t];
    }
    for (int64_t i = 0; i < n; i++) {
        if (p->dw[first + i] != 0.0f) {
            const int64_t at = s->start[argmax[i]]++;

            s->term[at] = p->term[first + i];
            s->coefficient[at] = s->dz[i];
        }
    }
    /* start[t] has become the end of t. */
    for (int64_t t = 0, at = 0; t < T; at = s->start[t], t++) {
        cpu_gather_add(s->start[t] - at, s->term + at, s->coefficient + at, e + from, p->D, width,
                       dh + t * p->D);
    }
}

/* dh of texts first .. end-1, columns from .. from+width-1. */
static void add_texts(const pool_grad *p, const float *e, int64_t block, int64_t first, int64_t end,
                      int64_t from, int64_t width, int64_t *cursor, run_scratch *s)
{
    for (int64_t b = first; b < end; b++) {
        cursor[b] = p->row_ptr[b];
    }
    for (int64_t v = 0; v < p->V; v += block) {
        for (int64_t b = first; b < end; b++) {
            const int64_t stop =
                cpu_entry_of_term(p->term, cursor[b], p->row_ptr[b + 1], v + block);

            while (cursor[b] < stop) {
                const int64_t n = stop - cursor[b] < RUN ? stop - cursor[b] : RUN;

                add_run(p, b, cursor[b], n, e, from, width, s);
                cursor[b] += n;
            }
        }
    }
}

/* Terms of a block of the vocabulary: all where rows are sparse. A function of the entries only. */
static int64_t pick_block(int64_t entries, int64_t B, int64_t V)
{
    const int64_t of_text = entries / (B > 0 ? B : 1) + 1;
    const int64_t block = V / of_text * RUN_WANTED + RUN_WANTED;

    return block < V ? block : V;
}

/* First text of a thread's share, cut so that shares have equally many entries. */
static int64_t share_of_texts(const pool_grad *p, int parts, int part)
{
    const int64_t entries = p->row_ptr[p->B] - p->row_ptr[0];
    int64_t b = 0;

    if (part == parts) {
        return p->B;
    }
    while (b < p->B && (p->row_ptr[b] - p->row_ptr[0]) * parts < entries * part) {
        b++;
    }
    return b;
}

static csp_status add_dh(csp_backend *be, const pool_grad *p, const float *e)
{
    const int64_t entries = p->row_ptr[p->B] - p->row_ptr[0];
    const int64_t block = pick_block(entries, p->B, p->V);
    const int parts = cpu_parts(be, entries * p->D);
    const bool by_text = p->B >= 4 * parts;
    const size_t lists = csp_size_round_up((size_t)p->B * sizeof(int64_t), CSP_ARENA_ALIGN);
    int64_t longest = 0;

    for (int64_t b = 0; b < p->B; b++) {
        const int64_t T = p->seq_start[b + 1] - p->seq_start[b];

        longest = T > longest ? T : longest;
    }
    CSP_TRY(cpu_scratch_each(be, lists + sizeof(run_scratch) +
                                     (size_t)(longest + 1) * sizeof(int64_t)));
    memset(p->g->dh.data, 0, csp_tensor_bytes(&p->g->dh));
#pragma omp parallel num_threads(parts)
    {
        /* A region may get fewer threads than it asks for: each walks shares until none is left. */
        for (int part = omp_get_thread_num(); part < parts; part += omp_get_num_threads()) {
            char *scratch = cpu_scratch_of(be, omp_get_thread_num());
            const int64_t from = by_text ? 0 : cpu_cut(p->D, 16, parts, part);
            const int64_t to = by_text ? p->D : cpu_cut(p->D, 16, parts, part + 1);

            add_texts(p, e, block, by_text ? share_of_texts(p, parts, part) : 0,
                      by_text ? share_of_texts(p, parts, part + 1) : p->B, from, to - from,
                      (int64_t *)scratch, (run_scratch *)(scratch + lists));
        }
    }
    return CSP_OK;
}

/* Scratch of a thread for de: entries of a block of terms, sorted by term. */
typedef struct term_scratch {
    int64_t *cursor; /* (B) next entry of each text */
    int64_t *start;  /* (block + 1)                 */
    float *dz;       /* (block) of one text's run   */
    int32_t *row;    /* (B * block)                 */
    float *coefficient;
} term_scratch;

static size_t term_scratch_bytes(int64_t B, int64_t block)
{
    return (size_t)(B + block + 1) * sizeof(int64_t) + (size_t)block * sizeof(float) +
           (size_t)(B * block) * (sizeof(int32_t) + sizeof(float));
}

static term_scratch term_scratch_at(void *memory, int64_t B, int64_t block)
{
    term_scratch s;

    s.cursor = memory;
    s.start = s.cursor + B;
    s.dz = (float *)(s.start + block + 1);
    s.row = (int32_t *)(s.dz + block);
    s.coefficient = (float *)(s.row + B * block);
    return s;
}

/* de rows v .. v+width-1 += their entries; moves every text's cursor past them. */
static void add_terms(const pool_grad *p, const float *h, int64_t v, int64_t width, term_scratch *s)
{
    float *de = (float *)p->g->de.data + v * p->D;

    memset(s->start, 0, (size_t)(width + 1) * sizeof(int64_t));
    for (int64_t b = 0; b < p->B; b++) {
        for (int64_t i = s->cursor[b]; i < p->row_ptr[b + 1] && p->term[i] < v + width; i++) {
            s->start[p->term[i] - v + 1] += p->dw[i] != 0.0f;
        }
    }
    for (int64_t j = 0; j < width; j++) {
        s->start[j + 1] += s->start[j];
    }
    for (int64_t b = 0; b < p->B; b++) {
        const int64_t first = s->cursor[b];
        const int64_t end = cpu_entry_of_term(
            p->term, first, first + width < p->row_ptr[b + 1] ? first + width : p->row_ptr[b + 1],
            v + width);

        logit_gradients(p->weight + first, p->dw + first, p->scale, end - first, s->dz);
        for (int64_t i = first; i < end; i++) {
            if (p->dw[i] != 0.0f) {
                const int64_t at = s->start[p->term[i] - v]++;

                s->row[at] = p->seq_start[b] + p->argmax[i];
                s->coefficient[at] = s->dz[i - first];
            }
        }
        s->cursor[b] = end;
    }
    /* start[j] has become the end of j. */
    for (int64_t j = 0, at = 0; j < width; at = s->start[j], j++) {
        cpu_gather_add(s->start[j] - at, s->row + at, s->coefficient + at, h, p->D, p->D,
                       de + j * p->D);
    }
}

static csp_status add_de(csp_backend *be, const pool_grad *p)
{
    const int64_t entries = p->row_ptr[p->B] - p->row_ptr[0];
    const int64_t fit = BLOCK_ENTRIES / (p->B + 1);
    const int64_t block = fit < 16 ? 16 : fit > 1024 ? 1024 : fit;
    const int parts = cpu_parts(be, entries * p->D);

    CSP_TRY(cpu_scratch_each(be, term_scratch_bytes(p->B, block)));
#pragma omp parallel num_threads(parts)
    {
        for (int part = omp_get_thread_num(); part < parts; part += omp_get_num_threads()) {
            const int64_t end = cpu_cut(p->V, 16, parts, part + 1);
            term_scratch s = term_scratch_at(cpu_scratch_of(be, omp_get_thread_num()), p->B, block);
            int64_t v = cpu_cut(p->V, 16, parts, part);

            for (int64_t b = 0; b < p->B; b++) {
                s.cursor[b] = cpu_entry_of_term(p->term, p->row_ptr[b], p->row_ptr[b + 1], v);
            }
            for (; v < end; v += block) {
                add_terms(p, p->g->h.data, v, end - v < block ? end - v : block, &s);
            }
        }
    }
    return CSP_OK;
}

csp_status cpu_sparse_pool_max_bwd(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    const pool_grad p = { .g = g,
                          .row_ptr = (const int64_t *)g->rows->row_ptr.data + g->first_row,
                          .term = g->rows->term.data,
                          .argmax = g->rows->argmax.data,
                          .seq_start = g->texts.seq_start.data,
                          .weight = g->rows->weight.data,
                          .dw = g->dw.data,
                          .B = g->texts.seq_start.dim[0] - 1,
                          .V = head->e.dim[0],
                          .D = head->e.dim[1],
                          .scale = head->scale };

    CSP_TRY(add_dh(be, &p, head->e.data));
    return g->de.ndim > 0 ? add_de(be, &p) : CSP_OK;
}
