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
 * The host waits for nothing in between, on one rank: how many entries a row has, by which a device
 * picks its ways, is taken from the step before. The first step of a run waits to learn it; a
 * checkpoint holds it for the one after.
 */
#include "train/contrastive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "model/contract_head.h"
#include "model/finite.h"
#include "train/step_flop.h"
#include "train/step_numbers.h"

/* The representations of one side of the batch and their gradient. */
typedef struct side_rows {
    csp_sparse w;     /* its row_ptr is among the step's numbers      */
    csp_tensor dw;    /* (cap) f32                                    */
    csp_tensor sum;   /* (V) f64                                      */
    csp_tensor count; /* (V) i32  rows that have the term   a number  */
    csp_tensor reg;   /* (1) f64  the sparsity term         a number  */
    int64_t rows;     /* of this step                                 */
} side_rows;

struct csp_contrastive {
    csp_backend *be;
    const csp_model *model;
    const csp_contract *contract;
    csp_contrastive_options options;
    csp_chunked *chunks;
    csp_contract_head head;
    csp_health *health;
    csp_arena rows;       /* what follows lies in it */
    side_rows side[2];    /* by csp_side */
    csp_exchange queries; /* of all ranks */
    csp_tensor s;         /* (Q,P) f32 scores, then their gradient; Q of all ranks, P of this one */
    csp_tensor positive;  /* (Q) i32 */
    csp_tensor mask;      /* (Q,P) u8 */
    csp_tensor sum;       /* (Q) f64 csp_nce_sum */
    csp_step_numbers numbers;
    csp_pending document_sums;
    int64_t *document_rows;    /* (all documents + 1) row_ptr of all ranks' documents; not on one */
    csp_tensor bad_row;        /* (Q+P) i64 csp_run_note_bad_row of each micro-batch */
    csp_tensor row;            /* (Q,2) f64 csp_nce_scores                           */
    csp_tensor nce;            /* (Q) f64   csp_nce_grad                             */
    csp_tensor positions;      /* (CSP_POSITIONS) i64 csp_position_counts of documents */
    csp_contrastive_step step; /* the last one */
    int64_t masked;            /* pairs that it left out on this rank */
    double flop;
};

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

/* Everything that lives as long as the phase; on a ruler this measures. */
static csp_status place_rows(csp_contrastive *c, int64_t V, csp_arena *arena)
{
    const int64_t Q = c->options.queries, P = own_passages(&c->options);
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
    const int64_t Q = c->options.queries;

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
                                 size_t *out)
{
    const csp_ranks these = { .size = ranks };
    csp_contrastive c = { .options = { .queries = queries, .passages = passages, .ranks = &these },
                          .queries = { .ranks = &these, .queries = queries } };
    csp_arena ruler = { 0 };

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
    CSP_TRY_GOTO(csp_exchange_open(be, options->ranks, options->queries, &c->queries));
    if (csp_ranks_size(options->ranks) > 1) {
        CSP_TRY_GOTO(csp_alloc("documents of all ranks", options->passages + 1,
                               sizeof(*c->document_rows), &c->document_rows));
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
    free(c->document_rows);
    csp_backend_release(c->be, &c->rows);
    csp_step_numbers_close(&c->numbers);
    free(c);
}

/* What queries have to do when so many micro-batches are done: to go on their way in two parts. */
static csp_status exchange_queries(csp_contrastive *c, int64_t done)
{
    const csp_chunk *chunks = c->chunks->chunks;
    const side_rows *q = &c->side[CSP_SIDE_QUERY];
    int64_t first = 0; /* of the documents' micro-batches */

    while (chunks[first].side == CSP_SIDE_QUERY) {
        first++;
    }
    if (done == first) {
        return csp_exchange_lengths(&c->queries, &q->w, q->rows, &q->dw);
    }
    return done == first + 1 ? csp_exchange_entries(&c->queries) : CSP_OK;
}

/* Forward over all micro-batches; rows of both sides are complete afterwards. */
static csp_status represent(csp_contrastive *c)
{
    for (int64_t i = 0; i < c->chunks->count; i++) {
        csp_chunk *chunk = &c->chunks->chunks[i];
        csp_tensor bad_row = csp_tensor_rows(&c->bad_row, i, 1);

        CSP_TRY(csp_chunked_fwd(c->chunks, i, &c->step.pass));
        CSP_TRY(csp_run_note_bad_row(c->model, chunk->run, &bad_row));
        CSP_TRY(csp_sparse_pool_fwd(c->be, &c->head.head, &chunk->run->h, &chunk->packed.texts,
                                    chunk->first, &c->side[chunk->side].w));
        csp_chunked_leave(c->chunks, i);
        CSP_TRY(exchange_queries(c, i + 1));
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
    if (csp_ranks_size(c->options.ranks) == 1) {
        c->queries.all.active = c->side[CSP_SIDE_QUERY].w.active;
    }
    return CSP_OK;
}

/* Sums and counts of the terms of all queries, and of this rank's documents. */
static csp_status add_up_terms(csp_contrastive *c)
{
    side_rows *q = &c->side[CSP_SIDE_QUERY], *d = &c->side[CSP_SIDE_PASSAGE];

    for (int i = 0; i < 2; i++) {
        CSP_TRY(csp_backend_zero(c->be, &c->side[i].sum));
        CSP_TRY(csp_backend_zero(c->be, &c->side[i].count));
    }
    CSP_TRY(csp_column_sums(c->be, &d->w, d->rows, &d->sum, &d->count));
    CSP_TRY(csp_ranks_reduce_start(c->options.ranks, &d->sum, CSP_COMM_SUM,
                                   "term sums of documents", &c->document_sums));
    return csp_column_sums(c->be, &c->queries.all, q->rows * csp_ranks_size(c->options.ranks),
                           &q->sum, &q->count);
}

/* One side's sparsity term: value, and its gradient added to dw. */
static csp_status regularize(csp_contrastive *c, csp_side side, double lambda)
{
    side_rows *rows = &c->side[side];

    return csp_regularize(c->be, c->options.regularizer, &rows->w, rows->rows, &rows->sum,
                          rows->rows * csp_ranks_size(c->options.ranks), (float)lambda, &rows->dw,
                          &rows->reg);
}

static int64_t count_masked(const uint8_t *mask, int64_t pairs)
{
    int64_t masked = 0;

    for (int64_t i = 0; mask != NULL && i < pairs; i++) {
        masked += mask[i] != 0;
    }
    return masked;
}

/* The loss of each query of all ranks, and the gradients of this rank's scores in s. */
static csp_status info_nce(csp_contrastive *c, const csp_tensor *positive, const csp_tensor *mask,
                           csp_tensor *s)
{
    const csp_ranks *ranks = c->options.ranks;
    csp_tensor row = csp_tensor_rows(&c->row, 0, s->dim[0]);
    csp_tensor sum = csp_tensor_rows(&c->sum, 0, s->dim[0]);
    csp_tensor nce = csp_tensor_rows(&c->nce, 0, s->dim[0]);

    CSP_TRY(csp_nce_scores(c->be, s, positive, mask, &row));
    CSP_TRY(csp_ranks_reduce(ranks, &row, CSP_COMM_MAX, "best scores"));
    CSP_TRY(csp_nce_sum(c->be, s, mask, &row, &sum));
    CSP_TRY(csp_ranks_reduce(ranks, &sum, CSP_COMM_SUM, "sums of softmax"));
    return csp_nce_grad(c->be, s, positive, mask, &row, &sum, s, &nce);
}

/* The loss on the whole batch and the gradient of every weight of both sides of this rank. */
static csp_status compare(csp_contrastive *c, const csp_contrastive_texts *t)
{
    side_rows *q = &c->side[CSP_SIDE_QUERY], *d = &c->side[CSP_SIDE_PASSAGE];
    const int64_t Q = q->rows * csp_ranks_size(c->options.ranks), P = d->rows, pairs[] = { Q, P };
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
    CSP_TRY(csp_ranks_finish(c->options.ranks, &c->document_sums));
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
    c->masked = count_masked(t->mask, ranks * Q * P);
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

static csp_status check_states(const csp_contrastive *c)
{
    const int64_t *bad_row = csp_step_numbers_at(&c->numbers, &c->bad_row);

    for (int64_t i = 0; i < c->chunks->count; i++) {
        CSP_TRY(csp_chunked_check(c->chunks, i, bad_row[i], "contrastive", c->step.step));
    }
    return CSP_OK;
}

/* Loss, margin and accuracy of the queries. */
static void measure_queries(const csp_contrastive *c, csp_step_metrics *m)
{
    const double(*row)[2] = csp_step_numbers_at(&c->numbers, &c->row);
    const double *loss = csp_step_numbers_at(&c->numbers, &c->nce);
    const int64_t Q = c->side[CSP_SIDE_QUERY].rows * csp_ranks_size(c->options.ranks);
    double margin = 0.0;
    int64_t right = 0;

    m->nce = 0.0;
    for (int64_t q = 0; q < Q; q++) {
        const float own = (float)row[q][0], best = (float)row[q][1];

        m->nce += loss[q] / (double)Q;
        margin += isfinite(best) ? (double)(own - best) : 0.0;
        right += own > best;
    }
    m->margin = margin / (double)Q * c->options.temperature;
    m->accuracy = (double)right / (double)Q;
}

static csp_status measure_loss(const csp_contrastive *c, csp_step_metrics *m)
{
    m->reg_q = *(const double *)csp_step_numbers_at(&c->numbers, &c->side[CSP_SIDE_QUERY].reg);
    m->reg_d = *(const double *)csp_step_numbers_at(&c->numbers, &c->side[CSP_SIDE_PASSAGE].reg);
    m->loss = m->nce + c->step.lambda_q * m->reg_q + c->step.lambda_d * m->reg_d;
    if (!isfinite(m->loss)) {
        return CSP_FAIL(CSP_ERR_NUMERIC,
                        "contrastive step %lld: the loss is not finite: nce %g, reg_q %g, reg_d %g",
                        (long long)c->step.step, m->nce, m->reg_q, m->reg_d);
    }
    return CSP_OK;
}

/* What the health panel looks at, of all ranks. */
static csp_health_side queries_seen(const csp_contrastive *c)
{
    const side_rows *q = &c->side[CSP_SIDE_QUERY];
    const int ranks = csp_ranks_size(c->options.ranks);

    return (csp_health_side) { .rows = q->rows * ranks,
                               .row_ptr = ranks > 1
                                              ? c->queries.row_ptr
                                              : csp_step_numbers_at(&c->numbers, &q->w.row_ptr),
                               .count = csp_step_numbers_at(&c->numbers, &q->count) };
}

/* Lengths of all ranks' documents as row_ptr. */
static csp_status gather_lengths(csp_contrastive *c, const int64_t *own)
{
    const int64_t rows = c->side[CSP_SIDE_PASSAGE].rows;
    const int64_t all = rows * csp_ranks_size(c->options.ranks);
    int64_t *length = c->document_rows + 1,
            *mine = length + csp_ranks_rank(c->options.ranks) * rows;

    for (int64_t p = 0; p < rows; p++) {
        mine[p] = own[p + 1] - own[p];
    }
    CSP_TRY(csp_ranks_gather_host(c->options.ranks, mine, length, rows * (int64_t)sizeof(*length),
                                  "lengths of documents"));
    c->document_rows[0] = 0;
    for (int64_t p = 0; p < all; p++) {
        length[p] += c->document_rows[p];
    }
    return CSP_OK;
}

/* The same of documents, whose counts the ranks put together here. */
static csp_status documents_seen(csp_contrastive *c, csp_health_side *out)
{
    const csp_ranks *ranks = c->options.ranks;
    const side_rows *d = &c->side[CSP_SIDE_PASSAGE];
    const int64_t *row_ptr = csp_step_numbers_at(&c->numbers, &d->w.row_ptr);
    int32_t *count = csp_step_numbers_edit(&c->numbers, &d->count);
    int64_t *positions = NULL;

    CSP_TRY(csp_ranks_reduce_host(ranks, count, CSP_I32, d->w.vocab, CSP_COMM_SUM,
                                  "terms of documents"));
    if (c->contract->pooling == CSP_POOLING_MAX) {
        positions = csp_step_numbers_edit(&c->numbers, &c->positions);
        CSP_TRY(csp_ranks_reduce_host(ranks, positions, CSP_I64, CSP_POSITIONS, CSP_COMM_SUM,
                                      "positions of maxima"));
    }
    if (csp_ranks_size(ranks) > 1) {
        CSP_TRY(gather_lengths(c, row_ptr));
        row_ptr = c->document_rows;
    }
    *out = (csp_health_side) { .rows = d->rows * csp_ranks_size(ranks),
                               .row_ptr = row_ptr,
                               .count = count,
                               .positions = positions };
    return CSP_OK;
}

/* Numbers that are sums over the ranks. */
static csp_status add_up(csp_contrastive *c, csp_step_metrics *m)
{
    int64_t entries = 0;
    double sums[3] = { (double)csp_chunked_rows(c->chunks), (double)c->masked };

    for (int i = 0; i < 2; i++) {
        const side_rows *side = &c->side[i];

        entries +=
            ((const int64_t *)csp_step_numbers_at(&c->numbers, &side->w.row_ptr))[side->rows];
    }
    sums[2] = csp_flop_network(c->chunks, c->step.pass.causal, true) +
              csp_flop_sparse_head(c->chunks, entries, c->contract->pooling);
    CSP_TRY(csp_ranks_reduce_host(c->options.ranks, sums, CSP_F64, 3, CSP_COMM_SUM,
                                  "tokens of the step"));
    m->tokens = sums[0];
    m->masked = sums[1];
    c->flop = sums[2];
    return CSP_OK;
}

csp_status csp_contrastive_read(csp_contrastive *c, csp_step_metrics *m)
{
    csp_health_side q, d;

    CSP_TRY(check_states(c));
    measure_queries(c, m);
    CSP_TRY(measure_loss(c, m));
    q = queries_seen(c);
    CSP_TRY(documents_seen(c, &d));
    csp_health_observe(c->health, c->step.step, &q, &d, m);
    m->lambda_q = c->step.lambda_q;
    m->lambda_d = c->step.lambda_d;
    return add_up(c, m);
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
