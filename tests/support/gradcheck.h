/*
 * gradcheck.h - is a hand-written gradient the derivative of its forward pass? On f64 references.
 */
#pragma once

#include <stdint.h>

/*
 * Relative distance between a hand-written gradient and central differences of the f64
 * forward pass: |g - d| / (|g| + |d|) in the 2-norm. Differences of f32 code would mostly
 * measure rounding, so this checks the reference, and parity then checks the backends.
 *
 * loss must be smooth within +-step of x: keep inputs away from ReLU zeros and max ties.
 * x is changed during the call and restored. A right gradient gives about 1e-10, the limit
 * of tests is GRADIENT_LIMIT.
 */
double gradient_distance(double (*loss)(const double *x, const void *context), const void *context,
                         double *x, const double *gradient, int64_t n);

#define GRADIENT_LIMIT 1e-7
