/* number.c - strtoll and strtod behind a look at the characters. */
#include "core/number.h"

#include <stdlib.h>
#include <string.h>

static bool has_only(const char *text, const char *characters)
{
    return text[0] != '\0' && text[strspn(text, characters)] == '\0';
}

bool csp_parse_i64(const char *text, int64_t *out)
{
    char *end;
    long long value;

    if (!has_only(text, "0123456789+-")) {
        return false;
    }
    value = strtoll(text, &end, 10);
    if (end == text || *end != '\0') {
        return false;
    }
    *out = value;
    return true;
}

bool csp_parse_f64(const char *text, double *out)
{
    char *end;
    double value;

    if (!has_only(text, "0123456789+-.eE")) {
        return false;
    }
    value = strtod(text, &end);
    if (end == text || *end != '\0') {
        return false;
    }
    *out = value;
    return true;
}
