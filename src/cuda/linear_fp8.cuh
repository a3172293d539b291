/*
 * linear_fp8.cuh - the products with matrices in e4m3 of ops/linear.h (docs/method.md 8.6).
 */
#pragma once

#include "device.h"

/* Of the rounded rows that exist at a time: thousands of a large model, so products stay large. */
#define CUDA_FP8_BLOCK_BYTES ((int64_t)64 << 20)

/*
 * y of each part (+)= q(x) q(W)^T with their scales; begun: whether y of a part is added to. Rows
 * that nobody rounded before are taken in blocks of at most block_bytes rounded numbers, but of 16
 * rows at least. Takes scratch for those.
 */
CSP_CHECKED csp_status cuda_linear_fp8_fwd(csp_backend *be, const csp_linear_group *group,
                                           csp_linear_rows *rows,
                                           const bool begun[CSP_LINEAR_PARTS], int64_t block_bytes);

/* dx (+)= q(t) w of all parts with the scales of q(t); begun: dx is added to. Takes scratch. */
CSP_CHECKED csp_status cuda_linear_fp8_bwd(csp_backend *be, const csp_linear_group *group,
                                           csp_linear_group_grad *grad, bool begun,
                                           int64_t block_bytes);
