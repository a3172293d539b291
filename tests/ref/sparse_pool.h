/*
 * sparse_pool.h - f64 reference of ops/sparse_pool.h on dense (B,V) representations; mags are the
 * sizes of the terms added up.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct ref_pool {
    const double *h;        /* (N,D)                   */
    const double *e;        /* (V,D)                   */
    const uint8_t *exclude; /* (V) or NULL             */
    const int32_t *seq_start;
    const uint8_t *keep; /* (N)                     */
    double scale;
    int64_t B, N, V, D;
    bool bf16; /* products h e^T are rounded to bf16, to nearest even, before k */
} ref_pool;

/* Eight significant bits, to nearest, ties to even; inside the range of normal numbers. */
double ref_bf16(double x);

/* z = k <h_n, e_v>, <h_n, e_v> rounded where p->bf16; *mag = k sum |h e| */
double ref_pool_logit(const ref_pool *p, int64_t n, int64_t v, double *mag);

/*
 * max: w = log(1 + ReLU(max over kept rows of z)), arg = position of the first that reaches it, -1
 * where w is 0. w_mag: size of the logits' terms times dw/dz, plus w. arg and w_mag may be NULL.
 */
void ref_pool_max_fwd(const ref_pool *p, double *w, int32_t *arg, double *w_mag);

/* sum: w = sum over kept rows of log(1 + ReLU(z)) */
void ref_pool_sum_fwd(const ref_pool *p, double *w, double *w_mag);

/* max: dz[arg,v] = dw exp(-w) where arg >= 0;  dh = k dz e;  de += k dz^T h */
void ref_pool_max_bwd(const ref_pool *p, const double *w, const int32_t *arg, const double *dw,
                      double *dh, double *dh_mag, double *de, double *de_mag);

/* sum: dz[n,v] = dw / (1 + z) at every kept z > 0;  dh = k dz e;  de += k dz^T h */
void ref_pool_sum_bwd(const ref_pool *p, const double *dw, double *dh, double *dh_mag, double *de,
                      double *de_mag);
