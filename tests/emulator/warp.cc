/*
 * warp.cc - warp collectives: shuffles, votes, matrix products and loads of 8 x 8 matrices.
 *
 * A lane leaves a pointer to its operands and waits. Whoever arrives last computes the results of
 * all lanes, straight into their operands: the others stand still, so one meeting for each
 * collective is enough. A shuffle orders no memory; only __syncwarp does, as on the device.
 */
#include <string.h>

#include "emulator/internals.h"
#include "emulator/sanitizer.h"
#include "emulator/warp.h"

namespace emu
{

namespace
{

void shuffle(const Meeting *meeting, void *const *data)
{
    for (int lane = 0; lane < LANES; lane++) {
        Shuffle *mine = (Shuffle *)data[lane];

        if ((meeting->mask >> lane & 1u) == 0) {
            continue;
        }
        const int source = mine->source < 0 ? lane : mine->source;
        if (source >= LANES || (meeting->mask >> source & 1u) == 0) {
            fail(meeting->at, "lane %d reads lane %d, which is not in the mask 0x%08x", lane,
                 source, meeting->mask);
        }
        mine->result = ((const Shuffle *)data[source])->value;
    }
}

uint64_t reduced(Reduction operation, uint64_t x, uint64_t y)
{
    const uint32_t a = (uint32_t)x, b = (uint32_t)y;

    switch (operation) {
    case REDUCE_ADD:
        return (uint32_t)(a + b);
    case REDUCE_MIN:
        return a < b ? a : b;
    case REDUCE_MAX:
        return a > b ? a : b;
    case REDUCE_MIN_I:
        return (int32_t)a < (int32_t)b ? a : b;
    case REDUCE_MAX_I:
        return (int32_t)a > (int32_t)b ? a : b;
    case REDUCE_AND:
        return a & b;
    default:
        return a | b;
    }
}

void vote(const Meeting *meeting, void *const *data)
{
    const Vote *first = (const Vote *)data[__builtin_ctz(meeting->mask)];
    uint32_t ballot = 0;
    uint64_t sum = first->value;

    for (int lane = 0; lane < LANES; lane++) {
        if ((meeting->mask >> lane & 1u) == 0) {
            continue;
        }
        const Vote *theirs = (const Vote *)data[lane];
        ballot |= (uint32_t)(theirs->value != 0) << lane;
        if (theirs != first) {
            sum = reduced(first->operation, sum, theirs->value);
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        if ((meeting->mask >> lane & 1u) == 0) {
            continue;
        }
        Vote *mine = (Vote *)data[lane];
        mine->result = meeting->kind == COLLECTIVE_BALLOT ? ballot : (uint32_t)sum;
        for (int other = 0; meeting->kind == COLLECTIVE_MATCH && other < LANES; other++) {
            if (other == 0) {
                mine->result = 0;
            }
            if ((meeting->mask >> other & 1u) != 0) {
                mine->result |= (uint32_t)(((const Vote *)data[other])->value == mine->value)
                                << other;
            }
        }
    }
}

float from_bf16(uint32_t bits)
{
    const uint32_t wide = bits << 16;
    float value;

    memcpy(&value, &wide, sizeof(value));
    return value;
}

float from_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* c(16,8) += a(16,K) b(K,8), from and to the fragments of the lanes; layouts: portable.cuh. */
template <int K> void multiply(void *const *data, const float (&a)[16][K], const float (&b)[K][8])
{
    for (int i = 0; i < 16; i++) {
        float sum[8];

        for (int j = 0; j < 8; j++) {
            sum[j] = ((const Mma *)data[i % 8 * 4 + j / 2])->c[i / 8 * 2 + j % 2];
        }
        for (int k = 0; k < K; k++) {
            for (int j = 0; j < 8; j++) {
                sum[j] += a[i][k] * b[k][j];
            }
        }
        for (int j = 0; j < 8; j++) {
            ((Mma *)data[i % 8 * 4 + j / 2])->c[i / 8 * 2 + j % 2] = sum[j];
        }
    }
}

void mma_bf16(void *const *data)
{
    float a[16][16], b[16][8];

    for (int lane = 0; lane < LANES; lane++) {
        const Mma *mine = (const Mma *)data[lane];
        const int g = lane / 4, t = lane % 4;

        for (int r = 0; r < 4; r++) {
            const int row = g + r % 2 * 8, column = 2 * t + r / 2 * 8;

            a[row][column] = from_bf16(mine->a[r] & 0xFFFFu);
            a[row][column + 1] = from_bf16(mine->a[r] >> 16);
        }
        for (int r = 0; r < 2; r++) {
            b[2 * t + 8 * r][g] = from_bf16(mine->b[r] & 0xFFFFu);
            b[2 * t + 8 * r + 1][g] = from_bf16(mine->b[r] >> 16);
        }
    }
    multiply(data, a, b);
}

/* The device reads the upper 19 bits of an operand; the rest is cut off. */
void mma_tf32(void *const *data)
{
    float a[16][8], b[8][8];

    for (int lane = 0; lane < LANES; lane++) {
        const Mma *mine = (const Mma *)data[lane];
        const int g = lane / 4, t = lane % 4;

        for (int r = 0; r < 4; r++) {
            a[g + r % 2 * 8][t + r / 2 * 4] = from_bits(mine->a[r] & 0xFFFFE000u);
        }
        for (int r = 0; r < 2; r++) {
            b[t + 4 * r][g] = from_bits(mine->b[r] & 0xFFFFE000u);
        }
    }
    multiply(data, a, b);
}

void ldmatrix(void *const *data)
{
    for (int lane = 0; lane < LANES; lane++) {
        Ldmatrix *mine = (Ldmatrix *)data[lane];
        const int i = lane / 4, j = 2 * (lane % 4);

        for (int m = 0; m < mine->matrices; m++) {
            const bool t = mine->transposed != 0;
            const Ldmatrix *first = (const Ldmatrix *)data[8 * m + (t ? j : i)];
            const Ldmatrix *second = (const Ldmatrix *)data[8 * m + (t ? j + 1 : i)];

            mine->result[m] = first->row[t ? i : j] | (uint32_t)second->row[t ? i : j + 1] << 16;
        }
    }
}

void compute(const Meeting *meeting, void *const *data)
{
    switch (meeting->kind) {
    case COLLECTIVE_SYNC:
        break;
    case COLLECTIVE_SHUFFLE:
        shuffle(meeting, data);
        break;
    case COLLECTIVE_BALLOT:
    case COLLECTIVE_MATCH:
    case COLLECTIVE_REDUCE:
        vote(meeting, data);
        break;
    case COLLECTIVE_MMA_BF16:
        mma_bf16(data);
        break;
    case COLLECTIVE_MMA_TF32:
        mma_tf32(data);
        break;
    case COLLECTIVE_LDMATRIX:
        ldmatrix(data);
        break;
    }
}

bool same_place(Place x, Place y)
{
    return x.line == y.line && (x.file == y.file || strcmp(x.file, y.file) == 0);
}

void check_mask(const Warp *warp, int lane, uint32_t mask, Place at)
{
    if ((mask >> lane & 1u) == 0) {
        fail(at, "lane %d calls with the mask 0x%08x, which leaves it out", lane, mask);
    }
    if ((mask & ~warp->present) != 0) {
        fail(at, "the mask 0x%08x names lanes that do not exist (0x%08x do)", mask, warp->present);
    }
    if ((mask & warp->left) != 0) {
        fail(at, "the mask 0x%08x names lanes whose threads have returned (0x%08x)", mask,
             mask & warp->left);
    }
}

} // namespace

void warp_begin(Warp *warp, uint32_t present, char *clocks)
{
    warp->clocks = clocks;
    warp->met = 0;
    warp->present = present;
    warp->left = 0;
    warp->active = 0;
}

uint32_t warp_arrive(Warp *warp, int lane, Collective kind, uint32_t mask, void *data, Place at)
{
    check_mask(warp, lane, mask, at);
    const int lowest = __builtin_ctz(mask);
    Meeting *meeting = &warp->meetings[lowest];

    for (uint32_t rest = warp->active; rest != 0; rest &= rest - 1) {
        const Meeting *other = &warp->meetings[__builtin_ctz(rest)];

        if ((other->mask & mask) != 0 &&
            (other->mask != mask || other->kind != kind || !same_place(other->at, at))) {
            fail(at,
                 "lanes of a warp meet in different operations: mask 0x%08x here, 0x%08x at %s:%d",
                 mask, other->mask, other->at.file, other->at.line);
        }
    }
    if ((warp->active >> lowest & 1u) == 0) {
        warp->active |= 1u << lowest;
        meeting->kind = kind;
        meeting->at = at;
        meeting->mask = mask;
        meeting->arrived = 0;
        meeting->clock = &warp->clocks[warp->met++ % WARP_CLOCKS];
    }
    meeting->arrived |= 1u << lane;
    warp->lane_data[lane] = data;
    warp->lane_clock[lane] = meeting->clock;
    if (kind == COLLECTIVE_SYNC) {
        tsan_release(warp->lane_clock[lane]);
    }
    if (meeting->arrived != mask) {
        return 0;
    }
    compute(meeting, warp->lane_data);
    warp->active &= ~(1u << lowest);
    return mask;
}

void warp_passed(Warp *warp, int lane, Collective kind)
{
    if (kind == COLLECTIVE_SYNC) {
        tsan_acquire(warp->lane_clock[lane]);
    }
}

void warp_thread_leaves(Warp *warp, int lane)
{
    for (uint32_t rest = warp->active; rest != 0; rest &= rest - 1) {
        const Meeting *meeting = &warp->meetings[__builtin_ctz(rest)];

        if ((meeting->mask >> lane & 1u) != 0) {
            fail(meeting->at, "lane %d returns while its warp waits for it here", lane);
        }
    }
    warp->left |= 1u << lane;
}

} // namespace emu
