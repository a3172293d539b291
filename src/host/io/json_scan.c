/* json_scan.c - a scanner for JSON in a line; vectors of texts are too many numbers for a tree. */
#include "io/json_scan.h"

#include <stdlib.h>
#include <string.h>

enum { DEPTH_LIMIT = 64 };

csp_status csp_json_bad(const csp_json_scanner *s, const char *what)
{
    return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: byte %lld: %s", csp_lines_path(s->lines),
                    (long long)csp_lines_number(s->lines), (long long)(s->at - s->start) + 1, what);
}

void csp_json_space(csp_json_scanner *s)
{
    while (*s->at == ' ' || *s->at == '\t' || *s->at == '\r' || *s->at == '\n') {
        s->at++;
    }
}

csp_status csp_json_expect(csp_json_scanner *s, char c, const char *what)
{
    csp_json_space(s);
    if (*s->at != c) {
        return csp_json_bad(s, what);
    }
    s->at++;
    return CSP_OK;
}

static int hex4(const char *text)
{
    int value = 0;

    for (int i = 0; i < 4; i++) {
        const char c = text[i];
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;

        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}

/* Writes a code point as UTF-8, returns the end. */
static char *put_utf8(char *to, int code)
{
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xC0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *to++ = (char)(0xE0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    } else {
        *to++ = (char)(0xF0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3F));
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    }
    return to;
}

/* The code point of the \u escape at s (its u), surrogate pairs joined; -1 if there is none. */
static int scan_unicode(csp_json_scanner *s)
{
    int code = hex4(s->at + 1), low;

    if (code < 0 || code == 0 || (code >= 0xDC00 && code < 0xE000)) {
        return -1; /* NUL would end an id early */
    }
    s->at += 5;
    if (code < 0xD800 || code >= 0xE000) {
        return code;
    }
    low = s->at[0] == '\\' && s->at[1] == 'u' ? hex4(s->at + 2) : -1;
    if (low < 0xDC00 || low >= 0xE000) {
        return -1;
    }
    s->at += 6;
    return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
}

csp_status csp_json_string(csp_json_scanner *s, char *to)
{
    static const char escapes[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    char ignored[4];
    const bool keep = to != NULL;

    CSP_TRY(csp_json_expect(s, '"', "a string should begin here"));
    while (*s->at != '"') {
        if ((unsigned char)*s->at < 0x20) {
            return csp_json_bad(s, *s->at == '\0' ? "the line ends inside a string"
                                                  : "a control character inside a string");
        }
        if (!keep) {
            to = ignored;
        }
        if (*s->at != '\\') {
            *to++ = *s->at++;
            continue;
        }
        s->at++;
        if (*s->at == 'u') {
            const int code = scan_unicode(s);

            if (code < 0) {
                return csp_json_bad(s, "a \\u escape that is no character");
            }
            to = put_utf8(to, code);
        } else {
            const char *found = *s->at != '\0' ? strchr(escapes, *s->at) : NULL;

            if (found == NULL) {
                return csp_json_bad(s, "an escape JSON does not have");
            }
            *to++ = meant[found - escapes];
            s->at++;
        }
    }
    s->at++;
    if (keep) {
        *to = '\0';
    }
    return CSP_OK;
}

csp_status csp_json_number(csp_json_scanner *s)
{
    const char *p = s->at;

    p += *p == '-';
    if (*p == '0') {
        p++;
    } else if (*p >= '1' && *p <= '9') {
        while (*p >= '0' && *p <= '9') {
            p++;
        }
    } else {
        return csp_json_bad(s, "a number should be here");
    }
    if (*p == '.') {
        p++;
        if (*p < '0' || *p > '9') {
            return csp_json_bad(s, "a number without digits after its point");
        }
        while (*p >= '0' && *p <= '9') {
            p++;
        }
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        p += *p == '+' || *p == '-';
        if (*p < '0' || *p > '9') {
            return csp_json_bad(s, "a number without digits in its exponent");
        }
        while (*p >= '0' && *p <= '9') {
            p++;
        }
    }
    s->at = p;
    return CSP_OK;
}

/*
 * Up to 15 digits and powers of
 * ten up to 22 are exact in a double, so that their quotient is rounded once; rounding it again to
 * a float is right unless it lies just between two floats, which the low 29 bits tell.
 */
float csp_json_float(const char *text)
{
    static const double tens[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                   1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                   1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
    const char *p = text;
    uint64_t digits = 0, bits;
    int count = 0, decimals = 0;
    double value;

    for (; *p >= '0' && *p <= '9'; p++, count++) {
        digits = digits * 10 + (uint64_t)(*p - '0');
    }
    if (*p == '.') {
        for (p++; *p >= '0' && *p <= '9'; p++, count++, decimals++) {
            digits = digits * 10 + (uint64_t)(*p - '0');
        }
    }
    if (count > 15 || *p == 'e' || *p == 'E' || *text == '-') {
        return strtof(text, NULL);
    }
    value = (double)digits / tens[decimals];
    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x1FFFFFFFu) == 0x10000000u || value < 1e-30) {
        return strtof(text, NULL);
    }
    return (float)value;
}

static csp_status skip_value(csp_json_scanner *s, int depth);

/* The members of an object or the elements of an array, after its opening bracket. */
static csp_status skip_members(csp_json_scanner *s, char close, int depth)
{
    csp_json_space(s);
    if (*s->at == close) {
        s->at++;
        return CSP_OK;
    }
    for (;;) {
        if (close == '}') {
            CSP_TRY(csp_json_string(s, NULL));
            CSP_TRY(csp_json_expect(s, ':', "a colon should be here"));
        }
        CSP_TRY(skip_value(s, depth + 1));
        csp_json_space(s);
        if (*s->at == ',') {
            s->at++;
            continue;
        }
        return csp_json_expect(
            s, close, close == '}' ? "a comma or } should be here" : "a comma or ] should be here");
    }
}

static csp_status skip_value(csp_json_scanner *s, int depth)
{
    static const char *const words[] = { "true", "false", "null" };

    if (depth > DEPTH_LIMIT) {
        return csp_json_bad(s, "brackets nested too deep");
    }
    csp_json_space(s);
    if (*s->at == '"') {
        return csp_json_string(s, NULL);
    }
    if (*s->at == '{' || *s->at == '[') {
        const char close = *s->at == '{' ? '}' : ']';

        s->at++;
        return skip_members(s, close, depth);
    }
    for (int i = 0; i < 3; i++) {
        const size_t length = strlen(words[i]);

        if (strncmp(s->at, words[i], length) == 0) {
            s->at += length;
            return CSP_OK;
        }
    }
    return csp_json_number(s);
}

csp_status csp_json_skip(csp_json_scanner *s)
{
    return skip_value(s, 0);
}
