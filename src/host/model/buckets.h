/*
 * buckets.h - the gradients of full fine-tuning as one array, cut along layers.
 *
 * Ranks add gradients up bucket by bucket, so that a sum can begin when the backward pass has left
 * the layers of a bucket, while those below are still computed. From the top of the network down,
 * a bucket takes layers until it has csp_sharing.bucket_bytes; buckets are counted from the top,
 * which is the order in which they are complete, and lie in memory the other way round:
 *
 *     flat array   | embedding .. | layer 0 .. | .. | layer L-1, final norm, head |
 *     bucket         n-1                              0
 *
 * Where state is shared out among ranks, a bucket is as many parts of equal size, one after another
 * in the order of ranks, with unused elements at its end: what reduce-scatter and all-gather take.
 * A rank has moments and masters of its parts alone. Gradients and values lie at the same elements
 * then, and all rows and parts begin at a multiple of CSP_ARENA_ALIGN bytes.
 *
 * New values go from rank to rank in the same buckets, from the last one on: the embedding is what
 * a forward pass reads first.
 */
#pragma once

#include "model/params.h"

/*
 * Cuts the table of a model that is trained whole: fills buckets, and flat, own_first, own_count
 * and state of the rows.
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_params_cut(csp_params *params);
