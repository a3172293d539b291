/*
 * sanitizer.h - what the engine tells the address and thread sanitizers; nothing if plain.
 *
 * The engine itself is not instrumented: EMU_ASAN or EMU_TSAN says for which build it is compiled.
 */
#pragma once

#include <stddef.h>

#if defined(EMU_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(EMU_TSAN)
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *address);
void __tsan_release(void *address);
void __tsan_read_range(void *address, unsigned long bytes);
void __tsan_write_range(void *address, unsigned long bytes);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
}
#endif

namespace emu
{

/* Address sanitizer: memory that may not be touched, and which stack is in use. */
static inline void asan_poison(const void *p, size_t bytes)
{
#if defined(EMU_ASAN)
    __asan_poison_memory_region(p, bytes);
#else
    (void)p, (void)bytes;
#endif
}

static inline void asan_unpoison(const void *p, size_t bytes)
{
#if defined(EMU_ASAN)
    __asan_unpoison_memory_region(p, bytes);
#else
    (void)p, (void)bytes;
#endif
}

/* The first byte of the range that is poisoned, NULL if none. */
static inline void *asan_first_poisoned(const void *p, size_t bytes)
{
#if defined(EMU_ASAN)
    return __asan_region_is_poisoned((void *)p, bytes);
#else
    return (void)p, (void)bytes, (void *)nullptr;
#endif
}

static inline void asan_leave_stack(void **keep, const void *bottom, size_t bytes)
{
#if defined(EMU_ASAN)
    __sanitizer_start_switch_fiber(keep, bottom, bytes);
#else
    (void)keep, (void)bottom, (void)bytes;
#endif
}

static inline void asan_enter_stack(void *kept)
{
#if defined(EMU_ASAN)
    __sanitizer_finish_switch_fiber(kept, nullptr, nullptr);
#else
    (void)kept;
#endif
}

/* Thread sanitizer: which fiber runs, and what orders fibers. */
static inline void *tsan_current()
{
#if defined(EMU_TSAN)
    return __tsan_get_current_fiber();
#else
    return nullptr;
#endif
}

static inline void *tsan_create()
{
#if defined(EMU_TSAN)
    return __tsan_create_fiber(0);
#else
    return nullptr;
#endif
}

static inline void tsan_destroy(void *fiber)
{
#if defined(EMU_TSAN)
    __tsan_destroy_fiber(fiber);
#else
    (void)fiber;
#endif
}

/* A switch by itself orders nothing. */
static inline void tsan_switch(void *fiber)
{
#if defined(EMU_TSAN)
    __tsan_switch_to_fiber(fiber, 1);
#else
    (void)fiber;
#endif
}

static inline void tsan_acquire(void *clock)
{
#if defined(EMU_TSAN)
    __tsan_acquire(clock);
#else
    (void)clock;
#endif
}

static inline void tsan_release(void *clock)
{
#if defined(EMU_TSAN)
    __tsan_release(clock);
#else
    (void)clock;
#endif
}

static inline void tsan_reads(const void *p, size_t bytes)
{
#if defined(EMU_TSAN)
    __tsan_read_range((void *)p, bytes);
#else
    (void)p, (void)bytes;
#endif
}

static inline void tsan_writes(const void *p, size_t bytes)
{
#if defined(EMU_TSAN)
    __tsan_write_range((void *)p, bytes);
#else
    (void)p, (void)bytes;
#endif
}

/* Between these two, memory that is freed or mapped anew is forgotten without a check. */
static inline void tsan_ignore_begin()
{
#if defined(EMU_TSAN)
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
}

static inline void tsan_ignore_end()
{
#if defined(EMU_TSAN)
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
}

} // namespace emu
