/*
 * linear.c - CPU side of ops/linear.h: rows through W by packed panels (cpu/panel_product.h),
 * gradients of matrices by cpu_gemm. The maps of a group one after the other: tails are not needed.
 *
 * Without dropout the adapter is part of the same sum: y = [x | s u] [W | B]^T, where u = x A^T is
 * formed from the rows while they are packed, and dx = [dy | du] [W ; A]. It costs R further steps
 * and no pass over an activation of its own. With dropout its input is another than W's: it is
 * added by products of its own, in blocks of rows so that scratch does not grow with the batch, and
 * the mask is drawn again in backward and never stored.
 */
#include "core/size.h"
#include "cpu/cpu.h"
#include "cpu/dropout.h"
#include "cpu/gemm.h"
#include "cpu/linear_fp8.h"
#include "cpu/panel_product.h"

enum { MASKED_ROWS = 512 }; /* rows of masked input that exist at a time */

/* What both directions work with. */
typedef struct linear_call {
    csp_backend *be;
    const csp_linear *l;
    int64_t N, I, O, R;
} linear_call;

static linear_call begin(csp_backend *be, const csp_linear *l, int64_t N)
{
    return (linear_call) { be,          l,           N,
                           l->w.dim[1], l->w.dim[0], l->lora_a.ndim > 0 ? l->lora_a.dim[0] : 0 };
}

static bool has_dropout(const linear_call *c)
{
    return c->R > 0 && c->l->dropout.p > 0.0f;
}

static float *data_or_null(const csp_tensor *t)
{
    return t != NULL && t->ndim > 0 ? t->data : NULL;
}

/* Runs map in shared memory of its own size. */
static csp_status run_map(csp_backend *be, const cpu_map *map)
{
    void *shared;

    CSP_TRY(cpu_shared(be, cpu_map_bytes(map), &shared));
    return cpu_map_rows(be, map, shared);
}

/* y += s u B^T, u = (m ⊙ x) A^T */
static csp_status masked_branch_fwd(const linear_call *c, const float *x, float *u, float *y)
{
    const int64_t I = c->I, R = c->R;
    float *masked;

    CSP_TRY(cpu_shared(c->be, (size_t)(MASKED_ROWS * I) * sizeof(float), (void **)&masked));
    for (int64_t n = 0; n < c->N; n += MASKED_ROWS) {
        const int64_t rows = c->N - n < MASKED_ROWS ? c->N - n : MASKED_ROWS;

        cpu_dropout_rows(c->be, &c->l->dropout, n, rows, I, x + n * I, masked, NULL, NULL);
        CSP_TRY(cpu_gemm(c->be, false, true, rows, R, I, 1.0f, masked, I, c->l->lora_a.data, I,
                         0.0f, u + n * R, R));
    }
    return cpu_gemm(c->be, false, true, c->N, c->O, R, c->l->lora_scale, u, R, c->l->lora_b.data, R,
                    1.0f, y, c->O);
}

static csp_status part_fwd(csp_backend *be, const csp_linear *l, const csp_linear_rows *rows, int i)
{
    const csp_tensor *x = &rows->x, *u = &rows->u[i], *y = &rows->y[i];
    const linear_call c = begin(be, l, y->dim[0]);
    const cpu_map map = { .N = c.N,
                          .K = c.I,
                          .O = c.O,
                          .R = has_dropout(&c) ? 0 : c.R,
                          .form = CPU_OUTPUT_ROWS,
                          .m = l->w.data,
                          .s = l->lora_a.data,
                          .t = l->lora_b.data,
                          .scale = l->lora_scale,
                          .x = x->data,
                          .bias = data_or_null(&l->bias),
                          .inner_scale = 1.0f,
                          .inner = data_or_null(u),
                          .y = y->data };

    CSP_TRY(l->w.dtype == CSP_E4M3 ? cpu_linear_fp8_fwd(be, l, rows, i) : run_map(be, &map));
    return has_dropout(&c) ? masked_branch_fwd(&c, x->data, u->data, y->data) : CSP_OK;
}

csp_status cpu_linear_fwd(csp_backend *be, const csp_linear_group *group, csp_linear_rows *rows)
{
    for (int i = 0; i < group->count; i++) {
        CSP_TRY(part_fwd(be, &group->part[i], rows, i));
    }
    return CSP_OK;
}

CPU_CLONES static void add_columns(const float *dy, int64_t N, int64_t O, int64_t first,
                                   int64_t end, float *dbias)
{
    for (int64_t n = 0; n < N; n++) {
        for (int64_t o = first; o < end; o++) {
            dbias[o] += dy[n * O + o];
        }
    }
}

/* dbias += sum of rows of dy, each thread its own columns, rows in order. */
static void bias_bwd(const linear_call *c, const float *dy, float *dbias)
{
    const int parts = cpu_parts(c->be, c->N * c->O);

#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        add_columns(dy, c->N, c->O, cpu_cut(c->O, 16, parts, part),
                    cpu_cut(c->O, 16, parts, part + 1), dbias);
    }
}

/*
 * dA += du^T (m ⊙ x) and dx += m ⊙ (du A), where wanted, for one block of rows.
 *
 *   masked, branch   scratch of (rows,I) each
 */
static csp_status branch_block_bwd(const linear_call *c, int64_t first, int64_t rows,
                                   const float *du, const float *x, float *da, float *dx,
                                   float *masked, float *branch)
{
    const int64_t I = c->I, R = c->R;

    if (dx != NULL) {
        CSP_TRY(cpu_gemm(c->be, false, false, rows, I, R, 1.0f, du, R, c->l->lora_a.data, I, 0.0f,
                         branch, I));
    }
    cpu_dropout_rows(c->be, &c->l->dropout, first, rows, I, da != NULL ? x + first * I : NULL,
                     da != NULL ? masked : NULL, branch, dx != NULL ? dx + first * I : NULL);
    if (da != NULL) {
        CSP_TRY(cpu_gemm(c->be, true, false, R, I, rows, 1.0f, du, R, masked, I, 1.0f, da, I));
    }
    return CSP_OK;
}

/* du = s dy B, then dA and the branch's part of dx. */
static csp_status masked_branch_bwd(const linear_call *c, const float *x, const float *dy,
                                    float *da, float *dx)
{
    const int64_t I = c->I, R = c->R, O = c->O;
    const float *b = c->l->lora_b.data; // (O,R)
    float *du, *masked;

    CSP_TRY(cpu_shared(c->be, (size_t)(MASKED_ROWS * (R + 2 * I)) * sizeof(float), (void **)&du));
    masked = du + MASKED_ROWS * R;
    for (int64_t n = 0; n < c->N; n += MASKED_ROWS) {
        const int64_t rows = c->N - n < MASKED_ROWS ? c->N - n : MASKED_ROWS;

        CSP_TRY(cpu_gemm(c->be, false, false, rows, R, O, c->l->lora_scale, dy + n * O, O, b, R,
                         0.0f, du, R));
        CSP_TRY(branch_block_bwd(c, n, rows, du, x, da, dx, masked, masked + MASKED_ROWS * I));
    }
    return CSP_OK;
}

/*
 * dx = dy W + du A and dA += du^T x, where wanted; du = s dy B. Where only dA is wanted, du is
 * the product of a map of its own.
 */
static csp_status input_bwd(const linear_call *c, bool accumulate, const float *x, const float *dy,
                            float *da, float *dx)
{
    const csp_linear *l = c->l;
    const size_t inner = csp_size_round_up((size_t)(c->N * c->R) * sizeof(float), CSP_ARENA_ALIGN);
    cpu_map map = { .N = c->N, .K = c->O, .form = CPU_INPUT_ROWS, .x = dy };
    char *shared;
    float *du;

    if (dx != NULL) {
        map.O = c->I;
        map.R = c->R;
        map.m = l->w.data;
        map.s = l->lora_b.data;
        map.t = l->lora_a.data;
        map.scale = l->lora_scale;
        map.inner_scale = l->lora_scale;
        map.add = accumulate;
    } else {
        map.O = c->R;
        map.m = l->lora_b.data;
    }
    CSP_TRY(cpu_shared(c->be, inner + cpu_map_bytes(&map), (void **)&shared));
    du = (float *)shared;
    map.inner = du;
    map.y = dx != NULL ? dx : du;
    CSP_TRY(cpu_map_rows(c->be, &map, shared + inner));
    return da == NULL
               ? CSP_OK
               : cpu_gemm(c->be, true, false, c->R, c->I, c->N, dx != NULL ? 1.0f : l->lora_scale,
                          du, c->R, x, c->I, 1.0f, da, c->I);
}

static csp_status part_bwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                           const csp_tensor *u, const csp_tensor *dy, const csp_linear_grad *grad,
                           bool accumulate, const csp_tensor *dx)
{
    linear_call c = begin(be, l, dy->dim[0]);
    const bool masked = has_dropout(&c);
    const float *in = data_or_null(x), *d_out = dy->data;
    float *dw = data_or_null(&grad->dw), *dbias = data_or_null(&grad->dbias);
    float *da = data_or_null(&grad->dlora_a), *db = data_or_null(&grad->dlora_b);
    float *d_in = data_or_null(dx);

    if (dw != NULL) {
        CSP_TRY(cpu_gemm(be, true, false, c.O, c.I, c.N, 1.0f, d_out, c.O, in, c.I, 1.0f, dw, c.I));
    }
    if (dbias != NULL) {
        bias_bwd(&c, d_out, dbias);
    }
    if (db != NULL) {
        CSP_TRY(cpu_gemm(be, true, false, c.O, c.R, c.N, l->lora_scale, d_out, c.O, u->data, c.R,
                         1.0f, db, c.R));
    }
    if (l->w.dtype == CSP_E4M3) {
        if (c.R == 0 || (da == NULL && d_in == NULL)) {
            return CSP_OK;
        }
        return masked ? masked_branch_bwd(&c, in, d_out, da, d_in)
                      : cpu_linear_fp8_branch_bwd(be, l, in, d_out, c.N, da, d_in);
    }
    if (masked) {
        const int64_t R = c.R;

        c.R = 0;
        if (d_in != NULL) {
            CSP_TRY(input_bwd(&c, accumulate, NULL, d_out, NULL, d_in));
        }
        c.R = R;
        return da != NULL || d_in != NULL ? masked_branch_bwd(&c, in, d_out, da, d_in) : CSP_OK;
    }
    return da != NULL || d_in != NULL ? input_bwd(&c, accumulate, in, d_out, da, d_in) : CSP_OK;
}

csp_status cpu_linear_bwd(csp_backend *be, const csp_linear_group *group, csp_linear_group_grad *g)
{
    if (group->part[0].w.dtype == CSP_E4M3 && g->dx.ndim > 0) {
        CSP_TRY(cpu_linear_fp8_bwd(be, group, g));
    }
    for (int i = 0; i < group->count; i++) {
        CSP_TRY(
            part_bwd(be, &group->part[i], &g->x, &g->u[i], &g->dy[i], &g->part[i], i > 0, &g->dx));
    }
    return CSP_OK;
}
