/*
 * schedule.h - what changes from step to step, as pure functions of the optimizer step, so that
 * resuming, accumulation and the number of ranks cannot change it.
 */
#pragma once

#include "core/status.h"

typedef enum csp_lr_kind { CSP_LR_LINEAR = 0, CSP_LR_COSINE = 1, CSP_LR_CONSTANT = 2 } csp_lr_kind;

/*
 * Learning rate of step k = 0, 1, ..., T-1.
 *
 *     W = ceil(warmup_ratio · T);   k < W:  peak · k / W
 *     linear:   peak · (T - k) / (T - W);   cosine: peak · ½ (1 + cos(π (k - W) / (T - W)))
 *     constant: peak
 *
 * Source: transformers' schedules (the first step has rate 0 where there is a warm-up);
 * docs/method.md 9.
 */
double csp_lr_at(csp_lr_kind kind, double peak, double warmup_ratio, int64_t k, int64_t T);

/*
 * Weight of a sparsity term at step k.
 *
 *     lambda · min(1, (k / ramp)^2);   ramp = 0: lambda
 *
 * Source: docs/method.md 6 (quadratic ramp, counted in optimizer steps).
 */
double csp_lambda_at(double lambda, int64_t k, int64_t ramp);
