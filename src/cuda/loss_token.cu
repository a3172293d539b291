/*
 * loss_token.cu - CUDA side of csp_token_loss.
 *
 * The rows that predict something are taken in chunks whose logits, all V of
 * them, fit in 128 MiB (bf16: 256 MiB): the upstream gradient is a known
 * number, so a row's losses and gradients follow from one tile of logits, which
 * is overwritten by its gradient and then multiplied with e (dh) and with h
 * (de). Three products, no second forming of the logits, no log and no
 * exponential for the saturated loss: exp(log(1 + ReLU z)) is 1 + ReLU z. More
 * rows make fewer passes over de, which every chunk reads and writes.
 *
 * A block owns a row and reads it twice, 16 bytes a thread: maximum and sums in
 * one pass, each thread with a maximum of its own whose change rescales its
 * sum; then the gradient, written in place. Memory bound: three times a logit's
 * bytes beside 4 D or 6 D operations.
 *
 * Nothing is waited for: the caller knows how many rows predict, and what is
 * wrong with a target or with logits is written beside the losses, which one
 * block adds up in a fixed order.
 *
 * Scratch: the logits of a chunk, or of 16 rows; D numbers for each row of a
 * chunk, 20 bytes for each row of h.
 */
#include <float.h>
#include <math.h>

#include "core/size.h"
#include "gemm.cuh"
#include "launch.cuh"
#include "reduce.cuh"
#include "row_list.cuh"
#include "vec.cuh"

#define TOKEN_THREADS 512
#define LIST_THREADS 256
#define TOKEN_TILE_BYTES_F32 ((int64_t)128 << 20)
#define TOKEN_TILE_BYTES_BF16 ((int64_t)256 << 20)
#define TOKEN_TILE_MIN_ROWS ((int64_t)16)

/* What the targets say. */
typedef struct token_targets {
    int64_t count;    /* rows with a target                                     */
    int64_t excluded; /* excluded terms                                         */
    int64_t bad_row;  /* the first row whose target is excluded; N where none is */
} token_targets;

/* One call. */
typedef struct token_pass {
    const csp_token_loss_args *args;
    int64_t N, V, D;
    int64_t chunk;          /* most rows of a tile                             */
    int64_t stride;         /* distance of its rows: V rounded up to 8         */
    token_targets *targets; /* on the device                                   */
    int32_t *row;           /* (N) the rows with a target                      */
    double *losses;         /* (N,2) of those rows; a NaN: not finite          */
    csp_dtype S;            /* of what follows                                 */
    void *h;                /* (chunk,D)                                       */
    void *tile;             /* (chunk,stride)                                  */
} token_pass;

/* What the kernel of a tile is given. */
typedef struct token_args {
    void *z;                // (n,stride) S, logits, become their gradients
    const int32_t *row;     // (n) rows of the tile
    const int32_t *target;  // (N)
    const uint8_t *exclude; // (V), NULL: none
    const token_targets *targets;
    double *losses; // (n,2)
    int64_t n, V, stride;
    double coefficient, lambda;
    bool gradient;
} token_args;

/* Lists rows with a target in order, and looks for excluded targets. One block.
 */
static __global__ void __launch_bounds__(LIST_THREADS)
    token_rows_kernel(const int32_t *__restrict__ target,  // (N)
                      const uint8_t *__restrict__ exclude, // (V), NULL: none
                      int64_t N, int64_t V,
                      int32_t *__restrict__ row, // (N)
                      token_targets *__restrict__ out)
{
    SHARED(warp_count, int[LIST_THREADS / 32]);
    SHARED(excluded, int);
    SHARED(bad_row, unsigned long long);
    const int warp = (int)(threadIdx.x / 32), lane = (int)(threadIdx.x % 32);
    int64_t at = 0;

    if (threadIdx.x == 0) {
        excluded = 0;
        bad_row = (unsigned long long)N;
    }
    __syncthreads();
    for (int64_t first = 0; first < N; first += LIST_THREADS) {
        const int64_t n = first + threadIdx.x;
        const bool listed = n < N && target[n] >= 0;
        const uint32_t votes = __ballot_sync(FULL_WARP, listed);
        int64_t place = at + __popc(votes & ((1u << lane) - 1));

        if (lane == 0) {
            warp_count[warp] = __popc(votes);
        }
        __syncthreads();
        for (int w = 0; w < LIST_THREADS / 32; w++) {
            place += w < warp ? warp_count[w] : 0;
            at += warp_count[w];
        }
        if (listed) {
            row[place] = (int32_t)n;
            if (exclude != NULL && exclude[target[n]] != 0) {
                atomicMin(&bad_row, (unsigned long long)n);
            }
        }
        __syncthreads();
    }
    int mine = 0;
    for (int64_t v = threadIdx.x; exclude != NULL && v < V; v += LIST_THREADS) {
        mine += exclude[v] != 0;
    }
    atomicAdd(&excluded, mine);
    __syncthreads();
    if (threadIdx.x == 0) {
        out->count = at;
        out->excluded = excluded;
        out->bad_row = (int64_t)bad_row;
    }
}

/* Logits from v on of a row, 16 bytes; those that are excluded or not there are
 * -FLT_MAX. */
template <typename S, int WIDTH>
static __device__ __forceinline__ void load_logits(const token_args &a, const S *z, int64_t v,
                                                   float (&x)[WIDTH])
{
    load_vec(z + v, x); /* rows of the tile are whole vectors */
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
        if (v + j >= a.V || (a.exclude != NULL && a.exclude[v + j] != 0)) {
            x[j] = -FLT_MAX;
        }
    }
}

/* Maximum, sum of exponentials, sum of ReLU, and whether all is finite: of a
 * thread or of a row. */
typedef struct row_sums {
    float highest;
    double sum; /* of exp(z - highest) */
    double relu;
    bool finite;
} row_sums;

/* What thread threadIdx.x reads of row z, in its order. */
template <typename S>
static __device__ __forceinline__ row_sums sums_of_thread(const token_args &a, const S *z)
{
    const int width = vec_width<S>::value;
    float highest = -FLT_MAX, sum = 0.0f, relu = 0.0f;
    bool finite = true;
    row_sums r;

    for (int64_t v = threadIdx.x * width; v < a.V; v += TOKEN_THREADS * width) {
        float x[vec_width<S>::value], most = -FLT_MAX;

        load_logits(a, z, v, x);
#pragma unroll
        for (int j = 0; j < width; j++) {
            most = fmaxf(most, x[j]);
        }
        if (most > highest) {
            sum *= expf(highest - most);
            highest = most;
        }
#pragma unroll
        for (int j = 0; j < width; j++) {
            sum += x[j] > -FLT_MAX ? expf(x[j] - highest) : 0.0f;
            relu += x[j] > 0.0f ? x[j] : 0.0f;
            finite = finite && isfinite(x[j]);
        }
    }
    r.highest = highest;
    r.sum = (double)sum;
    r.relu = (double)relu;
    r.finite = finite;
    return r;
}

/* Sums of two threads. */
static __device__ __forceinline__ row_sums merge(const row_sums &a, const row_sums &b)
{
    row_sums r;

    r.highest = fmaxf(a.highest, b.highest);
    r.sum =
        a.sum * exp((double)(a.highest - r.highest)) + b.sum * exp((double)(b.highest - r.highest));
    r.relu = a.relu + b.relu;
    r.finite = a.finite && b.finite;
    return r;
}

static __device__ __forceinline__ row_sums merge_warp(row_sums r)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        row_sums other;

        other.highest = __shfl_xor_sync(FULL_WARP, r.highest, offset);
        other.sum = __shfl_xor_sync(FULL_WARP, r.sum, offset);
        other.relu = __shfl_xor_sync(FULL_WARP, r.relu, offset);
        other.finite = __shfl_xor_sync(FULL_WARP, (int)r.finite, offset) != 0;
        r = merge(r, other);
    }
    return r;
}

/* Losses of rows of logits, which become their gradients. Any grid: a block for
 * each row. */
template <typename S>
static __global__ void __launch_bounds__(TOKEN_THREADS) token_loss_kernel(token_args a)
{
    const int width = vec_width<S>::value;
    const double terms = (double)(a.V - a.targets->excluded); // V'
    SHARED(of_warp, row_sums[TOKEN_THREADS / 32]);

    for (int64_t i = blockIdx.x; i < a.n; i += gridDim.x) {
        S *z = (S *)a.z + i * a.stride;
        const int32_t target = a.target[a.row[i]];
        const float label = to_f32(z[target]);
        const double active = label > 0.0f ? (double)label : 0.0;
        row_sums r = merge_warp(sums_of_thread(a, z));

        if (threadIdx.x % 32 == 0) {
            of_warp[threadIdx.x / 32] = r;
        }
        __syncthreads();
        r = of_warp[0];
        for (int w = 1; w < TOKEN_THREADS / 32; w++) {
            r = merge(r, of_warp[w]);
        }
        if (threadIdx.x == 0) {
            const double plain = log(r.sum) + (double)r.highest - (double)label;

            a.losses[2 * i] = r.finite ? plain : (double)NAN;
            a.losses[2 * i + 1] = log(terms + r.relu) - log1p(active);
        }
        __syncthreads(); /* all have read the label and of_warp */
        if (!a.gradient) {
            continue;
        }
        const double c = a.coefficient;
        const float plain = (float)(c / r.sum);
        const float saturated = (float)(c * a.lambda / (terms + r.relu));
        const float own = (float)(c * (1.0 + (label > 0.0f ? a.lambda / (1.0 + active) : 0.0)));

        for (int64_t v = threadIdx.x * width; v < a.V; v += TOKEN_THREADS * width) {
            float x[vec_width<S>::value];

            load_logits(a, z, v, x);
#pragma unroll
            for (int j = 0; j < width; j++) {
                const float e = x[j] > -FLT_MAX ? expf(x[j] - r.highest) * plain : 0.0f;

                x[j] = e + (x[j] > 0.0f ? saturated : 0.0f) - (v + j == target ? own : 0.0f);
            }
            store_vec(z + v, x);
        }
    }
}

/* One block: loss = sums of losses, each thread's own first; bad: what csp_token_loss says. */
static __global__ void __launch_bounds__(TOKEN_THREADS)
    token_total_kernel(const token_targets *__restrict__ targets,
                       const int32_t *__restrict__ row,   // (count) ascending
                       const double *__restrict__ losses, // (count,2)
                       int64_t count, int64_t N,
                       double *__restrict__ loss, // (2)
                       int64_t *__restrict__ bad) // (2)
{
    SHARED(first, unsigned long long);
    double plain = 0.0, saturated = 0.0;

    if (threadIdx.x == 0) {
        first = (unsigned long long)count;
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count; i += TOKEN_THREADS) {
        plain += losses[2 * i];
        saturated += losses[2 * i + 1];
        if (!isfinite(losses[2 * i])) {
            atomicMin(&first, (unsigned long long)i);
        }
    }
    plain = block_sum(plain);
    saturated = block_sum(saturated);
    if (threadIdx.x == 0) {
        loss[0] = plain;
        loss[1] = saturated;
        bad[0] = targets->bad_row < N ? targets->bad_row : -1;
        bad[1] = (int64_t)first < count ? (int64_t)row[first] : -1;
    }
}

static const uint8_t *exclude_of(const token_pass *p)
{
    const csp_tensor *exclude = &p->args->head.exclude;

    return exclude->ndim > 0 ? (const uint8_t *)exclude->data : NULL;
}

/* Rows first .. first+n-1 of the list: hidden states, logits, losses, gradients
 * of logits. */
static csp_status form_chunk(csp_backend *be, const token_pass *p, int64_t first, int64_t n)
{
    const csp_head *head = &p->args->head;
    cudaStream_t stream = cuda_stream(be, "token_loss");
    const int64_t row_bytes = p->D * (int64_t)csp_dtype_bytes(p->S);
    token_args a = {};

    CSP_TRY(cuda_gather_rows(be, p->args->h.data, p->row + first, p->h, n, row_bytes));
    CSP_TRY(cuda_gemm_stored(be, false, true, n, p->V, p->D, head->scale, p->S, p->h, p->D,
                             head->e.data, p->D, 0.0f, p->S, p->tile, p->stride));
    a.z = p->tile;
    a.row = p->row + first;
    a.target = (const int32_t *)p->args->target.data;
    a.exclude = exclude_of(p);
    a.targets = p->targets;
    a.losses = p->losses + 2 * first;
    a.n = n;
    a.V = p->V;
    a.stride = p->stride;
    a.coefficient = (double)p->args->coefficient;
    a.lambda = (double)p->args->lambda_relu;
    a.gradient = p->args->dh.ndim > 0 || p->args->de.ndim > 0;
    CUDA_TRY(
        cu::launch(p->S == CSP_BF16 ? token_loss_kernel<__nv_bfloat16> : token_loss_kernel<float>,
                   dim3((unsigned)n), TOKEN_THREADS, 0, stream, a));
    return CSP_OK;
}

/* dh = k dz e (in the place of the chunk's h, which is not needed after de += k
 * dz^T h). */
static csp_status back_chunk(csp_backend *be, const token_pass *p, int64_t first, int64_t n)
{
    const csp_token_loss_args *a = p->args;
    const float k = a->head.scale;

    if (a->de.ndim > 0) {
        CSP_TRY(cuda_gemm_stored(be, true, false, p->V, p->D, n, k, p->S, p->tile, p->stride, p->h,
                                 p->D, 1.0f, CSP_F32, a->de.data, p->D));
    }
    if (a->dh.ndim > 0) {
        CSP_TRY(cuda_gemm_stored(be, false, false, n, p->D, p->V, k, p->S, p->tile, p->stride,
                                 a->head.e.data, p->D, 0.0f, p->S, p->h, p->D));
        CSP_TRY(cuda_scatter_rows(be, p->h, p->row + first, a->dh.data, n,
                                  p->D * (int64_t)csp_dtype_bytes(p->S)));
    }
    return CSP_OK;
}

/* Places the scratch of a call: once to measure, once with memory. */
static csp_status token_place(csp_arena *arena, token_pass *p)
{
    const size_t bytes = csp_dtype_bytes(p->S);
    void *at[5];

    CSP_TRY(csp_arena_take(arena, sizeof(token_targets), &at[0]));
    CSP_TRY(csp_arena_take(arena, (size_t)p->N * sizeof(int32_t), &at[1]));
    CSP_TRY(csp_arena_take(arena, (size_t)p->N * 2 * sizeof(double), &at[2]));
    CSP_TRY(csp_arena_take(arena, (size_t)(p->chunk * p->D) * bytes, &at[3]));
    CSP_TRY(csp_arena_take(arena, (size_t)(p->chunk * p->stride) * bytes, &at[4]));
    p->targets = (token_targets *)at[0];
    p->row = (int32_t *)at[1];
    p->losses = (double *)at[2];
    p->h = at[3];
    p->tile = at[4];
    return CSP_OK;
}

/* Rows of a tile: as many as fit, a multiple of 128 where there are as many. */
static int64_t pick_token_rows(int64_t N, int64_t stride, csp_dtype S)
{
    int64_t fit =
        S == CSP_BF16 ? TOKEN_TILE_BYTES_BF16 / 2 / stride : TOKEN_TILE_BYTES_F32 / 4 / stride;

    fit = fit >= 128 ? fit / 128 * 128 : fit;
    fit = fit < TOKEN_TILE_MIN_ROWS ? TOKEN_TILE_MIN_ROWS : fit;
    return N < fit ? N : fit;
}

/* Logits, losses and gradients of all rows of the list. */
static csp_status add_chunks(csp_backend *be, const token_pass *p)
{
    const csp_token_loss_args *a = p->args;

    if (a->dh.ndim > 0) {
        CUDA_TRY(cudaMemsetAsync(a->dh.data, 0, csp_tensor_bytes(&a->dh),
                                 cuda_stream(be, "token_loss")));
    }
    for (int64_t first = 0; first < a->predicted; first += p->chunk) {
        const int64_t left = a->predicted - first, n = left < p->chunk ? left : p->chunk;

        CSP_TRY(form_chunk(be, p, first, n));
        if (a->dh.ndim > 0 || a->de.ndim > 0) {
            CSP_TRY(back_chunk(be, p, first, n));
        }
    }
    return CSP_OK;
}

csp_status cuda_token_loss(csp_backend *be, csp_token_loss_args *args)
{
    token_pass p = {};
    csp_arena scratch = {};
    void *memory;

    p.args = args;
    p.N = args->h.dim[0];
    p.V = args->head.e.dim[0];
    p.D = args->head.e.dim[1];
    p.S = args->h.dtype;
    p.stride = ceil_div(p.V, 8) * 8;
    p.chunk = pick_token_rows(p.N, p.stride, p.S);
    CSP_TRY(token_place(&scratch, &p));
    CSP_TRY(cuda_scratch(be, scratch.peak, &memory));
    scratch = { (char *)memory, scratch.peak, 0, 0 };
    CSP_TRY(token_place(&scratch, &p));
    CUDA_TRY(cu::launch(token_rows_kernel, 1, LIST_THREADS, 0, cuda_stream(be, "token_loss"),
                        (const int32_t *)args->target.data, exclude_of(&p), p.N, p.V, p.row,
                        p.targets));
    CSP_TRY(add_chunks(be, &p));
    CUDA_TRY(cu::launch(token_total_kernel, 1, TOKEN_THREADS, 0, cuda_stream(be, "token_loss"),
                        (const token_targets *)p.targets, (const int32_t *)p.row,
                        (const double *)p.losses, args->predicted, p.N, (double *)args->loss.data,
                        (int64_t *)args->bad.data));
    return CSP_OK;
}
