/* utf8.c - whether bytes are UTF-8 as Unicode 15 table 3-7 defines it. Declared in io/lines.h. */
#include <string.h>

#include "io/lines.h"

/* Length of the well-formed sequence at s, which has left >= 1 bytes; 0 if there is none. */
static int64_t sequence_bytes(const unsigned char *s, int64_t left)
{
    unsigned char low = 0x80, high = 0xBF; /* range of the second byte */
    int64_t length;

    if (s[0] < 0x80) {
        return 1;
    }
    if (s[0] < 0xC2 || s[0] > 0xF4) {
        return 0; /* a continuation byte, an overlong form, or above U+10FFFF */
    }
    length = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (left < length) {
        return 0;
    }
    if (s[0] == 0xE0) {
        low = 0xA0; /* overlong below */
    } else if (s[0] == 0xED) {
        high = 0x9F; /* surrogates above */
    } else if (s[0] == 0xF0) {
        low = 0x90; /* overlong below */
    } else if (s[0] == 0xF4) {
        high = 0x8F; /* beyond U+10FFFF above */
    }
    if (s[1] < low || s[1] > high) {
        return 0;
    }
    for (int64_t i = 2; i < length; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return length;
}

bool csp_utf8_is_valid(const char *text, int64_t bytes, int64_t *at)
{
    const unsigned char *s = (const unsigned char *)text;
    int64_t i = 0;

    while (i < bytes) {
        uint64_t word;
        int64_t length;

        if (bytes - i >= 8) {
            memcpy(&word, s + i, 8);
            if ((word & 0x8080808080808080u) == 0) {
                i += 8; /* eight ASCII characters at once */
                continue;
            }
        }
        length = sequence_bytes(s + i, bytes - i);
        if (length == 0) {
            if (at != NULL) {
                *at = i;
            }
            return false;
        }
        i += length;
    }
    return true;
}
