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
 * A block owns a row and, if it is long, a multiprocessor: it keeps as much of
 * it as fits into shared memory (of 128,256 logits in bf16 nine tenths on an
 * H100; the rest is read again, from the second-level cache). Maximum and sums
 * are one pass, each thread with a maximum of its own whose change rescales its
 * sum; then the gradient is written in place. Memory bound: twice a logit's bytes beside 4 D
 * or 6 D operations.
 *
 * Nothing is waited for: the caller knows how many rows predict, and what is
 * wrong with a target or with logits is written beside the losses, which one
 * block adds up in a fixed order.
 *
 * Scratch: the logits of a chunk, or of 16 rows; D numbers for each row of a
 * chunk, 20 bytes for each row of h, and a byte for each term.
 */
#include <float.h>
#include <math.h>

#include "core/size.h"
#include "gemm.cuh"
#include "launch.cuh"
#include "reduce.cuh"
#include "row_list.cuh"
#include "vec.cuh"

#ifndef TOKEN_THREADS /* of a block at most; less where threads are dear (tests/emulator) */
#define TOKEN_THREADS 1024
#endif
#define TOKEN_AHEAD 4           /* loads of 16 bytes that a thread has on their way */
#define TOKEN_OTHER_SHARED 2048 /* bytes of shared memory that is left to reductions */
#define LIST_THREADS 256
#define MASK_BLOCKS 512
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
    uint8_t *mask;          /* (stride) of token_args, or NULL                 */
    int32_t *row;           /* (N) the rows with a target                      */
    double *losses;         /* (N,2) of those rows; a NaN: not finite          */
    csp_dtype S;            /* of what follows                                 */
    void *h;                /* (chunk,D)                                       */
    void *tile;             /* (chunk,stride)                                  */
} token_pass;

/* What the kernel of a tile is given. */
typedef struct token_args {
    void *z;               // (n,stride) S, logits, become their gradients
    const int32_t *row;    // (n) rows of the tile
    const int32_t *target; // (N)
    const uint8_t *mask;   // (stride) 1: no term, or an excluded one; NULL: none
    const token_targets *targets;
    double *losses; // (n,2)
    int64_t n, V, stride;
    int pieces; // of 16 bytes in a row
    int held;   // of them kept in shared memory
    double coefficient, lambda;
    bool gradient;
} token_args;

/*
 * Lists rows with a target in order, and looks for excluded targets; the number of excluded terms
 * is 0 still. One block.
 */
static __global__ void __launch_bounds__(LIST_THREADS)
    token_rows_kernel(const int32_t *__restrict__ target,  // (N)
                      const uint8_t *__restrict__ exclude, // (V), NULL: none
                      int64_t N,
                      int32_t *__restrict__ row, // (N)
                      token_targets *__restrict__ out)
{
    SHARED(warp_count, int[LIST_THREADS / 32]);
    SHARED(bad_row, unsigned long long);
    const int warp = (int)(threadIdx.x / 32), lane = (int)(threadIdx.x % 32);
    int64_t at = 0;

    if (threadIdx.x == 0) {
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
    if (threadIdx.x == 0) {
        out->count = at;
        out->excluded = 0;
        out->bad_row = (int64_t)bad_row;
    }
}

/* Which columns of a tile are no terms to choose from. Any grid: threads stride over columns. */
static __global__ void __launch_bounds__(LIST_THREADS)
    token_mask_kernel(const uint8_t *__restrict__ exclude, // (V), NULL: none
                      int64_t V, int64_t stride,
                      uint8_t *__restrict__ mask, // (stride)
                      token_targets *__restrict__ out)
{
    for (int64_t v = grid_thread(); v - threadIdx.x % 32 < stride; v += grid_threads()) {
        const bool excluded = v < V && exclude != NULL && exclude[v] != 0;
        const uint32_t votes = __ballot_sync(FULL_WARP, excluded);

        if (v < stride) {
            mask[v] = v >= V || excluded;
        }
        if (threadIdx.x % 32 == 0 && votes != 0) {
            /* Whole numbers: any order gives the same. */
            (void)cu::atomic_add_u64((uint64_t *)&out->excluded, (uint64_t)__popc(votes));
        }
    }
}

/* 16 bytes of a row. */
template <typename S> using token_piece = vec_raw<S, vec_width<S>::value>;

/* Logits v.. of a piece; those that are excluded or not there are -FLT_MAX. */
template <typename S>
static __device__ __forceinline__ void logits_of(const token_args &a, const token_piece<S> &raw,
                                                 int64_t v, float (&x)[vec_width<S>::value])
{
    const int width = vec_width<S>::value;

    unpack_raw(raw, x);
    if (a.mask != NULL) {
        uint32_t mask[vec_width<S>::value / 4];

        load_words(a.mask + v, mask);
#pragma unroll
        for (int j = 0; j < width; j++) {
            x[j] = (mask[j / 4] & 0xFFu << j % 4 * 8) != 0 ? -FLT_MAX : x[j];
        }
    }
}

/*
 * Exponentials of logits. What is compared and subtracted is x LOG, so that bf16 takes 2^x from its
 * unit, which has 22 bits, and a logit one multiplication with an addition; f32 takes e^x.
 */
template <typename S> struct token_exp {
    static constexpr float LOG = sizeof(S) == 2 ? 1.442695041f : 1.0f;           /* log2(e)  */
    static constexpr double NATURAL = sizeof(S) == 2 ? 0.6931471805599453 : 1.0; /* 1 / LOG */
};

/* base^x, x at most 0. */
template <typename S> static __device__ __forceinline__ float power_of(float x)
{
    return sizeof(S) == 2 ? cu::exp2_approx(x) : expf(x);
}

/* base^(x LOG - highest). */
template <typename S> static __device__ __forceinline__ float exp_of(float x, float highest)
{
    return power_of<S>(fmaf(x, token_exp<S>::LOG, -highest));
}

/*
 * What a thread knows of a row. highest begins at a number below which nothing counts, so that
 * -FLT_MAX less highest is no 0 whatever a thread has seen.
 */
typedef struct row_sums {
    float highest; /* times LOG                             */
    float sum;     /* of base^(z LOG - highest)             */
    float relu;
    float probe; /* 0 while all is finite, then a NaN     */
} row_sums;

template <typename S>
static __device__ __forceinline__ void add_piece(const token_args &a, const token_piece<S> &raw,
                                                 int64_t v, row_sums &r)
{
    const int width = vec_width<S>::value;
    float x[vec_width<S>::value], most = -FLT_MAX;

    logits_of<S>(a, raw, v, x);
#pragma unroll
    for (int j = 0; j < width; j++) {
        most = fmaxf(most, x[j]);
    }
    most = fmaxf(r.highest, most * token_exp<S>::LOG);
    r.sum *= power_of<S>(r.highest - most);
    r.highest = most;
#pragma unroll
    for (int j = 0; j < width; j++) {
        r.sum += exp_of<S>(x[j], most);
        r.relu += fmaxf(x[j], 0.0f);
        r.probe = fmaf(x[j], 0.0f, r.probe);
    }
}

/* What thread threadIdx.x reads of row z, in its order; the first `held` pieces stay in room. */
template <typename S>
static __device__ __forceinline__ row_sums sums_of_thread(const token_args &a, const S *z,
                                                          token_piece<S> *room)
{
    const int width = vec_width<S>::value;
    const int threads = (int)blockDim.x;
    row_sums r = { -0x1p126f, 0.0f, 0.0f, 0.0f };

    for (int first = (int)threadIdx.x; first < a.pieces; first += TOKEN_AHEAD * threads) {
        token_piece<S> raw[TOKEN_AHEAD];

        /* All on their way at once, those behind the row's end once more. */
#pragma unroll
        for (int k = 0; k < TOKEN_AHEAD; k++) {
            const int i = first + k * threads;

            raw[k] =
                load_raw<S, vec_width<S>::value>(z + (int64_t)(i < a.pieces ? i : first) * width);
        }
#pragma unroll
        for (int k = 0; k < TOKEN_AHEAD; k++) {
            const int i = first + k * threads;

            if (i < a.held) {
                store_words(&room[i], raw[k].word);
            }
            if (i < a.pieces) {
                add_piece<S>(a, raw[k], (int64_t)i * width, r);
            }
        }
    }
    return r;
}

/* The factors of a row's gradient. */
typedef struct row_factors {
    float highest, plain, saturated, own;
    int64_t target;
} row_factors;

/* Gradients of the logits of a piece, in their place. */
template <typename S>
static __device__ __forceinline__ void store_gradients(const token_args &a, S *z,
                                                       const token_piece<S> &raw, int64_t v,
                                                       const row_factors &f)
{
    const int width = vec_width<S>::value;
    float x[vec_width<S>::value];

    logits_of<S>(a, raw, v, x);
#pragma unroll
    for (int j = 0; j < width; j++) {
        const float e = exp_of<S>(x[j], f.highest) * f.plain;

        x[j] = e + (x[j] > 0.0f ? f.saturated : 0.0f);
    }
    if (f.target >= v && f.target < v + width) {
#pragma unroll
        for (int j = 0; j < width; j++) {
            x[j] -= v + j == f.target ? f.own : 0.0f;
        }
    }
    store_vec(z + v, x);
}

/* Losses of rows of logits, which become their gradients: a block for each row, any grid works. */
template <typename S>
static __global__ void __launch_bounds__(TOKEN_THREADS, 1) token_loss_kernel(token_args a)
{
    const int width = vec_width<S>::value;
    const double terms = (double)(a.V - a.targets->excluded); // V'
    DYN_SHARED_ARRAY(token_piece<S>, room);

    for (int64_t i = blockIdx.x; i < a.n; i += gridDim.x) {
        S *z = (S *)a.z + i * a.stride;
        row_factors f;

        f.target = a.target[a.row[i]];
        const float label = to_f32(z[f.target]);
        const double active = label > 0.0f ? (double)label : 0.0;
        const row_sums r = sums_of_thread<S>(a, z, room);

        f.highest = block_max(r.highest);
        const double below = (double)r.highest - (double)f.highest;
        const double sum = block_sum((double)r.sum * exp(token_exp<S>::NATURAL * below));
        const double relu = block_sum((double)r.relu);
        const bool finite = block_max(r.probe == 0.0f ? 0.0f : 1.0f) == 0.0f;

        if (threadIdx.x == 0) {
            const double plain =
                log(sum) + token_exp<S>::NATURAL * (double)f.highest - (double)label;

            a.losses[2 * i] = finite ? plain : (double)NAN;
            a.losses[2 * i + 1] = log(terms + relu) - log1p(active);
        }
        if (!a.gradient) {
            continue;
        }
        /* Behind the barriers of block_max all have read the label. */
        const double c = a.coefficient;
        f.plain = (float)(c / sum);
        f.saturated = (float)(c * a.lambda / (terms + relu));
        f.own = (float)(c * (1.0 + (label > 0.0f ? a.lambda / (1.0 + active) : 0.0)));

        for (int p = (int)threadIdx.x; p < a.pieces; p += (int)blockDim.x) {
            token_piece<S> raw;

            if (p < a.held) {
                load_words(&room[p], raw.word);
            } else {
                raw = load_raw<S, vec_width<S>::value>(z + (int64_t)p * width);
            }
            store_gradients<S>(a, z, raw, (int64_t)p * width, f);
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
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
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

/* Threads of a block for so many items: whole warps, no more than have about TOKEN_AHEAD each. */
static int token_threads(int64_t items)
{
    const int64_t threads = ceil_div(items, TOKEN_AHEAD * 32) * 32;

    return threads < 32 ? 32 : threads < TOKEN_THREADS ? (int)threads : TOKEN_THREADS;
}

/* As much of a row as fits stays in shared memory. */
template <typename S> static csp_status launch_token_loss(csp_backend *be, token_args a)
{
    const int64_t pieces = ceil_div(a.V, vec_width<S>::value);
    const int64_t room = (int64_t)(cuda_state_of(be)->shared_limit - TOKEN_OTHER_SHARED) / 16;

    a.pieces = (int)pieces;
    a.held = (int)(a.gradient ? pieces < room ? pieces : room : 0);
    const size_t shared = (size_t)a.held * 16;

    CUDA_TRY(cu::allow_shared(token_loss_kernel<S>, shared));
    CUDA_TRY(cu::launch(token_loss_kernel<S>, dim3((unsigned)a.n), token_threads(pieces), shared,
                        cuda_state_of(be)->stream, a));
    return CSP_OK;
}

/* Rows first .. first+n-1 of the list: hidden states, logits, losses, gradients
 * of logits. */
static csp_status form_chunk(csp_backend *be, const token_pass *p, int64_t first, int64_t n)
{
    const csp_head *head = &p->args->head;
    const int64_t row_bytes = p->D * (int64_t)csp_dtype_bytes(p->S);
    token_args a = {};

    CSP_TRY(cuda_gather_rows(be, p->args->h.data, p->row + first, p->h, n, row_bytes));
    CSP_TRY(cuda_gemm_stored(be, false, true, n, p->V, p->D, head->scale, p->S, p->h, p->D,
                             head->e.data, p->D, 0.0f, p->S, p->tile, p->stride));
    a.z = p->tile;
    a.row = p->row + first;
    a.target = (const int32_t *)p->args->target.data;
    a.mask = p->mask;
    a.targets = p->targets;
    a.losses = p->losses + 2 * first;
    a.n = n;
    a.V = p->V;
    a.stride = p->stride;
    a.coefficient = (double)p->args->coefficient;
    a.lambda = (double)p->args->lambda_relu;
    a.gradient = p->args->dh.ndim > 0 || p->args->de.ndim > 0;
    return p->S == CSP_BF16 ? launch_token_loss<__nv_bfloat16>(be, a)
                            : launch_token_loss<float>(be, a);
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
    void *at[6] = {};

    CSP_TRY(csp_arena_take(arena, sizeof(token_targets), &at[0]));
    CSP_TRY(csp_arena_take(arena, (size_t)p->N * sizeof(int32_t), &at[1]));
    CSP_TRY(csp_arena_take(arena, (size_t)p->N * 2 * sizeof(double), &at[2]));
    CSP_TRY(csp_arena_take(arena, (size_t)(p->chunk * p->D) * bytes, &at[3]));
    CSP_TRY(csp_arena_take(arena, (size_t)(p->chunk * p->stride) * bytes, &at[4]));
    if (p->args->head.exclude.ndim > 0 || p->V < p->stride) {
        CSP_TRY(csp_arena_take(arena, (size_t)p->stride, &at[5]));
    }
    p->targets = (token_targets *)at[0];
    p->row = (int32_t *)at[1];
    p->losses = (double *)at[2];
    p->h = at[3];
    p->tile = at[4];
    p->mask = (uint8_t *)at[5];
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
                        (const int32_t *)args->target.data, exclude_of(&p), p.N, p.row, p.targets));
    if (p.mask != NULL) {
        CUDA_TRY(cu::launch(token_mask_kernel, stride_grid(p.stride, LIST_THREADS, MASK_BLOCKS),
                            LIST_THREADS, 0, cuda_stream(be, "token_loss"), exclude_of(&p), p.V,
                            p.stride, p.mask, p.targets));
    }
    CSP_TRY(add_chunks(be, &p));
    CUDA_TRY(cu::launch(token_total_kernel, 1, token_threads(args->predicted), 0,
                        cuda_stream(be, "token_loss"), (const token_targets *)p.targets,
                        (const int32_t *)p.row, (const double *)p.losses, args->predicted, p.N,
                        (double *)args->loss.data, (int64_t *)args->bad.data));
    return CSP_OK;
}
