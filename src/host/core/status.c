/* status.c - the text of the last failure, per thread. */
#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/printable.h"

enum { TEXT_BYTES = 1024, PLACE_BYTES = 128 };

static _Thread_local char error_text[TEXT_BYTES];
static _Thread_local char error_place[PLACE_BYTES];

csp_status csp_error_set(csp_status status, const char *file, int line, const char *format, ...)
{
    /* The arguments may point into error_text itself, so the new text is made beside it. */
    char text[TEXT_BYTES];
    const char *slash = strrchr(file, '/');
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    csp_make_printable(text);
    memcpy(error_text, text, sizeof(error_text));
    snprintf(error_place, sizeof(error_place), "%s:%d", slash != NULL ? slash + 1 : file, line);
    return status;
}

const char *csp_error_text(void)
{
    return error_text;
}

const char *csp_error_place(void)
{
    return error_place;
}

const char *csp_status_name(csp_status status)
{
    static const char *const names[CSP_STATUS_COUNT] = {
        [CSP_OK] = "ok",
        [CSP_ERR_ARGUMENT] = "argument",
        [CSP_ERR_SHAPE] = "shape",
        [CSP_ERR_CONFIG] = "config",
        [CSP_ERR_IO] = "io",
        [CSP_ERR_FORMAT] = "format",
        [CSP_ERR_DATA] = "data",
        [CSP_ERR_NUMERIC] = "numeric",
        [CSP_ERR_MEMORY] = "memory",
        [CSP_ERR_DEVICE] = "device",
        [CSP_ERR_UNSUPPORTED] = "unsupported",
        [CSP_ERR_COMM] = "comm",
        [CSP_ERR_INTERRUPTED] = "interrupted",
    };

    if ((int)status < 0 || (int)status >= CSP_STATUS_COUNT) {
        return "unknown";
    }
    return names[status];
}

void csp_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "csplade: internal error: %s does not hold (%s:%d)\n", condition, file, line);
    abort();
}
