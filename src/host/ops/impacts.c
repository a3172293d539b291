/* impacts.c - checks of ops/impacts.h. */
#include "ops/impacts.h"

#include "ops/check.h"

static const char OP[] = "impacts";

static csp_status check_out(const csp_sparse *w, int64_t rows, const csp_impact_rows *out)
{
    const int64_t counts = CSP_IMPACTS_COUNTS;
    int64_t bytes;

    CSP_TRY(csp_check_rank(OP, "out.row_ptr", &out->row_ptr, CSP_I64, 1));
    CSP_TRY(csp_check_rank(OP, "out.term", &out->term, CSP_I32, 1));
    if (out->row_ptr.dim[0] <= rows || out->term.dim[0] < w->term.dim[0]) {
        return CSP_FAIL(CSP_ERR_SHAPE,
                        "%s: out has room for %lld rows and %lld entries, w has %lld and %lld", OP,
                        (long long)out->row_ptr.dim[0] - 1, (long long)out->term.dim[0],
                        (long long)rows, (long long)w->term.dim[0]);
    }
    bytes = 4 * out->term.dim[0];
    CSP_TRY(csp_check_tensor(OP, "out.impact", &out->impact, CSP_U8, 1, &bytes));
    return csp_check_tensor(OP, "out.count", &out->count, CSP_I64, 1, &counts);
}

csp_status csp_impacts(csp_backend *be, const csp_sparse *w, int64_t rows, const csp_quant *quant,
                       csp_impact_rows *out)
{
    CSP_TRY(csp_check_sparse(OP, "w", w, rows, false));
    CSP_TRY(check_out(w, rows, out));
    if ((quant->kind != CSP_QUANT_ROUND && quant->kind != CSP_QUANT_CEIL) ||
        !(quant->scale > 0.0 && quant->scale <= DBL_MAX)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "%s: %s with a scale of %g, not round or ceil and above 0", OP,
                        csp_quant_name(quant->kind), quant->scale);
    }
    if (!csp_check_apart(&w->row_ptr, &out->row_ptr) || !csp_check_apart(&w->term, &out->term) ||
        !csp_check_apart(&w->weight, &out->impact)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: out may not be w", OP);
    }
    return csp_op_done(be, be->ops->impacts(be, w, rows, quant, out));
}
