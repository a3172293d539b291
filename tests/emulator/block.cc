/*
 * block.cc - runs one block of a kernel: every CUDA thread is a fiber of its own stack.
 *
 * A fiber runs until it waits (block barrier, warp collective, spin) or returns; then one of the
 * ready fibers goes on, at random or in order, by a direct switch of stacks. Nothing here may
 * allocate or call memcpy while fibers run: the sanitizers would take it for the kernel's.
 *
 * A stack and its TSan fiber stay together for good. Under TSan neighbouring blocks, and the
 * kernels of two streams, have different ones: what a fiber does in one block comes before what it
 * does in the next, and that would hide races between them, of all threads, since a barrier passes
 * it on.
 *
 * TSan compares all fibers' clocks at each barrier, which is most of the time of whole training
 * steps. With CSP_EMU_WARP_CLOCKS the fibers of a warp are one to it.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "emulator/internals.h"
#include "emulator/sanitizer.h"
#include "emulator/warp.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emu
{

namespace
{

#if defined(EMU_TSAN)
enum { SETS = 4 };
#else
enum { SETS = 1 };
#endif
enum { STACK_BYTES = 128 * 1024, GUARD_BYTES = 4096, MAX_COPIES = 512 };
enum { ARENA_BYTES = 512 * 1024, GAP = 256, MAX_SLOTS = 64, SPIN_LIMIT = 2 * 1000 * 1000 };
/* Before the dynamic shared memory: as far as a device aligns it where it is asked to. */
enum { FRONT = 1024 };
enum State { STATE_READY, STATE_BARRIER, STATE_WARP, STATE_ASLEEP, STATE_DONE };

/* A stack, its sanitizer's view, and the thread that runs on it now. */
struct Fiber {
    void *sp; /* where it was left */
    char *stack;
    size_t stack_bytes;
    void *tsan, *asan;
};

struct Thread {
    Fiber *fiber;
    uint3 index;
    State state;
    Place at;
    const void *awaited; /* asleep: on what, and what that is */
    const char *awaited_as;
};

/* cp.async copies of a thread: apart, since every switch reads threads and few kernels copy. */
struct Copies {
    Copy copies[MAX_COPIES]; /* a ring, from first */
    uint32_t first, issued;
    uint32_t group_end[MAX_COPIES]; /* issued when the group was closed */
    uint32_t groups, groups_done;
};

struct Slot {
    const void *key;
    char *p;
    size_t bytes;
};

Fiber pool[SETS][MAX_THREADS];
int pool_made[SETS], set, turn; /* fibers that exist; which ones the block has */
Fiber main_fiber;               /* whoever called run_block */
pthread_t main_thread;

Thread threads[MAX_THREADS];
Copies *copies_of; /* MAX_THREADS */
Warp warps[MAX_THREADS / 32];
int thread_count, live, running = -1; /* running: the thread that has the processor */
bool trapped;
const BlockJob *job;

/* Ready threads: a list to draw from, and a set to find the first or last in. */
int ready[MAX_THREADS], ready_count;
uint64_t ready_set[MAX_THREADS / 64];
/*
 * In random order, how often of 64 times whoever became ready last goes on. A fair draw would keep
 * all warps abreast and hide what happens when one runs ahead; so each block has its own haste.
 */
uint32_t haste;

int at_barrier, barrier_sum, barrier_result;
uint32_t barriers_passed;
Place barrier_place;
/* Of this block alone, in fresh memory: an address used before remembers who was there. */
struct Clocks {
    char barrier[2], fence;
    char warp[MAX_THREADS / 32][WARP_CLOCKS];
    char mbarrier[2 * MBARRIERS];
} * clocks;
long spins;

char *arena;
Slot slots[MAX_SLOTS];
int slot_count;
size_t arena_used, arena_high; /* of this block, of all blocks */

extern "C" void emu_switch_stack(void **save, void *load);

} // namespace

/* Keeps the six registers a callee must keep and the stack pointer, and goes on elsewhere. */
asm(".text\n"
    ".p2align 4\n"
    ".type emu_switch_stack, @function\n"
    "emu_switch_stack:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size emu_switch_stack, .-emu_switch_stack\n");

void fail(Place at, const char *format, ...)
{
    va_list arguments;

    fflush(stdout);
    fprintf(stderr, "emulator: ");
    if (at.file != nullptr) {
        fprintf(stderr, "%s:%d: ", at.file, at.line);
    }
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    if (running >= 0) {
        fprintf(stderr, " [block (%u,%u,%u) thread (%u,%u,%u)]", blockIdx.x, blockIdx.y, blockIdx.z,
                threadIdx.x, threadIdx.y, threadIdx.z);
    }
    fprintf(stderr, " [seed %llu]\n", (unsigned long long)settings().seed);
    fflush(stderr);
    _exit(70); /* no exit handlers: they would run on a fiber's stack */
}

namespace
{

void make_ready(int t)
{
    threads[t].state = STATE_READY;
    ready[ready_count++] = t;
    ready_set[t / 64] |= (uint64_t)1 << (t % 64);
}

int first_of_set()
{
    for (int w = 0; w < MAX_THREADS / 64; w++) {
        if (ready_set[w] != 0) {
            return 64 * w + __builtin_ctzll(ready_set[w]);
        }
    }
    return -1;
}

int last_of_set()
{
    for (int w = MAX_THREADS / 64 - 1; w >= 0; w--) {
        if (ready_set[w] != 0) {
            return 64 * w + 63 - __builtin_clzll(ready_set[w]);
        }
    }
    return -1;
}

/* Is anybody ready behind thread t? The first of those, -1 if none. */
int next_of_set(int t)
{
    for (t++; t < thread_count; t++) {
        if ((ready_set[t / 64] >> (t % 64) & 1u) != 0) {
            return t;
        }
    }
    return -1;
}

/*
 * Takes a thread out of the ready ones, of which there is at least one; in a spin, another's turn.
 */
int take_ready(bool spinning)
{
    int t;

    if (settings().order == ORDER_RANDOM) {
        const int i = draw(64) < haste ? ready_count - 1 : (int)draw((uint32_t)ready_count);

        t = ready[i];
        ready[i] = ready[ready_count - 1];
    } else {
        t = spinning ? next_of_set(running) : -1;
        if (t < 0) {
            t = settings().order == ORDER_FORWARD || spinning ? first_of_set() : last_of_set();
        }
    }
    ready_count--;
    ready_set[t / 64] &= ~((uint64_t)1 << (t % 64));
    return t;
}

void switch_fiber(Fiber *from, Fiber *to)
{
    asan_leave_stack(&from->asan, to->stack, to->stack_bytes);
    if (to->tsan != from->tsan) {
        tsan_switch(to->tsan);
    }
    emu_switch_stack(&from->sp, to->sp);
    asan_enter_stack(from->asan);
}

/* Lists who waits where and ends the process. */
[[noreturn]] void deadlock()
{
    fprintf(stderr, "emulator: nobody in block (%u,%u,%u) can go on:\n", blockIdx.x, blockIdx.y,
            blockIdx.z);
    for (int t = 0, shown = 0; t < thread_count && shown < 16; t++) {
        const Thread *thread = &threads[t];
        const bool same = t > 0 && threads[t - 1].state == thread->state &&
                          threads[t - 1].at.line == thread->at.line;

        if (!same) {
            fprintf(stderr, "  from thread %d: %s %s:%d\n", t,
                    thread->state == STATE_BARRIER  ? "waits at the barrier"
                    : thread->state == STATE_WARP   ? "waits for its warp at"
                    : thread->state == STATE_ASLEEP ? thread->awaited_as
                                                    : "has returned, last seen at",
                    thread->at.file == nullptr ? "-" : thread->at.file, thread->at.line);
            shown++;
        }
    }
    running = -1;
    fail({ nullptr, 0 }, "deadlock");
}

/* Gives the processor to a ready thread; comes back when this one is chosen again. */
void go_on_elsewhere(bool spinning = false)
{
    Thread *self = &threads[running];
    Fiber *from = self->fiber;

    while (live > 0 && async_progress(ready_count == 0) && ready_count == 0) {
    }
    if (ready_count == 0) {
        if (live > 0) {
            deadlock();
        }
        running = -1;
        switch_fiber(from, &main_fiber);
        return;
    }
    const int next = take_ready(spinning);

    if (next == running) {
        return;
    }
    running = next;
    threadIdx = threads[next].index;
    switch_fiber(from, threads[next].fiber);
}

void barrier_arrived()
{
    if (at_barrier < live || at_barrier == 0) {
        return;
    }
    barrier_result = barrier_sum;
    barrier_sum = 0;
    at_barrier = 0;
    barriers_passed++;
    for (int t = 0; t < thread_count; t++) {
        if (threads[t].state == STATE_BARRIER) {
            make_ready(t);
        }
    }
}

/* What a fiber does for ever: one thread of one block after another. */
void fiber_main()
{
    asan_enter_stack(nullptr);
    for (;;) {
        const int t = running;

        tsan_acquire(job->start);
        job->kernel->invoke(job->kernel->self);
        tsan_release(job->done);
        if (copies_of[t].first != copies_of[t].issued) {
            fail(threads[t].at, "a thread returns while cp.async copies are under way");
        }
        wgmma_thread_leaves(t, threads[t].at);
        warp_thread_leaves(&warps[t / 32], t % 32);
        threads[t].state = STATE_DONE;
        live--;
        barrier_arrived();
        go_on_elsewhere();
    }
}

/* The fiber of thread t of the set; its first of a warp, or each, has a sanitizer's view made. */
void begin_fiber(int t)
{
    Fiber *fiber = &pool[set][t];
    const int first = settings().warp_clocks ? t / 32 * 32 : t;
    /* Stacks are a whole number of pages apart: if all began alike, caches would find no room. */
    void **top = (void **)(fiber->stack + STACK_BYTES - t % 64 * 64);

    asan_unpoison(fiber->stack, STACK_BYTES);
    fiber->stack_bytes = STACK_BYTES;
    fiber->tsan = t == first ? tsan_create() : pool[set][first].tsan;
    fiber->asan = nullptr;

    *--top = nullptr; /* where fiber_main would return to; keeps the stack 16-aligned at entry */
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++) {
        *--top = nullptr;
    }
    fiber->sp = top;
}

void make_fibers(int count)
{
    for (; pool_made[set] < count; pool_made[set]++) {
        Fiber *fiber = &pool[set][pool_made[set]];
        char *memory = (char *)mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0) {
            fail({ nullptr, 0 }, "no memory for the stacks of %d threads", count);
        }
        fiber->stack = memory + GUARD_BYTES;
        begin_fiber(pool_made[set]);
    }
}

/* memset that no sanitizer intercepts. */
void fill(char *p, uint8_t value, size_t bytes)
{
    asm volatile("rep stosb" : "+D"(p), "+c"(bytes) : "a"(value) : "memory");
}

void prepare_arena()
{
    if (arena == nullptr) {
        arena = (char *)mmap(nullptr, ARENA_BYTES, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (arena == MAP_FAILED) {
            fail({ nullptr, 0 }, "no memory for shared memory");
        }
        arena_high = ARENA_BYTES;
    }
    asan_unpoison(arena, arena_high);
#if defined(EMU_TSAN)
    /* A fresh mapping: the accesses of the block before are forgotten. */
    tsan_ignore_begin();
    mmap(arena, (arena_high + 4095) & ~(size_t)4095, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    tsan_ignore_end();
#endif
    fill(arena, settings().fill, arena_high);
    asan_poison(arena, ARENA_BYTES);
    slot_count = 0;
    arena_used = FRONT;
    arena_high = FRONT;
    if (job->dynamic_bytes > 0) {
        asan_unpoison(arena + FRONT, job->dynamic_bytes);
        arena_used += (job->dynamic_bytes + 127) / 128 * 128 + GAP;
        arena_high = arena_used;
        fill(arena + FRONT, settings().fill, arena_used - FRONT);
    }
}

/* The gaps between shared variables hold what they were filled with, or somebody wrote there. */
void check_gaps()
{
    const char *end = arena + arena_used, *p = arena;

    asan_unpoison(arena, arena_used);
    for (int i = -1; i <= slot_count && p < end; i++) {
        const char *next = end;

        if (i == -1) {
            next = arena + FRONT;
        } else if (i < slot_count) {
            next = slots[i].p;
        }
        for (; p < next; p++) {
            if ((uint8_t)*p != settings().fill) {
                fail({ nullptr, 0 }, "a block wrote to shared memory outside its variables");
            }
        }
        if (i == -1 && job->dynamic_bytes > 0) {
            p = arena + FRONT + job->dynamic_bytes;
        } else if (i >= 0 && i < slot_count) {
            p = slots[i].p + slots[i].bytes;
        }
    }
}

/* The address sanitizer wants to know the bounds of the stack that it is told about. */
void find_main_stack()
{
    pthread_attr_t attributes;
    void *bottom = nullptr;

    main_fiber.tsan = tsan_current();
    if (main_fiber.stack != nullptr && pthread_equal(main_thread, pthread_self())) {
        return;
    }
    tsan_ignore_begin(); /* this stack is the host's, whose frames were where these variables are */
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        pthread_attr_getstack(&attributes, &bottom, &main_fiber.stack_bytes);
        pthread_attr_destroy(&attributes);
    }
    tsan_ignore_end();
    main_fiber.stack = (char *)bottom;
    main_thread = pthread_self();
}

void prepare_threads()
{
    const dim3 n = job->block;

    if (copies_of == nullptr) {
        copies_of = (Copies *)calloc(MAX_THREADS, sizeof(Copies));
    }
    clocks = (Clocks *)calloc(1, sizeof(*clocks));
    if (copies_of == nullptr || clocks == nullptr) {
        fail({ nullptr, 0 }, "no memory for threads");
    }
    thread_count = (int)(n.x * n.y * n.z);
    turn = 1 - turn;
    set = (2 * (job->actor % 2) + turn) % SETS;
    make_fibers(thread_count);
    ready_count = 0;
    for (int t = 0; t < thread_count; t++) {
        Thread *thread = &threads[t];

        thread->fiber = &pool[set][t];
        thread->index = { (unsigned)t % n.x, (unsigned)t / n.x % n.y, (unsigned)t / (n.x * n.y) };
        thread->at = { nullptr, 0 };
        copies_of[t].first = copies_of[t].issued = 0;
        copies_of[t].groups = copies_of[t].groups_done = 0;
        make_ready(t);
    }
    for (int w = 0; 32 * w < thread_count; w++) {
        const int lanes = thread_count - 32 * w < 32 ? thread_count - 32 * w : 32;

        warp_begin(&warps[w], lanes == 32 ? 0xFFFFFFFFu : (1u << lanes) - 1u, clocks->warp[w]);
    }
    async_begin(clocks->mbarrier);
    wgmma_begin();
    haste = draw(4) * 21;
    live = thread_count;
    at_barrier = barrier_sum = 0;
}

/* What happened in the block is forgotten; whoever comes later is ordered by job->done. */
void end_block()
{
    running = -1;
    if (!trapped) {
        async_end();
    }
    tsan_ignore_begin();
    free(clocks);
    tsan_ignore_end();
    if (!trapped) {
        check_gaps();
        return;
    }
    for (int t = 0; t < pool_made[set]; t++) { /* none comes back from the middle of the kernel */
        if (t == 0 || pool[set][t].tsan != pool[set][t - 1].tsan) {
            tsan_destroy(pool[set][t].tsan);
        }
    }
    for (int t = 0; t < pool_made[set]; t++) {
        begin_fiber(t);
    }
}

} // namespace

bool run_block(const BlockJob &what)
{
    job = &what;
    find_main_stack();
    prepare_threads();
    prepare_arena();
    blockIdx = what.index;
    blockDim = what.block;
    gridDim = what.grid;
    trapped = false;
    spins = 0;
    running = take_ready(false);
    threadIdx = threads[running].index;
    switch_fiber(&main_fiber, threads[running].fiber);
    end_block();
    return !trapped;
}

void collective(Collective kind, uint32_t mask, void *lane, Place at)
{
    const int t = running;
    Warp *warp = &warps[t / 32];

    threads[t].at = at;
    spins = 0;
    const uint32_t released = warp_arrive(warp, t % 32, kind, mask, lane, at);
    if (released == 0) {
        threads[t].state = STATE_WARP;
    } else {
        for (uint32_t rest = released; rest != 0; rest &= rest - 1) {
            make_ready(t / 32 * 32 + __builtin_ctz(rest));
        }
    }
    go_on_elsewhere();
    warp_passed(warp, t % 32, kind);
}

int barrier_count(int predicate, Place at)
{
    Thread *self = &threads[running];
    const uint32_t passed = barriers_passed;

    self->at = at;
    spins = 0;
    if (at_barrier > 0 &&
        (barrier_place.line != at.line ||
         (barrier_place.file != at.file && strcmp(barrier_place.file, at.file) != 0))) {
        fail(at, "this barrier meets another at %s:%d", barrier_place.file, barrier_place.line);
    }
    barrier_place = at;
    self->state = STATE_BARRIER;
    at_barrier++;
    barrier_sum += predicate != 0;
    tsan_release(&clocks->barrier[passed % 2]);
    barrier_arrived();
    go_on_elsewhere();
    tsan_acquire(&clocks->barrier[passed % 2]);
    return barrier_result;
}

void barrier(Place at)
{
    (void)barrier_count(0, at);
}

void fence()
{
    tsan_acquire(job->fence);
    tsan_release(job->fence);
}

void fence_block()
{
    tsan_acquire(&clocks->fence);
    tsan_release(&clocks->fence);
}

void spin(Place at)
{
    threads[running].at = at;
    if (++spins > SPIN_LIMIT) {
        fail(at, "this block waits for something that no running thread will do");
    }
    make_ready(running);
    go_on_elsewhere(true);
}

int running_thread()
{
    return running;
}

int block_threads()
{
    return thread_count;
}

void sleep_on(const void *what, const char *as, Place at)
{
    Thread *self = &threads[running];

    spins = 0;
    self->at = at;
    self->state = STATE_ASLEEP;
    self->awaited = what;
    self->awaited_as = as;
    go_on_elsewhere();
}

void wake(const void *what, int thread)
{
    if (threads[thread].state == STATE_ASLEEP && threads[thread].awaited == what) {
        make_ready(thread);
    }
}

void trap()
{
    void *left;

    trapped = true;
    asan_leave_stack(nullptr, main_fiber.stack, main_fiber.stack_bytes);
    tsan_switch(main_fiber.tsan);
    emu_switch_stack(&left, main_fiber.sp);
    __builtin_unreachable();
}

int lane_index()
{
    return running % 32;
}

uint32_t warp_mask()
{
    return warps[running / 32].present;
}

void *shared_slot(const void *key, size_t bytes, size_t alignment, Place at)
{
    for (int i = 0; i < slot_count; i++) {
        if (slots[i].key == key) {
            return slots[i].p;
        }
    }
    if (alignment < 16) {
        alignment = 16;
    }
    const size_t begin = (arena_used + alignment - 1) / alignment * alignment;
    const size_t end = (begin + bytes + GAP + 15) / 16 * 16;
    size_t sum = bytes;

    for (int i = 0; i < slot_count; i++) {
        sum += slots[i].bytes;
    }
    const size_t most = shared_allowed(job->kernel->function) > (size_t)MAX_SHARED_FREELY
                            ? most_shared()
                            : (size_t)MAX_SHARED_FREELY;

    if (sum > MAX_SHARED_FREELY || sum + job->dynamic_bytes > most) {
        fail(at, "%zu bytes of static and %zu of dynamic shared memory: at most %d, %zu together",
             sum, job->dynamic_bytes, MAX_SHARED_FREELY, most);
    }
    if (slot_count == MAX_SLOTS || begin + bytes + GAP > ARENA_BYTES) {
        fail(at, "more than %d shared variables", MAX_SLOTS);
    }
    asan_unpoison(arena + arena_used, end - arena_used);
    fill(arena + arena_used, settings().fill, end - arena_used);
    asan_poison(arena + arena_used, end - arena_used);
    asan_unpoison(arena + begin, bytes);
    slots[slot_count++] = { key, arena + begin, bytes };
    arena_used = end;
    arena_high = arena_used;
    return arena + begin;
}

void *dynamic_shared(size_t bytes, Place at)
{
    if (bytes > job->dynamic_bytes) {
        fail(at, "%zu bytes of dynamic shared memory are used, the launch gives %zu", bytes,
             job->dynamic_bytes);
    }
    return arena + FRONT;
}

void check_shared(const void *p, const char *who, Place at)
{
    if ((const char *)p < arena || (const char *)p >= arena + arena_used) {
        fail(at, "%s: the address is not in shared memory", who);
    }
}

void check_shared_range(const void *p, size_t bytes, const char *who, Place at)
{
    check_shared(p, who, at);
    if ((const char *)p + bytes > arena + arena_used) {
        fail(at, "%s: %zu bytes run over the end of shared memory", who, bytes);
    }
}

uint32_t shared_address(const void *p)
{
    return (uint32_t)((const char *)p - arena);
}

char *shared_memory(uint32_t address)
{
    return arena + address;
}

void copy_push(Copy copy, Place at)
{
    Copies *mine = &copies_of[running];

    threads[running].at = at;
    if (mine->issued - mine->first == MAX_COPIES) {
        fail(at, "more than %d cp.async copies of one thread under way", MAX_COPIES);
    }
    mine->copies[mine->issued++ % MAX_COPIES] = copy;
    if (copy.bytes >= 8) {
        asan_poison(copy.dst, (size_t)copy.bytes);
    }
}

void copy_commit()
{
    Copies *mine = &copies_of[running];

    if (mine->groups - mine->groups_done == MAX_COPIES) {
        fail(threads[running].at, "more than %d groups of cp.async copies under way", MAX_COPIES);
    }
    mine->group_end[mine->groups++ % MAX_COPIES] = mine->issued;
}

bool copy_take(int groups_left, Copy *out)
{
    Copies *mine = &copies_of[running];

    while (mine->groups - mine->groups_done > (uint32_t)groups_left) {
        if (mine->first != mine->group_end[mine->groups_done % MAX_COPIES]) {
            *out = mine->copies[mine->first++ % MAX_COPIES];
            asan_unpoison(out->dst, (size_t)out->bytes);
            return true;
        }
        mine->groups_done++;
    }
    return false;
}

void poison(const void *p, size_t bytes)
{
    asan_poison(p, bytes);
}

void unpoison(const void *p, size_t bytes)
{
    asan_unpoison(p, bytes);
}

} // namespace emu
