/* loss.c - checks of ops/loss.h. */
#include "ops/loss.h"

#include <math.h>

#include "ops/check.h"

csp_status csp_token_loss(csp_backend *be, csp_token_loss_args *args)
{
    static const char op[] = "token_loss";
    const int64_t two = 2;
    csp_dtype S;

    CSP_TRY(csp_check_head(be, op, &args->head, &S));
    CSP_TRY(csp_check_tensor(op, "h", &args->h, S, 2,
                             (int64_t[]) { args->h.dim[0], args->head.e.dim[1] }));
    CSP_TRY(csp_check_tensor(op, "target", &args->target, CSP_I32, 1, args->h.dim));
    if (csp_check_given(&args->dh)) {
        CSP_TRY(csp_check_tensor(op, "dh", &args->dh, S, 2, args->h.dim));
    }
    if (csp_check_given(&args->de)) {
        CSP_TRY(csp_check_tensor(op, "de", &args->de, CSP_F32, 2, args->head.e.dim));
    }
    if (!isfinite(args->lambda_relu) || !isfinite(args->coefficient)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: lambda_relu %g and coefficient %g must be finite",
                        op, (double)args->lambda_relu, (double)args->coefficient);
    }
    if (args->predicted < 0 || args->predicted > args->h.dim[0]) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: of %lld rows %lld are said to have a target", op,
                        (long long)args->h.dim[0], (long long)args->predicted);
    }
    CSP_TRY(csp_check_tensor(op, "loss", &args->loss, CSP_F64, 1, &two));
    CSP_TRY(csp_check_tensor(op, "bad", &args->bad, CSP_I64, 1, &two));
    return csp_op_done(be, be->ops->token_loss(be, args));
}

static csp_status check_pair(const csp_sparse *q, int64_t Q, const csp_sparse *p, int64_t P,
                             float scale)
{
    CSP_TRY(csp_check_sparse("scores", "q", q, Q, false));
    CSP_TRY(csp_check_sparse("scores", "p", p, P, false));
    if (q->vocab != p->vocab) {
        return CSP_FAIL(CSP_ERR_SHAPE, "scores: q has %lld terms, p has %lld", (long long)q->vocab,
                        (long long)p->vocab);
    }
    if (!isfinite(scale)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "scores: scale %g is not finite", (double)scale);
    }
    return CSP_OK;
}

csp_status csp_scores_fwd(csp_backend *be, const csp_sparse *q, int64_t Q, const csp_sparse *p,
                          int64_t P, float scale, csp_tensor *s)
{
    CSP_TRY(check_pair(q, Q, p, P, scale));
    CSP_TRY(csp_check_tensor("scores", "s", s, CSP_F32, 2, (int64_t[]) { Q, P }));
    return Q > 0 && P > 0 ? csp_op_done(be, be->ops->scores_fwd(be, q, Q, p, P, scale, s)) : CSP_OK;
}

csp_status csp_scores_bwd(csp_backend *be, const csp_tensor *ds, const csp_sparse *q,
                          const csp_sparse *p, float scale, csp_tensor *dq, csp_tensor *dp)
{
    CSP_TRY(csp_check_rank("scores", "ds", ds, CSP_F32, 2));
    CSP_TRY(check_pair(q, ds->dim[0], p, ds->dim[1], scale));
    CSP_TRY(csp_check_tensor("scores", "dq", dq, CSP_F32, 1, q->term.dim));
    CSP_TRY(csp_check_tensor("scores", "dp", dp, CSP_F32, 1, p->term.dim));
    return ds->dim[0] > 0 || ds->dim[1] > 0
               ? csp_op_done(be, be->ops->scores_bwd(be, ds, q, p, scale, dq, dp))
               : CSP_OK;
}

/* What all parts of InfoNCE take. */
static csp_status check_nce(const char *op, const csp_tensor *s, const csp_tensor *mask,
                            const csp_tensor *row)
{
    CSP_TRY(csp_check_rank(op, "s", s, CSP_F32, 2));
    if (csp_check_given(mask)) {
        CSP_TRY(csp_check_tensor(op, "mask", mask, CSP_U8, 2, s->dim));
    }
    if (s->dim[0] > 0 && s->dim[1] < 1) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: %lld queries but no passage", op, (long long)s->dim[0]);
    }
    return csp_check_tensor(op, "row", row, CSP_F64, 2, (int64_t[]) { s->dim[0], 2 });
}

csp_status csp_nce_scores(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                          const csp_tensor *mask, csp_tensor *row)
{
    static const char op[] = "nce_scores";

    CSP_TRY(check_nce(op, s, mask, row));
    CSP_TRY(csp_check_tensor(op, "positive", positive, CSP_I32, 1, s->dim));
    return s->dim[0] > 0 ? csp_op_done(be, be->ops->nce_scores(be, s, positive, mask, row))
                         : CSP_OK;
}

csp_status csp_nce_sum(csp_backend *be, const csp_tensor *s, const csp_tensor *mask,
                       const csp_tensor *row, csp_tensor *sum)
{
    static const char op[] = "nce_sum";

    CSP_TRY(check_nce(op, s, mask, row));
    CSP_TRY(csp_check_tensor(op, "sum", sum, CSP_F64, 1, s->dim));
    return s->dim[0] > 0 ? csp_op_done(be, be->ops->nce_sum(be, s, mask, row, sum)) : CSP_OK;
}

csp_status csp_nce_grad(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                        const csp_tensor *mask, const csp_tensor *row, const csp_tensor *sum,
                        int64_t M, csp_tensor *ds, csp_tensor *loss)
{
    static const char op[] = "nce_grad";

    CSP_TRY(check_nce(op, s, mask, row));
    CSP_TRY(csp_check_tensor(op, "positive", positive, CSP_I32, 1, s->dim));
    CSP_TRY(csp_check_tensor(op, "sum", sum, CSP_F64, 1, s->dim));
    CSP_TRY(csp_check_tensor(op, "ds", ds, CSP_F32, 2, s->dim));
    CSP_TRY(csp_check_tensor(op, "loss", loss, CSP_F64, 1, s->dim));
    if (M < s->dim[0]) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: %lld queries of a step of %lld", op,
                        (long long)s->dim[0], (long long)M);
    }
    return s->dim[0] > 0
               ? csp_op_done(be, be->ops->nce_grad(be, s, positive, mask, row, sum, M, ds, loss))
               : CSP_OK;
}

csp_status csp_column_sums(csp_backend *be, const csp_sparse *w, int64_t rows, csp_tensor *sum,
                           csp_tensor *count)
{
    static const char op[] = "column_sums";

    CSP_TRY(csp_check_sparse(op, "w", w, rows, false));
    CSP_TRY(csp_check_tensor(op, "sum", sum, CSP_F64, 1, &w->vocab));
    if (csp_check_given(count)) {
        CSP_TRY(csp_check_tensor(op, "count", count, CSP_I32, 1, &w->vocab));
    }
    return rows > 0 ? csp_op_done(be, be->ops->column_sums(be, w, rows, sum, count)) : CSP_OK;
}

csp_status csp_position_counts(csp_backend *be, const csp_sparse *w, int64_t rows,
                               csp_tensor *count)
{
    static const char op[] = "position_counts";

    CSP_TRY(csp_check_sparse(op, "w", w, rows, true));
    CSP_TRY(csp_check_rank(op, "count", count, CSP_I64, 1));
    if (count->dim[0] > CSP_POSITIONS) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: %lld positions, at most %d are told apart", op,
                        (long long)count->dim[0], CSP_POSITIONS);
    }
    return rows > 0 && count->dim[0] > 0
               ? csp_op_done(be, be->ops->position_counts(be, w, rows, count))
               : CSP_OK;
}

csp_status csp_regularize(csp_backend *be, csp_reg_kind kind, const csp_sparse *w, int64_t rows,
                          const csp_tensor *sum, int64_t M, float lambda, csp_tensor *dw,
                          csp_tensor *value)
{
    static const char op[] = "regularize";
    const int64_t one = 1;

    if (kind != CSP_REG_FLOPS && kind != CSP_REG_L1) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: kind %d is neither FLOPS nor L1", op, (int)kind);
    }
    CSP_TRY(csp_check_sparse(op, "w", w, rows, false));
    CSP_TRY(csp_check_tensor(op, "sum", sum, CSP_F64, 1, &w->vocab));
    CSP_TRY(csp_check_tensor(op, "dw", dw, CSP_F32, 1, w->term.dim));
    if (M < 1 || M < rows) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: M %lld is below the number of rows %lld, or below 1",
                        op, (long long)M, (long long)rows);
    }
    if (!isfinite(lambda)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: lambda %g is not finite", op, (double)lambda);
    }
    CSP_TRY(csp_check_tensor(op, "value", value, CSP_F64, 1, &one));
    return csp_op_done(be, be->ops->regularize(be, kind, w, rows, sum, M, lambda, dw, value));
}
