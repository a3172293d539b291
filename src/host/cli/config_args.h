/*
 * config_args.h - the part of a command line that names a config: a FILE, --set, bare KEY=VALUE.
 */
#pragma once

#include "cli/args.h"
#include "config/config.h"

/*
 * Loads the config that positional argument number `file` names (NULL there: the standards alone),
 * with every --set and every positional argument after it as overrides, in this order, and then
 * extra ("run.resume=none"), if not NULL.
 *
 * Owner: csp_config_free(*out). Errors: as csp_config_load.
 */
CSP_CHECKED csp_status csp_config_from_args(const csp_arguments *args, int file, const char *extra,
                                            csp_config **out);
