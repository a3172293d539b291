/* sparse_pool.c - checks of ops/sparse_pool.h. */
#include "ops/sparse_pool.h"

#include <math.h>

#include "ops/check.h"

static const char OP[] = "sparse_pool";

/* Positions that a key of bf16 maxima has room for (csp_sparse_pool_fwd). */
#define KEY_POSITIONS ((int64_t)1 << 16)

csp_status csp_check_head(const csp_backend *be, const char *op, const csp_head *head, csp_dtype *S)
{
    CSP_TRY(csp_check_storage(be, op, "e", &head->e, 2, S));
    if (head->e.dim[0] < 1 || head->e.dim[1] < 1 || head->e.dim[0] > INT32_MAX ||
        head->e.dim[1] > INT32_MAX) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: e (%lld,%lld) must have 1 to 2^31-1 rows and columns",
                        op, (long long)head->e.dim[0], (long long)head->e.dim[1]);
    }
    if (csp_check_given(&head->exclude)) {
        CSP_TRY(csp_check_tensor(op, "exclude", &head->exclude, CSP_U8, 1, head->e.dim));
    }
    if (!(head->scale > 0.0f) || !isfinite(head->scale)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: scale %g is not a positive number", op,
                        (double)head->scale);
    }
    return CSP_OK;
}

csp_status csp_check_sparse(const char *op, const char *name, const csp_sparse *w, int64_t rows,
                            bool argmax)
{
    CSP_TRY(csp_check_rank(op, name, &w->row_ptr, CSP_I64, 1));
    if (rows < 0 || w->row_ptr.dim[0] < rows + 1) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: row_ptr of %s has %lld entries, %lld rows need %lld",
                        op, name, (long long)w->row_ptr.dim[0], (long long)rows,
                        (long long)rows + 1);
    }
    CSP_TRY(csp_check_rank(op, name, &w->term, CSP_I32, 1));
    CSP_TRY(csp_check_tensor(op, name, &w->weight, CSP_F32, 1, w->term.dim));
    if (argmax) {
        CSP_TRY(csp_check_tensor(op, name, &w->argmax, CSP_I32, 1, w->term.dim));
    }
    if (w->vocab < 1 || w->vocab > INT32_MAX) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: %s has a vocabulary of %lld terms", op, name,
                        (long long)w->vocab);
    }
    return CSP_OK;
}

/* The batch of both directions: B texts of N rows, and the sparse rows that belong to them. */
static csp_status check_batch(const csp_backend *be, const csp_head *head,
                              const csp_pool_texts *texts, int64_t N, const csp_sparse *rows,
                              int64_t first_row, csp_dtype *S)
{
    const csp_tensor *seq_start = &texts->seq_start;

    CSP_TRY(csp_check_head(be, OP, head, S));
    if (head->pooling != CSP_POOL_MAX && head->pooling != CSP_POOL_SUM) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: pooling %d is neither max nor sum", OP,
                        (int)head->pooling);
    }
    CSP_TRY(csp_check_rank(OP, "seq_start", seq_start, CSP_I32, 1));
    if (seq_start->dim[0] < 1) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: seq_start must have at least one entry", OP);
    }
    CSP_TRY(csp_check_tensor(OP, "keep", &texts->keep, CSP_U8, 1, &N));
    if (texts->kept < 0 || texts->kept > N || texts->longest < 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "%s: of %lld rows %lld are said to be kept, the longest text to have %lld",
                        OP, (long long)N, (long long)texts->kept, (long long)texts->longest);
    }
    if (*S == CSP_BF16 && head->pooling == CSP_POOL_MAX && texts->longest > KEY_POSITIONS) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "%s: a text of %lld rows: in bf16 the maximum is taken over %lld at most",
                        OP, (long long)texts->longest, (long long)KEY_POSITIONS);
    }
    if (first_row < 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: first_row %lld is negative", OP,
                        (long long)first_row);
    }
    CSP_TRY(csp_check_sparse(OP, "the sparse rows", rows, first_row + seq_start->dim[0] - 1,
                             head->pooling == CSP_POOL_MAX));
    if (rows->vocab != head->e.dim[0]) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: the sparse rows have %lld terms, e has %lld", OP,
                        (long long)rows->vocab, (long long)head->e.dim[0]);
    }
    return CSP_OK;
}

csp_status csp_sparse_pool_fwd(csp_backend *be, const csp_head *head, const csp_tensor *h,
                               const csp_pool_texts *texts, int64_t first_row, csp_sparse *out)
{
    csp_dtype S;

    CSP_TRY(check_batch(be, head, texts, h->dim[0], out, first_row, &S));
    CSP_TRY(csp_check_tensor(OP, "h", h, S, 2, (int64_t[]) { h->dim[0], head->e.dim[1] }));
    return texts->seq_start.dim[0] > 1
               ? csp_op_done(be, be->ops->sparse_pool_fwd(be, head, h, texts, first_row, out))
               : CSP_OK;
}

csp_status csp_sparse_pool_choose(csp_backend *be, csp_pool_way way)
{
    if (way < CSP_POOL_AUTO || way > CSP_POOL_CUSPARSE) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: there is no way %d", OP, (int)way);
    }
    return be->ops->sparse_pool_choose(be, way);
}

csp_status csp_sparse_pool_choose_forward(csp_backend *be, csp_pool_forward way)
{
    if (way < CSP_POOL_FORWARD_AUTO || way > CSP_POOL_FORWARD_FUSED) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: there is no way %d forward", OP, (int)way);
    }
    return be->ops->sparse_pool_choose_forward(be, way);
}

csp_status csp_sparse_pool_bwd(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    const bool trained = csp_check_given(&g->de);
    const int64_t rows[] = { g->dh.dim[0], head->e.dim[1] };
    csp_dtype S;

    CSP_TRY(check_batch(be, head, &g->texts, rows[0], g->rows, g->first_row, &S));
    CSP_TRY(csp_check_tensor(OP, "dw", &g->dw, CSP_F32, 1, g->rows->term.dim));
    if (g->entries < 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: %lld entries", OP, (long long)g->entries);
    }
    CSP_TRY(csp_check_tensor(OP, "dh", &g->dh, S, 2, rows));
    if (trained) {
        CSP_TRY(csp_check_tensor(OP, "de", &g->de, CSP_F32, 2, head->e.dim));
    }
    if (trained || head->pooling == CSP_POOL_SUM) {
        CSP_TRY(csp_check_tensor(OP, "h", &g->h, S, 2, rows));
    }
    return rows[0] > 0 ? csp_op_done(be, be->ops->sparse_pool_bwd(be, head, g)) : CSP_OK;
}
