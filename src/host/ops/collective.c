/* collective.c - checks of collectives of devices. */
#include "ops/collective.h"

#include "ops/check.h"

csp_status csp_collective_library(csp_backend *be, const char **name)
{
    return be->ops->collective_library(be, name);
}

csp_status csp_collective_make_id(csp_backend *be, csp_collective_id *out)
{
    return be->ops->collective_make_id(be, out);
}

csp_status csp_collective_open(csp_backend *be, const csp_collective_group *group,
                               csp_collective **out)
{
    if (group->size < 1 || group->rank < 0 || group->rank >= group->size) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "collectives: rank %d of %d", group->rank, group->size);
    }
    return be->ops->collective_open(be, group, out);
}

void csp_collective_close(csp_backend *be, csp_collective *collective)
{
    if (collective != NULL) {
        be->ops->collective_close(be, collective);
    }
}

void csp_collective_abort(csp_backend *be, csp_collective *collective)
{
    if (collective != NULL) {
        be->ops->collective_abort(be, collective);
    }
}

static bool is_summed(csp_dtype dtype)
{
    return dtype == CSP_F32 || dtype == CSP_F64 || dtype == CSP_I32 || dtype == CSP_I64;
}

static csp_status check_parts(const csp_collective_call *call, int size, int rank)
{
    const bool gather = call->kind == CSP_COLLECTIVE_GATHER;
    const csp_tensor *part = gather ? &call->in : &call->out;
    const csp_tensor *whole = gather ? &call->out : &call->in;
    int64_t all = 0;

    for (int r = 0; r < size; r++) {
        if (call->counts[r] < 0) {
            return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: rank %d has %lld elements", call->what, r,
                            (long long)call->counts[r]);
        }
        all += call->counts[r];
    }
    if (csp_tensor_count(part) != call->counts[rank] || csp_tensor_count(whole) != all) {
        return CSP_FAIL(CSP_ERR_SHAPE,
                        "%s: %lld elements of rank %d and %lld of all ranks, not %lld and %lld",
                        call->what, (long long)call->counts[rank], rank, (long long)all,
                        (long long)csp_tensor_count(part), (long long)csp_tensor_count(whole));
    }
    return CSP_OK;
}

static csp_status check_call(const csp_collective_call *call, int size, int rank)
{
    const csp_dtype dtype = call->in.dtype;
    const bool scatters = call->kind == CSP_COLLECTIVE_SCATTER_SUM;

    if (call->in.apart > 0 || call->out.apart > 0) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: rows that lie apart", call->what);
    }
    if (call->out.dtype != dtype) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: from %s to %s", call->what, csp_dtype_name(dtype),
                        csp_dtype_name(call->out.dtype));
    }
    if (call->kind == CSP_COLLECTIVE_GATHER || scatters) {
        if (scatters && dtype != CSP_F32 && dtype != CSP_F64) {
            return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: scattered sums are of f32 and f64, not %s",
                            call->what, csp_dtype_name(dtype));
        }
        return check_parts(call, size, rank);
    }
    if (call->kind == CSP_COLLECTIVE_BROADCAST) {
        if (call->root < 0 || call->root >= size) {
            return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: from rank %d of %d", call->what, call->root,
                            size);
        }
    } else if (!is_summed(dtype)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: ranks combine f32, f64, i32 and i64, not %s",
                        call->what, csp_dtype_name(dtype));
    }
    if (call->in.data != call->out.data ||
        csp_tensor_count(&call->in) != csp_tensor_count(&call->out)) {
        return CSP_FAIL(CSP_ERR_SHAPE, "%s: works in place", call->what);
    }
    return CSP_OK;
}

csp_status csp_collective_start(csp_backend *be, csp_collective *collective,
                                const csp_collective_call *call, int64_t *ticket)
{
    CSP_TRY(check_call(call, collective->size, collective->rank));
    return be->ops->collective_start(be, collective, call, ticket);
}

csp_status csp_collective_join(csp_backend *be, csp_collective *collective, int64_t ticket)
{
    return be->ops->collective_join(be, collective, ticket);
}

csp_status csp_collective_waited(csp_backend *be, csp_collective *collective, double *seconds)
{
    return be->ops->collective_waited(be, collective, seconds);
}
