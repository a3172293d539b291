/*
 * linear.cu - CUDA side of ops/linear.h: products by cuBLAS, and the rank-R branch around them.
 *
 * The branch comes first and the product with W is added to it: that sum is formed in float32, so
 * that a branch far smaller than the rest, as it is when training begins, survives bf16 storage.
 * Added last it would be rounded away.
 *
 * In f32, with enough rows and no dropout, the branch is added to the weight once, W' = W + s B A:
 * this saves reading the output again. bf16 would round it away there too.
 *
 * Scratch: W' (O,I); or under dropout du (rows,R) and two masked blocks (rows,I), of as many rows
 * as fit MASKED_BYTES, the mask drawn again in backward; or du (N,R); or partial sums of dbias.
 */
#include "device.h"
#include "dropout.cuh"
#include "gemm.cuh"
#include "launch.cuh"
#include "vec.cuh"

/* Of both masked blocks together: some thousand rows of a large model, so products stay large. */
#define MASKED_BYTES ((int64_t)64 << 20)
#define BIAS_THREADS 128
/* Rows that a partial sum of dbias takes at least, and how many partial sums there are at most. */
#define BIAS_ROWS 32
#define BIAS_PARTS 256

/* What both directions work with; T is how tensors are stored. */
template <typename T> struct linear_call {
    csp_backend *be;
    const csp_linear *l;
    int64_t N, I, O, R;
    const T *w, *a, *b;
};

/* The address of an optional tensor. */
template <typename T> static T *address(const csp_tensor *t)
{
    return t != NULL && t->ndim > 0 ? (T *)t->data : NULL;
}

template <typename T> static linear_call<T> begin(csp_backend *be, const csp_linear *l, int64_t N)
{
    linear_call<T> c;

    c.be = be;
    c.l = l;
    c.N = N;
    c.I = l->w.dim[1];
    c.O = l->w.dim[0];
    c.R = l->lora_a.ndim > 0 ? l->lora_a.dim[0] : 0;
    c.w = address<T>(&l->w);
    c.a = address<T>(&l->lora_a);
    c.b = address<T>(&l->lora_b);
    return c;
}

template <typename T> static bool has_dropout(const linear_call<T> *c)
{
    return c->R > 0 && c->l->dropout.p > 0.0f;
}

/* Rows that the branch takes at a time: all of them where nothing has to be masked. */
template <typename T> static int64_t block_rows(const linear_call<T> *c)
{
    const int64_t fitting = MASKED_BYTES / (2 * c->I * (int64_t)sizeof(T));
    const int64_t most = fitting < 1 ? 1 : fitting;

    return has_dropout(c) && c->N > most ? most : c->N;
}

/*
 * Whether W' is worth making for a product over rows of `length` elements: it moves the matrix a
 * few times, the sum it saves moves as many rows of the product's other side.
 */
template <typename T> static bool is_merged(const linear_call<T> *c, int64_t length)
{
    return sizeof(T) == sizeof(float) && c->R > 0 && !has_dropout(c) && c->N >= length;
}

/* W, or W' = W + s B A in scratch. */
template <typename T> static csp_status weight(const linear_call<T> *c, bool merged, const T **out)
{
    const size_t bytes = (size_t)(c->O * c->I) * sizeof(T);
    void *sum;

    if (!merged) {
        *out = c->w;
        return CSP_OK;
    }
    CSP_TRY(cuda_scratch(c->be, bytes, &sum));
    CUDA_TRY(
        cudaMemcpyAsync(sum, c->w, bytes, cudaMemcpyDeviceToDevice, cuda_state_of(c->be)->stream));
    CSP_TRY(cuda_gemm(c->be, false, false, c->O, c->I, c->R, c->l->lora_scale, c->b, c->R, c->a,
                      c->I, 1.0f, (T *)sum, c->I));
    *out = (const T *)sum;
    return CSP_OK;
}

/* u = (m ⊙ x) A^T, through a block of masked rows in scratch where there is dropout. */
template <typename T> static csp_status branch_fwd(const linear_call<T> *c, const T *x, T *u)
{
    const int64_t I = c->I, R = c->R, block = block_rows(c);
    void *scratch;
    T *masked;

    if (!has_dropout(c)) {
        return cuda_gemm(c->be, false, true, c->N, R, I, 1.0f, x, I, c->a, I, 0.0f, u, R);
    }
    CSP_TRY(cuda_scratch(c->be, (size_t)(block * I) * sizeof(T), &scratch));
    masked = (T *)scratch;
    for (int64_t n = 0; n < c->N; n += block) {
        const int64_t rows = c->N - n < block ? c->N - n : block;

        CSP_TRY(cuda_dropout(c->be, &c->l->dropout, n, rows, I, false, x + n * I, masked));
        CSP_TRY(cuda_gemm(c->be, false, true, rows, R, I, 1.0f, masked, I, c->a, I, 0.0f, u + n * R,
                          R));
    }
    return CSP_OK;
}

template <typename T>
static csp_status linear_fwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                             csp_tensor *u, csp_tensor *y)
{
    const linear_call<T> c = begin<T>(be, l, y->dim[0]);
    const bool merged = is_merged(&c, c.I), split = c.R > 0 && !merged;
    const T *in = address<const T>(x), *w;
    T *out = address<T>(y);
    cuda_product product;

    (void)cuda_stream(be, "linear_fwd");
    if (c.R > 0) {
        CSP_TRY(branch_fwd(&c, in, address<T>(u)));
    }
    CSP_TRY(weight(&c, merged, &w));
    if (split) {
        CSP_TRY(cuda_gemm(be, false, true, c.N, c.O, c.R, l->lora_scale, address<const T>(u), c.R,
                          c.b, c.R, 0.0f, out, c.O));
    }
    product = cuda_product_of(false, true, c.N, c.O, c.I, 1.0f, in, c.I, w, c.I,
                              split ? 1.0f : 0.0f, out, c.O);
    product.bias = address<const T>(&l->bias);
    return cuda_multiply(be, &product);
}

csp_status cuda_linear_fwd(csp_backend *be, const csp_linear *l, const csp_tensor *x, csp_tensor *u,
                           csp_tensor *y)
{
    return y->dtype == CSP_BF16 ? linear_fwd<__nv_bfloat16>(be, l, x, u, y)
                                : linear_fwd<float>(be, l, x, u, y);
}

/*
 * partial[p,o] = sum of dy over the rows of part p. Grid: x over columns, y the parts; each thread
 * one column of one part, neighbours neighbouring columns.
 */
template <typename T>
static __global__ void __launch_bounds__(BIAS_THREADS)
    linear_bias_parts_kernel(const T *__restrict__ dy,    // (N,O)
                             float *__restrict__ partial, // (parts,O)
                             int64_t N, int64_t O, int64_t rows)
{
    const int64_t o = grid_thread();
    const int64_t first = (int64_t)blockIdx.y * rows;
    const int64_t end = first + rows < N ? first + rows : N;
    float sum = 0.0f;

    if (o < O) {
        for (int64_t n = first; n < end; n++) {
            sum += to_f32(dy[n * O + o]);
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
template <typename T> static csp_status bias_bwd(const linear_call<T> *c, const T *dy, float *dbias)
{
    const cudaStream_t stream = cuda_state_of(c->be)->stream;
    const int64_t least = ceil_div(c->N, BIAS_PARTS);
    const int64_t rows = least < BIAS_ROWS ? BIAS_ROWS : least;
    const int64_t parts = ceil_div(c->N, rows);
    const unsigned columns = (unsigned)ceil_div(c->O, BIAS_THREADS);
    void *partial;

    CSP_TRY(cuda_scratch(c->be, (size_t)(parts * c->O) * sizeof(float), &partial));
    CUDA_TRY(cu::launch(linear_bias_parts_kernel<T>, dim3(columns, (unsigned)parts), BIAS_THREADS,
                        0, stream, dy, (float *)partial, c->N, c->O, rows));
    CUDA_TRY(cu::launch(linear_bias_sum_kernel, dim3(columns), BIAS_THREADS, 0, stream,
                        (const float *)partial, dbias, parts, c->O));
    return CSP_OK;
}

/* Where the branch's gradients go: dA is added to; dx is too where accumulate is set. */
template <typename T> struct branch_grad {
    float *da; /* or NULL: not wanted */
    T *dx;     /* or NULL             */
    bool accumulate;
};

/*
 * dA += du^T (m ⊙ x) and dx (+)= m ⊙ (du A), where wanted, for one block of rows.
 *
 *   masked, branch   scratch of (rows,I) each
 */
template <typename T>
static csp_status masked_block_bwd(const linear_call<T> *c, int64_t first, int64_t rows,
                                   const T *du, const T *x, const branch_grad<T> *g, T *masked,
                                   T *branch)
{
    const csp_dropout *dropout = &c->l->dropout;
    const int64_t I = c->I, R = c->R;

    if (g->da != NULL) {
        CSP_TRY(cuda_dropout(c->be, dropout, first, rows, I, false, x + first * I, masked));
        CSP_TRY(cuda_gemm(c->be, true, false, R, I, rows, 1.0f, du, R, (const T *)masked, I, 1.0f,
                          g->da, I));
    }
    if (g->dx != NULL) {
        CSP_TRY(cuda_gemm(c->be, false, false, rows, I, R, 1.0f, du, R, c->a, I, 0.0f, branch, I));
        CSP_TRY(
            cuda_dropout(c->be, dropout, first, rows, I, g->accumulate, branch, g->dx + first * I));
    }
    return CSP_OK;
}

/* Everything of the branch but dB: du = s dy B, then dA and the branch's part of dx. */
template <typename T>
static csp_status branch_bwd(const linear_call<T> *c, const T *x, const T *dy,
                             const branch_grad<T> *g)
{
    const int64_t I = c->I, R = c->R, O = c->O, block = block_rows(c);
    const int64_t columns = R + (has_dropout(c) ? 2 * I : 0);
    void *scratch;
    T *du, *masked;

    CSP_TRY(cuda_scratch(c->be, (size_t)(block * columns) * sizeof(T), &scratch));
    masked = (T *)scratch;
    du = masked + block * (columns - R);
    for (int64_t n = 0; n < c->N; n += block) {
        const int64_t rows = c->N - n < block ? c->N - n : block;

        CSP_TRY(cuda_gemm(c->be, false, false, rows, R, O, c->l->lora_scale, dy + n * O, O, c->b, R,
                          0.0f, du, R));
        if (has_dropout(c)) {
            CSP_TRY(masked_block_bwd(c, n, rows, (const T *)du, x, g, masked, masked + block * I));
            continue;
        }
        if (g->da != NULL) {
            CSP_TRY(cuda_gemm(c->be, true, false, R, I, rows, 1.0f, (const T *)du, R, x, I, 1.0f,
                              g->da, I));
        }
        if (g->dx != NULL) {
            CSP_TRY(cuda_gemm(c->be, false, false, rows, I, R, 1.0f, (const T *)du, R, c->a, I,
                              g->accumulate ? 1.0f : 0.0f, g->dx, I));
        }
    }
    return CSP_OK;
}

/* dw, dbias and dB, which need nothing but dy and what forward kept. */
template <typename T>
static csp_status parameters_bwd(const linear_call<T> *c, const T *x, const T *u, const T *dy,
                                 const csp_linear_grad *grad)
{
    float *dw = address<float>(&grad->dw), *dbias = address<float>(&grad->dbias);
    float *db = address<float>(&grad->dlora_b);

    if (dw != NULL) {
        CSP_TRY(cuda_gemm(c->be, true, false, c->O, c->I, c->N, 1.0f, dy, c->O, x, c->I, 1.0f, dw,
                          c->I));
    }
    if (dbias != NULL) {
        CSP_TRY(bias_bwd(c, dy, dbias));
    }
    if (db != NULL) {
        CSP_TRY(cuda_gemm(c->be, true, false, c->O, c->R, c->N, c->l->lora_scale, dy, c->O, u, c->R,
                          1.0f, db, c->R));
    }
    return CSP_OK;
}

template <typename T>
static csp_status linear_bwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                             const csp_tensor *u, const csp_tensor *dy, const csp_linear_grad *grad,
                             bool accumulate, csp_tensor *dx)
{
    const linear_call<T> c = begin<T>(be, l, dy->dim[0]);
    const bool merged = is_merged(&c, c.O);
    const T *in = address<const T>(x), *d_out = address<const T>(dy), *w;
    T *d_in = address<T>(dx);
    const branch_grad<T> g = { address<float>(&grad->dlora_a), merged ? NULL : d_in, accumulate };

    (void)cuda_stream(be, "linear_bwd");
    CSP_TRY(parameters_bwd(&c, in, address<const T>(u), d_out, grad));
    if (c.R > 0 && (g.da != NULL || g.dx != NULL)) {
        CSP_TRY(branch_bwd(&c, in, d_out, &g));
    }
    if (d_in != NULL) {
        const bool begun = accumulate || (c.R > 0 && !merged);

        CSP_TRY(weight(&c, merged, &w));
        CSP_TRY(cuda_gemm(be, false, false, c.N, c.I, c.O, 1.0f, d_out, c.O, w, c.I,
                          begun ? 1.0f : 0.0f, d_in, c.I));
    }
    return CSP_OK;
}

csp_status cuda_linear_bwd(csp_backend *be, const csp_linear *l, const csp_tensor *x,
                           const csp_tensor *u, const csp_tensor *dy, const csp_linear_grad *grad,
                           bool accumulate, csp_tensor *dx)
{
    return dy->dtype == CSP_BF16 ? linear_bwd<__nv_bfloat16>(be, l, x, u, dy, grad, accumulate, dx)
                                 : linear_bwd<float>(be, l, x, u, dy, grad, accumulate, dx);
}
