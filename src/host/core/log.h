/*
 * log.h - lines for people, on stderr: "12:04:31 info  train  step 1200 of 20000  loss 1.8342".
 *
 * The only writer to stderr below cli/. Host only; calls from several threads do not interleave.
 */
#pragma once

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum csp_log_level {
    CSP_LOG_DEBUG = 0,
    CSP_LOG_INFO = 1,
    CSP_LOG_WARN = 2,
    CSP_LOG_NONE = 3
} csp_log_level;

/* Lines below level are dropped. The standard is CSP_LOG_INFO. */
void csp_log_set_level(csp_log_level level);
csp_log_level csp_log_get_level(void);

/* Puts "rank N" into every line and drops information lines of ranks above 0; -1 = no rank. */
void csp_log_set_rank(int rank);

/*
 * One line. part is the module ("train"); no newline at the end of format.
 * While a progress line stands on the terminal it is wiped first (see csp_log_progress).
 */
void csp_log(csp_log_level level, const char *part, const char *format, ...) CSP_PRINTF(3, 4);

/*
 * A line that stands at the bottom of a terminal and is overwritten in place; NULL removes it.
 * Does nothing when csp_log_is_live() is false.
 */
void csp_log_progress(const char *format, ...) CSP_PRINTF(1, 2);

/* Whether stderr is a terminal that can overwrite a line, and progress was not switched off. */
bool csp_log_is_live(void);

/* cli/ decides once: a terminal, TERM not dumb, no --no-progress. The standard is false. */
void csp_log_set_live(bool live);

#ifdef __cplusplus
}
#endif
