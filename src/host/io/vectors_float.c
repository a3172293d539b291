/*
 * vectors_float.c - a float as few decimal digits, several times faster than printf.
 *
 * n digits of v are the integer nearest to v * 10^k, and n = 9 always bring v back. Fewer do when
 * the decimal is within v * 2^-25 of v, which is half the distance to the nearer neighbour of v or
 * less; the check leaves a margin for the roundings of the doubles used here (2^-53).
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io/vectors_file.h"

enum { FEWEST = 6, MOST = 9, SMALLEST_POWER = -5, LARGEST_POWER = 8 };

static const double tens[] = { 1e0, 1e1, 1e2, 1e3,  1e4,  1e5,  1e6,
                               1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13 };
static const int64_t whole_tens[] = {
    1,        10,        100,        1000,        10000,        100000,        1000000,
    10000000, 100000000, 1000000000, 10000000000, 100000000000, 1000000000000, 10000000000000
};

/* n / 10^decimals in plain notation, zeros at the end of the fraction left out. */
static char *put_decimal(char *to, int64_t n, int decimals)
{
    int64_t whole = n / whole_tens[decimals], fraction = n % whole_tens[decimals];
    char digits[24];
    int count = 0;

    do {
        digits[count++] = (char)('0' + whole % 10);
        whole /= 10;
    } while (whole > 0);
    while (count > 0) {
        *to++ = digits[--count];
    }
    if (fraction == 0) {
        return to;
    }
    while (fraction % 10 == 0) {
        fraction /= 10;
        decimals--;
    }
    *to++ = '.';
    for (int i = decimals - 1; i >= 0; i--) {
        to[i] = (char)('0' + fraction % 10);
        fraction /= 10;
    }
    return to + decimals;
}

char *csp_vectors_put_float(char *to, float value)
{
    const double v = (double)value;
    int power = SMALLEST_POWER; /* 10^power <= v < 10^(power+1) */

    if (!(v >= 1e-5 && v < 1e9)) {
        char text[32];
        const int length = snprintf(text, sizeof(text), "%.9g", v);

        memcpy(to, text, (size_t)length);
        return to + length;
    }
    while (power < LARGEST_POWER &&
           (power + 1 >= 0 ? v >= tens[power + 1] : v * tens[-(power + 1)] >= 1.0)) {
        power++;
    }
    for (int n = FEWEST;; n++) {
        const int decimals = n - 1 - power;
        double rounded, back;

        if (decimals < 0) {
            continue; /* fewer digits than the whole part has */
        }
        rounded = nearbyint(v * tens[decimals]);
        back = rounded / tens[decimals];
        if (n == MOST || fabs(back - v) < v * (0x1p-25 * 0.999)) {
            return put_decimal(to, (int64_t)rounded, decimals);
        }
    }
}
