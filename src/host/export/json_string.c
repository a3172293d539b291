/* json_string.c - see json_string.h. */
#include "export/json_string.h"

void csp_json_put_string(FILE *stream, const char *text)
{
    (void)fputc('"', stream);
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\') {
            (void)fputc('\\', stream);
            (void)fputc(*c, stream);
        } else if (*c < 0x20) {
            (void)fprintf(stream, "\\u%04x", *c);
        } else {
            (void)fputc(*c, stream);
        }
    }
    (void)fputc('"', stream);
}
