/* gradcheck.c - central differences against a hand-written gradient. */
#include "support/gradcheck.h"

#include <math.h>

double gradient_distance(double (*loss)(const double *x, const void *context), const void *context,
                         double *x, const double *gradient, int64_t n)
{
    const double step = 0x1p-17; /* cube root of the f64 rounding unit: error balance */
    double apart = 0.0, size_g = 0.0, size_d = 0.0;

    for (int64_t i = 0; i < n; i++) {
        const double saved = x[i];

        x[i] = saved + step;
        const double up = loss(x, context);
        x[i] = saved - step;
        const double down = loss(x, context);
        x[i] = saved;
        const double slope = (up - down) / (2.0 * step);

        apart += (gradient[i] - slope) * (gradient[i] - slope);
        size_g += gradient[i] * gradient[i];
        size_d += slope * slope;
    }
    return size_g + size_d > 0.0 ? sqrt(apart) / (sqrt(size_g) + sqrt(size_d)) : 0.0;
}
