/*
 * replicas.h - whether all ranks still have the same model. They make the same updates from the
 * same sums, so a difference means a fault of memory, of a device, or of this program.
 */
#pragma once

#include "model/transformer.h"
#include "train/ranks.h"

/*
 * Compares checksums of all trained parameters. Nothing on one rank.
 *
 * Stream: waits for be; the parameters go through the host's memory one by one.
 * Errors: CSP_ERR_DEVICE, on all ranks, naming the parameter and the first rank that differs from
 *         rank 0; CSP_ERR_MEMORY; CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_replicas_agree(const csp_ranks *ranks, const csp_model *model);
