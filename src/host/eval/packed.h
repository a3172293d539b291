/*
 * packed.h - a packed batch of texts on the device: what training and encoding give the model and
 * its head to read.
 */
#pragma once

#include "data/batch.h"
#include "model/transformer.h"

typedef struct csp_packed {
    csp_pack pack;        /* with padding; row_key: none without training */
    csp_pool_texts texts; /* of pack without padding, for the head        */
    csp_tensor target;    /* (N) i32; none without training               */
} csp_packed;

/*
 * Takes the tensors of B texts and N rows, padding among them, from an arena; on a ruler this
 * measures.
 *
 *   train   in   with what training alone needs: row_key and target
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_packed_place(int64_t B, int64_t N, bool train, csp_arena *arena,
                                        csp_packed *out);

/*
 * Uploads a batch of just the sizes that were placed, and sets the rest of packed. The batch is
 * free for other use at once.
 *
 * Stream: enqueued on be.
 * Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_packed_upload(csp_backend *be, const csp_batch *batch,
                                         csp_packed *packed);
