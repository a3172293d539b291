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

/* (rows,columns), with a tail beside it unless T is 0. */
static csp_status place_with_tail(const csp_params *params, csp_arena *step, int64_t rows,
                                  int64_t columns, int64_t T, csp_tensor *out, csp_tensor *tail)
{
    csp_tensor both;

    CSP_TRY(place(params, step, rows, columns + T, &both));
    *out = csp_tensor_columns(&both, 0, columns);
    *tail = T > 0 ? csp_tensor_columns(&both, columns, T) : csp_tensor_none();
    return CSP_OK;
}

/* gate and up: with up's tail in one matrix where rows may lie apart. */
static csp_status place_wide(const csp_params *params, csp_arena *step, int64_t N,
                             csp_block_saved *s)
{
    const int64_t F = params->config.F;
    csp_tensor both;

    if (!params->storage.apart) {
        s->up_tail = csp_tensor_none();
        CSP_TRY(place(params, step, N, F, &s->gate));
        return place(params, step, N, F, &s->up);
    }
    CSP_TRY(place_with_tail(params, step, N, 2 * F, csp_params_tail(params, CSP_GROUP_GATE_UP),
                            &both, &s->up_tail));
    s->gate = csp_tensor_columns(&both, 0, F);
    s->up = csp_tensor_columns(&both, F, F);
    return CSP_OK;
}

/*
 * q, k and v: with v's tail in one matrix where rows may lie apart. The norms of q and k take heads
 * for rows, which then must follow one another.
 */
static csp_status place_heads(const csp_params *params, csp_arena *step, int64_t N,
                              csp_block_saved *s)
{
    const csp_model_config *c = &params->config;
    const int64_t wide = c->H * c->E, narrow = c->G * c->E;
    csp_tensor all;

    if (!params->storage.apart || c->qk_norm) {
        s->v_tail = csp_tensor_none();
        CSP_TRY(place(params, step, N, wide, &s->q));
        CSP_TRY(place(params, step, N, narrow, &s->k));
        return place(params, step, N, narrow, &s->v);
    }
    CSP_TRY(place_with_tail(params, step, N, wide + 2 * narrow,
                            csp_params_tail(params, CSP_GROUP_QKV), &all, &s->v_tail));
    s->q = csp_tensor_columns(&all, 0, wide);
    s->k = csp_tensor_columns(&all, wide, narrow);
    s->v = csp_tensor_columns(&all, wide + narrow, narrow);
    return CSP_OK;
}

csp_status csp_block_saved_place(const csp_params *params, int64_t N, bool wide, csp_arena *step,
                                 csp_block_saved *out)
{
    const csp_model_config *c = &params->config;
    csp_block_saved s = *out;

    CSP_TRY(place_column(step, N, &s.rstd1));
    CSP_TRY(place_heads(params, step, N, &s));
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
        CSP_TRY(place_wide(params, step, N, &s));
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

/* The wider of the tails of two groups. */
static int64_t tail_of(const csp_params *params, csp_matrix_group a, csp_matrix_group b)
{
    const int64_t of_a = csp_params_tail(params, a), of_b = csp_params_tail(params, b);

    return of_a > of_b ? of_a : of_b;
}

/*
 * Inputs of products in e4m3, one at a time: forward only, so that they lie in memory of backward
 * where there is some.
 */
static csp_status place_fp8(const csp_params *params, int64_t N, csp_arena *step, csp_block_work *w)
{
    const int64_t D = params->config.D, F = params->config.F, widest = D > F ? D : F;
    csp_tensor memory = w->dm;

    w->t8 = w->m8 = (csp_fp8_rows) { csp_tensor_none(), csp_tensor_none() };
    if (!params->storage.fp8) {
        return CSP_OK;
    }
    if (memory.ndim == 0 || csp_tensor_bytes(&memory) < (size_t)(N * widest)) {
        CSP_TRY(csp_arena_tensor(step, CSP_E4M3, 2, (int64_t[]) { N, widest }, &memory));
    }
    CSP_TRY(place_column(step, N, &w->t8.scale));
    w->m8.scale = w->t8.scale;
    w->t8.q = csp_tensor_view(memory.data, CSP_E4M3, 2, (int64_t[]) { N, D });
    w->m8.q = csp_tensor_view(memory.data, CSP_E4M3, 2, (int64_t[]) { N, F });
    return CSP_OK;
}

csp_status csp_block_work_place(const csp_params *params, int64_t N, bool backward, csp_arena *step,
                                csp_block_work *out)
{
    const csp_model_config *c = &params->config;
    const int64_t t_tail = tail_of(params, CSP_GROUP_QKV, CSP_GROUP_GATE_UP);
    const int64_t dx_tail = tail_of(params, CSP_GROUP_O, CSP_GROUP_DOWN);
    csp_block_work w;

    CSP_TRY(place_with_tail(params, step, N, c->D, t_tail, &w.t, &w.t_tail));
    w.qn = csp_tensor_none();
    w.kn = csp_tensor_none();
    if (c->qk_norm) {
        CSP_TRY(place(params, step, N, c->H * c->E, &w.qn));
        CSP_TRY(place(params, step, N, c->G * c->E, &w.kn));
    }
    w.m = w.m_tail = csp_tensor_none();
    w.dm = csp_tensor_none();
    w.d_o = csp_tensor_none();
    w.dt = csp_tensor_none();
    w.dx = w.dx_tail = csp_tensor_none();
    w.r = csp_tensor_none();
    if (backward) {
        CSP_TRY(place_with_tail(params, step, N, c->F, csp_params_tail(params, CSP_GROUP_DOWN),
                                &w.m, &w.m_tail));
        if (dx_tail > 0) {
            CSP_TRY(place_with_tail(params, step, N, c->D, dx_tail, &w.dx, &w.dx_tail));
        }
        CSP_TRY(place(params, step, N, c->F, &w.dm));
        CSP_TRY(place(params, step, N, c->H * c->E, &w.d_o));
        CSP_TRY(place_column(step, N * c->H, &w.r));
    }
    CSP_TRY(place_fp8(params, N, step, &w));
    *out = w;
    return CSP_OK;
}

/* The linear map of one matrix of a block. */
static csp_linear linear_of(const csp_block_pass *pass, int64_t layer, csp_matrix matrix)
{
    const csp_layer *rows = &pass->params->layers[layer];
    csp_linear l = { .w = rows->weight[matrix]->value,
                     .w_scale = rows->weight[matrix]->scale,
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

/* A group of matrices, to be applied together. */
static csp_linear_group group_of(const csp_block_pass *pass, int64_t layer, csp_matrix_group group)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const int first = (int)csp_group_first(group);
    csp_linear_group g = { .count = csp_group_size(group),
                           .w_tail = rows->w_tail[group],
                           .a_tail = rows->a_tail[group] };

    for (int i = 0; i < g.count; i++) {
        g.part[i] = linear_of(pass, layer, (csp_matrix)(first + i));
    }
    return g;
}

/* The part of a tail that a group fills; none where there is none, or it is narrower. */
static csp_tensor tail_for(const csp_block_pass *pass, csp_matrix_group group,
                           const csp_tensor *tail)
{
    const int64_t T = csp_params_tail(pass->params, group);

    return T > 0 && tail->ndim > 0 && tail->dim[1] >= T ? csp_tensor_columns(tail, 0, T)
                                                        : csp_tensor_none();
}

/* Where the results of a group go, or their gradients come from: each of its size, then none. */
typedef struct outputs {
    csp_tensor of[CSP_LINEAR_PARTS];
} outputs;

/* What a group is applied to. */
typedef struct inputs {
    csp_tensor x, tail; /* tail: memory beside x, or none */
    csp_fp8_rows x8;    /* x in e4m3, or none             */
} inputs;

/* Applies the matrices of a group. */
static csp_status project(const csp_block_pass *pass, int64_t layer, csp_matrix_group group,
                          const inputs *in, csp_block_saved *s, const outputs *y)
{
    const csp_linear_group g = group_of(pass, layer, group);
    csp_linear_rows rows = { .x = in->x, .x8 = in->x8, .x_tail = tail_for(pass, group, &in->tail) };

    for (int i = 0; i < g.count; i++) {
        rows.u[i] = s->u[(int)csp_group_first(group) + i];
        rows.y[i] = y->of[i];
    }
    return csp_linear_group_fwd(pass->be, &g, &rows);
}

static csp_tensor grad_of(const csp_param *row)
{
    return row != NULL ? row->grad : csp_tensor_none();
}

/* Whether the gradients of a group's matrices need its input. */
static bool needs_input(const csp_block_pass *pass, int64_t layer, csp_matrix_group group)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const int first = (int)csp_group_first(group), end = first + csp_group_size(group);
    bool needs = false;

    for (int m = first; m < end; m++) {
        needs = needs || grad_of(rows->weight[m]).ndim > 0 || grad_of(rows->lora_a[m]).ndim > 0;
    }
    return needs;
}

/*
 * Gradients of project: parameters are added to, dx is written where it is not NULL; tail: memory
 * beside the last dy, or none.
 */
static csp_status project_back(const csp_block_pass *pass, int64_t layer, csp_matrix_group group,
                               const csp_tensor *x, csp_block_saved *s, const outputs *dy,
                               const csp_tensor *tail, csp_tensor *dx)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const csp_linear_group g = group_of(pass, layer, group);
    const bool needed = needs_input(pass, layer, group);
    csp_linear_group_grad grad = { .x = needed ? *x : csp_tensor_none(),
                                   .dy_tail = tail_for(pass, group, tail),
                                   .dx = dx != NULL ? *dx : csp_tensor_none() };

    if (!needed && dx == NULL) {
        return CSP_OK;
    }
    for (int i = 0; i < g.count; i++) {
        const int m = (int)csp_group_first(group) + i;

        grad.u[i] = s->u[m];
        grad.dy[i] = dy->of[i];
        grad.part[i] = (csp_linear_grad) { .dw = grad_of(rows->weight[m]),
                                           .dbias = grad_of(rows->bias[m]),
                                           .dlora_a = grad_of(rows->lora_a[m]),
                                           .dlora_b = grad_of(rows->lora_b[m]) };
    }
    return csp_linear_group_bwd(pass->be, &g, &grad);
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
 * The normalised input x of a group once more, from what was kept, in w->t, unless none of its
 * gradients needs it.
 */
static csp_status norm_again(const csp_block_pass *pass, int64_t layer, csp_matrix_group group,
                             const csp_param *g, const csp_tensor *x, csp_block_work *w)
{
    const csp_tensor none = csp_tensor_none();
    csp_tensor sum = csp_tensor_none(), rstd = csp_tensor_rows(&w->r, 0, x->dim[0]);

    if (!needs_input(pass, layer, group)) {
        return CSP_OK;
    }
    return csp_norm_fwd(pass->be, x, &none, &g->value, (float)pass->eps, &sum, &rstd, &w->t);
}

static csp_status attention_forward(const csp_block_pass *pass, int64_t layer, csp_block_saved *s,
                                    csp_block_work *w)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const inputs normalised = { w->t, w->t_tail, w->t8 }, attended = { .x = s->o };
    const outputs qkv = { { s->q, s->k, s->v } }, branch = { { w->t } };
    const bool normed = rows->q_norm != NULL;
    const csp_tensor *q = normed ? &w->qn : &s->q, *k = normed ? &w->kn : &s->k;

    CSP_TRY(project(pass, layer, CSP_GROUP_QKV, &normalised, s, &qkv));
    if (normed) {
        CSP_TRY(head_norm(pass, rows->q_norm, &s->q, &s->rq, &w->qn));
        CSP_TRY(head_norm(pass, rows->k_norm, &s->k, &s->rk, &w->kn));
    }
    CSP_TRY(csp_attention_fwd(pass->be, &pass->attention, q, k, &s->v, &s->o, &s->lse));
    return project(pass, layer, CSP_GROUP_O, &attended, s, &branch);
}

/* s->gate and s->up of the normalised input in w->t. */
static csp_status project_wide(const csp_block_pass *pass, int64_t layer, csp_block_saved *s,
                               csp_block_work *w)
{
    const inputs normalised = { w->t, w->t_tail, w->t8 };
    const outputs wide = { { s->gate, s->up } };

    return project(pass, layer, CSP_GROUP_GATE_UP, &normalised, s, &wide);
}

csp_status csp_block_fwd(const csp_block_pass *pass, int64_t layer, bool finish,
                         const csp_tensor *before, csp_block_saved *s, csp_block_work *w)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const float eps = (float)pass->eps;
    const csp_tensor none = csp_tensor_none();
    const outputs branch = { { w->t } };
    csp_tensor no_sum = csp_tensor_none();
    /* Beside gate lies up, which the product of both has used up. */
    const bool beside = w->m.ndim == 0 && pass->params->storage.apart;
    inputs gated = { w->m.ndim > 0 ? w->m : s->gate, beside ? s->up : w->m_tail, w->m8 };

    if (before->ndim > 0) {
        CSP_TRY(csp_norm_fp8_fwd(pass->be, before, &w->t, &rows->attn_norm->value, eps, &s->x,
                                 &s->rstd1, &w->t, &w->t8));
    } else {
        CSP_TRY(csp_norm_fp8_fwd(pass->be, &s->x, &none, &rows->attn_norm->value, eps, &no_sum,
                                 &s->rstd1, &w->t, &w->t8));
    }
    CSP_TRY(attention_forward(pass, layer, s, w));
    CSP_TRY(csp_norm_fp8_fwd(pass->be, &s->x, &w->t, &rows->mlp_norm->value, eps, &s->y, &s->rstd2,
                             &w->t, &w->t8));
    CSP_TRY(project_wide(pass, layer, s, w));
    if (!finish) {
        return CSP_OK;
    }
    CSP_TRY(csp_swiglu_fp8_fwd(pass->be, &s->gate, &s->up, &gated.x, &gated.x8));
    return project(pass, layer, CSP_GROUP_DOWN, &gated, s, &branch);
}

csp_status csp_block_wide_again(const csp_block_pass *pass, int64_t layer, csp_block_saved *s,
                                csp_block_work *w)
{
    const csp_param *g = pass->params->layers[layer].mlp_norm;
    const csp_tensor none = csp_tensor_none();
    csp_tensor no_sum = none, rstd = csp_tensor_rows(&w->r, 0, s->y.dim[0]);

    CSP_TRY(csp_norm_fp8_fwd(pass->be, &s->y, &none, &g->value, (float)pass->eps, &no_sum, &rstd,
                             &w->t, &w->t8));
    return project_wide(pass, layer, s, w);
}

static csp_status mlp_backward(const csp_block_pass *pass, int64_t layer, csp_block_saved *s,
                               csp_block_work *w)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const outputs branch = { { w->dx } }, wide = { { s->gate, s->up } };
    csp_tensor dg = rows->mlp_norm->grad;

    if (needs_input(pass, layer, CSP_GROUP_DOWN)) {
        CSP_TRY(csp_swiglu_fwd(pass->be, &s->gate, &s->up, &w->m));
    }
    CSP_TRY(project_back(pass, layer, CSP_GROUP_DOWN, &w->m, s, &branch, &w->dx_tail, &w->dm));
    CSP_TRY(csp_swiglu_bwd(pass->be, &s->gate, &s->up, &w->dm, &s->gate, &s->up));
    CSP_TRY(norm_again(pass, layer, CSP_GROUP_GATE_UP, rows->mlp_norm, &s->y, w));
    CSP_TRY(project_back(pass, layer, CSP_GROUP_GATE_UP, &w->t, s, &wide, &s->up_tail, &w->dt));
    return csp_norm_bwd(pass->be, &s->y, &rows->mlp_norm->value, &s->rstd2, &w->dt, &w->dx, &w->dx,
                        &dg);
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
                         csp_block_saved *s, csp_block_work *w)
{
    const csp_layer *rows = &pass->params->layers[layer];
    const outputs branch = { { w->dx } };
    csp_tensor dg = rows->attn_norm->grad;
    csp_tensor *dq = NULL, *dk = NULL;
    outputs qkv;

    CSP_TRY(mlp_backward(pass, layer, s, w));
    CSP_TRY(project_back(pass, layer, CSP_GROUP_O, &s->o, s, &branch, &w->dx_tail, &w->d_o));
    CSP_TRY(attention_backward(pass, layer, s, w, &dq, &dk));
    CSP_TRY(norm_again(pass, layer, CSP_GROUP_QKV, rows->attn_norm, &s->x, w));
    qkv = (outputs) { { *dq, *dk, s->v } };
    CSP_TRY(project_back(pass, layer, CSP_GROUP_QKV, &w->t, s, &qkv, &s->v_tail,
                         input_wanted ? &w->dt : NULL));
    if (!input_wanted) {
        return CSP_OK;
    }
    return csp_norm_bwd(pass->be, &s->x, &rows->attn_norm->value, &s->rstd1, &w->dt, &w->dx, &w->dx,
                        &dg);
}
