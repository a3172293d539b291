/*
 * rope.h - the table of rotary position embeddings; attention applies it (attention.h).
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct csp_rope {
    double theta;
    bool llama3; /* false: default frequencies, the members below are not read */
    double factor;
    double low_freq_factor;
    double high_freq_factor;
    double original_max_position;
} csp_rope;

/*
 * Fills cos and sin of every position and frequency.
 *
 *     f_i = theta^(-2i/E), i < E/2;   cos[p,i] = cos(p f_i);   sin[p,i] = sin(p f_i)
 *     llama3: n = original_max_position,
 *             c_i = clamp((n f_i / 2π - low) / (high - low), 0, 1),
 *             f_i <- c_i f_i + (1 - c_i) f_i / factor
 *
 * Source: RoFormer (arXiv 2104.09864) in the half-rotation layout; docs/method.md 8.2.
 *
 *   cos, sin  out  (P,E/2)  f32   overwritten; a position is counted from its text's own start
 *
 * Precision:  f and p·f are f32 (as transformers computes them), cos and sin of that in double,
 *             rounded once. The same bits on every backend: computed on the host and uploaded.
 */
CSP_CHECKED csp_status csp_rope_table(csp_backend *be, const csp_rope *rope, csp_tensor *cos,
                                      csp_tensor *sin);

#ifdef __cplusplus
}
#endif
