/* loss.h - f64 reference of ops/loss.h on dense rows; mags are the sizes of the terms added up. */
#pragma once

#include <stdint.h>

typedef struct ref_tokens {
    const double *h;        /* (N,D)                */
    const double *e;        /* (V,D)                */
    const uint8_t *exclude; /* (V) or NULL          */
    const int32_t *target;  /* (N), -1: none        */
    double scale, lambda, coefficient;
    int64_t N, V, D;
} ref_tokens;

/*
 *     loss[0] = sum over rows with a target y of   logsumexp_j z_ij - z_iy
 *     loss[1] = sum over rows with a target y of   log(V' + S_i) - log(1 + ReLU(z_iy))
 */
void ref_token_loss_fwd(const ref_tokens *p, double loss[2], double loss_mag[2]);

/*
 *     dz_ij = coefficient { softmax_ij - 1[j=y] + lambda (1[z>0]/(V'+S_i) - 1[j=y,z>0]/(1+z_iy)) }
 *     dh = k dz e;   de += k dz^T h
 */
void ref_token_loss_bwd(const ref_tokens *p, double *dh, double *dh_mag, double *de,
                        double *de_mag);

/* s = scale q p^T, (Q,P) from q (Q,V), p (P,V) */
void ref_scores_fwd(const double *q, const double *p, double scale, int64_t Q, int64_t P, int64_t V,
                    double *s, double *s_mag);

/* dq = scale ds p where q > 0;  dp = scale ds^T q where p > 0 */
void ref_scores_bwd(const double *ds, const double *q, const double *p, double scale, int64_t Q,
                    int64_t P, int64_t V, double *dq, double *dq_mag, double *dp, double *dp_mag);

/*
 * row[q] = logsumexp over unmasked s[q,.] - s[q,positive[q]]; s[q,positive[q]]; the largest of the
 * other unmasked s[q,.].  ds = (softmax - 1[p=positive]) / M, the queries of the whole step
 */
void ref_info_nce(const double *s, const int32_t *positive, const uint8_t *mask, int64_t Q,
                  int64_t P, int64_t M, double *row, double *ds, double *ds_mag);

/* count[t] += entries with argmax t, of rows in dense form: -1 where nothing is stored. */
void ref_position_counts(const int32_t *argmax, int64_t rows, int64_t V, int64_t n, int64_t *count);

/* FLOPS = sum_v (sum_n w / M)^2, dw = lambda 2/M sum/M;  L1 = 1/M sum w, dw = lambda / M; w > 0 */
double ref_flops(const double *w, int64_t rows, int64_t V, double M, double lambda, double *dw);
double ref_l1(const double *w, int64_t rows, int64_t V, double M, double lambda, double *dw);
