/*
 * device.cu - the state of a CUDA backend: opening a device, its memory, uploads, waiting. Graphs
 * hold the address of scratch memory: they are dropped when it moves.
 *
 * Blocks only grow, each time a quarter beyond what was asked, so that batches that grow slowly do
 * not allocate each time; after the first steps nothing is allocated.
 */
#include <stdlib.h>
#include <string.h>

#include "core/fault.h"
#include "core/size.h"
#include "cusparse.cuh"
#include "device.h"
#include "launch.cuh"

#define STAGING_HALF ((size_t)4 << 20)
/* Every part of an upload starts at a multiple of this in the staging memory. */
#define STAGING_ALIGN ((size_t)64)

static csp_status driver_missing(const char *what, cudaError_t error)
{
    int driver = 0;

    (void)cudaGetLastError();
    (void)cudaDriverGetVersion(&driver);
    if (error == cudaErrorInsufficientDriver && driver == 0) {
        return CSP_FAIL(CSP_ERR_DEVICE, "%s: this machine has no NVIDIA driver (libcuda.so.1)",
                        what);
    }
    if (error == cudaErrorInsufficientDriver) {
        return CSP_FAIL(CSP_ERR_DEVICE,
                        "%s: the NVIDIA driver is for CUDA %d.%d, this build needs %d.0 or later",
                        what, driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000);
    }
    if (error == cudaErrorNoDevice) {
        return CSP_FAIL(CSP_ERR_DEVICE,
                        "%s: the NVIDIA driver sees no device: does CUDA_VISIBLE_DEVICES hide it, "
                        "or is it cut by MIG and no part made (nvidia-smi -L)?",
                        what);
    }
    return CSP_FAIL(CSP_ERR_DEVICE, "%s: %s (%s)", what, cudaGetErrorString(error),
                    cudaGetErrorName(error));
}

/* The first call that makes a context: here a device that others hold is met. */
static csp_status take_device(const cuda_state *state)
{
    const cudaError_t error = cudaSetDevice(state->device);

    if (error == cudaErrorDevicesUnavailable) {
        (void)cudaGetLastError();
        return CSP_FAIL(CSP_ERR_DEVICE,
                        "%s: the driver says that it is busy or unavailable: is its compute mode "
                        "exclusive and another process there, or prohibited (nvidia-smi -q -d "
                        "COMPUTE)?",
                        state->name);
    }
    return error == cudaSuccess ? CSP_OK : driver_missing(state->name, error);
}

csp_status cuda_device_count(const char *what, int *out)
{
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);

    if (error != cudaSuccess) {
        return driver_missing(what, error);
    }
    if (count < 1) {
        return driver_missing(what, cudaErrorNoDevice);
    }
    *out = count;
    return CSP_OK;
}

static csp_status check_device(cuda_state *state)
{
    int count = 0, major, minor, shared;

    CSP_TRY(cuda_device_count(state->name, &count));
    if (state->device >= count) {
        return CSP_FAIL(CSP_ERR_DEVICE, "%s: no such device, this machine has %d, from cuda:0 on",
                        state->name, count);
    }
    CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, state->device));
    CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, state->device));
    if (major < CUDA_OLDEST_CAPABILITY) {
        return CSP_FAIL(CSP_ERR_DEVICE,
                        "%s: its compute capability is %d.%d, at least %d.0 (Ampere) is needed",
                        state->name, major, minor, CUDA_OLDEST_CAPABILITY);
    }
    /* cuBLAS has those scales for this one capability, from 12.9 on. */
    state->hopper = major == 9 && minor == 0;
    state->fp8 = major == 9 && minor == 0 && cublasLtGetVersion() >= 120900;
    CUDA_TRY(
        cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, state->device));
    state->shared_limit = (size_t)shared;
    CUDA_TRY(
        cudaDeviceGetAttribute(&state->processors, cudaDevAttrMultiProcessorCount, state->device));
    return CSP_OK;
}

csp_status cuda_allocate(cuda_state *state, const char *what, size_t bytes, void **out)
{
    size_t available = 0, total = 0;
    cudaError_t error = cudaErrorMemoryAllocation;

    if (!csp_fault_here()) {
        error = cudaMalloc(out, bytes > 0 ? bytes : 1);
    }
    if (error == cudaSuccess) {
        state->allocations++;
        return CSP_OK;
    }
    (void)cudaGetLastError();
    if (error != cudaErrorMemoryAllocation) {
        return CSP_FAIL(CSP_ERR_DEVICE, "%s: %s: %zu bytes: %s (%s)", state->name, what, bytes,
                        cudaGetErrorString(error), cudaGetErrorName(error));
    }
    (void)cudaMemGetInfo(&available, &total);
    return CSP_FAIL(CSP_ERR_MEMORY,
                    "%s: %s: no memory for %zu bytes, %zu of the device's %zu are free",
                    state->name, what, bytes, available, total);
}

csp_status cuda_allocate_host(cuda_state *state, const char *what, size_t bytes, void **out)
{
    cudaError_t error = cudaErrorMemoryAllocation;

    if (!csp_fault_here()) {
        error = cudaMallocHost(out, bytes > 0 ? bytes : 1);
    }
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        return CSP_FAIL(error == cudaErrorMemoryAllocation ? CSP_ERR_MEMORY : CSP_ERR_DEVICE,
                        "%s: %s: no page-locked host memory for %zu bytes: %s", state->name, what,
                        bytes, cudaGetErrorString(error));
    }
    state->allocations++;
    return CSP_OK;
}

static csp_status open_beside(cuda_beside *beside)
{
    int least, greatest;

    CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CUDA_TRY(cudaStreamCreateWithPriority(&beside->stream, cudaStreamNonBlocking, greatest));
    for (int i = 0; i < 2; i++) {
        CUDA_TRY(cudaEventCreateWithFlags(&beside->ready[i], cudaEventDisableTiming));
        CUDA_TRY(cudaEventCreateWithFlags(&beside->done[i], cudaEventDisableTiming));
    }
    return CSP_OK;
}

static void close_beside(cuda_beside *beside)
{
    for (int i = 0; i < 2; i++) {
        if (beside->ready[i] != NULL) {
            (void)cudaEventDestroy(beside->ready[i]);
        }
        if (beside->done[i] != NULL) {
            (void)cudaEventDestroy(beside->done[i]);
        }
    }
    if (beside->stream != NULL) {
        (void)cudaStreamSynchronize(beside->stream);
        (void)cudaStreamDestroy(beside->stream);
    }
}

csp_status cuda_device_open(cuda_state *state, int device)
{
    void *staging;

    state->device = device;
    state->op = "open";
    CSP_TRY(check_device(state));
    CSP_TRY(take_device(state));
    CSP_TRY(cuda_code_check(state));
    CUDA_TRY(cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking));
    CSP_TRY(open_beside(&state->beside));
    for (int i = 0; i < 2; i++) {
        CUDA_TRY(cudaEventCreateWithFlags(&state->staging.passed[i], cudaEventDisableTiming));
    }
    CSP_TRY(cuda_allocate_host(state, "uploads", 2 * STAGING_HALF, &staging));
    state->staging.at = (char *)staging;
    CSP_TRY(cuda_graphs_open(state));
    return cuda_gemm_open(state);
}

/* Errors have been reported where they arose, or nobody is left to read them. */
void cuda_device_close(csp_backend *be)
{
    cuda_state *state = cuda_state_of(be);

    cuda_drain(be);
    cuda_collectives_close(be);
    cuda_graphs_close(&state->graphs);
    close_beside(&state->beside);
    cuda_cusparse_close(state);
    cuda_gemm_close(&state->gemm);
    (void)cudaFree(state->scratch.at);
    if (state->host.at != NULL) {
        (void)cudaFreeHost(state->host.at);
    }
    if (state->staging.at != NULL) {
        (void)cudaFreeHost(state->staging.at);
    }
    for (int i = 0; i < 2; i++) {
        if (state->staging.passed[i] != NULL) {
            (void)cudaEventDestroy(state->staging.passed[i]);
        }
    }
    for (int64_t i = 0; i < state->mark_count; i++) {
        if (state->marks[i] != NULL) {
            (void)cudaEventDestroy(state->marks[i]);
        }
    }
    free(state->marks);
    if (state->stream != NULL) {
        (void)cudaStreamDestroy(state->stream);
    }
}

csp_status cuda_waited(csp_backend *be, cudaError_t error)
{
    cuda_state *state = cuda_state_of(be);

    state->waits++;
    if (error == cudaSuccess) {
        return CSP_OK;
    }
    (void)cudaGetLastError();
    return CSP_FAIL(CSP_ERR_DEVICE, "%s: %s (%s); the last op enqueued was %s", state->name,
                    cudaGetErrorString(error), cudaGetErrorName(error), state->op);
}

csp_status cuda_scratch(csp_backend *be, size_t bytes, void **out)
{
    cuda_state *state = cuda_state_of(be);

    if (bytes > state->scratch.bytes) {
        const size_t wanted = csp_size_round_up(bytes + bytes / 4, 4096);

        if (state->graphs.recording) {
            return CSP_FAIL(CSP_ERR_DEVICE, "scratch would grow to %zu bytes inside a graph",
                            wanted);
        }
        CSP_TRY(cuda_wait_all(be));
        cuda_graphs_drop(&state->graphs);
        CUDA_TRY(cudaFree(state->scratch.at));
        state->scratch = {};
        CSP_TRY(cuda_allocate(state, "scratch", wanted, &state->scratch.at));
        state->scratch.bytes = wanted;
    }
    *out = state->scratch.at;
    return CSP_OK;
}

csp_status cuda_host(csp_backend *be, size_t bytes, void **out)
{
    cuda_state *state = cuda_state_of(be);

    if (bytes > state->host.bytes) {
        const size_t wanted = csp_size_round_up(bytes + bytes / 4, 4096);
        void *at;

        CSP_TRY(cuda_allocate_host(state, "results", wanted, &at));
        if (state->host.at != NULL) {
            cuda_drain(be); /* copies under way may still write to the old block */
            (void)cudaFreeHost(state->host.at);
        }
        state->host.at = at;
        state->host.bytes = wanted;
    }
    *out = state->host.at;
    return CSP_OK;
}

csp_status cuda_fetch(csp_backend *be, const void *device, size_t bytes, void **out)
{
    void *host;

    CSP_TRY(cuda_host(be, bytes, &host));
    CUDA_TRY(
        cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, cuda_state_of(be)->stream));
    CSP_TRY(cuda_wait(be));
    *out = host;
    return CSP_OK;
}

/* Goes over to the other half as soon as the copies out of it are done. */
static csp_status turn_over(csp_backend *be)
{
    cuda_state *state = cuda_state_of(be);
    cuda_staging *staging = &state->staging;

    CUDA_TRY(cudaEventRecord(staging->passed[staging->half], state->stream));
    CSP_TRY(cuda_wait_event(be, staging->passed[1 - staging->half]));
    staging->half = 1 - staging->half;
    staging->used = 0;
    return CSP_OK;
}

csp_status cuda_stage(csp_backend *be, const void *host, size_t bytes, void *device)
{
    cuda_state *state = cuda_state_of(be);
    cuda_staging *staging = &state->staging;
    size_t done = 0;

    if (state->graphs.recording) {
        /* Each replay would copy whatever the staging memory holds by then. */
        return CSP_FAIL(CSP_ERR_DEVICE, "an upload of %zu bytes inside a graph", bytes);
    }
    while (done < bytes) {
        size_t part = bytes - done;
        char *at;

        if (staging->used == STAGING_HALF) {
            CSP_TRY(turn_over(be));
        }
        if (part > STAGING_HALF - staging->used) {
            part = STAGING_HALF - staging->used;
        }
        at = staging->at + (size_t)staging->half * STAGING_HALF + staging->used;
        memcpy(at, (const char *)host + done, part);
        CUDA_TRY(cudaMemcpyAsync((char *)device + done, at, part, cudaMemcpyHostToDevice,
                                 state->stream));
        staging->used += csp_size_round_up(part, STAGING_ALIGN);
        done += part;
    }
    return CSP_OK;
}
