/*
 * impacts.c - CPU side of ops/impacts.h: threads own rows, which are counted, placed and written.
 */
#include <string.h>

#include "cpu/cpu.h"

/* What one row comes to. */
typedef struct row_count {
    int64_t kept, clipped, largest;
} row_count;

static row_count count_row(const float *weight, int64_t entries, csp_quant quant)
{
    row_count row = { 0, 0, 0 };

    for (int64_t i = 0; i < entries; i++) {
        bool clipped;
        const int32_t impact = csp_impact_stored(quant, weight[i], &clipped);

        row.kept += impact > 0;
        row.clipped += clipped;
        row.largest = impact > row.largest ? impact : row.largest;
    }
    return row;
}

/* Where the rows of out begin, and what all come to. */
static void place_rows(const int64_t *from, const row_count *row, int64_t rows, int64_t *to,
                       int64_t *count)
{
    memset(count, 0, CSP_IMPACTS_COUNTS * sizeof(*count));
    to[0] = 0;
    for (int64_t r = 0; r < rows; r++) {
        to[r + 1] = to[r] + row[r].kept;
        count[CSP_IMPACTS_DROPPED] += from[r + 1] - from[r] - row[r].kept;
        count[CSP_IMPACTS_CLIPPED] += row[r].clipped;
        if (row[r].largest > count[CSP_IMPACTS_LARGEST]) {
            count[CSP_IMPACTS_LARGEST] = row[r].largest;
        }
    }
}

/* Writes the lowest bytes of an impact. */
static void put_impact(uint8_t *to, int32_t impact, int32_t bytes)
{
    for (int32_t b = 0; b < bytes; b++) {
        to[b] = (uint8_t)(impact >> 8 * b);
    }
}

static void write_row(const int32_t *term, const float *weight, int64_t entries, csp_quant quant,
                      int32_t bytes, int32_t *out_term, uint8_t *out_impact)
{
    int64_t kept = 0;

    for (int64_t i = 0; i < entries; i++) {
        bool clipped;
        const int32_t impact = csp_impact_stored(quant, weight[i], &clipped);

        if (impact > 0) {
            out_term[kept] = term[i];
            put_impact(out_impact + kept * bytes, impact, bytes);
            kept++;
        }
    }
}

csp_status cpu_impacts(csp_backend *be, const csp_sparse *w, int64_t rows, const csp_quant *quant,
                       csp_impact_rows *out)
{
    const int64_t *from = w->row_ptr.data;
    const int32_t *term = w->term.data;
    const float *weight = w->weight.data;
    int64_t *to = out->row_ptr.data, *count = out->count.data;
    int32_t *out_term = out->term.data;
    uint8_t *out_impact = out->impact.data;
    const int threads = cpu_parts(be, from[rows]);
    row_count *row;
    void *memory;
    int32_t bytes;

    CSP_TRY(cpu_shared(be, (size_t)rows * sizeof(*row), &memory));
    row = memory;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t r = 0; r < rows; r++) {
        row[r] = count_row(weight + from[r], from[r + 1] - from[r], *quant);
    }
    place_rows(from, row, rows, to, count);
    bytes = csp_impact_bytes(count[CSP_IMPACTS_LARGEST]);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t r = 0; r < rows; r++) {
        write_row(term + from[r], weight + from[r], from[r + 1] - from[r], *quant, bytes,
                  out_term + to[r], out_impact + to[r] * bytes);
    }
    return CSP_OK;
}
