/* model.c - the ops of a decoder one after the other, then back. */
#include "ref/model.h"

#include <stdlib.h>
#include <string.h>

#include "ref/attention.h"
#include "ref/embed.h"
#include "ref/norm.h"
#include "ref/sparse_pool.h"
#include "ref/swiglu.h"

enum { BLOCKS = 4096 };

/* What a block keeps; names as in model/block.h. */
typedef struct saved {
    double *x, *rstd1, *n1, *q, *k, *v, *o, *lse, *y, *rstd2, *n2, *gate, *up, *m;
    double *u[REF_MATRICES];
    ref_linear map[REF_MATRICES];
} saved;

struct ref_run {
    const ref_model *model;
    const ref_texts *texts;
    saved *layer;
    double *x, *rstd, *h;
    double *unused; /* sizes of terms, which nobody asks for */
    void *block[BLOCKS];
    int blocks;
};

static double *fresh(ref_run *run, int64_t n)
{
    double *values = calloc((size_t)n + 1, sizeof(*values));

    if (values == NULL || run->blocks == BLOCKS) {
        abort();
    }
    run->block[run->blocks++] = values;
    return values;
}

/* What an implementation stores. */
static void store(const ref_run *run, double *values, int64_t n)
{
    for (int64_t i = 0; run->model->bf16 && i < n; i++) {
        values[i] = ref_bf16(values[i]);
    }
}

/* More than any matrix or activation has elements. */
static int64_t most_elements(const ref_model *m, int64_t N)
{
    return (m->V + m->F + m->H * m->E + N) * (m->D + m->F + m->H * m->E + m->H);
}

static ref_attention attention_of(const ref_run *run)
{
    const ref_model *m = run->model;

    return (ref_attention) { .seq_start = run->texts->seq_start,
                             .cos_table = m->cos_table,
                             .sin_table = m->sin_table,
                             .B = run->texts->B,
                             .H = m->H,
                             .G = m->G,
                             .E = m->E,
                             .causal = m->causal };
}

/* y (N,O) of matrix i of layer l; u is kept. */
static double *project(ref_run *run, int64_t l, int i, const double *x)
{
    const ref_model *m = run->model;
    const int64_t N = run->texts->N;
    saved *s = &run->layer[l];
    ref_linear *map = &s->map[i];
    double *y;

    *map = m->layer[l].map[i];
    map->N = N;
    y = fresh(run, N * map->O);
    s->u[i] = fresh(run, N * map->R);
    if (map->R > 0 && m->dropout > 0.0) {
        double *mask = fresh(run, N * map->I);

        ref_dropout_mask(m->dropout, m->seed, m->step, (uint32_t)(l * 8 + i), run->texts->row_key,
                         N, map->I, mask);
        map->m = mask;
    }
    ref_linear_fwd(map, x, s->u[i], NULL, y, NULL);
    store(run, s->u[i], N * map->R);
    store(run, y, N * map->O);
    return y;
}

/* y = RMS(x) g. */
static double *normalise(ref_run *run, const double *x, const double *g, double **rstd)
{
    const int64_t N = run->texts->N, D = run->model->D;
    double *y = fresh(run, N * D);

    *rstd = fresh(run, N);
    ref_norm_fwd(x, NULL, g, run->model->eps, N, D, run->unused, *rstd, y);
    store(run, y, N * D);
    return y;
}

static double *sum_of(ref_run *run, const double *x, const double *branch)
{
    const int64_t n = run->texts->N * run->model->D;
    double *y = fresh(run, n);

    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] + branch[i];
    }
    store(run, y, n);
    return y;
}

static double *block_forward(ref_run *run, int64_t l, double *x)
{
    const ref_model *m = run->model;
    const int64_t N = run->texts->N;
    const ref_attention a = attention_of(run);
    saved *s = &run->layer[l];

    s->x = x;
    s->n1 = normalise(run, x, m->layer[l].attn_norm, &s->rstd1);
    s->q = project(run, l, REF_Q, s->n1);
    s->k = project(run, l, REF_K, s->n1);
    s->v = project(run, l, REF_V, s->n1);
    s->o = fresh(run, N * m->H * m->E);
    s->lse = fresh(run, N * m->H);
    ref_attention_fwd(&a, s->q, s->k, s->v, s->o, run->unused, s->lse,
                      run->unused + N * m->H * m->E);
    store(run, s->o, N * m->H * m->E);
    s->y = sum_of(run, x, project(run, l, REF_O, s->o));
    s->n2 = normalise(run, s->y, m->layer[l].mlp_norm, &s->rstd2);
    s->gate = project(run, l, REF_GATE, s->n2);
    s->up = project(run, l, REF_UP, s->n2);
    s->m = fresh(run, N * m->F);
    ref_swiglu_fwd(s->gate, s->up, N * m->F, s->m);
    store(run, s->m, N * m->F);
    return sum_of(run, s->y, project(run, l, REF_DOWN, s->m));
}

ref_run *ref_model_fwd(const ref_model *model, const ref_texts *texts, const double **h)
{
    ref_run *run = calloc(1, sizeof(*run));
    double *x;

    if (run == NULL) {
        abort();
    }
    run->model = model;
    run->texts = texts;
    run->layer = calloc((size_t)model->L, sizeof(*run->layer));
    run->unused = fresh(run, most_elements(model, texts->N));
    x = fresh(run, texts->N * model->D);
    ref_embed_fwd(model->embed, texts->token, texts->N, model->D, x);
    for (int64_t l = 0; l < model->L; l++) {
        x = block_forward(run, l, x);
    }
    run->x = x;
    run->h = normalise(run, x, model->final_norm, &run->rstd);
    *h = run->h;
    return run;
}

void ref_run_free(ref_run *run)
{
    for (int i = 0; i < run->blocks; i++) {
        free(run->block[i]);
    }
    free(run->layer);
    free(run);
}

/* dx += that of matrix i of layer l, and the gradients of its parameters. */
static void project_back(ref_run *run, int64_t l, int i, const double *x, const double *dy,
                         const ref_model_grad *grad, double *dx)
{
    const ref_layer_grad *to = &grad->layer[l];
    ref_linear_grad g = { .dw = to->w[i],
                          .da = to->a[i],
                          .db = to->b[i],
                          .dx = dx,
                          .dw_mag = run->unused,
                          .da_mag = run->unused,
                          .db_mag = run->unused,
                          .dx_mag = run->unused };

    ref_linear_bwd(&run->layer[l].map[i], x, run->layer[l].u[i], dy, &g);
}

/* The gradient of x of a norm, to which that by the residual path is added. */
static double *normalise_back(ref_run *run, const double *x, const double *g, const double *rstd,
                              const double *dy, const double *dsum, double *dg)
{
    const int64_t N = run->texts->N, D = run->model->D;
    double *dx = fresh(run, N * D);

    ref_norm_bwd(x, g, rstd, dy, dsum, N, D, dx, run->unused, dg != NULL ? dg : fresh(run, D),
                 run->unused + N * D);
    store(run, dx, N * D);
    return dx;
}

static double *block_backward(ref_run *run, int64_t l, const double *dx, const ref_model_grad *grad)
{
    const ref_model *m = run->model;
    const int64_t N = run->texts->N, wide = N * m->H * m->E, narrow = N * m->G * m->E;
    const ref_attention a = attention_of(run);
    const saved *s = &run->layer[l];
    double *dm = fresh(run, N * m->F), *dgate = fresh(run, N * m->F), *dup = fresh(run, N * m->F);
    double *dn2 = fresh(run, N * m->D), *dn1 = fresh(run, N * m->D), *d_o = fresh(run, wide);
    double *const dqkv[] = { fresh(run, wide), fresh(run, narrow), fresh(run, narrow) };
    double *const sizes[] = { fresh(run, wide), fresh(run, narrow), fresh(run, narrow) };
    const double *dy;

    project_back(run, l, REF_DOWN, s->m, dx, grad, dm);
    store(run, dm, N * m->F);
    ref_swiglu_bwd(s->gate, s->up, dm, N * m->F, dgate, run->unused, dup);
    store(run, dgate, N * m->F);
    store(run, dup, N * m->F);
    project_back(run, l, REF_GATE, s->n2, dgate, grad, dn2);
    project_back(run, l, REF_UP, s->n2, dup, grad, dn2);
    store(run, dn2, N * m->D);
    dy =
        normalise_back(run, s->y, m->layer[l].mlp_norm, s->rstd2, dn2, dx, grad->layer[l].mlp_norm);
    project_back(run, l, REF_O, s->o, dy, grad, d_o);
    store(run, d_o, wide);
    ref_attention_bwd(&a, s->q, s->k, s->v, s->o, s->lse, d_o, dqkv, sizes);
    for (int i = 0; i < 3; i++) {
        store(run, dqkv[i], i == 0 ? wide : narrow);
        project_back(run, l, REF_Q + i, s->n1, dqkv[i], grad, dn1);
    }
    store(run, dn1, N * m->D);
    return normalise_back(run, s->x, m->layer[l].attn_norm, s->rstd1, dn1, dy,
                          grad->layer[l].attn_norm);
}

void ref_model_bwd(ref_run *run, const double *dh, const ref_model_grad *grad)
{
    const ref_model *m = run->model;
    const int64_t N = run->texts->N;
    double *of_h = fresh(run, N * m->D);
    const double *dx;

    memcpy(of_h, dh, (size_t)(N * m->D) * sizeof(*dh));
    store(run, of_h, N * m->D);
    dx = normalise_back(run, run->x, m->final_norm, run->rstd, of_h, NULL, grad->final_norm);
    for (int64_t l = m->L - 1; l >= 0; l--) {
        dx = block_backward(run, l, dx, grad);
    }
    if (grad->embed != NULL) {
        ref_embed_bwd(run->texts->token, dx, N, m->D, grad->embed, run->unused);
    }
}
