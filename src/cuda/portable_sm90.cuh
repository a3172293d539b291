/*
 * portable_sm90.cuh - beside portable.cuh, what only a Hopper has: barriers in shared memory,
 * copies of tiles that complete on them (TMA), products of four warps (wgmma). For files *_sm90.cu,
 * which are compiled for sm_90a alone; their host code runs everywhere and asks for the device.
 *
 * As there, each wrapper has a body for the GPU here and one for the emulator, in
 * tests/emulator/portable_sm90_cpu.cuh. The rules that follow from the hardware:
 *
 *   one thread initialises barriers, calls fence_barrier_init, and a barrier of the block follows
 *   tiles of bf16 are rows of 64 elements, 128 bytes, in TILES; a map has the same swizzle
 *   wgmma_fence before the first product after the start or a wait; nothing touches d from the
 *   first product on until wgmma_finish
 */
#pragma once

#include <cuda.h>

#include "portable.cuh"

/*
 * All dynamic shared memory as one struct, from a multiple of 1024 bytes on, which is the length of
 * the swizzle's pattern: 8 rows of 128 bytes.
 */
#define DYN_SHARED_TILES(type, name) type &name = *static_cast<type *>(cu::dynamic_tiles())

namespace cu
{

/* Elements of a tile's row. */
#define TILE_COLUMNS 64

/*
 * The descriptor of a matrix of bf16 for wgmma: rows along K in a tile of swizzled rows, address
 * that of its first element in shared memory, row 0 in a pattern's first row. In units of 16 bytes:
 * where it begins (bits 0-13), the distance of neighbours along K, which this swizzle does not use
 * (16-29: 1), of groups of 8 rows (32-45: 1024 bytes); bits 62-63: 128-byte swizzle.
 */
static __device__ __forceinline__ uint64_t tile_descriptor(uint32_t address)
{
    return (uint64_t)(address >> 4 & 0x3FFFu) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

/*
 * The map of a matrix (rows,columns) of bf16 in device memory, its copies being boxes of box_rows
 * rows of TILE_COLUMNS elements. The driver's function is got from the runtime, so that nothing is
 * linked with the driver.
 *
 *   base     a multiple of 16 bytes, as are the rows: columns is a multiple of 8
 *   box_rows 1 .. 256
 *
 * Errors: those of the runtime; cudaErrorNotSupported: the driver has no such function;
 *         cudaErrorInvalidValue: it refuses the matrix.
 */
static inline cudaError_t tile_map_make(CUtensorMap *out, const void *base, int64_t rows,
                                        int64_t columns, int box_rows)
{
    const cuuint64_t size[2] = { (cuuint64_t)columns, (cuuint64_t)rows };
    const cuuint64_t stride[1] = { (cuuint64_t)columns * sizeof(__nv_bfloat16) };
    const cuuint32_t box[2] = { TILE_COLUMNS, (cuuint32_t)box_rows }, step[2] = { 1, 1 };
    enum cudaDriverEntryPointQueryResult found;
    void *encode = NULL;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode,
                                                               12000, cudaEnableDefault, &found);

    if (error != cudaSuccess) {
        return error;
    }
    if (found != cudaDriverEntryPointSuccess || encode == NULL) {
        return cudaErrorNotSupported;
    }
    return ((decltype(&cuTensorMapEncodeTiled))encode)(
               out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)base, size, stride, box, step,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS
               ? cudaSuccess
               : cudaErrorInvalidValue;
}

} // namespace cu

#ifndef __CUDACC__
#include "emulator/portable_sm90_cpu.cuh"
#else

namespace cu
{

static __device__ __forceinline__ void *dynamic_tiles()
{
    extern __shared__ __align__(1024) unsigned char cu_dynamic_tiles[];

    return cu_dynamic_tiles;
}

/* A barrier in shared memory; what is in it is the hardware's. */
typedef uint64_t mbarrier;

/* A phase of the barrier is over when arrivals have come and all bytes expected so far, too. */
static __device__ __forceinline__ void mbarrier_init(mbarrier *b, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals)
                 : "memory");
}

/* Barriers that this thread initialised are there for copies, too. */
static __device__ __forceinline__ void fence_barrier_init()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* One arrival, after all that this thread did. */
static __device__ __forceinline__ void mbarrier_arrive(mbarrier *b)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

/* The phase waits for so many more bytes; and one arrival. */
static __device__ __forceinline__ void mbarrier_arrive_expect(mbarrier *b, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)),
                 "r"(bytes)
                 : "memory");
}

/*
 * Waits until the phase of that parity is over: phases count from 0, so that parity 1 does not wait
 * at a fresh barrier. What came before the arrivals, and the copies' bytes, are visible then.
 */
static __device__ __forceinline__ void mbarrier_wait(mbarrier *b, uint32_t parity)
{
    uint32_t over;

    do {
        asm volatile("{\n"
                     ".reg .pred over;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, over;\n"
                     "}"
                     : "=r"(over)
                     : "r"(shared_address(b)), "r"(parity)
                     : "memory");
    } while (over == 0);
}

/*
 * Starts the copy of the map's box from element (x, y), x within a row, to dst, by one thread. What
 * lies outside of the matrix becomes 0; the whole box's bytes come to the barrier.
 *
 *   map  a kernel parameter, __grid_constant__; made by cuTensorMapEncodeTiled
 *   dst  a multiple of 1024 bytes, in shared memory
 */
static __device__ __forceinline__ void tile_load(void *dst, const CUtensorMap *map, int32_t x,
                                                 int32_t y, mbarrier *b)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(dst)),
                 "l"((uint64_t)map), "r"(x), "r"(y), "r"(shared_address(b))
                 : "memory");
}

/* Registers of this warpgroup's threads from here on; all its threads call it. */
template <int registers> static __device__ __forceinline__ void registers_give()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

template <int registers> static __device__ __forceinline__ void registers_take()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

/* What the compiler may not move past a product's beginning and end. */
template <int count> static __device__ __forceinline__ void hold_registers(float (&d)[count])
{
#pragma unroll
    for (int i = 0; i < count; i++) {
        asm volatile("" : "+f"(d[i])::"memory");
    }
}

/* Before a product, of d that something else may have touched. */
static __device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/*
 * Starts d (64,256) += a (64,16) b (16,256), d = a b without accumulate: bf16 products added in
 * f32, by the 128 threads of a warpgroup together, all with the same operands. a and b are rows of
 * 16 elements in tiles: &tile[row 0][k], row 0 a multiple of 8, k of 16. Thread t of the group
 * holds, with w = t / 32, l = t % 32:
 *   d[i]   element (16 w + l/4 + 8 (i/2 % 2), 8 (i/4) + 2 (l%4) + i%2)
 */
static __device__ __forceinline__ void wgmma_64x256(float (&d)[128], const void *a, const void *b,
                                                    bool accumulate)
{
    asm volatile(
        "{\n"
        ".reg .pred more;\n"
        "setp.ne.b32 more, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
        "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
        "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
        "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
        "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"
        "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, "
        "%128, %129, more, 1, 1, 0, 0;\n"
        "}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
          "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
          "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
          "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
          "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
          "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
          "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
          "+f"(d[63]), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]),
          "+f"(d[70]), "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]),
          "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]),
          "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]),
          "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]),
          "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
          "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]),
          "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]),
          "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]), "+f"(d[121]),
          "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
        : "l"(tile_descriptor(shared_address(a))), "l"(tile_descriptor(shared_address(b))),
          "r"((int)accumulate));
}

/* Closes the group of this warpgroup's products started since the last commit. */
static __device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most the groups latest groups are still under way: others' tiles are free. */
template <int groups> static __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}

/* Waits for all products: d may be used. */
template <int count> static __device__ __forceinline__ void wgmma_finish(float (&d)[count])
{
    wgmma_wait<0>();
    hold_registers(d);
}

} // namespace cu

#endif
