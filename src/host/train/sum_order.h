/*
 * sum_order.h - what the bits of a run depend on beside settings: a text that checkpoints hold, so
 * that a run which goes on otherwise is told that it does.
 *
 *     block_layout 2              with several blocks of negatives: how they are dealt out
 *     device cuda                 the kind
 *     driver CUDA 13.0            lines of csp_backend_versions
 *     cublas 13.1.0
 *     ranks 4
 *     machines 2: 2x2             of devices: how many, and runs of ranks on one of them
 *     collectives NCCL 2.28.9     of devices: the library
 *     NCCL_ALGO Ring              of devices: what is set for it (csp_launch_collectives)
 *
 * Sums on CPUs are formed in the order of ranks, wherever these run and whatever connects them
 * (comm/comm.h). The type of a device and cuBLASLt's version are in csp_backend_tuning_get. A
 * checkpoint of an earlier csplade lacks lines that came later: nothing is said of them then, but
 * where it is known what they would have been.
 */
#pragma once

#include "train/ranks.h"

enum { CSP_SUM_ORDER_BYTES = 4096 };

/*
 *   blocks     in    contrastive.negative_blocks
 *   ranks      in    NULL: one
 *   settings   in    lines as above, of what is set for the library of collectives
 *   out        out   what does not fit is left out
 *
 * Ranks:  collective; all get the same but for their settings.
 * Errors: those of comm/comm.h, CSP_ERR_DEVICE, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_sum_order_describe(int64_t blocks, const csp_ranks *ranks,
                                              csp_backend *be, const char *settings,
                                              char out[CSP_SUM_ORDER_BYTES]);

/* How many ranks a text names; 0 of a checkpoint that does not say. */
int csp_sum_order_ranks(const char *text);

/*
 * Warns of each line that was otherwise there, with both values.
 *
 *   there      in   "": of a checkpoint that says nothing
 *   in_phase   in   the checkpoint is of the phase that has blocks, and has come there by some
 */
void csp_sum_order_compare(const char *there, const char *here, bool in_phase);
