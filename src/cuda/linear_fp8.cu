/*
 * linear_fp8.cu - products of rows with matrices in e4m3, by cuBLASLt: eight bits on both sides, a
 * scale for each row and each column, sums in float32.
 *
 * Rows are rounded once for all parts: by the op that made them, or here as they come, in blocks so
 * that scratch stays small.
 * cuBLASLt multiplies two operands whose sums run along their rows; W lies so for forward.
 * For backward its bytes are transposed into scratch in each call: a second copy in memory would
 * take as much as the matrix, and moving O I bytes twice is little beside 2 N O I operations where
 * N is some thousands. W's scales, which would then run along the sum, are multiplied into dy
 * before that is rounded, so backward has the very matrix of forward.
 *
 * Scratch: a block of rows, CUDA_FP8_BLOCK_BYTES, with scales; in backward also W^T (I,O) of all
 * parts, and ones (I).
 */
#include "linear_fp8.cuh"

#include "core/size.h"
#include "gemm.cuh"
#include "launch.cuh"
#include "linear.cuh"
#include "quantize.h"
#include "vec.cuh"

enum {
    TILE = 128, /* rows and columns of a piece of a matrix that a block transposes */
    TILE_WORDS = TILE / 4,
    TRANSPOSE_THREADS = 256
};

/* Four rows of bytes in words: column k of them as a word. */
static __device__ __forceinline__ uint32_t column_of(const uint32_t (&row)[4], int k)
{
    const int shift = 8 * k;

    return (row[0] >> shift & 0xFFu) | (row[1] >> shift & 0xFFu) << 8 |
           (row[2] >> shift & 0xFFu) << 16 | (row[3] >> shift & 0xFFu) << 24;
}

/*
 * to (I,O) = from (O,I)^T, both multiples of 16, and ones (I) = 1. Any grid works: blocks stride
 * over tiles, which pass through shared memory; both sides move 16 bytes at a time.
 */
static __global__ void __launch_bounds__(TRANSPOSE_THREADS)
    linear_fp8_transpose_kernel(const uint8_t *__restrict__ from, // (O,I)
                                uint8_t *__restrict__ to,         // (I,O)
                                float *__restrict__ ones,         // (I)
                                int64_t O, int64_t I)
{
    SHARED(tile, uint32_t[TILE][TILE_WORDS + 1]);
    const int64_t across = ceil_div(I, TILE), tiles = ceil_div(O, TILE) * across;

    for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
        const int64_t o0 = t / across * TILE, i0 = t % across * TILE;

        for (int p = (int)threadIdx.x; p < TILE * TILE / 16; p += TRANSPOSE_THREADS) {
            const int o = p / (TILE / 16), piece = p % (TILE / 16);

            if (o0 + o < O && i0 + 16 * piece < I) {
                const vec_of<uint32_t, 4> bytes = *reinterpret_cast<const vec_of<uint32_t, 4> *>(
                    from + (o0 + o) * I + i0 + 16 * piece);

#pragma unroll
                for (int w = 0; w < 4; w++) {
                    tile[o][4 * piece + w] = bytes.at[w];
                }
            }
        }
        __syncthreads();
        for (int p = (int)threadIdx.x; p < TILE_WORDS * TILE / 16; p += TRANSPOSE_THREADS) {
            const int word = p / (TILE / 16), piece = p % (TILE / 16);
            vec_of<uint32_t, 4> out[4];

            if (o0 + 16 * piece >= O || i0 + 4 * word >= I) {
                continue;
            }
#pragma unroll
            for (int w = 0; w < 4; w++) {
                uint32_t rows[4];

#pragma unroll
                for (int r = 0; r < 4; r++) {
                    rows[r] = tile[16 * piece + 4 * w + r][word];
                }
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    out[k].at[w] = column_of(rows, k);
                }
            }
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int64_t i = i0 + 4 * word + k;

                *reinterpret_cast<vec_of<uint32_t, 4> *>(to + i * O + o0 + 16 * piece) = out[k];
                if (o0 == 0 && piece == 0) {
                    ones[i] = 1.0f;
                }
            }
        }
        __syncthreads();
    }
}

/* Rows of K elements that are rounded at a time: of many a multiple of 128, at most all. */
static int64_t block_rows(int64_t N, int64_t K, int64_t block_bytes)
{
    const int64_t fitting = block_bytes / K, unit = fitting < 128 ? 16 : 128;
    const int64_t most = fitting < 16 ? 16 : fitting / unit * unit;

    return N < most ? N : most;
}

/* Rounded rows in scratch. */
static csp_fp8_rows rows_at(char *scratch, int64_t rows, int64_t K)
{
    const int64_t dims[] = { rows, K };
    csp_fp8_rows r;

    r.q = csp_tensor_view(scratch, CSP_E4M3, 2, dims);
    r.scale =
        csp_tensor_view(scratch + csp_size_round_up((size_t)(rows * K), 256), CSP_F32, 1, dims);
    return r;
}

static size_t rows_bytes(int64_t rows, int64_t K)
{
    return csp_size_round_up((size_t)(rows * K), 256) +
           csp_size_round_up((size_t)rows * sizeof(float), 256);
}

/* c (+)= q times the rows of a matrix (columns,K), all with their scales. */
static csp_status multiply(csp_backend *be, const csp_fp8_rows *r, const void *matrix,
                           const float *scale, int64_t columns, bool add, csp_dtype stored, void *c,
                           int64_t ldc)
{
    cuda_product p = {};

    p.trans_b = true;
    p.M = r->q.dim[0];
    p.N = columns;
    p.K = r->q.dim[1];
    p.alpha = 1.0f;
    p.beta = add ? 1.0f : 0.0f;
    p.in = CSP_E4M3;
    p.out = stored;
    p.a = r->q.data;
    p.b = matrix;
    p.c = c;
    p.lda = p.ldb = p.K;
    p.ldc = ldc;
    p.scale_a = (const float *)r->scale.data;
    p.scale_b = scale;
    return cuda_multiply(be, &p);
}

static void *row_of(const csp_tensor *t, int64_t n)
{
    return (char *)t->data + (size_t)(n * csp_tensor_row(t)) * csp_dtype_bytes(t->dtype);
}

/* Outputs of parts from first on that are one product: y beside one another, all begun or none. */
static int64_t joined_outputs(const csp_linear_group *g, const csp_tensor *y, const bool *begun,
                              int first, int *end)
{
    int64_t O = g->part[first].w.dim[0];
    int i = first + 1;

    while (i < g->count && begun[i] == begun[first] && csp_tensor_is_beside(&y[i - 1], &y[i])) {
        O += g->part[i++].w.dim[0];
    }
    *end = i;
    return O;
}

/* Rows of y of all parts from row n on: (+)= the rounded rows r times W. */
static csp_status multiply_all(csp_backend *be, const csp_linear_group *group,
                               const csp_linear_rows *rows, const bool begun[CSP_LINEAR_PARTS],
                               const csp_fp8_rows *r, int64_t n)
{
    for (int i = 0, end; i < group->count; i = end) {
        const csp_linear *l = &group->part[i];
        const csp_tensor *y = &rows->y[i];
        const int64_t O = joined_outputs(group, rows->y, begun, i, &end);

        CSP_TRY(multiply(be, r, l->w.data, (const float *)l->w_scale.data, O, begun[i], y->dtype,
                         row_of(y, n), csp_tensor_row(y)));
    }
    return CSP_OK;
}

csp_status cuda_linear_fp8_fwd(csp_backend *be, const csp_linear_group *group,
                               csp_linear_rows *rows, const bool begun[CSP_LINEAR_PARTS],
                               int64_t block_bytes)
{
    const int64_t N = rows->x.dim[0], I = rows->x.dim[1], block = block_rows(N, I, block_bytes);
    const csp_tensor none = csp_tensor_none();
    void *scratch;

    if (rows->x8.q.ndim > 0) {
        return multiply_all(be, group, rows, begun, &rows->x8, 0);
    }
    CSP_TRY(cuda_scratch(be, rows_bytes(block, I), &scratch));
    for (int64_t n = 0; n < N; n += block) {
        const int64_t count = N - n < block ? N - n : block;
        const csp_tensor x = csp_tensor_rows(&rows->x, n, count);
        csp_fp8_rows r = rows_at((char *)scratch, count, I);

        CSP_TRY(cuda_quantize(be, &x, 1, &none, &r.q, &r.scale));
        CSP_TRY(multiply_all(be, group, rows, begun, &r, n));
    }
    return CSP_OK;
}

csp_status cuda_linear_fp8_bwd(csp_backend *be, const csp_linear_group *group,
                               csp_linear_group_grad *grad, bool begun, int64_t block_bytes)
{
    const cuda_state *state = cuda_state_of(be);
    const csp_linear *first = &group->part[0];
    const csp_tensor *dx = &grad->dx;
    const int64_t N = dx->dim[0], I = dx->dim[1];
    const size_t ones_bytes = csp_size_round_up((size_t)I * sizeof(float), 256);
    int64_t O = 0, block;
    size_t matrix_bytes;
    void *scratch;
    uint8_t *matrix;
    csp_tensor c;
    float *ones;

    for (int i = 0; i < group->count; i++) {
        O += group->part[i].w.dim[0];
    }
    block = block_rows(N, O, block_bytes);
    matrix_bytes = csp_size_round_up((size_t)(O * I), 256);
    c = csp_tensor_view(first->w_scale.data, CSP_F32, 1, &O);
    CSP_TRY(cuda_scratch(be, matrix_bytes + ones_bytes + rows_bytes(block, O), &scratch));
    matrix = (uint8_t *)scratch;
    ones = (float *)(matrix + matrix_bytes);
    CUDA_TRY(cu::launch(
        linear_fp8_transpose_kernel,
        stride_grid(ceil_div(O, TILE) * ceil_div(I, TILE), 1, (int64_t)state->processors * 8),
        TRANSPOSE_THREADS, 0, state->stream, (const uint8_t *)first->w.data, matrix, ones, O, I));
    for (int64_t n = 0; n < N; n += block) {
        const int64_t count = N - n < block ? N - n : block;
        csp_fp8_rows r = rows_at((char *)ones + ones_bytes, count, O);
        csp_tensor dy[CSP_LINEAR_PARTS];

        for (int i = 0; i < group->count; i++) {
            dy[i] = csp_tensor_rows(&grad->dy[i], n, count);
        }
        CSP_TRY(cuda_quantize(be, dy, group->count, &c, &r.q, &r.scale));
        CSP_TRY(multiply(be, &r, matrix, ones, I, begun, dx->dtype, row_of(dx, n), I));
    }
    return CSP_OK;
}
