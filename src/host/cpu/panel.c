/*
 * panel.c - the packing and the tile of panel.h.
 *
 * The tile's loop is written for vectors of 8 floats (twelve sums in registers: AVX2, or halves of
 * that elsewhere), and for vectors of 16 where the processor has AVX-512: there six sums would wait
 * for each other, so even and odd steps have sums of their own.
 */
#include "cpu/panel.h"

#include <string.h>

#include "cpu/cpu.h"

/* Results may lie anywhere; panels begin at 64 bytes. */
typedef float vector8 __attribute__((vector_size(32)));
typedef float anywhere8 __attribute__((vector_size(32), aligned(4)));
typedef int32_t indices8 __attribute__((vector_size(32)));

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_TARGETS 1
typedef float vector16 __attribute__((vector_size(64)));
typedef float anywhere16 __attribute__((vector_size(64), aligned(4)));
#endif

/*
 * Under a sanitizer a check of every access makes this loop, where nearly all of a CPU's arithmetic
 * is, many times as slow: there whole_tile checks the ends of what it reads, between which the
 * rest lies.
 */
#ifdef __SANITIZE_ADDRESS__
#define UNCHECKED __attribute__((no_sanitize("address", "undefined")))
#else
#define UNCHECKED
#endif

UNCHECKED static inline __attribute__((always_inline)) void tile_of_8(int64_t steps, const float *a,
                                                                      const float *b, bool add,
                                                                      float *out, int64_t ld)
{
    vector8 left[CPU_PANEL_ROWS] = { { 0.0f } }, right[CPU_PANEL_ROWS] = { { 0.0f } };

    for (int64_t k = 0; k < steps; k++) {
        const vector8 b0 = *(const vector8 *)(b + CPU_PANEL_COLUMNS * k);
        const vector8 b1 = *(const vector8 *)(b + CPU_PANEL_COLUMNS * k + 8);

#pragma GCC unroll 6
        for (int i = 0; i < CPU_PANEL_ROWS; i++) {
            left[i] += a[CPU_PANEL_ROWS * k + i] * b0;
            right[i] += a[CPU_PANEL_ROWS * k + i] * b1;
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < CPU_PANEL_ROWS; i++) {
        anywhere8 *row = (anywhere8 *)(out + i * ld);

        row[0] = add ? row[0] + left[i] : left[i];
        row[1] = add ? row[1] + right[i] : right[i];
    }
}

UNCHECKED static void plain_tile(int64_t steps, const float *a, const float *b, bool add,
                                 float *out, int64_t ld)
{
    tile_of_8(steps, a, b, add, out, ld);
}

#ifdef HAS_TARGETS
UNCHECKED __attribute__((target("arch=x86-64-v3"))) static void avx2_tile(int64_t steps,
                                                                          const float *a,
                                                                          const float *b, bool add,
                                                                          float *out, int64_t ld)
{
    tile_of_8(steps, a, b, add, out, ld);
}

UNCHECKED __attribute__((target("arch=x86-64-v4"))) static void avx512_tile(
    int64_t steps, const float *a, const float *b, bool add, float *out, int64_t ld)
{
    vector16 even[CPU_PANEL_ROWS] = { { 0.0f } }, odd[CPU_PANEL_ROWS] = { { 0.0f } };
    int64_t k = 0;

    for (; k + 1 < steps; k += 2) {
        const float *at = a + CPU_PANEL_ROWS * k;
        const vector16 b0 = *(const vector16 *)(b + CPU_PANEL_COLUMNS * k);
        const vector16 b1 = *(const vector16 *)(b + CPU_PANEL_COLUMNS * (k + 1));

#pragma GCC unroll 6
        for (int i = 0; i < CPU_PANEL_ROWS; i++) {
            even[i] += at[i] * b0;
            odd[i] += at[CPU_PANEL_ROWS + i] * b1;
        }
    }
    if (k < steps) {
        const vector16 b0 = *(const vector16 *)(b + CPU_PANEL_COLUMNS * k);

#pragma GCC unroll 6
        for (int i = 0; i < CPU_PANEL_ROWS; i++) {
            even[i] += a[CPU_PANEL_ROWS * k + i] * b0;
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < CPU_PANEL_ROWS; i++) {
        anywhere16 *row = (anywhere16 *)(out + i * ld);
        const vector16 sum = even[i] + odd[i];

        row[0] = add ? row[0] + sum : sum;
    }
}
#endif

static void whole_tile(int64_t steps, const float *a, const float *b, bool add, float *out,
                       int64_t ld)
{
#ifdef __SANITIZE_ADDRESS__
    const volatile float ends = a[0] + a[CPU_PANEL_ROWS * steps - 1] + b[0] +
                                b[CPU_PANEL_COLUMNS * steps - 1] + out[0] +
                                out[(CPU_PANEL_ROWS - 1) * ld + CPU_PANEL_COLUMNS - 1];

    (void)ends;
#endif
#ifdef HAS_TARGETS
    if (__builtin_cpu_supports("avx512f")) {
        avx512_tile(steps, a, b, add, out, ld);
        return;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        avx2_tile(steps, a, b, add, out, ld);
        return;
    }
#endif
    plain_tile(steps, a, b, add, out, ld);
}

void cpu_tile(int64_t steps, const float *a, const float *b, int64_t rows, int64_t columns,
              bool add, float *out, int64_t ld)
{
    float tile[CPU_PANEL_ROWS * CPU_PANEL_COLUMNS];

    if (rows >= CPU_PANEL_ROWS && columns >= CPU_PANEL_COLUMNS) {
        whole_tile(steps, a, b, add, out, ld);
        return;
    }
    whole_tile(steps, a, b, false, tile, CPU_PANEL_COLUMNS);
    for (int64_t i = 0; i < rows && i < CPU_PANEL_ROWS; i++) {
        for (int64_t j = 0; j < columns && j < CPU_PANEL_COLUMNS; j++) {
            const float sum = tile[CPU_PANEL_COLUMNS * i + j];

            out[i * ld + j] = add ? out[i * ld + j] + sum : sum;
        }
    }
}

enum { PACK_AHEAD = 4 }; /* rows of a matrix fetched before they are packed */

/* What every packing is given; unit is a constant where this is inlined. */
typedef struct packing {
    const float *from;
    int64_t ld, n, steps, first, count, at, depth;
    float *panels;
} packing;

/* x[k][i] := x[i][k] for 8 x 8 numbers. */
static inline __attribute__((always_inline)) void transpose(vector8 x[8])
{
    const indices8 low = { 0, 8, 1, 9, 4, 12, 5, 13 }, high = { 2, 10, 3, 11, 6, 14, 7, 15 };
    const indices8 even = { 0, 1, 8, 9, 4, 5, 12, 13 }, odd = { 2, 3, 10, 11, 6, 7, 14, 15 };
    const indices8 first = { 0, 1, 2, 3, 8, 9, 10, 11 }, second = { 4, 5, 6, 7, 12, 13, 14, 15 };
    vector8 pair[8], four[8];

    for (int i = 0; i < 4; i++) {
        pair[2 * i] = __builtin_shuffle(x[2 * i], x[2 * i + 1], low);
        pair[2 * i + 1] = __builtin_shuffle(x[2 * i], x[2 * i + 1], high);
    }
    for (int i = 0; i < 2; i++) {
        four[4 * i] = __builtin_shuffle(pair[4 * i], pair[4 * i + 2], even);
        four[4 * i + 1] = __builtin_shuffle(pair[4 * i], pair[4 * i + 2], odd);
        four[4 * i + 2] = __builtin_shuffle(pair[4 * i + 1], pair[4 * i + 3], even);
        four[4 * i + 3] = __builtin_shuffle(pair[4 * i + 1], pair[4 * i + 3], odd);
    }
    for (int i = 0; i < 4; i++) {
        x[i] = __builtin_shuffle(four[i], four[4 + i], first);
        x[4 + i] = __builtin_shuffle(four[i], four[4 + i], second);
    }
}

/*
 * Up to 8 lanes of a panel, from lane `lane` on: rows of the matrix become its columns. Whole
 * vectors are stored, so with fewer than 8 lanes the next step's store must follow, and the last
 * steps are written one by one.
 */
static inline __attribute__((always_inline)) void pack_eight(const float *from, int64_t ld,
                                                             int64_t present, int64_t steps,
                                                             const int lanes, const int unit,
                                                             float *out)
{
    const vector8 none = { 0.0f };
    int64_t k = 0;

    for (; k + 8 < steps; k += 8) {
        vector8 x[8];

#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            x[i] = i < lanes && i < present ? *(const anywhere8 *)(from + i * ld + k) : none;
        }
        transpose(x);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            *(anywhere8 *)(out + unit * (k + i)) = x[i];
        }
    }
    for (; k < steps; k++) {
        for (int i = 0; i < lanes; i++) {
            out[unit * k + i] = i < present ? from[i * ld + k] : 0.0f;
        }
    }
}

/* Lanes are rows of the matrix: out[unit k + i] = from[i ld + k]. */
static inline __attribute__((always_inline)) void pack_lanes(packing p, const int unit)
{
    for (int64_t panel = p.first; panel < p.first + p.count; panel++) {
        const float *from = p.from + panel * unit * p.ld;
        float *out = p.panels + (panel * p.depth + p.at) * unit;

        for (int i = 0; i < unit; i += 8) {
            pack_eight(from + i * p.ld, p.ld, p.n - panel * unit - i, p.steps,
                       unit - i < 8 ? unit - i : 8, unit, out + i);
        }
    }
}

/*
 * Lanes are columns of the matrix: out[unit k + i] = from[k ld + i]. A row of the matrix is read
 * through all panels before the next: a step of one panel is one cache line of it, and rows lie so
 * far apart that a processor does not fetch the next by itself.
 */
static inline __attribute__((always_inline)) void pack_steps(packing p, const int unit)
{
    const int64_t whole = p.n / unit - p.first < p.count ? p.n / unit - p.first : p.count;

    for (int64_t k = 0; k < p.steps; k++) {
        const float *row = p.from + k * p.ld + p.first * unit;
        float *out = p.panels + (p.first * p.depth + p.at + k) * unit;

        for (int64_t panel = 0; panel < whole; panel++) {
            __builtin_prefetch(row + PACK_AHEAD * p.ld + panel * unit);
            memcpy(out + panel * p.depth * unit, row + panel * unit, (size_t)unit * sizeof(float));
        }
        for (int64_t panel = whole; panel < p.count; panel++) {
            for (int i = 0; i < unit; i++) {
                out[panel * p.depth * unit + i] =
                    (p.first + panel) * unit + i < p.n ? row[panel * unit + i] : 0.0f;
            }
        }
    }
}

CPU_CLONES
void cpu_pack_rows(const float *from, int64_t ld, int64_t n, int64_t steps, int64_t first,
                   int64_t count, int64_t at, int64_t depth, float *panels)
{
    pack_lanes((packing) { from, ld, n, steps, first, count, at, depth, panels }, CPU_PANEL_ROWS);
}

CPU_CLONES
void cpu_pack_columns(const float *from, int64_t ld, int64_t n, int64_t steps, int64_t first,
                      int64_t count, int64_t at, int64_t depth, float *panels)
{
    pack_lanes((packing) { from, ld, n, steps, first, count, at, depth, panels },
               CPU_PANEL_COLUMNS);
}

CPU_CLONES
void cpu_pack_steps_columns(const float *from, int64_t ld, int64_t n, int64_t steps, int64_t first,
                            int64_t count, int64_t at, int64_t depth, float *panels)
{
    pack_steps((packing) { from, ld, n, steps, first, count, at, depth, panels },
               CPU_PANEL_COLUMNS);
}
