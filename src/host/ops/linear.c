/* linear.c - checks of ops/linear.h. */
#include "ops/linear.h"

#include "ops/check.h"

/* Sizes and storage type of one call. */
typedef struct linear_sizes {
    int64_t N, I;
    int64_t outputs; /* of all parts         */
    int64_t ranks;   /* of all parts, summed */
    float p;         /* of dropout           */
    bool fp8;        /* w is in e4m3         */
    csp_dtype S;
} linear_sizes;

static int64_t rank_of(const csp_linear *l)
{
    return csp_check_given(&l->lora_a) ? l->lora_a.dim[0] : 0;
}

static csp_status check_adapter(const csp_linear *l, csp_dtype S)
{
    const int64_t O = l->w.dim[0], I = l->w.dim[1];

    if (!csp_check_given(&l->lora_a)) {
        return CSP_OK;
    }
    CSP_TRY(csp_check_rank("linear", "lora_a", &l->lora_a, S, 2));
    if (rank_of(l) < 1) {
        return CSP_FAIL(CSP_ERR_SHAPE, "linear: lora_a must have at least one row");
    }
    CSP_TRY(csp_check_tensor("linear", "lora_a", &l->lora_a, S, 2, (int64_t[]) { rank_of(l), I }));
    return csp_check_tensor("linear", "lora_b", &l->lora_b, S, 2, (int64_t[]) { O, rank_of(l) });
}

static csp_status check_dropout(const csp_linear *l, const linear_sizes *s)
{
    if (rank_of(l) == 0 || l->dropout.p == 0.0f) {
        return CSP_OK;
    }
    if (!(l->dropout.p > 0.0f && l->dropout.p < 1.0f)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "linear: dropout %g is not in [0, 1)",
                        (double)l->dropout.p);
    }
    if (s->I > (int64_t)65536 * 4) {
        return CSP_FAIL(CSP_ERR_SHAPE, "linear: dropout of %lld channels, at most 262144",
                        (long long)s->I);
    }
    return csp_check_tensor("linear", "row_key", &l->dropout.row_key, CSP_I64, 1, &s->N);
}

/* w in e4m3: in whole pieces of 16, as products of it are read. */
static csp_status check_fp8_matrix(const csp_linear *l, int64_t I)
{
    const int64_t O = l->w.dim[0];

    CSP_TRY(csp_check_tensor("linear", "w", &l->w, CSP_E4M3, 2, (int64_t[]) { O, I }));
    CSP_TRY(csp_check_tensor("linear", "w_scale", &l->w_scale, CSP_F32, 1, &O));
    return O % 16 == 0 && I % 16 == 0
               ? CSP_OK
               : CSP_FAIL(CSP_ERR_SHAPE, "linear: w in e4m3 is (%lld,%lld), not multiples of 16",
                          (long long)O, (long long)I);
}

/* Whether w and w_scale of part i, in e4m3, lie below those of the part before. */
static bool is_below_last(const csp_linear_group *g, int i)
{
    const csp_linear *before = &g->part[i - 1], *l = &g->part[i];

    return csp_tensor_is_below(&before->w, &l->w) &&
           l->w_scale.data == (const float *)before->w_scale.data + before->w_scale.dim[0];
}

static csp_status check_part(const csp_backend *be, const csp_linear *l, const csp_tensor *y,
                             linear_sizes *s)
{
    const int64_t O = l->w.dim[0];

    CSP_TRY(s->fp8 ? check_fp8_matrix(l, s->I)
                   : csp_check_matrix(be, "linear", "w", &l->w, s->S, O, s->I));
    CSP_TRY(csp_check_matrix(be, "linear", "y and dy", y, s->S, s->N, O));
    if (csp_check_given(&l->bias)) {
        CSP_TRY(csp_check_tensor("linear", "bias", &l->bias, s->S, 1, &O));
    }
    CSP_TRY(check_adapter(l, s->S));
    CSP_TRY(check_dropout(l, s));
    if (rank_of(l) > 0 && s->ranks > 0 && l->dropout.p != s->p) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "linear: dropout %g and %g in one group", (double)s->p,
                        (double)l->dropout.p);
    }
    s->p = rank_of(l) > 0 ? l->dropout.p : s->p;
    s->outputs += O;
    s->ranks += rank_of(l);
    return CSP_OK;
}

/* The operands that both directions have; y holds y or dy of each part. */
static csp_status check_operands(const csp_backend *be, const csp_linear_group *g,
                                 const csp_tensor *y, linear_sizes *out)
{
    csp_tensor w = g->part[0].w, of_storage = w;
    linear_sizes s = { 0 };

    if (g->count < 1 || g->count > CSP_LINEAR_PARTS) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "linear: a group of %d maps, 1 to %d are possible",
                        (int)g->count, CSP_LINEAR_PARTS);
    }
    s.fp8 = w.dtype == CSP_E4M3 && w.ndim == 2;
    if (s.fp8) {
        of_storage = y[0];
        if (!be->fp8) {
            return CSP_FAIL(CSP_ERR_UNSUPPORTED, "linear: w is in e4m3, which %s does not multiply",
                            be->name);
        }
    }
    of_storage.apart = 0;
    CSP_TRY(csp_check_storage(be, "linear", s.fp8 ? "y and dy" : "w", &of_storage, 2, &s.S));
    s.N = y[0].dim[0];
    s.I = w.dim[1];
    for (int i = 0; i < g->count; i++) {
        if (g->part[i].w.dim[0] < 1 || s.I < 1) {
            return CSP_FAIL(CSP_ERR_SHAPE, "linear: w must have at least one row and one column");
        }
        CSP_TRY(check_part(be, &g->part[i], &y[i], &s));
        if (s.fp8 && i > 0 && !is_below_last(g, i)) {
            return CSP_FAIL(CSP_ERR_SHAPE,
                            "linear: w or w_scale in e4m3 of map %d does not lie "
                            "below that of the map before",
                            i);
        }
    }
    *out = s;
    return CSP_OK;
}

/* A tail, T wide, of shape (rows,columns), one of which is T; placed: it is where it belongs. */
static csp_status check_tail(const csp_backend *be, const char *name, const csp_tensor *tail,
                             int64_t T, const int64_t shape[2], bool placed, const linear_sizes *s)
{
    if (s->fp8) {
        return CSP_FAIL(CSP_ERR_SHAPE, "linear: %s behind a matrix in e4m3", name);
    }
    if (T < s->ranks || T % CSP_LINEAR_TAIL != 0) {
        return CSP_FAIL(CSP_ERR_SHAPE,
                        "linear: %s is %lld wide, not a multiple of %d and at least %lld", name,
                        (long long)T, CSP_LINEAR_TAIL, (long long)s->ranks);
    }
    CSP_TRY(csp_check_matrix(be, "linear", name, tail, s->S, shape[0], shape[1]));
    return placed ? CSP_OK
                  : CSP_FAIL(CSP_ERR_SHAPE, "linear: %s does not lie where it belongs", name);
}

/* w of all parts below one another. */
static bool is_stacked(const csp_linear_group *g)
{
    bool stacked = true;

    for (int i = 1; i < g->count; i++) {
        stacked = stacked && csp_tensor_is_below(&g->part[i - 1].w, &g->part[i].w);
    }
    return stacked;
}

csp_status csp_linear_group_fwd(csp_backend *be, const csp_linear_group *g, csp_linear_rows *rows)
{
    const csp_tensor *w_tail = &g->w_tail, *x_tail = &rows->x_tail;
    linear_sizes s;

    CSP_TRY(check_operands(be, g, rows->y, &s));
    CSP_TRY(csp_check_matrix(be, "linear", "x", &rows->x, s.S, s.N, s.I));
    CSP_TRY(csp_check_fp8_rows("linear", &rows->x8, s.N, s.I));
    if (csp_check_fp8_given(&rows->x8) && !s.fp8) {
        return CSP_FAIL(CSP_ERR_SHAPE, "linear: x in e4m3 for a matrix that is not");
    }
    for (int i = 0; i < g->count; i++) {
        const int64_t R = rank_of(&g->part[i]);

        if (R > 0) {
            CSP_TRY(csp_check_tensor("linear", "u", &rows->u[i], s.S, 2, (int64_t[]) { s.N, R }));
        }
    }
    if (csp_check_given(w_tail)) {
        csp_tensor all = g->part[0].w;
        const int64_t T = w_tail->dim[1];

        all.dim[0] = s.outputs;
        CSP_TRY(check_tail(be, "w_tail", w_tail, T, (int64_t[]) { s.outputs, T },
                           is_stacked(g) && csp_tensor_is_beside(&all, w_tail), &s));
    }
    if (csp_check_given(x_tail)) {
        const int64_t T = csp_check_given(w_tail) ? w_tail->dim[1] : x_tail->dim[1];

        CSP_TRY(check_tail(be, "x_tail", x_tail, T, (int64_t[]) { s.N, T },
                           s.N == 0 || csp_tensor_is_beside(&rows->x, x_tail), &s));
    }
    if (s.N == 0) {
        return CSP_OK;
    }
    csp_profile_note(be, s.N, s.I, s.outputs);
    return csp_op_done(be, be->ops->linear_fwd(be, g, rows));
}

/* Checks the gradients of one part; says whether they need x. */
static csp_status check_grad(const csp_linear *l, const linear_sizes *s, const csp_linear_grad *g,
                             const csp_tensor *u, bool *needs_x)
{
    const int64_t O = l->w.dim[0], R = rank_of(l);

    if (csp_check_given(&g->dw) && s->fp8) {
        return CSP_FAIL(CSP_ERR_SHAPE, "linear: a gradient of a matrix in e4m3");
    }
    if (csp_check_given(&g->dw)) {
        CSP_TRY(csp_check_tensor("linear", "dw", &g->dw, CSP_F32, 2, (int64_t[]) { O, s->I }));
    }
    if (csp_check_given(&g->dbias)) {
        CSP_TRY(csp_check_tensor("linear", "dbias", &g->dbias, CSP_F32, 1, &O));
    }
    if (R == 0 && (csp_check_given(&g->dlora_a) || csp_check_given(&g->dlora_b))) {
        return CSP_FAIL(CSP_ERR_SHAPE, "linear: a gradient of an adapter that is not there");
    }
    if (csp_check_given(&g->dlora_a)) {
        CSP_TRY(csp_check_tensor("linear", "dlora_a", &g->dlora_a, CSP_F32, 2, l->lora_a.dim));
    }
    if (csp_check_given(&g->dlora_b)) {
        CSP_TRY(csp_check_tensor("linear", "dlora_b", &g->dlora_b, CSP_F32, 2, l->lora_b.dim));
        CSP_TRY(csp_check_tensor("linear", "u", u, s->S, 2, (int64_t[]) { s->N, R }));
    }
    *needs_x = *needs_x || csp_check_given(&g->dw) || csp_check_given(&g->dlora_a);
    return CSP_OK;
}

csp_status csp_linear_group_bwd(csp_backend *be, const csp_linear_group *g,
                                csp_linear_group_grad *grad)
{
    const csp_tensor *a_tail = &g->a_tail, *dy_tail = &grad->dy_tail;
    const int last = g->count - 1;
    bool needs_x = false;
    linear_sizes s;

    CSP_TRY(check_operands(be, g, grad->dy, &s));
    for (int i = 0; i < g->count; i++) {
        CSP_TRY(check_grad(&g->part[i], &s, &grad->part[i], &grad->u[i], &needs_x));
    }
    if (needs_x) {
        CSP_TRY(csp_check_matrix(be, "linear", "x", &grad->x, s.S, s.N, s.I));
    }
    if (csp_check_given(&grad->dx)) {
        CSP_TRY(csp_check_tensor("linear", "dx", &grad->dx, s.S, 2, (int64_t[]) { s.N, s.I }));
    }
    if (csp_check_given(a_tail)) {
        const int64_t T = a_tail->dim[0];

        CSP_TRY(check_tail(be, "a_tail", a_tail, T, (int64_t[]) { T, s.I },
                           is_stacked(g) && csp_tensor_is_below(&g->part[last].w, a_tail), &s));
    }
    if (csp_check_given(dy_tail)) {
        const int64_t T = csp_check_given(a_tail) ? a_tail->dim[0] : dy_tail->dim[1];

        CSP_TRY(check_tail(be, "dy_tail", dy_tail, T, (int64_t[]) { s.N, T },
                           s.N == 0 || csp_tensor_is_beside(&grad->dy[last], dy_tail), &s));
    }
    if (s.N == 0) {
        return CSP_OK;
    }
    csp_profile_note(be, s.N, s.I, s.outputs);
    return csp_op_done(be, be->ops->linear_bwd(be, g, grad));
}

static csp_tensor given_or_none(const csp_tensor *t)
{
    return t != NULL ? *t : csp_tensor_none();
}

csp_status csp_linear_fwd(csp_backend *be, const csp_linear *l, const csp_tensor *x, csp_tensor *u,
                          csp_tensor *y)
{
    const csp_linear_group g = { .count = 1, .part = { *l } };
    csp_linear_rows rows = { .x = *x, .u = { given_or_none(u) }, .y = { *y } };

    return csp_linear_group_fwd(be, &g, &rows);
}

csp_status csp_linear_bwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                          const csp_tensor *u, const csp_tensor *dy, const csp_linear_grad *grad,
                          csp_tensor *dx)
{
    const csp_linear_group g = { .count = 1, .part = { *l } };
    csp_linear_group_grad all = { .x = given_or_none(x),
                                  .u = { given_or_none(u) },
                                  .dy = { *dy },
                                  .part = { *grad },
                                  .dx = given_or_none(dx) };

    return csp_linear_group_bwd(be, &g, &all);
}
