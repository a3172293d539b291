/* panel_product.c - packs the operands, once for all threads, and walks the tiles. */
#include "cpu/panel_product.h"

#include <omp.h>
#include <string.h>

#include "core/size.h"
#include "cpu/cpu.h"
#include "cpu/panel.h"

enum { MAP_ROWS = 96 }; /* rows packed at a time by a thread: a part of them fills a fifth of L2 */

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

/* Packs panel `panel` of [M ; T]. */
static void pack_weights(const cpu_map *map, int64_t panel, float *out)
{
    const int64_t depth = map->K + map->R;

    if (map->form == CPU_OUTPUT_ROWS) {
        cpu_pack_columns(map->m, map->K, map->O, map->K, panel, 1, 0, depth, out);
        cpu_pack_columns(map->t, map->R, map->O, map->R, panel, 1, map->K, depth, out);
    } else {
        cpu_pack_steps_columns(map->m, map->O, map->O, map->K, panel, 1, 0, depth, out);
        cpu_pack_steps_columns(map->t, map->O, map->O, map->R, panel, 1, map->K, depth, out);
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
 * Tiles of packed rows (depth deep) and one panel of columns (column_depth deep), over steps.
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

/* x S of packed rows: into map->inner, and scaled into the rows' last R steps. */
static void inner_products(const cpu_map *map, int64_t first, int64_t rows, const float *s,
                           float *packed, float *product)
{
    const int64_t depth = map->K + map->R, width = inner_width(map);
    const int64_t part = cpu_panel_steps(map->K);

    for (int64_t k = 0; k < map->K; k += part) {
        const int64_t steps = map->K - k < part ? map->K - k : part;

        for (int64_t j = 0; j < width; j += CPU_PANEL_COLUMNS) {
            walk_rows(rows, packed + k * CPU_PANEL_ROWS, depth,
                      s + j * map->K + k * CPU_PANEL_COLUMNS, steps, CPU_PANEL_COLUMNS, k > 0,
                      product + j, width);
        }
    }
    for (int64_t i = 0; i < rows; i++) {
        float *lane =
            packed + (i / CPU_PANEL_ROWS * depth + map->K) * CPU_PANEL_ROWS + i % CPU_PANEL_ROWS;

        for (int64_t r = 0; r < map->R; r++) {
            map->inner[(first + i) * map->R + r] = map->inner_scale * product[i * width + r];
            lane[r * CPU_PANEL_ROWS] = map->scale * product[i * width + r];
        }
    }
}

/* Rows first .. first+rows-1 of y. */
static void map_block(const cpu_map *map, int64_t first, int64_t rows, const float *weights,
                      const float *s, float *packed)
{
    const int64_t depth = map->K + map->R, part = cpu_panel_steps(depth);

    cpu_pack_rows(map->x + first * map->K, map->K, rows, map->K, 0,
                  cpu_panels(rows, CPU_PANEL_ROWS), 0, depth, packed);
    if (map->R > 0) {
        /* Lanes without a row keep what was there in these steps: nothing of them is written. */
        inner_products(map, first, rows, s, packed, packed + MAP_ROWS * depth);
    }
    for (int64_t n = first; map->bias != NULL && n < first + rows; n++) {
        memcpy(map->y + n * map->O, map->bias, (size_t)map->O * sizeof(float));
    }
    for (int64_t k = 0; k < depth; k += part) {
        const int64_t steps = depth - k < part ? depth - k : part;
        const bool add = k > 0 || map->add || map->bias != NULL;

        for (int64_t o = 0; o < map->O; o += CPU_PANEL_COLUMNS) {
            walk_rows(rows, packed + k * CPU_PANEL_ROWS, depth,
                      weights + o * depth + k * CPU_PANEL_COLUMNS, steps, map->O - o, add,
                      map->y + first * map->O + o, map->O);
        }
    }
}

csp_status cpu_map_rows(csp_backend *be, const cpu_map *map, void *shared)
{
    const int64_t depth = map->K + map->R;
    const int64_t panels = cpu_panels(map->O, CPU_PANEL_COLUMNS);
    const int parts = cpu_parts(be, map->N * map->O * depth / 16);
    const int64_t share = cpu_panels((map->N + parts - 1) / parts, CPU_PANEL_ROWS) * CPU_PANEL_ROWS;
    const int64_t block = share < MAP_ROWS ? share : MAP_ROWS;
    const int64_t blocks = (map->N + block - 1) / block;
    float *weights = shared;
    float *s =
        (float *)((char *)shared + floats(cpu_panel_floats(map->O, CPU_PANEL_COLUMNS, depth)));

    CSP_TRY(cpu_scratch_each(be, (size_t)(MAP_ROWS * (depth + inner_width(map))) * sizeof(float)));
#pragma omp parallel num_threads(parts)
    {
#pragma omp for schedule(static)
        for (int64_t panel = -1; panel < panels; panel++) {
            if (panel >= 0) {
                pack_weights(map, panel, weights);
            } else {
                pack_inner(map, s);
            }
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t first = i * block;

            map_block(map, first, map->N - first < block ? map->N - first : block, weights, s,
                      cpu_scratch_of(be, omp_get_thread_num()));
        }
    }
    return CSP_OK;
}
