/*
 * tensor_map.cc - cuTensorMapEncodeTiled, which the runtime hands out by cudaGetDriverEntryPoint:
 * it checks what the manual demands of matrices, and keeps what a copy needs (tile.h).
 */
#include <cuda.h>
#include <cuda_runtime.h>
#include <string.h>

#include "emulator/internals.h"
#include "emulator/tile.h"

namespace
{

bool is_dimension(cuuint64_t size)
{
    return size > 0 && size <= (cuuint64_t)1 << 32;
}

bool is_box(cuuint32_t size, cuuint32_t step)
{
    return size > 0 && size <= 256 && step > 0 && step <= 8;
}

CUresult encode_tiled(CUtensorMap *out, CUtensorMapDataType type, cuuint32_t rank, void *base,
                      const cuuint64_t *size, const cuuint64_t *stride, const cuuint32_t *box,
                      const cuuint32_t *step, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill)
{
    const bool swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
    emu::TileMap map = {};

    if (emu::planned_failure()) {
        return CUDA_ERROR_UNKNOWN;
    }
    if (type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || rank != 2 ||
        interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
        (!swizzled && swizzle != CU_TENSOR_MAP_SWIZZLE_NONE)) {
        emu::fail({ nullptr, 0 }, "cuTensorMapEncodeTiled: only matrices of bf16, plain or with "
                                  "128-byte swizzle, are emulated");
    }
    if ((uintptr_t)out % 64 != 0 || (uintptr_t)base % 16 != 0 || !is_dimension(size[0]) ||
        !is_dimension(size[1]) || stride[0] % 16 != 0 || stride[0] >= (cuuint64_t)1 << 40 ||
        stride[0] < size[0] * 2 || !is_box(box[0], step[0]) || !is_box(box[1], step[1]) ||
        box[0] * 2 % 16 != 0 || (swizzled && box[0] * 2 > 128)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (step[1] != 1 || (swizzled && box[0] * 2 != 128)) {
        emu::fail({ nullptr, 0 },
                  "cuTensorMapEncodeTiled: steps, and swizzled boxes of less than 128 bytes, are "
                  "not emulated");
    }
    map.magic = emu::TILE_MAGIC;
    map.base = (const char *)base;
    map.size[0] = size[0];
    map.size[1] = size[1];
    map.row_bytes = stride[0];
    map.box[0] = box[0];
    map.box[1] = box[1];
    map.element = 2;
    map.swizzled = swizzled;
    memset(out, 0, sizeof(*out));
    memcpy(out, &map, sizeof(map));
    return CUDA_SUCCESS;
}

} // namespace

static_assert(sizeof(emu::TileMap) <= sizeof(CUtensorMap), "a tensor map has 128 bytes");

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned int,
                                             unsigned long long,
                                             enum cudaDriverEntryPointQueryResult *found)
{
    const bool known = strcmp(symbol, "cuTensorMapEncodeTiled") == 0;

    if (emu::planned_failure()) {
        return emu::remember(cudaErrorUnknown);
    }
    *function = known ? (void *)encode_tiled : nullptr;
    if (found != nullptr) {
        *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    }
    return cudaSuccess;
}
