/* loss.c - one loop nest per equation. */
#include "ref/loss.h"

#include <math.h>
#include <stddef.h>

static int included(const ref_tokens *p, int64_t j)
{
    return p->exclude == NULL || p->exclude[j] == 0;
}

static double logit(const ref_tokens *p, int64_t i, int64_t j, double *mag)
{
    double z = 0.0;

    *mag = 0.0;
    for (int64_t d = 0; d < p->D; d++) {
        z += p->scale * p->h[i * p->D + d] * p->e[j * p->D + d];
        *mag += p->scale * fabs(p->h[i * p->D + d] * p->e[j * p->D + d]);
    }
    return z;
}

/* What both directions need of row i: logsumexp, V' + S, the largest size of a logit's terms. */
static void row_sums(const ref_tokens *p, int64_t i, double *lse, double *saturated, double *size)
{
    double highest = -INFINITY, sum = 0.0, mag;

    *saturated = 0.0;
    *size = 0.0;
    for (int64_t j = 0; j < p->V; j++) {
        if (included(p, j)) {
            highest = fmax(highest, logit(p, i, j, &mag));
            *size = fmax(*size, mag);
        }
    }
    for (int64_t j = 0; j < p->V; j++) {
        if (included(p, j)) {
            const double z = logit(p, i, j, &mag);

            sum += exp(z - highest);
            *saturated += 1.0 + fmax(z, 0.0);
        }
    }
    *lse = highest + log(sum);
}

void ref_token_loss_fwd(const ref_tokens *p, double loss[2], double loss_mag[2])
{
    loss[0] = loss[1] = loss_mag[0] = loss_mag[1] = 0.0;
    for (int64_t i = 0; i < p->N; i++) {
        if (p->target[i] >= 0) {
            double lse, saturated, size, mag;
            const double z = logit(p, i, p->target[i], &mag);

            row_sums(p, i, &lse, &saturated, &size);
            loss[0] += lse - z;
            loss[1] += log(saturated) - log1p(fmax(z, 0.0));
            loss_mag[0] += 2.0 * size + fabs(lse) + fabs(z) + 1.0;
            loss_mag[1] += 2.0 * size + log(saturated) + log1p(fmax(z, 0.0)) + 1.0;
        }
    }
}

void ref_token_loss_bwd(const ref_tokens *p, double *dh, double *dh_mag, double *de, double *de_mag)
{
    for (int64_t i = 0; i < p->N * p->D; i++) {
        dh[i] = 0.0;
        dh_mag[i] = 0.0;
    }
    for (int64_t i = 0; i < p->N; i++) {
        double lse, saturated, size;

        if (p->target[i] < 0) {
            continue;
        }
        row_sums(p, i, &lse, &saturated, &size);
        for (int64_t j = 0; j < p->V; j++) {
            double mag;
            const double z = logit(p, i, j, &mag);
            const double own = j == p->target[i] ? 1.0 : 0.0, positive = z > 0.0 ? 1.0 : 0.0;
            const double plus = exp(z - lse) + p->lambda * positive / saturated;
            const double minus = own + p->lambda * own * positive / (1.0 + fmax(z, 0.0));
            const double dz = p->coefficient * (plus - minus);
            const double dz_mag = p->coefficient * (plus + minus);

            for (int64_t d = 0; included(p, j) && d < p->D; d++) {
                dh[i * p->D + d] += p->scale * dz * p->e[j * p->D + d];
                dh_mag[i * p->D + d] += p->scale * dz_mag * fabs(p->e[j * p->D + d]);
                de[j * p->D + d] += p->scale * dz * p->h[i * p->D + d];
                de_mag[j * p->D + d] += p->scale * dz_mag * fabs(p->h[i * p->D + d]);
            }
        }
    }
}

void ref_scores_fwd(const double *q, const double *p, double scale, int64_t Q, int64_t P, int64_t V,
                    double *s, double *s_mag)
{
    for (int64_t i = 0; i < Q; i++) {
        for (int64_t j = 0; j < P; j++) {
            s[i * P + j] = s_mag[i * P + j] = 0.0;
            for (int64_t v = 0; v < V; v++) {
                s[i * P + j] += scale * q[i * V + v] * p[j * V + v];
                s_mag[i * P + j] += fabs(scale * q[i * V + v] * p[j * V + v]);
            }
        }
    }
}

void ref_scores_bwd(const double *ds, const double *q, const double *p, double scale, int64_t Q,
                    int64_t P, int64_t V, double *dq, double *dq_mag, double *dp, double *dp_mag)
{
    for (int64_t v = 0; v < V; v++) {
        for (int64_t i = 0; i < Q; i++) {
            dq[i * V + v] = dq_mag[i * V + v] = 0.0;
            for (int64_t j = 0; q[i * V + v] > 0.0 && j < P; j++) {
                dq[i * V + v] += scale * ds[i * P + j] * p[j * V + v];
                dq_mag[i * V + v] += fabs(scale * ds[i * P + j] * p[j * V + v]);
            }
        }
        for (int64_t j = 0; j < P; j++) {
            dp[j * V + v] = dp_mag[j * V + v] = 0.0;
            for (int64_t i = 0; p[j * V + v] > 0.0 && i < Q; i++) {
                dp[j * V + v] += scale * ds[i * P + j] * q[i * V + v];
                dp_mag[j * V + v] += fabs(scale * ds[i * P + j] * q[i * V + v]);
            }
        }
    }
}

void ref_info_nce(const double *s, const int32_t *positive, const uint8_t *mask, int64_t Q,
                  int64_t P, int64_t M, double *row, double *ds, double *ds_mag)
{
    for (int64_t i = 0; i < Q; i++) {
        double highest = -INFINITY, sum = 0.0;

        for (int64_t j = 0; j < P; j++) {
            if (mask == NULL || mask[i * P + j] == 0) {
                highest = fmax(highest, s[i * P + j]);
            }
        }
        for (int64_t j = 0; j < P; j++) {
            if (mask == NULL || mask[i * P + j] == 0) {
                sum += exp(s[i * P + j] - highest);
            }
        }
        row[3 * i] = highest + log(sum) - s[i * P + positive[i]];
        row[3 * i + 1] = s[i * P + positive[i]];
        row[3 * i + 2] = -INFINITY;
        for (int64_t j = 0; j < P; j++) {
            if (j != positive[i] && (mask == NULL || mask[i * P + j] == 0)) {
                row[3 * i + 2] = fmax(row[3 * i + 2], s[i * P + j]);
            }
        }
        for (int64_t j = 0; j < P; j++) {
            const int in = mask == NULL || mask[i * P + j] == 0;
            const double share = in ? exp(s[i * P + j] - highest) / sum : 0.0;
            const double own = j == positive[i] ? 1.0 : 0.0;

            ds[i * P + j] = (share - own) / (double)M;
            ds_mag[i * P + j] = (share + own) / (double)M;
        }
    }
}

void ref_position_counts(const int32_t *argmax, int64_t rows, int64_t V, int64_t n, int64_t *count)
{
    for (int64_t t = 0; t < n; t++) {
        for (int64_t i = 0; i < rows * V; i++) {
            count[t] += argmax[i] == t;
        }
    }
}

double ref_flops(const double *w, int64_t rows, int64_t V, double M, double lambda, double *dw)
{
    double value = 0.0;

    for (int64_t v = 0; v < V; v++) {
        double sum = 0.0;

        for (int64_t n = 0; n < rows; n++) {
            sum += w[n * V + v];
        }
        value += sum / M * (sum / M);
        for (int64_t n = 0; n < rows; n++) {
            dw[n * V + v] = w[n * V + v] > 0.0 ? lambda * 2.0 / M * sum / M : 0.0;
        }
    }
    return value;
}

double ref_l1(const double *w, int64_t rows, int64_t V, double M, double lambda, double *dw)
{
    double value = 0.0;

    for (int64_t i = 0; i < rows * V; i++) {
        value += w[i] / M;
        dw[i] = w[i] > 0.0 ? lambda / M : 0.0;
    }
    return value;
}
