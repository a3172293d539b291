/*
 * panel_product.h - rows through a linear map and its adapter in one product, over all threads,
 * from packed panels (cpu/panel.h). Private to this folder.
 */
#pragma once

#include "ops/backend.h"

/* How a matrix lies: with its outputs as rows, W (O,I) in forward, or with its inputs as rows. */
typedef enum cpu_weight_form { CPU_OUTPUT_ROWS, CPU_INPUT_ROWS } cpu_weight_form;

/*
 * y = x M (+ y or bias) + scale (x S) T, where M maps K inputs to O outputs, S K to R, T R to O:
 * forward of a linear map with its adapter (M = W^T, S = A^T, T = B^T; all CPU_OUTPUT_ROWS) and,
 * with dy for x, the gradient of its input (M = W, S = B, T = A; all CPU_INPUT_ROWS). The R inner
 * products are further terms of the same sum: [x | scale x S] [M ; T].
 */
typedef struct cpu_map {
    int64_t N, K, O, R; /* R may be 0: no S, T                                           */
    cpu_weight_form form;
    const float *m; /* (O,K) or (K,O)                                                */
    const float *s; /* (R,K) or (K,R)                                                */
    const float *t; /* (O,R) or (R,O)                                                */
    float scale;
    const float *x;    /* (N,K)                                                         */
    const float *bias; /* (O), or NULL                                                  */
    float inner_scale; /* of what is written to inner: inner = inner_scale x S          */
    float *inner;      /* (N,R) out                                                     */
    float *y;          /* (N,O)                                                         */
    bool add;          /* y is added to; not together with bias                         */
} cpu_map;

/* Bytes of cpu_shared that cpu_map_rows works in. */
size_t cpu_map_bytes(const cpu_map *map);

/*
 * Computes map->y and map->inner. shared: cpu_map_bytes long, aligned to 64.
 *
 * Precision: each element is one f32 sum in ascending order of inputs, in parts; its bits do not
 *            depend on the number of threads.
 * Errors:    CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status cpu_map_rows(csp_backend *be, const cpu_map *map, void *shared);
