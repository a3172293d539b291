/* contrastive_read.c - what came out of a contrastive step, of all ranks. */
#include "train/contrastive_internal.h"

#include <math.h>
#include <string.h>

#include "model/finite.h"
#include "train/step_flop.h"

static csp_status check_states(const csp_contrastive *c)
{
    const int64_t *bad_row = csp_step_numbers_at(&c->numbers, &c->bad_row);

    for (int64_t i = 0; i < c->chunks->count; i++) {
        CSP_TRY(csp_chunked_check(c->chunks, i, bad_row[i], "contrastive", c->step.step));
    }
    return CSP_OK;
}

/* Loss, margin and accuracy of the queries: a group's first rank speaks for all of it. */
static csp_status measure_queries(const csp_contrastive *c, csp_step_metrics *m)
{
    const csp_ranks *group = csp_contrastive_group(&c->options);
    const double(*row)[2] = csp_step_numbers_at(&c->numbers, &c->row);
    const double *loss = csp_step_numbers_at(&c->numbers, &c->nce);
    const int64_t M = csp_contrastive_queries(c);
    const int64_t Q = c->side[CSP_SIDE_QUERY].rows * csp_ranks_size(group);
    double sums[3] = { 0.0 }; /* loss, margin, right ones */

    for (int64_t q = 0; q < Q; q++) {
        const float own = (float)row[q][0], best = (float)row[q][1];

        sums[0] += loss[q] / (double)M;
        sums[1] += isfinite(best) ? (double)(own - best) : 0.0;
        sums[2] += own > best;
    }
    if (csp_contrastive_has_groups(c)) {
        if (csp_ranks_rank(group) > 0) {
            memset(sums, 0, sizeof(sums));
        }
        CSP_TRY(csp_ranks_reduce_host(c->options.ranks, sums, CSP_F64, 3, CSP_COMM_SUM,
                                      "losses of groups"));
    }
    m->nce = sums[0];
    m->margin = sums[1] / (double)M * c->options.temperature;
    m->accuracy = sums[2] / (double)M;
    return CSP_OK;
}

static csp_status measure_loss(const csp_contrastive *c, csp_step_metrics *m)
{
    m->reg_q = *(const double *)csp_step_numbers_at(&c->numbers, &c->side[CSP_SIDE_QUERY].reg);
    m->reg_d = *(const double *)csp_step_numbers_at(&c->numbers, &c->side[CSP_SIDE_PASSAGE].reg);
    m->loss = m->nce + c->step.lambda_q * m->reg_q + c->step.lambda_d * m->reg_d;
    if (!isfinite(m->loss)) {
        char parameter[CSP_PARAM_NAME_BYTES + 32];

        csp_model_say_bad_parameter(c->model, parameter, sizeof(parameter));
        return CSP_FAIL(
            CSP_ERR_NUMERIC,
            "contrastive step %lld: the loss is not finite: nce %g, reg_q %g, reg_d %g%s",
            (long long)c->step.step, m->nce, m->reg_q, m->reg_d, parameter);
    }
    return CSP_OK;
}

/* Lengths of all ranks' rows of a side as row_ptr. */
static csp_status gather_lengths(csp_contrastive *c, csp_side side, const int64_t *own,
                                 const char *what)
{
    const csp_ranks *ranks = c->options.ranks;
    const int64_t rows = c->side[side].rows, all = rows * csp_ranks_size(ranks);
    int64_t *length = c->all_rows[side] + 1, *mine = length + csp_ranks_rank(ranks) * rows;

    for (int64_t i = 0; i < rows; i++) {
        mine[i] = own[i + 1] - own[i];
    }
    CSP_TRY(csp_ranks_gather_host(ranks, mine, length, rows * (int64_t)sizeof(*length), what));
    c->all_rows[side][0] = 0;
    for (int64_t i = 0; i < all; i++) {
        length[i] += c->all_rows[side][i];
    }
    return CSP_OK;
}

/* What the health panel looks at, of all ranks: here of queries, all of which may be known. */
static csp_status queries_seen(csp_contrastive *c, csp_health_side *out)
{
    const side_rows *q = &c->side[CSP_SIDE_QUERY];
    const int64_t *row_ptr = csp_step_numbers_at(&c->numbers, &q->w.row_ptr);
    int32_t *count = csp_step_numbers_edit(&c->numbers, &q->count);

    if (csp_contrastive_has_groups(c)) {
        CSP_TRY(csp_ranks_reduce_host(c->options.ranks, count, CSP_I32, q->w.vocab, CSP_COMM_SUM,
                                      "terms of queries"));
        CSP_TRY(gather_lengths(c, CSP_SIDE_QUERY, row_ptr, "lengths of queries"));
        row_ptr = c->all_rows[CSP_SIDE_QUERY];
    } else if (csp_ranks_size(c->options.ranks) > 1) {
        row_ptr = c->queries.row_ptr;
    }
    *out = (csp_health_side) { .rows = csp_contrastive_queries(c),
                               .row_ptr = row_ptr,
                               .count = count };
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
        CSP_TRY(gather_lengths(c, CSP_SIDE_PASSAGE, row_ptr, "lengths of documents"));
        row_ptr = c->all_rows[CSP_SIDE_PASSAGE];
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
    CSP_TRY(measure_queries(c, m));
    CSP_TRY(measure_loss(c, m));
    CSP_TRY(queries_seen(c, &q));
    CSP_TRY(documents_seen(c, &d));
    csp_health_observe(c->health, c->step.step, &q, &d, m);
    m->lambda_q = c->step.lambda_q;
    m->lambda_d = c->step.lambda_d;
    return add_up(c, m);
}
