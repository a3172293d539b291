/*
 * attention.h - f64 reference of ops/attention.h. Scores of one row exist at a time; mags are the
 * sizes of the terms added up, each times 1 + the size of the scores in its exponent (a rounding of
 * a score S is a relative error of exp(S) as large as S's own absolute one).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct ref_attention {
    const int32_t *seq_start; /* (B+1)                                          */
    const double *cos_table;  /* (P,E/2)                                        */
    const double *sin_table;
    int64_t B, H, G, E;
    bool causal;
} ref_attention;

void ref_attention_fwd(const ref_attention *a, const double *q, const double *k, const double *v,
                       double *o, double *o_mag, double *lse, double *lse_mag);

/* Overwrites dq, dk, dv and their mags. o and lse are those of a forward pass. */
void ref_attention_bwd(const ref_attention *a, const double *q, const double *k, const double *v,
                       const double *o, const double *lse, const double *d_o, double *const grad[3],
                       double *const mag[3]);
