/*
 * backend.c - fills csp_ops for the CPU, and its memory: arenas straight from the system, so that
 * pages come when they are first touched, and scratch blocks that only grow.
 */
#include "cpu/backend.h"

#include <cblas.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/fault.h"
#include "core/machine.h"
#include "core/memory.h"
#include "core/size.h"
#include "cpu/cpu.h"
#include "cpu/gemm.h"

enum { MAX_THREADS = 1024 };
static const size_t HUGE_PAGE = (size_t)2 << 20;

/* Anonymous memory, huge pages where the system likes: fewer page faults and TLB misses. */
static csp_status map_memory(const char *what, size_t bytes, void **out)
{
    const size_t rounded = csp_size_round_up(bytes > 0 ? bytes : 1, 4096);
    void *at;

    if (rounded < bytes || csp_fault_here()) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for %zu bytes", what, bytes);
    }
    at = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
              -1, 0);
    if (at == MAP_FAILED) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for %zu bytes: %s", what, bytes,
                        strerror(errno));
    }
    if (rounded >= HUGE_PAGE) {
        (void)madvise(at, rounded, MADV_HUGEPAGE); /* a wish: refused on kernels without them */
    }
    *out = at;
    return CSP_OK;
}

static void unmap_memory(void *at, size_t bytes)
{
    if (at != NULL) {
        (void)munmap(at, csp_size_round_up(bytes > 0 ? bytes : 1, 4096));
    }
}

static csp_status grow(csp_backend *be, cpu_block *block, size_t bytes)
{
    /* A quarter more than asked, so that slowly growing batches do not map again each time. */
    const size_t wanted = csp_size_round_up(bytes + bytes / 4, 4096);
    void *at;

    if (bytes <= block->bytes) {
        return CSP_OK;
    }
    CSP_TRY(map_memory("scratch", wanted, &at));
    unmap_memory(block->at, block->bytes);
    block->at = at;
    block->bytes = wanted;
    __atomic_fetch_add(&cpu_state_of(be)->allocations, 1, __ATOMIC_RELAXED);
    return CSP_OK;
}

csp_status cpu_scratch(csp_backend *be, int thread, size_t bytes, void **out)
{
    cpu_block *block = &cpu_state_of(be)->of_thread[thread];

    CSP_ASSERT(thread >= 0 && thread < be->threads);
    CSP_TRY(grow(be, block, bytes));
    *out = block->at;
    return CSP_OK;
}

csp_status cpu_shared(csp_backend *be, size_t bytes, void **out)
{
    cpu_block *block = &cpu_state_of(be)->shared;

    CSP_TRY(grow(be, block, bytes));
    *out = block->at;
    return CSP_OK;
}

csp_status cpu_scratch_each(csp_backend *be, size_t bytes)
{
    for (int thread = 0; thread < be->threads; thread++) {
        CSP_TRY(grow(be, &cpu_state_of(be)->of_thread[thread], bytes));
    }
    return CSP_OK;
}

static void cpu_destroy(csp_backend *be)
{
    cpu_state *state = be->state;

    if (state != NULL) {
        for (int thread = 0; state->of_thread != NULL && thread < be->threads; thread++) {
            unmap_memory(state->of_thread[thread].at, state->of_thread[thread].bytes);
        }
        unmap_memory(state->shared.at, state->shared.bytes);
        free(state->of_thread);
        free(state->marks);
        free(state);
    }
    free(be);
}

static csp_status cpu_reserve(csp_backend *be, size_t bytes, csp_arena *out)
{
    void *at;

    (void)be;
    CSP_TRY(map_memory("arena", bytes, &at));
    *out = (csp_arena) { at, bytes, 0, 0 };
    return CSP_OK;
}

static void cpu_release(csp_backend *be, csp_arena *arena)
{
    (void)be;
    unmap_memory(arena->base, arena->capacity);
}

static csp_status cpu_memory(csp_backend *be, csp_memory *out)
{
    const int64_t total = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);

    (void)be;
    *out = (csp_memory) { csp_machine_available_bytes(), total, true, 0 };
    return CSP_OK;
}

static csp_status cpu_upload(csp_backend *be, const void *host, csp_tensor *dst)
{
    (void)be;
    memcpy(dst->data, host, csp_tensor_bytes(dst));
    return CSP_OK;
}

static csp_status cpu_download(csp_backend *be, const csp_tensor *src, void *host)
{
    (void)be;
    memcpy(host, src->data, csp_tensor_bytes(src));
    return CSP_OK;
}

static csp_status cpu_download_part(csp_backend *be, csp_download *d, const csp_tensor *src,
                                    void *at)
{
    (void)d;
    return cpu_download(be, src, at);
}

/* Ops are done when they return, copies too. */
static csp_status cpu_download_passed(csp_backend *be, csp_download *d)
{
    (void)be;
    (void)d;
    return CSP_OK;
}

static void cpu_download_clear(csp_backend *be, csp_download *d)
{
    (void)be;
    (void)d;
}

static csp_status cpu_copy(csp_backend *be, const csp_tensor *src, csp_tensor *dst)
{
    (void)be;
    memmove(dst->data, src->data, csp_tensor_bytes(src));
    return CSP_OK;
}

static csp_status cpu_zero(csp_backend *be, csp_tensor *t)
{
    (void)be;
    memset(t->data, 0, csp_tensor_bytes(t));
    return CSP_OK;
}

static csp_status cpu_sync(csp_backend *be)
{
    (void)be;
    return CSP_OK;
}

/* Work is done in the call, so a mark is the clock. */
static csp_status cpu_mark(csp_backend *be, int64_t index)
{
    cpu_state *state = cpu_state_of(be);

    CSP_TRY(csp_reach("marks", index, sizeof(*state->marks), &state->marks, &state->mark_count));
    state->marks[index] = csp_machine_seconds();
    return CSP_OK;
}

static csp_status cpu_elapsed(csp_backend *be, int64_t from, int64_t to, double *seconds)
{
    const cpu_state *state = cpu_state_of(be);
    const int64_t larger = from > to ? from : to;

    if (larger >= state->mark_count || state->marks[from] == 0.0 || state->marks[to] == 0.0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "elapsed: mark %lld or %lld was not set", (long long)from,
                        (long long)to);
    }
    *seconds = state->marks[to] - state->marks[from];
    return CSP_OK;
}

/* How work is cut depends on shapes and threads only: nothing is timed. */
static csp_status cpu_tuning_get(csp_backend *be, char **text)
{
    (void)be;
    return csp_strdup("tuning", "", text);
}

static csp_status cpu_tuning_set(csp_backend *be, const char *text)
{
    (void)be;
    if (text[0] == '\0') {
        return CSP_OK;
    }
    return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                    "algorithms of matrix products were chosen by \"%.*s\", and this is a CPU",
                    (int)strcspn(text, "\n"), text);
}

/* The first two words of OpenBLAS's description: its name and version. */
static csp_status cpu_versions(csp_backend *be, char text[CSP_VERSIONS_BYTES])
{
    const char *config = openblas_get_config();
    const size_t name = strcspn(config, " "), version = strcspn(config + name + 1, " ");

    (void)be;
    (void)snprintf(text, CSP_VERSIONS_BYTES, "blas %.*s %s\n", (int)(name + 1 + version), config,
                   openblas_get_corename());
    return CSP_OK;
}

/* Work is done in the call: there is nothing to replay. */
static csp_status cpu_graph_run(csp_backend *be, const csp_graph_call *call)
{
    (void)be;
    return call->enqueue(call->context);
}

/* The host reaches a CPU's tensors: comm/ carries them, and nobody comes here. */
static csp_status no_collectives(void)
{
    return CSP_FAIL(CSP_ERR_UNSUPPORTED, "collectives of devices, of which a CPU is none");
}

static csp_status cpu_collective_library(csp_backend *be, const char **name)
{
    (void)be, (void)name;
    return no_collectives();
}

static csp_status cpu_collective_make_id(csp_backend *be, csp_collective_id *out)
{
    (void)be, (void)out;
    return no_collectives();
}

static csp_status cpu_collective_open(csp_backend *be, const csp_collective_group *group,
                                      csp_collective **out)
{
    (void)be, (void)group, (void)out;
    return no_collectives();
}

static void cpu_collective_end(csp_backend *be, csp_collective *collective)
{
    (void)be, (void)collective;
}

static csp_status cpu_collective_start(csp_backend *be, csp_collective *collective,
                                       const csp_collective_call *call, int64_t *ticket)
{
    (void)be, (void)collective, (void)call, (void)ticket;
    return no_collectives();
}

static csp_status cpu_collective_join(csp_backend *be, csp_collective *collective, int64_t ticket)
{
    (void)be, (void)collective, (void)ticket;
    return no_collectives();
}

static csp_status cpu_collective_waited(csp_backend *be, csp_collective *collective,
                                        double *seconds)
{
    (void)be, (void)collective, (void)seconds;
    return no_collectives();
}

static const csp_ops cpu_ops = {
    .destroy = cpu_destroy,
    .reserve = cpu_reserve,
    .release = cpu_release,
    .memory = cpu_memory,
    .upload = cpu_upload,
    .download = cpu_download,
    .download_mark = cpu_download_passed,
    .download_part = cpu_download_part,
    .download_wait = cpu_download_passed,
    .download_clear = cpu_download_clear,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .host_reserve = cpu_reserve,
    .host_release = cpu_release,
    .fetch = cpu_download,
    .sync = cpu_sync,
    .mark = cpu_mark,
    .elapsed = cpu_elapsed,
    .tuning_get = cpu_tuning_get,
    .tuning_set = cpu_tuning_set,
    .versions = cpu_versions,
    .graph_run = cpu_graph_run,
    .collective_library = cpu_collective_library,
    .collective_make_id = cpu_collective_make_id,
    .collective_open = cpu_collective_open,
    .collective_close = cpu_collective_end,
    .collective_abort = cpu_collective_end,
    .collective_start = cpu_collective_start,
    .collective_join = cpu_collective_join,
    .collective_waited = cpu_collective_waited,
    .linear_fwd = cpu_linear_fwd,
    .linear_bwd = cpu_linear_bwd,
    .quantize_rows = cpu_quantize_rows,
    .norm_fwd = cpu_norm_fwd,
    .norm_bwd = cpu_norm_bwd,
    .norm_bad_row = cpu_norm_bad_row,
    .attention_fwd = cpu_attention_fwd,
    .attention_bwd = cpu_attention_bwd,
    .swiglu_fwd = cpu_swiglu_fwd,
    .swiglu_bwd = cpu_swiglu_bwd,
    .embed_fwd = cpu_embed_fwd,
    .embed_bwd = cpu_embed_bwd,
    .sparse_pool_fwd = cpu_sparse_pool_fwd,
    .sparse_pool_bwd = cpu_sparse_pool_bwd,
    .sparse_pool_choose = cpu_sparse_pool_choose,
    .sparse_pool_choose_forward = cpu_sparse_pool_choose_forward,
    .top_k = cpu_top_k,
    .impacts = cpu_impacts,
    .token_loss = cpu_token_loss,
    .scores_fwd = cpu_scores_fwd,
    .scores_bwd = cpu_scores_bwd,
    .nce_scores = cpu_nce_scores,
    .nce_sum = cpu_nce_sum,
    .nce_grad = cpu_nce_grad,
    .column_sums = cpu_column_sums,
    .position_counts = cpu_position_counts,
    .regularize = cpu_regularize,
    .grad_squares = cpu_grad_squares,
    .adamw = cpu_adamw,
};

csp_status csp_cpu_open(const char *name, int threads, csp_backend **out)
{
    csp_status status;
    csp_backend *be = NULL;
    cpu_state *state = NULL;

    if (strcmp(name, "cpu") != 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "device %s: the CPU has no numbers, its name is cpu",
                        name);
    }
    if (threads == 0) {
        threads = csp_machine_cores();
    }
    if (threads > MAX_THREADS) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "device cpu: %d threads, at most %d are possible",
                        threads, MAX_THREADS);
    }
    CSP_TRY(csp_alloc_zero("cpu backend", 1, sizeof(*be), &be));
    be->ops = &cpu_ops;
    be->name = "cpu";
    be->host_memory = true;
    be->threads = threads;
    be->fp8 = true;
    CSP_TRY_GOTO(csp_alloc_zero("cpu backend", 1, sizeof(*state), &state));
    be->state = state;
    CSP_TRY_GOTO(csp_alloc_zero("cpu backend", threads, sizeof(cpu_block), &state->of_thread));
    CSP_TRY_GOTO(cpu_gemm_warm(be));
    *out = be;
    return CSP_OK;
fail:
    cpu_destroy(be);
    return status;
}
