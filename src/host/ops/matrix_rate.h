/*
 * matrix_rate.h - how fast a backend multiplies large matrices: the yardstick that mfu and
 * `csplade bench` divide by.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Multiplications and additions of the one product that is timed: (2048,1024) by (1024,1024). */
#define CSP_MATRIX_RATE_FLOP (2.0 * 2048 * 1024 * 1024)

/*
 * Times csp_linear_fwd on random numbers, alone on be.
 *
 *   warmup   in    >= 0 products before the timed ones
 *   repeats  in    >= 1
 *   seconds  out   host, repeats wall times, ascending
 *
 * Owner:  memory of the product is given back; nothing else of be changes.
 * Stream: waits for be.
 * Errors: CSP_ERR_ARGUMENT, CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_matrix_rate(csp_backend *be, int64_t warmup, int64_t repeats,
                                       double *seconds);

#ifdef __cplusplus
}
#endif
