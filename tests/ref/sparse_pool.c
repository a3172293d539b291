/* sparse_pool.c - one loop nest per equation. */
#include "ref/sparse_pool.h"

#include <math.h>
#include <stddef.h>

double ref_bf16(double x)
{
    int exponent;
    const double fraction = frexp(x, &exponent);

    return ldexp(rint(ldexp(fraction, 8)), exponent - 8);
}

double ref_pool_logit(const ref_pool *p, int64_t n, int64_t v, double *mag)
{
    double product = 0.0;

    *mag = 0.0;
    for (int64_t d = 0; d < p->D; d++) {
        product += p->h[n * p->D + d] * p->e[v * p->D + d];
        *mag += p->scale * fabs(p->h[n * p->D + d] * p->e[v * p->D + d]);
    }
    return p->scale * (p->bf16 ? ref_bf16(product) : product);
}

static int active(const ref_pool *p, int64_t n, int64_t v)
{
    return p->keep[n] != 0 && (p->exclude == NULL || p->exclude[v] == 0);
}

void ref_pool_max_fwd(const ref_pool *p, double *w, int32_t *arg, double *w_mag)
{
    for (int64_t b = 0; b < p->B; b++) {
        for (int64_t v = 0; v < p->V; v++) {
            double best = 0.0, size = 0.0;
            int32_t at = -1;

            for (int32_t n = p->seq_start[b]; n < p->seq_start[b + 1]; n++) {
                double mag;
                const double z = ref_pool_logit(p, n, v, &mag);

                if (active(p, n, v)) {
                    size = fmax(size, mag);
                    if (z > best || (isnan(z) && !isnan(best))) {
                        best = z;
                        at = n - p->seq_start[b];
                    }
                }
            }
            w[b * p->V + v] = log1p(best);
            if (arg != NULL) {
                arg[b * p->V + v] = at;
            }
            if (w_mag != NULL) {
                w_mag[b * p->V + v] = size / (1.0 + best) + log1p(best);
            }
        }
    }
}

void ref_pool_sum_fwd(const ref_pool *p, double *w, double *w_mag)
{
    for (int64_t b = 0; b < p->B; b++) {
        for (int64_t v = 0; v < p->V; v++) {
            double sum = 0.0, size = 0.0;

            for (int32_t n = p->seq_start[b]; n < p->seq_start[b + 1]; n++) {
                double mag;
                const double logit = ref_pool_logit(p, n, v, &mag);
                const double z = logit < 0.0 ? 0.0 : logit; /* keeps a NaN */

                if (active(p, n, v)) {
                    sum += log1p(z);
                    size += mag / (1.0 + z) + log1p(z);
                }
            }
            w[b * p->V + v] = sum;
            if (w_mag != NULL) {
                w_mag[b * p->V + v] = size;
            }
        }
    }
}

/* dh = k dz e;  de += k dz^T h, of one logit. */
static void add_logit(const ref_pool *p, int64_t n, int64_t v, double dz, double *dh,
                      double *dh_mag, double *de, double *de_mag)
{
    for (int64_t d = 0; d < p->D; d++) {
        const double to_h = p->scale * dz * p->e[v * p->D + d];
        const double to_e = p->scale * dz * p->h[n * p->D + d];

        dh[n * p->D + d] += to_h;
        dh_mag[n * p->D + d] += fabs(to_h);
        de[v * p->D + d] += to_e;
        de_mag[v * p->D + d] += fabs(to_e);
    }
}

void ref_pool_max_bwd(const ref_pool *p, const double *w, const int32_t *arg, const double *dw,
                      double *dh, double *dh_mag, double *de, double *de_mag)
{
    for (int64_t i = 0; i < p->N * p->D; i++) {
        dh[i] = 0.0;
        dh_mag[i] = 0.0;
    }
    for (int64_t b = 0; b < p->B; b++) {
        for (int64_t v = 0; v < p->V; v++) {
            const int64_t at = b * p->V + v;

            if (arg[at] >= 0) {
                add_logit(p, p->seq_start[b] + arg[at], v, dw[at] * exp(-w[at]), dh, dh_mag, de,
                          de_mag);
            }
        }
    }
}

void ref_pool_sum_bwd(const ref_pool *p, const double *dw, double *dh, double *dh_mag, double *de,
                      double *de_mag)
{
    for (int64_t i = 0; i < p->N * p->D; i++) {
        dh[i] = 0.0;
        dh_mag[i] = 0.0;
    }
    for (int64_t b = 0; b < p->B; b++) {
        for (int64_t v = 0; v < p->V; v++) {
            for (int32_t n = p->seq_start[b]; n < p->seq_start[b + 1]; n++) {
                double mag;
                const double z = ref_pool_logit(p, n, v, &mag);

                if (active(p, n, v) && z > 0.0) {
                    add_logit(p, n, v, dw[b * p->V + v] / (1.0 + z), dh, dh_mag, de, de_mag);
                }
            }
        }
    }
}
