/*
 * dropout.h - the mask of LoRA's input (ops/linear.h), drawn where it is used and never stored.
 * Private to this folder.
 */
#pragma once

#include "ops/linear.h"

/*
 * For rows first .. first+rows-1, with m the rows' mask:
 *
 *     out = m ⊙ in        (both (rows,I), beginning at row `first`; NULL: not wanted)
 *     sum += m ⊙ branch   (the same)
 *
 * One drawing serves both. Runs on be->threads threads.
 */
void cpu_dropout_rows(csp_backend *be, const csp_dropout *d, int64_t first, int64_t rows, int64_t I,
                      const float *in, float *out, const float *branch, float *sum);
