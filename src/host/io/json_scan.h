/*
 * json_scan.h - private to io/: JSON's grammar in one line of text, without building values.
 *
 * Strict: what is skipped is checked too. Errors are CSP_ERR_FORMAT "path:line: byte N: ...".
 */
#pragma once

#include "io/lines.h"

typedef struct csp_json_scanner {
    const csp_lines *lines; /* for messages */
    const char *start, *at; /* of the line: valid UTF-8, NUL-terminated */
} csp_json_scanner;

/* Raises CSP_ERR_FORMAT at s. */
csp_status csp_json_bad(const csp_json_scanner *s, const char *what);

void csp_json_space(csp_json_scanner *s);

/* Space and then c, or an error that says what. */
CSP_CHECKED csp_status csp_json_expect(csp_json_scanner *s, char c, const char *what);

/*
 * The string at s. to NULL: only skipped; otherwise at least as many bytes as the line has, and the
 * text is written there with a NUL. \u0000 is refused.
 */
CSP_CHECKED csp_status csp_json_string(csp_json_scanner *s, char *to);

/* Steps over a number. */
CSP_CHECKED csp_status csp_json_number(csp_json_scanner *s);

/* The float nearest to the number at text, which csp_json_number has passed. */
float csp_json_float(const char *text);

/* Steps over any value, brackets nested up to 64 deep. */
CSP_CHECKED csp_status csp_json_skip(csp_json_scanner *s);
