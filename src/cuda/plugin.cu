/*
 * plugin.cu - what libcsplade_cuda.so shows the program, what it says of itself and the machine.
 */
#include "ops/plugin.h"

#include <stdio.h>
#include <string.h>

#include "cusparse.cuh"
#include "device.h"
#include "launch.cuh"
#include "nccl.cuh"

/* Appends one line as far as there is room. */
static void say(char *text, size_t bytes, const char *line)
{
    const size_t used = strlen(text);

    (void)snprintf(text + used, bytes - used, "%s\n", line);
}

static csp_status describe_device(int device, char *line, size_t bytes)
{
    struct cudaDeviceProp p;

    CUDA_TRY(cudaGetDeviceProperties(&p, device));
    (void)snprintf(line, bytes,
                   "cuda:%d %s, compute capability %d.%d, %d multiprocessors, %.1f GiB%s", device,
                   p.name, p.major, p.minor, p.multiProcessorCount,
                   (double)p.totalGlobalMem / (1024.0 * 1024.0 * 1024.0),
                   p.major < CUDA_OLDEST_CAPABILITY ? ": too old" : "");
    return CSP_OK;
}

static csp_status describe(char *text, size_t bytes)
{
    char line[512], sparse[64], nccl[64];
    const size_t lt = cublasLtGetVersion();
    int count, driver = 0, blas[3] = { 0, 0, 0 };

    (void)cudaDriverGetVersion(&driver);
    (void)cublasGetProperty(MAJOR_VERSION, &blas[0]);
    (void)cublasGetProperty(MINOR_VERSION, &blas[1]);
    (void)cublasGetProperty(PATCH_LEVEL, &blas[2]);
    cuda_cusparse_version(sparse, sizeof(sparse));
    cuda_nccl_version(nccl, sizeof(nccl));
    text[0] = '\0';
    (void)snprintf(line, sizeof(line),
                   "CUDA %d.%d, cuBLAS %d.%d.%d, cuBLASLt %zu.%zu.%zu, cuSPARSE %s, NCCL %s, "
                   "driver for CUDA %d.%d",
                   CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10, blas[0], blas[1], blas[2],
                   lt / 10000, lt % 10000 / 100, lt % 100, sparse, nccl, driver / 1000,
                   driver % 1000 / 10);
    if (driver == 0) {
        *strstr(line, ", driver") = '\0';
    }
    say(text, bytes, line);
    CSP_TRY(cuda_device_count("cuda", &count));
    for (int device = 0; device < count; device++) {
        CSP_TRY(describe_device(device, line, sizeof(line)));
        say(text, bytes, line);
    }
    return CSP_OK;
}

extern "C" {
extern __attribute__((visibility("default"))) const csp_plugin csp_cuda_plugin;

const csp_plugin csp_cuda_plugin = { CSP_PLUGIN_INTERFACE, sizeof(csp_ops), "cuda", csp_cuda_open,
                                     describe };
}
