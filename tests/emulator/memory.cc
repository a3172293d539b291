/*
 * memory.cc - device memory of the emulator, and pinned host memory.
 *
 * One reserved range of addresses, of which allocations take pieces in order and never twice, with
 * red zones between. Fresh pages show a pattern (NaN or huge numbers), being private views of one
 * small file full of it, so that what is not touched costs nothing. No access is allowed unless
 * device work runs: host code that touches device memory crashes at once.
 */
#include <iterator>
#include <map>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "emulator/control.h"
#include "emulator/internals.h"
#include "emulator/sanitizer.h"

namespace emu
{

namespace
{

const size_t RESERVED = (size_t)1 << 38, CHUNK = (size_t)16 << 20, RED_ZONE = 256, PAGE = 4096;

struct Piece {
    size_t bytes;
    bool freed;
};

char *base, *top, *mapped; /* region; next free address; end of the pages that exist */
int pattern_file = -1;
int opened;
std::map<char *, Piece> pieces;
std::map<const char *, size_t> pinned; /* host memory that the device may see */
size_t bytes_in_use;
uint64_t allocations;

/* mmap that the thread sanitizer does not intercept: it would imitate a write to all of it. */
char *map_pages(void *at, size_t bytes, int protection, int flags, int file)
{
    const long result = syscall(SYS_mmap, at, bytes, protection, flags, file, 0L);

    return result == -1 ? nullptr : (char *)result;
}

#if !defined(EMU_ASAN)
/* Says in words what a crash at a device address means. */
void on_crash(int number, siginfo_t *info, void *)
{
    const char *p = (const char *)info->si_addr;

    if (base != nullptr && p >= base && p < base + RESERVED) {
        char text[160];
        const int n = snprintf(text, sizeof(text), "emulator: %s touched device memory at %p\n",
                               opened > 0 ? "device code outside any allocation" : "host code",
                               info->si_addr);

        if (write(2, text, (size_t)n) < 0) {
            _exit(71);
        }
        _exit(70);
    }
    signal(number, SIG_DFL);
}

void watch_crashes()
{
    static char stack[64 * 1024];
    stack_t other = {};
    struct sigaction action = {};

    other.ss_sp = stack;
    other.ss_size = sizeof(stack);
    sigaltstack(&other, nullptr);
    action.sa_sigaction = on_crash;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
}
#else
void watch_crashes()
{
}
#endif

bool make_pattern_file()
{
    char *view;

    pattern_file = memfd_create("emulator-pattern", MFD_CLOEXEC);
    if (pattern_file < 0 || ftruncate(pattern_file, (off_t)CHUNK) != 0) {
        return false;
    }
    view = map_pages(nullptr, CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED, pattern_file);
    if (view == nullptr) {
        return false;
    }
    memset(view, settings().fill, CHUNK);
    munmap(view, CHUNK);
    return true;
}

bool begin()
{
    if (base != nullptr) {
        return true;
    }
    watch_crashes();
    base = map_pages(nullptr, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    top = mapped = base;
    return base != nullptr && make_pattern_file();
}

/* The live piece that holds p, end() if none. */
std::map<char *, Piece>::iterator piece_of(const void *p)
{
    auto it = pieces.upper_bound((char *)p);

    if (it == pieces.begin()) {
        return pieces.end();
    }
    --it;
    return (char *)p < it->first + it->second.bytes ? it : pieces.end();
}

void check_range(const void *p, size_t bytes, const char *who, const char *what)
{
    if (bytes == 0) {
        return;
    }
    if (is_device(p)) {
        const auto it = piece_of(p);

        if (it == pieces.end() || it->second.freed ||
            (char *)p + bytes > it->first + it->second.bytes) {
            fail({ nullptr, 0 }, "%s %s %zu bytes of device memory at %p: %s", who, what, bytes, p,
                 it == pieces.end() ? "not allocated"
                 : it->second.freed ? "freed"
                                    : "runs over the end of the allocation");
        }
    }
    const void *bad = asan_first_poisoned(p, bytes);
    if (bad != nullptr) {
        fail({ nullptr, 0 }, "%s %s poisoned memory at %p (%zu bytes at %p)", who, what, bad, bytes,
             p);
    }
}

/* What was freed shows the pattern again: whole pages by being dropped, the rest is filled. */
void forget(char *begin, char *end)
{
    char *first = (char *)(((uintptr_t)begin + PAGE - 1) / PAGE * PAGE);
    char *last = (char *)((uintptr_t)end / PAGE * PAGE);

    if (first >= last) {
        first = last = end;
    } else {
        madvise(first, (size_t)(last - first), MADV_DONTNEED);
    }
    memory_open();
    memset(begin, settings().fill, (size_t)(first - begin));
    memset(last, settings().fill, (size_t)(end - last));
    memory_close();
}

/* What lies around a piece is as it was, or somebody wrote there. */
void check_red_zones(const char *p, size_t bytes)
{
    const char *end = p + (bytes + 255) / 256 * 256 + RED_ZONE;

    memory_open();
    asan_unpoison(p - RED_ZONE, RED_ZONE);
    asan_unpoison(p + bytes, (size_t)(end - p) - bytes);
    for (const char *q = p - RED_ZONE; q < end; q++) {
        if (q == p) {
            q += bytes;
        }
        if ((uint8_t)*q != settings().fill) {
            fail({ nullptr, 0 },
                 "somebody wrote %s an allocation of %zu bytes, %lld bytes from its %s",
                 q < p ? "before" : "behind", bytes,
                 (long long)(q < p ? p - q : q - p - (long long)bytes),
                 q < p ? "beginning" : "end");
        }
    }
    asan_poison(p - RED_ZONE, RED_ZONE);
    asan_poison(p + bytes, (size_t)(end - p) - bytes);
    memory_close();
}

} // namespace

bool is_device(const void *p)
{
    return base != nullptr && (const char *)p >= base && (const char *)p < base + RESERVED;
}

void memory_open()
{
    if (opened++ == 0 && mapped > base) {
        mprotect(base, (size_t)(mapped - base), PROT_READ | PROT_WRITE);
    }
}

void memory_close()
{
    if (--opened == 0 && mapped > base) {
        mprotect(base, (size_t)(mapped - base), PROT_NONE);
    }
}

bool is_device_visible(const void *p)
{
    const auto it = pinned.upper_bound((const char *)p);

    return is_device(p) ||
           (it != pinned.begin() && (const char *)p < std::prev(it)->first + std::prev(it)->second);
}

void check_argument(const void *p)
{
    if (p != nullptr && !is_device_visible(p)) {
        fail({ nullptr, 0 }, "a kernel is given the address %p of host memory", p);
    }
}

void check_read(const void *p, size_t bytes, const char *who)
{
    check_range(p, bytes, who, "reads");
    tsan_reads(p, bytes);
}

void check_write(const void *p, size_t bytes, const char *who)
{
    check_range(p, bytes, who, "writes");
    tsan_writes(p, bytes);
}

} // namespace emu

using namespace emu;

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    need_device("cudaMalloc");
    if (is_capturing()) {
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    if (fault() != cudaSuccess) {
        return fault();
    }
    if (planned_failure() || !begin() || bytes > settings().memory - bytes_in_use ||
        bytes > RESERVED / 2) {
        return remember(cudaErrorMemoryAllocation);
    }
    if (bytes == 0) {
        *out = nullptr;
        return cudaSuccess;
    }
    char *p = top + RED_ZONE;
    char *end = p + (bytes + 255) / 256 * 256 + RED_ZONE;
    if (end > base + RESERVED) {
        return remember(cudaErrorMemoryAllocation);
    }
    while (mapped < end) {
        if (map_pages(mapped, CHUNK, PROT_NONE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
                      pattern_file) == nullptr) {
            return remember(cudaErrorMemoryAllocation);
        }
        mapped += CHUNK;
    }
    asan_poison(top, (size_t)(end - top));
    asan_unpoison(p, bytes);
    pieces[p] = { bytes, false };
    bytes_in_use += bytes;
    allocations++;
    top = end;
    *out = p;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    if (is_capturing()) {
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    if (p == nullptr) {
        return cudaSuccess;
    }
    count_wait();
    run_everything(); /* cudaFree waits for the device */
    const auto it = pieces.find((char *)p);
    if (it == pieces.end() || it->second.freed) {
        return remember(cudaErrorInvalidValue);
    }
    check_red_zones(it->first, it->second.bytes);
    it->second.freed = true;
    bytes_in_use -= it->second.bytes;
    forget((char *)p, (char *)p + it->second.bytes);
    asan_poison(p, it->second.bytes);
    return fault();
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    need_device("cudaMemGetInfo");
    *total = settings().memory;
    *available = settings().memory - bytes_in_use;
    return fault();
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned)
{
    void *p = nullptr;

    if (is_capturing()) {
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    if (planned_failure() || posix_memalign(&p, 256, bytes == 0 ? 1 : bytes) != 0) {
        return remember(cudaErrorMemoryAllocation);
    }
    memset(p, settings().fill, bytes);
    pinned[(const char *)p] = bytes;
    allocations++;
    *out = p;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return cudaHostAlloc(out, bytes, 0);
}

cudaError_t cudaFreeHost(void *p)
{
    if (is_capturing()) {
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    count_wait();
    run_everything();
    pinned.erase((const char *)p);
    free(p);
    return fault();
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned)
{
    if (planned_failure()) {
        return remember(cudaErrorMemoryAllocation);
    }
    pinned[(const char *)p] = bytes;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *p)
{
    run_everything();
    pinned.erase((const char *)p);
    return fault();
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *p)
{
    memset(out, 0, sizeof(*out));
    out->type = is_device(p) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
    out->devicePointer = is_device(p) ? (void *)p : nullptr;
    out->hostPointer = is_device(p) ? nullptr : (void *)p;
    return cudaSuccess;
}

uint64_t emu_device_bytes(void)
{
    return bytes_in_use;
}

uint64_t emu_allocations(void)
{
    return allocations;
}
