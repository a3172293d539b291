/*
 * dropout.cuh - the mask of LoRA's input (ops/linear.h), drawn where it is used and never stored.
 */
#pragma once

#include "device.h"
#include "portable.cuh"

/*
 * For rows first .. first+rows-1, with m the rows' mask:
 *
 *     out = m ⊙ in,   or out += m ⊙ in where add is set
 *
 *   in, out   (rows,I)   beginning at row `first`; those of in are in_row elements apart
 */
CSP_CHECKED csp_status cuda_dropout(csp_backend *be, const csp_dropout *d, int64_t first,
                                    int64_t rows, int64_t I, bool add, const float *in,
                                    int64_t in_row, float *out);
CSP_CHECKED csp_status cuda_dropout(csp_backend *be, const csp_dropout *d, int64_t first,
                                    int64_t rows, int64_t I, bool add, const __nv_bfloat16 *in,
                                    int64_t in_row, __nv_bfloat16 *out);
