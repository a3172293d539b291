/*
 * gather.c - sums of chosen rows, with their running sums in registers.
 *
 * LANES columns at a time are kept as eight vectors while all chosen rows pass by; a row is read
 * once and the sum written once, so the loop is bound by reading the rows from the caches.
 */
#include "cpu/gather.h"

#include "cpu/cpu.h"

/* A vector at any address of floats; compilers split it where the machine's are narrower. */
typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));

enum { VEC = 8, LANES = 8 * VEC };

CPU_CLONES
static void gather_lanes(int64_t count, const int32_t *index, const float *coefficient,
                         const float *rows, int64_t stride, float *out)
{
    vec *o = (vec *)out;
    vec s0 = o[0], s1 = o[1], s2 = o[2], s3 = o[3], s4 = o[4], s5 = o[5], s6 = o[6], s7 = o[7];

    for (int64_t i = 0; i < count; i++) {
        const vec *row = (const vec *)(rows + (int64_t)index[i] * stride);
        const float factor = coefficient[i];

        s0 += factor * row[0];
        s1 += factor * row[1];
        s2 += factor * row[2];
        s3 += factor * row[3];
        s4 += factor * row[4];
        s5 += factor * row[5];
        s6 += factor * row[6];
        s7 += factor * row[7];
    }
    o[0] = s0;
    o[1] = s1;
    o[2] = s2;
    o[3] = s3;
    o[4] = s4;
    o[5] = s5;
    o[6] = s6;
    o[7] = s7;
}

/* Compiled for the same machines, so that a column is rounded alike wherever a cut puts it. */
CPU_CLONES
static void gather_rest(int64_t count, const int32_t *index, const float *coefficient,
                        const float *rows, int64_t stride, int64_t width, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        const float *row = rows + (int64_t)index[i] * stride;

#pragma omp simd
        for (int64_t c = 0; c < width; c++) {
            out[c] += coefficient[i] * row[c];
        }
    }
}

void cpu_gather_add(int64_t count, const int32_t *index, const float *coefficient,
                    const float *rows, int64_t stride, int64_t width, float *out)
{
    int64_t c = 0;

    if (count == 0) {
        return;
    }
    for (; c + LANES <= width; c += LANES) {
        gather_lanes(count, index, coefficient, rows + c, stride, out + c);
    }
    if (c < width) {
        gather_rest(count, index, coefficient, rows + c, stride, width - c, out + c);
    }
}
