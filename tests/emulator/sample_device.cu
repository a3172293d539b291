/*
 * sample_device.cu - two devices and threads that use one of them, and what a launch may ask of
 * one: right, and wrong in several ways, one at a time. Called and judged like sample_kernels.cu.
 */
#include <pthread.h>

#include "emulator/control.h"
#include "emulator/sample.h"

enum { N = 100 };

/* y := x + 1 */
static __global__ void next_kernel(float *y, const float *x, int64_t n)
{
    for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        y[i] = x[i] + 1.0f;
    }
}

/* What a thread is given, and what came of it. */
typedef struct errand {
    cudaStream_t stream;
    float *y;
    const float *x;
    int mistake;
    cudaError_t error;
} errand;

/* Mistake 1: the device is not set, and a new thread has device 0. */
static void *launch_beside(void *argument)
{
    errand *e = (errand *)argument;

    e->error = e->mistake == 1 ? cudaSuccess : cudaSetDevice(1);
    if (e->error == cudaSuccess) {
        e->error = cu::launch(next_kernel, 1, 32, 0, e->stream, e->y, e->x, (int64_t)N);
    }
    return NULL;
}

/* A thread enqueues on a stream of device 1. Mistake 2: a stream from before it was set. */
static int thread(cudaStream_t early, int mistake)
{
    errand e = {};
    pthread_t beside;
    float x[N], got[N], want[N];

    for (int i = 0; i < N; i++) {
        x[i] = sample_number((uint32_t)i);
        want[i] = x[i] + 1.0f;
    }
    SAMPLE_TRY(cudaSetDevice(1));
    e.mistake = mistake;
    e.stream = mistake == 2 ? early : sample_stream();
    e.x = sample_upload(x, N, e.stream);
    e.y = sample_device<float>(N);
    if (pthread_create(&beside, NULL, launch_beside, &e) != 0 || pthread_join(beside, NULL) != 0) {
        return 2;
    }
    SAMPLE_TRY(e.error);
    sample_download(got, e.y, N, e.stream);
    SAMPLE_TRY(cudaSetDevice(0));
    return sample_compare(got, want, N, 0.0f);
}

/* The time between two events. Mistake 1: one of them takes no times. */
static int timing(cudaStream_t stream, int mistake)
{
    cudaEvent_t event[2];
    float milliseconds;

    for (int i = 0; i < 2; i++) {
        SAMPLE_TRY(cudaEventCreateWithFlags(
            &event[i], mistake == 1 && i == 1 ? cudaEventDisableTiming : cudaEventDefault));
        SAMPLE_TRY(cudaEventRecord(event[i], stream));
    }
    SAMPLE_TRY(cudaStreamSynchronize(stream));
    SAMPLE_TRY(cudaEventElapsedTime(&milliseconds, event[0], event[1]));
    return milliseconds >= 0.0f ? 0 : 1;
}

/*
 * Copies that the host need not wait for. Mistake 1: to memory that is not page-locked; 2: memory
 * of the device is freed on the way.
 */
static int waits(cudaStream_t stream, int mistake)
{
    static float pageable[N];
    float *locked, *x = sample_device<float>(N), *other = sample_device<float>(N);
    uint64_t before;

    SAMPLE_TRY(cudaMallocHost((void **)&locked, sizeof(pageable)));
    SAMPLE_TRY(cudaMemsetAsync(x, 0, sizeof(pageable), stream));
    before = emu_synchronisations();
    SAMPLE_TRY(cudaMemcpyAsync(mistake == 1 ? pageable : locked, x, sizeof(pageable),
                               cudaMemcpyDeviceToHost, stream));
    SAMPLE_TRY(mistake == 2 ? cudaFree(other) : cudaSuccess);
    if (emu_synchronisations() != before) {
        fprintf(stderr, "wrong numbers: the host waits\n");
        return 1;
    }
    SAMPLE_TRY(cudaStreamSynchronize(stream));
    SAMPLE_TRY(cudaFreeHost(locked));
    return 0;
}

/* The same by way of shared memory; what is dynamic of it is not used. */
static __global__ void next_shared_kernel(float *y, const float *x, int64_t n)
{
    SHARED(part, float[2048]);

    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        part[i] = x[i];
        y[i] = part[i] + 1.0f;
    }
}

/*
 * A launch with more shared memory than the usual. Mistake 1: without permission; 2: permission was
 * given, and less of it afterwards; 3: none, and what is static is forgotten.
 */
static int shared(cudaStream_t stream, int mistake)
{
    const size_t bytes = mistake == 3 ? 44 * 1024 : 60 * 1024;
    float x[N], got[N], want[N], *dx, *dy = sample_device<float>(N);

    for (int i = 0; i < N; i++) {
        x[i] = sample_number((uint32_t)i);
        want[i] = x[i] + 1.0f;
    }
    dx = sample_upload(x, N, stream);
    if (mistake == 0 || mistake == 2) {
        SAMPLE_TRY(cu::allow_shared(next_shared_kernel, bytes));
    }
    if (mistake == 2) {
        SAMPLE_TRY(cu::allow_shared(next_shared_kernel, bytes - 1024));
    }
    SAMPLE_TRY(cu::launch(next_shared_kernel, 1, 32, bytes, stream, dy, dx, (int64_t)N));
    sample_download(got, dy, N, stream);
    return sample_compare(got, want, N, 0.0f);
}

/* In this order by "all", without mistakes. */
static const sample_case cases[] = {
    { "timing", timing }, { "shared", shared }, { "waits", waits }, { "thread", thread }
};

int main(int argc, char **argv)
{
    if (setenv("CSP_EMU_DEVICES", "2", 1) != 0) {
        return 2;
    }
    return sample_main(argc, argv, cases, (int)(sizeof(cases) / sizeof(cases[0])));
}
