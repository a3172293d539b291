/*
 * embed.cu - CUDA side of ops/embed.h.
 *
 * Forward is a copy of rows, bound by memory. Backward adds the rows of one token in order of n:
 * tokens are dealt out by their number to the blocks of a column, every block reads the whole list
 * of tokens (small: it stays in L2), keeps those that are its own in order, and its threads own a
 * column each. So nothing is sorted, locked or shared, and the bits do not depend on the grid.
 *
 * Scratch: none.
 */
#include "device.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

#define EMBED_THREADS 128
#define EMBED_WARPS (EMBED_THREADS / 32)
/* Rows whose additions are under way together; a waiting row costs a trip to memory. */
#define EMBED_BATCH 8
/* Rows a block gathers before it adds: what is left of one round and a whole next one. */
#define EMBED_LIST (2 * EMBED_THREADS)
/* Blocks that share the tokens of one column group, at most: each reads all of token. */
#define EMBED_PARTS 64

/* One block a row at a time; a chunk is an element, or 16 bytes where rows are aligned. W a row. */
template <typename chunk>
static __global__ void __launch_bounds__(EMBED_THREADS)
    embed_fwd_kernel(const chunk *__restrict__ table,   // (V,W)
                     const int32_t *__restrict__ token, // (N)
                     chunk *__restrict__ x,             // (N,W)
                     int64_t N, int64_t W)
{
    for (int64_t n = blockIdx.x; n < N; n += gridDim.x) {
        const int64_t from = (int64_t)token[n] * W;

        for (int64_t i = threadIdx.x; i < W; i += blockDim.x) {
            x[n * W + i] = table[from + i];
        }
    }
}

template <typename T>
static csp_status embed_fwd(csp_backend *be, const T *table, const int32_t *token, T *x, int64_t N,
                            int64_t D)
{
    const cudaStream_t stream = cuda_stream(be, "embed_fwd");
    const dim3 grid = stride_grid(N, 1, (int64_t)cuda_state_of(be)->processors * 16);

    if (is_vec_row(table, D) && is_vec_row(x, D)) {
        CUDA_TRY(cu::launch(embed_fwd_kernel<float4>, grid, EMBED_THREADS, 0, stream,
                            (const float4 *)table, token, (float4 *)x, N, D / vec_width<T>::value));
    } else {
        CUDA_TRY(
            cu::launch(embed_fwd_kernel<T>, grid, EMBED_THREADS, 0, stream, table, token, x, N, D));
    }
    return CSP_OK;
}

csp_status cuda_embed_fwd(csp_backend *be, const csp_tensor *table, const csp_tensor *token,
                          csp_tensor *x)
{
    const int64_t N = x->dim[0], D = x->dim[1];
    const int32_t *id = (const int32_t *)token->data;

    if (x->dtype == CSP_BF16) {
        return embed_fwd(be, (const __nv_bfloat16 *)table->data, id, (__nv_bfloat16 *)x->data, N,
                         D);
    }
    return embed_fwd(be, (const float *)table->data, id, (float *)x->data, N, D);
}

typedef struct embed_list {
    int32_t row[EMBED_LIST];
    int32_t token[EMBED_LIST];
    int32_t of_warp[EMBED_WARPS]; /* rows each warp appends */
} embed_list;

/* Appends this block's rows among n .. n+EMBED_THREADS-1 in order; returns the new count. */
static __device__ __forceinline__ int append(embed_list &list, int count, int64_t n, int64_t N,
                                             const int32_t *token)
{
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t row = n + threadIdx.x;
    const int32_t id = row < N ? token[row] : -1;
    const bool is_ours = id >= 0 && (unsigned)id % gridDim.y == blockIdx.y;
    const unsigned ours = __ballot_sync(FULL_WARP, is_ours);
    int at = count + __popc(ours & ((1u << lane) - 1u)), total = 0;

    if (lane == 0) {
        list.of_warp[warp] = __popc(ours);
    }
    __syncthreads();
#pragma unroll
    for (unsigned w = 0; w < EMBED_WARPS; w++) {
        at += w < warp ? list.of_warp[w] : 0;
        total += list.of_warp[w];
    }
    if (is_ours) {
        list.row[at] = (int32_t)row;
        list.token[at] = id;
    }
    __syncthreads();
    return count + total;
}

/*
 * dtable[token] += dx[row] for the column d, for `count` rows in their order. All loads of a batch
 * come first; a row whose token was in the batch before takes that row's sum instead of memory's.
 */
template <typename T>
static __device__ __forceinline__ void add_rows(const embed_list &list, int count,
                                                const T *__restrict__ dx,
                                                float *__restrict__ dtable, int64_t D, int64_t d)
{
    for (int first = 0; first < count; first += EMBED_BATCH) {
        float sum[EMBED_BATCH], term[EMBED_BATCH];

#pragma unroll
        for (int j = 0; j < EMBED_BATCH; j++) {
            if (first + j < count) {
                term[j] = to_f32(dx[(int64_t)list.row[first + j] * D + d]);
                sum[j] = dtable[(int64_t)list.token[first + j] * D + d];
            }
        }
#pragma unroll
        for (int j = 0; j < EMBED_BATCH; j++) {
            if (first + j < count) {
#pragma unroll
                for (int i = 0; i < j; i++) {
                    sum[j] = list.token[first + i] == list.token[first + j] ? sum[i] : sum[j];
                }
                sum[j] += term[j];
                dtable[(int64_t)list.token[first + j] * D + d] = sum[j];
            }
        }
    }
}

/* Grid: x over columns, a thread each; y the parts of the tokens, token v being of v % parts. */
template <typename T>
static __global__ void __launch_bounds__(EMBED_THREADS)
    embed_bwd_kernel(const int32_t *__restrict__ token, // (N)
                     const T *__restrict__ dx,          // (N,D)
                     float *__restrict__ dtable,        // (V,D)
                     int64_t N, int64_t D)
{
    SHARED(list, embed_list);
    const int64_t d = grid_thread();
    int count = 0;

    for (int64_t n = 0; n < N; n += EMBED_THREADS) {
        count = append(list, count, n, N, token);
        if (count > EMBED_LIST - EMBED_THREADS || n + EMBED_THREADS >= N) {
            if (d < D) {
                add_rows(list, count, dx, dtable, D, d);
            }
            count = 0;
        }
    }
}

template <typename T>
static csp_status embed_bwd(csp_backend *be, const int32_t *token, const T *dx, float *dtable,
                            int64_t N, int64_t D, int64_t V)
{
    const int64_t columns = ceil_div(D, EMBED_THREADS);
    int64_t parts = ceil_div((int64_t)cuda_state_of(be)->processors * 8, columns);

    parts = parts > EMBED_PARTS ? EMBED_PARTS : parts;
    parts = parts > V ? V : parts;
    CUDA_TRY(cu::launch(embed_bwd_kernel<T>, dim3((unsigned)columns, (unsigned)parts),
                        EMBED_THREADS, 0, cuda_stream(be, "embed_bwd"), token, dx, dtable, N, D));
    return CSP_OK;
}

csp_status cuda_embed_bwd(csp_backend *be, const csp_tensor *token, const csp_tensor *dx,
                          csp_tensor *dtable)
{
    const int64_t N = dx->dim[0], D = dx->dim[1], V = dtable->dim[0];
    const int32_t *id = (const int32_t *)token->data;
    float *to = (float *)dtable->data;

    if (dx->dtype == CSP_BF16) {
        return embed_bwd(be, id, (const __nv_bfloat16 *)dx->data, to, N, D, V);
    }
    return embed_bwd(be, id, (const float *)dx->data, to, N, D, V);
}
