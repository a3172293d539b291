/*
 * step_metrics.h - what is known about one training step, and the one table of its keys.
 *
 * metrics.jsonl, the TensorBoard tags, the log line and docs/metrics.md are all made from
 * csp_metric_rows; a value that does not apply to a phase is NaN and written as null.
 */
#pragma once

#include <stddef.h>

#include "core/status.h"

typedef struct csp_step_metrics {
    int64_t step;  /* of its phase, counted from 1 */
    int64_t steps; /* of the phase in all          */
    const char *phase;
    double loss;
    double clm;
    double relu;
    double nce;
    double reg_q;
    double reg_d;
    double lambda_q;
    double lambda_d;
    double lr;
    double grad_norm;
    double clipped;
    double skipped;
    double active_q;
    double active_q_p95;
    double active_q_max;
    double active_d;
    double active_d_p95;
    double active_d_max;
    double zero_q;
    double zero_d;
    double dead_terms;
    double index_flops;
    double top_position;
    double margin;
    double accuracy;
    double masked;
    double tokens;
    double tokens_per_s;
    double gflop_per_s;
    double matmul_gflop_per_s;
    double mfu;
    double peak_mb;
    double data_wait;
    double save_pause_s;
    double save_write_s;
    double ranks;
    double rank_wait;
    double rank_slowest;
    double rank_sent_mb;
    double elapsed_s;
} csp_step_metrics;

typedef struct csp_metric_row {
    const char *key; /* in metrics.jsonl, and the TensorBoard tag after "train/" */
    size_t offset;   /* of a double in csp_step_metrics                          */
    bool in_line;    /* part of the log line                                     */
    const char *unit;
    const char *help;
} csp_metric_row;

extern const csp_metric_row csp_metric_rows[];
extern const int csp_metric_row_count;

/* All values NaN, phase and steps as given. */
void csp_step_metrics_clear(csp_step_metrics *m, const char *phase, int64_t step, int64_t steps);

/* The value of a row. */
double csp_metric_value(const csp_step_metrics *m, const csp_metric_row *row);

/* One JSON object without a newline; text is cut never: CSP_ERR_ARGUMENT if bytes is too small. */
CSP_CHECKED csp_status csp_step_metrics_json(const csp_step_metrics *m, char *text, size_t bytes);

/* "step 120 of 1000  loss 1.8342  nce 1.79 ...": the values of in_line rows that are not NaN. */
void csp_step_metrics_line(const csp_step_metrics *m, char *text, size_t bytes);
