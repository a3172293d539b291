/* check.c - one sentence for every tensor of the wrong shape. */
#include "ops/check.h"

enum { DESCRIPTION = 128 };

static csp_status check_memory(const char *op, const char *name, const csp_tensor *t)
{
    if (t->data == NULL && csp_tensor_count(t) > 0) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: %s has a shape but no memory", op, name);
    }
    return CSP_OK;
}

csp_status csp_check_tensor(const char *op, const char *name, const csp_tensor *t, csp_dtype dtype,
                            int ndim, const int64_t *dims)
{
    if (!csp_check_given(t) || !csp_tensor_is(t, dtype, ndim, dims)) {
        const csp_tensor want = csp_tensor_view(NULL, dtype, ndim, dims);
        char wanted[DESCRIPTION], given[DESCRIPTION];

        return CSP_FAIL(CSP_ERR_SHAPE, "%s: %s must be %s, not %s", op, name,
                        csp_tensor_describe(&want, wanted, sizeof(wanted)),
                        csp_check_given(t) ? csp_tensor_describe(t, given, sizeof(given)) : "none");
    }
    return check_memory(op, name, t);
}

csp_status csp_check_rank(const char *op, const char *name, const csp_tensor *t, csp_dtype dtype,
                          int ndim)
{
    if (!csp_check_given(t) || t->dtype != dtype || t->ndim != ndim) {
        char given[DESCRIPTION];

        return CSP_FAIL(CSP_ERR_SHAPE, "%s: %s must be %s with %d dimensions, not %s", op, name,
                        csp_dtype_name(dtype), ndim,
                        csp_check_given(t) ? csp_tensor_describe(t, given, sizeof(given)) : "none");
    }
    return check_memory(op, name, t);
}

csp_status csp_check_storage(const csp_backend *be, const char *op, const char *name,
                             const csp_tensor *t, int ndim, csp_dtype *out)
{
    const bool is_bf16 = csp_check_given(t) && t->dtype == CSP_BF16;

    CSP_TRY(csp_check_rank(op, name, t, is_bf16 ? CSP_BF16 : CSP_F32, ndim));
    if (is_bf16 && !be->bf16) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "%s: %s is bf16, with which %s does not compute: bf16 needs a CUDA device",
                        op, name, be->name);
    }
    *out = t->dtype;
    return CSP_OK;
}

bool csp_check_apart(const csp_tensor *a, const csp_tensor *b)
{
    const char *a_at = a->data, *b_at = b->data;

    return a_at == NULL || b_at == NULL || a_at + csp_tensor_bytes(a) <= b_at ||
           b_at + csp_tensor_bytes(b) <= a_at;
}
