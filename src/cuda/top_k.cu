/*
 * top_k.cu - CUDA side of ops/top_k.h.
 *
 * Positive floats order like their bits, NaNs above infinity. A block for each row finds the bits
 * of the k-th largest weight, 11, 10 and 10 at a time from the top: the entries that agree with it
 * so far are counted by their next digit in a histogram in shared memory, and the digit is where
 * the sum of the counts from the top reaches k. The lanes of a warp that have the same digit are
 * counted by one of them, since at first most weights share a few digits. Integers are added in any
 * order: the same result on every run. Then each warp takes a slice of the row, counts what it
 * keeps, and writes that from its place on, as sparse_pool_rows.cu does: what is larger, and of the
 * equals the first ones.
 *
 * Reads the weights of a row five times, the kept terms once, writes at most k entries: with rows
 * of 128,256 terms 2.6 MB, of which the second-level cache holds the later readings of as many rows
 * as fit. A row of at most k entries is read twice and copied. No scratch, 8 KiB of shared memory.
 */
#include "device.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "sparse_rows.cuh"

#define TOP_THREADS 1024
#define TOP_WARPS (TOP_THREADS / 32)
/* Weights a thread has on the way at once: a row has one block only, which must hide latency. */
#define TOP_LOADS 4
#define TOP_BINS 2048

/* What lies between the warps of a block. */
typedef struct top_shared {
    int32_t bin[TOP_BINS];
    int32_t sum[TOP_WARPS];
    int32_t larger[TOP_WARPS];
    int32_t equal[TOP_WARPS];
    uint32_t digit; /* of the k-th largest                    */
    int32_t place;  /* of it among those of the same digit, 1 = the largest */
} top_shared;

/* The bits of a weight; the sign of a NaN says nothing. */
static __device__ __forceinline__ uint32_t bits_of(float weight)
{
    return __float_as_uint(weight) & 0x7FFFFFFFu;
}

/* Counts by digit the n weights whose bits from `known` up are those of prefix. */
static __device__ __forceinline__ void count_digits(const float *__restrict__ weight, int64_t n,
                                                    uint32_t prefix, int known, int shift,
                                                    uint32_t bins, int32_t *bin)
{
    const uint32_t lanes_below = (1u << threadIdx.x % 32) - 1;

    for (int64_t base = threadIdx.x; base - threadIdx.x < n; base += TOP_LOADS * TOP_THREADS) {
        uint32_t bits[TOP_LOADS];

#pragma unroll
        for (int u = 0; u < TOP_LOADS; u++) {
            const int64_t i = base + u * TOP_THREADS;

            bits[u] = i < n ? bits_of(weight[i]) : UINT32_MAX;
        }
#pragma unroll
        for (int u = 0; u < TOP_LOADS; u++) {
            const bool counts = bits[u] >> known == prefix;
            const uint32_t digit = counts ? bits[u] >> shift & (bins - 1) : bins;
            const uint32_t same = __match_any_sync(FULL_WARP, digit);

            if (counts && (same & lanes_below) == 0) {
                atomicAdd(&bin[digit], __popc(same));
            }
        }
    }
}

/* Finds the digit of the place-th largest of what was counted; a barrier lies before and behind. */
static __device__ __forceinline__ void find_digit(top_shared &s, uint32_t bins, int32_t place)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int each = (int)bins / TOP_THREADS;
    const int top = (int)bins - 1 - (int)threadIdx.x * each; /* this thread's, and those below */
    int32_t own = 0, above;

    for (int d = 0; d < each; d++) {
        own += s.bin[top - d];
    }
    above = warp_running_sum(own);
    if (lane == 31) {
        s.sum[warp] = above;
    }
    __syncthreads();
    above += warp_sum(lane < warp ? s.sum[lane] : 0) - own;
    if (above < place && place <= above + own) {
        int digit = top;

        while (above + s.bin[digit] < place) {
            above += s.bin[digit];
            digit--;
        }
        s.digit = (uint32_t)digit;
        s.place = place - above;
    }
}

/* Bits of the k-th largest of n weights, k < n; *equal: how many that are equal to it are kept. */
static __device__ __forceinline__ uint32_t find_threshold(const float *__restrict__ weight,
                                                          int64_t n, int32_t k, top_shared &s,
                                                          int32_t *equal)
{
    uint32_t prefix = 0;
    int known = 31;

    while (known > 0) {
        const int shift = known == 31 ? 20 : known - 10;
        const uint32_t bins = 1u << (known - shift);

        for (uint32_t i = threadIdx.x; i < bins; i += TOP_THREADS) {
            s.bin[i] = 0;
        }
        __syncthreads();
        count_digits(weight, n, prefix, known, shift, bins, s.bin);
        __syncthreads();
        find_digit(s, bins, k);
        __syncthreads();
        prefix = prefix << (known - shift) | s.digit;
        k = s.place;
        known = shift;
    }
    *equal = k;
    return prefix;
}

/* Writes what is above the threshold and the first `ties` that are equal to it, from out on. */
static __device__ __forceinline__ void write_kept(const int32_t *__restrict__ term,
                                                  const float *__restrict__ weight, int64_t n,
                                                  uint32_t threshold, int32_t ties, top_shared &s,
                                                  int32_t *__restrict__ out_term,
                                                  float *__restrict__ out_weight)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const uint32_t lanes_below = (1u << lane) - 1;
    const int64_t slice = ceil_div(ceil_div(n, 32), TOP_WARPS) * 32;
    const int64_t from = warp * slice < n ? warp * slice : n;
    const int64_t end = from + slice < n ? from + slice : n;
    int32_t larger = 0, equal = 0;
    int64_t at;

#pragma unroll 4
    for (int64_t i = from + lane; i < end; i += 32) {
        const uint32_t bits = bits_of(weight[i]);

        larger += bits > threshold;
        equal += bits == threshold;
    }
    larger = __reduce_add_sync(FULL_WARP, larger);
    equal = __reduce_add_sync(FULL_WARP, equal);
    if (lane == 0) {
        s.larger[warp] = larger;
        s.equal[warp] = equal;
    }
    __syncthreads();
    larger = warp_sum(lane < warp ? s.larger[lane] : 0);
    equal = warp_sum(lane < warp ? s.equal[lane] : 0);
    at = larger + (equal < ties ? equal : ties);
#pragma unroll 4
    for (int64_t i = from; i < end; i += 32) {
        const bool mine = i + lane < end;
        const float value = mine ? weight[i + lane] : 0.0f;
        const uint32_t bits = bits_of(value);
        const uint32_t equals = __ballot_sync(FULL_WARP, mine && bits == threshold);
        const bool kept =
            mine && (bits > threshold ||
                     (bits == threshold && equal + __popc(equals & lanes_below) < ties));
        const uint32_t keeps = __ballot_sync(FULL_WARP, kept);

        if (kept) {
            const int64_t place = at + __popc(keeps & lanes_below);

            out_term[place] = term[i + lane];
            out_weight[place] = value;
        }
        at += __popc(keeps);
        equal += __popc(equals);
    }
}

/* Any grid works: blocks stride over rows. */
static __global__ void __launch_bounds__(TOP_THREADS)
    top_k_kernel(sparse_rows w, int64_t k,
                 const int64_t *__restrict__ out_ptr, // (rows+1)
                 int32_t *__restrict__ out_term,      // (cap)
                 float *__restrict__ out_weight)      // (cap)
{
    SHARED(s, top_shared);

    for (int64_t r = blockIdx.x; r < w.rows; r += gridDim.x) {
        const int64_t first = w.row_ptr[r], n = w.row_ptr[r + 1] - first;
        uint32_t threshold = 0; /* below every weight */
        int32_t ties = 0;

        if (n > k) {
            threshold = find_threshold(w.weight + first, n, (int32_t)k, s, &ties);
        }
        write_kept(w.term + first, w.weight + first, n, threshold, ties, s, out_term + out_ptr[r],
                   out_weight + out_ptr[r]);
        __syncthreads();
    }
}

/* Where the rows of out begin. One warp. */
static __global__ void __launch_bounds__(32)
    top_k_start_kernel(const int64_t *__restrict__ row_ptr, // (rows+1)
                       int64_t *__restrict__ out_ptr,       // (rows+1)
                       int64_t rows, int64_t k)
{
    const int lane = (int)threadIdx.x;
    int64_t at = 0;

    if (lane == 0) {
        out_ptr[0] = 0;
    }
    for (int64_t r = 0; r < rows; r += 32) {
        const int64_t n = r + lane < rows ? row_ptr[r + lane + 1] - row_ptr[r + lane] : 0;
        const int64_t sum = warp_running_sum(n < k ? n : k);

        if (r + lane < rows) {
            out_ptr[r + lane + 1] = at + sum;
        }
        at += __shfl_sync(FULL_WARP, sum, 31);
    }
}

csp_status cuda_top_k(csp_backend *be, const csp_sparse *w, int64_t rows, int64_t k,
                      csp_sparse *out)
{
    const dim3 grid = stride_grid(rows, 1, (int64_t)cuda_state_of(be)->processors * 2);
    cudaStream_t stream = cuda_stream(be, "top_k");

    CUDA_TRY(cu::launch(top_k_start_kernel, 1, 32, 0, stream, (const int64_t *)w->row_ptr.data,
                        (int64_t *)out->row_ptr.data, rows, k));
    CUDA_TRY(cu::launch(top_k_kernel, grid, TOP_THREADS, 0, stream, sparse_rows_of(w, 0, rows), k,
                        (const int64_t *)out->row_ptr.data, (int32_t *)out->term.data,
                        (float *)out->weight.data));
    return CSP_OK;
}
