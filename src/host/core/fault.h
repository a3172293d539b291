/*
 * fault.h - test only: makes the n-th fallible call of this process fail, so that a test can walk
 * through every error path. core/memory and the writers of io/ ask it; a product run never arms it.
 */
#pragma once

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The n-th question from now (1 = the next) answers true, once. 0 disarms. */
void csp_fault_arm(long n);

/* Whether this call must fail. False for ever unless armed. Thread-safe. */
bool csp_fault_here(void);

/* Questions asked since csp_fault_arm: tells a test when it has walked past the last one. */
long csp_fault_asked(void);

#ifdef __cplusplus
}
#endif
