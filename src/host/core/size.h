/*
 * size.h - overflow-checked products and narrowing casts.
 *
 * Counts of elements are int64_t, bytes are size_t. A cast that narrows goes through here, so that
 * a value read from a file can never wrap.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* a * b with a, b >= 0; *out is written only when it fits. CSP_ERR_MEMORY names what. */
static inline csp_status csp_size_mul(const char *what, int64_t a, int64_t b, int64_t *out)
{
    int64_t product;

    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: %lld x %lld elements do not fit in 63 bits", what,
                        (long long)a, (long long)b);
    }
    *out = product;
    return CSP_OK;
}

/* value as int32_t; CSP_ERR_ARGUMENT names what if it does not fit. */
static inline csp_status csp_size_i32(const char *what, int64_t value, int32_t *out)
{
    if (value < INT32_MIN || value > INT32_MAX) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: %lld does not fit in 32 bits", what,
                        (long long)value);
    }
    *out = (int32_t)value;
    return CSP_OK;
}

/* Rounds bytes up to a multiple of unit (a power of two). */
static inline size_t csp_size_round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) & ~(unit - 1);
}

#ifdef __cplusplus
}
#endif
