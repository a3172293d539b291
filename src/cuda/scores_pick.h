/*
 * scores_pick.h - which way the products of sparse rows go, and how they are cut: plain functions
 * of sizes, so that tests can walk them without a device.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Floats of one densified piece: 32 MiB, which stays in the L2 cache of an H100 between the kernel
 * that writes it and the one that reads it. */
#define SCORES_PIECE ((int64_t)8 << 20)
/* Costs in multiplications of a float32 matrix product, from the traffic each causes at 5 TB/s of
 * L2 and 50 TFLOP/s; to be measured again on a device. */
#define SCORES_GATHER_COST 20 /* one gathered float                                         */
#define SCORES_SPREAD_COST 50 /* one float of a densified row: cleared, written, read again */

/* Rows that a gather pays for: a warp fetches 32 floats or wastes the rest. */
static inline int64_t scores_padded(int64_t rows)
{
    return (rows + 31) / 32 * 32;
}

/*
 * Gathered (few entries) or densified? Fewer entries never turn a yes into a no.
 *
 *   q_entries, p_entries   in all of the Q and of the P rows over V terms, about
 */
static inline bool pick_scores_gathered(int64_t Q, int64_t P, int64_t V, double q_entries,
                                        double p_entries)
{
    const double gathered = SCORES_GATHER_COST * (p_entries * (double)scores_padded(Q) +
                                                  q_entries * (double)scores_padded(P));
    const double dense =
        2.0 * ((double)Q * (double)P + SCORES_SPREAD_COST * (double)(Q + P)) * (double)V;

    return gathered < dense;
}

/* Of rows rows each V long, how many are densified at a time: a multiple of 32, or all. */
static inline int64_t pick_scores_rows(int64_t rows, int64_t V)
{
    const int64_t fit = SCORES_PIECE / (V > 0 ? V : 1) / 32 * 32;
    const int64_t most = fit > 32 ? fit : 32;

    return rows < most ? rows : most;
}

/* Of V terms in rows rows, how many are densified at a time: a multiple of 64, or all. */
static inline int64_t pick_scores_terms(int64_t rows, int64_t V)
{
    const int64_t fit = SCORES_PIECE / (rows > 0 ? rows : 1) / 64 * 64;
    const int64_t most = fit > 64 ? fit : 64;

    return V < most ? V : most;
}
