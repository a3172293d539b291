/*
 * weights_write.c - parameters to safetensors: a model's own tensors, or its adapters as PEFT has
 * them.
 *
 * Tensor by tensor: the host holds no more than the largest of them.
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

/* The rows of a file, and the one that is being written. */
typedef struct writer {
    csp_backend *be;
    const csp_params *params;
    const csp_param **rows; /* by entry */
    csp_safetensors_entry *entries;
    int64_t count;
    bool merge;
    csp_dtype dtype;
    float *values;
} writer;

static void clear(writer *w)
{
    free(w->rows);
    free(w->entries);
    free(w->values);
}

/* Lists the rows that are (lora) or are not adapters. */
static csp_status list_rows(writer *w, bool lora)
{
    const int64_t all = w->params->count;

    CSP_TRY(csp_alloc_zero("weights", all, sizeof(*w->entries), &w->entries));
    CSP_TRY(csp_alloc_zero("weights", all, sizeof(*w->rows), &w->rows));
    for (int64_t i = 0; i < all; i++) {
        const csp_param *row = &w->params->rows[i];

        if (csp_param_is_lora(row) == lora) {
            w->entries[w->count].name = row->name;
            w->entries[w->count].tensor = csp_tensor_view(NULL, w->dtype, row->ndim, row->dim);
            w->rows[w->count++] = row;
        }
    }
    return CSP_OK;
}

/* A csp_safetensors_source: one row on the host, in the dtype of the file. */
static csp_status read_row(void *context, const csp_safetensors_entry *entry, const void **data)
{
    writer *w = context;
    const csp_param *row = w->rows[entry - w->entries];
    const int64_t n = csp_tensor_count(&row->value);

    CSP_TRY(csp_realloc(row->name, n, sizeof(float), &w->values));
    CSP_TRY(csp_weights_download(w->be, w->params, row, w->merge, w->values));
    CSP_TRY(narrow(row->name, w->values, n, w->dtype));
    *data = w->values;
    return CSP_OK;
}

csp_status csp_weights_write(csp_backend *be, const csp_params *params, const char *dir,
                             const csp_weights_write_options *options)
{
    writer w = { .be = be, .params = params, .merge = options->merge, .dtype = options->dtype };
    const csp_safetensors_source source = { read_row, &w };
    csp_status status;

    if (options->dtype != CSP_F32 && options->dtype != CSP_BF16 && options->dtype != CSP_F16) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "weights are written as f32, bf16 or f16, not %s",
                        csp_dtype_name(options->dtype));
    }
    CSP_TRY_GOTO(list_rows(&w, false));
    CSP_TRY_GOTO(csp_safetensors_write_dir(dir, w.entries, w.count, options->shard_bytes, &source));
fail:
    clear(&w);
    return status;
}

csp_status csp_weights_write_lora(csp_backend *be, const csp_params *params, const char *dir,
                                  const char *base)
{
    writer w = { .be = be, .params = params, .dtype = CSP_F32 };
    const csp_safetensors_source source = { read_row, &w };
    char *path = NULL, *config_path = NULL, *text = NULL;
    csp_status status;

    if (params->lora.R == 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: the model has no adapter to write", dir);
    }
    CSP_TRY_GOTO(csp_file_join(dir, "adapter_model.safetensors", &path));
    CSP_TRY_GOTO(csp_file_join(dir, "adapter_config.json", &config_path));
    CSP_TRY_GOTO(csp_lora_config_text(&params->lora, base, &text));
    CSP_TRY_GOTO(list_rows(&w, true));
    CSP_TRY_GOTO(csp_safetensors_write(path, w.entries, w.count, &source));
    CSP_TRY_GOTO(csp_file_write(config_path, text, (int64_t)strlen(text)));
fail:
    clear(&w);
    free(text);
    free(path);
    free(config_path);
    return status;
}
