/*
 * backend.cu - fills csp_ops for CUDA: the door, memory and copies here, the ops in their files.
 */
#include "backend.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "cusparse.cuh"
#include "device.h"
#include "launch.cuh"

/* Of rows that lie apart, uploaded at a time. */
#define UPLOAD_BYTES ((size_t)16 << 20)

static void cuda_destroy(csp_backend *be)
{
    cuda_state *state = cuda_state_of(be);

    if (state != NULL) {
        cuda_device_close(be);
        free(state);
    }
    free(be);
}

static csp_status cuda_reserve(csp_backend *be, size_t bytes, csp_arena *out)
{
    void *at;

    CSP_TRY(cuda_allocate(cuda_state_of(be), "arena", bytes, &at));
    *out = { (char *)at, bytes, 0, 0 };
    return CSP_OK;
}

/* Work that was enqueued may still use the arena; what lies there next is not what graphs mean. */
static void cuda_release(csp_backend *be, csp_arena *arena)
{
    cuda_drain(be);
    cuda_graphs_forget(&cuda_state_of(be)->graphs);
    (void)cudaFree(arena->base);
}

static csp_status cuda_memory(csp_backend *be, csp_memory *out)
{
    const cuda_state *state = cuda_state_of(be);
    size_t available, total;

    CUDA_TRY(cudaMemGetInfo(&available, &total));
    *out = { (int64_t)available, (int64_t)total, false,
             (int64_t)(state->scratch.bytes + state->gemm.tail.bytes +
                       cuda_cusparse_bytes(state)) };
    return CSP_OK;
}

/* Bytes of a row whose neighbours lie apart, and from one row to the next. */
static size_t row_bytes(const csp_tensor *t)
{
    return (size_t)t->dim[1] * csp_dtype_bytes(t->dtype);
}

static size_t pitch_of(const csp_tensor *t)
{
    return (size_t)t->apart * csp_dtype_bytes(t->dtype);
}

/* Rows apart pass through scratch, some at a time, where they lie together as on the host. */
static csp_status upload_rows(csp_backend *be, const void *host, const csp_tensor *dst)
{
    const size_t row = row_bytes(dst), pitch = pitch_of(dst);
    const int64_t fitting = (int64_t)(UPLOAD_BYTES / row), most = fitting < 1 ? 1 : fitting;

    for (int64_t n = 0; n < dst->dim[0]; n += most) {
        const int64_t left = dst->dim[0] - n;
        const size_t rows = (size_t)(left < most ? left : most);
        void *together;

        CSP_TRY(cuda_scratch(be, rows * row, &together));
        CSP_TRY(cuda_stage(be, (const char *)host + (size_t)n * row, rows * row, together));
        CUDA_TRY(cudaMemcpy2DAsync((char *)dst->data + (size_t)n * pitch, pitch, together, row, row,
                                   rows, cudaMemcpyDeviceToDevice, cuda_state_of(be)->stream));
    }
    return CSP_OK;
}

static csp_status cuda_upload(csp_backend *be, const void *host, csp_tensor *dst)
{
    (void)cuda_stream(be, "upload");
    return dst->apart > 0 ? upload_rows(be, host, dst)
                          : cuda_stage(be, host, csp_tensor_bytes(dst), dst->data);
}

static csp_status cuda_download(csp_backend *be, const csp_tensor *src, void *host)
{
    const cudaStream_t stream = cuda_state_of(be)->stream;

    if (src->apart > 0) {
        CUDA_TRY(cudaMemcpy2DAsync(host, row_bytes(src), src->data, pitch_of(src), row_bytes(src),
                                   (size_t)src->dim[0], cudaMemcpyDeviceToHost, stream));
    } else {
        CUDA_TRY(cudaMemcpyAsync(host, src->data, csp_tensor_bytes(src), cudaMemcpyDeviceToHost,
                                 stream));
    }
    return cuda_wait(be);
}

static csp_status cuda_host_reserve(csp_backend *be, size_t bytes, csp_arena *out)
{
    void *at;

    CSP_TRY(cuda_allocate_host(cuda_state_of(be), "numbers", bytes, &at));
    *out = { (char *)at, bytes, 0, 0 };
    return CSP_OK;
}

/* A copy that was enqueued may still write to the arena. */
static void cuda_host_release(csp_backend *be, csp_arena *arena)
{
    cuda_drain(be);
    (void)cudaFreeHost(arena->base);
}

static csp_status cuda_fetch_later(csp_backend *be, const csp_tensor *src, void *host)
{
    CUDA_TRY(cudaMemcpyAsync(host, src->data, csp_tensor_bytes(src), cudaMemcpyDeviceToHost,
                             cuda_stream(be, "fetch")));
    return CSP_OK;
}

static csp_status cuda_copy(csp_backend *be, const csp_tensor *src, csp_tensor *dst)
{
    CUDA_TRY(cudaMemcpyAsync(dst->data, src->data, csp_tensor_bytes(src), cudaMemcpyDeviceToDevice,
                             cuda_stream(be, "copy")));
    return CSP_OK;
}

static csp_status cuda_zero(csp_backend *be, csp_tensor *t)
{
    const cudaStream_t stream = cuda_stream(be, "zero");

    if (t->apart > 0) {
        CUDA_TRY(
            cudaMemset2DAsync(t->data, pitch_of(t), 0, row_bytes(t), (size_t)t->dim[0], stream));
    } else {
        CUDA_TRY(cudaMemsetAsync(t->data, 0, csp_tensor_bytes(t), stream));
    }
    return CSP_OK;
}

static csp_status cuda_mark(csp_backend *be, int64_t index)
{
    cuda_state *state = cuda_state_of(be);

    CSP_TRY(csp_reach("marks", index, sizeof(*state->marks), &state->marks, &state->mark_count));
    if (state->marks[index] == NULL) {
        CUDA_TRY(cudaEventCreate(&state->marks[index]));
    }
    CUDA_TRY(cudaEventRecord(state->marks[index], state->stream));
    return CSP_OK;
}

static csp_status cuda_elapsed(csp_backend *be, int64_t from, int64_t to, double *seconds)
{
    const cuda_state *state = cuda_state_of(be);
    float milliseconds;

    if ((from > to ? from : to) >= state->mark_count || state->marks[from] == NULL ||
        state->marks[to] == NULL) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "elapsed: mark %lld or %lld was not set", (long long)from,
                        (long long)to);
    }
    CUDA_TRY(cudaEventElapsedTime(&milliseconds, state->marks[from], state->marks[to]));
    *seconds = 1e-3 * (double)milliseconds;
    return CSP_OK;
}

static void fill_table(csp_ops *ops)
{
    ops->destroy = cuda_destroy;
    ops->reserve = cuda_reserve;
    ops->release = cuda_release;
    ops->memory = cuda_memory;
    ops->upload = cuda_upload;
    ops->download = cuda_download;
    ops->download_mark = cuda_download_mark;
    ops->download_part = cuda_download_part;
    ops->download_wait = cuda_download_wait;
    ops->download_clear = cuda_download_clear;
    ops->copy = cuda_copy;
    ops->zero = cuda_zero;
    ops->host_reserve = cuda_host_reserve;
    ops->host_release = cuda_host_release;
    ops->fetch = cuda_fetch_later;
    ops->sync = cuda_wait;
    ops->mark = cuda_mark;
    ops->elapsed = cuda_elapsed;
    ops->tuning_get = cuda_tuning_get;
    ops->tuning_set = cuda_tuning_set;
    ops->versions = cuda_versions;
    ops->graph_run = cuda_graph_run;
    ops->collective_library = cuda_collective_library;
    ops->collective_make_id = cuda_collective_make_id;
    ops->collective_open = cuda_collective_open;
    ops->collective_close = cuda_collective_close;
    ops->collective_abort = cuda_collective_abort;
    ops->collective_start = cuda_collective_start;
    ops->collective_join = cuda_collective_join;
    ops->collective_waited = cuda_collective_waited;
    ops->linear_fwd = cuda_linear_fwd;
    ops->linear_bwd = cuda_linear_bwd;
    ops->quantize_rows = cuda_quantize_rows;
    ops->norm_fwd = cuda_norm_fwd;
    ops->norm_bwd = cuda_norm_bwd;
    ops->norm_bad_row = cuda_norm_bad_row;
    ops->attention_fwd = cuda_attention_fwd;
    ops->attention_bwd = cuda_attention_bwd;
    ops->swiglu_fwd = cuda_swiglu_fwd;
    ops->swiglu_bwd = cuda_swiglu_bwd;
    ops->embed_fwd = cuda_embed_fwd;
    ops->embed_bwd = cuda_embed_bwd;
    ops->sparse_pool_fwd = cuda_sparse_pool_fwd;
    ops->sparse_pool_bwd = cuda_sparse_pool_bwd;
    ops->sparse_pool_choose = cuda_sparse_pool_choose;
    ops->sparse_pool_choose_forward = cuda_sparse_pool_choose_forward;
    ops->top_k = cuda_top_k;
    ops->impacts = cuda_impacts;
    ops->token_loss = cuda_token_loss;
    ops->scores_fwd = cuda_scores_fwd;
    ops->scores_bwd = cuda_scores_bwd;
    ops->nce_scores = cuda_nce_scores;
    ops->nce_sum = cuda_nce_sum;
    ops->nce_grad = cuda_nce_grad;
    ops->column_sums = cuda_column_sums;
    ops->position_counts = cuda_position_counts;
    ops->regularize = cuda_regularize;
    ops->grad_squares = cuda_grad_squares;
    ops->adamw = cuda_adamw;
}

/* The number behind "cuda:", 0 for "cuda" alone. */
static csp_status parse_name(const char *name, int *device)
{
    const char *at = name + strlen("cuda");
    int number = 0, digits = 0;

    if (*at == ':') {
        for (at++; *at >= '0' && *at <= '9' && digits < 4; at++, digits++) {
            number = number * 10 + (*at - '0');
        }
    } else {
        digits = 1;
    }
    if (strncmp(name, "cuda", 4) != 0 || *at != '\0' || digits == 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "device %s: cuda or cuda:<number> is meant", name);
    }
    *device = number;
    return CSP_OK;
}

/* For what the host does beside the device. */
static int available_cores(void)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0 ? CPU_COUNT(&set)
                                                                               : 1;
}

csp_status csp_cuda_open(const char *name, int threads, csp_backend **out)
{
    csp_status status;
    csp_backend *be = NULL;
    cuda_state *state = NULL;
    int device;

    CSP_TRY(parse_name(name, &device));
    CSP_TRY(csp_alloc_zero("cuda backend", 1, sizeof(*be), &be));
    CSP_TRY_GOTO(csp_alloc_zero("cuda backend", 1, sizeof(*state), &state));
    be->state = state;
    fill_table(&state->ops);
    (void)snprintf(state->name, sizeof(state->name), "cuda:%d", device);
    be->ops = &state->ops;
    be->name = state->name;
    be->bf16 = true;
    be->apart = true;
    be->replays = true;
    be->threads = threads > 0 ? threads : available_cores();
    CSP_TRY_GOTO(cuda_device_open(state, device));
    be->fp8 = state->fp8;
    *out = be;
    return CSP_OK;
fail:
    cuda_destroy(be);
    return status;
}
