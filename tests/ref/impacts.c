/* impacts.c - the equation, with the rounding functions of the C library. */
#include "ref/impacts.h"

#include <math.h>

void ref_impacts(const double *w, int64_t rows, int64_t V, bool up, double scale, double most,
                 double *impact, ref_impact_counts *counts)
{
    *counts = (ref_impact_counts) { 0, 0, 0.0 };
    for (int64_t i = 0; i < rows * V; i++) {
        const double whole = up ? ceil(scale * w[i]) : round(scale * w[i]);

        impact[i] = isinf(w[i]) ? INFINITY : fmin(whole, most);
        counts->dropped += w[i] > 0.0 && impact[i] == 0.0;
        counts->clipped += isfinite(w[i]) && whole > most;
        counts->largest = fmax(counts->largest, impact[i]);
    }
}
