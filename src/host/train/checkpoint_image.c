/* checkpoint_image.c - where copies lie, and making them. */
#include "train/checkpoint_image.h"

#include <stdlib.h>

#include "core/memory.h"
#include "core/size.h"

/* What a row's value is stored from. */
static const csp_tensor *value_of(const csp_param *row)
{
    return row->master.ndim > 0 ? &row->master : &row->value;
}

/* Whether a checkpoint has a row's value: adapters, or the whole model where there are none. */
static bool is_stored(const csp_params *params, const csp_param *row)
{
    return csp_param_is_lora(row) == (params->lora.R > 0);
}

static size_t room_of(const csp_tensor *t)
{
    return csp_size_round_up(csp_tensor_bytes(t), CSP_ARENA_ALIGN);
}

int64_t csp_checkpoint_image_bytes(const csp_params *params)
{
    size_t bytes = 0;

    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];

        bytes += is_stored(params, row) ? room_of(value_of(row)) : 0;
        bytes += row->trained ? room_of(&row->m) + room_of(&row->v) : 0;
    }
    return (int64_t)bytes;
}

csp_status csp_checkpoint_image_init(csp_backend *be, const csp_params *params,
                                     csp_checkpoint_image *image)
{
    const int64_t rows = params->count;
    csp_checkpoint_image made = { .be = be };
    csp_status status;

    CSP_TRY_GOTO(csp_alloc_zero("checkpoint", rows, sizeof(*made.value), &made.value));
    CSP_TRY_GOTO(csp_alloc_zero("checkpoint", rows, sizeof(*made.m), &made.m));
    CSP_TRY_GOTO(csp_alloc_zero("checkpoint", rows, sizeof(*made.v), &made.v));
    CSP_TRY_GOTO(csp_alloc_zero("checkpoint", 3 * rows, sizeof(*made.parts), &made.parts));
    CSP_TRY_GOTO(csp_alloc_zero("checkpoint", 3 * rows, sizeof(*made.host), &made.host));
    CSP_TRY_GOTO(csp_alloc_zero("checkpoint", 3 * rows, sizeof(*made.at), &made.at));
    /* Just what is needed: a download that finds it too small would take a quarter more. */
    CSP_TRY_GOTO(
        csp_backend_host_reserve(be, (size_t)csp_checkpoint_image_bytes(params), &made.copy.host));
    *image = made;
    return CSP_OK;

fail:
    csp_checkpoint_image_clear(&made);
    return status;
}

void csp_checkpoint_image_clear(csp_checkpoint_image *image)
{
    if (image->be != NULL) {
        csp_download_clear(image->be, &image->copy);
    }
    free(image->value);
    free(image->m);
    free(image->v);
    free(image->parts);
    free(image->host);
    free(image->at);
    free(image->tuning);
    *image = (csp_checkpoint_image) { 0 };
}

/* One more tensor to copy; host will describe the copy. */
static void add(csp_checkpoint_image *image, const csp_tensor *from, csp_tensor *host, int *count)
{
    *host = csp_tensor_view(NULL, from->dtype, from->ndim, from->dim);
    image->parts[*count] = *from;
    image->host[*count] = host;
    (*count)++;
}

csp_status csp_checkpoint_image_start(csp_checkpoint_image *image, const csp_model *model)
{
    const csp_params *params = model->params;
    char *tuning;
    int count = 0;

    CSP_TRY(csp_backend_tuning_get(image->be, &tuning));
    free(image->tuning);
    image->tuning = tuning;
    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];

        if (is_stored(params, row)) {
            add(image, value_of(row), &image->value[i], &count);
        }
        if (row->trained) {
            add(image, &row->m, &image->m[i], &count);
            add(image, &row->v, &image->v[i], &count);
        }
    }
    CSP_TRY(csp_download_mark(image->be, &image->copy));
    CSP_TRY(csp_download_start(image->be, &image->copy, image->parts, count, image->at));
    for (int i = 0; i < count; i++) {
        image->host[i]->data = image->at[i];
    }
    return CSP_OK;
}

csp_status csp_checkpoint_image_wait(csp_checkpoint_image *image)
{
    return csp_download_wait(image->be, &image->copy);
}
