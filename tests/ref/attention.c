/* attention.c - text by text, head by head, row by row. */
#include "ref/attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One row of one head rotated by position t; size gets |x_lo| + |x_hi| of each result. */
static void rotate(const ref_attention *a, int64_t t, double sign, const double *x, double *y,
                   double *size)
{
    const int64_t half = a->E / 2;

    for (int64_t i = 0; i < half; i++) {
        const double c = a->cos_table[t * half + i], s = sign * a->sin_table[t * half + i];

        y[i] = x[i] * c - x[i + half] * s;
        y[i + half] = x[i + half] * c + x[i] * s;
        size[i] = fabs(x[i] * c) + fabs(x[i + half] * s);
        size[i + half] = fabs(x[i + half] * c) + fabs(x[i] * s);
    }
}

/* Rotates back a gradient and its mags, adding to the results. */
static void add_rotated_back(const ref_attention *a, int64_t t, const double *x, const double *mag,
                             double *y, double *y_mag)
{
    const int64_t half = a->E / 2;

    for (int64_t i = 0; i < half; i++) {
        const double c = a->cos_table[t * half + i], s = a->sin_table[t * half + i];

        y[i] += x[i] * c + x[i + half] * s;
        y[i + half] += x[i + half] * c - x[i] * s;
        y_mag[i] += mag[i] * fabs(c) + mag[i + half] * fabs(s);
        y_mag[i + half] += mag[i + half] * fabs(c) + mag[i] * fabs(s);
    }
}

/* Row buffers of E and T doubles. */
typedef struct buffers {
    double *q, *q_size, *k, *k_size, *s, *s_size, *d, *d_size;
} buffers;

static buffers make_buffers(int64_t E, int64_t T)
{
    buffers b;

    b.q = calloc((size_t)(6 * E + 2 * T), sizeof(double));
    b.q_size = b.q + E;
    b.k = b.q_size + E;
    b.k_size = b.k + E;
    b.d = b.k_size + E;
    b.d_size = b.d + E;
    b.s = b.d_size + E;
    b.s_size = b.s + T;
    return b;
}

/* Scores of query row t of head h against keys 0 .. n-1 of a text that begins at row first. */
static int64_t score_row(const ref_attention *a, const double *q, const double *k, int64_t first,
                         int64_t T, int64_t t, int64_t h, buffers *b)
{
    const int64_t E = a->E, n = a->causal ? t + 1 : T, g = h / (a->H / a->G);

    rotate(a, t, 1.0, q + (first + t) * a->H * E + h * E, b->q, b->q_size);
    for (int64_t j = 0; j < n; j++) {
        rotate(a, j, 1.0, k + (first + j) * a->G * E + g * E, b->k, b->k_size);
        b->s[j] = 0.0;
        b->s_size[j] = 0.0;
        for (int64_t e = 0; e < E; e++) {
            b->s[j] += b->q[e] * b->k[e] / sqrt((double)E);
            b->s_size[j] += b->q_size[e] * b->k_size[e] / sqrt((double)E);
        }
    }
    return n;
}

static void forward_row(const ref_attention *a, const double *q, const double *k, const double *v,
                        int64_t first, int64_t T, int64_t t, int64_t h, buffers *b, double *o,
                        double *o_mag, double *lse, double *lse_mag)
{
    const int64_t E = a->E, g = h / (a->H / a->G), n = score_row(a, q, k, first, T, t, h, b);
    double max = -INFINITY, size = 0.0, sum = 0.0;

    for (int64_t j = 0; j < n; j++) {
        max = b->s[j] > max ? b->s[j] : max;
        size = b->s_size[j] > size ? b->s_size[j] : size;
    }
    for (int64_t j = 0; j < n; j++) {
        sum += exp(b->s[j] - max);
    }
    *lse = max + log(sum);
    *lse_mag = 1.0 + fabs(*lse) + size;
    memset(o, 0, (size_t)E * sizeof(double));
    memset(o_mag, 0, (size_t)E * sizeof(double));
    for (int64_t j = 0; j < n; j++) {
        const double *row = v + (first + j) * a->G * E + g * E;
        const double p = exp(b->s[j] - *lse);

        for (int64_t e = 0; e < E; e++) {
            o[e] += p * row[e];
            o_mag[e] += p * fabs(row[e]) * (1.0 + b->s_size[j] + size);
        }
    }
}

void ref_attention_fwd(const ref_attention *a, const double *q, const double *k, const double *v,
                       double *o, double *o_mag, double *lse, double *lse_mag)
{
    const int64_t E = a->E, H = a->H;

    for (int64_t text = 0; text < a->B; text++) {
        const int64_t first = a->seq_start[text], T = a->seq_start[text + 1] - first;
        buffers b = make_buffers(E, T);

        for (int64_t t = 0; t < T; t++) {
            for (int64_t h = 0; h < H; h++) {
                const int64_t at = (first + t) * H + h;

                forward_row(a, q, k, v, first, T, t, h, &b, o + at * E, o_mag + at * E, lse + at,
                            lse_mag + at);
            }
        }
        free(b.q);
    }
}

/* One row's dS, and its share of dq, dk, dv. */
static void backward_row(const ref_attention *a, const double *v, const double *k, const double *o,
                         const double *d_o, double lse, int64_t first, int64_t n, int64_t t,
                         int64_t h, buffers *b, double *const grad[3], double *const mag[3])
{
    const int64_t E = a->E, g = h / (a->H / a->G);
    const int64_t at = (first + t) * a->H * E + h * E;
    double delta = 0.0, delta_size = 0.0;

    for (int64_t e = 0; e < E; e++) {
        delta += d_o[at + e] * o[at + e];
        delta_size += fabs(d_o[at + e] * o[at + e]);
    }
    memset(b->d, 0, (size_t)(2 * E) * sizeof(double)); /* d and d_size: rotated dq of this row */
    for (int64_t j = 0; j < n; j++) {
        const int64_t row = (first + j) * a->G * E + g * E;
        const double p = exp(b->s[j] - lse), exponent = 1.0 + b->s_size[j] + fabs(lse);
        double dp = 0.0, dp_size = 0.0, ds, ds_size;
        double dk[512], dk_size[512];

        for (int64_t e = 0; e < E; e++) {
            dp += d_o[at + e] * v[row + e];
            dp_size += fabs(d_o[at + e] * v[row + e]);
            grad[2][row + e] += p * d_o[at + e];
            mag[2][row + e] += p * fabs(d_o[at + e]) * exponent;
        }
        ds = p * (dp - delta) / sqrt((double)E);
        ds_size = p * (dp_size + delta_size) * exponent / sqrt((double)E);
        rotate(a, j, 1.0, k + row, b->k, b->k_size);
        for (int64_t e = 0; e < E; e++) {
            b->d[e] += ds * b->k[e];
            b->d_size[e] += ds_size * b->k_size[e];
            dk[e] = ds * b->q[e];
            dk_size[e] = ds_size * b->q_size[e];
        }
        add_rotated_back(a, j, dk, dk_size, grad[1] + row, mag[1] + row);
    }
    add_rotated_back(a, t, b->d, b->d_size, grad[0] + at, mag[0] + at);
}

void ref_attention_bwd(const ref_attention *a, const double *q, const double *k, const double *v,
                       const double *o, const double *lse, const double *d_o, double *const grad[3],
                       double *const mag[3])
{
    const int64_t N = a->seq_start[a->B];

    for (int i = 0; i < 3; i++) {
        const size_t bytes = (size_t)(N * (i == 0 ? a->H : a->G) * a->E) * sizeof(double);

        memset(grad[i], 0, bytes);
        memset(mag[i], 0, bytes);
    }
    for (int64_t text = 0; text < a->B; text++) {
        const int64_t first = a->seq_start[text], T = a->seq_start[text + 1] - first;
        buffers b = make_buffers(a->E, T);

        for (int64_t t = 0; t < T; t++) {
            for (int64_t h = 0; h < a->H; h++) {
                const int64_t n = score_row(a, q, k, first, T, t, h, &b);

                backward_row(a, v, k, o, d_o, lse[(first + t) * a->H + h], first, n, t, h, &b, grad,
                             mag);
            }
        }
        free(b.q);
    }
}
