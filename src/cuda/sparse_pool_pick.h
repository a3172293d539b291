/*
 * sparse_pool_pick.h - which way the backward pass of max pooling goes. Plain C, so that a test
 * without a device walks it.
 *
 *   lists   gathers a row of e, D numbers, for each entry: bound by the second-level cache
 *   tiles   multiplies dense tiles of gradients, kept·V·2D operations, each element of a tile being
 *           written twice and read once before: bound by the product
 *
 * Texts of T kept tokens are worth tiles where more than about T / 140 of all terms are active in
 * bf16, T / 22 in f32: never for passages under a regulariser, at first for raw models and long for
 * short queries. The choice is a function of the batch alone, so that a resumed run repeats it.
 */
#pragma once

#include <stdbool.h>

#include "core/tensor.h"

/* Operations that products do while the second-level cache delivers a byte: 790e12 / 5.5e12 on an
 * H100 in bf16, 60e12 / 5.5e12 in f32. */
#define POOL_OPERATIONS_BF16 144
#define POOL_OPERATIONS_F32 11

/*
 *   entries  in  of the batch, 0: not known, which picks lists
 *   kept     in  kept rows
 *   S        in  storage type
 */
static inline bool pick_pool_tiles(int64_t entries, int64_t kept, int64_t V, int64_t D, csp_dtype S)
{
    const double rate = S == CSP_BF16 ? POOL_OPERATIONS_BF16 : POOL_OPERATIONS_F32;
    const double bytes = (double)csp_dtype_bytes(S);
    const double lists = (double)entries * (double)D * bytes;
    const double tiles = (double)kept * (double)V * (2.0 * (double)D / rate + 3.0 * bytes);

    return lists > tiles;
}
