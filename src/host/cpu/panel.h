/*
 * panel.h - products from packed panels: 6 rows by 16 columns of the result in registers. Private
 * to this folder.
 *
 * What this has over a call of BLAS is that the caller sees every tile while it is hot and packs
 * once what several products share: the head folds logits into maxima that are never stored, a
 * linear map carries its adapter as further terms of the same sum.
 *
 * A panel holds `depth` steps of the sum; step k of a panel of rows is 6 floats, of a panel of
 * columns 16, one after the other. Panels follow each other, `depth` steps apart. Rows and columns
 * that are not there are zeros.
 *
 * Every element of a product is one sum in ascending order of k, in parts of about CPU_PANEL_DEPTH
 * steps (with AVX-512 even and odd steps of a part apart): its bits do not depend on the number of
 * threads or on what it is packed with.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    CPU_PANEL_ROWS = 6,
    CPU_PANEL_COLUMNS = 16,
    CPU_PANEL_DEPTH = 256 /* steps taken at a time: a panel of columns fills half of the L1 cache */
};

/* Steps that a sum of depth steps is cut into: equal parts of about CPU_PANEL_DEPTH. */
static inline int64_t cpu_panel_steps(int64_t depth)
{
    const int64_t parts = (depth + CPU_PANEL_DEPTH / 2) / CPU_PANEL_DEPTH;

    return parts > 1 ? (depth + parts - 1) / parts : depth;
}

/* How many panels of `unit` cover n. */
static inline int64_t cpu_panels(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit;
}

/* Floats of the panels of n rows or columns (unit of them in a panel), depth steps deep. */
static inline int64_t cpu_panel_floats(int64_t n, int64_t unit, int64_t depth)
{
    return cpu_panels(n, unit) * unit * depth;
}

/*
 * Packs a matrix whose rows are the panels' rows or columns: steps at .. at+steps-1 of panels that
 * are depth deep become from[i * ld + k], i < n. Only panels first .. first+count-1 are written.
 */
void cpu_pack_rows(const float *from, int64_t ld, int64_t n, int64_t steps, int64_t first,
                   int64_t count, int64_t at, int64_t depth, float *panels);
void cpu_pack_columns(const float *from, int64_t ld, int64_t n, int64_t steps, int64_t first,
                      int64_t count, int64_t at, int64_t depth, float *panels);

/* The same from a matrix whose rows are the steps: from[k * ld + i], i < n. */
void cpu_pack_steps_columns(const float *from, int64_t ld, int64_t n, int64_t steps, int64_t first,
                            int64_t count, int64_t at, int64_t depth, float *panels);

/*
 * One tile: out[i * ld + j] := (add: +=) sum over k < steps of a[6 k + i] b[16 k + j], for i < rows
 * <= 6 and j < columns <= 16; what lies beside them in out is untouched.
 */
void cpu_tile(int64_t steps, const float *a, const float *b, int64_t rows, int64_t columns,
              bool add, float *out, int64_t ld);
