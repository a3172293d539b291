/*
 * checkpoint_image.h - a copy in host memory of what a checkpoint takes from the device, so that it
 * can be written while training changes the originals.
 *
 * Values are copied in the type they are trained in (masters where there are some), moments in f32.
 * Memory is reserved once, page-locked where the backend has that, and used again for every
 * checkpoint.
 */
#pragma once

#include "model/transformer.h"

typedef struct csp_checkpoint_image {
    /* (rows of the table) On the host, as trained; none (ndim 0) where a checkpoint has none. */
    csp_tensor *value, *m, *v;
    char *tuning; /* csp_backend_tuning_get of then */

    /* Private. */
    csp_backend *be;
    csp_download copy;
    csp_tensor *parts; /* what is on its way */
    csp_tensor **host; /* where each part belongs */
    void **at;
} csp_checkpoint_image;

/* Bytes of host memory an image of a model with these parameters takes. */
int64_t csp_checkpoint_image_bytes(const csp_params *params);

/*
 * Reserves the memory.
 *
 * Owner:  csp_checkpoint_image_clear, which takes a half-made one too.
 * Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_checkpoint_image_init(csp_backend *be, const csp_params *params,
                                                 csp_checkpoint_image *image);
void csp_checkpoint_image_clear(csp_checkpoint_image *image);

/*
 * Starts to copy what a checkpoint of the model takes. No thread may read the image.
 *
 * Stream: enqueued on be beside later work, which must not write values or moments before
 *         csp_checkpoint_image_wait. On a CPU all is copied when this returns.
 * Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_checkpoint_image_start(csp_checkpoint_image *image,
                                                  const csp_model *model);

/* Waits for the copies, not for be. The image may be read by any thread until the next start. */
CSP_CHECKED csp_status csp_checkpoint_image_wait(csp_checkpoint_image *image);
