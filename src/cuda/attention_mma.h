/*
 * attention_mma.h - the tensor core side of attention, which attention.cu and attention_bwd.cu call
 * for what it takes. Private to this folder.
 */
#pragma once

#include "ops/attention.h"

/* Are these bf16, of a width, at addresses and with rows that the tensor core kernels take? */
bool attention_mma_takes(const csp_attention *a, const csp_tensor *const *rows, int count);

csp_status attention_mma_fwd(csp_backend *be, const csp_attention *a, const csp_tensor *q,
                             const csp_tensor *k, const csp_tensor *v, csp_tensor *o,
                             csp_tensor *lse);

csp_status attention_mma_bwd(csp_backend *be, const csp_attention *a, const csp_attention_grad *g);
