/*
 * wait.cu - waiting for the device. Alone, a process waits inside the driver. One of several must
 * not: a collective ends when all ranks have come to it, and one of them may have failed. So while
 * groups of devices are open, the host asks again and again whether the device is done, whether
 * NCCL has met an error, and whether another rank has failed or is late.
 */
#include <time.h>

#include "collective_group.cuh"
#include "core/machine.h"
#include "device.h"
#include "launch.cuh"

/* Questions without a pause, then one of so many nanoseconds between two. */
enum { EAGER = 50, PAUSE_NS = 50 * 1000 };

/* What is waited for: one of them. */
typedef struct awaited {
    cudaStream_t stream;
    cudaEvent_t event;
} awaited;

static cudaError_t query(const awaited *what)
{
    return what->event != NULL ? cudaEventQuery(what->event) : cudaStreamQuery(what->stream);
}

void cuda_pause(int64_t turn)
{
    const struct timespec pause = { 0, PAUSE_NS };

    if (turn > EAGER) {
        (void)nanosleep(&pause, NULL);
    }
}

static csp_status wait_for(csp_backend *be, const awaited *what)
{
    cuda_state *state = cuda_state_of(be);
    cuda_patience patience = {};
    cudaError_t error;

    if (!cuda_collective_any(state)) {
        return cuda_waited(be, what->event != NULL ? cudaEventSynchronize(what->event)
                                                   : cudaStreamSynchronize(what->stream));
    }
    for (int64_t turn = 0;; turn++) {
        error = query(what);
        if (error != cudaErrorNotReady) {
            return cuda_waited(be, error);
        }
        CSP_TRY(cuda_collective_check(be, &patience));
        cuda_pause(turn);
    }
}

csp_status cuda_wait_stream(csp_backend *be, cudaStream_t stream)
{
    const awaited what = { stream, NULL };

    return wait_for(be, &what);
}

csp_status cuda_wait_event(csp_backend *be, cudaEvent_t event)
{
    const awaited what = { NULL, event };

    return wait_for(be, &what);
}

csp_status cuda_wait(csp_backend *be)
{
    return cuda_wait_stream(be, cuda_state_of(be)->stream);
}

csp_status cuda_wait_all(csp_backend *be)
{
    const cudaStream_t beside = cuda_state_of(be)->collectives.stream;

    CSP_TRY(cuda_wait(be));
    if (beside != NULL) {
        const awaited what = { beside, NULL };

        CSP_TRY(wait_for(be, &what));
    }
    return CSP_OK;
}

void cuda_drain(csp_backend *be)
{
    cuda_state *state = cuda_state_of(be);

    if (cuda_collective_any(state)) {
        /* One that fails has ended all groups, or the device is broken: the rest takes no time. */
        (void)(cuda_wait_all(be) == CSP_OK);
    }
    if (state->collectives.stream != NULL) {
        (void)cudaStreamSynchronize(state->collectives.stream);
    }
    if (state->stream != NULL) {
        (void)cudaStreamSynchronize(state->stream);
    }
}
