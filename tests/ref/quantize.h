/* quantize.h - f64 reference of ops/quantize.h, as far as it is not rounding. */
#pragma once

#include <stdint.h>

/*
 * t = x c and scale = max(max |t| / 448, 2^-126) of each row.
 *
 *   c   (K), or NULL
 */
void ref_quantize_rows(const double *x, const double *c, int64_t N, int64_t K, double *t,
                       double *scale);

/* The number of an e4m3 pattern, from its fields: (-1)^s 2^(max(e,1) - 7) ([e > 0] + f / 8). */
double ref_e4m3_value(uint8_t bits);

/* Half the distance of the e4m3 numbers around x. */
double ref_e4m3_half_step(double x);
