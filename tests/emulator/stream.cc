/*
 * stream.cc - streams, events, copies and launches of the fake CUDA runtime.
 *
 * Streams are lazy: work runs when somebody waits, and which of the streams that may go on does is
 * drawn each time. So a missing wait is seen: the host reads too early, a buffer is reused too
 * early, two streams meet in the wrong order. The NULL stream is refused.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "emulator/control.h"
#include "emulator/sanitizer.h"
#include "emulator/stream.h"

namespace emu
{

namespace
{

std::vector<CUstream_st *> streams;
cudaError_t sticky = cudaSuccess, last = cudaSuccess;
uint64_t synchronisations, kernels, launches;
int kernel_to_fault;
int actor_now, streams_made;
double pretended; /* seconds that work was said to take */

double now()
{
    struct timespec t;

    tsan_ignore_begin(); /* whoever asks, it is no work of the device */
    clock_gettime(CLOCK_MONOTONIC, &t);
    tsan_ignore_end();
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec + pretended;
}

bool may_go_on(const CUstream_st *stream)
{
    if (stream->queue.empty()) {
        return false;
    }
    const Op *op = stream->queue.front().get();
    return op->kind != OP_WAIT || op->recording->done;
}

/* Does the first thing in the queue, or a node of it if it is a graph. False: it could not go on. */
bool step(CUstream_st *stream)
{
    void *host = tsan_current();
    Op *op = stream->queue.front().get();
    bool finished = true, waits = false;

    tsan_switch(stream->actor);
    tsan_acquire(&op->clock);
    actor_now = stream->number;
    if (sticky != cudaSuccess) {
        if (op->recording != nullptr) {
            op->recording->done = true;
        }
    } else if (op->kind == OP_WORK) {
        op->work();
    } else if (op->kind == OP_RECORD) {
        tsan_release(&op->recording->clock);
        op->recording->seconds = now();
        op->recording->done = true;
    } else if (op->kind == OP_WAIT) {
        tsan_acquire(&op->recording->clock);
    } else if (op->kind == OP_POLL) {
        finished = op->poll();
        waits = !finished;
    } else {
        finished = step_graph(op->run.get(), stream->actor, &op->clock);
    }
    tsan_release(&stream->clock);
    tsan_switch(host);
    if (finished) {
        tsan_ignore_begin();
        stream->queue.pop_front();
        tsan_ignore_end();
    }
    return !waits;
}

/* Where all that is left waits for other processes. */
void pause_a_little()
{
    const struct timespec pause = { 0, 50 * 1000 };

    nanosleep(&pause, nullptr);
}

/* Works until done() or nobody can. */
template <typename F> void work_until(F done)
{
    if (done()) {
        return;
    }
    memory_open();
    for (uint32_t idle = 0; !done();) {
        CUstream_st *able[64];
        uint32_t count = 0;

        for (CUstream_st *stream : streams) {
            if (count < 64 && may_go_on(stream)) {
                able[count++] = stream;
            }
        }
        if (count == 0) {
            fail({ nullptr, 0 }, "streams wait for events in a circle");
        }
        /* One that waits must not keep the others from their turn. */
        const uint32_t next = settings().order == ORDER_FORWARD   ? idle % count
                              : settings().order == ORDER_REVERSE ? count - 1 - idle % count
                                                                  : draw(count);
        idle = step(able[next]) ? 0 : idle + 1;
        if (idle >= 2 * count) {
            pause_a_little();
        }
    }
    memory_close();
}

/* Work through which nobody waits is not done by itself; but some may be, at any time. */
void work_a_little()
{
    work_until([]() {
        bool any = false;

        for (const CUstream_st *stream : streams) {
            any = any || may_go_on(stream);
        }
        return !any || draw(4) == 0;
    });
}

bool all_idle()
{
    for (const CUstream_st *stream : streams) {
        if (!stream->queue.empty()) {
            return false;
        }
    }
    return true;
}

} // namespace

void pass_time(double seconds)
{
    pretended += seconds;
}

void count_wait()
{
    synchronisations++;
}

void set_actor(int number)
{
    actor_now = number;
}

cudaError_t remember(cudaError_t error)
{
    if (error != cudaSuccess) {
        last = error;
    }
    return error;
}

cudaError_t fault()
{
    return remember(sticky);
}

void set_fault(cudaError_t error)
{
    if (sticky == cudaSuccess) {
        sticky = error;
    }
}

bool is_capturing()
{
    for (const CUstream_st *stream : streams) {
        if (stream->capture != nullptr) {
            stream->capture->broken = true;
            return true;
        }
    }
    return false;
}

void run_everything()
{
    work_until(all_idle);
    for (CUstream_st *stream : streams) {
        tsan_acquire(&stream->clock);
    }
}

bool is_stream(cudaStream_t stream, const char *who)
{
    for (const CUstream_st *known : streams) {
        if (known == stream) {
            return true;
        }
    }
    fprintf(stderr, "emulator: %s: %s\n", who,
            stream == nullptr ? "the NULL stream is refused" : "not a stream");
    return false;
}

cudaError_t append(CUstream_st *stream, std::unique_ptr<Op> op)
{
    tsan_release(&op->clock);
    stream->queue.push_back(std::move(op));
    if (settings().eager) {
        work_until(all_idle);
    }
    return cudaSuccess;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work, const char *who)
{
    if (sticky != cudaSuccess) {
        return fault();
    }
    if (!is_stream(stream, who)) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (stream->capture != nullptr) {
        return capture_node(stream, std::move(work), who);
    }
    return append(
        stream, std::unique_ptr<Op>(new Op { OP_WORK, std::move(work), who, nullptr, nullptr, 0 }));
}

cudaError_t enqueue_poll(cudaStream_t stream, std::function<bool()> poll, const char *who)
{
    if (sticky != cudaSuccess) {
        return fault();
    }
    if (!is_stream(stream, who)) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (stream->capture != nullptr) {
        stream->capture->broken = true;
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    return append(stream, std::unique_ptr<Op>(new Op { OP_POLL, nullptr, who, nullptr, nullptr, 0,
                                                       std::move(poll) }));
}

namespace
{

/* Blocks run one after another: in order, or from a drawn one on in drawn steps. */
void run_kernel(const Kernel &kernel, dim3 grid, dim3 block, size_t shared_bytes)
{
    const uint64_t n = (uint64_t)grid.x * grid.y * grid.z;
    /* Fresh memory for all three: an address used before remembers who was there. */
    std::unique_ptr<char[]> clocks(new char[3]);
    BlockJob job = { &kernel,    grid,       block,      {},       shared_bytes,
                     &clocks[0], &clocks[1], &clocks[2], actor_now };
    uint64_t at = 0, stride = 1;

    kernels++;
    if ((kernel_to_fault > 0 && --kernel_to_fault == 0) || kernels == settings().faulty) {
        set_fault(cudaErrorIllegalAddress);
        return;
    }
    if (settings().order == ORDER_REVERSE) {
        at = n - 1;
        stride = n - 1;
    } else if (settings().order == ORDER_RANDOM && n < UINT32_MAX) {
        uint64_t a, b;

        at = draw((uint32_t)n);
        do { /* a step without a common divisor reaches every block */
            stride = 1 + draw((uint32_t)n);
            for (a = n, b = stride; b != 0;) {
                const uint64_t rest = a % b;

                a = b;
                b = rest;
            }
        } while (a != 1);
    }
    tsan_release(job.start);
    for (uint64_t i = 0; i < n; i++, at = (at + stride) % n) {
        job.index = { (unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y),
                      (unsigned)(at / grid.x / grid.y) };
        if (!run_block(job)) {
            set_fault(cudaErrorLaunchFailure);
            break;
        }
    }
    tsan_acquire(job.done);
    tsan_ignore_begin();
    clocks.reset();
    tsan_ignore_end();
}

bool is_configuration(dim3 grid, dim3 block)
{
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;

    return threads >= 1 && threads <= MAX_THREADS && block.z <= 64 && grid.x >= 1 && grid.y >= 1 &&
           grid.z >= 1 && grid.x <= 0x7FFFFFFFu && grid.y <= 65535 && grid.z <= 65535;
}

} // namespace

cudaError_t launch(Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream)
{
    const std::shared_ptr<void> arguments(kernel.self, [kernel](void *self) {
        tsan_ignore_begin();
        kernel.destroy(self);
        tsan_ignore_end();
    });

    need_device("a kernel launch");
    if (is_stream(stream, "a kernel launch") && stream->device != current_device()) {
        fprintf(stderr,
                "emulator: a kernel is launched on a stream of device %d, this thread has %d\n",
                stream->device, current_device());
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (planned_failure()) {
        return remember(cudaErrorLaunchOutOfResources);
    }
    if (!is_configuration(grid, block)) {
        return remember(cudaErrorInvalidConfiguration);
    }
    if (shared_bytes > shared_allowed(kernel.function)) {
        return remember(cudaErrorInvalidValue);
    }
    launches++;
    return enqueue(
        stream,
        [=]() {
            (void)arguments;
            run_kernel(kernel, grid, block, shared_bytes);
        },
        "a kernel launch");
}

} // namespace emu

using namespace emu;

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned, int)
{
    need_device("cudaStreamCreate");
    if (planned_failure()) {
        return remember(cudaErrorMemoryAllocation);
    }
    CUstream_st *stream = new CUstream_st();
    stream->actor = tsan_create();
    stream->number = streams_made++;
    stream->device = current_device();
    streams.push_back(stream);
    *out = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    return cudaStreamCreateWithPriority(out, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *out)
{
    return cudaStreamCreateWithPriority(out, 0, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (!is_stream(stream, "cudaStreamDestroy")) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    work_until([stream]() { return stream->queue.empty(); });
    tsan_acquire(&stream->clock);
    for (size_t i = 0; i < streams.size(); i++) {
        if (streams[i] == stream) {
            streams.erase(streams.begin() + (ptrdiff_t)i);
            break;
        }
    }
    tsan_destroy(stream->actor);
    delete stream;
    return fault();
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (!is_stream(stream, "cudaStreamSynchronize")) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (is_capturing()) {
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    count_wait();
    work_until([stream]() { return stream->queue.empty(); });
    tsan_acquire(&stream->clock);
    return planned_failure() ? remember(cudaErrorUnknown) : fault();
}

cudaError_t cudaDeviceSynchronize(void)
{
    if (is_capturing()) {
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    count_wait();
    run_everything();
    return planned_failure() ? remember(cudaErrorUnknown) : fault();
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    if (!is_stream(stream, "cudaStreamQuery")) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (is_capturing()) {
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    work_a_little();
    if (!stream->queue.empty()) {
        return cudaErrorNotReady;
    }
    tsan_acquire(&stream->clock);
    return fault();
}

/* An event last recorded in a capture stands for nothing outside of it until it is recorded again. */
static cudaError_t refuse_captured()
{
    is_capturing(); /* which such a call breaks */
    return remember(cudaErrorCapturedEvent);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    need_device("cudaEventCreate");
    if (planned_failure()) {
        return remember(cudaErrorMemoryAllocation);
    }
    *out = new CUevent_st {};
    (*out)->timed = (flags & cudaEventDisableTiming) == 0;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    return cudaEventCreateWithFlags(out, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    if (!is_stream(stream, "cudaEventRecord")) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (planned_failure()) {
        return remember(cudaErrorUnknown);
    }
    if (stream->capture != nullptr) {
        capture_record(event, stream);
        return cudaSuccess;
    }
    event->capture.reset();
    event->captured = false;
    event->recording = std::make_shared<Recording>();
    return append(stream, std::unique_ptr<Op>(new Op { OP_RECORD, nullptr, "cudaEventRecord",
                                                       event->recording, nullptr, 0 }));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    if (!is_stream(stream, "cudaStreamWaitEvent")) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (planned_failure()) {
        return remember(cudaErrorUnknown);
    }
    if (event->captured && event->capture.expired()) {
        return refuse_captured();
    }
    if (stream->capture != nullptr || !event->capture.expired()) {
        return capture_wait(stream, event);
    }
    if (event->recording == nullptr) {
        return cudaSuccess;
    }
    return append(stream, std::unique_ptr<Op>(new Op { OP_WAIT, nullptr, "cudaStreamWaitEvent",
                                                       event->recording, nullptr, 0 }));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    const std::shared_ptr<Recording> recording = event->recording;

    if (is_capturing()) {
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    if (event->captured) {
        return refuse_captured();
    }
    count_wait();
    if (recording != nullptr) {
        work_until([&]() { return recording->done; });
        tsan_acquire(&recording->clock);
    }
    return planned_failure() ? remember(cudaErrorUnknown) : fault();
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    if (is_capturing()) {
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    if (event->captured) {
        return refuse_captured();
    }
    work_a_little();
    if (event->recording != nullptr && !event->recording->done) {
        return cudaErrorNotReady;
    }
    if (event->recording != nullptr) {
        tsan_acquire(&event->recording->clock);
    }
    return fault();
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    if (start->captured || end->captured) {
        return refuse_captured();
    }
    if (!start->timed || !end->timed || start->recording == nullptr || end->recording == nullptr) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (!start->recording->done || !end->recording->done) {
        return cudaErrorNotReady;
    }
    *milliseconds = (float)(1e3 * (end->recording->seconds - start->recording->seconds));
    return fault();
}

namespace
{

/* True if dst and src are on the sides that kind says. */
bool is_direction(const void *dst, const void *src, cudaMemcpyKind kind)
{
    const bool to_device = is_device(dst), from_device = is_device(src);

    switch (kind) {
    case cudaMemcpyHostToDevice:
        return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
        return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
        return to_device && from_device;
    case cudaMemcpyDefault:
        return to_device || from_device;
    default:
        return false;
    }
}

} // namespace

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    if (width == 0 || height == 0) {
        return fault();
    }
    if (planned_failure()) {
        return remember(cudaErrorUnknown);
    }
    if (!is_direction(dst, src, kind)) {
        fprintf(stderr, "emulator: a copy says that it goes another way than it does\n");
        return remember(cudaErrorInvalidMemcpyDirection);
    }
    if (width > dst_pitch || width > src_pitch) {
        return remember(cudaErrorInvalidPitchValue);
    }
    if (!is_stream(stream, "cudaMemcpyAsync")) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (stream->capture != nullptr && !(is_device_visible(dst) && is_device_visible(src))) {
        /* Its replays would read and write what the host has long used for something else. */
        stream->capture->broken = true;
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    if (!(is_device_visible(dst) && is_device_visible(src))) {
        count_wait(); /* a GPU's host stays until pageable memory has been read or written */
    }
    return enqueue(
        stream,
        [=]() {
            for (size_t row = 0; row < height; row++) {
                char *to = (char *)dst + row * dst_pitch;
                const char *from = (const char *)src + row * src_pitch;

                check_read(from, width, "cudaMemcpyAsync");
                check_write(to, width, "cudaMemcpyAsync");
                memmove(to, from, width);
            }
        },
        "cudaMemcpyAsync");
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    return cudaMemcpy2DAsync(dst, bytes, src, bytes, bytes, bytes == 0 ? 0 : 1, kind, stream);
}

cudaError_t cudaMemset2DAsync(void *dst, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream)
{
    if (planned_failure()) {
        return remember(cudaErrorUnknown);
    }
    if (width > 0 && height > 0 && (!is_device(dst) || width > pitch)) {
        return remember(cudaErrorInvalidValue);
    }
    return enqueue(
        stream,
        [=]() {
            for (size_t row = 0; row < height; row++) {
                check_write((char *)dst + row * pitch, width, "cudaMemsetAsync");
                memset((char *)dst + row * pitch, value, width);
            }
        },
        "cudaMemsetAsync");
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    return cudaMemset2DAsync(dst, bytes, value, bytes, bytes == 0 ? 0 : 1, stream);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    return enqueue(
        stream, [=]() { function(data); }, "cudaLaunchHostFunc");
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = last;

    last = sticky;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last;
}

void emu_fault_kernel(int n)
{
    kernel_to_fault = n;
}

uint64_t emu_synchronisations(void)
{
    return synchronisations;
}

uint64_t emu_kernels(void)
{
    return kernels;
}

uint64_t emu_launches(void)
{
    return launches;
}
