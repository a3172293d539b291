/*
 * commands.h - every subcommand, one line each. main.c lists them in the order of --help.
 */
#pragma once

#include "cli/args.h"

extern const csp_command csp_cmd_bench;
extern const csp_command csp_cmd_compare;
extern const csp_command csp_cmd_config;
extern const csp_command csp_cmd_doctor;
extern const csp_command csp_cmd_encode;
extern const csp_command csp_cmd_estimate;
extern const csp_command csp_cmd_eval;
extern const csp_command csp_cmd_export;
extern const csp_command csp_cmd_info;
extern const csp_command csp_cmd_init;
extern const csp_command csp_cmd_merge;
extern const csp_command csp_cmd_search;
extern const csp_command csp_cmd_tokenize;
extern const csp_command csp_cmd_train;
extern const csp_command csp_cmd_bm25;
extern const csp_command csp_cmd_fuse;
extern const csp_command csp_cmd_report;
