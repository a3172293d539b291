/* optim.h - f64 reference of ops/optim.h; mags are the sizes of the terms added up. */
#pragma once

#include "ops/optim.h"

/* Sum of squares of n values. */
double ref_grad_squares(const double *g, int64_t n);

/* κ of gradients whose squares are given: min(1, max_norm / (norm + 1e-6)), 1 for max_norm 0. */
double ref_clip(const double *squares, int64_t count, double max_norm);

/* One AdamW update of n elements in place, of scale g; the mags are of the new value, m and v. */
void ref_adamw(double *value, const double *g, double *m, double *v, int64_t n, bool decay,
               const csp_adamw_args *a, double scale, double *value_mag, double *m_mag,
               double *v_mag);
