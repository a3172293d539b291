/*
 * linear.h - f64 reference of ops/linear.h, from the equations. For every result the size of the
 * terms it adds up is given beside it (mag), for the comparator.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct ref_linear {
    int64_t N, I, O, R;             /* R = 0: no adapter                          */
    const double *w;                /* (O,I)                                      */
    const double *bias;             /* (O) or NULL                                */
    const double *a, *b;            /* (R,I), (O,R)                               */
    double scale;                   /* s                                          */
    const double *m;                /* (N,I) dropout mask: 0 or 1/(1-p); NULL = 1 */
    const double *x_base, *dy_base; /* (N,I), (N,O) what w multiplies in place of x and dy, where
                                       they are rounded for it; NULL: themselves */
} ref_linear;

/* u = (m ⊙ x) A^T;  y = x W^T + bias + s u B^T. Any mag may be NULL. */
void ref_linear_fwd(const ref_linear *l, const double *x, double *u, double *u_mag, double *y,
                    double *y_mag);

/* Gradients: all start from what they hold; NULL = not wanted. mags as the results. */
typedef struct ref_linear_grad {
    double *dw, *dbias, *da, *db, *dx;
    double *dw_mag, *dbias_mag, *da_mag, *db_mag, *dx_mag;
} ref_linear_grad;

/*
 * du = s dy B;  dx += dy W + m ⊙ (du A);  dw += dy^T x;  dbias += rows of dy;  dA += du^T (m ⊙ x);
 * dB += s dy^T u. Every result wanted must come with its mag.
 */
void ref_linear_bwd(const ref_linear *l, const double *x, const double *u, const double *dy,
                    ref_linear_grad *g);

/* The mask of ops/linear.h, element by element, from the definition. */
void ref_dropout_mask(double p, uint64_t seed, uint64_t step, uint32_t key, const int64_t *row_key,
                      int64_t N, int64_t I, double *m);
