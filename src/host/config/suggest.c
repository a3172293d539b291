/* suggest.c - optimal string alignment distance over short names. */
#include "config/suggest.h"

#include <string.h>

enum { NAME_LIMIT = 64 };

static char folded(char c)
{
    if (c == '-') {
        return '_';
    }
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

int csp_edit_distance(const char *a, const char *b)
{
    const size_t a_bytes = strnlen(a, NAME_LIMIT + 1), b_bytes = strnlen(b, NAME_LIMIT + 1);
    /* Rows i-2, i-1 and i of the table of distances between prefixes. */
    int rows[3][NAME_LIMIT + 1];

    if (a_bytes > NAME_LIMIT || b_bytes > NAME_LIMIT) {
        return NAME_LIMIT;
    }
    for (size_t j = 0; j <= b_bytes; j++) {
        rows[0][j] = (int)j;
    }
    for (size_t i = 1; i <= a_bytes; i++) {
        const int *two_up = rows[(i + 1) % 3], *up = rows[(i + 2) % 3];
        int *row = rows[i % 3];

        row[0] = (int)i;
        for (size_t j = 1; j <= b_bytes; j++) {
            const char x = folded(a[i - 1]), y = folded(b[j - 1]);

            row[j] = smaller(smaller(up[j], row[j - 1]) + 1, up[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == folded(b[j - 2]) && folded(a[i - 2]) == y) {
                row[j] = smaller(row[j], two_up[j - 2] + 1);
            }
        }
    }
    return rows[a_bytes % 3][b_bytes];
}

void csp_suggest_init(csp_suggest *suggest, const char *typed)
{
    const size_t bytes = strnlen(typed, NAME_LIMIT);

    suggest->typed = typed;
    suggest->best = NULL;
    /* A third of the letters may be wrong, one in the shortest names: more is another word. */
    suggest->distance = (int)(bytes / 3 > 1 ? bytes / 3 : 1) + 1;
}

void csp_suggest_offer(csp_suggest *suggest, const char *name)
{
    const int distance = csp_edit_distance(suggest->typed, name);

    if (distance < suggest->distance) {
        suggest->distance = distance;
        suggest->best = name;
    }
}
