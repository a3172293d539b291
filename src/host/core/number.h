/* number.h - numbers as people write them, in decimal and with nothing before or behind. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A whole number of digits with a sign or without one. strtoll alone would take blanks in front and
 * whatever follows. Beyond 64 bits *out is the nearest limit. False, and *out as it was, for
 * anything else.
 */
bool csp_parse_i64(const char *text, int64_t *out);

/*
 * A number with a point or an exponent or neither. strtod alone would take blanks, "nan", "inf" and
 * "0x1p3", too. Beyond the range of a double *out is infinite or 0. False, and *out as it was, for
 * anything else.
 */
bool csp_parse_f64(const char *text, double *out);

#ifdef __cplusplus
}
#endif
