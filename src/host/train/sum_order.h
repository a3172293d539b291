/*
 * sum_order.h - what the order of additions over ranks depends on beside settings: a text that
 * checkpoints hold, so that a run which goes on otherwise is told that it does.
 *
 *     device cuda                 the kind
 *     ranks 4
 *     machines 2: 2x2             of devices: how many, and runs of ranks on one of them
 *     collectives NCCL 2.28.9     of devices: the library
 *     NCCL_ALGO Ring              of devices: what is set for it (csp_launch_collectives)
 *
 * Sums on CPUs are formed in the order of ranks, wherever these run and whatever connects them
 * (comm/comm.h). What a device's products depend on is in csp_backend_tuning_get.
 */
#pragma once

#include "train/ranks.h"

enum { CSP_SUM_ORDER_BYTES = 4096 };

/*
 *   ranks      in    NULL: one
 *   settings   in    lines as above
 *   out        out   what does not fit is left out
 *
 * Ranks:  collective; all get the same but for their settings.
 * Errors: those of comm/comm.h, CSP_ERR_DEVICE, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_sum_order_describe(const csp_ranks *ranks, csp_backend *be,
                                              const char *settings, char out[CSP_SUM_ORDER_BYTES]);

/* How many ranks a text names; 0 of a checkpoint that does not say. */
int csp_sum_order_ranks(const char *text);

/* Warns of each line that was otherwise there. "": of a checkpoint that does not say. */
void csp_sum_order_compare(const char *there, const char *here);
