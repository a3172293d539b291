/*
 * attention_pick.h - which attention kernels a batch gets, and how they cut it: pure functions of
 * sizes, for the launchers and for a test on the host.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ATTENTION_WIDEST = 256, /* head width                                          */
    ATTENTION_WARPS = 8,    /* of a block; each owns an eighth of a tile's rows    */
    ATTENTION_PAD = 4,      /* floats behind a row of a tile: 8 neighbouring rows  */
                            /* then lie in different banks, still 16-byte aligned  */
    ATTENTION_SHORT = 4,    /* tiles of keys that the short kernels can hold       */
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
