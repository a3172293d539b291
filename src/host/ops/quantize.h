/*
 * quantize.h - rows as 8-bit floats (e4m3 of core/scalar.h) with a float32 scale each.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows in e4m3, or none: those of the equation below. */
typedef struct csp_fp8_rows {
    csp_tensor q;     /* (N,K)  e4m3 */
    csp_tensor scale; /* (N)    f32  */
} csp_fp8_rows;

/* The least scale of a row: that of rows of zeros. Its reciprocal is finite. */
#define CSP_QUANTIZE_LEAST_SCALE 0x1p-126f

/*
 * Quantises rows so that the largest element of each becomes the largest e4m3 number.
 *
 *     t[n,k] = x[n,k] c[k]                                  c = 1 where there is none
 *     scale[n] = max(max over k of |t[n,k]| / 448, 2^-126)
 *     q[n,k] = e4m3(t[n,k] (1 / scale[n]))                  so that t is about scale q
 *
 * Source: docs/method.md 8.6.
 *
 *   x      in    (N,K)  f32, or bf16 where the backend has it
 *   c      in    (K)    f32   factors of columns, or none
 *   q      out   (N,K)  e4m3  overwritten
 *   scale  out   (N)    f32   overwritten
 *
 * A NaN stays a NaN in q and does not count for the maximum; a row with an infinity has an infinite
 * scale, so that no finite number comes out of it again.
 * Aliasing:   none.
 * Precision:  each operation of the equation is rounded to f32, so that every backend gives the
 *             same bits, but for signs of NaNs.
 * Errors:     CSP_ERR_SHAPE, CSP_ERR_UNSUPPORTED (bf16), CSP_ERR_DEVICE. Outputs are untouched
 *             after the first two.
 */
CSP_CHECKED csp_status csp_quantize_rows(csp_backend *be, const csp_tensor *x, const csp_tensor *c,
                                         csp_tensor *q, csp_tensor *scale);

#ifdef __cplusplus
}
#endif
