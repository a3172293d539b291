/* buckets.c - the order of rows in the flat arrays, and where they are cut. */
#include "model/buckets.h"

#include <stdlib.h>

#include "core/memory.h"

/* Elements that a row, and a part of a bucket, begin at a multiple of, in all arrays. */
static int64_t spacing(const csp_params *params)
{
    /* Gradients are f32; with parts the values lie as they do, and may be of two bytes each. */
    return CSP_ARENA_ALIGN /
           (int64_t)csp_dtype_bytes(csp_params_sharded(params) ? params->storage.dtype : CSP_F32);
}

static int64_t round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

/* Which part of the network a row is of: -1 embedding, 0 .. L-1 blocks, L what is above them. */
static int32_t unit_of(const csp_params *params, const csp_param *row)
{
    return row->kind == CSP_PARAM_EMBED ? -1
           : row->layer >= 0            ? row->layer
                                        : (int32_t)params->config.L;
}

/*
 * Cuts units from the top, each bucket as soon as it has enough bytes.
 *
 *   units   in   (L+2) elements of each, the embedding's first
 */
static csp_status cut(csp_params *params, const int64_t *units)
{
    const int64_t L = params->config.L;
    const int64_t least = round_up(params->storage.sharing.bucket_bytes, sizeof(float)) / 4;
    csp_bucket open = { .layer = (int32_t)L };

    CSP_TRY(csp_alloc_zero("buckets", L + 2, sizeof(*params->buckets), &params->buckets));
    for (int64_t layer = L; layer >= -1; layer--) {
        open.count += units[layer + 1];
        open.layer = (int32_t)layer;
        if (layer == -1 || (least > 0 && open.count >= least)) {
            params->buckets[params->bucket_count++] = open;
            open.count = 0;
        }
    }
    return CSP_OK;
}

/* Where each bucket begins, and its parts; the last one lies at the front. */
static void place_buckets(csp_params *params)
{
    const int64_t shards = csp_params_shards(params);
    int64_t first = 0;

    params->own_elements = 0;
    for (int64_t b = params->bucket_count - 1; b >= 0; b--) {
        csp_bucket *bucket = &params->buckets[b];

        bucket->count = round_up(bucket->count, shards * spacing(params));
        bucket->part = bucket->count / shards;
        bucket->first = first;
        bucket->state = params->own_elements;
        first += bucket->count;
        params->own_elements += bucket->part;
    }
    params->flat_elements = first;
}

/* The elements of a row that are in this rank's part of its bucket. */
static void find_own(const csp_params *params, const csp_bucket *bucket, csp_param *row)
{
    const int64_t count = row->dim[0] * row->dim[1];
    const int64_t part = bucket->first + bucket->part * params->storage.sharing.rank;
    const int64_t begin = row->flat > part ? row->flat : part;
    const int64_t end =
        row->flat + count < part + bucket->part ? row->flat + count : part + bucket->part;

    if (csp_params_sharded(params)) {
        row->own_first = begin < end ? begin - row->flat : 0;
        row->own_count = begin < end ? end - begin : 0;
        row->state = begin < end ? bucket->state + begin - part : 0;
    }
}

/* Calls visit with the rows in the order in which they lie: matrices of one input together. */
static void each_row(csp_params *params, void (*visit)(csp_params *, csp_param *, int64_t *),
                     int64_t *context)
{
    for (int64_t i = 0; i < params->count; i++) {
        csp_param *row = &params->rows[i];
        csp_matrix_group group;

        if (row->kind != CSP_PARAM_WEIGHT) {
            visit(params, row, context);
            continue;
        }
        group = csp_matrix_group_of(row->matrix);
        for (int m = 0; row->matrix == csp_group_first(group) && m < csp_group_size(group); m++) {
            visit(params, params->layers[row->layer].weight[(int)row->matrix + m], context);
        }
    }
}

/* units[] grows by what a row takes. */
static void add_to_unit(csp_params *params, csp_param *row, int64_t *units)
{
    units[unit_of(params, row) + 1] += round_up(row->dim[0] * row->dim[1], spacing(params));
}

/* next[b] is the element at which the next row of bucket b begins. */
static void place_row(csp_params *params, csp_param *row, int64_t *next)
{
    const int32_t unit = unit_of(params, row);
    const int64_t number = row - params->rows;
    csp_bucket *bucket;
    int64_t b = 0;

    while (params->buckets[b].layer > unit) {
        b++;
    }
    bucket = &params->buckets[b];
    bucket->row = bucket->rows == 0 || number < bucket->row ? number : bucket->row;
    bucket->rows++;
    row->flat = next[b];
    next[b] += round_up(row->dim[0] * row->dim[1], spacing(params));
    find_own(params, bucket, row);
}

csp_status csp_params_cut(csp_params *params)
{
    const int64_t units_count = params->config.L + 2;
    int64_t *units = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero("buckets", units_count, sizeof(*units), &units));
    each_row(params, add_to_unit, units);
    CSP_TRY_GOTO(cut(params, units));
    place_buckets(params);
    for (int64_t b = 0; b < params->bucket_count; b++) {
        units[b] = params->buckets[b].first;
    }
    each_row(params, place_row, units);

fail:
    free(units);
    return status;
}
