/* pool.c - inputs of the retrieval head's tests. */
#include "support/pool.h"

#include "core/rng.h"

/* One element; one less and one more than a block of terms (256) and of rows (384); texts across
 * blocks of rows; widths that no vector divides. */
const pool_case pool_cases[POOL_CASES] = {
    { 1, 1, 1, 1, 1.0f, false },     { 2, 9, 257, 5, 1.0f, true },
    { 5, 383, 513, 16, 0.3f, true }, { 3, 800, 530, 33, 1.0f, false },
    { 9, 385, 255, 70, 2.5f, true }, { 40, 390, 640, 129, 0.25f, false },
};

csp_pool_texts pool_texts_of(rig *r, csp_tensor seq_start, csp_tensor keep)
{
    const int32_t *start = rig_host(r, &seq_start);
    const uint8_t *kept = rig_host(r, &keep);
    csp_pool_texts texts = { .seq_start = seq_start, .keep = keep };

    for (int64_t n = 0; n < keep.dim[0]; n++) {
        texts.kept += kept[n] != 0;
    }
    for (int64_t b = 0; b + 1 < seq_start.dim[0]; b++) {
        const int64_t rows = start[b + 1] - start[b];

        texts.longest = rows > texts.longest ? rows : texts.longest;
    }
    return texts;
}

pool_setup pool_of_tensors(rig *r, csp_tensor h, csp_tensor e, csp_tensor seq_start,
                           csp_tensor keep, csp_tensor exclude, float scale, csp_pool_kind pooling)
{
    pool_setup s;

    s.head = (csp_head) { e, exclude, scale, pooling };
    s.h = h;
    s.texts = pool_texts_of(r, seq_start, keep);
    s.ref = (ref_pool) { .h = rig_as_doubles(r, &h),
                         .e = rig_as_doubles(r, &e),
                         .exclude = exclude.ndim > 0 ? rig_host(r, &exclude) : NULL,
                         .seq_start = rig_host(r, &seq_start),
                         .keep = rig_host(r, &keep),
                         .scale = (double)scale,
                         .B = seq_start.dim[0] - 1,
                         .N = h.dim[0],
                         .V = e.dim[0],
                         .D = e.dim[1] };
    return s;
}

csp_tensor pool_some_terms(rig *r, int64_t V, bool wanted)
{
    uint8_t *exclude = (uint8_t *)rig_ints(r, V);

    if (!wanted) {
        return csp_tensor_none();
    }
    for (int64_t v = 0; v < V; v++) {
        exclude[v] = v % 4 == 1;
    }
    return rig_input(r, CSP_U8, 1, &V, exclude);
}

pool_setup pool_random(rig *r, int64_t i, csp_pool_kind pooling, csp_dtype S)
{
    const int64_t N = pool_cases[i].N, V = pool_cases[i].V, D = pool_cases[i].D;
    const csp_tensor h = rig_normal(r, S, 2, (int64_t[]) { N, D });
    const csp_tensor e = rig_normal(r, S, 2, (int64_t[]) { V, D });

    return pool_of_tensors(r, h, e, rig_cuts(r, pool_cases[i].B, N), rig_mask(r, N),
                           pool_some_terms(r, V, pool_cases[i].exclude), pool_cases[i].scale,
                           pooling);
}

/* (rows,columns) numbers as S holds them. */
static csp_tensor pool_numbers(rig *r, csp_dtype S, int64_t rows, int64_t columns, const float *x)
{
    const csp_tensor t = rig_input(r, CSP_F32, 2, (int64_t[]) { rows, columns }, x);

    return rig_stored(r, S, &t);
}

csp_tensor pool_whole_numbers(rig *r, csp_dtype S, int64_t low, int64_t high, int64_t rows,
                              int64_t columns)
{
    const csp_rng rng = { .seed = r->seed, .draw = CSP_DRAW_TEST, .key = r->drawn++, .step = 0 };
    float *x = (float *)(void *)rig_ints(r, rows * columns);

    for (int64_t i = 0; i < rows * columns; i++) {
        x[i] = (float)(low + (int64_t)csp_rng_below(rng, (uint64_t)i, (uint64_t)(high - low + 1)));
    }
    return pool_numbers(r, S, rows, columns, x);
}

pool_setup pool_exact(rig *r, int64_t i, csp_pool_kind pooling, csp_dtype S)
{
    const int64_t N = pool_cases[i].N, V = pool_cases[i].V, D = pool_cases[i].D + 1;
    const csp_tensor whole_h = pool_whole_numbers(r, CSP_F32, -2, 2, N, D);
    const csp_tensor whole_e = pool_whole_numbers(r, CSP_F32, -2, 2, V, D);
    float *h = rig_host(r, &whole_h), *e = rig_host(r, &whole_e);

    for (int64_t n = 0; n < N; n++) {
        h[n * D + D - 1] = 1.0f;
    }
    for (int64_t v = 0; v < V; v++) {
        e[v * D + D - 1] = 0.5f;
    }
    return pool_of_tensors(r, pool_numbers(r, S, N, D, h), pool_numbers(r, S, V, D, e),
                           rig_cuts(r, pool_cases[i].B, N), rig_mask(r, N),
                           pool_some_terms(r, V, pool_cases[i].exclude), 0.5f, pooling);
}

csp_tensor pool_most_rows(rig *r, int64_t N)
{
    uint8_t *keep = (uint8_t *)rig_ints(r, N);

    for (int64_t n = 0; n < N; n++) {
        keep[n] = n % 100 != 77;
    }
    return rig_input(r, CSP_U8, 1, &N, keep);
}

csp_status pool_forward(rig *r, const pool_setup *s, int64_t first_row, csp_sparse *out)
{
    return csp_sparse_pool_fwd(r->be, &s->head, &s->h, &s->texts, first_row, out);
}
