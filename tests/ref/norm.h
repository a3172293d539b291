/* norm.h - f64 reference of ops/norm.h; mags are the sizes of the terms added up. */
#pragma once

#include <stdint.h>

/* sum = x + delta (delta may be NULL); rstd = 1/sqrt(mean(sum^2) + eps); y = g ⊙ rstd sum */
void ref_norm_fwd(const double *x, const double *delta, const double *g, double eps, int64_t N,
                  int64_t D, double *sum, double *rstd, double *y);

/* dx = rstd (v - xh mean(v ⊙ xh)) + dsum, v = g ⊙ dy, xh = rstd x;  dg += dy ⊙ xh. dsum may be NULL
 */
void ref_norm_bwd(const double *x, const double *g, const double *rstd, const double *dy,
                  const double *dsum, int64_t N, int64_t D, double *dx, double *dx_mag, double *dg,
                  double *dg_mag);

/* The first row whose rstd is no positive number, else 0 where the first row of y is not finite, or
 * -1. */
int64_t ref_norm_bad_row(const double *rstd, const double *y, int64_t N, int64_t D);
