/*
 * rig.h - what an op test stands on: a backend, seeded inputs, guarded outputs, host access.
 *
 * Every tensor a rig gives lies in device memory between two guards. Inputs are remembered, so that
 * rig_check_guards also sees an op that writes what it should only read. Anything that fails in the
 * rig itself fails the running test.
 */
#pragma once

#include <stdint.h>

#include "ops/backend.h"

typedef struct rig {
    csp_backend *be;
    bool emulated;   /* a device played by the CPU: take small shapes         */
    csp_arena arena; /* device memory of the tensors of one rig_begin         */
    uint64_t seed;   /* of rig_begin                                          */
    uint32_t drawn;  /* tensors drawn since: each is a sequence of its own    */
    struct rig_piece *pieces;
    int64_t piece_count, piece_capacity;
    void **blocks; /* host memory given since rig_begin                     */
    int64_t block_count, block_capacity;
} rig;

/* Forgets all tensors and host blocks given so far and seeds the next ones. */
void rig_begin(rig *r, uint64_t seed);

/* Inputs: checked by rig_check_guards to be left as they are. Normal numbers as f32 or bf16. */
csp_tensor rig_normal(rig *r, csp_dtype dtype, int ndim, const int64_t *dims);
csp_tensor rig_uniform(rig *r, double low, double high, int ndim, const int64_t *dims);
/* (n) i32 in 0 .. below-1. */
csp_tensor rig_indices(rig *r, int64_t below, int64_t n);
/* (B+1) i32: random cuts of N rows, empty texts included; rig_lengths: as given. */
csp_tensor rig_cuts(rig *r, int64_t B, int64_t N);
csp_tensor rig_lengths(rig *r, int64_t B, const int64_t *length);
/* (N) u8, each 1 with probability 3/4. */
csp_tensor rig_mask(rig *r, int64_t N);
/* The values of an f32 tensor as S holds them: rounded to nearest where that is bf16. */
csp_tensor rig_stored(rig *r, csp_dtype S, const csp_tensor *t);
/* A copy of host memory. */
csp_tensor rig_input(rig *r, csp_dtype dtype, int ndim, const int64_t *dims, const void *host);

/* Outputs: bytes of 0xFF (a NaN, a -1), or seeded normal numbers for what is added to. */
csp_tensor rig_output(rig *r, csp_dtype dtype, int ndim, const int64_t *dims);
csp_tensor rig_accumulated(rig *r, int ndim, const int64_t *dims);

/* An in,out copy of t, of its own and without the check that it stays: for aliasing tests. */
csp_tensor rig_copy(rig *r, const csp_tensor *t);

/* A copy of a matrix as columns first .. of a wider one, whose other bytes are 0xFF: rows apart. */
csp_tensor rig_apart(rig *r, const csp_tensor *t, int64_t first, int64_t width);
/* What lies between the rows of a rig_apart is still what it was. */
void rig_check_between(rig *r, const csp_tensor *t, int64_t first);

/*
 * Host memory until the next rig_begin. rig_host waits for the backend and downloads; the values of
 * f32 or bf16 tensors as floats, as doubles.
 */
double *rig_doubles(rig *r, int64_t n);
int32_t *rig_ints(rig *r, int64_t n);
void *rig_host(rig *r, const csp_tensor *t);
const float *rig_floats(rig *r, const csp_tensor *t);
double *rig_as_doubles(rig *r, const csp_tensor *t);

/* Runs a parity test once for each storage type of the backend: f32, and bf16 where it has it. */
void rig_each_storage(rig *r, void (*run)(rig *r, csp_dtype S));

/* Nothing was written beside a tensor of this rig, and inputs are what they were. */
void rig_check_guards(rig *r);
/* t holds just what the rig put into it. */
void rig_check_untouched(rig *r, const csp_tensor *t);
/* Both hold the same bytes. */
void rig_check_same(rig *r, const csp_tensor *a, const csp_tensor *b);

struct CMUnitTest;
/*
 * Opens the backend named by argv[1] ("cpu" without one), with argv[2] threads (2), runs the tests
 * with the rig as their state. Returns what main returns: 77 where there is no such device.
 */
int rig_main(int argc, char **argv, const struct CMUnitTest *tests, int64_t count);
