/* linear.c - one loop nest per equation. */
#include "ref/linear.h"

#include <math.h>
#include <stddef.h>

#include "core/rng.h"

static double masked(const ref_linear *l, const double *x, int64_t n, int64_t i)
{
    return x[n * l->I + i] * (l->m != NULL ? l->m[n * l->I + i] : 1.0);
}

void ref_linear_fwd(const ref_linear *l, const double *x, double *u, double *u_mag, double *y,
                    double *y_mag)
{
    for (int64_t n = 0; n < l->N; n++) {
        for (int64_t r = 0; r < l->R; r++) {
            double sum = 0.0, size = 0.0;

            for (int64_t i = 0; i < l->I; i++) {
                sum += masked(l, x, n, i) * l->a[r * l->I + i];
                size += fabs(masked(l, x, n, i) * l->a[r * l->I + i]);
            }
            u[n * l->R + r] = sum;
            if (u_mag != NULL) {
                u_mag[n * l->R + r] = size;
            }
        }
        for (int64_t o = 0; o < l->O; o++) {
            double sum = l->bias != NULL ? l->bias[o] : 0.0, size = fabs(sum);

            for (int64_t i = 0; i < l->I; i++) {
                const double in = (l->x_base != NULL ? l->x_base : x)[n * l->I + i];

                sum += in * l->w[o * l->I + i];
                size += fabs(in * l->w[o * l->I + i]);
            }
            for (int64_t r = 0; r < l->R; r++) {
                sum += l->scale * u[n * l->R + r] * l->b[o * l->R + r];
                size += fabs(l->scale * l->b[o * l->R + r]) *
                        (u_mag != NULL ? u_mag[n * l->R + r] : fabs(u[n * l->R + r]));
            }
            y[n * l->O + o] = sum;
            if (y_mag != NULL) {
                y_mag[n * l->O + o] = size;
            }
        }
    }
}

/* du[n,r] = s sum over o of dy B, and the size of its terms. */
static double branch_grad(const ref_linear *l, const double *dy, int64_t n, int64_t r, double *size)
{
    double sum = 0.0;

    *size = 0.0;
    for (int64_t o = 0; o < l->O; o++) {
        sum += l->scale * dy[n * l->O + o] * l->b[o * l->R + r];
        *size += fabs(l->scale * dy[n * l->O + o] * l->b[o * l->R + r]);
    }
    return sum;
}

static void add(double *value, double *mag, int64_t at, double term, double size)
{
    value[at] += term;
    mag[at] += size;
}

static void branch_bwd(const ref_linear *l, const double *x, const double *u, const double *dy,
                       ref_linear_grad *g)
{
    for (int64_t n = 0; n < l->N; n++) {
        for (int64_t r = 0; r < l->R; r++) {
            double size;
            const double du = branch_grad(l, dy, n, r, &size);

            for (int64_t i = 0; i < l->I; i++) {
                const double m = l->m != NULL ? l->m[n * l->I + i] : 1.0;

                if (g->da != NULL) {
                    add(g->da, g->da_mag, r * l->I + i, du * masked(l, x, n, i),
                        size * fabs(masked(l, x, n, i)));
                }
                if (g->dx != NULL) {
                    add(g->dx, g->dx_mag, n * l->I + i, m * du * l->a[r * l->I + i],
                        m * size * fabs(l->a[r * l->I + i]));
                }
            }
            for (int64_t o = 0; g->db != NULL && o < l->O; o++) {
                const double term = l->scale * dy[n * l->O + o] * u[n * l->R + r];

                add(g->db, g->db_mag, o * l->R + r, term, fabs(term));
            }
        }
    }
}

void ref_linear_bwd(const ref_linear *l, const double *x, const double *u, const double *dy,
                    ref_linear_grad *g)
{
    for (int64_t n = 0; n < l->N; n++) {
        for (int64_t o = 0; o < l->O; o++) {
            const double d = dy[n * l->O + o];

            if (g->dbias != NULL) {
                add(g->dbias, g->dbias_mag, o, d, fabs(d));
            }
            for (int64_t i = 0; i < l->I; i++) {
                const double w = l->w[o * l->I + i];

                if (g->dw != NULL) {
                    const double term = d * x[n * l->I + i];

                    add(g->dw, g->dw_mag, o * l->I + i, term, fabs(term));
                }
                if (g->dx != NULL) {
                    const double back = l->dy_base != NULL ? l->dy_base[n * l->O + o] : d;

                    add(g->dx, g->dx_mag, n * l->I + i, back * w, fabs(back * w));
                }
            }
        }
    }
    branch_bwd(l, x, u, dy, g);
}

void ref_dropout_mask(double p, uint64_t seed, uint64_t step, uint32_t key, const int64_t *row_key,
                      int64_t N, int64_t I, double *m)
{
    const csp_rng rng = { .seed = seed, .draw = CSP_DRAW_DROPOUT, .key = key, .step = step };

    for (int64_t n = 0; n < N; n++) {
        for (int64_t c = 0; c < I; c++) {
            const uint64_t index = (uint64_t)row_key[n] * 65536 * 4 + (uint64_t)c;

            m[n * I + c] = (double)csp_rng_uniform(rng, index) >= p ? 1.0 / (1.0 - p) : 0.0;
        }
    }
}
