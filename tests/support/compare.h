/*
 * compare.h - how a test judges numbers: the worst element, as a multiple of what arithmetic
 * allows.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "core/tensor.h"

#define UNIT_F32 0x1p-24 /* half the spacing at 1: the rounding unit of each type */
#define UNIT_BF16 0x1p-8

/*
 * Worst error as a multiple of what is allowed: max_i |got_i - want_i| / (bound * mag_i).
 *
 *   want, mag   n values each, from the f64 reference. mag_i is the sum of the absolute
 *               values of the terms that want_i adds up (|want_i| itself where nothing is
 *               summed), so a cancelled sum is judged by the size of its terms.
 *   bound       rounding unit of the type, times the number of roundings the op may make.
 *
 * At most 1 passes. A NaN or an infinity in got returns INFINITY, as does any difference
 * where mag_i is 0. Prints the worst element under the name what if it does not pass.
 */
double worst_ratio(const char *what, const float *got, const double *want, const double *mag,
                   int64_t n, double bound);

/* The same for results that are stored as doubles (column sums, losses). */
double worst_ratio_f64(const char *what, const double *got, const double *want, const double *mag,
                       int64_t n, double bound);

/*
 * The bound for a result of this storage type that sees `roundings` roundings in f32 on its way:
 * those, and where it is stored as bf16 one of bf16.
 */
double stored_bound(csp_dtype dtype, double roundings);

/* How far a result stored as bf16 may be away from the reference in all. */
#define BF16_NORM_LIMIT 1e-2

/* ||got - want|| / ||want|| in the 2-norm; 0 for no elements, INFINITY where it is no number. */
double norm_distance(const float *got, const double *want, int64_t n);

/*
 * Whether each element is within the bound, and a result of 64 or more elements stored as bf16 also
 * within BF16_NORM_LIMIT in all (of fewer a single cancelled sum may weigh too much).
 */
bool matches(const char *what, csp_dtype dtype, const float *got, const double *want,
             const double *mag, int64_t n, double bound);
