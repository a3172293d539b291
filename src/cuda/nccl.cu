/* nccl.cu - opens NCCL. */
#include "nccl.cuh"

#include <stdio.h>
#include <stdlib.h>

#include "core/memory.h"
#include "library.cuh"

static const char file_name[] = "libnccl.so.2";

struct nccl_state {
    nccl_table table;
    char name[32];
};

template <typename function>
static csp_status find(const cuda_state *state, void *library, const char *name, function *out)
{
    return cu::library_find(library, state->name, file_name, name, out);
}

static csp_status find_all(const cuda_state *state, void *library, nccl_table *t)
{
    CSP_TRY(find(state, library, "ncclGetUniqueId", &t->make_id));
    CSP_TRY(find(state, library, "ncclCommInitRankConfig", &t->init));
    CSP_TRY(find(state, library, "ncclCommFinalize", &t->finalize));
    CSP_TRY(find(state, library, "ncclCommDestroy", &t->destroy));
    CSP_TRY(find(state, library, "ncclCommAbort", &t->abort));
    CSP_TRY(find(state, library, "ncclCommGetAsyncError", &t->state));
    CSP_TRY(find(state, library, "ncclGetLastError", &t->last_error));
    CSP_TRY(find(state, library, "ncclGetErrorString", &t->error_string));
    CSP_TRY(find(state, library, "ncclGroupStart", &t->group_start));
    CSP_TRY(find(state, library, "ncclGroupEnd", &t->group_end));
    CSP_TRY(find(state, library, "ncclAllReduce", &t->all_reduce));
    CSP_TRY(find(state, library, "ncclReduce", &t->reduce));
    CSP_TRY(find(state, library, "ncclReduceScatter", &t->reduce_scatter));
    CSP_TRY(find(state, library, "ncclAllGather", &t->all_gather));
    return find(state, library, "ncclBroadcast", &t->broadcast);
}

/* 22809 is 2.28.9, and before 2.9 it was 2804 for 2.8.4. */
static void say_version(int code, char *text, size_t bytes)
{
    const int by = code < 10000 ? 1000 : 10000;

    (void)snprintf(text, bytes, "%d.%d.%d", code / by, code % by / 100, code % 100);
}

static csp_status check_version(const cuda_state *state, void *library, struct nccl_state *s)
{
    char version[24];
    int code = 0;

    CSP_TRY(find(state, library, "ncclGetVersion", &s->table.version));
    (void)s->table.version(&code);
    say_version(code, version, sizeof(version));
    if (code < NCCL_OLDEST) {
        return CSP_FAIL(CSP_ERR_DEVICE,
                        "%s: several GPUs need NCCL 2.14 or later, and the %s found is %s: install "
                        "a later libnccl2, or pip's nvidia-nccl-cu13, and name its folder in "
                        "LD_LIBRARY_PATH",
                        state->name, file_name, version);
    }
    (void)snprintf(s->name, sizeof(s->name), "NCCL %s", version);
    return CSP_OK;
}

csp_status cuda_nccl(cuda_state *state, const nccl_table **out)
{
    struct nccl_state *s;
    const char *reason;
    csp_status status;
    void *library;

    if (state->collectives.nccl != NULL) {
        *out = &state->collectives.nccl->table;
        return CSP_OK;
    }
    CSP_TRY(csp_alloc_zero("NCCL", 1, sizeof(*s), &s));
    state->collectives.nccl = s;
    library = cu::library_open(file_name, &reason);
    if (library == NULL) {
        CSP_TRY_GOTO(CSP_FAIL(CSP_ERR_DEVICE,
                              "%s: several GPUs need NCCL, which cannot be opened: %s: install "
                              "libnccl2, or pip's nvidia-nccl-cu13, and name its folder in "
                              "LD_LIBRARY_PATH",
                              state->name, reason));
    }
    CSP_TRY_GOTO(check_version(state, library, s));
    CSP_TRY_GOTO(find_all(state, library, &s->table));
    *out = &s->table;
    return CSP_OK;

fail:
    cuda_nccl_close(state);
    return status;
}

const char *cuda_nccl_name(const cuda_state *state)
{
    return state->collectives.nccl->name;
}

void cuda_nccl_version(char *text, size_t bytes)
{
    const char *reason;
    void *library = cu::library_open(file_name, &reason), *at;
    char version[24];
    int code = 0;

    (void)snprintf(text, bytes, "not found");
    if (library == NULL) {
        return;
    }
    at = cu::library_function(library, "ncclGetVersion");
    if (at != NULL && ((decltype(nccl_table::version))at)(&code) == NCCL_OK) {
        say_version(code, version, sizeof(version));
        (void)snprintf(text, bytes, "%s%s", version, code < NCCL_OLDEST ? " (too old)" : "");
    }
    cu::library_close(library);
}

void cuda_nccl_close(cuda_state *state)
{
    free(state->collectives.nccl);
    state->collectives.nccl = NULL;
}
