/*
 * linear.cu - CUDA side of ops/linear.h: products by cuBLAS, and the rank-R branch around them.
 *
 * With enough rows and no dropout the branch is added to the weight once, W' = W + s B A: added to
 * every row instead, it would read and write the whole output again.
 *
 * Scratch: W' (O,I); or under dropout du (rows,R) and two masked blocks (rows,I), of as many rows
 * as fit MASKED_BYTES, the mask drawn again in backward; or du (N,R); or partial sums of dbias.
 */
#include "device.h"
#include "dropout.cuh"
#include "launch.cuh"

/* Of both masked blocks together: some thousand rows of a large model, so products stay large. */
#define MASKED_BYTES ((int64_t)64 << 20)
#define BIAS_THREADS 128
/* Rows that a partial sum of dbias takes at least, and how many partial sums there are at most. */
#define BIAS_ROWS 32
#define BIAS_PARTS 256

/* What both directions work with. */
typedef struct linear_call {
    csp_backend *be;
    const csp_linear *l;
    int64_t N, I, O, R;
    const float *w, *a, *b;
} linear_call;

static const float *in_or_null(const csp_tensor *t)
{
    return t != NULL && t->ndim > 0 ? (const float *)t->data : NULL;
}

static float *out_or_null(const csp_tensor *t)
{
    return t != NULL && t->ndim > 0 ? (float *)t->data : NULL;
}

static linear_call begin(csp_backend *be, const csp_linear *l, int64_t N)
{
    linear_call c;

    c.be = be;
    c.l = l;
    c.N = N;
    c.I = l->w.dim[1];
    c.O = l->w.dim[0];
    c.R = l->lora_a.ndim > 0 ? l->lora_a.dim[0] : 0;
    c.w = in_or_null(&l->w);
    c.a = in_or_null(&l->lora_a);
    c.b = in_or_null(&l->lora_b);
    return c;
}

static bool has_dropout(const linear_call *c)
{
    return c->R > 0 && c->l->dropout.p > 0.0f;
}

/* Rows that the branch takes at a time: all of them where nothing has to be masked. */
static int64_t block_rows(const linear_call *c)
{
    const int64_t fitting = MASKED_BYTES / (2 * c->I * (int64_t)sizeof(float));
    const int64_t most = fitting < 1 ? 1 : fitting;

    return has_dropout(c) && c->N > most ? most : c->N;
}

/*
 * Whether W' is worth making for a product over rows of `length` elements: it moves the matrix a
 * few times, the sum it saves moves as many rows of the product's other side.
 */
static bool is_merged(const linear_call *c, int64_t length)
{
    return c->R > 0 && !has_dropout(c) && c->N >= length;
}

/* W, or W' = W + s B A in scratch. */
static csp_status weight(const linear_call *c, bool merged, const float **out)
{
    const size_t bytes = (size_t)(c->O * c->I) * sizeof(float);
    void *sum;

    if (!merged) {
        *out = c->w;
        return CSP_OK;
    }
    CSP_TRY(cuda_scratch(c->be, bytes, &sum));
    CUDA_TRY(
        cudaMemcpyAsync(sum, c->w, bytes, cudaMemcpyDeviceToDevice, cuda_state_of(c->be)->stream));
    CSP_TRY(cuda_gemm(c->be, false, false, c->O, c->I, c->R, c->l->lora_scale, c->b, c->R, c->a,
                      c->I, 1.0f, (float *)sum, c->I));
    *out = (const float *)sum;
    return CSP_OK;
}

/* u = (m ⊙ x) A^T, with room for a block of masked rows in scratch. */
static csp_status branch_fwd(const linear_call *c, const float *x, float *masked, float *u)
{
    const int64_t I = c->I, R = c->R, block = block_rows(c);

    if (!has_dropout(c)) {
        return cuda_gemm(c->be, false, true, c->N, R, I, 1.0f, x, I, c->a, I, 0.0f, u, R);
    }
    for (int64_t n = 0; n < c->N; n += block) {
        const int64_t rows = c->N - n < block ? c->N - n : block;

        CSP_TRY(cuda_dropout(c->be, &c->l->dropout, n, rows, I, x + n * I, masked));
        CSP_TRY(cuda_gemm(c->be, false, true, rows, R, I, 1.0f, masked, I, c->a, I, 0.0f, u + n * R,
                          R));
    }
    return CSP_OK;
}

/* Any grid works: threads stride over the elements of y. */
static __global__ void __launch_bounds__(BIAS_THREADS)
    linear_bias_fwd_kernel(const float *__restrict__ bias, // (O)
                           float *__restrict__ y,          // (N,O)
                           int64_t N, int64_t O)
{
    for (int64_t i = grid_thread(); i < N * O; i += grid_threads()) {
        y[i] = bias[i % O];
    }
}

csp_status cuda_linear_fwd(csp_backend *be, const csp_linear *l, const csp_tensor *x, csp_tensor *u,
                           csp_tensor *y)
{
    const linear_call c = begin(be, l, y->dim[0]);
    const cudaStream_t stream = cuda_stream(be, "linear_fwd");
    const bool merged = is_merged(&c, c.I);
    const float *in = in_or_null(x), *bias = in_or_null(&l->bias), *w;
    float *out = out_or_null(y);
    void *masked = NULL;

    if (has_dropout(&c)) {
        CSP_TRY(cuda_scratch(be, (size_t)(block_rows(&c) * c.I) * sizeof(float), &masked));
    }
    CSP_TRY(weight(&c, merged, &w));
    if (bias != NULL) {
        const dim3 grid =
            stride_grid(c.N * c.O, BIAS_THREADS, (int64_t)cuda_state_of(be)->processors * 16);

        CUDA_TRY(
            cu::launch(linear_bias_fwd_kernel, grid, BIAS_THREADS, 0, stream, bias, out, c.N, c.O));
    }
    CSP_TRY(cuda_gemm(be, false, true, c.N, c.O, c.I, 1.0f, in, c.I, w, c.I,
                      bias != NULL ? 1.0f : 0.0f, out, c.O));
    if (c.R > 0) {
        CSP_TRY(branch_fwd(&c, in, (float *)masked, out_or_null(u)));
    }
    if (c.R > 0 && !merged) {
        CSP_TRY(cuda_gemm(be, false, true, c.N, c.O, c.R, l->lora_scale, in_or_null(u), c.R, c.b,
                          c.R, 1.0f, out, c.O));
    }
    return CSP_OK;
}

/*
 * partial[p,o] = sum of dy over the rows of part p. Grid: x over columns, y the parts; each thread
 * one column of one part, neighbours neighbouring columns.
 */
static __global__ void __launch_bounds__(BIAS_THREADS)
    linear_bias_parts_kernel(const float *__restrict__ dy, // (N,O)
                             float *__restrict__ partial,  // (parts,O)
                             int64_t N, int64_t O, int64_t rows)
{
    const int64_t o = grid_thread();
    const int64_t first = (int64_t)blockIdx.y * rows;
    const int64_t end = first + rows < N ? first + rows : N;
    float sum = 0.0f;

    if (o < O) {
        for (int64_t n = first; n < end; n++) {
            sum += dy[n * O + o];
        }
        partial[(int64_t)blockIdx.y * O + o] = sum;
    }
}

/* dbias += partial sums in their order; a thread for each column. */
static __global__ void __launch_bounds__(BIAS_THREADS)
    linear_bias_sum_kernel(const float *__restrict__ partial, // (parts,O)
                           float *__restrict__ dbias,         // (O)
                           int64_t parts, int64_t O)
{
    const int64_t o = grid_thread();
    float sum = 0.0f;

    if (o < O) {
        for (int64_t p = 0; p < parts; p++) {
            sum += partial[p * O + o];
        }
        dbias[o] += sum;
    }
}

/* dbias += sum of rows of dy, in parts that depend on N only. */
static csp_status bias_bwd(const linear_call *c, const float *dy, float *dbias)
{
    const cudaStream_t stream = cuda_state_of(c->be)->stream;
    const int64_t least = ceil_div(c->N, BIAS_PARTS);
    const int64_t rows = least < BIAS_ROWS ? BIAS_ROWS : least;
    const int64_t parts = ceil_div(c->N, rows);
    const unsigned columns = (unsigned)ceil_div(c->O, BIAS_THREADS);
    void *partial;

    CSP_TRY(cuda_scratch(c->be, (size_t)(parts * c->O) * sizeof(float), &partial));
    CUDA_TRY(cu::launch(linear_bias_parts_kernel, dim3(columns, (unsigned)parts), BIAS_THREADS, 0,
                        stream, dy, (float *)partial, c->N, c->O, rows));
    CUDA_TRY(cu::launch(linear_bias_sum_kernel, dim3(columns), BIAS_THREADS, 0, stream,
                        (const float *)partial, dbias, parts, c->O));
    return CSP_OK;
}

/*
 * dA += du^T (m ⊙ x) and dx += m ⊙ (du A), where wanted, for one block of rows.
 *
 *   masked, branch   scratch of (rows,I) each
 */
static csp_status masked_block_bwd(const linear_call *c, int64_t first, int64_t rows,
                                   const float *du, const float *x, float *da, float *dx,
                                   float *masked, float *branch)
{
    const csp_dropout *dropout = &c->l->dropout;
    const int64_t I = c->I, R = c->R;

    if (da != NULL) {
        CSP_TRY(cuda_dropout(c->be, dropout, first, rows, I, x + first * I, masked));
        CSP_TRY(cuda_gemm(c->be, true, false, R, I, rows, 1.0f, du, R, masked, I, 1.0f, da, I));
    }
    if (dx != NULL) {
        CSP_TRY(cuda_gemm(c->be, false, false, rows, I, R, 1.0f, du, R, c->a, I, 0.0f, branch, I));
        CSP_TRY(cuda_dropout_acc(c->be, dropout, first, rows, I, branch, dx + first * I));
    }
    return CSP_OK;
}

/* Everything of the branch but dB: du = s dy B, then dA and the branch's part of dx. */
static csp_status branch_bwd(const linear_call *c, const float *x, const float *dy, float *da,
                             float *dx)
{
    const int64_t I = c->I, R = c->R, O = c->O, block = block_rows(c);
    const int64_t columns = R + (has_dropout(c) ? 2 * I : 0);
    void *scratch;
    float *du, *masked;

    CSP_TRY(cuda_scratch(c->be, (size_t)(block * columns) * sizeof(float), &scratch));
    masked = (float *)scratch;
    du = masked + block * (columns - R);
    for (int64_t n = 0; n < c->N; n += block) {
        const int64_t rows = c->N - n < block ? c->N - n : block;

        CSP_TRY(cuda_gemm(c->be, false, false, rows, R, O, c->l->lora_scale, dy + n * O, O, c->b, R,
                          0.0f, du, R));
        if (has_dropout(c)) {
            CSP_TRY(masked_block_bwd(c, n, rows, du, x, da, dx, masked, masked + block * I));
            continue;
        }
        if (da != NULL) {
            CSP_TRY(cuda_gemm(c->be, true, false, R, I, rows, 1.0f, du, R, x, I, 1.0f, da, I));
        }
        if (dx != NULL) {
            CSP_TRY(cuda_gemm(c->be, false, false, rows, I, R, 1.0f, du, R, c->a, I, 1.0f, dx, I));
        }
    }
    return CSP_OK;
}

csp_status cuda_linear_bwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                           const csp_tensor *u, const csp_tensor *dy, const csp_linear_grad *grad,
                           bool accumulate, csp_tensor *dx)
{
    const linear_call c = begin(be, l, dy->dim[0]);
    const bool merged = is_merged(&c, c.O);
    const float *in = in_or_null(x), *d_out = in_or_null(dy), *w;
    float *dw = out_or_null(&grad->dw), *dbias = out_or_null(&grad->dbias);
    float *da = out_or_null(&grad->dlora_a), *db = out_or_null(&grad->dlora_b);
    float *d_in = out_or_null(dx);

    (void)cuda_stream(be, "linear_bwd");
    if (dw != NULL) {
        CSP_TRY(
            cuda_gemm(be, true, false, c.O, c.I, c.N, 1.0f, d_out, c.O, in, c.I, 1.0f, dw, c.I));
    }
    if (dbias != NULL) {
        CSP_TRY(bias_bwd(&c, d_out, dbias));
    }
    if (db != NULL) {
        CSP_TRY(cuda_gemm(be, true, false, c.O, c.R, c.N, l->lora_scale, d_out, c.O, in_or_null(u),
                          c.R, 1.0f, db, c.R));
    }
    if (d_in != NULL) {
        CSP_TRY(weight(&c, merged, &w));
        CSP_TRY(cuda_gemm(be, false, false, c.N, c.I, c.O, 1.0f, d_out, c.O, w, c.I,
                          accumulate ? 1.0f : 0.0f, d_in, c.I));
    }
    if (c.R > 0 && (da != NULL || (d_in != NULL && !merged))) {
        CSP_TRY(branch_bwd(&c, in, d_out, da, merged ? NULL : d_in));
    }
    return CSP_OK;
}
