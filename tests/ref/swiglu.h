/* swiglu.h - f64 reference of ops/swiglu.h; mags are the sizes of the terms added up. */
#pragma once

#include <stdint.h>

/* m = silu(gate) ⊙ up */
void ref_swiglu_fwd(const double *gate, const double *up, int64_t n, double *m);

/* dup = dm ⊙ silu(gate);  dgate = dm ⊙ up ⊙ σ(gate) (1 + gate (1 - σ(gate))) */
void ref_swiglu_bwd(const double *gate, const double *up, const double *dm, int64_t n,
                    double *dgate, double *dgate_mag, double *dup);
