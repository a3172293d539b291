/*
 * metrics_log.h - where a run's numbers go: RUN/metrics.jsonl (one JSON object a step, the truth
 * that plots read), TensorBoard events, and lines for people.
 *
 *     {"phase":"contrastive","step":12,"loss":1.83,...}            a step, keys of step_metrics.h
 *     {"phase":"contrastive","step":50,"eval/nDCG@10":0.31,...}    an evaluation
 */
#pragma once

#include "train/step_metrics.h"

typedef struct csp_metrics_log csp_metrics_log;

/*
 * Opens the log of a run folder.
 *
 *   keep_phases, keep_steps   in   what a resumed run keeps: lines of phase keep_phases[i] up to
 *                                  step
 *                                  keep_steps[i]; later lines and other phases are dropped, because
 *                                  the run will write them again. All but the last are whole
 *                                  phases: their steps come first on TensorBoard's axis. count 0:
 *                                  an empty log
 *
 * Errors: CSP_ERR_IO, CSP_ERR_FORMAT (a line of an earlier run that is not JSON: named),
 * CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_metrics_log_open(const char *run_dir, const char *const *keep_phases,
                                            const int64_t *keep_steps, int count,
                                            csp_metrics_log **out);
void csp_metrics_log_close(csp_metrics_log *log);

/*
 * Writes one step to the file and to TensorBoard; handed to the system, so that a run that is
 * killed loses nothing (a power cut may cost some lines).
 */
CSP_CHECKED csp_status csp_metrics_log_step(csp_metrics_log *log, const csp_step_metrics *m);

/* Writes one evaluation; names without the "eval/" in front. */
CSP_CHECKED csp_status csp_metrics_log_eval(csp_metrics_log *log, const char *phase, int64_t step,
                                            const char *const *names, const double *values,
                                            int count);

/*
 * The line for people: to the log where whole_line, and on a terminal the progress line.
 *
 *   left_s   in   seconds until the phase ends, as estimated
 */
void csp_metrics_log_say(const csp_step_metrics *m, double left_s, bool whole_line);
