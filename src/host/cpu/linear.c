/*
 * linear.c - CPU side of ops/linear.h: products by cpu_gemm, and the rank-R branch around them.
 *
 * With enough rows and no dropout the branch is added to the weight once, W' = W + s B A, in place
 * of to every row: two of its six skinny products and two passes over activations are gone then.
 *
 * The branch's input under dropout is made in blocks of rows, so that scratch does not grow with
 * the batch; its mask is drawn again in backward and never stored.
 */
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/dropout.h"
#include "cpu/gemm.h"

enum {
    MASKED_ROWS = 512, /* rows of masked input that exist at a time */
    CHANNELS = 64
}; /* mask values drawn at a time              */

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

/* Rows that the branch takes at a time: all of them where nothing has to be masked. */
static int64_t block_rows(const linear_call *c)
{
    return has_dropout(c) && c->N > MASKED_ROWS ? MASKED_ROWS : c->N;
}

/*
 * Whether W' is worth making for a product over `length` elements: it costs O I R, the skinny
 * product that it saves N R times the other side of W.
 */
static bool is_merged(const linear_call *c, int64_t length)
{
    return c->R > 0 && !has_dropout(c) && c->N >= length;
}

/* W' = W + s B A into out (O,I). */
static csp_status merge(const linear_call *c, float *out)
{
    const float *w = c->l->w.data;
    const int parts = cpu_parts(c->be, c->O * c->I);

#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        const int64_t first = cpu_cut(c->O * c->I, 16, parts, part);
        const int64_t end = cpu_cut(c->O * c->I, 16, parts, part + 1);

        memcpy(out + first, w + first, (size_t)(end - first) * sizeof(float));
    }
    return cpu_gemm(c->be, false, false, c->O, c->I, c->R, c->l->lora_scale, c->l->lora_b.data,
                    c->R, c->l->lora_a.data, c->I, 1.0f, out, c->I);
}

/* Scratch of a block of rows, this many columns wide. */
static csp_status block_scratch(const linear_call *c, int64_t columns, float **out)
{
    return cpu_shared(c->be, (size_t)(block_rows(c) * columns) * sizeof(float), (void **)out);
}

/* u = (m ⊙ x) A^T */
static csp_status branch_fwd(const linear_call *c, const float *x, float *u)
{
    const float *a = c->l->lora_a.data; // (R,I)
    const int64_t I = c->I, R = c->R;
    float *masked;

    if (!has_dropout(c)) {
        return cpu_gemm(c->be, false, true, c->N, R, I, 1.0f, x, I, a, I, 0.0f, u, R);
    }
    CSP_TRY(block_scratch(c, I, &masked));
    for (int64_t n = 0; n < c->N; n += MASKED_ROWS) {
        const int64_t rows = c->N - n < MASKED_ROWS ? c->N - n : MASKED_ROWS;

        cpu_dropout_rows(c->be, &c->l->dropout, n, rows, I, x + n * I, masked, NULL, NULL);
        CSP_TRY(
            cpu_gemm(c->be, false, true, rows, R, I, 1.0f, masked, I, a, I, 0.0f, u + n * R, R));
    }
    return CSP_OK;
}

CPU_CLONES static void fill_row(const float *bias, float *y, int64_t O)
{
    for (int64_t o = 0; o < O; o++) {
        y[o] = bias[o];
    }
}

csp_status cpu_linear_fwd(csp_backend *be, const csp_linear *l, const csp_tensor *x, csp_tensor *u,
                          csp_tensor *y)
{
    const linear_call c = begin(be, l, y->dim[0]);
    const bool merged = is_merged(&c, c.I);
    const float *bias = l->bias.ndim > 0 ? l->bias.data : NULL;
    const float *w = l->w.data;
    float *out = y->data;

    if (bias != NULL) {
#pragma omp parallel for num_threads(cpu_parts(be, c.N *c.O)) schedule(static)
        for (int64_t n = 0; n < c.N; n++) {
            fill_row(bias, out + n * c.O, c.O);
        }
    }
    if (merged) {
        float *sum;

        CSP_TRY(cpu_shared(be, (size_t)(c.O * c.I) * sizeof(float), (void **)&sum));
        CSP_TRY(merge(&c, sum));
        w = sum;
    }
    CSP_TRY(cpu_gemm(be, false, true, c.N, c.O, c.I, 1.0f, x->data, c.I, w, c.I,
                     bias != NULL ? 1.0f : 0.0f, out, c.O));
    if (c.R > 0) {
        CSP_TRY(branch_fwd(&c, x->data, u->data));
    }
    if (c.R > 0 && !merged) {
        CSP_TRY(cpu_gemm(be, false, true, c.N, c.O, c.R, l->lora_scale, u->data, c.R,
                         l->lora_b.data, c.R, 1.0f, out, c.O));
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

/* dx = dy W, or dy W' with the branch in it. */
static csp_status input_grad(const linear_call *c, bool merged, const float *dy, bool accumulate,
                             float *dx)
{
    const float *w = c->l->w.data;

    if (merged) {
        float *sum;

        CSP_TRY(cpu_shared(c->be, (size_t)(c->O * c->I) * sizeof(float), (void **)&sum));
        CSP_TRY(merge(c, sum));
        w = sum;
    }
    return cpu_gemm(c->be, false, false, c->N, c->I, c->O, 1.0f, dy, c->O, w, c->I,
                    accumulate ? 1.0f : 0.0f, dx, c->I);
}

/* Everything of the branch but dB: du = s dy B, then dA and the branch's part of dx. */
static csp_status branch_bwd(const linear_call *c, const float *x, const float *dy, float *da,
                             float *dx)
{
    const int64_t I = c->I, R = c->R, O = c->O;
    const float *b = c->l->lora_b.data; // (O,R)
    const int64_t block = block_rows(c);
    float *du, *masked;

    CSP_TRY(block_scratch(c, R + (has_dropout(c) ? 2 * I : 0), &du));
    masked = du + block * R;
    for (int64_t n = 0; n < c->N; n += block) {
        const int64_t rows = c->N - n < block ? c->N - n : block;

        CSP_TRY(cpu_gemm(c->be, false, false, rows, R, O, c->l->lora_scale, dy + n * O, O, b, R,
                         0.0f, du, R));
        if (has_dropout(c)) {
            CSP_TRY(branch_block_bwd(c, n, rows, du, x, da, dx, masked, masked + block * I));
            continue;
        }
        if (da != NULL) {
            CSP_TRY(cpu_gemm(c->be, true, false, R, I, rows, 1.0f, du, R, x, I, 1.0f, da, I));
        }
        if (dx != NULL) {
            CSP_TRY(cpu_gemm(c->be, false, false, rows, I, R, 1.0f, du, R, c->l->lora_a.data, I,
                             1.0f, dx, I));
        }
    }
    return CSP_OK;
}

static float *data_or_null(const csp_tensor *t)
{
    return t != NULL && t->ndim > 0 ? t->data : NULL;
}

csp_status cpu_linear_bwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                          const csp_tensor *u, const csp_tensor *dy, const csp_linear_grad *grad,
                          bool accumulate, csp_tensor *dx)
{
    const linear_call c = begin(be, l, dy->dim[0]);
    const bool merged = is_merged(&c, c.O);
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
    if (d_in != NULL) {
        CSP_TRY(input_grad(&c, merged, d_out, accumulate, d_in));
    }
    if (c.R > 0 && (da != NULL || (d_in != NULL && !merged))) {
        CSP_TRY(branch_bwd(&c, in, d_out, da, merged ? NULL : d_in));
    }
    return CSP_OK;
}
