/*
 * json_string.h - strings of JSON lines, written without building a tree.
 */
#pragma once

#include <stdio.h>

/*
 * Writes text, which must be valid UTF-8, in quotes; only quotes, backslashes and control
 * characters are escaped. Write errors stay in the stream.
 */
void csp_json_put_string(FILE *stream, const char *text);
