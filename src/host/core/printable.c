/* printable.c - a walk over UTF-8 that changes bytes in place. */
#include "core/printable.h"

#include <stdint.h>

/* Length of the character that begins here; 0 where it is a control character or none. */
static int length_at(const unsigned char *text)
{
    const unsigned char c = text[0];
    const int length = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
    uint32_t code = length == 1 ? c : c & (0x7Fu >> length);

    for (int i = 1; i < length; i++) {
        if ((text[i] & 0xC0) != 0x80) { /* also where the text ends */
            return 0;
        }
        code = code << 6 | (text[i] & 0x3Fu);
    }
    if (code < 0x20 || (code >= 0x7F && code < 0xA0) || (code >= 0xD800 && code < 0xE000) ||
        code > 0x10FFFF || (length == 3 && code < 0x800) || (length == 4 && code < 0x10000)) {
        return 0;
    }
    return length;
}

void csp_make_printable(char *text)
{
    for (unsigned char *at = (unsigned char *)text; *at != '\0';) {
        const int length = length_at(at);

        if (length == 0) {
            *at = '?';
        }
        at += length > 0 ? length : 1;
    }
}
