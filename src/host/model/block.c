/*
 * block.c - one decoder block.
 *
 * Kept for the backward pass is what it cannot compute again cheaply; the normalised inputs and the
 * product of the gate are computed once more, element by element. Gradients are written over the
 * activations they belong to, so that the backward pass takes five buffers beside the kept ones.
 */
#include "model/block.h"

#include "ops/norm.h"
#include "ops/swiglu.h"

/* (rows,columns) in the storage type of params. */
static csp_status place(const csp_params *params, csp_arena *step, int64_t rows, int64_t columns,
                        csp_tensor *out)
{
    return csp_arena_tensor(step, params->storage.dtype, 2, (int64_t[]) { rows, columns }, out);
}

/* (rows) f32. */
static csp_status place_column(csp_arena *step, int64_t rows, csp_tensor *out)
{
    return csp_arena_tensor(step, CSP_F32, 1, &rows, out);
}

csp_status csp_block_saved_place(const csp_params *params, int64_t N, bool wide, csp_arena *step,
                                 csp_block_saved *out)
{
    const csp_model_config *c = &params->config;
    csp_block_saved s = *out;

    CSP_TRY(place_column(step, N, &s.rstd1));
    CSP_TRY(place(params, step, N, c->H * c->E, &s.q));
    CSP_TRY(place(params, step, N, c->G * c->E, &s.k));
    CSP_TRY(place(params, step, N, c->G * c->E, &s.v));
    s.rq = csp_tensor_none();
    s.rk = csp_tensor_none();
    if (c->qk_norm) {
        CSP_TRY(place_column(step, N * c->H, &s.rq));
        CSP_TRY(place_column(step, N * c->G, &s.rk));
    }
    CSP_TRY(place(params, step, N, c->H * c->E, &s.o));
    CSP_TRY(csp_arena_tensor(step, CSP_F32, 2, (int64_t[]) { N, c->H }, &s.lse));
    CSP_TRY(place(params, step, N, c->D, &s.y));
    CSP_TRY(place_column(step, N, &s.rstd2));
    if (wide) {
        CSP_TRY(place(params, step, N, c->F, &s.gate));
        CSP_TRY(place(params, step, N, c->F, &s.up));
    }
    for (int m = 0; m < CSP_MATRIX_COUNT; m++) {
        s.u[m] = csp_tensor_none();
        if (params->lora.R > 0 && (params->lora.targets >> m & 1u) != 0) {
            CSP_TRY(place(params, step, N, params->lora.R, &s.u[m]));
        }
    }
    *out = s;
    return CSP_OK;
}

csp_status csp_block_work_place(const csp_params *params, int64_t N, bool backward, csp_arena *step,
                                csp_block_work *out)
{
    const csp_model_config *c = &params->config;
    csp_block_work w;

    CSP_TRY(place(params, step, N, c->D, &w.t));
    w.qn = csp_tensor_none();
    w.kn = csp_tensor_none();
    if (c->qk_norm) {
        CSP_TRY(place(params, step, N, c->H * c->E, &w.qn));
        CSP_TRY(place(params, step, N, c->G * c->E, &w.kn));
    }
    w.m = csp_tensor_none();
    w.dm = csp_tensor_none();
    w.d_o = csp_tensor_none();
    w.dt = csp_tensor_none();
    w.r = csp_tensor_none();
    if (backward) {
        CSP_TRY(place(params, step, N, c->F, &w.m));
        CSP_TRY(place(params, step, N, c->F, &w.dm));
        CSP_TRY(place(params, step, N, c->H * c->E, &w.d_o));
        CSP_TRY(place_column(step, N * c->H, &w.r));
    }
    *out = w;
    return CSP_OK;
}

/* The linear map of one matrix of a block. */
static csp_linear linear_of(const csp_block_pass *pass, int64_t layer, csp_matrix matrix)
{
    const csp_layer *rows = &pass->params->layers[layer];
    csp_linear l = { .w = rows->weight[matrix]->value,
                     .bias = csp_tensor_none(),
                     .lora_a = csp_tensor_none(),
                     .lora_b = csp_tensor_none(),
                     .lora_scale = 0.0f,
                     .dropout = pass->dropout };

    l.dropout.key = (uint32_t)(layer * 8 + matrix);
    if (rows->bias[matrix] != NULL) {
        l.bias = rows->bias[matrix]->value;
    }
    if (rows->lora_a[matrix] != NULL) {
        l.lora_a = rows->lora_a[matrix]->value;
        l.lora_b = rows->lora_b[matrix]->value;
        l.lora_scale = csp_lora_scale(&pass->params->lora);
    }
    return l;
}

static csp_tensor grad_of(const csp_param *row)
{
    return row != NULL ? row->grad : csp_tensor_none();
}

static csp_status project(const csp_block_pass *pass, int64_t layer, csp_matrix matrix,
                          const csp_tensor *x, csp_block_saved *s, csp_tensor *y)
{
    const csp_linear l = linear_of(pass, layer, matrix);

    return csp_linear_fwd(pass->be, &l, x, &s->u[matrix], y);
}

typedef enum sink { SINK_NONE, SINK_WRITE, SINK_ADD } sink;

/* Whether the gradients of a matrix need its input. */
static bool needs_input(const csp_block_pass *pass, int64_t layer, csp_matrix matrix)
{
    const csp_layer *rows = &pass->params->layers[layer];

    return grad_of(rows->weight[matrix]).ndim > 0 || grad_of(rows->lora_a[matrix]).ndim > 0;
}

/* Gradients of project: parameters are added to; dx is written, added to, or not wanted. */
static csp_status project_back(const csp_block_pass *pass, int64_t layer, csp_matrix matrix,
                               const csp_tensor *x, csp_block_saved *s, const csp_tensor *dy,
                               sink how, csp_tensor *dx)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const csp_linear l = linear_of(pass, layer, matrix);
    const csp_linear_grad grad = { .dw = grad_of(rows->weight[matrix]),
                                   .dbias = grad_of(rows->bias[matrix]),
                                   .dlora_a = grad_of(rows->lora_a[matrix]),
                                   .dlora_b = grad_of(rows->lora_b[matrix]) };
    csp_tensor none = csp_tensor_none();

    if (!needs_input(pass, layer, matrix)) {
        if (how == SINK_NONE) {
            return CSP_OK;
        }
        x = &none;
    }
    if (how == SINK_ADD) {
        return csp_linear_bwd_acc(pass->be, &l, x, &s->u[matrix], dy, &grad, dx);
    }
    return csp_linear_bwd(pass->be, &l, x, &s->u[matrix], dy, &grad,
                          how == SINK_WRITE ? dx : &none);
}

/* t (N,heads*E) seen as rows of one head. */
static csp_tensor by_head(const csp_tensor *t, int64_t E)
{
    return csp_tensor_view(t->data, t->dtype, 2, (int64_t[]) { csp_tensor_count(t) / E, E });
}

/* The norm of q or k: y = RMS over E of x, each head a row. */
static csp_status head_norm(const csp_block_pass *pass, const csp_param *g, const csp_tensor *x,
                            csp_tensor *rstd, csp_tensor *y)
{
    const int64_t E = pass->params->config.E;
    const csp_tensor rows = by_head(x, E), none = csp_tensor_none();
    csp_tensor sum = csp_tensor_none(), to = by_head(y, E);

    return csp_norm_fwd(pass->be, &rows, &none, &g->value, (float)pass->eps, &sum, rstd, &to);
}

/* dx of head_norm over dy. */
static csp_status head_norm_back(const csp_block_pass *pass, const csp_param *g,
                                 const csp_tensor *x, const csp_tensor *rstd, csp_tensor *dy)
{
    const int64_t E = pass->params->config.E;
    const csp_tensor rows = by_head(x, E), none = csp_tensor_none();
    csp_tensor d = by_head(dy, E), dg = g->grad;

    return csp_norm_bwd(pass->be, &rows, &g->value, rstd, &d, &none, &d, &dg);
}

/*
 * The normalised input x of matrices first..last once more, from what was kept, in w->t, unless
 * none of their gradients needs it.
 */
static csp_status norm_again(const csp_block_pass *pass, int64_t layer, csp_matrix first,
                             csp_matrix last, const csp_param *g, const csp_tensor *x,
                             csp_block_work *w)
{
    bool needed = false;
    const csp_tensor none = csp_tensor_none();
    csp_tensor sum = csp_tensor_none(), rstd = csp_tensor_rows(&w->r, 0, x->dim[0]);

    for (int m = (int)first; m <= (int)last; m++) {
        needed = needed || needs_input(pass, layer, (csp_matrix)m);
    }
    if (!needed) {
        return CSP_OK;
    }
    return csp_norm_fwd(pass->be, x, &none, &g->value, (float)pass->eps, &sum, &rstd, &w->t);
}

static csp_status attention_forward(const csp_block_pass *pass, int64_t layer, csp_block_saved *s,
                                    csp_block_work *w)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const bool normed = rows->q_norm != NULL;

    CSP_TRY(project(pass, layer, CSP_MATRIX_Q, &w->t, s, &s->q));
    CSP_TRY(project(pass, layer, CSP_MATRIX_K, &w->t, s, &s->k));
    CSP_TRY(project(pass, layer, CSP_MATRIX_V, &w->t, s, &s->v));
    if (normed) {
        CSP_TRY(head_norm(pass, rows->q_norm, &s->q, &s->rq, &w->qn));
        CSP_TRY(head_norm(pass, rows->k_norm, &s->k, &s->rk, &w->kn));
    }
    CSP_TRY(csp_attention_fwd(pass->be, &pass->attention, normed ? &w->qn : &s->q,
                              normed ? &w->kn : &s->k, &s->v, &s->o, &s->lse));
    return project(pass, layer, CSP_MATRIX_O, &s->o, s, &w->t);
}

csp_status csp_block_fwd(const csp_block_pass *pass, int64_t layer, bool finish,
                         const csp_tensor *before, csp_block_saved *s, csp_block_work *w)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const float eps = (float)pass->eps;
    const csp_tensor none = csp_tensor_none();
    csp_tensor no_sum = csp_tensor_none();
    csp_tensor *m = w->m.ndim > 0 ? &w->m : &s->gate;

    if (before->ndim > 0) {
        CSP_TRY(csp_norm_fwd(pass->be, before, &w->t, &rows->attn_norm->value, eps, &s->x,
                             &s->rstd1, &w->t));
    } else {
        CSP_TRY(csp_norm_fwd(pass->be, &s->x, &none, &rows->attn_norm->value, eps, &no_sum,
                             &s->rstd1, &w->t));
    }
    CSP_TRY(attention_forward(pass, layer, s, w));
    CSP_TRY(
        csp_norm_fwd(pass->be, &s->x, &w->t, &rows->mlp_norm->value, eps, &s->y, &s->rstd2, &w->t));
    CSP_TRY(project(pass, layer, CSP_MATRIX_GATE, &w->t, s, &s->gate));
    CSP_TRY(project(pass, layer, CSP_MATRIX_UP, &w->t, s, &s->up));
    if (!finish) {
        return CSP_OK;
    }
    CSP_TRY(csp_swiglu_fwd(pass->be, &s->gate, &s->up, m));
    return project(pass, layer, CSP_MATRIX_DOWN, m, s, &w->t);
}

csp_status csp_block_wide_again(const csp_block_pass *pass, int64_t layer, csp_block_saved *s,
                                csp_block_work *w)
{
    const csp_param *g = pass->params->layers[layer].mlp_norm;
    const csp_tensor none = csp_tensor_none();
    csp_tensor no_sum = none, rstd = csp_tensor_rows(&w->r, 0, s->y.dim[0]);

    CSP_TRY(
        csp_norm_fwd(pass->be, &s->y, &none, &g->value, (float)pass->eps, &no_sum, &rstd, &w->t));
    CSP_TRY(project(pass, layer, CSP_MATRIX_GATE, &w->t, s, &s->gate));
    return project(pass, layer, CSP_MATRIX_UP, &w->t, s, &s->up);
}

static csp_status mlp_backward(const csp_block_pass *pass, int64_t layer, csp_block_saved *s,
                               csp_block_work *w, csp_tensor *dx)
{
    const csp_layer *rows = &pass->params->layers[layer];
    csp_tensor dg = rows->mlp_norm->grad;

    if (needs_input(pass, layer, CSP_MATRIX_DOWN)) {
        CSP_TRY(csp_swiglu_fwd(pass->be, &s->gate, &s->up, &w->m));
    }
    CSP_TRY(project_back(pass, layer, CSP_MATRIX_DOWN, &w->m, s, dx, SINK_WRITE, &w->dm));
    CSP_TRY(csp_swiglu_bwd(pass->be, &s->gate, &s->up, &w->dm, &s->gate, &s->up));
    CSP_TRY(norm_again(pass, layer, CSP_MATRIX_GATE, CSP_MATRIX_UP, rows->mlp_norm, &s->y, w));
    CSP_TRY(project_back(pass, layer, CSP_MATRIX_GATE, &w->t, s, &s->gate, SINK_WRITE, &w->dt));
    CSP_TRY(project_back(pass, layer, CSP_MATRIX_UP, &w->t, s, &s->up, SINK_ADD, &w->dt));
    return csp_norm_bwd(pass->be, &s->y, &rows->mlp_norm->value, &s->rstd2, &w->dt, dx, dx, &dg);
}

/* From the gradient of attention's output to those of q, k, v before their norms, over s. */
static csp_status attention_backward(const csp_block_pass *pass, int64_t layer, csp_block_saved *s,
                                     csp_block_work *w, csp_tensor **dq, csp_tensor **dk)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const bool normed = rows->q_norm != NULL;
    csp_tensor *q = normed ? &w->qn : &s->q, *k = normed ? &w->kn : &s->k;
    csp_attention_grad g = { .q = *q,
                             .k = *k,
                             .v = s->v,
                             .o = s->o,
                             .lse = s->lse,
                             .d_o = w->d_o,
                             .dq = *q,
                             .dk = *k,
                             .dv = s->v };

    if (normed) {
        csp_tensor rq = csp_tensor_rows(&w->r, 0, s->rq.dim[0]);
        csp_tensor rk = csp_tensor_rows(&w->r, 0, s->rk.dim[0]);

        CSP_TRY(head_norm(pass, rows->q_norm, &s->q, &rq, &w->qn));
        CSP_TRY(head_norm(pass, rows->k_norm, &s->k, &rk, &w->kn));
    }
    CSP_TRY(csp_attention_bwd(pass->be, &pass->attention, &g));
    if (normed) {
        CSP_TRY(head_norm_back(pass, rows->q_norm, &s->q, &s->rq, q));
        CSP_TRY(head_norm_back(pass, rows->k_norm, &s->k, &s->rk, k));
    }
    *dq = q;
    *dk = k;
    return CSP_OK;
}

csp_status csp_block_bwd(const csp_block_pass *pass, int64_t layer, bool input_wanted,
                         csp_block_saved *s, csp_block_work *w, csp_tensor *dx)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const sink write = input_wanted ? SINK_WRITE : SINK_NONE;
    const sink add = input_wanted ? SINK_ADD : SINK_NONE;
    csp_tensor dg = rows->attn_norm->grad;
    csp_tensor *dq = NULL, *dk = NULL;

    CSP_TRY(mlp_backward(pass, layer, s, w, dx));
    CSP_TRY(project_back(pass, layer, CSP_MATRIX_O, &s->o, s, dx, SINK_WRITE, &w->d_o));
    CSP_TRY(attention_backward(pass, layer, s, w, &dq, &dk));
    CSP_TRY(norm_again(pass, layer, CSP_MATRIX_Q, CSP_MATRIX_V, rows->attn_norm, &s->x, w));
    CSP_TRY(project_back(pass, layer, CSP_MATRIX_Q, &w->t, s, dq, write, &w->dt));
    CSP_TRY(project_back(pass, layer, CSP_MATRIX_K, &w->t, s, dk, add, &w->dt));
    CSP_TRY(project_back(pass, layer, CSP_MATRIX_V, &w->t, s, &s->v, add, &w->dt));
    if (!input_wanted) {
        return CSP_OK;
    }
    return csp_norm_bwd(pass->be, &s->x, &rows->attn_norm->value, &s->rstd1, &w->dt, dx, dx, &dg);
}
