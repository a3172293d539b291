/*
 * contrastive.c - the contrastive step.
 *
 * Sparse rows of both sides lie in an arena for the worst case, every term of every text, which is
 * near what the first steps of a language model have. On a CPU only the pages that are written
 * exist; on a GPU the reservation is memory, which train/memory_plan counts.
 */
#include "train/contrastive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "model/contract_head.h"
#include "train/step_flop.h"

/* The representations of one side of the batch and their gradient. */
typedef struct side_rows {
    csp_sparse w;
    csp_tensor dw;    /* (cap) f32 */
    csp_tensor sum;   /* (V) f64   */
    int64_t rows;     /* of this step */
    int64_t *row_ptr; /* host copies for the health panel */
    int32_t *term;
    int32_t *argmax;
    int64_t host_room;
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
    float *host_s;
    double *row_loss;
    int64_t passages; /* of the last step */
    double flop;
};

static csp_status place_side(csp_arena *arena, int64_t rows, int64_t V, side_rows *side)
{
    const int64_t starts[] = { rows + 1 }, cap[] = { rows * V };

    side->w.vocab = V;
    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, starts, &side->w.row_ptr));
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

csp_status csp_contrastive_bytes(int64_t vocab, int64_t queries, int64_t passages, size_t *out)
{
    csp_contrastive c = { .options = { .queries = queries, .passages = passages } };
    csp_arena ruler = { 0 };

    CSP_TRY(place_rows(&c, vocab, &ruler));
    *out = ruler.peak;
    return CSP_OK;
}

csp_status csp_contrastive_create(csp_backend *be, const csp_model *model,
                                  const csp_contract *contract,
                                  const csp_contrastive_options *options, csp_contrastive **out)
{
    const int64_t V = model->params->config.V;
    csp_contrastive *c;
    csp_arena ruler = { 0 };
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
    CSP_TRY_GOTO(csp_alloc("contrastive phase", options->queries * options->passages, sizeof(float),
                           &c->host_s));
    CSP_TRY_GOTO(csp_alloc("contrastive phase", options->queries, sizeof(double), &c->row_loss));
    for (int i = 0; i < 2; i++) {
        const int64_t rows = i == CSP_SIDE_QUERY ? options->queries : options->passages;

        CSP_TRY_GOTO(
            csp_alloc("contrastive phase", rows + 1, sizeof(int64_t), &c->side[i].row_ptr));
    }
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
    for (int i = 0; i < 2; i++) {
        free(c->side[i].row_ptr);
        free(c->side[i].term);
        free(c->side[i].argmax);
    }
    free(c->host_s);
    free(c->row_loss);
    free(c);
}

/* Forward over all micro-batches; rows of both sides are complete afterwards. */
static csp_status represent(csp_contrastive *c, const csp_contrastive_step *step)
{
    for (int64_t i = 0; i < c->chunks->count; i++) {
        csp_chunk *chunk = &c->chunks->chunks[i];

        CSP_TRY(csp_chunked_fwd(c->chunks, i, &step->pass));
        CSP_TRY(csp_chunked_check(c->chunks, i, "contrastive", step->step));
        CSP_TRY(csp_sparse_pool_fwd(c->be, &c->head.head, &chunk->run->h, &chunk->texts,
                                    chunk->first, &c->side[chunk->side].w));
        csp_chunked_leave(c->chunks, i);
    }
    return CSP_OK;
}

/* Margin, accuracy and masked pairs from the scores of this step. */
static void measure_scores(const csp_contrastive *c, const csp_contrastive_texts *t,
                           csp_step_metrics *m)
{
    const int64_t Q = t->queries->count, P = t->passages->count;
    double margin = 0.0;
    int64_t right = 0, masked = 0;

    for (int64_t q = 0; q < Q; q++) {
        const float own = c->host_s[q * P + t->positive[q]];
        float best = -INFINITY;

        for (int64_t p = 0; p < P; p++) {
            const bool out = t->mask != NULL && t->mask[q * P + p] != 0;

            masked += out;
            if (p != t->positive[q] && !out && c->host_s[q * P + p] > best) {
                best = c->host_s[q * P + p];
            }
        }
        margin += isfinite(best) ? (double)(own - best) : 0.0;
        right += own > best;
    }
    m->margin = margin / (double)Q * c->options.temperature;
    m->accuracy = (double)right / (double)Q;
    m->masked = (double)masked;
}

/* One side's sparsity term: value, and its gradient added to dw. */
static csp_status regularize(csp_contrastive *c, csp_side side, double lambda, double *value)
{
    side_rows *rows = &c->side[side];
    csp_tensor none = csp_tensor_none();

    CSP_TRY(csp_backend_zero(c->be, &rows->sum));
    CSP_TRY(csp_column_sums(c->be, &rows->w, rows->rows, &rows->sum, &none));
    return csp_regularize(c->be, c->options.regularizer, &rows->w, rows->rows, &rows->sum,
                          rows->rows, (float)lambda, &rows->dw, value);
}

/* The loss on the whole batch and the gradient of every weight of both sides. */
static csp_status compare(csp_contrastive *c, const csp_contrastive_texts *t,
                          const csp_contrastive_step *step, csp_step_metrics *m)
{
    const int64_t Q = t->queries->count, P = t->passages->count, pairs[] = { Q, P };
    const float scale = (float)(1.0 / c->options.temperature);
    side_rows *q = &c->side[CSP_SIDE_QUERY], *d = &c->side[CSP_SIDE_PASSAGE];
    csp_tensor s = csp_tensor_view(c->s.data, CSP_F32, 2, pairs);
    csp_tensor mask = csp_tensor_none();
    csp_tensor positive = csp_tensor_view(c->positive.data, CSP_I32, 1, &Q);

    CSP_TRY(csp_backend_upload(c->be, t->positive, &positive));
    if (t->mask != NULL) {
        mask = csp_tensor_view(c->mask.data, CSP_U8, 2, pairs);
        CSP_TRY(csp_backend_upload(c->be, t->mask, &mask));
    }
    CSP_TRY(csp_scores_fwd(c->be, &q->w, Q, &d->w, P, scale, &s));
    CSP_TRY(csp_backend_download(c->be, &s, c->host_s));
    measure_scores(c, t, m);
    CSP_TRY(csp_info_nce(c->be, &s, &positive, &mask, &s, c->row_loss));
    m->nce = 0.0;
    for (int64_t i = 0; i < Q; i++) {
        m->nce += c->row_loss[i] / (double)Q;
    }
    CSP_TRY(csp_scores_bwd(c->be, &s, &q->w, &d->w, scale, &q->dw, &d->dw));
    CSP_TRY(regularize(c, CSP_SIDE_QUERY, step->lambda_q, &m->reg_q));
    CSP_TRY(regularize(c, CSP_SIDE_PASSAGE, step->lambda_d, &m->reg_d));
    m->loss = m->nce + step->lambda_q * m->reg_q + step->lambda_d * m->reg_d;
    if (!isfinite(m->loss)) {
        return CSP_FAIL(CSP_ERR_NUMERIC,
                        "contrastive step %lld: the loss is not finite: nce %g, reg_q %g, reg_d %g",
                        (long long)step->step, m->nce, m->reg_q, m->reg_d);
    }
    return CSP_OK;
}

/* Learns how many entries each row has. */
static csp_status count_entries(csp_contrastive *c, csp_side side)
{
    side_rows *rows = &c->side[side];
    const csp_tensor row_ptr = csp_tensor_rows(&rows->w.row_ptr, 0, rows->rows + 1);

    return csp_backend_download(c->be, &row_ptr, rows->row_ptr);
}

/* Backward over all micro-batches at the saved positions. */
static csp_status backpropagate(csp_contrastive *c, const csp_contrastive_step *step)
{
    for (int64_t i = 0; i < c->chunks->count; i++) {
        csp_chunk *chunk = &c->chunks->chunks[i];
        const int64_t *row_ptr = c->side[chunk->side].row_ptr + chunk->first;
        csp_sparse_pool_grad g = { .rows = &c->side[chunk->side].w,
                                   .dw = c->side[chunk->side].dw,
                                   .first_row = chunk->first,
                                   .entries = row_ptr[chunk->batch.B] - row_ptr[0] };

        CSP_TRY(csp_chunked_again(c->chunks, i, &step->pass));
        g.h = chunk->run->h;
        g.texts = chunk->texts;
        g.dh = chunk->run->dh;
        g.de = csp_model_head_grad(c->model);
        CSP_TRY(csp_sparse_pool_bwd(c->be, &c->head.head, &g));
        CSP_TRY(csp_chunked_bwd(c->chunks, i, &step->pass));
        csp_chunked_leave(c->chunks, i);
    }
    return CSP_OK;
}

/* Copies what else the health panel looks at to the host. */
static csp_status fetch(csp_contrastive *c, csp_side side, csp_health_side *out)
{
    side_rows *rows = &c->side[side];
    const int64_t nnz = rows->row_ptr[rows->rows];
    csp_tensor part;

    if (nnz > rows->host_room) {
        CSP_TRY(csp_realloc("health", nnz, sizeof(int32_t), &rows->term));
        CSP_TRY(csp_realloc("health", nnz, sizeof(int32_t), &rows->argmax));
        rows->host_room = nnz;
    }
    if (nnz > 0) {
        part = csp_tensor_rows(&rows->w.term, 0, nnz);
        CSP_TRY(csp_backend_download(c->be, &part, rows->term));
        part = csp_tensor_rows(&rows->w.argmax, 0, nnz);
        CSP_TRY(csp_backend_download(c->be, &part, rows->argmax));
    }
    out->rows = rows->rows;
    out->row_ptr = rows->row_ptr;
    out->term = rows->term;
    out->argmax = c->contract->pooling == CSP_POOLING_MAX ? rows->argmax : NULL;
    return CSP_OK;
}

static double count_flop(const csp_contrastive *c, bool causal)
{
    int64_t entries = 0;

    for (int i = 0; i < 2; i++) {
        entries += c->side[i].row_ptr[c->side[i].rows];
    }
    return csp_flop_network(c->chunks, causal, true) +
           csp_flop_sparse_head(c->chunks, entries, c->contract->pooling);
}

csp_status csp_contrastive_run(csp_contrastive *c, const csp_contrastive_texts *t,
                               const csp_contrastive_step *step, csp_step_metrics *m)
{
    const int64_t Q = t->queries->count, P = t->passages->count;
    csp_health_side sides[2];

    if (Q < 1 || Q > c->options.queries || P < 1 || P > c->options.passages) {
        return CSP_FAIL(
            CSP_ERR_ARGUMENT,
            "contrastive step: %lld queries and %lld documents, planned for 1..%lld and "
            "1..%lld",
            (long long)Q, (long long)P, (long long)c->options.queries,
            (long long)c->options.passages);
    }
    c->side[CSP_SIDE_QUERY].rows = Q;
    c->side[CSP_SIDE_PASSAGE].rows = P;
    c->passages = P;
    csp_chunked_begin(c->chunks);
    CSP_TRY(csp_chunked_add(c->chunks, CSP_SIDE_QUERY, t->queries, t->text_base));
    CSP_TRY(csp_chunked_add(c->chunks, CSP_SIDE_PASSAGE, t->passages, t->text_base + Q));
    CSP_TRY(csp_chunked_plan(c->chunks));
    CSP_TRY(represent(c, step));
    CSP_TRY(compare(c, t, step, m));
    CSP_TRY(count_entries(c, CSP_SIDE_QUERY));
    CSP_TRY(count_entries(c, CSP_SIDE_PASSAGE));
    CSP_TRY(backpropagate(c, step));
    CSP_TRY(fetch(c, CSP_SIDE_QUERY, &sides[CSP_SIDE_QUERY]));
    CSP_TRY(fetch(c, CSP_SIDE_PASSAGE, &sides[CSP_SIDE_PASSAGE]));
    csp_health_observe(c->health, step->step, &sides[CSP_SIDE_QUERY], &sides[CSP_SIDE_PASSAGE], m);
    m->lambda_q = step->lambda_q;
    m->lambda_d = step->lambda_d;
    m->tokens = (double)csp_chunked_rows(c->chunks);
    c->flop = count_flop(c, step->pass.causal);
    return CSP_OK;
}

csp_health *csp_contrastive_health(csp_contrastive *c)
{
    return c->health;
}

void csp_contrastive_warn(csp_contrastive *c, const csp_step_metrics *m, bool *collapsed)
{
    csp_health_warn(c->health, m, c->passages, collapsed);
}

double csp_contrastive_flop(const csp_contrastive *c)
{
    return c->flop;
}
