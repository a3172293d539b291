/* swiglu.c - one line per equation. */
#include "ref/swiglu.h"

#include <math.h>

void ref_swiglu_fwd(const double *gate, const double *up, int64_t n, double *m)
{
    for (int64_t i = 0; i < n; i++) {
        m[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];
    }
}

void ref_swiglu_bwd(const double *gate, const double *up, const double *dm, int64_t n,
                    double *dgate, double *dgate_mag, double *dup)
{
    for (int64_t i = 0; i < n; i++) {
        const double g = gate[i], s = 1.0 / (1.0 + exp(-g));

        dup[i] = dm[i] * g * s;
        dgate[i] = dm[i] * up[i] * s * (1.0 + g * (1.0 - s));
        dgate_mag[i] = fabs(dm[i] * up[i] * s) * (1.0 + fabs(g) * (1.0 + s));
    }
}
