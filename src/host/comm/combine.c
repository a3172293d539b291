/*
 * combine.c - one array out of those of several ranks, element by element in the order of ranks.
 *
 * A run of elements is added up in 64 bits, rank after rank, and rounded once when it is stored.
 * The whole run is read before it is written, so the result may take the place of an input.
 */
#include <string.h>

#include "comm/state.h"

enum { RUN = 512 };

static void load_float(csp_dtype dtype, const void *in, int64_t first, int64_t n, double *out)
{
    if (dtype == CSP_F64) {
        memcpy(out, (const double *)in + first, (size_t)n * sizeof(double));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        out[i] = (double)((const float *)in)[first + i];
    }
}

static void store_float(csp_dtype dtype, const double *in, int64_t first, int64_t n, void *out)
{
    if (dtype == CSP_F64) {
        memcpy((double *)out + first, in, (size_t)n * sizeof(double));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        ((float *)out)[first + i] = (float)in[i];
    }
}

static void fold_float(csp_comm_op op, const double *x, int64_t n, double *sum)
{
    if (op == CSP_COMM_SUM) {
        for (int64_t i = 0; i < n; i++) {
            sum[i] += x[i];
        }
    } else if (op == CSP_COMM_MAX) {
        for (int64_t i = 0; i < n; i++) {
            sum[i] = x[i] > sum[i] || x[i] != x[i] ? x[i] : sum[i]; // a NaN in sum stays
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            sum[i] = x[i] < sum[i] || x[i] != x[i] ? x[i] : sum[i];
        }
    }
}

static void load_int(csp_dtype dtype, const void *in, int64_t first, int64_t n, int64_t *out)
{
    if (dtype == CSP_I64) {
        memcpy(out, (const int64_t *)in + first, (size_t)n * sizeof(int64_t));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        out[i] = ((const int32_t *)in)[first + i];
    }
}

static void store_int(csp_dtype dtype, const int64_t *in, int64_t first, int64_t n, void *out)
{
    if (dtype == CSP_I64) {
        memcpy((int64_t *)out + first, in, (size_t)n * sizeof(int64_t));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        ((int32_t *)out)[first + i] = (int32_t)(uint32_t)(uint64_t)in[i]; // wraps, as sums do
    }
}

static void fold_int(csp_comm_op op, const int64_t *x, int64_t n, int64_t *sum)
{
    for (int64_t i = 0; i < n; i++) {
        if (op == CSP_COMM_SUM) {
            sum[i] = (int64_t)((uint64_t)sum[i] + (uint64_t)x[i]);
        } else if (op == CSP_COMM_MAX ? x[i] > sum[i] : x[i] < sum[i]) {
            sum[i] = x[i];
        }
    }
}

void csp_combine(csp_dtype dtype, csp_comm_op op, const void *const *inputs, int size,
                 int64_t count, void *out)
{
    double sum[RUN], x[RUN];
    int64_t whole_sum[RUN], whole_x[RUN];
    const bool is_float = dtype == CSP_F32 || dtype == CSP_F64;

    for (int64_t first = 0; first < count; first += RUN) {
        const int64_t n = count - first < RUN ? count - first : RUN;

        if (is_float) {
            load_float(dtype, inputs[0], first, n, sum);
            for (int r = 1; r < size; r++) {
                load_float(dtype, inputs[r], first, n, x);
                fold_float(op, x, n, sum);
            }
            store_float(dtype, sum, first, n, out);
        } else {
            load_int(dtype, inputs[0], first, n, whole_sum);
            for (int r = 1; r < size; r++) {
                load_int(dtype, inputs[r], first, n, whole_x);
                fold_int(op, whole_x, n, whole_sum);
            }
            store_int(dtype, whole_sum, first, n, out);
        }
    }
}
