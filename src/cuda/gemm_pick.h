/*
 * gemm_pick.h - for how many rows the algorithm of a matrix product is chosen. No device needed.
 */
#pragma once

#include <stdint.h>

/*
 * The bucket of a row count: the smallest of 1, 2, 4 .. 128, then multiples of 128 up to 2048, then
 * of an eighth of the power of two below, that is at least rows. Micro-batches differ in their
 * rows, and one choice for each count would be one new choice in nearly every step; the best
 * algorithm for an eighth more rows is as a rule that for these.
 */
static inline int64_t pick_gemm_rows(int64_t rows)
{
    int64_t step = 1;

    while (step < rows && step < 128) {
        step *= 2;
    }
    if (rows <= step) {
        return step;
    }
    while (step * 16 <= rows) {
        step *= 2;
    }
    return (rows + step - 1) / step * step;
}
