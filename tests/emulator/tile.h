/*
 * tile.h - what the fake cuTensorMapEncodeTiled keeps in a tensor map, for the copies of async.cc.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace emu
{

/* A matrix in device memory, and the box of it that a copy takes; x first, as in CUDA. */
struct TileMap {
    uint64_t magic;
    const char *base;
    uint64_t size[2];   /* elements                                   */
    uint64_t row_bytes; /* distance of rows                           */
    uint32_t box[2];    /* elements                                   */
    uint32_t element;   /* bytes of one                               */
    uint32_t swizzled;  /* 16-byte parts of 128 bytes change places   */
};
constexpr uint64_t TILE_MAGIC = 0x70616D2D656C6974u;

} // namespace emu
