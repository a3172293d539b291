/*
 * kept_rows.c - two downloads for each micro-batch: where rows begin, which says how much there is,
 * and then just that much. Impacts cross in as few bytes each as their largest needs, which comes
 * with the first download.
 */
#include "eval/kept_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "model/finite.h"
#include "ops/impacts.h"
#include "ops/top_k.h"

struct csp_kept_rows {
    csp_backend *be;
    csp_kept_limits limits;
    csp_arena memory;
    csp_sparse all;            /* every active term                                     */
    csp_sparse strongest;      /* of a cut; no tensors where none is asked for          */
    csp_impact_rows quantised; /* no tensors where none is asked for               */
    csp_tensor bad_row;        /* (1) i64 of csp_run_note_bad_row                       */
    csp_download starts;       /* row_ptr, bad_row, counts of quantised                 */
    csp_download entries;      /* term, weight or impact                                */
    bool pooled;               /* and not yet fetched                                   */
    const csp_sparse *of;      /* what the micro-batch pooled last is in, unless quantised */
    int64_t texts;             /* of that micro-batch                                   */
    bool any_rows;             /* it has token rows                                     */
    void *at[3];               /* the parts of starts on the host                       */
    int64_t *row_ptr;          /* [texts+1] a copy for the caller                       */
    float *weight;             /* [weight_room] impacts as the caller gets them         */
    int64_t weight_room;
};

static bool is_quantised(const csp_kept_rows *k)
{
    return k->limits.quant.kind != CSP_QUANT_NONE;
}

static csp_status place_sparse(csp_arena *arena, int64_t texts, int64_t cap, bool argmax,
                               csp_sparse *out)
{
    const int64_t starts = texts + 1;

    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &starts, &out->row_ptr));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &cap, &out->term));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &cap, &out->weight));
    return argmax ? csp_arena_tensor(arena, CSP_I32, 1, &cap, &out->argmax) : CSP_OK;
}

/* Impacts take the place of the maxima's positions, which are of no use here. */
static csp_status place_impacts(csp_arena *arena, int64_t texts, const csp_sparse *all,
                                csp_impact_rows *out)
{
    const int64_t starts = texts + 1, cap = all->term.dim[0], bytes = 4 * cap;
    const int64_t counts = CSP_IMPACTS_COUNTS;

    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &starts, &out->row_ptr));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &cap, &out->term));
    out->impact = csp_tensor_view(all->argmax.data, CSP_U8, 1, &bytes);
    return csp_arena_tensor(arena, CSP_I64, 1, &counts, &out->count);
}

/* On a ruler this measures. */
static csp_status place(csp_kept_rows *k, const csp_params *params, csp_arena *arena)
{
    const csp_kept_limits *l = &k->limits;
    const int64_t V = params->config.V, one = 1;

    k->all.vocab = k->strongest.vocab = V;
    CSP_TRY(place_sparse(arena, l->texts, l->texts * V, true, &k->all));
    if (l->top_k > 0) {
        CSP_TRY(place_sparse(arena, l->texts, l->texts * (l->top_k < V ? l->top_k : V), false,
                             &k->strongest));
    }
    if (is_quantised(k)) {
        CSP_TRY(place_impacts(arena, l->texts, &k->all, &k->quantised));
    }
    return csp_arena_tensor(arena, CSP_I64, 1, &one, &k->bad_row);
}

csp_status csp_kept_rows_bytes(const csp_params *params, const csp_kept_limits *limits, size_t *out)
{
    csp_kept_rows k = { .limits = *limits };
    csp_arena ruler = { 0 };

    CSP_TRY(place(&k, params, &ruler));
    *out = ruler.peak;
    return CSP_OK;
}

csp_status csp_kept_rows_create(csp_backend *be, const csp_params *params,
                                const csp_kept_limits *limits, csp_kept_rows **out)
{
    csp_kept_rows *k;
    size_t bytes;
    csp_status status;

    CSP_TRY(csp_alloc_zero("sparse rows", 1, sizeof(*k), &k));
    k->be = be;
    k->limits = *limits;
    CSP_TRY_GOTO(csp_alloc("sparse rows", limits->texts + 1, sizeof(*k->row_ptr), &k->row_ptr));
    CSP_TRY_GOTO(csp_kept_rows_bytes(params, limits, &bytes));
    CSP_TRY_GOTO(csp_backend_reserve(be, bytes, &k->memory));
    CSP_TRY_GOTO(place(k, params, &k->memory));
    *out = k;
    return CSP_OK;

fail:
    csp_kept_rows_destroy(k);
    return status;
}

void csp_kept_rows_destroy(csp_kept_rows *k)
{
    if (k == NULL) {
        return;
    }
    /* Copies may be under way after a failure: they end before their source goes. */
    csp_download_clear(k->be, &k->starts);
    csp_download_clear(k->be, &k->entries);
    csp_backend_release(k->be, &k->memory);
    free(k->row_ptr);
    free(k->weight);
    free(k);
}

/* Starts the download of what says how much there is. */
static csp_status start_starts(csp_kept_rows *k)
{
    const csp_tensor *row_ptr = is_quantised(k) ? &k->quantised.row_ptr : &k->of->row_ptr;
    const csp_tensor parts[] = { csp_tensor_rows(row_ptr, 0, k->texts + 1),
                                 csp_tensor_rows(&k->bad_row, 0, k->any_rows), k->quantised.count };

    CSP_TRY(csp_download_mark(k->be, &k->starts));
    CSP_TRY(csp_download_mark(k->be, &k->entries));
    return csp_download_start(k->be, &k->starts, parts, is_quantised(k) ? 3 : 2, k->at);
}

csp_status csp_kept_rows_pool(csp_kept_rows *k, const csp_model *model, const csp_head *head,
                              const csp_run *run, const csp_pool_texts *texts, int64_t top_k)
{
    const int64_t B = texts->seq_start.dim[0] - 1;

    CSP_ASSERT(!k->pooled && top_k <= k->limits.top_k && B <= k->limits.texts);
    if (run->N > 0) {
        CSP_TRY(csp_run_note_bad_row(model, run, &k->bad_row));
    }
    CSP_TRY(csp_sparse_pool_fwd(k->be, head, &run->h, texts, 0, &k->all));
    if (top_k > 0) {
        CSP_TRY(csp_top_k(k->be, &k->all, B, top_k, &k->strongest));
    }
    k->of = top_k > 0 ? &k->strongest : &k->all;
    if (is_quantised(k)) {
        CSP_TRY(csp_impacts(k->be, k->of, B, &k->limits.quant, &k->quantised));
    }
    k->texts = B;
    k->any_rows = run->N > 0;
    CSP_TRY(start_starts(k));
    k->pooled = true;
    return CSP_OK;
}

/* Brings the first nnz terms and the first bytes of what stands beside them to the host. */
static csp_status fetch_entries(csp_kept_rows *k, const csp_tensor *term, const csp_tensor *beside,
                                int64_t nnz, int64_t elements, void *at[2])
{
    const csp_tensor parts[] = { csp_tensor_rows(term, 0, nnz),
                                 csp_tensor_rows(beside, 0, elements) };

    CSP_TRY(csp_download_start(k->be, &k->entries, parts, 2, at));
    return csp_download_wait(k->be, &k->entries);
}

static float weight_of(int32_t impact)
{
    return impact == CSP_IMPACT_INFINITE ? INFINITY : (float)impact;
}

/* Impacts of so many bytes each, as weights. */
static void widen(const void *impact, int32_t bytes, int64_t nnz, float *weight)
{
    for (int64_t i = 0; i < nnz; i++) {
        weight[i] = weight_of(bytes == 1   ? ((const uint8_t *)impact)[i]
                              : bytes == 2 ? ((const uint16_t *)impact)[i]
                                           : ((const int32_t *)impact)[i]);
    }
}

static csp_status fetch_impacts(csp_kept_rows *k, int64_t nnz, csp_fetched_rows *out)
{
    const int64_t *count = k->at[2];
    const int32_t bytes = csp_impact_bytes(count[CSP_IMPACTS_LARGEST]);
    void *at[2];

    out->counts =
        (csp_quant_counts) { nnz, count[CSP_IMPACTS_DROPPED], count[CSP_IMPACTS_CLIPPED] };
    CSP_TRY(fetch_entries(k, &k->quantised.term, &k->quantised.impact, nnz, nnz * bytes, at));
    if (nnz > k->weight_room) {
        CSP_TRY(csp_realloc("sparse rows", nnz + nnz / 2, sizeof(*k->weight), &k->weight));
        k->weight_room = nnz + nnz / 2;
    }
    widen(at[1], bytes, nnz, k->weight);
    out->term = at[0];
    out->weight = k->weight;
    return CSP_OK;
}

static csp_status fetch_weights(csp_kept_rows *k, int64_t nnz, csp_fetched_rows *out)
{
    void *at[2];

    CSP_TRY(fetch_entries(k, &k->of->term, &k->of->weight, nnz, nnz, at));
    out->term = at[0];
    out->weight = at[1];
    return CSP_OK;
}

csp_status csp_kept_rows_fetch(csp_kept_rows *k, csp_fetched_rows *out)
{
    csp_fetched_rows rows = { .texts = k->texts, .row_ptr = k->row_ptr };
    int64_t nnz;

    CSP_ASSERT(k->pooled);
    k->pooled = false;
    CSP_TRY(csp_download_wait(k->be, &k->starts));
    memcpy(k->row_ptr, k->at[0], (size_t)(k->texts + 1) * sizeof(*k->row_ptr));
    rows.bad_row = k->any_rows ? *(const int64_t *)k->at[1] : -1;
    nnz = k->row_ptr[k->texts];
    CSP_TRY(is_quantised(k) ? fetch_impacts(k, nnz, &rows) : fetch_weights(k, nnz, &rows));
    *out = rows;
    return CSP_OK;
}
