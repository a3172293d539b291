/*
 * contrastive.c - the contrastive step.
 *
 * Sparse rows of both sides lie in an arena for the worst case, every term of every text, which is
 * near what the first steps of a language model have. On a CPU only the pages that are written
 * exist; on a GPU the reservation is memory, which train/memory_plan counts.
 *
 * Several ranks: queries travel, documents stay (train/exchange.h). The log-sum-exp of a query is
 * put together from what each rank's documents give to it, maxima first; the column sums of all
 * documents give FLOPS of the whole step; all ranks hold all queries, and so their column sums.
 *
 * Several groups of ranks, each with blocks of negatives of its own: queries travel within a group
 * only, which puts their log-sum-exp together. Means and FLOPS stay those of the whole step: column
 * sums of queries are then added up over all ranks as those of documents are.
 *
 * The host waits for nothing in between, on one rank: how many entries a row has, by which a device
 * picks its ways, is taken from the step before. The first step of a run waits to learn it; a
 * checkpoint holds it for the one after.
 */
#include "train/contrastive_internal.h"

#include <stdlib.h>

#include "core/memory.h"
#include "model/finite.h"

static csp_status place_side(csp_arena *arena, int64_t rows, int64_t V, side_rows *side)
{
    const int64_t cap[] = { rows * V };

    side->w.vocab = V;
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, cap, &side->w.term));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, cap, &side->w.weight));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, cap, &side->w.argmax));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, cap, &side->dw));
    return csp_arena_tensor(arena, CSP_F64, 1, &V, &side->sum);
}

/* Queries and documents of one rank, at most. */
static int64_t own_queries(const csp_contrastive_options *o)
{
    return o->queries / csp_ranks_size(o->ranks);
}

static int64_t own_passages(const csp_contrastive_options *o)
{
    return o->passages / csp_ranks_size(o->ranks);
}

/* Queries that meet the documents of one rank, at most. */
static int64_t group_queries(const csp_contrastive_options *o)
{
    return own_queries(o) * csp_ranks_size(csp_contrastive_group(o));
}

/* Everything that lives as long as the phase; on a ruler this measures. */
static csp_status place_rows(csp_contrastive *c, int64_t V, csp_arena *arena)
{
    const int64_t Q = group_queries(&c->options), P = own_passages(&c->options);
    const int64_t pairs[] = { Q, P };

    CSP_TRY(place_side(arena, own_queries(&c->options), V, &c->side[CSP_SIDE_QUERY]));
    CSP_TRY(place_side(arena, P, V, &c->side[CSP_SIDE_PASSAGE]));
    CSP_TRY(csp_exchange_place(&c->queries, V, arena));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 2, pairs, &c->s));
    CSP_TRY(csp_arena_tensor(arena, CSP_U8, 2, pairs, &c->mask));
    CSP_TRY(csp_arena_tensor(arena, CSP_F64, 1, &Q, &c->sum));
    return csp_arena_tensor(arena, CSP_I32, 1, &Q, &c->positive);
}

/* What the host reads of a step; on a ruler this measures. */
static csp_status place_numbers(csp_contrastive *c, int64_t V, csp_arena *arena)
{
    const int64_t rows[] = { own_queries(&c->options), own_passages(&c->options) };
    /* A micro-batch has at least one text. */
    const int64_t batches = rows[0] + rows[1], positions = CSP_POSITIONS, one = 1;
    const int64_t Q = group_queries(&c->options);

    for (int i = 0; i < 2; i++) {
        const int64_t starts = rows[i] + 1;

        CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &starts, &c->side[i].w.row_ptr));
        CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &V, &c->side[i].count));
        CSP_TRY(csp_arena_tensor(arena, CSP_F64, 1, &one, &c->side[i].reg));
    }
    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &batches, &c->bad_row));
    CSP_TRY(csp_arena_tensor(arena, CSP_F64, 2, (int64_t[]) { Q, 2 }, &c->row));
    CSP_TRY(csp_arena_tensor(arena, CSP_F64, 1, &Q, &c->nce));
    return csp_arena_tensor(arena, CSP_I64, 1, &positions, &c->positions);
}

csp_status csp_contrastive_bytes(int64_t vocab, int64_t queries, int64_t passages, int ranks,
                                 int group, size_t *out)
{
    const csp_ranks these = { .size = ranks }, near = { .size = group };
    csp_contrastive c = {
        .options = { .queries = queries, .passages = passages, .ranks = &these, .group = &near }
    };
    csp_arena ruler = { 0 };

    c.queries = (csp_exchange) { .ranks = &near, .queries = group_queries(&c.options) };
    CSP_TRY(place_rows(&c, vocab, &ruler));
    CSP_TRY(place_numbers(&c, vocab, &ruler));
    *out = ruler.peak;
    return CSP_OK;
}

csp_status csp_contrastive_create(csp_backend *be, const csp_model *model,
                                  const csp_contract *contract,
                                  const csp_contrastive_options *options, csp_contrastive **out)
{
    const int64_t V = model->params->config.V;
    const int64_t Q = own_queries(options), P = own_passages(options), texts = Q > P ? Q : P;
    csp_contrastive *c;
    csp_arena ruler = { 0 }, number_ruler = { 0 };
    csp_status status;

    CSP_TRY(csp_alloc_zero("contrastive phase", 1, sizeof(*c), &c));
    c->be = be;
    c->model = model;
    c->contract = contract;
    c->options = *options;
    CSP_TRY_GOTO(csp_chunked_create(be, model, contract, options->max_rows, model->max_len, texts,
                                    options->budget, options->keep, &c->chunks));
    CSP_TRY_GOTO(csp_contract_head_open(be, model, contract, &c->head));
    CSP_TRY_GOTO(csp_health_create(V, &options->limits, &c->health));
    CSP_TRY_GOTO(
        csp_exchange_open(be, csp_contrastive_group(options), group_queries(options), &c->queries));
    if (csp_ranks_size(options->ranks) > 1) {
        CSP_TRY_GOTO(csp_alloc("documents of all ranks", options->passages + 1,
                               sizeof(**c->all_rows), &c->all_rows[CSP_SIDE_PASSAGE]));
    }
    if (csp_contrastive_has_groups(c)) {
        CSP_TRY_GOTO(csp_alloc("queries of all ranks", options->queries + 1, sizeof(**c->all_rows),
                               &c->all_rows[CSP_SIDE_QUERY]));
    }
    CSP_TRY_GOTO(place_rows(c, V, &ruler));
    CSP_TRY_GOTO(csp_backend_reserve(be, ruler.peak, &c->rows));
    CSP_TRY_GOTO(place_rows(c, V, &c->rows));
    CSP_TRY_GOTO(place_numbers(c, V, &number_ruler));
    CSP_TRY_GOTO(csp_step_numbers_open(be, number_ruler.peak, &c->numbers));
    CSP_TRY_GOTO(place_numbers(c, V, &c->numbers.device));
    *out = c;
    return CSP_OK;

fail:
    csp_contrastive_destroy(c);
    return status;
}

void csp_contrastive_destroy(csp_contrastive *c)
{
    if (c == NULL) {
        return;
    }
    csp_chunked_destroy(c->chunks);
    csp_contract_head_close(&c->head);
    csp_health_destroy(c->health);
    csp_exchange_close(&c->queries);
    for (int i = 0; i < 2; i++) {
        free(c->all_rows[i]);
    }
    csp_backend_release(c->be, &c->rows);
    csp_step_numbers_close(&c->numbers);
    free(c);
}

/* How many micro-batches the queries are. */
static int64_t query_chunks(const csp_contrastive *c)
{
    int64_t count = 0;

    while (c->chunks->chunks[count].side == CSP_SIDE_QUERY) {
        count++;
    }
    return count;
}

/*
 * Whether a micro-batch of documents goes before the queries: where new values come in from other
 * ranks layer by layer, the first pass through the layers hides them, and the queries have few
 * rows. Two more must follow, behind which the queries travel.
 */
static bool documents_lead(const csp_contrastive *c, int64_t queries)
{
    return csp_params_sharded(c->model->params) && c->chunks->count - queries >= 3;
}

/* Forward over all micro-batches; rows of both sides are complete afterwards. */
static csp_status represent(csp_contrastive *c)
{
    const side_rows *q = &c->side[CSP_SIDE_QUERY];
    const int64_t queries = query_chunks(c);
    const bool lead = documents_lead(c, queries);

    for (int64_t turn = 0; turn < c->chunks->count; turn++) {
        const int64_t i = !lead || turn > queries ? turn : turn == 0 ? queries : turn - 1;
        csp_chunk *chunk = &c->chunks->chunks[i];
        csp_tensor bad_row = csp_tensor_rows(&c->bad_row, i, 1);

        CSP_TRY(csp_chunked_fwd(c->chunks, i, &c->step.pass));
        CSP_TRY(csp_run_note_bad_row(c->model, chunk->run, &bad_row));
        CSP_TRY(csp_sparse_pool_fwd(c->be, &c->head.head, &chunk->run->h, &chunk->packed.texts,
                                    chunk->first, &c->side[chunk->side].w));
        csp_chunked_leave(c->chunks, i);
        if (i == queries - 1) {
            CSP_TRY(csp_exchange_lengths(&c->queries, &q->w, q->rows, &q->dw));
        } else if (i == queries + lead) {
            CSP_TRY(csp_exchange_entries(&c->queries));
        }
    }
    return csp_exchange_arrive(&c->queries);
}

/* How many entries a row has: as many as in the step before, which the panel remembers, or this. */
static csp_status expect_entries(csp_contrastive *c)
{
    const double *remembered = csp_health_remembers(c->health)->active;
    const bool first = remembered[CSP_SIDE_QUERY] < 0.0;

    if (first) {
        CSP_TRY(csp_step_numbers_fetch(&c->numbers));
        CSP_TRY(csp_backend_sync(c->be));
    }
    for (int i = 0; i < 2; i++) {
        side_rows *side = &c->side[i];
        const int64_t *row_ptr = csp_step_numbers_at(&c->numbers, &side->w.row_ptr);

        side->w.active = first ? (double)row_ptr[side->rows] / (double)side->rows : remembered[i];
    }
    if (csp_ranks_size(csp_contrastive_group(&c->options)) == 1) {
        c->queries.all.active = c->side[CSP_SIDE_QUERY].w.active;
    }
    return CSP_OK;
}

/* Counts of the terms of this rank's rows of a side; their sums, on the way to those of all. */
static csp_status add_up_own(csp_contrastive *c, csp_side side, const char *what)
{
    side_rows *rows = &c->side[side];

    CSP_TRY(csp_column_sums(c->be, &rows->w, rows->rows, &rows->sum, &rows->count));
    return csp_ranks_reduce_start(c->options.ranks, &rows->sum, CSP_COMM_SUM, what, &c->sums[side]);
}

/*
 * Sums and counts of the terms of this rank's documents, and of all queries: which are here, or
 * have to be added up, too.
 */
static csp_status add_up_terms(csp_contrastive *c)
{
    side_rows *q = &c->side[CSP_SIDE_QUERY];

    for (int i = 0; i < 2; i++) {
        CSP_TRY(csp_backend_zero(c->be, &c->side[i].sum));
        CSP_TRY(csp_backend_zero(c->be, &c->side[i].count));
    }
    CSP_TRY(add_up_own(c, CSP_SIDE_PASSAGE, "term sums of documents"));
    if (csp_contrastive_has_groups(c)) {
        return add_up_own(c, CSP_SIDE_QUERY, "term sums of queries");
    }
    return csp_column_sums(c->be, &c->queries.all, q->rows * csp_ranks_size(c->options.ranks),
                           &q->sum, &q->count);
}

/* One side's sparsity term, from the sums of all ranks: value, and its gradient added to dw. */
static csp_status regularize(csp_contrastive *c, csp_side side, double lambda)
{
    side_rows *rows = &c->side[side];

    CSP_TRY(csp_ranks_finish(c->options.ranks, &c->sums[side]));
    return csp_regularize(c->be, c->options.regularizer, &rows->w, rows->rows, &rows->sum,
                          rows->rows * csp_ranks_size(c->options.ranks), (float)lambda, &rows->dw,
                          &rows->reg);
}

static int64_t count_masked(const uint8_t *mask, int64_t pairs)
{
    int64_t masked = 0;

    for (int64_t i = 0; mask != NULL && i < pairs; i++) {
        masked += mask[i] == CSP_LEFT_OUT_POSITIVE;
    }
    return masked;
}

/* The loss of each query of the group, and the gradients of this rank's scores in s. */
static csp_status info_nce(csp_contrastive *c, const csp_tensor *positive, const csp_tensor *mask,
                           csp_tensor *s)
{
    const csp_ranks *group = csp_contrastive_group(&c->options);
    csp_tensor row = csp_tensor_rows(&c->row, 0, s->dim[0]);
    csp_tensor sum = csp_tensor_rows(&c->sum, 0, s->dim[0]);
    csp_tensor nce = csp_tensor_rows(&c->nce, 0, s->dim[0]);

    CSP_TRY(csp_nce_scores(c->be, s, positive, mask, &row));
    CSP_TRY(csp_ranks_reduce(group, &row, CSP_COMM_MAX, "best scores"));
    CSP_TRY(csp_nce_sum(c->be, s, mask, &row, &sum));
    CSP_TRY(csp_ranks_reduce(group, &sum, CSP_COMM_SUM, "sums of softmax"));
    return csp_nce_grad(c->be, s, positive, mask, &row, &sum, csp_contrastive_queries(c), s, &nce);
}

/* The loss on the whole batch and the gradient of every weight of both sides of this rank. */
static csp_status compare(csp_contrastive *c, const csp_contrastive_texts *t)
{
    side_rows *q = &c->side[CSP_SIDE_QUERY], *d = &c->side[CSP_SIDE_PASSAGE];
    const int64_t Q = q->rows * csp_ranks_size(csp_contrastive_group(&c->options)), P = d->rows;
    const int64_t pairs[] = { Q, P };
    const float scale = (float)(1.0 / c->options.temperature);
    csp_tensor s = csp_tensor_view(c->s.data, CSP_F32, 2, pairs);
    csp_tensor mask = csp_tensor_none();
    csp_tensor positive = csp_tensor_view(c->positive.data, CSP_I32, 1, &Q);

    CSP_TRY(csp_backend_upload(c->be, t->positive, &positive));
    if (t->mask != NULL) {
        mask = csp_tensor_view(c->mask.data, CSP_U8, 2, pairs);
        CSP_TRY(csp_backend_upload(c->be, t->mask, &mask));
    }
    CSP_TRY(add_up_terms(c));
    CSP_TRY(csp_scores_fwd(c->be, &c->queries.all, Q, &d->w, P, scale, &s));
    CSP_TRY(info_nce(c, &positive, &mask, &s));
    CSP_TRY(csp_scores_bwd(c->be, &s, &c->queries.all, &d->w, scale, &c->queries.dw, &d->dw));
    CSP_TRY(csp_exchange_return(&c->queries, &q->dw));
    CSP_TRY(regularize(c, CSP_SIDE_QUERY, c->step.lambda_q));
    CSP_TRY(regularize(c, CSP_SIDE_PASSAGE, c->step.lambda_d));
    CSP_TRY(csp_backend_zero(c->be, &c->positions));
    return c->contract->pooling == CSP_POOLING_MAX
               ? csp_position_counts(c->be, &d->w, P, &c->positions)
               : CSP_OK;
}

/* Backward over all micro-batches at the saved positions. */
static csp_status backpropagate(csp_contrastive *c)
{
    for (int64_t i = 0; i < c->chunks->count; i++) {
        csp_chunk *chunk = &c->chunks->chunks[i];
        const csp_sparse *w = &c->side[chunk->side].w;
        csp_sparse_pool_grad g = { .rows = w,
                                   .dw = c->side[chunk->side].dw,
                                   .first_row = chunk->first,
                                   .entries = (int64_t)(w->active * (double)chunk->batch.B) };

        CSP_TRY(csp_chunked_again(c->chunks, i, &c->step.pass));
        g.h = chunk->run->h;
        g.texts = chunk->packed.texts;
        g.dh = chunk->run->dh;
        g.de = csp_model_head_grad(c->model);
        CSP_TRY(csp_sparse_pool_bwd(c->be, &c->head.head, &g));
        CSP_TRY(csp_chunked_bwd(c->chunks, i, &c->step.pass, c->options.watch));
        csp_chunked_leave(c->chunks, i);
    }
    return CSP_OK;
}

csp_status csp_contrastive_run(csp_contrastive *c, const csp_contrastive_texts *t,
                               const csp_contrastive_step *step)
{
    const int64_t Q = t->queries->count, P = t->passages->count;
    const int ranks = csp_ranks_size(c->options.ranks);

    if (Q < 1 || Q > own_queries(&c->options) || P < 1 || P > own_passages(&c->options)) {
        return CSP_FAIL(
            CSP_ERR_ARGUMENT,
            "contrastive step: %lld queries and %lld documents, planned for 1..%lld and "
            "1..%lld",
            (long long)Q, (long long)P, (long long)own_queries(&c->options),
            (long long)own_passages(&c->options));
    }
    c->step = *step;
    c->side[CSP_SIDE_QUERY].rows = Q;
    c->side[CSP_SIDE_PASSAGE].rows = P;
    c->masked = count_masked(t->mask, csp_ranks_size(csp_contrastive_group(&c->options)) * Q * P);
    csp_chunked_begin(c->chunks);
    CSP_TRY(csp_chunked_add(c->chunks, CSP_SIDE_QUERY, t->queries, t->query_text, 0));
    CSP_TRY(csp_chunked_add(c->chunks, CSP_SIDE_PASSAGE, t->passages, t->passage_text, ranks * Q));
    CSP_TRY(csp_chunked_plan(c->chunks));
    CSP_TRY(represent(c));
    CSP_TRY(expect_entries(c));
    CSP_TRY(compare(c, t));
    CSP_TRY(backpropagate(c));
    return csp_step_numbers_fetch(&c->numbers);
}

csp_tensor csp_contrastive_faults(const csp_contrastive *c)
{
    return csp_tensor_rows(&c->bad_row, 0, c->chunks->count);
}

csp_health *csp_contrastive_health(csp_contrastive *c)
{
    return c->health;
}

void csp_contrastive_warn(csp_contrastive *c, const csp_step_metrics *m, bool *collapsed)
{
    csp_health_warn(c->health, m, c->side[CSP_SIDE_PASSAGE].rows * csp_ranks_size(c->options.ranks),
                    collapsed);
}

double csp_contrastive_flop(const csp_contrastive *c)
{
    return c->flop;
}
