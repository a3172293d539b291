/*
 * linear.cu - CUDA side of ops/linear.h: products by cuBLASLt, and the rank-R branches around them.
 *
 * With tails the branch is part of the product: u stands beside x and s B beside W, so that the sum
 * over the input goes on over the ranks, in float32, and y is written once and never read; so too
 * [dy | du] [W ; A] in backward. The few columns of s B and rows of A are copied behind W in every
 * call: B changes with each update, and the copy costs less than keeping track of that.
 *
 * Without tails, and in backward under dropout, where the branch has another mask for each part, it
 * comes first and the product with W is added to it: also then that sum is formed in float32, so
 * that a branch far smaller than the rest, as it is when training begins, survives bf16 storage.
 * Added last it would be rounded away.
 *
 * Matrices in e4m3 have products of their own, linear_fp8.cu, and no tails.
 *
 * Parts whose operands are neighbours in memory are one product: W below W and y beside y, A below
 * A, dW below dW.
 *
 * Scratch: under dropout du (rows,R) and two masked blocks (rows,I), of as many rows as fit
 * MASKED_BYTES, the mask drawn again in backward; or du (N,ranks); or partial sums of dbias.
 */
#include "linear.cuh"

#include "dropout.cuh"
#include "gemm.cuh"
#include "launch.cuh"
#include "linear_fp8.cuh"

/* Of both masked blocks together: some thousand rows of a large model, so products stay large. */
#define MASKED_BYTES ((int64_t)64 << 20)

/* Parts first .. end-1 as one product, of O outputs or R ranks altogether. */
struct linear_run {
    int end;
    int64_t O, R;
};

template <typename T>
static linear_call<T> begin(csp_backend *be, const csp_linear_group *group, int64_t N)
{
    linear_call<T> c = {};

    c.be = be;
    c.group = group;
    c.count = group->count;
    c.N = N;
    c.I = group->part[0].w.dim[1];
    for (int i = 0; i < c.count; i++) {
        const csp_linear *l = &group->part[i];
        linear_part<T> *p = &c.part[i];

        p->O = l->w.dim[0];
        p->w = matrix_of<const T>(&l->w);
        p->before = c.ranks;
        if (l->lora_a.ndim > 0) {
            p->R = l->lora_a.dim[0];
            p->scale = l->lora_scale;
            p->a = (const T *)l->lora_a.data;
            p->b = (const T *)l->lora_b.data;
            p->dropout = l->dropout.p > 0.0f ? &l->dropout : NULL;
        }
        c.ranks += p->R;
    }
    return c;
}

template <typename T> static bool has_dropout(const linear_call<T> *c)
{
    bool any = false;

    for (int i = 0; i < c->count; i++) {
        any = any || c->part[i].dropout != NULL;
    }
    return any;
}

/* Parts from first on with their w below and their y, or dy, beside one another. */
static linear_run outputs_from(const csp_linear_group *g, const csp_tensor *y, int first)
{
    linear_run run = { first + 1, g->part[first].w.dim[0], 0 };

    while (run.end < g->count &&
           csp_tensor_is_below(&g->part[run.end - 1].w, &g->part[run.end].w) &&
           csp_tensor_is_beside(&y[run.end - 1], &y[run.end])) {
        run.O += g->part[run.end++].w.dim[0];
    }
    return run;
}

/* A matrix of each part: A of its adapter, or its gradient; none where it has none. */
struct part_matrices {
    const csp_tensor *of[CSP_LINEAR_PARTS];
};

template <typename T> static part_matrices adapters_of(const linear_call<T> *c)
{
    part_matrices m = {};

    for (int i = 0; i < c->count; i++) {
        m.of[i] = &c->group->part[i].lora_a;
    }
    return m;
}

static part_matrices gradients_of(const csp_linear_group_grad *g)
{
    part_matrices m = {};

    for (int i = 0; i < CSP_LINEAR_PARTS; i++) {
        m.of[i] = &g->part[i].dlora_a;
    }
    return m;
}

/* Parts from first on, all with an adapter, whose matrices (R,I) lie below one another. */
template <typename T>
static linear_run ranks_from(const linear_call<T> *c, int first, const part_matrices &m)
{
    linear_run run = { first + 1, 0, c->part[first].R };

    while (run.end < c->count && csp_tensor_is_below(m.of[run.end - 1], m.of[run.end])) {
        run.R += c->part[run.end++].R;
    }
    return run;
}

/* Rows of a masked block: as many as fit, at most all. */
template <typename T> static int64_t masked_rows(const linear_call<T> *c)
{
    const int64_t fitting = MASKED_BYTES / (2 * c->I * (int64_t)sizeof(T));
    const int64_t most = fitting < 1 ? 1 : fitting;

    return c->N < most ? c->N : most;
}

/* u = (m ⊙ x) A^T of one part under dropout, through a block of masked rows in scratch. */
template <typename T>
static csp_status masked_branch_fwd(const linear_call<T> *c, const linear_part<T> *p,
                                    linear_matrix<const T> x, linear_matrix<T> u)
{
    const int64_t I = c->I, block = masked_rows(c);
    void *scratch;

    CSP_TRY(cuda_scratch(c->be, (size_t)(block * I) * sizeof(T), &scratch));
    for (int64_t n = 0; n < c->N; n += block) {
        const int64_t rows = c->N - n < block ? c->N - n : block;

        CSP_TRY(cuda_dropout(c->be, p->dropout, n, rows, I, false, x.at + n * x.row, x.row,
                             (T *)scratch));
        CSP_TRY(cuda_gemm(c->be, false, true, rows, p->R, I, 1.0f, (const T *)scratch, I, p->a, I,
                          0.0f, u.at + n * u.row, u.row));
    }
    return CSP_OK;
}

/* u of all parts: side by side in tail, where there is one, else each in its own tensor. */
template <typename T>
static csp_status branches_fwd(const linear_call<T> *c, const csp_linear_rows *rows,
                               linear_matrix<T> tail)
{
    const linear_matrix<const T> x = matrix_of<const T>(&rows->x);

    for (int i = 0; i < c->count;) {
        const linear_part<T> *p = &c->part[i];
        linear_run run = ranks_from(c, i, adapters_of(c));
        linear_matrix<T> u = { tail.at + p->before, tail.row };

        if (tail.at == NULL || p->dropout != NULL) {
            run = { i + 1, 0, p->R };
        }
        if (tail.at == NULL) {
            u = matrix_of<T>(&rows->u[i]);
        }
        if (p->dropout != NULL) {
            CSP_TRY(masked_branch_fwd(c, p, x, u));
        } else if (p->R > 0) {
            CSP_TRY(cuda_gemm(c->be, false, true, c->N, run.R, c->I, 1.0f, x.at, x.row, p->a, c->I,
                              0.0f, u.at, u.row));
        }
        i = run.end;
    }
    return CSP_OK;
}

/* Whether parts first .. end-1 all have biases, one behind the other in memory. */
template <typename T> static bool has_joined_bias(const csp_linear_group *g, int first, int end)
{
    const void *end_of_last = NULL;

    for (int i = first; i < end; i++) {
        const csp_tensor *bias = &g->part[i].bias;

        if (bias->ndim == 0 || (i > first && bias->data != end_of_last)) {
            return false;
        }
        end_of_last = (const T *)bias->data + bias->dim[0];
    }
    return true;
}

/* Which parts' biases the product adds: where several parts are one product, joined ones only. */
template <typename T>
static void pick_joined(const csp_linear_group *g, const csp_linear_rows *rows, bool *joined)
{
    for (int i = 0; i < g->count;) {
        const linear_run run = outputs_from(g, rows->y, i);
        const bool all = g->part[i].w.dtype != CSP_E4M3 && has_joined_bias<T>(g, i, run.end);

        while (i < run.end) {
            joined[i++] = all;
        }
    }
}

/*
 * Writes what the product of part i is added to: its branch, or a bias that is not joined. Says
 * whether it did.
 */
template <typename T>
static csp_status begin_output(const linear_call<T> *c, int i, bool tails, bool joined,
                               csp_linear_rows *rows, bool *begun)
{
    const linear_part<T> *p = &c->part[i];
    const csp_tensor *bias = &c->group->part[i].bias;
    const linear_matrix<T> y = matrix_of<T>(&rows->y[i]);

    *begun = true;
    if (p->R > 0 && !tails) {
        return cuda_gemm(c->be, false, true, c->N, p->O, p->R, p->scale, (const T *)rows->u[i].data,
                         p->R, p->b, p->R, 0.0f, y.at, y.row);
    }
    if (bias->ndim > 0 && !joined) {
        return cuda_linear_bias_fwd(c->be, false, (const T *)bias->data, c->N, p->O, y);
    }
    *begun = false;
    return CSP_OK;
}

template <typename T>
static csp_status linear_fwd(csp_backend *be, const csp_linear_group *group, csp_linear_rows *rows)
{
    const linear_call<T> c = begin<T>(be, group, rows->x.dim[0]);
    const bool tails = c.ranks > 0 && group->w_tail.ndim > 0 && rows->x_tail.ndim > 0;
    const int64_t W = tails ? group->w_tail.dim[1] : 0;
    const linear_matrix<const T> x = matrix_of<const T>(&rows->x);
    const linear_matrix<T> x_tail =
        tails ? matrix_of<T>(&rows->x_tail) : linear_matrix<T> { NULL, 0 };
    bool begun[CSP_LINEAR_PARTS], joined[CSP_LINEAR_PARTS];

    (void)cuda_stream(be, "linear_fwd");
    CSP_TRY(branches_fwd(&c, rows, x_tail));
    if (tails) {
        T *const u[] = { (T *)rows->u[0].data, (T *)rows->u[1].data, (T *)rows->u[2].data };

        CSP_TRY(cuda_linear_close_tail(&c, x_tail, W, u));
        CSP_TRY(cuda_linear_w_tail(&c, matrix_of<T>(&group->w_tail), W));
    }
    pick_joined<T>(group, rows, joined);
    for (int i = 0; i < c.count; i++) {
        CSP_TRY(begin_output(&c, i, tails, joined[i], rows, &begun[i]));
    }
    if (group->part[0].w.dtype == CSP_E4M3) {
        CSP_TRY(cuda_linear_fp8_fwd(be, group, rows, begun, CUDA_FP8_BLOCK_BYTES));
    }
    for (int i = 0; i < c.count && group->part[0].w.dtype != CSP_E4M3;) {
        const linear_run run = outputs_from(group, rows->y, i);
        const linear_part<T> *p = &c.part[i];
        const linear_matrix<T> y = matrix_of<T>(&rows->y[i]);
        bool same = true;

        for (int j = i + 1; j < run.end; j++) {
            same = same && begun[j] == begun[i];
        }
        const int end = same ? run.end : i + 1;

        cuda_product product =
            cuda_product_of(false, true, c.N, same ? run.O : p->O, c.I + W, 1.0f, x.at, x.row,
                            p->w.at, p->w.row, begun[i] ? 1.0f : 0.0f, y.at, y.row);

        product.bias = joined[i] ? group->part[i].bias.data : NULL;
        CSP_TRY(cuda_multiply(be, &product));
        i = end;
    }
    for (int i = 0; i < c.count; i++) {
        const csp_tensor *bias = &group->part[i].bias;

        if (c.part[i].R > 0 && !tails && bias->ndim > 0 && !joined[i]) {
            CSP_TRY(cuda_linear_bias_fwd(be, true, (const T *)bias->data, c.N, c.part[i].O,
                                         matrix_of<T>(&rows->y[i])));
        }
    }
    return CSP_OK;
}

csp_status cuda_linear_fwd(csp_backend *be, const csp_linear_group *group, csp_linear_rows *rows)
{
    return rows->x.dtype == CSP_BF16 ? linear_fwd<__nv_bfloat16>(be, group, rows)
                                     : linear_fwd<float>(be, group, rows);
}

/* dW, dbias and dB, which need nothing but dy and what forward kept. */
template <typename T>
static csp_status parameters_bwd(const linear_call<T> *c, const csp_linear_group_grad *g)
{
    const linear_matrix<const T> x = matrix_of<const T>(&g->x);

    for (int i = 0; i < c->count;) {
        const csp_linear_grad *part = &g->part[i];
        const int most = outputs_from(c->group, g->dy, i).end;
        const linear_matrix<const T> dy = matrix_of<const T>(&g->dy[i]);
        int end = i + 1;
        int64_t O = c->part[i].O;

        while (end < most && csp_tensor_is_below(&g->part[end - 1].dw, &g->part[end].dw)) {
            O += c->part[end++].O;
        }
        if (part->dw.ndim > 0) {
            CSP_TRY(cuda_gemm(c->be, true, false, O, c->I, c->N, 1.0f, dy.at, dy.row, x.at, x.row,
                              1.0f, (float *)part->dw.data, c->I));
        }
        i = end;
    }
    for (int i = 0; i < c->count; i++) {
        const linear_part<T> *p = &c->part[i];
        const linear_matrix<const T> dy = matrix_of<const T>(&g->dy[i]);
        float *dbias = (float *)g->part[i].dbias.data, *db = (float *)g->part[i].dlora_b.data;

        if (g->part[i].dbias.ndim > 0) {
            CSP_TRY(cuda_linear_bias_bwd(c->be, c->N, p->O, dy, dbias));
        }
        if (g->part[i].dlora_b.ndim > 0) {
            CSP_TRY(cuda_gemm(c->be, true, false, p->O, p->R, c->N, p->scale, dy.at, dy.row,
                              (const T *)g->u[i].data, p->R, 1.0f, db, p->R));
        }
    }
    return CSP_OK;
}

/* Where the branches' gradients go. */
template <typename T> struct branch_grad {
    T *dx;      /* (N,I), or NULL                               */
    bool begun; /* dx holds numbers already, which are added to */
};

/*
 * One block of rows of a part under dropout: du = s dy B, dA += du^T (m ⊙ x) and
 * dx (+)= m ⊙ (du A), where wanted.
 *
 *   du, masked, branch   scratch of (rows,R), (rows,I), (rows,I)
 */
template <typename T>
static csp_status masked_block_bwd(const linear_call<T> *c, const csp_linear_group_grad *g, int i,
                                   int64_t first, int64_t rows, const branch_grad<T> *to,
                                   T *scratch)
{
    const linear_part<T> *p = &c->part[i];
    const linear_matrix<const T> x = matrix_of<const T>(&g->x), dy = matrix_of<const T>(&g->dy[i]);
    const int64_t I = c->I, R = p->R;
    T *masked = scratch, *branch = masked + rows * I, *du = branch + rows * I;

    CSP_TRY(cuda_gemm(c->be, false, false, rows, R, p->O, p->scale, dy.at + first * dy.row, dy.row,
                      p->b, R, 0.0f, du, R));
    if (g->part[i].dlora_a.ndim > 0) {
        CSP_TRY(cuda_dropout(c->be, p->dropout, first, rows, I, false, x.at + first * x.row, x.row,
                             masked));
        CSP_TRY(cuda_gemm(c->be, true, false, R, I, rows, 1.0f, (const T *)du, R, (const T *)masked,
                          I, 1.0f, (float *)g->part[i].dlora_a.data, I));
    }
    if (to->dx != NULL) {
        CSP_TRY(cuda_gemm(c->be, false, false, rows, I, R, 1.0f, (const T *)du, R, p->a, I, 0.0f,
                          branch, I));
        CSP_TRY(cuda_dropout(c->be, p->dropout, first, rows, I, to->begun, branch, I,
                             to->dx + first * I));
    }
    return CSP_OK;
}

/* All rows of a part under dropout. */
template <typename T>
static csp_status masked_branch_bwd(const linear_call<T> *c, const csp_linear_group_grad *g, int i,
                                    const branch_grad<T> *to)
{
    const int64_t block = masked_rows(c);
    void *scratch;

    CSP_TRY(cuda_scratch(c->be, (size_t)(block * (c->part[i].R + 2 * c->I)) * sizeof(T), &scratch));
    for (int64_t n = 0; n < c->N; n += block) {
        CSP_TRY(
            masked_block_bwd(c, g, i, n, c->N - n < block ? c->N - n : block, to, (T *)scratch));
    }
    return CSP_OK;
}

/* Without dropout: du = s dy B of all parts side by side, dA and, into to, their part of dx. */
template <typename T>
static csp_status branches_bwd(const linear_call<T> *c, const csp_linear_group_grad *g,
                               linear_matrix<T> du, branch_grad<T> *to)
{
    const linear_matrix<const T> x = matrix_of<const T>(&g->x);
    const int64_t I = c->I;

    for (int i = 0; i < c->count; i++) {
        const linear_part<T> *p = &c->part[i];
        const linear_matrix<const T> dy = matrix_of<const T>(&g->dy[i]);

        if (p->R > 0) {
            CSP_TRY(cuda_gemm(c->be, false, false, c->N, p->R, p->O, p->scale, dy.at, dy.row, p->b,
                              p->R, 0.0f, du.at + p->before, du.row));
        }
    }
    for (int i = 0; i < c->count;) {
        const linear_run run = ranks_from(c, i, gradients_of(g));

        if (g->part[i].dlora_a.ndim > 0) {
            CSP_TRY(cuda_gemm(c->be, true, false, run.R, I, c->N, 1.0f,
                              (const T *)du.at + c->part[i].before, du.row, x.at, x.row, 1.0f,
                              (float *)g->part[i].dlora_a.data, I));
        }
        i = run.end;
    }
    for (int i = 0; i < c->count && to->dx != NULL;) {
        const linear_run run = ranks_from(c, i, adapters_of(c));
        const linear_part<T> *p = &c->part[i];

        if (p->R > 0) {
            CSP_TRY(cuda_gemm(c->be, false, false, c->N, I, run.R, 1.0f,
                              (const T *)du.at + p->before, du.row, p->a, I,
                              to->begun ? 1.0f : 0.0f, to->dx, I));
            to->begun = true;
        }
        i = run.end;
    }
    return CSP_OK;
}

/* All of the branches but dB; with tail (N,W) du goes there, and dx is left to the product. */
template <typename T>
static csp_status adapters_bwd(const linear_call<T> *c, const csp_linear_group_grad *g,
                               linear_matrix<T> tail, int64_t W, branch_grad<T> *to)
{
    T *const no_copies[CSP_LINEAR_PARTS] = { NULL, NULL, NULL };
    void *scratch;

    if (tail.at != NULL) {
        branch_grad<T> nowhere = { NULL, false };

        CSP_TRY(branches_bwd(c, g, tail, &nowhere));
        if (W > c->ranks) {
            CSP_TRY(cuda_linear_close_tail(c, tail, W, no_copies));
        }
        return cuda_linear_a_tail(c, matrix_of<T>(&c->group->a_tail), W);
    }
    if (!has_dropout(c)) {
        CSP_TRY(cuda_scratch(c->be, (size_t)(c->N * c->ranks) * sizeof(T), &scratch));
        return branches_bwd(c, g, linear_matrix<T> { (T *)scratch, c->ranks }, to);
    }
    for (int i = 0; i < c->count; i++) {
        if (c->part[i].R > 0) {
            CSP_TRY(masked_branch_bwd(c, g, i, to));
            to->begun = true;
        }
    }
    return CSP_OK;
}

template <typename T>
static csp_status linear_bwd(csp_backend *be, const csp_linear_group *group,
                             csp_linear_group_grad *g)
{
    const linear_call<T> c = begin<T>(be, group, g->dy[0].dim[0]);
    const bool tails = c.ranks > 0 && g->dx.ndim > 0 && group->a_tail.ndim > 0 &&
                       g->dy_tail.ndim > 0 && !has_dropout(&c);
    const int64_t W = tails ? group->a_tail.dim[0] : 0;
    const linear_matrix<T> tail = tails ? matrix_of<T>(&g->dy_tail) : linear_matrix<T> { NULL, 0 };
    branch_grad<T> to = { g->dx.ndim > 0 ? (T *)g->dx.data : NULL, false };
    bool wanted = to.dx != NULL;

    (void)cuda_stream(be, "linear_bwd");
    CSP_TRY(parameters_bwd(&c, g));
    for (int i = 0; i < c.count; i++) {
        wanted = wanted || g->part[i].dlora_a.ndim > 0;
    }
    if (c.ranks > 0 && wanted) {
        CSP_TRY(adapters_bwd(&c, g, tail, W, &to));
    }
    if (group->part[0].w.dtype == CSP_E4M3) {
        return to.dx != NULL ? cuda_linear_fp8_bwd(be, group, g, to.begun, CUDA_FP8_BLOCK_BYTES)
                             : CSP_OK;
    }
    for (int i = 0; i < c.count && to.dx != NULL;) {
        const linear_run run = outputs_from(group, g->dy, i);
        const linear_matrix<const T> dy = matrix_of<const T>(&g->dy[i]), w = c.part[i].w;

        CSP_TRY(cuda_gemm(be, false, false, c.N, c.I, run.O + (run.end == c.count ? W : 0), 1.0f,
                          dy.at, dy.row, w.at, w.row, to.begun ? 1.0f : 0.0f, to.dx, c.I));
        to.begun = true;
        i = run.end;
    }
    return CSP_OK;
}

csp_status cuda_linear_bwd(csp_backend *be, const csp_linear_group *group,
                           csp_linear_group_grad *grad)
{
    return grad->dy[0].dtype == CSP_BF16 ? linear_bwd<__nv_bfloat16>(be, group, grad)
                                         : linear_bwd<float>(be, group, grad);
}
