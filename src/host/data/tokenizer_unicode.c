/* tokenizer_unicode.c - characters: UTF-8, the classes tokenizers ask for, the byte alphabet. */
#include <utf8proc.h>

#include "data/tokenizer_internal.h"

int32_t csp_utf8_next(const char *text, int *length)
{
    const unsigned char *b = (const unsigned char *)text;

    if (b[0] < 0x80) {
        *length = 1;
        return b[0];
    }
    if (b[0] < 0xE0) {
        *length = 2;
        return (b[0] & 0x1F) << 6 | (b[1] & 0x3F);
    }
    if (b[0] < 0xF0) {
        *length = 3;
        return (b[0] & 0x0F) << 12 | (b[1] & 0x3F) << 6 | (b[2] & 0x3F);
    }
    *length = 4;
    return (b[0] & 0x07) << 18 | (b[1] & 0x3F) << 12 | (b[2] & 0x3F) << 6 | (b[3] & 0x3F);
}

int64_t csp_utf8_before(const char *text, int64_t end)
{
    do {
        end--;
    } while (end > 0 && ((unsigned char)text[end] & 0xC0) == 0x80);
    return end;
}

int csp_utf8_write(int32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

bool csp_char_is_space(int32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

bool csp_char_is_word(int32_t c)
{
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        break;
    }
    /* The joiners, and the symbols that Unicode calls alphabetic: letters in circles and squares.
     */
    return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) ||
           (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
           (c >= 0x1F170 && c <= 0x1F189);
}

/*
 * GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards,
 * in order: 00..20, 7F..A0, AD.
 */
int32_t csp_byte_to_char(unsigned char byte)
{
    if (byte <= 0x20) {
        return 0x100 + byte;
    }
    if (byte >= 0x7F && byte <= 0xA0) {
        return 0x100 + 0x21 + (byte - 0x7F);
    }
    return byte == 0xAD ? 0x143 : byte;
}

int csp_char_to_byte(int32_t c)
{
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xFF && c != 0xAD)) {
        return (int)c;
    }
    if (c >= 0x100 && c <= 0x120) {
        return (int)c - 0x100;
    }
    if (c >= 0x121 && c <= 0x142) {
        return (int)c - 0x121 + 0x7F;
    }
    return c == 0x143 ? 0xAD : -1;
}
