/*
 * contrastive.c - the contrastive step.
 *
 * Sparse rows of both sides lie in an arena for the worst case, every term of every text, which is
 * near what the first steps of a language model have. On a CPU only the pages that are written
 * exist; on a GPU the reservation is memory, which train/memory_plan counts.
 *
 * The host waits for nothing in between: how many entries a row has, by which a device picks its
 * ways, is taken from the step before. The first step of a run waits to learn it; a checkpoint
 * holds it for the one after.
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
    csp_arena rows;      /* what follows lies in it */
    side_rows side[2];   /* by csp_side */
    csp_tensor s;        /* (Q,P) f32 scores, then their gradient */
    csp_tensor positive; /* (Q) i32 */
    csp_tensor mask;     /* (Q,P) u8 */
    csp_step_numbers numbers;
    csp_tensor bad_row;        /* (Q+P) i64 csp_run_note_bad_row of each micro-batch */
    csp_tensor nce;            /* (Q,3) f64 csp_info_nce                             */
    csp_tensor positions;      /* (CSP_POSITIONS) i64 csp_position_counts of documents */
    csp_contrastive_step step; /* the last one */
    int64_t masked;            /* pairs that it left out */
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

/* Everything that lives as long as the phase; on a ruler this measures. */
static csp_status place_rows(csp_contrastive *c, int64_t V, csp_arena *arena)
{
    const int64_t Q = c->options.queries, P = c->options.passages;
    const int64_t pairs[] = { Q, P };

    CSP_TRY(place_side(arena, Q, V, &c->side[CSP_SIDE_QUERY]));
    CSP_TRY(place_side(arena, P, V, &c->side[CSP_SIDE_PASSAGE]));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 2, pairs, &c->s));
    CSP_TRY(csp_arena_tensor(arena, CSP_U8, 2, pairs, &c->mask));
    return csp_arena_tensor(arena, CSP_I32, 1, &Q, &c->positive);
}

/* What the host reads of a step; on a ruler this measures. */
static csp_status place_numbers(csp_contrastive *c, int64_t V, csp_arena *arena)
{
    const int64_t rows[] = { c->options.queries, c->options.passages };
    /* A micro-batch has at least one text. */
    const int64_t batches = rows[0] + rows[1], positions = CSP_POSITIONS, one = 1;

    for (int i = 0; i < 2; i++) {
        const int64_t starts = rows[i] + 1;

        CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &starts, &c->side[i].w.row_ptr));
        CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &V, &c->side[i].count));
        CSP_TRY(csp_arena_tensor(arena, CSP_F64, 1, &one, &c->side[i].reg));
    }
    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &batches, &c->bad_row));
    CSP_TRY(csp_arena_tensor(arena, CSP_F64, 2, (int64_t[]) { rows[0], 3 }, &c->nce));
    return csp_arena_tensor(arena, CSP_I64, 1, &positions, &c->positions);
}

csp_status csp_contrastive_bytes(int64_t vocab, int64_t queries, int64_t passages, size_t *out)
{
    csp_contrastive c = { .options = { .queries = queries, .passages = passages } };
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
    csp_contrastive *c;
    csp_arena ruler = { 0 }, number_ruler = { 0 };
    csp_status status;

    CSP_TRY(csp_alloc_zero("contrastive phase", 1, sizeof(*c), &c));
    c->be = be;
    c->model = model;
    c->contract = contract;
    c->options = *options;
    CSP_TRY_GOTO(csp_chunked_create(be, model, contract, options->max_rows, model->max_len,
                                    options->queries > options->passages ? options->queries
                                                                         : options->passages,
                                    options->budget, options->keep, &c->chunks));
    CSP_TRY_GOTO(csp_contract_head_open(be, model, contract, &c->head));
    CSP_TRY_GOTO(csp_health_create(V, &options->limits, &c->health));
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
    csp_backend_release(c->be, &c->rows);
    csp_step_numbers_close(&c->numbers);
    free(c);
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
    }
    return CSP_OK;
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
    return CSP_OK;
}

/* One side's sparsity term: value, and its gradient added to dw. */
static csp_status regularize(csp_contrastive *c, csp_side side, double lambda)
{
    side_rows *rows = &c->side[side];

    CSP_TRY(csp_backend_zero(c->be, &rows->sum));
    CSP_TRY(csp_backend_zero(c->be, &rows->count));
    CSP_TRY(csp_column_sums(c->be, &rows->w, rows->rows, &rows->sum, &rows->count));
    return csp_regularize(c->be, c->options.regularizer, &rows->w, rows->rows, &rows->sum,
                          rows->rows, (float)lambda, &rows->dw, &rows->reg);
}

static int64_t count_masked(const csp_contrastive_texts *t)
{
    const int64_t pairs = t->queries->count * t->passages->count;
    int64_t masked = 0;

    for (int64_t i = 0; t->mask != NULL && i < pairs; i++) {
        masked += t->mask[i] != 0;
    }
    return masked;
}

/* The loss on the whole batch and the gradient of every weight of both sides. */
static csp_status compare(csp_contrastive *c, const csp_contrastive_texts *t)
{
    const int64_t Q = t->queries->count, P = t->passages->count, pairs[] = { Q, P };
    const float scale = (float)(1.0 / c->options.temperature);
    side_rows *q = &c->side[CSP_SIDE_QUERY], *d = &c->side[CSP_SIDE_PASSAGE];
    csp_tensor s = csp_tensor_view(c->s.data, CSP_F32, 2, pairs);
    csp_tensor mask = csp_tensor_none();
    csp_tensor positive = csp_tensor_view(c->positive.data, CSP_I32, 1, &Q);
    csp_tensor nce = csp_tensor_rows(&c->nce, 0, Q);

    CSP_TRY(csp_backend_upload(c->be, t->positive, &positive));
    if (t->mask != NULL) {
        mask = csp_tensor_view(c->mask.data, CSP_U8, 2, pairs);
        CSP_TRY(csp_backend_upload(c->be, t->mask, &mask));
    }
    CSP_TRY(csp_scores_fwd(c->be, &q->w, Q, &d->w, P, scale, &s));
    CSP_TRY(csp_info_nce(c->be, &s, &positive, &mask, &s, &nce));
    CSP_TRY(csp_scores_bwd(c->be, &s, &q->w, &d->w, scale, &q->dw, &d->dw));
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
        CSP_TRY(csp_chunked_bwd(c->chunks, i, &c->step.pass));
        csp_chunked_leave(c->chunks, i);
    }
    return CSP_OK;
}

csp_status csp_contrastive_run(csp_contrastive *c, const csp_contrastive_texts *t,
                               const csp_contrastive_step *step)
{
    const int64_t Q = t->queries->count, P = t->passages->count;

    if (Q < 1 || Q > c->options.queries || P < 1 || P > c->options.passages) {
        return CSP_FAIL(
            CSP_ERR_ARGUMENT,
            "contrastive step: %lld queries and %lld documents, planned for 1..%lld and "
            "1..%lld",
            (long long)Q, (long long)P, (long long)c->options.queries,
            (long long)c->options.passages);
    }
    c->step = *step;
    c->side[CSP_SIDE_QUERY].rows = Q;
    c->side[CSP_SIDE_PASSAGE].rows = P;
    c->masked = count_masked(t);
    csp_chunked_begin(c->chunks);
    CSP_TRY(csp_chunked_add(c->chunks, CSP_SIDE_QUERY, t->queries, t->text_base));
    CSP_TRY(csp_chunked_add(c->chunks, CSP_SIDE_PASSAGE, t->passages, t->text_base + Q));
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
    const double(*row)[3] = csp_step_numbers_at(&c->numbers, &c->nce);
    const int64_t Q = c->side[CSP_SIDE_QUERY].rows;
    double margin = 0.0;
    int64_t right = 0;

    m->nce = 0.0;
    for (int64_t q = 0; q < Q; q++) {
        const float own = (float)row[q][1], best = (float)row[q][2];

        m->nce += row[q][0] / (double)Q;
        margin += isfinite(best) ? (double)(own - best) : 0.0;
        right += own > best;
    }
    m->margin = margin / (double)Q * c->options.temperature;
    m->accuracy = (double)right / (double)Q;
    m->masked = (double)c->masked;
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

/* What the health panel looks at. */
static csp_health_side seen_of(const csp_contrastive *c, csp_side side)
{
    const side_rows *rows = &c->side[side];
    const bool positions = side == CSP_SIDE_PASSAGE && c->contract->pooling == CSP_POOLING_MAX;

    return (csp_health_side) { .rows = rows->rows,
                               .row_ptr = csp_step_numbers_at(&c->numbers, &rows->w.row_ptr),
                               .count = csp_step_numbers_at(&c->numbers, &rows->count),
                               .positions = positions
                                                ? csp_step_numbers_at(&c->numbers, &c->positions)
                                                : NULL };
}

csp_status csp_contrastive_read(csp_contrastive *c, csp_step_metrics *m)
{
    const csp_health_side q = seen_of(c, CSP_SIDE_QUERY), d = seen_of(c, CSP_SIDE_PASSAGE);

    CSP_TRY(check_states(c));
    measure_queries(c, m);
    CSP_TRY(measure_loss(c, m));
    csp_health_observe(c->health, c->step.step, &q, &d, m);
    m->lambda_q = c->step.lambda_q;
    m->lambda_d = c->step.lambda_d;
    m->tokens = (double)csp_chunked_rows(c->chunks);
    c->flop = csp_flop_network(c->chunks, c->step.pass.causal, true) +
              csp_flop_sparse_head(c->chunks, q.row_ptr[q.rows] + d.row_ptr[d.rows],
                                   c->contract->pooling);
    return CSP_OK;
}

csp_health *csp_contrastive_health(csp_contrastive *c)
{
    return c->health;
}

void csp_contrastive_warn(csp_contrastive *c, const csp_step_metrics *m, bool *collapsed)
{
    csp_health_warn(c->health, m, c->side[CSP_SIDE_PASSAGE].rows, collapsed);
}

double csp_contrastive_flop(const csp_contrastive *c)
{
    return c->flop;
}
