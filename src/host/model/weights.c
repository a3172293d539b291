/*
 * weights.c - initial values, downloading, and merging adapters.
 */
#include "model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/rng.h"
#include "model/param_values.h"

/* Distinguishes the random numbers of rows; does not depend on what else the table holds. */
static uint32_t row_key(const csp_param *row)
{
    return ((uint32_t)(row->layer + 1) * 16 + (uint32_t)row->kind) * 8 + (uint32_t)row->matrix;
}

/* A buffer that holds any row. */
static csp_status largest_buffer(const csp_params *params, float **out)
{
    int64_t most = 0;

    for (int64_t i = 0; i < params->count; i++) {
        const int64_t n = csp_tensor_count(&params->rows[i].value);

        most = n > most ? n : most;
    }
    return csp_alloc("weights", most, sizeof(float), out);
}

static void fill(float *values, int64_t n, float value)
{
    for (int64_t i = 0; i < n; i++) {
        values[i] = value;
    }
}

csp_status csp_weights_init(csp_backend *be, csp_params *params, uint64_t seed)
{
    const double std = params->config.initializer_range;
    float *values = NULL;
    csp_status status = largest_buffer(params, &values);

    for (int64_t i = 0; status == CSP_OK && i < params->count; i++) {
        csp_param *row = &params->rows[i];
        const csp_rng rng = { seed, CSP_DRAW_INIT_MODEL, row_key(row), 0 };
        const int64_t n = csp_tensor_count(&row->value);

        if (csp_param_is_lora(row)) {
            continue;
        }
        if (row->kind == CSP_PARAM_BIAS || row->ndim == 1) {
            fill(values, n, row->kind == CSP_PARAM_BIAS ? 0.0f : 1.0f);
        } else {
            for (int64_t e = 0; e < n; e++) {
                values[e] = (float)(std * (double)csp_rng_normal(rng, (uint64_t)e));
            }
        }
        status = csp_param_upload(be, row, 0, n, values);
    }
    free(values);
    return status;
}

csp_status csp_weights_init_lora(csp_backend *be, csp_params *params, uint64_t seed)
{
    float *values = NULL;
    csp_status status = largest_buffer(params, &values);

    for (int64_t i = 0; status == CSP_OK && i < params->count; i++) {
        csp_param *row = &params->rows[i];
        const csp_rng rng = { seed, CSP_DRAW_INIT_LORA, row_key(row), 0 };
        const int64_t n = csp_tensor_count(&row->value);

        if (row->kind == CSP_PARAM_LORA_B) {
            status = csp_param_zero(be, row);
        } else if (row->kind == CSP_PARAM_LORA_A) {
            /* Kaiming-uniform with a = sqrt(5): sqrt(6 / ((1 + 5) I)). */
            const double bound = 1.0 / sqrt((double)row->dim[1]);

            for (int64_t e = 0; e < n; e++) {
                values[e] =
                    (float)(bound * (2.0 * (double)csp_rng_uniform(rng, (uint64_t)e) - 1.0));
            }
            status = csp_param_upload(be, row, 0, n, values);
        }
    }
    free(values);
    return status;
}

/* w (O,I) += s b (O,R) a (R,I). */
static void add_product(float *w, const float *a, const float *b, float s, const int64_t dim[2],
                        int64_t R)
{
    for (int64_t o = 0; o < dim[0]; o++) {
        for (int64_t r = 0; r < R; r++) {
            const float factor = s * b[o * R + r];

            for (int64_t i = 0; i < dim[1]; i++) {
                w[o * dim[1] + i] += factor * a[r * dim[1] + i];
            }
        }
    }
}

csp_status csp_weights_download(csp_backend *be, const csp_params *params, const csp_param *row,
                                bool merge, float *values)
{
    const csp_layer *layer = row->layer >= 0 ? &params->layers[row->layer] : NULL;
    const csp_param *a = NULL, *b = NULL;
    float *host_a = NULL, *host_b = NULL;
    csp_status status;

    CSP_TRY(csp_param_download(be, row, values));
    if (merge && row->kind == CSP_PARAM_WEIGHT) {
        a = layer->lora_a[row->matrix];
        b = layer->lora_b[row->matrix];
    }
    if (a == NULL) {
        return CSP_OK;
    }
    CSP_TRY_GOTO(csp_alloc("adapter", csp_tensor_count(&a->value), sizeof(float), &host_a));
    CSP_TRY_GOTO(csp_alloc("adapter", csp_tensor_count(&b->value), sizeof(float), &host_b));
    CSP_TRY_GOTO(csp_param_download(be, a, host_a));
    CSP_TRY_GOTO(csp_param_download(be, b, host_b));
    add_product(values, host_a, host_b, csp_lora_scale(&params->lora), row->dim, params->lora.R);
fail:
    free(host_a);
    free(host_b);
    return status;
}

csp_status csp_weights_merge_lora(csp_backend *be, csp_params *params, uint64_t seed)
{
    float *values = NULL;
    csp_status status = largest_buffer(params, &values);

    for (int64_t i = 0; status == CSP_OK && i < params->count; i++) {
        csp_param *row = &params->rows[i];

        if (row->kind == CSP_PARAM_WEIGHT &&
            params->layers[row->layer].lora_a[row->matrix] != NULL) {
            status = csp_weights_download(be, params, row, true, values);
            if (status == CSP_OK) {
                status = csp_param_upload(be, row, 0, csp_tensor_count(&row->value), values);
            }
        }
    }
    free(values);
    CSP_TRY(status);
    return csp_weights_init_lora(be, params, seed);
}
