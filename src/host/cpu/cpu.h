/*
 * cpu.h - what the files of the CPU backend share: its state, scratch memory, the functions that
 * fill csp_ops. Private to this folder.
 *
 * Threads: one OpenMP region per op with be->threads threads; OpenBLAS is kept to the caller's.
 * Work is cut by shapes and be->threads only, so the same call gives the same bits on every run.
 */
#pragma once

#include "cpu/backend.h"
#include "ops/table.h"

/*
 * Put before a leaf function with a hot loop: it is compiled for plain x86-64, AVX2 with FMA, and
 * AVX-512, and chosen when the program starts. OpenMP regions are outlined without clones, so a
 * region must call such a function, never hold the loop itself.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define CPU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CPU_CLONES
#endif

/* A block that only ever grows. */
typedef struct cpu_block {
    void *at;
    size_t bytes;
} cpu_block;

typedef struct cpu_state {
    cpu_block *of_thread; /* be->threads scratch blocks                                 */
    cpu_block shared;     /* scratch of a whole op                                      */
    int64_t allocations;  /* blocks got from the system so far: a test watches it stand */
    double *marks;        /* csp_backend_mark: the clock at each; 0: not set            */
    int64_t mark_count;
} cpu_state;

static inline cpu_state *cpu_state_of(csp_backend *be)
{
    return (cpu_state *)be->state;
}

/*
 * Scratch memory of at least bytes, aligned to 64, contents undefined: one block per thread
 * (0 <= thread < be->threads), and one for the whole op. Valid until the next call for the same
 * block, which may move it; an op takes what it needs once. Allocates only when it must grow.
 * cpu_scratch may be called inside a region by thread itself; cpu_shared only outside.
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status cpu_scratch(csp_backend *be, int thread, size_t bytes, void **out);
CSP_CHECKED csp_status cpu_shared(csp_backend *be, size_t bytes, void **out);

/* Makes every thread's scratch at least bytes; then cpu_scratch of so much cannot fail. */
CSP_CHECKED csp_status cpu_scratch_each(csp_backend *be, size_t bytes);

/* The block of a thread after cpu_scratch_each. */
static inline void *cpu_scratch_of(csp_backend *be, int thread)
{
    return cpu_state_of(be)->of_thread[thread].at;
}

/*
 * First element of share `part` of `parts` of n elements cut at multiples of unit; share `parts` is
 * the end. A pure function: every op that cuts by it cuts the same way each time.
 */
static inline int64_t cpu_cut(int64_t n, int64_t unit, int parts, int part)
{
    const int64_t units = (n + unit - 1) / unit;
    const int64_t at = units * part / parts * unit;

    return at < n ? at : n;
}

/* How many threads work that is worth `work` elementary steps should use: 1 below ~20 µs. */
static inline int cpu_parts(const csp_backend *be, int64_t work)
{
    return work < 32768 ? 1 : be->threads;
}

/* The entries of csp_ops, contracts in ops/<op>.h. */
csp_status cpu_linear_fwd(csp_backend *be, const csp_linear_group *group, csp_linear_rows *rows);
csp_status cpu_linear_bwd(csp_backend *be, const csp_linear_group *group,
                          csp_linear_group_grad *grad);
csp_status cpu_quantize_rows(csp_backend *be, const csp_tensor *x, const csp_tensor *c,
                             csp_tensor *q, csp_tensor *scale);
csp_status cpu_norm_fwd(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                        const csp_tensor *g, float eps, csp_tensor *sum, csp_tensor *rstd,
                        csp_tensor *y, csp_fp8_rows *y8);
csp_status cpu_norm_bwd(csp_backend *be, const csp_tensor *x, const csp_tensor *g,
                        const csp_tensor *rstd, const csp_tensor *dy, const csp_tensor *dsum,
                        csp_tensor *dx, csp_tensor *dg);
csp_status cpu_norm_bad_row(csp_backend *be, const csp_tensor *rstd, const csp_tensor *y,
                            csp_tensor *row);
csp_status cpu_attention_fwd(csp_backend *be, const csp_attention *a, const csp_tensor *q,
                             const csp_tensor *k, const csp_tensor *v, csp_tensor *o,
                             csp_tensor *lse);
csp_status cpu_attention_bwd(csp_backend *be, const csp_attention *a, csp_attention_grad *g);
csp_status cpu_swiglu_fwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                          csp_tensor *m, csp_fp8_rows *m8);
csp_status cpu_swiglu_bwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                          const csp_tensor *dm, csp_tensor *dgate, csp_tensor *dup);
csp_status cpu_embed_fwd(csp_backend *be, const csp_tensor *table, const csp_tensor *token,
                         csp_tensor *x);
csp_status cpu_embed_bwd(csp_backend *be, const csp_tensor *token, const csp_tensor *dx,
                         csp_tensor *dtable);
csp_status cpu_sparse_pool_fwd(csp_backend *be, const csp_head *head, const csp_tensor *h,
                               const csp_pool_texts *texts, int64_t first_row, csp_sparse *out);
csp_status cpu_sparse_pool_bwd(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g);
csp_status cpu_sparse_pool_choose(csp_backend *be, csp_pool_way way);
csp_status cpu_sparse_pool_choose_forward(csp_backend *be, csp_pool_forward way);
csp_status cpu_top_k(csp_backend *be, const csp_sparse *w, int64_t rows, int64_t k,
                     csp_sparse *out);
csp_status cpu_impacts(csp_backend *be, const csp_sparse *w, int64_t rows, const csp_quant *quant,
                       csp_impact_rows *out);
csp_status cpu_token_loss(csp_backend *be, csp_token_loss_args *args);
csp_status cpu_scores_fwd(csp_backend *be, const csp_sparse *q, int64_t Q, const csp_sparse *p,
                          int64_t P, float scale, csp_tensor *s);
csp_status cpu_scores_bwd(csp_backend *be, const csp_tensor *ds, const csp_sparse *q,
                          const csp_sparse *p, float scale, csp_tensor *dq, csp_tensor *dp);
csp_status cpu_nce_scores(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                          const csp_tensor *mask, csp_tensor *row);
csp_status cpu_nce_sum(csp_backend *be, const csp_tensor *s, const csp_tensor *mask,
                       const csp_tensor *row, csp_tensor *sum);
csp_status cpu_nce_grad(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                        const csp_tensor *mask, const csp_tensor *row, const csp_tensor *sum,
                        int64_t M, csp_tensor *ds, csp_tensor *loss);
csp_status cpu_column_sums(csp_backend *be, const csp_sparse *w, int64_t rows, csp_tensor *sum,
                           csp_tensor *count);
csp_status cpu_position_counts(csp_backend *be, const csp_sparse *w, int64_t rows,
                               csp_tensor *count);
csp_status cpu_regularize(csp_backend *be, csp_reg_kind kind, const csp_sparse *w, int64_t rows,
                          const csp_tensor *sum, int64_t M, float lambda, csp_tensor *dw,
                          csp_tensor *value);
csp_status cpu_grad_squares(csp_backend *be, const csp_optim_tensor *tensors, int64_t count,
                            csp_tensor *squares);
csp_status cpu_adamw(csp_backend *be, csp_optim_tensor *tensors, int64_t count,
                     const csp_adamw_args *args);
