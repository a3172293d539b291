/* top_k.c - checks of ops/top_k.h. */
#include "ops/top_k.h"

#include "ops/check.h"

static const char OP[] = "top_k";

csp_status csp_top_k(csp_backend *be, const csp_sparse *w, int64_t rows, int64_t k, csp_sparse *out)
{
    int64_t most;

    CSP_TRY(csp_check_sparse(OP, "w", w, rows, false));
    CSP_TRY(csp_check_sparse(OP, "out", out, rows, false));
    if (k < 1) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: k %lld is below 1", OP, (long long)k);
    }
    if (out->vocab != w->vocab) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: out has %lld terms, w has %lld", OP,
                        (long long)out->vocab, (long long)w->vocab);
    }
    most = k < w->vocab ? k : w->vocab;
    if (rows > 0 && out->term.dim[0] / rows < most) {
        return CSP_FAIL(CSP_ERR_SHAPE,
                        "%s: out has room for %lld entries, %lld rows of %lld need %lld", OP,
                        (long long)out->term.dim[0], (long long)rows, (long long)most,
                        (long long)(rows * most));
    }
    if (!csp_check_apart(&w->row_ptr, &out->row_ptr) || !csp_check_apart(&w->term, &out->term) ||
        !csp_check_apart(&w->weight, &out->weight)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: out may not be w", OP);
    }
    return csp_op_done(be, be->ops->top_k(be, w, rows, k, out));
}
