/*
 * dropout.cuh - the mask of LoRA's input (ops/linear.h), drawn where it is used and never stored.
 */
#pragma once

#include "device.h"

/*
 * For rows first .. first+rows-1, with m the rows' mask:
 *
 *     out = m ⊙ in      (cuda_dropout)       out += m ⊙ in      (cuda_dropout_acc)
 *
 *   in, out   (rows,I)   beginning at row `first`
 */
CSP_CHECKED csp_status cuda_dropout(csp_backend *be, const csp_dropout *d, int64_t first,
                                    int64_t rows, int64_t I, const float *in, float *out);
CSP_CHECKED csp_status cuda_dropout_acc(csp_backend *be, const csp_dropout *d, int64_t first,
                                        int64_t rows, int64_t I, const float *in, float *out);
