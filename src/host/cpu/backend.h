/*
 * backend.h - the CPU backend's only door: cli/ and tests register csp_cpu_open under "cpu".
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Opens the CPU backend.
 *
 *   threads   in   0 = one for each core this process may run on; more than cores is allowed
 *
 * One thread at a time may call the backend; it makes the threads it works with itself.
 *
 * Errors: CSP_ERR_MEMORY; CSP_ERR_ARGUMENT (a name other than "cpu").
 * Owner:  csp_backend_destroy frees it.
 */
CSP_CHECKED csp_status csp_cpu_open(const char *name, int threads, csp_backend **out);

#ifdef __cplusplus
}
#endif
