/*
 * library.cuh - opening a shared library while the program runs: one that only some machines have
 * and only some runs need. On the emulator it is a fake (tests/emulator/library.cc).
 */
#pragma once

#include "core/status.h"

#ifdef __CUDACC__

#include <dlfcn.h>

namespace cu
{

/* NULL: not found, or it does not load; *reason is then the loader's words. */
static inline void *library_open(const char *file, const char **reason)
{
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);

    *reason = library == NULL ? dlerror() : NULL;
    return library;
}

/* The address of a function; NULL: the library has none of that name. */
static inline void *library_function(void *library, const char *name)
{
    return dlsym(library, name);
}

static inline void library_close(void *library)
{
    (void)dlclose(library);
}

} // namespace cu

#else

namespace cu
{

void *library_open(const char *file, const char **reason);
void *library_function(void *library, const char *name);
void library_close(void *library);

} // namespace cu

#endif

namespace cu
{

/*
 * The address of a function that must be there.
 *
 *   device, file   in   for the message: "cuda:0", "libnccl.so.2"
 *
 * Errors: CSP_ERR_DEVICE.
 */
template <typename function>
static inline csp_status library_find(void *library, const char *device, const char *file,
                                      const char *name, function *out)
{
    void *at = library_function(library, name);

    if (at == NULL) {
        return CSP_FAIL(CSP_ERR_DEVICE, "%s: %s has no %s", device, file, name);
    }
    *out = (function)at;
    return CSP_OK;
}

} // namespace cu
