/*
 * exit_code.h - exit codes, in one table: csp_status to code and meaning. --help prints it.
 */
#pragma once

#include <stdio.h>

#include "core/status.h"

/* The exit code of the process for a status; 0 for CSP_OK. */
int csp_exit_code(csp_status status);

/* A status that gives this exit code; CSP_ERR_COMM for a code that none gives. */
csp_status csp_status_of_exit_code(int code);

/* All codes with their meaning, a line each. */
void csp_exit_code_print(FILE *stream);
