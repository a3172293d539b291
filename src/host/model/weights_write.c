/*
 * weights_write.c - parameters to safetensors: a model's own tensors, or its adapters as PEFT has
 * them.
 *
 * The whole file is assembled on the host, because io/safetensors writes from host memory.
 */
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "core/scalar.h"
#include "io/file.h"
#include "model/weights.h"

/* IEEE half precision, nearest even; too large becomes infinity. */
static uint16_t f32_to_f16(float value)
{
    uint32_t bits, sign, magnitude;

    memcpy(&bits, &value, sizeof(bits));
    sign = (bits >> 16) & 0x8000u;
    magnitude = bits & 0x7FFFFFFFu;
    if (magnitude >= 0x47800000u) { /* 65,536 and above, infinity, NaN */
        return (uint16_t)(sign | (magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u));
    }
    if (magnitude < 0x38800000u) { /* subnormal: let the adder round at 2^-24 */
        const float shifted = (sign != 0 ? -value : value) + 0.5f;

        memcpy(&bits, &shifted, sizeof(bits));
        return (uint16_t)(sign | (bits - 0x3F000000u));
    }
    magnitude += 0xFFFu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((magnitude - 0x38000000u) >> 13));
}

/*
 * Converts in place: a narrower element never overtakes the one it is made from. A value too large
 * for dtype would silently become infinite.
 */
static csp_status narrow(const char *name, float *values, int64_t n, csp_dtype dtype)
{
    const uint16_t infinite = dtype == CSP_BF16 ? 0x7F80u : 0x7C00u;

    for (int64_t i = 0; i < n && dtype != CSP_F32; i++) {
        const float value = values[i];
        const uint16_t half = dtype == CSP_BF16 ? csp_f32_to_bf16(value) : f32_to_f16(value);

        if ((half & 0x7FFFu) == infinite) {
            return CSP_FAIL(CSP_ERR_NUMERIC, "%s: %g is too large for %s", name, (double)value,
                            csp_dtype_name(dtype));
        }
        memcpy((char *)values + (size_t)i * sizeof(half), &half, sizeof(half));
    }
    return CSP_OK;
}

typedef struct rows_to_write {
    csp_safetensors_entry *entries;
    float **values;
    int64_t count;
} rows_to_write;

static void clear(rows_to_write *w)
{
    for (int64_t i = 0; i < w->count; i++) {
        free(w->values[i]);
    }
    free(w->values);
    free(w->entries);
}

/* Downloads the rows that are (lora) or are not adapters. */
static csp_status gather(csp_backend *be, const csp_params *params, bool lora, bool merge,
                         csp_dtype dtype, rows_to_write *w)
{
    CSP_TRY(csp_alloc_zero("weights", params->count, sizeof(*w->entries), &w->entries));
    CSP_TRY(csp_alloc_zero("weights", params->count, sizeof(*w->values), &w->values));
    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];
        const int64_t n = csp_tensor_count(&row->value);
        float **values = &w->values[w->count];

        if (csp_param_is_lora(row) != lora) {
            continue;
        }
        CSP_TRY(csp_alloc(row->name, n, sizeof(float), values));
        w->count++;
        CSP_TRY(csp_weights_download(be, params, row, merge, *values));
        CSP_TRY(narrow(row->name, *values, n, dtype));
        w->entries[w->count - 1].name = row->name;
        w->entries[w->count - 1].tensor = csp_tensor_view(*values, dtype, row->ndim, row->dim);
    }
    return CSP_OK;
}

csp_status csp_weights_write(csp_backend *be, const csp_params *params, const char *dir,
                             const csp_weights_write_options *options)
{
    rows_to_write w = { NULL, NULL, 0 };
    csp_status status;

    if (options->dtype != CSP_F32 && options->dtype != CSP_BF16 && options->dtype != CSP_F16) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "weights are written as f32, bf16 or f16, not %s",
                        csp_dtype_name(options->dtype));
    }
    CSP_TRY_GOTO(gather(be, params, false, options->merge, options->dtype, &w));
    CSP_TRY_GOTO(csp_safetensors_write_dir(dir, w.entries, w.count, options->shard_bytes));
fail:
    clear(&w);
    return status;
}

csp_status csp_weights_write_lora(csp_backend *be, const csp_params *params, const char *dir,
                                  const char *base)
{
    rows_to_write w = { NULL, NULL, 0 };
    char *path = NULL, *config_path = NULL, *text = NULL;
    csp_status status;

    if (params->lora.R == 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: the model has no adapter to write", dir);
    }
    CSP_TRY_GOTO(csp_file_join(dir, "adapter_model.safetensors", &path));
    CSP_TRY_GOTO(csp_file_join(dir, "adapter_config.json", &config_path));
    CSP_TRY_GOTO(csp_lora_config_text(&params->lora, base, &text));
    CSP_TRY_GOTO(gather(be, params, true, false, CSP_F32, &w));
    CSP_TRY_GOTO(csp_safetensors_write(path, w.entries, w.count));
    CSP_TRY_GOTO(csp_file_write(config_path, text, (int64_t)strlen(text)));
fail:
    clear(&w);
    free(text);
    free(path);
    free(config_path);
    return status;
}
