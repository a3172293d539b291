/*
 * step_flop.h - the arithmetic a training step needs, by formula: multiplications and additions of
 * matrix products, each once, whatever is computed again.
 *
 * Source: docs/method.md 12.
 */
#pragma once

#include "train/chunked.h"

/*
 * Blocks of the network on all rows of the micro-batches: linear maps and attention.
 *
 *   causal     in   which pairs of a text attend
 *   backward   in   the backward pass is part of the step
 */
double csp_flop_network(const csp_chunked *chunks, bool causal, bool backward);

/* The head of the adaptation loss, on predicted tokens. */
double csp_flop_token_head(const csp_chunked *chunks, bool backward);

/*
 * The head of the contrastive step, forward and backward, on pooled rows.
 *
 *   entries   in   stored entries of all representations
 *   pooling   in   of the contract: a maximum has one gradient an entry, a sum has dense ones
 */
double csp_flop_sparse_head(const csp_chunked *chunks, int64_t entries, csp_pooling pooling);
