/*
 * commands.h - every subcommand, one line each. main.c lists them in the order of --help.
 */
#pragma once

#include "cli/args.h"

extern const csp_command csp_cmd_config;
extern const csp_command csp_cmd_doctor;
extern const csp_command csp_cmd_eval;
