/* norm.c - one loop nest per equation. */
#include "ref/norm.h"

#include <math.h>
#include <stddef.h>

void ref_norm_fwd(const double *x, const double *delta, const double *g, double eps, int64_t N,
                  int64_t D, double *sum, double *rstd, double *y)
{
    for (int64_t n = 0; n < N; n++) {
        double squares = 0.0;

        for (int64_t d = 0; d < D; d++) {
            sum[n * D + d] = x[n * D + d] + (delta != NULL ? delta[n * D + d] : 0.0);
            squares += sum[n * D + d] * sum[n * D + d];
        }
        rstd[n] = 1.0 / sqrt(squares / (double)D + eps);
        for (int64_t d = 0; d < D; d++) {
            y[n * D + d] = g[d] * rstd[n] * sum[n * D + d];
        }
    }
}

void ref_norm_bwd(const double *x, const double *g, const double *rstd, const double *dy,
                  const double *dsum, int64_t N, int64_t D, double *dx, double *dx_mag, double *dg,
                  double *dg_mag)
{
    for (int64_t n = 0; n < N; n++) {
        double mean = 0.0, mean_mag = 0.0;

        for (int64_t d = 0; d < D; d++) {
            const double xh = rstd[n] * x[n * D + d], v = g[d] * dy[n * D + d];

            mean += v * xh / (double)D;
            mean_mag += fabs(v * xh) / (double)D;
        }
        for (int64_t d = 0; d < D; d++) {
            const int64_t at = n * D + d;
            const double xh = rstd[n] * x[at], v = g[d] * dy[at];
            const double residual = dsum != NULL ? dsum[at] : 0.0;

            dx[at] = rstd[n] * (v - xh * mean) + residual;
            dx_mag[at] = rstd[n] * (fabs(v) + fabs(xh) * mean_mag) + fabs(residual);
            dg[d] += dy[at] * xh;
            dg_mag[d] += fabs(dy[at] * xh);
        }
    }
}

int64_t ref_norm_bad_row(const double *rstd, const double *y, int64_t N, int64_t D)
{
    for (int64_t n = 0; n < N; n++) {
        if (!isfinite(rstd[n]) || rstd[n] <= 0.0) {
            return n;
        }
    }
    for (int64_t d = 0; N > 0 && d < D; d++) {
        if (!isfinite(y[d])) {
            return 0;
        }
    }
    return -1;
}
