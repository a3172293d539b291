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

/* Peak resident memory of this program so far, in MiB; 0 where the system does not tell. */
double csp_machine_peak_mb(void);

#ifdef __cplusplus
}
#endif
