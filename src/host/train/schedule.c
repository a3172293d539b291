/* schedule.c - learning rate and sparsity weight as functions of the step. */
#include "train/schedule.h"

#include <math.h>

double csp_lr_at(csp_lr_kind kind, double peak, double warmup_ratio, int64_t k, int64_t T)
{
    const int64_t W = (int64_t)ceil(warmup_ratio * (double)T);
    const double pi = 3.14159265358979323846;

    if (k < W) {
        return peak * (double)k / (double)W;
    }
    if (kind == CSP_LR_CONSTANT || T <= W) {
        return peak;
    }
    if (k >= T) {
        return 0.0;
    }
    if (kind == CSP_LR_LINEAR) {
        return peak * (double)(T - k) / (double)(T - W);
    }
    return peak * 0.5 * (1.0 + cos(pi * (double)(k - W) / (double)(T - W)));
}

double csp_lambda_at(double lambda, int64_t k, int64_t ramp)
{
    double share;

    if (ramp <= 0 || k >= ramp) {
        return lambda;
    }
    share = (double)k / (double)ramp;
    return lambda * share * share;
}
