/* rope.c - the equations of ops/rope.h, llama3 in its published three cases instead of the clamp.
 */
#include "ref/rope.h"

#include <math.h>

static double frequency(const csp_rope *rope, double f)
{
    const double wavelength = 2.0 * M_PI / f, n = rope->original_max_position;
    double smooth;

    if (!rope->llama3 || wavelength < n / rope->high_freq_factor) {
        return f;
    }
    if (wavelength > n / rope->low_freq_factor) {
        return f / rope->factor;
    }
    smooth =
        (n / wavelength - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1.0 - smooth) * f / rope->factor + smooth * f;
}

void ref_rope_table(const csp_rope *rope, int64_t P, int64_t E, double *cos_table,
                    double *sin_table, double *angle_mag)
{
    for (int64_t p = 0; p < P; p++) {
        for (int64_t i = 0; i < E / 2; i++) {
            const double f = pow(rope->theta, -2.0 * (double)i / (double)E);
            const double angle = (double)p * frequency(rope, f);

            cos_table[p * (E / 2) + i] = cos(angle);
            sin_table[p * (E / 2) + i] = sin(angle);
            angle_mag[p * (E / 2) + i] = (double)p * f;
        }
    }
}
