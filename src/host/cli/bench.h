/*
 * bench.h - the cases of csplade bench that measure a device: kernels beside what bounds them,
 * whole steps beside the ideal. Numbers of the cases are those of docs/benchmarks/gpu.md.
 *
 * A time is taken by the host's clock around calls in a row that end in one wait: at least 20 ms of
 * them, so that the wait, some 10 us, is nothing, and the device is never idle in between. A call
 * reads and writes several times what a second-level cache holds; all inputs are random.
 */
#pragma once

#include "cli/args.h"
#include "ops/backend.h"

typedef struct csp_bench {
    const csp_arguments *args;
    csp_backend *be;
    csp_dtype dtype; /* of weights and activations                                      */
    int64_t repeats; /* samples                                                         */
    int64_t warmup;  /* calls before them                                               */
    bool tiny;       /* shapes of some tokens, to try a case out                        */
    bool profile;    /* of the steps: what each op takes                                */
    double product;  /* measured: arithmetic of a large product a second                */
    double copy;     /* measured: bytes read and written by a large copy a second       */
} csp_bench;

/*
 * Refuses an option that was given and that this case does not look at. name: NULL for all; own:
 * the case has shapes of its own. Errors: CSP_ERR_CONFIG.
 */
CSP_CHECKED csp_status csp_bench_check_options(const csp_arguments *args, const char *name,
                                               bool own);

/* Seconds of one call: median of the samples, and their quartiles. */
typedef struct csp_bench_time {
    double median, low, high;
} csp_bench_time;

typedef csp_status (*csp_bench_work)(csp_bench *b, void *context);
CSP_CHECKED csp_status csp_bench_measure(csp_bench *b, csp_bench_work work, void *context,
                                         csp_bench_time *out);

/* A number of a row: "ratio", 1.07. */
typedef struct csp_bench_figure {
    const char *name;
    double value;
} csp_bench_figure;

/* Prints a row: the case, what of it, its time (NULL: none), its figures up to one without name. */
void csp_bench_print(const csp_bench *b, const char *name, const char *what,
                     const csp_bench_time *time, const csp_bench_figure *figures);

/* Fills an f32 or bf16 tensor with normal numbers times scale, in blocks of a prime length. */
CSP_CHECKED csp_status csp_bench_fill(csp_bench *b, csp_tensor *t, uint32_t key, float scale);

/* (B+1) i32 starts of B texts of T rows each. */
CSP_CHECKED csp_status csp_bench_starts(csp_bench *b, int64_t B, int64_t T, csp_tensor *t);

/* Measures b->product and b->copy, and prints them. */
CSP_CHECKED csp_status csp_bench_ceilings(csp_bench *b);

/* Sizes of the steps: a model of the family Llama, texts without padding. */
typedef struct csp_bench_shape {
    const char *what;
    int64_t D, F, L, H, G, E, V;
    int64_t queries, query_tokens, documents, document_tokens;
    bool lora; /* adapters of rank CSP_BENCH_RANK on all seven matrices */
    int64_t micro_batch;
    bool untied; /* the head is a matrix of its own */
    bool fp8;    /* lora.base_precision fp8         */
} csp_bench_shape;

enum { CSP_BENCH_RANK = 16 };

/*
 * Profiles b->repeats calls of work, each a step of this shape, behind one that is not counted:
 * prints a row for each op (linear maps of one input by their matrices), sorted by what it loses
 * against its ceiling, and in words what loses most. Every op marks the device's stream twice, so
 * that a step takes a little longer than unmarked.
 *
 *   entries   in   of the representations of a step
 *   trained   in   parameters that have gradients
 */
CSP_CHECKED csp_status csp_bench_profile(csp_bench *b, const char *name,
                                         const csp_bench_shape *shape, double entries,
                                         int64_t trained, csp_bench_work work, void *context);

/* Cases by name; NULL name at the end. */
typedef struct csp_bench_case {
    const char *name;
    csp_status (*run)(csp_bench *b);
    const char *help;
} csp_bench_case;
extern const csp_bench_case csp_bench_head_cases[], csp_bench_op_cases[], csp_bench_step_cases[];

/* The case comm, which all ranks of a job run; bench_comm.c says what of. */
CSP_CHECKED csp_status csp_bench_comm(const csp_arguments *args);
