/*
 * panel_product.c - packs the operands, once for all threads, and walks the tiles. A few rows are
 * the work of cpu_gemm.
 */
#include "cpu/panel_product.h"

#include <omp.h>
#include <string.h>

#include "core/size.h"
#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/panel.h"

enum {
    MAP_ROWS = 192,    /* rows packed at a time by a thread: a part of them fills 200 KB of L2, and
                         a panel of the weights comes from memory once for so many rows         */
    WEIGHT_PANELS = 8, /* packed together: rows of a matrix are read some lines at a time      */
    PACKED_ROWS = 128  /* for fewer rows packing the weights costs more than it brings         */
};

static size_t floats(int64_t n)
{
    return csp_size_round_up((size_t)n * sizeof(float), CSP_ARENA_ALIGN);
}

/* Columns of S, to whole panels. */
static int64_t inner_width(const cpu_map *map)
{
    return cpu_panels(map->R, CPU_PANEL_COLUMNS) * CPU_PANEL_COLUMNS;
}

size_t cpu_map_bytes(const cpu_map *map)
{
    return floats(cpu_panel_floats(map->O, CPU_PANEL_COLUMNS, map->K + map->R)) +
           floats(cpu_panel_floats(map->R, CPU_PANEL_COLUMNS, map->K));
}

/* Packs panels first .. of [M ; T], WEIGHT_PANELS of them. */
static void pack_weights(const cpu_map *map, int64_t first, float *out)
{
    const int64_t depth = map->K + map->R;
    const int64_t left = cpu_panels(map->O, CPU_PANEL_COLUMNS) - first;
    const int64_t count = left < WEIGHT_PANELS ? left : WEIGHT_PANELS;

    if (map->form == CPU_OUTPUT_ROWS) {
        cpu_pack_columns(map->m, map->K, map->O, map->K, first, count, 0, depth, out);
        cpu_pack_columns(map->t, map->R, map->O, map->R, first, count, map->K, depth, out);
    } else {
        cpu_pack_steps_columns(map->m, map->O, map->O, map->K, first, count, 0, depth, out);
        cpu_pack_steps_columns(map->t, map->O, map->O, map->R, first, count, map->K, depth, out);
    }
}

/* Packs S. */
static void pack_inner(const cpu_map *map, float *out)
{
    const int64_t panels = cpu_panels(map->R, CPU_PANEL_COLUMNS);

    if (map->form == CPU_OUTPUT_ROWS) {
        cpu_pack_columns(map->s, map->K, map->R, map->K, 0, panels, 0, map->K, out);
    } else {
        cpu_pack_steps_columns(map->s, map->R, map->R, map->K, 0, panels, 0, map->K, out);
    }
}

/*
 * Tiles of packed rows (depth deep) and one panel of columns, over steps.
 *
 *   out   (rows, columns), ld apart
 */
static void walk_rows(int64_t rows, const float *a, int64_t depth, const float *b, int64_t steps,
                      int64_t columns, bool add, float *out, int64_t ld)
{
    for (int64_t i = 0; i < rows; i += CPU_PANEL_ROWS) {
        cpu_tile(steps, a + i * depth, b, rows - i, columns, add, out + i * ld, ld);
    }
}

/*
 * A block of rows, packed: [x | scale x S] cut into parts of its steps, the panels of a part one
 * after the other. What is worked with at a time is then in one piece, which the sets of a cache
 * hold as well as its size promises.
 */
typedef struct row_block {
    int64_t first, rows; /* of x                      */
    int64_t lanes;       /* rows, to whole panels     */
    int64_t depth, part; /* steps, and those of a part */
    float *packed;
    float *product; /* (rows, inner_width) x S   */
} row_block;

static int64_t steps_of_part(const row_block *b, int64_t k)
{
    return b->depth - k < b->part ? b->depth - k : b->part;
}

/* The part that begins at step k. */
static float *part_at(const row_block *b, int64_t k)
{
    return b->packed + k * b->lanes;
}

/* Step k of row i. */
static float *step_of_row(const row_block *b, int64_t k, int64_t i)
{
    const int64_t begin = k / b->part * b->part, steps = steps_of_part(b, begin);

    return part_at(b, begin) + (i / CPU_PANEL_ROWS * steps + k - begin) * CPU_PANEL_ROWS +
           i % CPU_PANEL_ROWS;
}

/* x of the block, in parts; a part may end in steps of the inner products. */
static void pack_block(const cpu_map *map, const row_block *b)
{
    for (int64_t k = 0; k < map->K; k += b->part) {
        const int64_t steps = steps_of_part(b, k);

        cpu_pack_rows(map->x + b->first * map->K + k, map->K, b->rows,
                      map->K - k < steps ? map->K - k : steps, 0,
                      cpu_panels(b->rows, CPU_PANEL_ROWS), 0, steps, part_at(b, k));
    }
}

/*
 * x S of the block: into map->inner, and scaled into its last R steps. Lanes without a row keep
 * what was there in these steps: nothing of them is written.
 */
static void inner_products(const cpu_map *map, const float *s, const row_block *b)
{
    const int64_t width = inner_width(map);

    for (int64_t k = 0; k < map->K; k += b->part) {
        const int64_t depth = steps_of_part(b, k);
        const int64_t steps = map->K - k < depth ? map->K - k : depth;

        for (int64_t j = 0; j < width; j += CPU_PANEL_COLUMNS) {
            walk_rows(b->rows, part_at(b, k), depth, s + j * map->K + k * CPU_PANEL_COLUMNS, steps,
                      CPU_PANEL_COLUMNS, k > 0, b->product + j, width);
        }
    }
    for (int64_t i = 0; i < b->rows; i++) {
        for (int64_t r = 0; r < map->R; r++) {
            const float product = b->product[i * width + r];

            map->inner[(b->first + i) * map->R + r] = map->inner_scale * product;
            *step_of_row(b, map->K + r, i) = map->scale * product;
        }
    }
}

static void map_block(const cpu_map *map, const float *weights, const float *s, const row_block *b)
{
    float *y = map->y + b->first * map->O;

    pack_block(map, b);
    if (map->R > 0) {
        inner_products(map, s, b);
    }
    for (int64_t i = 0; map->bias != NULL && i < b->rows; i++) {
        memcpy(y + i * map->O, map->bias, (size_t)map->O * sizeof(float));
    }
    for (int64_t k = 0; k < b->depth; k += b->part) {
        const int64_t steps = steps_of_part(b, k);
        const bool add = k > 0 || map->add || map->bias != NULL;

        for (int64_t o = 0; o < map->O; o += CPU_PANEL_COLUMNS) {
            walk_rows(b->rows, part_at(b, k), steps, weights + o * b->depth + k * CPU_PANEL_COLUMNS,
                      steps, map->O - o, add, y + o, map->O);
        }
    }
}

/* Rows of a block: at most MAP_ROWS, and every thread has as many blocks. */
static int64_t rows_of_block(int64_t N, int parts)
{
    const int64_t share = (N + parts - 1) / parts;
    const int64_t blocks = (share + MAP_ROWS - 1) / MAP_ROWS;

    return cpu_panels((share + blocks - 1) / blocks, CPU_PANEL_ROWS) * CPU_PANEL_ROWS;
}

/* The same without packing. */
static csp_status map_few_rows(csp_backend *be, const cpu_map *map)
{
    const bool rows = map->form == CPU_OUTPUT_ROWS;
    const int64_t N = map->N, K = map->K, O = map->O, R = map->R;

    for (int64_t n = 0; map->bias != NULL && n < N; n++) {
        memcpy(map->y + n * O, map->bias, (size_t)O * sizeof(float));
    }
    CSP_TRY(cpu_gemm(be, false, rows, N, O, K, 1.0f, map->x, K, map->m, rows ? K : O,
                     map->add || map->bias != NULL ? 1.0f : 0.0f, map->y, O));
    if (R == 0) {
        return CSP_OK;
    }
    CSP_TRY(cpu_gemm(be, false, rows, N, R, K, 1.0f, map->x, K, map->s, rows ? K : R, 0.0f,
                     map->inner, R));
    CSP_TRY(cpu_gemm(be, false, rows, N, O, R, map->scale, map->inner, R, map->t, rows ? R : O,
                     1.0f, map->y, O));
    for (int64_t i = 0; i < N * R; i++) {
        map->inner[i] *= map->inner_scale;
    }
    return CSP_OK;
}

csp_status cpu_map_rows(csp_backend *be, const cpu_map *map, void *shared)
{
    const int64_t depth = map->K + map->R, width = inner_width(map);
    const int64_t panels = cpu_panels(map->O, CPU_PANEL_COLUMNS);
    const int parts = cpu_parts(be, map->N * map->O * depth / 16);
    const int64_t block = rows_of_block(map->N, parts);
    float *weights = shared;
    float *s =
        (float *)((char *)shared + floats(cpu_panel_floats(map->O, CPU_PANEL_COLUMNS, depth)));

    if (map->N < PACKED_ROWS) {
        return map_few_rows(be, map);
    }
    CSP_TRY(cpu_scratch_each(be, (size_t)(block * (depth + width)) * sizeof(float)));
#pragma omp parallel num_threads(parts)
    {
#pragma omp for schedule(static)
        for (int64_t first = 0; first < panels; first += WEIGHT_PANELS) {
            pack_weights(map, first, weights);
        }
        if (map->R > 0) {
#pragma omp single
            pack_inner(map, s);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t first = 0; first < map->N; first += block) {
            float *scratch = cpu_scratch_of(be, omp_get_thread_num());
            const int64_t rows = map->N - first < block ? map->N - first : block;
            const row_block b = { .first = first,
                                  .rows = rows,
                                  .lanes = cpu_panels(rows, CPU_PANEL_ROWS) * CPU_PANEL_ROWS,
                                  .depth = depth,
                                  .part = cpu_panel_steps(depth),
                                  .packed = scratch,
                                  .product = scratch + block * depth };

            map_block(map, weights, s, &b);
        }
    }
    return CSP_OK;
}
