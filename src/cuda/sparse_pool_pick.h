/*
 * sparse_pool_pick.h - which way the backward pass of max pooling goes. Plain C, so that a test
 * without a device walks it.
 *
 *   lists    gathers a row of e, D numbers, for each entry: bound by where e lies, the second-level
 *            cache as far as it holds e, else memory
 *   stream   adds each entry to its row of dh on chip and reads e once for each block of rows
 *            (sparse_pool_stream.cu): bound by shared memory, which an entry passes three times
 *   tiles    multiplies dense tiles of gradients, kept·V·2D operations, each element of a tile
 *            being written twice and read once before: bound by the product
 *
 * The costs below are a model, in seconds of an H100; no device has been measured. By it, for 4,096
 * rows of the head of a 1B model in bf16, streaming is the fastest between these shares of active
 * terms; below them lists are, above them tiles:
 *
 *   tokens of a text   12            80            128           160 and more
 *   streaming          0.04 - 0.07   0.25 - 0.47   0.39 - 0.75   never
 *
 * It saves at most a seventh, and nothing where e fits into the cache or a block holds too few
 * texts to keep it busy. The choice is a function of what it is told of the batch and of the
 * device, so that a resumed run repeats it; lists and stream give the same bits.
 */
#pragma once

#include "ops/sparse_pool.h"

/*
 * Elements of the head's tables in scratch, of which the backward pass lists as many entries and
 * spreads as many (term, text) pairs at once. The emulator has a smaller one, so that a batch need
 * not be large to be taken in several pieces.
 */
#ifndef POOL_PIECE
#define POOL_PIECE ((int64_t)8 << 20)
#endif

/* Operations a second of products; bytes a second of the second-level cache, of memory, of shared
 * memory (128 a clock and multiprocessor); bytes of the cache. */
#define POOL_RATE_BF16 790e12
#define POOL_RATE_F32 60e12
#define POOL_CACHE_RATE 5.5e12
#define POOL_MEMORY_RATE 3.0e12
#define POOL_SHARED_RATE 28e12
#define POOL_CACHE 50e6

/* A block of the streaming kernel: its columns and warps, entries that a warp takes at once, and
 * what it holds beside its rows. */
#define STREAM_COLUMNS 64
#define STREAM_WARPS 16
#define STREAM_BATCH 32
#define STREAM_E_BYTES 12288 /* a part of e, of which there are two */
#define STREAM_OTHER_BYTES (2 * STREAM_E_BYTES + STREAM_WARPS * STREAM_BATCH * 8)
/* Texts of a block that keep shared memory busy, each being the work of a warp. */
#define STREAM_TEXTS 4

/* Bytes of shared memory of a block of rows: dh, and a cursor for each text it may hold. */
static inline size_t stream_bytes(int64_t rows)
{
    return (size_t)rows * (STREAM_COLUMNS * sizeof(float) + sizeof(uint32_t)) + STREAM_OTHER_BYTES;
}

/* Rows that a block is compiled for. */
static const int64_t stream_rooms[] = { 256, 512, 768 };

/*
 * Kept rows of a block: as many as there is room for, fewer where the device's last wave of blocks
 * would be half empty. 0: no block fits.
 */
static inline int64_t pick_stream_rows(int64_t kept, int64_t D, int64_t processors, size_t shared)
{
    const int64_t slices = (D + STREAM_COLUMNS - 1) / STREAM_COLUMNS;
    int64_t most = 0, blocks, waves;

    for (int i = 0; i < 3; i++) {
        most = stream_bytes(stream_rooms[i]) <= shared ? stream_rooms[i] : most;
    }
    if (most == 0 || kept < 1) {
        return most;
    }
    blocks = (kept + most - 1) / most;
    waves = (blocks * slices + processors - 1) / processors;
    blocks = waves * processors / slices > blocks ? waves * processors / slices : blocks;
    return (kept + blocks - 1) / blocks;
}

/* What a choice depends on. */
typedef struct pool_work {
    int64_t entries; /* of the batch, 0: not known, which picks lists      */
    int64_t texts, kept, V, D;
    csp_dtype S;         /* storage type                                   */
    int64_t stream_rows; /* pick_stream_rows; 0: streaming is not possible */
} pool_work;

static inline double pool_lists_cost(const pool_work *w)
{
    const double row = (double)w->D * (double)csp_dtype_bytes(w->S), e = (double)w->V * row;
    const double held = e > POOL_CACHE ? POOL_CACHE / e : 1.0;

    return (double)w->entries * row * (held / POOL_CACHE_RATE + (1.0 - held) / POOL_MEMORY_RATE);
}

static inline double pool_stream_cost(const pool_work *w)
{
    const double S = (double)csp_dtype_bytes(w->S), D = (double)w->D, n = (double)w->entries;
    const double blocks = (double)((w->kept + w->stream_rows - 1) / w->stream_rows);
    const double texts = (double)w->texts / blocks;
    const double idle = texts < STREAM_TEXTS ? STREAM_TEXTS / texts : 1.0;
    /* An entry's row of dh is read and written in f32, its row of e read. */
    const double on_chip = n * D * (8.0 + S) * idle / POOL_SHARED_RATE;
    const double e = blocks * (double)w->V * D * S, entries = n * 16.0 * D / STREAM_COLUMNS;

    return on_chip + (e + entries) / POOL_CACHE_RATE;
}

static inline double pool_tiles_cost(const pool_work *w)
{
    const double S = (double)csp_dtype_bytes(w->S), D = (double)w->D;
    const double rate = w->S == CSP_BF16 ? POOL_RATE_BF16 : POOL_RATE_F32;

    return (double)w->kept * (double)w->V * (2.0 * D / rate + 3.0 * S / POOL_CACHE_RATE);
}

static inline csp_pool_way pick_pool_way(const pool_work *w)
{
    csp_pool_way way = CSP_POOL_LISTS;
    double least;

    if (w->entries == 0 || w->texts == 0 || w->kept == 0) {
        return way;
    }
    least = pool_lists_cost(w);
    if (w->stream_rows > 0 && pool_stream_cost(w) < least) {
        way = CSP_POOL_STREAM;
        least = pool_stream_cost(w);
    }
    return pool_tiles_cost(w) < least ? CSP_POOL_TILES : way;
}
