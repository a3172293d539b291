/* compare.c - the comparator of parity tests. Its own test is test_compare.c. */
#include "support/compare.h"

#include <math.h>
#include <stdio.h>

/* The ratio of one element; INFINITY unless shown to be fine, so that a NaN never passes. */
static double element_ratio(double got, double want, double mag, double bound)
{
    const double error = fabs(got - want);
    const double allowed = bound * fabs(mag);
    double ratio = INFINITY;

    if (isfinite(got) && error <= allowed) {
        ratio = allowed > 0.0 ? error / allowed : 0.0;
    } else if (isfinite(got) && allowed > 0.0 && isfinite(error)) {
        ratio = error / allowed;
    }
    return ratio;
}

static void report(const char *what, int64_t i, double got, double want, double ratio)
{
    if (!(ratio <= 1.0)) {
        fprintf(stderr, "%s[%lld] is %.9g, should be %.9g: %.3g times what is allowed\n", what,
                (long long)i, got, want, ratio);
    }
}

double worst_ratio(const char *what, const float *got, const double *want, const double *mag,
                   int64_t n, double bound)
{
    double worst = 0.0;
    int64_t at = 0;

    for (int64_t i = 0; i < n; i++) {
        const double ratio = element_ratio((double)got[i], want[i], mag[i], bound);

        if (!(ratio <= worst)) {
            worst = ratio;
            at = i;
        }
    }
    if (n > 0) {
        report(what, at, (double)got[at], want[at], worst);
    }
    return worst;
}

double worst_ratio_f64(const char *what, const double *got, const double *want, const double *mag,
                       int64_t n, double bound)
{
    double worst = 0.0;
    int64_t at = 0;

    for (int64_t i = 0; i < n; i++) {
        const double ratio = element_ratio(got[i], want[i], mag[i], bound);

        if (!(ratio <= worst)) {
            worst = ratio;
            at = i;
        }
    }
    if (n > 0) {
        report(what, at, got[at], want[at], worst);
    }
    return worst;
}

double stored_bound(csp_dtype dtype, double roundings)
{
    return roundings * UNIT_F32 + (dtype == CSP_BF16 ? UNIT_BF16 : 0.0);
}

double norm_distance(const float *got, const double *want, int64_t n)
{
    double apart = 0.0, size = 0.0;

    for (int64_t i = 0; i < n; i++) {
        apart += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += want[i] * want[i];
    }
    if (apart == 0.0) {
        return 0.0;
    }
    return isfinite(apart) && isfinite(size) && size > 0.0 ? sqrt(apart / size) : (double)INFINITY;
}

bool matches(const char *what, csp_dtype dtype, const float *got, const double *want,
             const double *mag, int64_t n, double bound)
{
    const bool weighs = dtype == CSP_BF16 && n >= 64;
    const double apart = weighs ? norm_distance(got, want, n) : 0.0;

    if (!(apart <= BF16_NORM_LIMIT)) {
        fprintf(stderr, "%s is %.3g away in the 2-norm, the limit is %g\n", what, apart,
                BF16_NORM_LIMIT);
        return false;
    }
    return worst_ratio(what, got, want, mag, n, bound) <= 1.0;
}
