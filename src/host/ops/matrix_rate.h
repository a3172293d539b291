/*
 * matrix_rate.h - how fast a backend multiplies large matrices: the yardstick that mfu and
 * `csplade bench` divide by.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The product (N,I) by (O,I) transposed that was timed. */
typedef struct csp_matrix_product {
    int64_t N, I, O;
    double flop; /* its multiplications and additions */
} csp_matrix_product;

/*
 * Times csp_linear_fwd on random numbers, alone on be: (2048,1024) by (1024,1024), or the same with
 * all sizes doubled up to three times, where the backend is so fast that less would be over before
 * it is well under way, and has the memory.
 *
 *   dtype    in    of all three matrices: f32, or bf16 where be has it
 *   warmup   in    >= 0 products before the timed ones
 *   repeats  in    >= 1
 *   seconds  out   host, repeats wall times, ascending
 *   timed    out   what was timed
 *
 * Owner:  memory of the product is given back; nothing else of be changes.
 * Stream: waits for be.
 * Errors: CSP_ERR_ARGUMENT, CSP_ERR_MEMORY, CSP_ERR_DEVICE, CSP_ERR_UNSUPPORTED (dtype).
 */
CSP_CHECKED csp_status csp_matrix_rate(csp_backend *be, csp_dtype dtype, int64_t warmup,
                                       int64_t repeats, double *seconds, csp_matrix_product *timed);

#ifdef __cplusplus
}
#endif
