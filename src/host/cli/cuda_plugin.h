/*
 * cuda_plugin.h - where libcsplade_cuda.so is looked for, and the backend "cuda" that it carries.
 */
#pragma once

#include "ops/plugin.h"

/*
 * Registers "cuda". The library is opened when a device is first asked for, because it brings
 * some hundred megabytes with it that most commands do not need.
 *
 *   path   in   the library, NULL or "" to look beside the program, in ../lib, in the library path;
 *               kept
 */
void csp_cuda_plugin_register(const char *path);

/*
 * The library, opened if it was not.
 *
 *   from   out   its path; valid as long as the program runs
 *
 * Errors: CSP_ERR_UNSUPPORTED (there is none), CSP_ERR_DEVICE (it cannot be used, in words).
 */
CSP_CHECKED csp_status csp_cuda_plugin_get(const csp_plugin **out, const char **from);
