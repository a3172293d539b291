/*
 * quantize.cu - CUDA side of ops/quantize.h.
 *
 * Bound by memory: a row is worked on by a warp or, if it is wide, by a block, which reads it
 * twice, once for its maximum and once to round it. The second time it comes out of the first-level
 * cache, so that of the device's memory every element is read once and written as one byte.
 * Neighbours own neighbouring pieces of 16 elements, whose bytes are one store, where addresses and
 * widths allow, else single elements. Rows may be made of several matrices'; those that are
 * neighbours in memory are one.
 */
#include "quantize.h"

#include "device.h"
#include "launch.cuh"
#include "quantize.cuh"
#include "reduce.cuh"
#include "vec.cuh"

enum {
    QUANTIZE_THREADS = 256,
    QUANTIZE_WARP_COLUMNS = 4096, /* of a row that a warp works on: 8 pieces for each lane */
    QUANTIZE_BLOCKS_OF_SM = 8
};

/* The threads that share a row, and which of them this is. */
struct quantize_team {
    int64_t thread, threads;
};

/* W neighbouring elements of x, each by its factor. */
template <int W, typename T>
static __device__ __forceinline__ void load_scaled(const T *x, const float *c, int64_t k,
                                                   float (&t)[W])
{
    load_vec(x + k, t);
    if (c != nullptr) {
        float factor[W];

        load_vec(c + k, factor);
#pragma unroll
        for (int i = 0; i < W; i++) {
            t[i] *= factor[i];
        }
    }
}

/* The largest |t| among this thread's pieces of a row. */
template <int W, typename T>
static __device__ __forceinline__ float largest(const T *x, const float *c, int64_t K,
                                                quantize_team team)
{
    float most = 0.0f;

    for (int64_t k = team.thread * W; k < K; k += team.threads * W) {
        float t[W];

        load_scaled(x, c, k, t);
        most = quantize_largest(t, most);
    }
    return most;
}

/* Rounds this thread's pieces of a row whose scale is 1 / inverse. */
template <int W, typename T>
static __device__ __forceinline__ void round_row(const T *x, const float *c, uint8_t *q, int64_t K,
                                                 float inverse, quantize_team team)
{
    for (int64_t k = team.thread * W; k < K; k += team.threads * W) {
        float t[W];

        load_scaled(x, c, k, t);
        quantize_store(t, inverse, q + k);
    }
}

/* What is rounded; T is how x is stored. Matrices side by side: (N,width) each, 0 wide: none. */
template <typename T> struct quantize_call {
    const T *x[CUDA_QUANTIZE_PARTS];
    int64_t width[CUDA_QUANTIZE_PARTS], ldx[CUDA_QUANTIZE_PARTS];
    const float *c; // (K), or NULL
    uint8_t *q;     // (N,K)
    float *scale;   // (N)
    int64_t N, K;
};

/* The largest |t| among this thread's pieces of row n. */
template <int W, typename T>
static __device__ __forceinline__ float largest_of_row(const quantize_call<T> &call, int64_t n,
                                                       quantize_team team)
{
    const float *c = call.c;
    float most = 0.0f;

#pragma unroll
    for (int i = 0; i < CUDA_QUANTIZE_PARTS; i++) {
        most = fmaxf(most, largest<W>(call.x[i] + n * call.ldx[i], c, call.width[i], team));
        c += c != nullptr ? call.width[i] : 0;
    }
    return most;
}

/* Rounds this thread's pieces of row n, whose largest |t| is most, and writes its scale. */
template <int W, typename T>
static __device__ __forceinline__ void write_row(const quantize_call<T> &call, int64_t n,
                                                 float most, quantize_team team)
{
    const float s = quantize_scale(most);
    const float *c = call.c;
    uint8_t *q = call.q + n * call.K;

    if (team.thread == 0) {
        call.scale[n] = s;
    }
#pragma unroll
    for (int i = 0; i < CUDA_QUANTIZE_PARTS; i++) {
        round_row<W>(call.x[i] + n * call.ldx[i], c, q, call.width[i], 1.0f / s, team);
        c += c != nullptr ? call.width[i] : 0;
        q += call.width[i];
    }
}

/* Any grid works: warps stride over rows. */
template <typename T, int W>
static __global__ void __launch_bounds__(QUANTIZE_THREADS)
    quantize_rows_warp_kernel(const quantize_call<T> call)
{
    const quantize_team team = { threadIdx.x % 32, 32 };

    for (int64_t n = grid_thread() / 32; n < call.N; n += grid_threads() / 32) {
        write_row<W>(call, n, warp_max(largest_of_row<W>(call, n, team)), team);
    }
}

/* Any grid works: blocks stride over rows. */
template <typename T, int W>
static __global__ void __launch_bounds__(QUANTIZE_THREADS)
    quantize_rows_block_kernel(const quantize_call<T> call)
{
    const quantize_team team = { threadIdx.x, blockDim.x };

    for (int64_t n = blockIdx.x; n < call.N; n += gridDim.x) {
        write_row<W>(call, n, block_max(largest_of_row<W>(call, n, team)), team);
    }
}

template <typename T, int W>
static csp_status launch_quantize(csp_backend *be, const quantize_call<T> &call)
{
    const bool narrow = call.K <= QUANTIZE_WARP_COLUMNS;
    const cuda_state *state = cuda_state_of(be);
    const dim3 grid = stride_grid(call.N * (narrow ? 32 : QUANTIZE_THREADS), QUANTIZE_THREADS,
                                  (int64_t)state->processors * QUANTIZE_BLOCKS_OF_SM);

    CUDA_TRY(cu::launch(narrow ? quantize_rows_warp_kernel<T, W> : quantize_rows_block_kernel<T, W>,
                        grid, QUANTIZE_THREADS, 0, state->stream, call));
    return CSP_OK;
}

template <typename T>
static csp_status quantize_rows(csp_backend *be, const csp_tensor *x, int count,
                                const csp_tensor *c, csp_tensor *q, csp_tensor *scale)
{
    quantize_call<T> call = {};
    bool wide = (uintptr_t)q->data % 16 == 0 && (uintptr_t)c->data % 16 == 0;
    int parts = 0;

    for (int i = 0; i < count; i++) {
        if (i == 0 || !csp_tensor_is_beside(&x[i - 1], &x[i])) {
            call.x[parts] = (const T *)x[i].data;
            call.ldx[parts] = csp_tensor_row(&x[i]);
            parts++;
        }
        call.width[parts - 1] += x[i].dim[1];
    }
    for (int i = 0; i < parts; i++) {
        wide = wide && call.width[i] % 16 == 0 && is_vec_row(call.x[i], call.ldx[i]);
    }
    call.c = c->ndim > 0 ? (const float *)c->data : NULL;
    call.q = (uint8_t *)q->data;
    call.scale = (float *)scale->data;
    call.N = q->dim[0];
    call.K = q->dim[1];
    return wide ? launch_quantize<T, 16>(be, call) : launch_quantize<T, 1>(be, call);
}

csp_status cuda_quantize(csp_backend *be, const csp_tensor *x, int count, const csp_tensor *c,
                         csp_tensor *q, csp_tensor *scale)
{
    return x->dtype == CSP_BF16 ? quantize_rows<__nv_bfloat16>(be, x, count, c, q, scale)
                                : quantize_rows<float>(be, x, count, c, q, scale);
}

csp_status cuda_quantize_rows(csp_backend *be, const csp_tensor *x, const csp_tensor *c,
                              csp_tensor *q, csp_tensor *scale)
{
    (void)cuda_stream(be, "quantize_rows");
    return cuda_quantize(be, x, 1, c, q, scale);
}
