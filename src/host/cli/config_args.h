/*
 * config_args.h - what of a command line names a config: a FILE, --set, bare KEY=VALUE, and
 * options that stand for a setting.
 */
#pragma once

#include "cli/args.h"
#include "config/config.h"

/* An option in place of --set: --resume none is run.resume=none. */
typedef struct csp_config_option {
    const char *option; /* a text option of the command */
    const char *setting;
} csp_config_option;

/*
 * Loads the config that positional argument number `file` names (NULL there: the standards alone),
 * with every --set and every positional argument after it as overrides, in this order, and then
 * those of `options` that were given.
 *
 * Owner: csp_config_free(*out). Errors: as csp_config_load.
 */
CSP_CHECKED csp_status csp_config_from_args(const csp_arguments *args, int file,
                                            const csp_config_option *options, int count,
                                            csp_config **out);
