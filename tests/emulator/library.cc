/*
 * library.cc - the libraries that src/cuda/library.cuh may open: the fakes, by the names of their
 * functions. CSP_EMU_CUSPARSE=0, CSP_EMU_NCCL=0: there is none.
 */
#include <cusparse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulator/nccl_fake.h"
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

const Function nccl[] = {
    FUNCTION(ncclGetVersion),    FUNCTION(ncclGetUniqueId),       FUNCTION(ncclCommInitRankConfig),
    FUNCTION(ncclCommFinalize),  FUNCTION(ncclCommDestroy),       FUNCTION(ncclCommAbort),
    FUNCTION(ncclGetLastError),  FUNCTION(ncclCommGetAsyncError), FUNCTION(ncclGetErrorString),
    FUNCTION(ncclGroupStart),    FUNCTION(ncclGroupEnd),          FUNCTION(ncclAllReduce),
    FUNCTION(ncclReduceScatter), FUNCTION(ncclAllGather),         FUNCTION(ncclBroadcast),
    FUNCTION(ncclReduce),
};

const struct Library {
    const char *file, *variable; /* how its name begins; "0" in the environment: it is not there */
    const Function *functions;
    size_t count;
} libraries[] = {
    { "libcusparse.so.", "CSP_EMU_CUSPARSE", cusparse, sizeof(cusparse) / sizeof(cusparse[0]) },
    { "libnccl.so.", "CSP_EMU_NCCL", nccl, sizeof(nccl) / sizeof(nccl[0]) },
};

} // namespace

void *cu::library_open(const char *file, const char **reason)
{
    static char words[200]; /* as the loader's, until the next call */

    for (const Library &library : libraries) {
        const char *there = getenv(library.variable);

        if (strncmp(file, library.file, strlen(library.file)) == 0 &&
            (there == nullptr || strcmp(there, "0") != 0)) {
            *reason = nullptr;
            return (void *)&library;
        }
    }
    (void)snprintf(words, sizeof(words),
                   "%s: cannot open shared object file: No such file or directory", file);
    *reason = words;
    return nullptr;
}

void *cu::library_function(void *library, const char *name)
{
    const Library *l = (const Library *)library;

    for (size_t i = 0; i < l->count; i++) {
        if (strcmp(l->functions[i].name, name) == 0) {
            return l->functions[i].at;
        }
    }
    return nullptr;
}

void cu::library_close(void *)
{
}
