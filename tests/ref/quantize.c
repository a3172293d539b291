/* quantize.c - the equation, and e4m3 from its definition. */
#include "ref/quantize.h"

#include <math.h>
#include <stddef.h>

void ref_quantize_rows(const double *x, const double *c, int64_t N, int64_t K, double *t,
                       double *scale)
{
    for (int64_t n = 0; n < N; n++) {
        double most = 0.0;

        for (int64_t k = 0; k < K; k++) {
            t[n * K + k] = x[n * K + k] * (c != NULL ? c[k] : 1.0);
            most = fabs(t[n * K + k]) > most ? fabs(t[n * K + k]) : most;
        }
        scale[n] = most / 448.0 > 0x1p-126 ? most / 448.0 : 0x1p-126;
    }
}

double ref_e4m3_value(uint8_t bits)
{
    const int e = bits >> 3 & 15, f = bits & 7;
    const double size = ldexp((e > 0 ? 1.0 : 0.0) + f / 8.0, (e > 1 ? e : 1) - 7);

    if (e == 15 && f == 7) {
        return NAN;
    }
    return (bits & 0x80) != 0 ? -size : size;
}

double ref_e4m3_half_step(double x)
{
    int exponent; /* |x| is in [1/2, 1) 2^exponent */

    (void)frexp(x, &exponent);
    return ldexp(1.0, (fabs(x) < 0x1p-6 ? -5 : exponent) - 5);
}
