/*
 * library.cc - the libraries that src/cuda/library.cuh may open: the fakes, by the names of their
 * functions. CSP_EMU_CUSPARSE=0: there is none.
 */
#include <cusparse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "library.cuh"

namespace
{

struct Function {
    const char *name;
    void *at;
};

#define FUNCTION(name)      \
    {                       \
#name, (void *)name \
    }

const Function cusparse[] = {
    FUNCTION(cusparseGetProperty),     FUNCTION(cusparseCreate),
    FUNCTION(cusparseDestroy),         FUNCTION(cusparseSetStream),
    FUNCTION(cusparseGetErrorString),  FUNCTION(cusparseCreateConstCsr),
    FUNCTION(cusparseDestroySpMat),    FUNCTION(cusparseCreateConstDnMat),
    FUNCTION(cusparseCreateDnMat),     FUNCTION(cusparseDestroyDnMat),
    FUNCTION(cusparseSpMM_bufferSize), FUNCTION(cusparseSpMM),
};

} // namespace

void *cu::library_open(const char *file, const char **reason)
{
    static char words[200]; /* as the loader's, until the next call */
    const char *there = getenv("CSP_EMU_CUSPARSE");
    const bool found =
        strncmp(file, "libcusparse.so.", 15) == 0 && (there == nullptr || strcmp(there, "0") != 0);

    (void)snprintf(words, sizeof(words),
                   "%s: cannot open shared object file: No such file or directory", file);
    *reason = found ? nullptr : words;
    return found ? (void *)cusparse : nullptr;
}

void *cu::library_function(void *library, const char *name)
{
    for (const Function &f : cusparse) {
        if (library == (const void *)cusparse && strcmp(f.name, name) == 0) {
            return f.at;
        }
    }
    return nullptr;
}

void cu::library_close(void *)
{
}
