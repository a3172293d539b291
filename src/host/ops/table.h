/*
 * table.h - the table each backend fills. Only backends and the checking functions of ops/ read it.
 *
 * Every entry has the signature and the contract of the csp_<op> function of the same name, those
 * of linear of csp_linear_group_<op>; checks of shape and dtype have been made before an entry is
 * called. No entry is NULL: what a backend cannot do is a function that returns
 * CSP_ERR_UNSUPPORTED and says so.
 */
#pragma once

#include "ops/attention.h"
#include "ops/backend.h"
#include "ops/collective.h"
#include "ops/embed.h"
#include "ops/graph.h"
#include "ops/impacts.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/norm.h"
#include "ops/optim.h"
#include "ops/quantize.h"
#include "ops/sparse_pool.h"
#include "ops/swiglu.h"
#include "ops/top_k.h"

struct csp_ops {
    void (*destroy)(csp_backend *be);
    csp_status (*reserve)(csp_backend *be, size_t bytes, csp_arena *out);
    void (*release)(csp_backend *be, csp_arena *arena);
    csp_status (*memory)(csp_backend *be, csp_memory *out);
    csp_status (*upload)(csp_backend *be, const void *host, csp_tensor *dst);
    csp_status (*download)(csp_backend *be, const csp_tensor *src, void *host);
    /* Of csp_download; part starts the copy of one tensor, clear gives state back. */
    csp_status (*download_mark)(csp_backend *be, csp_download *d);
    csp_status (*download_part)(csp_backend *be, csp_download *d, const csp_tensor *src, void *at);
    csp_status (*download_wait)(csp_backend *be, csp_download *d);
    void (*download_clear)(csp_backend *be, csp_download *d);
    csp_status (*copy)(csp_backend *be, const csp_tensor *src, csp_tensor *dst);
    csp_status (*zero)(csp_backend *be, csp_tensor *t);
    csp_status (*host_reserve)(csp_backend *be, size_t bytes, csp_arena *out);
    void (*host_release)(csp_backend *be, csp_arena *arena);
    csp_status (*fetch)(csp_backend *be, const csp_tensor *src, void *host);
    csp_status (*sync)(csp_backend *be);
    csp_status (*mark)(csp_backend *be, int64_t index);
    csp_status (*elapsed)(csp_backend *be, int64_t from, int64_t to, double *seconds);
    csp_status (*tuning_get)(csp_backend *be, char **text);
    csp_status (*tuning_set)(csp_backend *be, const char *text);
    csp_status (*versions)(csp_backend *be, char text[CSP_VERSIONS_BYTES]);
    csp_status (*graph_run)(csp_backend *be, const csp_graph_call *call);
    csp_status (*collective_library)(csp_backend *be, const char **name);
    csp_status (*collective_make_id)(csp_backend *be, csp_collective_id *out);
    csp_status (*collective_open)(csp_backend *be, const csp_collective_group *group,
                                  csp_collective **out);
    void (*collective_close)(csp_backend *be, csp_collective *collective);
    void (*collective_abort)(csp_backend *be, csp_collective *collective);
    csp_status (*collective_start)(csp_backend *be, csp_collective *collective,
                                   const csp_collective_call *call, int64_t *ticket);
    csp_status (*collective_join)(csp_backend *be, csp_collective *collective, int64_t ticket);
    csp_status (*collective_waited)(csp_backend *be, csp_collective *collective, double *seconds);

    csp_status (*linear_fwd)(csp_backend *be, const csp_linear_group *group, csp_linear_rows *rows);
    csp_status (*linear_bwd)(csp_backend *be, const csp_linear_group *group,
                             csp_linear_group_grad *grad);
    csp_status (*quantize_rows)(csp_backend *be, const csp_tensor *x, const csp_tensor *c,
                                csp_tensor *q, csp_tensor *scale);
    csp_status (*norm_fwd)(csp_backend *be, const csp_tensor *x, const csp_tensor *delta,
                           const csp_tensor *g, float eps, csp_tensor *sum, csp_tensor *rstd,
                           csp_tensor *y, csp_fp8_rows *y8);
    csp_status (*norm_bwd)(csp_backend *be, const csp_tensor *x, const csp_tensor *g,
                           const csp_tensor *rstd, const csp_tensor *dy, const csp_tensor *dsum,
                           csp_tensor *dx, csp_tensor *dg);
    csp_status (*norm_bad_row)(csp_backend *be, const csp_tensor *rstd, const csp_tensor *y,
                               csp_tensor *row);
    csp_status (*attention_fwd)(csp_backend *be, const csp_attention *a, const csp_tensor *q,
                                const csp_tensor *k, const csp_tensor *v, csp_tensor *o,
                                csp_tensor *lse);
    csp_status (*attention_bwd)(csp_backend *be, const csp_attention *a, csp_attention_grad *g);
    csp_status (*swiglu_fwd)(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                             csp_tensor *m, csp_fp8_rows *m8);
    csp_status (*swiglu_bwd)(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                             const csp_tensor *dm, csp_tensor *dgate, csp_tensor *dup);
    csp_status (*embed_fwd)(csp_backend *be, const csp_tensor *table, const csp_tensor *token,
                            csp_tensor *x);
    csp_status (*embed_bwd)(csp_backend *be, const csp_tensor *token, const csp_tensor *dx,
                            csp_tensor *dtable);
    csp_status (*sparse_pool_fwd)(csp_backend *be, const csp_head *head, const csp_tensor *h,
                                  const csp_pool_texts *texts, int64_t first_row, csp_sparse *out);
    csp_status (*sparse_pool_bwd)(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g);
    csp_status (*sparse_pool_choose)(csp_backend *be, csp_pool_way way);
    csp_status (*sparse_pool_choose_forward)(csp_backend *be, csp_pool_forward way);
    csp_status (*top_k)(csp_backend *be, const csp_sparse *w, int64_t rows, int64_t k,
                        csp_sparse *out);
    csp_status (*impacts)(csp_backend *be, const csp_sparse *w, int64_t rows,
                          const csp_quant *quant, csp_impact_rows *out);
    csp_status (*token_loss)(csp_backend *be, csp_token_loss_args *args);
    csp_status (*scores_fwd)(csp_backend *be, const csp_sparse *q, int64_t Q, const csp_sparse *p,
                             int64_t P, float scale, csp_tensor *s);
    csp_status (*scores_bwd)(csp_backend *be, const csp_tensor *ds, const csp_sparse *q,
                             const csp_sparse *p, float scale, csp_tensor *dq, csp_tensor *dp);
    csp_status (*nce_scores)(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                             const csp_tensor *mask, csp_tensor *row);
    csp_status (*nce_sum)(csp_backend *be, const csp_tensor *s, const csp_tensor *mask,
                          const csp_tensor *row, csp_tensor *sum);
    csp_status (*nce_grad)(csp_backend *be, const csp_tensor *s, const csp_tensor *positive,
                           const csp_tensor *mask, const csp_tensor *row, const csp_tensor *sum,
                           int64_t M, csp_tensor *ds, csp_tensor *loss);
    csp_status (*column_sums)(csp_backend *be, const csp_sparse *w, int64_t rows, csp_tensor *sum,
                              csp_tensor *count);
    csp_status (*position_counts)(csp_backend *be, const csp_sparse *w, int64_t rows,
                                  csp_tensor *count);
    csp_status (*regularize)(csp_backend *be, csp_reg_kind kind, const csp_sparse *w, int64_t rows,
                             const csp_tensor *sum, int64_t M, float lambda, csp_tensor *dw,
                             csp_tensor *value);
    csp_status (*grad_squares)(csp_backend *be, const csp_optim_tensor *tensors, int64_t count,
                               csp_tensor *squares);
    csp_status (*adamw)(csp_backend *be, csp_optim_tensor *tensors, int64_t count,
                        const csp_adamw_args *args);
};
