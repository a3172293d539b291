/*
 * cases.h - what the conformance program runs: kernels that use the wrappers of portable.cuh and
 * the device functions of CUDA on seeded inputs, one kernel a case.
 *
 * The same sources are compiled by nvcc for a GPU and by the C++ compiler for the emulator. What a
 * GPU wrote (conformance --write) is what the emulator must write too (conformance --compare).
 */
#pragma once

#include "portable.cuh"

/* What the words of in are. */
enum conform_input {
    INPUT_BITS,     /* any 32 bits                                                   */
    INPUT_FLOATS,   /* finite floats of all sizes                                    */
    INPUT_NORMALS,  /* floats, normally distributed                                  */
    INPUT_POSITIVE, /* floats in (0, 100)                                            */
    INPUT_INTEGERS, /* floats that are integers of -8 .. 8: sums of products are exact */
};

/* When words of out agree. */
enum conform_rule {
    RULE_BITS,      /* the same bits                                                     */
    RULE_FLOATS,    /* the same bits, but any NaN is like any other, and 0 like -0       */
    RULE_RELATIVE,  /* floats within limit of their size; not finite: as RULE_FLOATS     */
    RULE_BFLOATS,   /* as RULE_RELATIVE; each word holds two bf16                        */
    RULE_MAGNITUDE, /* pairs (float, size of the terms that were added in it): the floats
                       within limit times that size                                      */
};

typedef void (*conform_kernel)(const uint32_t *in, uint32_t *out);

typedef struct conform_case {
    const char *name;
    conform_kernel kernel;
    int blocks, threads;
    size_t shared_bytes; /* dynamic */
    int in_words, out_words;
    conform_input input;
    conform_rule rule;
    double limit; /* of the last three rules */
} conform_case;

/* Cases of one file. */
typedef struct conform_group {
    const conform_case *cases;
    int count;
    /* Runs a case, and waits; NULL: its kernel is launched. */
    cudaError_t (*run)(const conform_case *c, const uint32_t *in, uint32_t *out,
                       cudaStream_t stream);
} conform_group;

conform_group conform_scalar_cases(void); /* functions of one element                          */
conform_group conform_bfloat_cases(void); /* bf16                                              */
conform_group conform_warp_cases(void);   /* shuffles, votes, reductions                       */
conform_group conform_block_cases(void);  /* barriers, atomics, shared memory, copies          */
conform_group conform_matrix_cases(void); /* ldmatrix, mma                                     */
conform_group conform_tile_cases(void);   /* of compute capability 9.0: mbarrier, TMA, wgmma   */

#define CONFORM_GROUP(cases)                                   \
    {                                                          \
        cases, (int)(sizeof(cases) / sizeof((cases)[0])), NULL \
    }

static __device__ __forceinline__ int conform_thread()
{
    return (int)(blockIdx.x * blockDim.x + threadIdx.x);
}
