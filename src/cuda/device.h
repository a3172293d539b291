/*
 * device.h - what the files of the CUDA backend share: its state (stream, handles, scratch memory),
 * and the functions that fill csp_ops. Private to this folder.
 *
 * One stream per backend; every op is enqueued on it and returns, but for those whose contract says
 * that they wait. Nothing here is global. Addresses in tensors are the device's.
 */
#pragma once

#include <cuda_runtime.h>

#include "backend.h"
#include "collective.h"
#include "gemm.h"
#include "graph.h"
#include "ops/table.h"

/* The oldest major compute capability with what kernels use: asynchronous copies, bf16, tf32. */
#define CUDA_OLDEST_CAPABILITY 8

/* Page-locked memory that uploads pass through, so that the caller's is free at once. */
typedef struct cuda_staging {
    char *at;              /* two halves                                               */
    int half;              /* the one being filled                                     */
    size_t used;           /* bytes of it                                              */
    cudaEvent_t passed[2]; /* behind the last copy out of each half                    */
} cuda_staging;

/*
 * A second stream, for work of an op beside its products: events fence on both sides what is
 * enqueued there, and the op joins it before it returns, so that the next op need not know.
 */
typedef struct cuda_beside {
    cudaStream_t stream;  /* of higher priority, so that small kernels find a place    */
    cudaEvent_t ready[2]; /* of two buffers in turn: one is filled                     */
    cudaEvent_t done[2];  /* and what was in it has been used                          */
} cuda_beside;

struct cusparse_state;

typedef struct cuda_state {
    csp_ops ops;
    char name[16];       /* "cuda:0"                                                        */
    int device;          /* its number in this process                                      */
    cudaStream_t stream; /* all work of the backend                                         */
    cuda_block scratch;  /* device memory of a whole op                                     */
    cuda_block host;     /* page-locked memory for results that the host reads              */
    cuda_staging staging;
    cuda_gemm_state gemm; /* matrix products */
    cuda_beside beside;
    cuda_graphs graphs;
    cuda_collectives collectives;
    csp_pool_way pool_way;           /* of the head's backward pass                        */
    csp_pool_forward pool_forward;   /* and of its forward pass                            */
    struct cusparse_state *cusparse; /* NULL until it is asked for (cusparse.cuh)          */
    bool fp8;            /* products of 8-bit floats with a scale for each row and column   */
    bool hopper;         /* compute capability 9.0: what *_sm90.cu are compiled for          */
    int processors;      /* streaming multiprocessors: grids are cut to fill them           */
    size_t shared_limit; /* dynamic shared memory a block may ask for, bytes                */
    int64_t allocations; /* blocks got from the driver so far: a test watches it stand      */
    int64_t waits;       /* times the host waited for the device so far: so does another    */
    const char *op;      /* the last op enqueued: a fault at a synchronisation names it     */
    cudaEvent_t *marks;  /* csp_backend_mark: an event each; NULL: not set                  */
    int64_t mark_count;
} cuda_state;

static inline cuda_state *cuda_state_of(csp_backend *be)
{
    return (cuda_state *)be->state;
}

/* The stream of the backend; remembers which op works on it. */
static inline cudaStream_t cuda_stream(csp_backend *be, const char *op)
{
    cuda_state_of(be)->op = op;
    return cuda_state_of(be)->stream;
}

/*
 * Scratch memory of at least bytes, contents undefined, aligned to 256; valid until the next call,
 * which may move it: an op takes what it needs once and cuts it itself. Growing waits for the
 * device; it happens in the first steps only. cuda_host is the same in page-locked host memory.
 *
 * Errors: CSP_ERR_MEMORY with needed and free bytes.
 */
CSP_CHECKED csp_status cuda_scratch(csp_backend *be, size_t bytes, void **out);
CSP_CHECKED csp_status cuda_host(csp_backend *be, size_t bytes, void **out);

/*
 * Waits for the stream, or for a mark. Errors: CSP_ERR_DEVICE, naming the last op and the driver's
 * words; CSP_ERR_COMM where another rank has failed (ops/collective.h).
 */
CSP_CHECKED csp_status cuda_wait(csp_backend *be);
CSP_CHECKED csp_status cuda_wait_stream(csp_backend *be, cudaStream_t stream);
CSP_CHECKED csp_status cuda_wait_event(csp_backend *be, cudaEvent_t event);

/* Waits for collectives of devices too: before memory is given back, for which the driver would. */
CSP_CHECKED csp_status cuda_wait_all(csp_backend *be);

/* The same where faults have been reported already, or nobody is left to read them. */
void cuda_drain(csp_backend *be);

/* Downloads bytes into cuda_host memory and waits; *out is valid until the next cuda_host. */
CSP_CHECKED csp_status cuda_fetch(csp_backend *be, const void *device, size_t bytes, void **out);

/*
 * A product without a bias (gemm.h), its C stored as `out`. gemm.cuh has cuda_gemm, which takes the
 * types from the addresses.
 */
CSP_CHECKED csp_status cuda_gemm_stored(csp_backend *be, bool trans_a, bool trans_b, int64_t M,
                                        int64_t N, int64_t K, float alpha, csp_dtype in,
                                        const void *a, int64_t lda, const void *b, int64_t ldb,
                                        float beta, csp_dtype out, void *c, int64_t ldc);

/* How many devices there are, at least 1. CSP_ERR_DEVICE: no driver, an old one, no device. */
CSP_CHECKED csp_status cuda_device_count(const char *what, int *out);

/* Creates and frees what cuda_state holds but its table; close accepts a half-opened state. */
CSP_CHECKED csp_status cuda_device_open(cuda_state *state, int device);
void cuda_device_close(csp_backend *be);

/*
 * Whether this build has code for the thread's device, or the driver makes it of what the build
 * has: asked of one kernel, they are all compiled alike. CSP_ERR_DEVICE, with what to build.
 */
CSP_CHECKED csp_status cuda_code_check(const cuda_state *state);

/* Device memory of its own. Errors: CSP_ERR_MEMORY, what was asked and what is free. */
CSP_CHECKED csp_status cuda_allocate(cuda_state *state, const char *what, size_t bytes, void **out);

/* What a wait came to, as a status that names the last op: kernels fault after their launch. */
CSP_CHECKED csp_status cuda_waited(csp_backend *be, cudaError_t error);

/* Page-locked host memory of its own. Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE. */
CSP_CHECKED csp_status cuda_allocate_host(cuda_state *state, const char *what, size_t bytes,
                                          void **out);

/* Copies bytes to the device; host may be overwritten when it returns. Waits only for room. */
CSP_CHECKED csp_status cuda_stage(csp_backend *be, const void *host, size_t bytes, void *device);

/* Of csp_download, in download.cu. */
csp_status cuda_download_mark(csp_backend *be, csp_download *d);
csp_status cuda_download_part(csp_backend *be, csp_download *d, const csp_tensor *src, void *at);
csp_status cuda_download_wait(csp_backend *be, csp_download *d);
void cuda_download_clear(csp_backend *be, csp_download *d);

/* The entries of csp_ops, contracts in ops/<op>.h; each in the file of its op. */
csp_status cuda_linear_fwd(csp_backend *be, const csp_linear_group *group, csp_linear_rows *rows);
csp_status cuda_linear_bwd(csp_backend *be, const csp_linear_group *group,
                           csp_linear_group_grad *grad);
csp_status cuda_quantize_rows(csp_backend *be, const csp_tensor *x, const csp_tensor *c,
                              csp_tensor *q, csp_tensor *scale);
csp_status cuda_norm_fwd(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                         const csp_tensor *g, float eps, csp_tensor *sum, csp_tensor *rstd,
                         csp_tensor *y, csp_fp8_rows *y8);
csp_status cuda_norm_bwd(csp_backend *be, const csp_tensor *x, const csp_tensor *g,
                         const csp_tensor *rstd, const csp_tensor *dy, const csp_tensor *dsum,
                         csp_tensor *dx, csp_tensor *dg);
csp_status cuda_norm_bad_row(csp_backend *be, const csp_tensor *rstd, const csp_tensor *y,
                             csp_tensor *row);
csp_status cuda_attention_fwd(csp_backend *be, const csp_attention *a, const csp_tensor *q,
                              const csp_tensor *k, const csp_tensor *v, csp_tensor *o,
                              csp_tensor *lse);
csp_status cuda_attention_bwd(csp_backend *be, const csp_attention *a, csp_attention_grad *g);
csp_status cuda_swiglu_fwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                           csp_tensor *m, csp_fp8_rows *m8);
csp_status cuda_swiglu_bwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                           const csp_tensor *dm, csp_tensor *dgate, csp_tensor *dup);
csp_status cuda_embed_fwd(csp_backend *be, const csp_tensor *table, const csp_tensor *token,
                          csp_tensor *x);
csp_status cuda_embed_bwd(csp_backend *be, const csp_tensor *token, const csp_tensor *dx,
                          csp_tensor *dtable);
csp_status cuda_sparse_pool_fwd(csp_backend *be, const csp_head *head, const csp_tensor *h,
                                const csp_pool_texts *texts, int64_t first_row, csp_sparse *out);
csp_status cuda_sparse_pool_bwd(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g);
csp_status cuda_sparse_pool_choose(csp_backend *be, csp_pool_way way);
csp_status cuda_sparse_pool_choose_forward(csp_backend *be, csp_pool_forward way);
csp_status cuda_top_k(csp_backend *be, const csp_sparse *w, int64_t rows, int64_t k,
                      csp_sparse *out);
csp_status cuda_impacts(csp_backend *be, const csp_sparse *w, int64_t rows, const csp_quant *quant,
                        csp_impact_rows *out);
csp_status cuda_token_loss(csp_backend *be, csp_token_loss_args *args);
csp_status cuda_scores_fwd(csp_backend *be, const csp_sparse *q, int64_t Q, const csp_sparse *p,
                           int64_t P, float scale, csp_tensor *s);
csp_status cuda_scores_bwd(csp_backend *be, const csp_tensor *ds, const csp_sparse *q,
                           const csp_sparse *p, float scale, csp_tensor *dq, csp_tensor *dp);
csp_status cuda_nce_scores(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                           const csp_tensor *mask, csp_tensor *row);
csp_status cuda_nce_sum(csp_backend *be, const csp_tensor *s, const csp_tensor *mask,
                        const csp_tensor *row, csp_tensor *sum);
csp_status cuda_nce_grad(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                         const csp_tensor *mask, const csp_tensor *row, const csp_tensor *sum,
                         int64_t M, csp_tensor *ds, csp_tensor *loss);
csp_status cuda_column_sums(csp_backend *be, const csp_sparse *w, int64_t rows, csp_tensor *sum,
                            csp_tensor *count);
csp_status cuda_position_counts(csp_backend *be, const csp_sparse *w, int64_t rows,
                                csp_tensor *count);
csp_status cuda_regularize(csp_backend *be, csp_reg_kind kind, const csp_sparse *w, int64_t rows,
                           const csp_tensor *sum, int64_t M, float lambda, csp_tensor *dw,
                           csp_tensor *value);
csp_status cuda_grad_squares(csp_backend *be, const csp_optim_tensor *tensors, int64_t count,
                             csp_tensor *squares);
csp_status cuda_adamw(csp_backend *be, csp_optim_tensor *tensors, int64_t count,
                      const csp_adamw_args *args);
