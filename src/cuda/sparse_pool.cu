/*
 * sparse_pool.cu - CUDA side of ops/sparse_pool.h, forward; which way backward goes.
 *
 * A tile of products h e^T, 16 MiB of up to 2,048 rows (bf16: 4,096), is formed by cuBLAS and
 * folded at once, while it is in the second-level cache, into a table of the best product and its
 * position for each (text, term) (sparse_pool_fold.cu). Then the table becomes sparse rows
 * (sparse_pool_rows.cu). There are two tiles: while one is folded on a stream of its own, cuBLAS
 * forms the other, so that the product never waits for a fold; tiles are folded in their order, to
 * the same bits. Where all terms fit into one tile nothing runs beside. Rows that are not kept
 * are not multiplied: the others are copied together first, a tile's rows at a time. Bound by the
 * product, 2·kept·V·D operations. Where it is chosen so (csp_sparse_pool_choose_forward) product
 * and fold are one kernel, which needs no tile of logits (sparse_pool_sm90.cu).
 *
 * The table, 8 bytes for each (text, term), 4 in bf16 and for sum pooling:
 *
 *   capacity for first_row + B full rows   it is the unused part of out itself, whose rows it
 *              becomes in groups copied to scratch: the entries of rows up to b never reach the
 *              table's row b + 1. Nothing is waited for.
 *   less       it is scratch, for a group of texts at a time; the host waits for the places of the
 *              group's rows and of its entries, because they may not fit.
 *
 * Scratch: 32 MiB (the tiles; fused: 4 bytes for each 256 rows), 64 MiB (POOL_PIECE) or one row of
 * the table, which in the second case is the table, and 4 bytes for each text and 512 terms. Where
 * not all rows are kept also 12 bytes for each row, and D numbers for each row of a tile (32 MiB at
 * D = 4,096).
 */
#include "cusparse.cuh"
#include "sparse_pool.cuh"
#include "sparse_pool_pick.h"

/* One call, or one group of its texts. */
typedef struct pool_pass {
    const csp_head *head;
    const void *h;
    csp_dtype S;
    const int32_t *seq_start; /* (texts+1) of the group's texts                     */
    const int32_t *start;     /* (texts+1) the same of kept.start                   */
    int64_t texts, V, D;
    pool_kept kept;
    pool_tile tile;
    bool fused;     /* there are none: tile.rows are copied together at once        */
    int tiles;      /* how many of them, 1 or 2                                     */
    void *logits;   /* the tiles                                                    */
    int32_t *text;  /* fused: of each tile's first row                              */
    void *together; /* room for the tile's rows of h, where not all are kept        */
    int64_t group;  /* rows of the table in scratch                                 */
    float *best;    /* (group,V) in scratch; keys where S is bf16 and the maximum is taken */
    int32_t *arg;   /* the same; NULL for sum and for keys                          */
    pool_counts counts;
} pool_pass;

/* Whether best holds keys. */
static bool has_keys(const pool_pass *p)
{
    return p->S == CSP_BF16 && p->head->pooling == CSP_POOL_MAX;
}

/* The tile of terms v .. v+tile.terms-1 and kept rows from .. from+count-1, with its table. */
static pool_fold fold_of(const pool_pass *p, int64_t from, int64_t count, int64_t v, void *logits,
                         float *best, int32_t *arg)
{
    pool_fold a = {};

    a.z = logits;
    a.seq_start = p->seq_start;
    a.start = p->start;
    a.row = p->kept.row;
    a.best = best + v;
    a.arg = arg != NULL ? arg + v : NULL;
    a.key = has_keys(p) ? (int32_t *)best + v : NULL;
    a.stride = p->tile.stride;
    a.from = from;
    a.count = count;
    a.width = p->V - v < p->tile.terms ? p->V - v : p->tile.terms;
    a.texts = p->texts;
    a.V = p->V;
    a.scale = p->head->scale;
    return a;
}

/* Folds the terms of all tiles of kept rows from .. from+count-1 into the table best, arg. */
static csp_status fold_tiles(csp_backend *be, const pool_pass *p, int64_t from, int64_t count,
                             float *best, int32_t *arg)
{
    const int64_t element = (int64_t)csp_dtype_bytes(p->S), row_bytes = p->D * element;
    const cuda_beside *beside = &cuda_state_of(be)->beside;
    cudaStream_t stream = cuda_stream(be, "sparse_pool");
    cudaStream_t folding = p->tiles > 1 ? beside->stream : stream;
    const void *h;
    int64_t t = 0;

    CSP_TRY(pool_kept_rows(be, &p->kept, p->h, from, count, row_bytes, p->together, &h));
    for (int64_t v = 0; v < p->V; v += p->tile.terms, t++) {
        const int which = (int)(t % p->tiles);
        char *logits = (char *)p->logits + which * tile_elements(&p->tile) * element;
        const char *e = (const char *)p->head->e.data + v * row_bytes;
        const pool_fold a = fold_of(p, from, count, v, logits, best, arg);

        if (t >= 2 && p->tiles > 1) {
            CUDA_TRY(cudaStreamWaitEvent(stream, beside->done[which], 0));
        }
        CSP_TRY(cuda_gemm_stored(be, false, true, count, a.width, p->D, 1.0f, p->S, h, p->D, e,
                                 p->D, 0.0f, p->S, logits, p->tile.stride));
        if (p->tiles > 1) {
            CUDA_TRY(cudaEventRecord(beside->ready[which], stream));
            CUDA_TRY(cudaStreamWaitEvent(folding, beside->ready[which], 0));
        }
        CSP_TRY(pool_fold_tile(&a, p->head->pooling, p->S, folding));
        if (p->tiles > 1) {
            CUDA_TRY(cudaEventRecord(beside->done[which], folding));
        }
    }
    if (p->tiles > 1) {
        /* The last fold is behind all others. */
        CUDA_TRY(cudaStreamWaitEvent(stream, beside->done[(t - 1) % 2], 0));
    }
    return CSP_OK;
}

/* The same in one kernel, the table being keys. */
static csp_status fold_fused(csp_backend *be, const pool_pass *p, int64_t from, int64_t count,
                             float *best)
{
    pool_fused f = {};

    CSP_TRY(pool_kept_rows(be, &p->kept, p->h, from, count, p->D * (int64_t)csp_dtype_bytes(p->S),
                           p->together, &f.h));
    f.e = p->head->e.data;
    f.start = p->start;
    f.key = (int32_t *)best;
    f.tile_text = p->text;
    f.from = from;
    f.count = count;
    f.texts = p->texts;
    f.V = p->V;
    f.D = p->D;
    return pool_fold_fused(be, &f);
}

/* Fills the table best, arg (texts,V) from kept rows from .. end-1, those of the texts. */
static csp_status fold_rows(csp_backend *be, const pool_pass *p, int64_t from, int64_t end,
                            float *best, int32_t *arg)
{
    CUDA_TRY(cudaMemsetAsync(best, 0, (size_t)(p->texts * p->V) * sizeof(float),
                             cuda_stream(be, "sparse_pool")));
    for (int64_t i = from; i < end; i += p->tile.rows) {
        const int64_t count = end - i < p->tile.rows ? end - i : p->tile.rows;

        CSP_TRY(p->fused ? fold_fused(be, p, i, count, best)
                         : fold_tiles(be, p, i, count, best, arg));
    }
    return CSP_OK;
}

/* The table of `texts` texts, which begins with text number first of the pass. */
static pool_table table_of(const pool_pass *p, const float *best, const int32_t *arg, int64_t first,
                           int64_t texts)
{
    const csp_tensor *exclude = &p->head->exclude;
    pool_table t = {};

    t.best = has_keys(p) ? NULL : best;
    t.arg = arg;
    t.key = has_keys(p) ? (const int32_t *)best : NULL;
    t.exclude = exclude->ndim > 0 ? (const uint8_t *)exclude->data : NULL;
    /* Where the maximum is taken the logits are without their scale still. */
    t.scale = p->head->pooling == CSP_POOL_MAX ? p->head->scale : 1.0f;
    if (p->fused) {
        t.row = p->kept.row;
        t.start = p->start + first;
        t.seq_start = p->seq_start + first;
    }
    t.texts = texts;
    t.V = p->V;
    return t;
}

/* Writes the places of p->texts rows from row on, which have been counted, into out. */
static csp_status append_places(csp_backend *be, const pool_pass *p, int64_t row, csp_sparse *out)
{
    CUDA_TRY(cudaMemcpyAsync((int64_t *)out->row_ptr.data + row, p->counts.row_start,
                             (size_t)(p->texts + 1) * sizeof(int64_t), cudaMemcpyDeviceToDevice,
                             cuda_stream(be, "sparse_pool")));
    return CSP_OK;
}

/* The end of the rows before row, on the device; NULL where there are none. */
static const int64_t *end_before(const csp_sparse *out, int64_t row)
{
    return row > 0 ? (const int64_t *)out->row_ptr.data + row : NULL;
}

/* All texts at once, the table being out's own memory from the place of first_row full rows on. */
static csp_status pool_in_place(csp_backend *be, pool_pass *p, int64_t first_row, csp_sparse *out)
{
    cudaStream_t stream = cuda_stream(be, "sparse_pool");
    float *best = (float *)out->weight.data + first_row * p->V;
    int32_t *arg = p->arg != NULL ? (int32_t *)out->argmax.data + first_row * p->V : NULL;
    const pool_table all = table_of(p, best, arg, 0, p->texts);

    CSP_TRY(fold_rows(be, p, 0, p->kept.count, best, arg));
    CSP_TRY(pool_rows_count(be, &all, end_before(out, first_row), &p->counts));
    CSP_TRY(append_places(be, p, first_row, out));
    for (int64_t b = 0; b < p->texts; b += p->group) {
        const int64_t texts = p->texts - b < p->group ? p->texts - b : p->group;
        const pool_table part = table_of(p, p->best, p->arg, b, texts);
        const size_t bytes = (size_t)(texts * p->V) * sizeof(float);

        CUDA_TRY(
            cudaMemcpyAsync(p->best, best + b * p->V, bytes, cudaMemcpyDeviceToDevice, stream));
        if (arg != NULL) {
            CUDA_TRY(
                cudaMemcpyAsync(p->arg, arg + b * p->V, bytes, cudaMemcpyDeviceToDevice, stream));
        }
        CSP_TRY(pool_rows_write(be, &part, b, &p->counts, out));
    }
    return CSP_OK;
}

/* A group of texts that begins with row of out, the table being scratch. */
static csp_status pool_group(csp_backend *be, pool_pass *p, int64_t row, csp_sparse *out)
{
    const pool_table table = table_of(p, p->best, p->arg, 0, p->texts);
    void *fetched;
    int64_t from, end, need;

    CSP_TRY(cuda_fetch(be, p->start, (size_t)(p->texts + 1) * sizeof(int32_t), &fetched));
    from = ((const int32_t *)fetched)[0];
    end = ((const int32_t *)fetched)[p->texts];
    CSP_TRY(fold_rows(be, p, from, end, p->best, p->arg));
    CSP_TRY(pool_rows_count(be, &table, end_before(out, row), &p->counts));
    CSP_TRY(cuda_fetch(be, p->counts.row_start + p->texts, sizeof(need), &fetched));
    need = *(const int64_t *)fetched;
    if (need > out->term.dim[0]) {
        return CSP_FAIL(
            CSP_ERR_MEMORY, "sparse_pool: rows 0 to %lld need %lld entries, there is room for %lld",
            (long long)(row + p->texts - 1), (long long)need, (long long)out->term.dim[0]);
    }
    CSP_TRY(append_places(be, p, row, out));
    return pool_rows_write(be, &table, 0, &p->counts, out);
}

/* Places the scratch of a call: once to measure, once with memory. */
static csp_status pass_place(csp_arena *arena, pool_pass *p, const csp_pool_texts *texts,
                             int64_t counted)
{
    const size_t bytes = csp_dtype_bytes(p->S);

    CSP_TRY(pool_kept_place(arena, texts, &p->kept));
    if (p->fused) {
        CSP_TRY(pool_take(arena, pool_fused_tiles(p->tile.rows), &p->text));
    } else {
        CSP_TRY(csp_arena_take(arena, (size_t)(p->tiles * tile_elements(&p->tile)) * bytes,
                               &p->logits));
    }
    if (texts->kept < texts->keep.dim[0]) {
        CSP_TRY(csp_arena_take(arena, (size_t)(p->tile.rows * p->D) * bytes, &p->together));
    }
    CSP_TRY(pool_take(arena, p->group * p->V, &p->best));
    if (p->head->pooling == CSP_POOL_MAX && !has_keys(p)) {
        CSP_TRY(pool_take(arena, p->group * p->V, &p->arg));
    }
    return pool_counts_place(arena, counted, p->V, &p->counts);
}

/* Whether the call is one kernel; an error where that was chosen and cannot be. */
static csp_status is_fused(csp_backend *be, const csp_head *head, const csp_tensor *h, bool *out)
{
    const bool chosen = cuda_state_of(be)->pool_forward == CSP_POOL_FORWARD_FUSED;

    if (chosen && (h->dtype != CSP_BF16 || head->pooling != CSP_POOL_MAX || h->dim[1] % 8 != 0 ||
                   ((uintptr_t)h->data | (uintptr_t)head->e.data) % 16 != 0)) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "sparse_pool: the fused head forward was chosen, which is for bf16, max "
                        "pooling and widths that are multiples of 8: not %s, %s pooling, %lld",
                        csp_dtype_name(h->dtype), head->pooling == CSP_POOL_MAX ? "max" : "sum",
                        (long long)h->dim[1]);
    }
    *out = chosen;
    return CSP_OK;
}

csp_status cuda_sparse_pool_fwd(csp_backend *be, const csp_head *head, const csp_tensor *h,
                                const csp_pool_texts *texts, int64_t first_row, csp_sparse *out)
{
    const int64_t B = texts->seq_start.dim[0] - 1;
    const int32_t *starts = (const int32_t *)texts->seq_start.data;
    pool_pass p = {};
    csp_arena scratch = {};
    void *memory;

    p.head = head;
    p.h = h->data;
    p.S = h->dtype;
    p.V = head->e.dim[0];
    p.D = head->e.dim[1];
    p.tile = pick_pool_tiles(texts->kept, p.V, p.S, &p.tiles);
    CSP_TRY(is_fused(be, head, h, &p.fused));
    if (p.fused && texts->kept == texts->keep.dim[0]) {
        p.tile.rows = texts->kept < 1 ? 1 : texts->kept; /* nothing is copied together */
    }
    p.group = POOL_PIECE / p.V;
    p.group = p.group < 1 ? 1 : p.group < B ? p.group : B;

    const bool enough = out->term.dim[0] / p.V >= first_row + B;
    const int64_t counted = enough ? B : p.group;
    CSP_TRY(pass_place(&scratch, &p, texts, counted));
    CSP_TRY(cuda_scratch(be, scratch.peak, &memory));
    scratch = { (char *)memory, scratch.peak, 0, 0 };
    CSP_TRY(pass_place(&scratch, &p, texts, counted));
    CSP_TRY(pool_kept_list(be, texts, &p.kept));
    if (enough) {
        p.texts = B;
        p.seq_start = starts;
        p.start = p.kept.start;
        return pool_in_place(be, &p, first_row, out);
    }
    for (int64_t b = 0; b < B; b += p.group) {
        p.texts = B - b < p.group ? B - b : p.group;
        p.seq_start = starts + b;
        p.start = p.kept.start + b;
        CSP_TRY(pool_group(be, &p, first_row + b, out));
    }
    return CSP_OK;
}

/* What was chosen, or what is the fastest by the model of sparse_pool_pick.h. */
static csp_pool_way way_of(csp_backend *be, const csp_head *head, const csp_sparse_pool_grad *g)
{
    const cuda_state *state = cuda_state_of(be);
    pool_work w = {};

    if (state->pool_way != CSP_POOL_AUTO) {
        return state->pool_way;
    }
    w.entries = g->entries;
    w.texts = g->texts.seq_start.dim[0] - 1;
    w.kept = g->texts.kept;
    w.V = head->e.dim[0];
    w.D = head->e.dim[1];
    w.S = head->e.dtype;
    w.stream_rows = pick_stream_rows(w.kept, w.D, state->processors, state->shared_limit);
    return pick_pool_way(&w);
}

csp_status cuda_sparse_pool_bwd(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    const bool trained = g->de.ndim > 0;
    const bool sum = head->pooling == CSP_POOL_SUM;
    const csp_pool_way way = sum ? CSP_POOL_TILES : way_of(be, head, g);

    if (sum && cuda_state_of(be)->pool_way != CSP_POOL_AUTO &&
        cuda_state_of(be)->pool_way != CSP_POOL_TILES) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "sparse_pool: sum pooling goes by tiles only, and another way was chosen");
    }
    if (way == CSP_POOL_TILES) {
        return pool_bwd_tiles(be, head, g);
    }
    if (way == CSP_POOL_CUSPARSE) {
        CSP_TRY(pool_dh_cusparse(be, head, g));
        return trained ? pool_de_cusparse(be, head, g) : CSP_OK;
    }
    CSP_TRY(way == CSP_POOL_STREAM ? pool_dh_stream(be, head, g) : pool_dh_lists(be, head, g));
    return trained ? pool_de_lists(be, head, g) : CSP_OK;
}

csp_status cuda_sparse_pool_choose_forward(csp_backend *be, csp_pool_forward way)
{
    cuda_state *state = cuda_state_of(be);

    if (way == CSP_POOL_FORWARD_FUSED && !state->hopper) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "%s: the fused head forward (device.head_forward: fused) needs a device of "
                        "compute capability 9.0: take auto or tiles",
                        state->name);
    }
    state->pool_forward = way;
    return CSP_OK;
}

csp_status cuda_sparse_pool_choose(csp_backend *be, csp_pool_way way)
{
    const cusparse_table *table;

    if (way == CSP_POOL_CUSPARSE) {
        CSP_TRY(cuda_cusparse(be, &table));
    }
    cuda_state_of(be)->pool_way = way;
    return CSP_OK;
}
