/*
 * pool.h - inputs of the retrieval head's tests, forward and backward.
 */
#pragma once

#include "ops/sparse_pool.h"
#include "ref/sparse_pool.h"
#include "support/rig.h"

/* Elements that a backend takes at once; the emulated device has fewer (tests/emulator). */
#ifdef POOL_PIECE
enum { POOL_AT_ONCE = POOL_PIECE };
#else
enum { POOL_AT_ONCE = 8 << 20 };
#endif

/* The shapes are edges on purpose, see pool.c: their number, and one of them. */
typedef struct pool_case {
    int64_t B, N, V, D;
    float scale;
    bool exclude;
} pool_case;

extern const pool_case pool_cases[];
enum { POOL_CASES = 6 };

/* One call's tensors and what the reference needs of them. */
typedef struct pool_setup {
    csp_head head;
    csp_tensor h;
    csp_pool_texts texts;
    ref_pool ref;
} pool_setup;

/* The batch of these rows, its sizes counted. */
csp_pool_texts pool_texts_of(rig *r, csp_tensor seq_start, csp_tensor keep);

pool_setup pool_of_tensors(rig *r, csp_tensor h, csp_tensor e, csp_tensor seq_start,
                           csp_tensor keep, csp_tensor exclude, float scale, csp_pool_kind pooling);

/* Normal numbers in the shape of a case, stored as S, random cuts and keep mask. */
pool_setup pool_random(rig *r, int64_t i, csp_pool_kind pooling, csp_dtype S);

/*
 * Logits that are exact in f32 and never 0, so that no rounding moves one across the kink: whole
 * numbers, and a last column (beyond the case's D) that adds 1/2 to each; times 1/2.
 */
pool_setup pool_exact(rig *r, int64_t i, csp_pool_kind pooling, csp_dtype S);

/* (rows,columns) S of small whole numbers low .. high, so that sums of products are exact. */
csp_tensor pool_whole_numbers(rig *r, csp_dtype S, int64_t low, int64_t high, int64_t rows,
                              int64_t columns);

/* (V) u8, every fourth term excluded, or none. */
csp_tensor pool_some_terms(rig *r, int64_t V, bool wanted);

/* (N) u8, 1 but for every hundredth row. */
csp_tensor pool_most_rows(rig *r, int64_t N);

csp_status pool_forward(rig *r, const pool_setup *s, int64_t first_row, csp_sparse *out);
