/*
 * download.cu - copies to the host beside kernels: each download has a stream of its own, which
 * waits for the backend's at the mark only, and page-locked memory, into which copies run without
 * the host.
 */
#include <stdlib.h>

#include "core/memory.h"
#include "device.h"
#include "launch.cuh"

/* What the state of a csp_download points to. */
typedef struct copy_lane {
    cudaStream_t stream;
    cudaEvent_t marked;
} copy_lane;

static void close_lane(copy_lane *lane)
{
    if (lane->marked != NULL) {
        (void)cudaEventDestroy(lane->marked);
    }
    if (lane->stream != NULL) {
        (void)cudaStreamDestroy(lane->stream);
    }
    free(lane);
}

static csp_status open_streams(copy_lane *lane)
{
    CUDA_TRY(cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaEventCreateWithFlags(&lane->marked, cudaEventDisableTiming));
    return CSP_OK;
}

static csp_status open_lane(csp_download *d)
{
    copy_lane *lane;
    csp_status status;

    CSP_TRY(csp_alloc_zero("download", 1, sizeof(*lane), &lane));
    status = open_streams(lane);
    if (status != CSP_OK) {
        close_lane(lane);
        return status;
    }
    d->state = lane;
    return CSP_OK;
}

csp_status cuda_download_mark(csp_backend *be, csp_download *d)
{
    copy_lane *lane;

    if (d->state == NULL) {
        CSP_TRY(open_lane(d));
    }
    lane = (copy_lane *)d->state;
    CUDA_TRY(cudaEventRecord(lane->marked, cuda_state_of(be)->stream));
    CUDA_TRY(cudaStreamWaitEvent(lane->stream, lane->marked, 0));
    return CSP_OK;
}

csp_status cuda_download_part(csp_backend *be, csp_download *d, const csp_tensor *src, void *at)
{
    (void)be;
    CUDA_TRY(cudaMemcpyAsync(at, src->data, csp_tensor_bytes(src), cudaMemcpyDeviceToHost,
                             ((copy_lane *)d->state)->stream));
    return CSP_OK;
}

csp_status cuda_download_wait(csp_backend *be, csp_download *d)
{
    return cuda_wait_stream(be, ((copy_lane *)d->state)->stream);
}

/* Errors have been reported where they arose, or nobody is left to read them. */
void cuda_download_clear(csp_backend *be, csp_download *d)
{
    copy_lane *lane = (copy_lane *)d->state;

    if (lane != NULL) {
        cuda_drain(be); /* which the copies follow */
        (void)cudaStreamSynchronize(lane->stream);
        close_lane(lane);
    }
}
