/* optim.h - f64 reference of ops/optim.h; mags are the sizes of the terms added up. */
#pragma once

#include "ops/optim.h"

/* Sum of squares of n values. */
double ref_grad_squares(const double *g, int64_t n);

/* One AdamW update of n elements in place; the mags are of the new value, m and v. */
void ref_adamw(double *value, const double *g, double *m, double *v, int64_t n, bool decay,
               const csp_adamw_args *a, double *value_mag, double *m_mag, double *v_mag);
