/*
 * attention_pick.h - which attention kernels a batch gets, and how they cut it: pure functions of
 * sizes, for the launchers and for a test on the host.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ATTENTION_WIDEST = 256,  /* head width                                          */
    ATTENTION_WARPS = 8,     /* of a block; each owns an eighth of a tile's rows    */
    ATTENTION_PAD = 4,       /* floats behind a row of a tile: 8 neighbouring rows  */
                             /* then lie in different banks, still 16-byte aligned  */
    ATTENTION_SHORT = 4,     /* tiles of keys that the short kernels can hold       */
    ATTENTION_MMA_ROWS = 16, /* of a tensor core product                            */
    ATTENTION_MMA_PAD = 8,   /* bf16 behind a row, for the same reason              */
    ATTENTION_FWD_ROWS = 32, /* of queries of a warp of the tensor core kernels of  */
                             /* forward, whose blocks have 4 or 8 warps             */
};

/* Shared rows are this wide: the next of 32, 64, 128, 256. 0 where the head is wider than that. */
static inline int attention_width(int64_t E)
{
    int width = 32;

    while (width < E && width < ATTENTION_WIDEST) {
        width *= 2;
    }
    return E <= width ? width : 0;
}

/* Rows of a tile, of queries or of keys. */
#define ATTENTION_TILE(width) ((width) <= 128 ? 64 : 32)

/* Tiles of keys that stay on chip in a short kernel: backward keeps a width of dk and dv of each in
 * registers. */
#define ATTENTION_HELD(width) \
    ((width) <= 256 / ATTENTION_SHORT ? (int)ATTENTION_SHORT : 256 / (width))

/* Bytes of a tile of rows, and of one of scores. */
static inline size_t attention_rows_bytes(int width)
{
    return (size_t)ATTENTION_TILE(width) * (size_t)(width + ATTENTION_PAD) * sizeof(float);
}

static inline size_t attention_scores_bytes(int width)
{
    return (size_t)ATTENTION_TILE(width) * (size_t)(ATTENTION_TILE(width) + ATTENTION_PAD) *
           sizeof(float);
}

/* Bytes of 16 bf16 rows, as the tensor core kernels keep them. */
#define ATTENTION_MMA_BYTES(width) \
    ((size_t)ATTENTION_MMA_ROWS * (size_t)((width) + ATTENTION_MMA_PAD) * 2)

/* Do the tensor core kernels take heads of this width? */
static inline bool attention_mma_width(int64_t E)
{
    return E == 16 || E == 32 || E == 64 || E == 96 || E == 128;
}

/*
 * Blocks of 16 keys that the short tensor core kernel of forward holds for texts of up to longest
 * rows, beside the queries of 4 warps, or 0: the batch is for the long one.
 */
static inline int pick_attention_mma_blocks(int width, int64_t longest, size_t shared_limit)
{
    const size_t bytes = ATTENTION_MMA_BYTES(width), fit = shared_limit / bytes;
    const size_t queries = 4 * ATTENTION_FWD_ROWS / ATTENTION_MMA_ROWS;
    const int64_t blocks = (longest + ATTENTION_MMA_ROWS - 1) / ATTENTION_MMA_ROWS;

    return fit < queries || 2 * blocks > (int64_t)(fit - queries) ? 0 : (int)blocks;
}

/* Its shared memory where teams of a block of warps have blocks of keys each. */
static inline size_t attention_mma_fwd_bytes(int width, int blocks, int warps, int team)
{
    return (size_t)(warps * (ATTENTION_FWD_ROWS / ATTENTION_MMA_ROWS) +
                    2 * blocks * (warps / team)) *
           ATTENTION_MMA_BYTES(width);
}

/*
 * Its warps: 4, so that several blocks run beside one another and one computes while another waits
 * for its keys; 8 where the keys leave room for one block only, if their queries fit beside them. A
 * multiprocessor has 1 KiB more than a block may have, and each block takes 1 KiB.
 */
static inline int pick_attention_fwd_warps(int width, int blocks, size_t shared_limit)
{
    const size_t few = attention_mma_fwd_bytes(width, blocks, 4, 4);

    return 2 * few + 1024 > shared_limit &&
                   attention_mma_fwd_bytes(width, blocks, 8, 8) <= shared_limit
               ? 8
               : 4;
}

/* A block of the long one: its warps, and blocks of 16 keys and as many values of each buffer. */
typedef struct attention_fwd_tile {
    int warps, blocks;
} attention_fwd_tile;

static inline size_t attention_fwd_tile_bytes(int width, attention_fwd_tile tile)
{
    return (size_t)(tile.warps * (ATTENTION_FWD_ROWS / ATTENTION_MMA_ROWS) + 4 * tile.blocks) *
           ATTENTION_MMA_BYTES(width);
}

/* Half of it where wide heads and a small device leave no more. */
static inline attention_fwd_tile pick_attention_fwd_tile(int width, size_t shared_limit)
{
    const attention_fwd_tile whole = { 8, 4 }, half = { 4, 2 };

    return attention_fwd_tile_bytes(width, whole) <= shared_limit ? whole : half;
}

/*
 * Warps in a team, which has a text and a key-value head to itself: from least to all warps of a
 * block, doubling. A warp for each 16 keys; more where there are so few pieces that blocks would
 * not fill the device.
 */
static inline int pick_attention_team(int least, int warps, int64_t longest, int64_t pieces,
                                      int processors)
{
    const int64_t wanted = 2 * (int64_t)processors;
    int team = least;

    while (team < warps &&
           (longest > (int64_t)team * ATTENTION_MMA_ROWS || pieces * team < wanted * warps)) {
        team *= 2;
    }
    return team;
}

/* The same in forward, whose keys must fit: blocks and warps as picked above. */
static inline int pick_attention_fwd_team(int width, int blocks, int warps, int64_t longest,
                                          int64_t pieces, int processors, size_t shared_limit)
{
    int team = pick_attention_team(1, warps, longest, pieces, processors);

    while (team < warps && attention_mma_fwd_bytes(width, blocks, warps, team) > shared_limit) {
        team *= 2;
    }
    return team;
}

/* Queries of a tile of the tensor core kernels of backward that go by the keys of a block. */
#define ATTENTION_MMA_QUERIES(width) ((width) <= 64 ? 64 : 32)

/* Shared memory of a block of the short one: queries and do, lse, delta and what they see; blocks
 * times 16 keys and values, and dS of those keys. */
#define ATTENTION_MMA_BWD_BYTES(width, blocks)                               \
    ((size_t)ATTENTION_MMA_QUERIES(width) / 8 * ATTENTION_MMA_BYTES(width) + \
     (size_t)ATTENTION_MMA_QUERIES(width) * 12 +                             \
     (size_t)(blocks) *                                                      \
         (2 * ATTENTION_MMA_BYTES(width) + ATTENTION_MMA_BYTES(ATTENTION_MMA_QUERIES(width))))

/*
 * Blocks of 16 keys of the short tensor core kernel of backward for texts of up to longest rows, or
 * 0: the batch is for the long ones. A warp has one of them, but for heads of 64 two where there
 * are more than 4. Gradients of wide heads fill the registers of 8 warps; narrow heads have no
 * kernel of 8.
 */
static inline int pick_attention_bwd_blocks(int width, int64_t longest, size_t shared_limit)
{
    const int most = width <= 64 ? 16 : 8;
    int blocks = 4;

    while (blocks < most && longest > (int64_t)blocks * ATTENTION_MMA_ROWS) {
        blocks *= width <= 32 ? 4 : 2;
    }
    return longest > (int64_t)blocks * ATTENTION_MMA_ROWS ||
                   ATTENTION_MMA_BWD_BYTES(width, blocks) > shared_limit
               ? 0
               : blocks;
}

/* Where it has 4 the smallest team's share of the tile of queries is 16 rows; larger
 * blocks are one team. */
#define ATTENTION_MMA_LEAST_TEAM(width) (64 / ATTENTION_MMA_QUERIES(width))

static inline int pick_attention_bwd_team(int width, int64_t longest, int64_t pieces,
                                          int processors)
{
    return pick_attention_team(ATTENTION_MMA_LEAST_TEAM(width), 4, longest, pieces, processors);
}

/*
 * Tiles of keys that the short kernels need for texts of up to longest rows, or 0: the batch is for
 * the long ones. Short ones keep all keys and values of a text and one tile of queries, backward of
 * their gradients too, in shared memory.
 */
static inline int pick_attention_tiles(int width, int64_t longest, bool backward,
                                       size_t shared_limit)
{
    const int64_t tile = ATTENTION_TILE(width), tiles = (longest + tile - 1) / tile;
    const size_t rows = attention_rows_bytes(width);
    const size_t front = (backward ? 2 : 1) * rows + attention_scores_bytes(width) +
                         (backward ? 2 * (size_t)tile * sizeof(float) : 0);

    if (tiles > ATTENTION_HELD(width) || front + (size_t)tiles * 2 * rows > shared_limit) {
        return 0;
    }
    return (int)tiles;
}

/*
 * Blocks that share the query tiles of a text and key-value head in the short forward kernel: one,
 * but for batches of so few texts that the device would stand idle.
 */
static inline int pick_attention_split(int64_t pieces, int64_t query_tiles, int processors)
{
    const int64_t wanted = 2 * (int64_t)processors;
    const int64_t split = pieces >= wanted ? 1 : (wanted + pieces - 1) / pieces;

    return (int)(split < query_tiles ? split : query_tiles);
}

/*
 * Texts at a time in the long backward kernels where gradients may lie over k and v: those of one
 * such chunk wait in scratch memory of at most bytes, or of what one text needs.
 */
static inline int64_t pick_attention_chunk(int64_t texts, int64_t longest, int64_t row_bytes,
                                           int64_t bytes)
{
    const int64_t fit = bytes / (longest * row_bytes);

    return fit < 1 ? 1 : fit < texts ? fit : texts;
}
