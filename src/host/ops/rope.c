/*
 * rope.c - the rotary table, computed on the host and uploaded, so that it is the same bits on
 * every backend.
 */
#include "ops/rope.h"

#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "core/size.h"
#include "ops/check.h"

static csp_status check_rope(const csp_rope *rope)
{
    if (!(rope->theta > 0.0 && isfinite(rope->theta))) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "rope: theta %g is not above 0", rope->theta);
    }
    if (rope->llama3 && (!(rope->factor > 0.0) || !(rope->original_max_position > 0.0) ||
                         !(rope->high_freq_factor > rope->low_freq_factor))) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "rope: llama3 scaling needs factor %g > 0, original_max_position %g > 0 "
                        "and high_freq_factor %g > low_freq_factor %g",
                        rope->factor, rope->original_max_position, rope->high_freq_factor,
                        rope->low_freq_factor);
    }
    return CSP_OK;
}

/*
 * f_i in f32, operation by operation as transformers computes it: the power is rounded, then its
 * reciprocal; each step of the llama3 scaling is rounded too.
 */
static float frequency(const csp_rope *rope, int64_t i, int64_t E)
{
    const float exponent = (float)(2 * i) / (float)E;
    const float plain = 1.0f / (float)pow(rope->theta, (double)exponent);
    float wavelength, smooth, scaled;

    if (!rope->llama3) {
        return plain;
    }
    wavelength = (float)(2.0 * M_PI) / plain;
    smooth = (float)rope->original_max_position / wavelength - (float)rope->low_freq_factor;
    smooth /= (float)(rope->high_freq_factor - rope->low_freq_factor);
    smooth = smooth < 0.0f ? 0.0f : smooth > 1.0f ? 1.0f : smooth;
    scaled = plain / (float)rope->factor;
    return smooth * plain + (1.0f - smooth) * scaled;
}

csp_status csp_rope_table(csp_backend *be, const csp_rope *rope, csp_tensor *cos_table,
                          csp_tensor *sin_table)
{
    csp_status status;
    float *c = NULL, *s = NULL;
    int64_t P, half, count;

    CSP_TRY(check_rope(rope));
    CSP_TRY(csp_check_rank("rope", "cos", cos_table, CSP_F32, 2));
    CSP_TRY(csp_check_tensor("rope", "sin", sin_table, CSP_F32, 2, cos_table->dim));
    P = cos_table->dim[0];
    half = cos_table->dim[1];
    CSP_TRY(csp_size_mul("rope table", P, half, &count));
    CSP_TRY_GOTO(csp_alloc("rope table", count, sizeof(float), &c));
    CSP_TRY_GOTO(csp_alloc("rope table", count, sizeof(float), &s));
    for (int64_t i = 0; i < half; i++) {
        const float f = frequency(rope, i, 2 * half);

        for (int64_t p = 0; p < P; p++) {
            const float angle = (float)p * f;

            c[p * half + i] = (float)cos((double)angle);
            s[p * half + i] = (float)sin((double)angle);
        }
    }
    CSP_TRY_GOTO(csp_backend_upload(be, c, cos_table));
    CSP_TRY_GOTO(csp_backend_upload(be, s, sin_table));
    status = CSP_OK;
fail:
    free(c);
    free(s);
    return status;
}
