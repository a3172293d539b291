/*
 * sample.h - what the sample programs share: a stream, device buffers, a comparison that NaN fails.
 */
#pragma once

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "portable.cuh"

/* Which mistake is planted; 0: none. Read by kernels as their argument. */
typedef int mutation;

#define SAMPLE_TRY(call)                                                                         \
    do {                                                                                         \
        const cudaError_t sample_try_ = (call);                                                  \
        if (sample_try_ != cudaSuccess) {                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(sample_try_)); \
            exit(2);                                                                             \
        }                                                                                        \
    } while (0)

/* Numbers in -1 .. 1 that are the same everywhere. */
static inline float sample_number(uint32_t i)
{
    i = (i ^ 0x5BD1E995u) * 0x9E3779B1u;
    i = (i ^ i >> 15) * 0x85EBCA77u;
    return (float)(int32_t)(i ^ i >> 13) * 0x1p-31f;
}

template <typename T> static inline T *sample_device(int64_t n)
{
    void *p = nullptr;

    SAMPLE_TRY(cudaMalloc(&p, (size_t)n * sizeof(T)));
    return (T *)p;
}

template <typename T> static inline T *sample_upload(const T *host, int64_t n, cudaStream_t stream)
{
    T *p = sample_device<T>(n);

    SAMPLE_TRY(cudaMemcpyAsync(p, host, (size_t)n * sizeof(T), cudaMemcpyHostToDevice, stream));
    SAMPLE_TRY(cudaStreamSynchronize(stream));
    return p;
}

template <typename T>
static inline void sample_download(T *host, const T *p, int64_t n, cudaStream_t stream)
{
    SAMPLE_TRY(cudaMemcpyAsync(host, p, (size_t)n * sizeof(T), cudaMemcpyDeviceToHost, stream));
    SAMPLE_TRY(cudaStreamSynchronize(stream));
}

static inline cudaStream_t sample_stream()
{
    cudaStream_t stream;

    SAMPLE_TRY(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

/* 0 if all are within limit, 1 if not. */
static inline int sample_compare(const float *got, const float *want, int64_t n, float limit)
{
    for (int64_t i = 0; i < n; i++) {
        if (!(fabsf(got[i] - want[i]) <= limit)) {
            fprintf(stderr, "wrong numbers: element %lld is %g, not %g\n", (long long)i,
                    (double)got[i], (double)want[i]);
            return 1;
        }
    }
    return 0;
}

struct sample_case {
    const char *name;
    int (*run)(cudaStream_t stream, int mistake);
};

/* The main function of a program of samples: CASE [MISTAKE], or "all" for each as it should be. */
static inline int sample_main(int argc, char **argv, const sample_case *cases, int count)
{
    const int mistake = argc > 2 ? atoi(argv[2]) : 0;
    bool found = false;

    for (int i = 0; i < count && argc > 1; i++) {
        if (strcmp(argv[1], cases[i].name) == 0 || strcmp(argv[1], "all") == 0) {
            const cudaStream_t stream = sample_stream();
            const int status = cases[i].run(stream, mistake);

            found = true;
            if (status != 0) {
                fprintf(stderr, "case %s, mistake %d: status %d\n", cases[i].name, mistake, status);
                return status;
            }
            (void)cudaStreamDestroy(stream); /* a fault stays: refusals ends with one */
        }
    }
    if (!found) {
        fprintf(stderr, "usage: %s CASE|all [MISTAKE]\n", argv[0]);
    }
    return found ? 0 : 2;
}
