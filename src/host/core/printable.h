/* printable.h - texts that hold what files and command lines say, made fit to be one line. */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Puts a question mark in place of every control character and of every byte that is no part of
 * valid UTF-8: a message stays one line, does not command a terminal, and goes into JSON.
 */
void csp_make_printable(char *text);

#ifdef __cplusplus
}
#endif
