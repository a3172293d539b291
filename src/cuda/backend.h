/*
 * backend.h - the CUDA backend's only door. src/host never includes it: the program opens
 * libcsplade_cuda.so and looks its csp_plugin up by name (ops/plugin.h); tests link the backend
 * with the emulator and call csp_cuda_open.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Opens a device.
 *
 *   name      in   "cuda" (the first device) or "cuda:<n>"
 *   threads   in   not read
 *
 * Errors: CSP_ERR_DEVICE (no driver, no such device, one that is too old: in words),
 *         CSP_ERR_ARGUMENT (a name that is not of this form), CSP_ERR_MEMORY.
 * Owner:  csp_backend_destroy frees it.
 */
CSP_CHECKED csp_status csp_cuda_open(const char *name, int threads, csp_backend **out);

#ifdef __cplusplus
}
#endif
