/* optim.c - the equations of ops/optim.h in their order. */
#include "ref/optim.h"

#include <math.h>

double ref_grad_squares(const double *g, int64_t n)
{
    double sum = 0.0;

    for (int64_t i = 0; i < n; i++) {
        sum += g[i] * g[i];
    }
    return sum;
}

double ref_clip(const double *squares, int64_t count, double max_norm)
{
    double sum = 0.0;

    for (int64_t i = 0; i < count; i++) {
        sum += squares[i];
    }
    return max_norm > 0.0 ? fmin(1.0, max_norm / (sqrt(sum) + 1e-6)) : 1.0;
}

void ref_adamw(double *value, const double *g, double *m, double *v, int64_t n, bool decay,
               const csp_adamw_args *a, double scale, double *value_mag, double *m_mag,
               double *v_mag)
{
    const double c1 = 1.0 - pow(a->beta1, (double)a->t), c2 = 1.0 - pow(a->beta2, (double)a->t);

    for (int64_t i = 0; i < n; i++) {
        const double gi = scale * g[i];
        double below;

        value[i] *= decay ? 1.0 - a->lr * a->weight_decay : 1.0;
        m_mag[i] = a->beta1 * fabs(m[i]) + (1.0 - a->beta1) * fabs(gi);
        m[i] = a->beta1 * m[i] + (1.0 - a->beta1) * gi;
        v[i] = a->beta2 * v[i] + (1.0 - a->beta2) * gi * gi;
        v_mag[i] = v[i];
        below = sqrt(v[i]) / sqrt(c2) + a->eps;
        value_mag[i] = fabs(value[i]) + a->lr * (m_mag[i] / c1) / below;
        value[i] -= a->lr * (m[i] / c1) / below;
    }
}
