/*
 * warp.h - what the lanes of a warp do together: they meet, the last to arrive computes for all.
 */
#pragma once

#include "emulator/engine.h"

namespace emu
{

enum { LANES = 32, WARP_CLOCKS = 8 };

/* Lanes of one mask on their way to the same collective. */
struct Meeting {
    Collective kind;
    Place at;
    uint32_t mask, arrived;
    char *clock;
};

struct Warp {
    uint32_t present, left, active; /* lanes that exist, that returned; meetings under way */
    uint32_t met;                   /* meetings begun: each takes the next of the clocks   */
    char *clocks;
    Meeting meetings[LANES]; /* by the lowest lane of their mask */
    void *lane_data[LANES];
    char *lane_clock[LANES];
};

/* A block begins: lanes of present exist; clocks are WARP_CLOCKS of this block. */
void warp_begin(Warp *warp, uint32_t present, char *clocks);

/*
 * Lane arrives. Returns 0 if it must wait, else the mask of all lanes that go on now, with the
 * results in their data. Ends the process where lanes do not agree.
 */
uint32_t warp_arrive(Warp *warp, int lane, Collective kind, uint32_t mask, void *data, Place at);

/* The lane goes on behind a collective. */
void warp_passed(Warp *warp, int lane, Collective kind);

/* The lane's thread returns from the kernel. */
void warp_thread_leaves(Warp *warp, int lane);

} // namespace emu
