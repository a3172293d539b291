/*
 * portable_sm90_cpu.cuh - the wrappers of portable_sm90.cuh on the CPU. Included by it only.
 */
#pragma once

#include "emulator/engine.h"

#define EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

#undef DYN_SHARED_TILES
#define DYN_SHARED_TILES(type, name) DYN_SHARED(type, name)

namespace cu
{

struct alignas(8) mbarrier {
    uint32_t state[2];
};

static inline void mbarrier_init(mbarrier *b, uint32_t arrivals, EMU_HERE)
{
    emu::mbarrier_init(b, arrivals, { file, line });
}

static inline void fence_barrier_init()
{
    emu::async_fence();
}

static inline void mbarrier_arrive(mbarrier *b, EMU_HERE)
{
    emu::mbarrier_arrive(b, 0, { file, line });
}

static inline void mbarrier_arrive_expect(mbarrier *b, uint32_t bytes, EMU_HERE)
{
    emu::mbarrier_arrive(b, bytes, { file, line });
}

static inline void mbarrier_wait(mbarrier *b, uint32_t parity, EMU_HERE)
{
    emu::mbarrier_wait(b, parity, { file, line });
}

static inline void tile_load(void *dst, const CUtensorMap *map, int32_t x, int32_t y, mbarrier *b,
                             EMU_HERE)
{
    emu::tile_load(map, dst, x, y, b, { file, line });
}

template <int registers> static inline void registers_give()
{
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "of setmaxnreg");
}

template <int registers> static inline void registers_take()
{
    registers_give<registers>();
}

static inline void wgmma_fence()
{
    emu::wgmma_fence();
}

static inline void wgmma_64x256(float (&d)[128], const void *a, const void *b, bool accumulate,
                                EMU_HERE)
{
    const emu::Wgmma lane = { d, 256, tile_descriptor(emu::shared_address(a)),
                              tile_descriptor(emu::shared_address(b)), accumulate };

    emu::wgmma_issue(&lane, { file, line });
}

static inline void wgmma_commit()
{
    emu::wgmma_commit();
}

template <int groups> static inline void wgmma_wait(EMU_HERE)
{
    emu::wgmma_wait(groups, { file, line });
}

template <int count> static inline void wgmma_finish(float (&d)[count], EMU_HERE)
{
    (void)d;
    emu::wgmma_wait(0, { file, line });
}

} // namespace cu

#undef EMU_HERE
