/*
 * async.cc - barriers in shared memory (mbarrier) and the copies of tiles that complete on them
 * (TMA).
 *
 * A barrier's phase is over when all arrivals it was made for have come and all bytes that were
 * expected have arrived. The eight bytes in shared memory hold only which of the block's barriers
 * it is. A copy is done at a later yield, drawn at random, or when nobody else can go on; until
 * then what it goes to holds garbage, may not be touched under ASan, and is known to whoever
 * multiplies (check_no_copy). To TSan the copy writes when it is issued, and whoever has waited for
 * the barrier is behind that.
 */
#include <cuda.h>

#include "emulator/internals.h"
#include "emulator/sanitizer.h"
#include "emulator/tile.h"

namespace emu
{

namespace
{

enum { MAX_TILES = 64, MAX_TX = (1 << 20) - 1 };
const uint32_t MARK = 0x4D424152u;

struct Barrier {
    char *at;
    int maker;   /* the thread that initialised it         */
    bool fenced; /* and has told the copies' proxy so      */
    uint32_t arrivals, pending;
    int32_t bytes; /* expected, less those that have arrived */
    uint32_t phase;
    char *clocks; /* of even and of odd phases              */
};

struct Tile {
    TileMap map;
    char *dst;
    int64_t x, y;
    Barrier *barrier;
    Place at;
};

Barrier barriers[MBARRIERS];
Tile tiles[MAX_TILES];
int barriers_made, tile_count;
char *block_clocks;

/* memset and memcpy that no sanitizer intercepts. */
void fill(char *p, uint8_t value, size_t bytes)
{
    asm volatile("rep stosb" : "+D"(p), "+c"(bytes) : "a"(value) : "memory");
}

void copy(char *to, const char *from, size_t bytes)
{
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

size_t tile_bytes(const TileMap &map)
{
    return (size_t)map.box[0] * map.box[1] * map.element;
}

Barrier *barrier_of(void *p, const char *who, Place at)
{
    const uint32_t *word = (const uint32_t *)p;

    check_shared_range(p, 8, who, at);
    if (word[0] != MARK || word[1] >= (uint32_t)barriers_made || barriers[word[1]].at != p) {
        fail(at, "%s: no barrier was initialised here", who);
    }
    return &barriers[word[1]];
}

void complete_phase(Barrier *b)
{
    if (b->pending > 0 || b->bytes != 0) {
        return;
    }
    b->phase++;
    b->pending = b->arrivals;
    for (int t = 0; t < block_threads(); t++) {
        wake(b, t);
    }
}

/* Where 16 bytes that would lie at address go to. */
uint32_t swizzled(uint32_t address)
{
    return address ^ (address >> 7 & 7u) << 4;
}

/* Row r of the box, element by 16 bytes; what lies outside of the matrix is 0. */
void copy_row(const Tile &tile, uint32_t r)
{
    const TileMap &map = tile.map;
    const uint32_t width = map.box[0] * map.element;
    const int64_t y = tile.y + r, row_end = (int64_t)map.size[0] * map.element;

    for (uint32_t at = 0; at < width; at += 16) {
        const int64_t from = tile.x * map.element + at;
        const uint32_t to = shared_address(tile.dst) + r * width + at;
        char *dst = shared_memory(map.swizzled != 0 ? swizzled(to) : to);

        for (uint32_t i = 0; i < 16; i += map.element) {
            const bool inside =
                y >= 0 && y < (int64_t)map.size[1] && from + i >= 0 && from + i < row_end;

            if (inside) {
                copy(dst + i, map.base + y * (int64_t)map.row_bytes + from + i, map.element);
            } else {
                fill(dst + i, 0, map.element);
            }
        }
    }
}

void complete(int which)
{
    const Tile &tile = tiles[which];
    const size_t bytes = tile_bytes(tile.map);
    Barrier *b = tile.barrier;

    asan_unpoison(tile.dst, bytes);
    for (uint32_t r = 0; r < tile.map.box[1]; r++) {
        copy_row(tile, r);
    }
    b->bytes -= (int32_t)bytes;
    tile_count--;
    copy((char *)&tiles[which], (const char *)&tiles[which + 1],
         (size_t)(tile_count - which) * sizeof(Tile));
    complete_phase(b);
}

/* What the copy will read is there, and no later work may change it before. */
void check_source(const Tile &tile)
{
    const TileMap &map = tile.map;
    const int64_t width = (int64_t)map.size[0], rows = (int64_t)map.size[1];
    const int64_t x = tile.x < 0 ? 0 : tile.x;
    const int64_t end = tile.x + map.box[0] < width ? tile.x + map.box[0] : width;

    for (int64_t y = tile.y < 0 ? 0 : tile.y; y < tile.y + map.box[1] && y < rows && x < end; y++) {
        check_read(map.base + y * (int64_t)map.row_bytes + x * map.element,
                   (size_t)(end - x) * map.element, "a copy of a tile");
    }
}

} // namespace

void async_begin(char *clocks)
{
    barriers_made = tile_count = 0;
    block_clocks = clocks;
}

bool async_progress(bool stuck)
{
    const bool random = settings().order == ORDER_RANDOM;

    if (tile_count == 0 || (!stuck && !(random && draw(8) == 0))) {
        return false;
    }
    complete(random ? (int)draw((uint32_t)tile_count) : 0);
    return true;
}

void async_end()
{
    if (tile_count > 0) {
        fail(tiles[0].at, "a block ends while the copy of a tile is under way");
    }
}

void check_no_copy(const void *p, size_t bytes, const char *who, Place at)
{
    const char *begin = (const char *)p, *end = begin + bytes;

    for (int i = 0; i < tile_count; i++) {
        if (begin < tiles[i].dst + tile_bytes(tiles[i].map) && end > tiles[i].dst) {
            fail(at, "%s: the copy of a tile to this memory is under way, from %s:%d", who,
                 tiles[i].at.file, tiles[i].at.line);
        }
    }
}

void mbarrier_init(void *p, uint32_t arrivals, Place at)
{
    uint32_t *word = (uint32_t *)p;

    need_hopper("mbarrier_init");
    check_shared_range(p, 8, "mbarrier_init", at);
    if ((uintptr_t)p % 8 != 0 || arrivals == 0 || arrivals > MAX_TX || barriers_made == MBARRIERS) {
        fail(at,
             "mbarrier_init: for %u arrivals at an address that is %u over a multiple of 8, "
             "the block has %d already",
             arrivals, (unsigned)((uintptr_t)p % 8), barriers_made);
    }
    Barrier *b = &barriers[barriers_made];
    b->at = (char *)p;
    b->maker = running_thread();
    b->fenced = false;
    b->arrivals = b->pending = arrivals;
    b->bytes = 0;
    b->phase = 0;
    b->clocks = block_clocks + 2 * barriers_made;
    word[0] = MARK;
    word[1] = (uint32_t)barriers_made++;
}

void async_fence()
{
    for (int i = 0; i < barriers_made; i++) {
        if (barriers[i].maker == running_thread()) {
            barriers[i].fenced = true;
        }
    }
}

void mbarrier_arrive(void *p, uint32_t expected_bytes, Place at)
{
    Barrier *b = barrier_of(p, "mbarrier_arrive", at);

    if (b->pending == 0) {
        fail(at, "mbarrier_arrive: the phase has had all its %u arrivals", b->arrivals);
    }
    if ((int64_t)b->bytes + expected_bytes > MAX_TX) {
        fail(at, "mbarrier_arrive: more than %d bytes are expected", MAX_TX);
    }
    tsan_release(&b->clocks[b->phase % 2]);
    b->bytes += (int32_t)expected_bytes;
    b->pending--;
    complete_phase(b);
}

void mbarrier_wait(void *p, uint32_t parity, Place at)
{
    Barrier *b = barrier_of(p, "mbarrier_wait", at);

    if (parity > 1) {
        fail(at, "mbarrier_wait: a parity is 0 or 1, not %u", parity);
    }
    (void)async_progress(false);
    while (b->phase % 2 == parity) {
        sleep_on(b, "waits for the mbarrier at", at);
    }
    tsan_acquire(&b->clocks[parity]);
}

void tile_load(const void *p, void *dst, int x, int y, void *barrier, Place at)
{
    const char *who = "tile_load";
    Barrier *b = barrier_of(barrier, who, at);

    if (((const TileMap *)p)->magic != TILE_MAGIC || (uintptr_t)p % 64 != 0) {
        fail(at, "%s: cuTensorMapEncodeTiled has not made this map", who);
    }
    if (tile_count == MAX_TILES) {
        fail(at, "%s: more than %d copies are under way", who, MAX_TILES);
    }
    Tile *tile = &tiles[tile_count];
    copy((char *)&tile->map, (const char *)p, sizeof(tile->map));
    const size_t bytes = tile_bytes(tile->map);
    if ((uintptr_t)dst % 128 != 0) {
        fail(at, "%s: the destination is not a multiple of 128 bytes", who);
    }
    if (!b->fenced) {
        fail(at, "%s: whoever initialised the barrier has not called fence_barrier_init", who);
    }
    check_shared_range(dst, bytes, who, at);
    check_no_copy(dst, bytes, who, at);
    if (asan_first_poisoned(dst, bytes) != nullptr) {
        fail(at, "%s: a tile of %zu bytes runs over the end of its variable", who, bytes);
    }
    tile->dst = (char *)dst;
    tile->x = x;
    tile->y = y;
    tile->barrier = b;
    tile->at = at;
    check_source(*tile);
    tsan_writes(dst, bytes);
    tsan_release(&b->clocks[b->phase % 2]);
    fill(tile->dst, 0xFF, bytes);
    asan_poison(dst, bytes);
    tile_count++;
}

} // namespace emu
