/*
 * weights_load.c - safetensors to parameters: first everything is compared by name, shape and
 * dtype and one report says what does not match; only then are values converted and uploaded.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "io/file.h"
#include "model/shared_values.h"
#include "model/weights.h"

enum { REPORT_BYTES = 900, REPORT_LINES = 8 };

/* Names what does not match, the first few in full. */
typedef struct report {
    char text[REPORT_BYTES];
    size_t used;
    int64_t count;
} report;

static void note(report *r, const char *format, ...) CSP_PRINTF(2, 3);

static void note(report *r, const char *format, ...)
{
    va_list args;
    int wrote;

    if (r->count++ >= REPORT_LINES || r->used + 2 >= sizeof(r->text)) {
        return;
    }
    if (r->used > 0) {
        r->text[r->used++] = ';';
        r->text[r->used++] = ' ';
    }
    va_start(args, format);
    wrote = vsnprintf(r->text + r->used, sizeof(r->text) - r->used, format, args);
    va_end(args);
    if (wrote > 0) {
        r->used += (size_t)wrote;
        r->used = r->used < sizeof(r->text) ? r->used : sizeof(r->text) - 1;
    }
}

static bool is_float(csp_dtype dtype)
{
    return dtype == CSP_F32 || dtype == CSP_F16 || dtype == CSP_BF16;
}

/* Compares a row with its entry (NULL: absent). */
static void compare(report *r, const csp_param *row, const csp_safetensors_entry *entry)
{
    char is[96], wanted[96];

    if (entry == NULL) {
        note(r, "%s is missing", row->name);
    } else if (!is_float(entry->tensor.dtype)) {
        note(r, "%s is %s, expected f32, f16 or bf16", row->name,
             csp_dtype_name(entry->tensor.dtype));
    } else if (!csp_tensor_is(&entry->tensor, entry->tensor.dtype, row->ndim, row->dim)) {
        note(r, "%s is %s, expected %s", row->name,
             csp_tensor_describe(&entry->tensor, is, sizeof(is)),
             csp_tensor_describe(&row->value, wanted, sizeof(wanted)));
    }
}

static csp_status conclude(const report *r, const char *where)
{
    if (r->count == 0) {
        return CSP_OK;
    }
    return CSP_FAIL(CSP_ERR_FORMAT, "%s: %lld tensor%s do%s not match the configuration: %s%s",
                    where, (long long)r->count, r->count == 1 ? "" : "s", r->count == 1 ? "es" : "",
                    r->text, r->count > REPORT_LINES ? "; ..." : "");
}

/* Buffers some old checkpoints carry; the rotary table is computed from the configuration. */
static bool is_ignored(const char *name)
{
    static const char tail[] = ".rotary_emb.inv_freq";
    const size_t length = strlen(name);

    return length >= sizeof(tail) - 1 && strcmp(name + length - (sizeof(tail) - 1), tail) == 0;
}

static csp_status compare_all(const csp_params *params, const csp_safetensors_set *set,
                              const char *dir)
{
    report r = { .count = 0 };

    for (int64_t i = 0; i < params->count; i++) {
        if (!csp_param_is_lora(&params->rows[i])) {
            compare(&r, &params->rows[i], csp_safetensors_set_find(set, params->rows[i].name));
        }
    }
    for (int64_t i = 0; i < csp_safetensors_set_count(set); i++) {
        const char *name = csp_safetensors_set_at(set, i)->name;
        const csp_param *row = csp_params_find(params, name);
        const bool copy = params->config.tied && strcmp(name, "lm_head.weight") == 0;

        if ((row == NULL || csp_param_is_lora(row)) && !copy && !is_ignored(name)) {
            note(&r, "%.120s is unexpected", name);
        }
    }
    return conclude(&r, dir);
}

csp_status csp_weights_load(csp_backend *be, csp_params *params, const char *dir, csp_comm *machine,
                            csp_digest *digest)
{
    csp_shared_values values = {
        .be = be, .machine = machine, .where = dir, .digest = digest, .finite = true
    };
    csp_safetensors_set *set = NULL;
    csp_status status;

    if (csp_shared_reads(machine)) {
        CSP_TRY_GOTO(csp_safetensors_set_open(dir, &set));
        CSP_TRY_GOTO(compare_all(params, set, dir));
    }
    CSP_TRY_GOTO(csp_shared_values_open(&values));
    for (int64_t i = 0; i < params->count; i++) {
        csp_param *row = &params->rows[i];

        if (!csp_param_is_lora(row)) {
            CSP_TRY_GOTO(csp_shared_row(
                &values, row,
                set != NULL ? &csp_safetensors_set_find(set, row->name)->tensor : NULL));
        }
    }
fail:
    csp_shared_values_close(&values);
    csp_safetensors_set_close(set);
    return status;
}

/* Whether the files hold a head that differs from the embedding. */
static csp_status has_other_head(const char *dir, bool *other)
{
    const csp_safetensors_entry *head, *embed;
    csp_safetensors_set *set;

    CSP_TRY(csp_safetensors_set_open(dir, &set));
    head = csp_safetensors_set_find(set, "lm_head.weight");
    embed = csp_safetensors_set_find(set, "model.embed_tokens.weight");
    *other = head != NULL && embed != NULL &&
             (head->tensor.dtype != embed->tensor.dtype ||
              csp_tensor_bytes(&head->tensor) != csp_tensor_bytes(&embed->tensor) ||
              memcmp(head->tensor.data, embed->tensor.data, csp_tensor_bytes(&head->tensor)) != 0);
    csp_safetensors_set_close(set);
    return CSP_OK;
}

csp_status csp_weights_settle_tie(const char *dir, csp_comm *machine, csp_model_config *config)
{
    bool other = false;

    if (config->tied && csp_shared_reads(machine)) {
        CSP_TRY(has_other_head(dir, &other));
    }
    CSP_TRY(csp_shared_bytes(machine, &other, sizeof(other), "whether the head is tied"));
    if (config->tied && other) {
        csp_log(CSP_LOG_WARN, "model",
                "%s: tie_word_embeddings is true, but lm_head.weight differs from the embedding: "
                "the head of the file is used, untied",
                dir);
        config->tied = false;
    }
    return CSP_OK;
}

/* A file none of whose names begin as PEFT's do would load as "no adapter": said apart. */
static csp_status check_prefix(const csp_safetensors *file, const char *path)
{
    static const char prefix[] = "base_model.model.";

    for (int64_t i = 0; i < csp_safetensors_count(file); i++) {
        const char *name = csp_safetensors_at(file, i)->name;

        if (strncmp(name, prefix, sizeof(prefix) - 1) != 0) {
            return CSP_FAIL(CSP_ERR_FORMAT,
                            "%s: %.120s does not begin with \"%s\" as PEFT's adapters do", path,
                            name, prefix);
        }
    }
    return CSP_OK;
}

/* The entry called name without asking for its dtype, which csp_safetensors_find would refuse. */
static const csp_safetensors_entry *entry_of(const csp_safetensors *file, const char *name)
{
    for (int64_t i = 0; i < csp_safetensors_count(file); i++) {
        if (strcmp(csp_safetensors_at(file, i)->name, name) == 0) {
            return csp_safetensors_at(file, i);
        }
    }
    return NULL;
}

static csp_status compare_lora(const csp_params *params, const csp_safetensors *file,
                               const char *path)
{
    report r = { .count = 0 };

    for (int64_t i = 0; i < params->count; i++) {
        if (csp_param_is_lora(&params->rows[i])) {
            compare(&r, &params->rows[i], entry_of(file, params->rows[i].name));
        }
    }
    for (int64_t i = 0; i < csp_safetensors_count(file); i++) {
        const char *name = csp_safetensors_at(file, i)->name;
        const csp_param *row = csp_params_find(params, name);

        if (row == NULL || !csp_param_is_lora(row)) {
            note(&r, "%.120s is unexpected", name);
        }
    }
    return conclude(&r, path);
}

/* The adapters' file, checked. Owner: the caller closes *out. */
static csp_status open_lora(const csp_params *params, const char *path, csp_safetensors **out)
{
    csp_safetensors *file = NULL;
    csp_status status;

    CSP_TRY(csp_safetensors_open(path, &file));
    CSP_TRY_GOTO(check_prefix(file, path));
    CSP_TRY_GOTO(compare_lora(params, file, path));
    *out = file;
    return CSP_OK;

fail:
    csp_safetensors_close(file);
    return status;
}

csp_status csp_weights_load_lora(csp_backend *be, csp_params *params, const char *dir,
                                 csp_comm *machine)
{
    csp_shared_values values = { .be = be, .machine = machine, .finite = true };
    csp_safetensors *file = NULL;
    char *path = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_file_join(dir, "adapter_model.safetensors", &path));
    values.where = path;
    if (csp_shared_reads(machine)) {
        CSP_TRY_GOTO(open_lora(params, path, &file));
    }
    CSP_TRY_GOTO(csp_shared_values_open(&values));
    for (int64_t i = 0; i < params->count; i++) {
        csp_param *row = &params->rows[i];

        if (csp_param_is_lora(row)) {
            CSP_TRY_GOTO(csp_shared_row(&values, row,
                                        file != NULL ? &entry_of(file, row->name)->tensor : NULL));
        }
    }
fail:
    csp_shared_values_close(&values);
    free(path);
    csp_safetensors_close(file);
    return status;
}
