/* exit_code.c - the one table of exit codes. Stable: job scripts rely on them. */
#include "core/exit_code.h"

enum {
    EXIT_OK = 0,
    EXIT_RUNTIME = 1,
    EXIT_USAGE = 2,
    EXIT_DATA = 3,
    EXIT_NUMERIC = 4,
    EXIT_ENVIRONMENT = 5,
    EXIT_AGAIN = 75,
    EXIT_SIGINT = 130,
    EXIT_SIGTERM = 143
};

static const struct {
    int code;
    const char *meaning;
} meanings[] = {
    { EXIT_OK, "done" },
    { EXIT_RUNTIME, "a file could not be read or written, or another rank failed" },
    { EXIT_USAGE, "the command line or the config is wrong" },
    { EXIT_DATA, "a data or model file is malformed or does not fit" },
    { EXIT_NUMERIC, "NaN or infinity, or vectors collapsed, where the work cannot go on" },
    { EXIT_ENVIRONMENT, "not enough memory, no such device, or a part this build does not have" },
    { EXIT_AGAIN, "stopped after writing a checkpoint; the same command goes on" },
    { EXIT_SIGINT, "ended by SIGINT" },
    { EXIT_SIGTERM, "ended by SIGTERM" },
};

static const int codes[CSP_STATUS_COUNT] = {
    [CSP_OK] = EXIT_OK,
    [CSP_ERR_ARGUMENT] = EXIT_USAGE,
    [CSP_ERR_SHAPE] = EXIT_DATA,
    [CSP_ERR_CONFIG] = EXIT_USAGE,
    [CSP_ERR_IO] = EXIT_RUNTIME,
    [CSP_ERR_FORMAT] = EXIT_DATA,
    [CSP_ERR_DATA] = EXIT_DATA,
    [CSP_ERR_NUMERIC] = EXIT_NUMERIC,
    [CSP_ERR_MEMORY] = EXIT_ENVIRONMENT,
    [CSP_ERR_DEVICE] = EXIT_ENVIRONMENT,
    [CSP_ERR_UNSUPPORTED] = EXIT_ENVIRONMENT,
    [CSP_ERR_COMM] = EXIT_RUNTIME,
    [CSP_ERR_INTERRUPTED] = EXIT_AGAIN,
};

int csp_exit_code(csp_status status)
{
    return (int)status >= 0 && status < CSP_STATUS_COUNT ? codes[status] : EXIT_RUNTIME;
}

csp_status csp_status_of_exit_code(int code)
{
    for (int status = CSP_OK + 1; status < CSP_STATUS_COUNT; status++) {
        if (codes[status] == code && code != EXIT_RUNTIME) {
            return (csp_status)status;
        }
    }
    return CSP_ERR_COMM;
}

void csp_exit_code_print(FILE *stream)
{
    for (size_t i = 0; i < sizeof(meanings) / sizeof(meanings[0]); i++) {
        fprintf(stream, "  %3d  %s\n", meanings[i].code, meanings[i].meaning);
    }
}
