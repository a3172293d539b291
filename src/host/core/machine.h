/*
 * machine.h - what the machine can give (memory, asked before it is taken) and what was taken.
 */
#pragma once

#include <stddef.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Bytes of memory this process can still take without swapping: MemAvailable of the system, or
 * what its control group leaves, whichever is less; INT64_MAX where neither can be read.
 */
int64_t csp_machine_available_bytes(void);

/* Cores this process may run on, which taskset and containers make fewer than the machine has. */
int csp_machine_cores(void);

/* A number for which cores these are: equal for processes that may run on the very same ones. */
int64_t csp_machine_core_key(void);

/* Whether there is a file `tail` of the folder of this program; path then names it. */
bool csp_machine_beside_program(const char *tail, char *path, size_t bytes);

/* Seconds of a clock that never goes back: for durations. */
double csp_machine_seconds(void);

/*
 * How long something is waited for, in turns, against a limit. A turn counts for a quarter of the
 * limit at most, or 1.5 s: a process that was stopped together with those it waits for, as when a
 * scheduler suspends a job, then goes on where it was. Begin from { 0 }, and again to wait anew.
 */
typedef struct csp_patience {
    bool begun;
    double turn_s;   /* csp_machine_seconds() of the last turn */
    double waited_s; /* what counts                            */
    double lost_s;   /* what does not                          */
} csp_patience;

/* Once a turn, more often than the limit's eighth. Returns waited_s, 0 at the first call. */
double csp_patience_turn(csp_patience *patience, double limit_s);

/* Peak resident memory of this program so far, in MiB; 0 where the system does not tell. */
double csp_machine_peak_mb(void);

#ifdef __cplusplus
}
#endif
