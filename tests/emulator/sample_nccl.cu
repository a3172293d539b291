/*
 * sample_nccl.cu - uses of NCCL by two ranks, this process and one that it forks: right, and wrong
 * in several ways, one at a time. Called and judged like sample_kernels.cu.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "emulator/nccl_fake.h"
#include "emulator/sample.h"

#define EXPECT(condition)                                                           \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            return 1;                                                               \
        }                                                                           \
    } while (0)

enum { N = 300 };

/* y := x + b */
static __global__ void add_kernel(float *y, const float *x, float b, int64_t n)
{
    for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        y[i] = x[i] + b;
    }
}

/* A rank whose other one has failed has nothing to wait for. */
static void on_child(int)
{
    int status;

    if (waitpid(-1, &status, WNOHANG) > 0 && status != 0) {
        _exit(1);
    }
}

static bool is_ready(nccl_comm comm)
{
    nccl_result state = NCCL_IN_PROGRESS;

    while (ncclCommGetAsyncError(comm, &state) == NCCL_OK && state == NCCL_IN_PROGRESS) {
        usleep(100);
    }
    return state == NCCL_OK;
}

static cudaEvent_t passed(cudaStream_t stream)
{
    cudaEvent_t event;

    SAMPLE_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    SAMPLE_TRY(cudaEventRecord(event, stream));
    return event;
}

/* The sum over both ranks of a tensor that a kernel has written, on a second stream. */
static int sum(int mistake, int rank, nccl_id id)
{
    nccl_config config = { sizeof(config), NCCL_CONFIG_MAGIC, NCCL_OLDEST, 0 };
    float x[N], got[N], want[N];
    nccl_comm comm = nullptr;

    SAMPLE_TRY(cudaSetDevice(rank));
    const cudaStream_t stream = sample_stream(), beside = sample_stream();
    EXPECT(ncclCommInitRankConfig(&comm, 2, id, rank, &config) == NCCL_IN_PROGRESS);
    EXPECT(is_ready(comm));
    for (int i = 0; i < N; i++) {
        x[i] = (float)(i % 10);
        want[i] = 2.0f * x[i] + 1.0f;
    }
    const float *from = sample_upload(x, N, stream);
    float *y = sample_device<float>(N);
    for (int i = 0; i < 5; i++) { /* some work before it, which takes its time */
        SAMPLE_TRY(cudaMemsetAsync(y, 0, sizeof(x), stream));
    }
    SAMPLE_TRY(cu::launch(add_kernel, 2, 32, 0, stream, y, from, (float)rank, (int64_t)N));
    if (mistake != 1) { /* nothing keeps it from being read too early */
        SAMPLE_TRY(cudaStreamWaitEvent(beside, passed(stream), 0));
    }
    const float *in = mistake == 5 ? x : y;                     /* an address of the host */
    const size_t count = mistake == 3 && rank == 1 ? N - 1 : N; /* not as the other rank */
    if (mistake == 6) { /* what is read overlaps what is written */
        (void)ncclReduceScatter(y, y + 1, N / 2, NCCL_F32, NCCL_SUM, comm, beside);
    }
    EXPECT(ncclGroupStart() == NCCL_OK);
    EXPECT(ncclAllReduce(in, y, count, NCCL_F32, NCCL_SUM, comm, beside) == NCCL_OK);
    EXPECT(ncclGroupEnd() == NCCL_IN_PROGRESS);
    if (mistake != 4) { /* it may not be on the stream yet */
        EXPECT(is_ready(comm));
    }
    if (mistake == 7) { /* destroyed with something under way */
        (void)ncclCommFinalize(comm);
        (void)ncclCommDestroy(comm);
    }
    if (mistake != 2) { /* nothing keeps the result from being read too early */
        SAMPLE_TRY(cudaStreamWaitEvent(stream, passed(beside), 0));
    }
    sample_download(got, y, N, stream);
    if (sample_compare(got, want, N, 0.0f) != 0) {
        return 1;
    }
    SAMPLE_TRY(cudaStreamSynchronize(beside));
    EXPECT(ncclCommFinalize(comm) == NCCL_IN_PROGRESS && is_ready(comm));
    EXPECT(ncclCommDestroy(comm) == NCCL_OK);
    if (mistake == 8) { /* used afterwards */
        (void)ncclAllReduce(y, y, N, NCCL_F32, NCCL_SUM, comm, beside);
    }
    return 0;
}

static int ranks(cudaStream_t, int mistake)
{
    int status = 0, own;
    nccl_id id;
    pid_t child;

    setenv("CSP_EMU_DEVICES", "2", 1);
    EXPECT(ncclGetUniqueId(&id) == NCCL_OK);
    fflush(nullptr);
    signal(SIGCHLD, on_child);
    child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGCHLD, SIG_DFL);
        _exit(sum(mistake, 1, id));
    }
    own = sum(mistake, 0, id);
    signal(SIGCHLD, SIG_DFL);
    (void)waitpid(child, &status, 0); /* gone already, if on_child has seen it end well */
    return own != 0 ? own : status != 0;
}

/* Refusals, and what a group of one rank comes to. */
static int alone(cudaStream_t stream, int)
{
    nccl_config config = { sizeof(config), NCCL_CONFIG_MAGIC, NCCL_OLDEST, 0 };
    float x[N], got[N];
    nccl_result state;
    nccl_comm comm = nullptr;
    nccl_id id;

    EXPECT(ncclGroupEnd() == NCCL_INVALID_USAGE);
    EXPECT(ncclGetUniqueId(&id) == NCCL_OK);
    EXPECT(ncclCommInitRankConfig(&comm, 1, id, 1, &config) == NCCL_INVALID_ARGUMENT);
    config.magic = 0;
    EXPECT(ncclCommInitRankConfig(&comm, 1, id, 0, &config) == NCCL_INVALID_ARGUMENT);
    config.magic = NCCL_CONFIG_MAGIC;
    EXPECT(ncclCommInitRankConfig(&comm, 1, id, 0, &config) == NCCL_IN_PROGRESS);
    EXPECT(is_ready(comm));
    for (int i = 0; i < N; i++) {
        x[i] = sample_number((uint32_t)i);
    }
    float *y = sample_upload(x, N, stream);
    EXPECT(ncclBroadcast(y, y, N, NCCL_F32, 1, comm, stream) == NCCL_INVALID_USAGE);
    EXPECT(ncclAllReduce(y, y, N, NCCL_F32, NCCL_SUM, comm, stream) == NCCL_IN_PROGRESS);
    EXPECT(is_ready(comm));
    sample_download(got, y, N, stream);
    EXPECT(ncclCommAbort(comm) == NCCL_OK);
    EXPECT(sample_compare(got, x, N, 0.0f) == 0);
    /* One that nobody else comes to is waited for, and can be left. */
    EXPECT(ncclGetUniqueId(&id) == NCCL_OK);
    EXPECT(ncclCommInitRankConfig(&comm, 2, id, 0, &config) == NCCL_IN_PROGRESS);
    for (int i = 0; i < 20; i++) {
        EXPECT(ncclCommGetAsyncError(comm, &state) == NCCL_OK && state == NCCL_IN_PROGRESS);
    }
    EXPECT(ncclCommAbort(comm) == NCCL_OK);
    return 0;
}

/* In this order by "all", without mistakes. */
static const sample_case cases[] = { { "alone", alone }, { "ranks", ranks } };

int main(int argc, char **argv)
{
    return sample_main(argc, argv, cases, (int)(sizeof(cases) / sizeof(cases[0])));
}
