/*
 * impacts.cu - CUDA side of ops/impacts.h.
 *
 * A block for each row counts what becomes of its weights; one warp adds the counts up, places the
 * rows and finds the largest impact, which says how many bytes each takes; then the block of a row
 * writes its terms and impacts from the row's place on, each warp a slice of the row, each lane's
 * place being the number of entries in the lanes below. Integers only: the same result on every
 * run. The double products are one for a weight and reading, far below what memory takes.
 *
 * Bound by memory: reads the weights three times, from the second-level cache but for the first
 * where rows were cut before. Scratch: 24 bytes a row.
 */
#include "device.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "sparse_rows.cuh"

#define IMPACTS_THREADS 1024
#define IMPACTS_WARPS (IMPACTS_THREADS / 32)

/* What one row comes to. */
typedef struct row_count {
    int64_t kept, clipped, largest;
} row_count;

/* Any grid works: blocks stride over rows. */
static __global__ void __launch_bounds__(IMPACTS_THREADS)
    impacts_count_kernel(sparse_rows w, csp_quant quant,
                         row_count *__restrict__ count) // (rows)
{
    SHARED(kept_of, int32_t[IMPACTS_WARPS]);
    SHARED(clipped_of, int32_t[IMPACTS_WARPS]);
    SHARED(largest_of, int32_t[IMPACTS_WARPS]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;

    for (int64_t r = blockIdx.x; r < w.rows; r += gridDim.x) {
        int32_t kept = 0, clipped = 0, largest = 0;

#pragma unroll 4
        for (int64_t i = w.row_ptr[r] + threadIdx.x; i < w.row_ptr[r + 1]; i += IMPACTS_THREADS) {
            bool is_clipped;
            const int32_t impact = csp_impact_stored(quant, w.weight[i], &is_clipped);

            kept += impact > 0;
            clipped += is_clipped;
            largest = impact > largest ? impact : largest;
        }
        kept = __reduce_add_sync(FULL_WARP, kept);
        clipped = __reduce_add_sync(FULL_WARP, clipped);
        largest = __reduce_max_sync(FULL_WARP, largest);
        if (lane == 0) {
            kept_of[warp] = kept;
            clipped_of[warp] = clipped;
            largest_of[warp] = largest;
        }
        __syncthreads();
        if (warp == 0) {
            kept = __reduce_add_sync(FULL_WARP, kept_of[lane]);
            clipped = __reduce_add_sync(FULL_WARP, clipped_of[lane]);
            largest = __reduce_max_sync(FULL_WARP, largest_of[lane]);
            if (lane == 0) {
                count[r] = { kept, clipped, largest };
            }
        }
        __syncthreads();
    }
}

/* Where the rows of out begin, and what all come to. One warp. */
static __global__ void __launch_bounds__(32)
    impacts_place_kernel(sparse_rows w, const row_count *__restrict__ row, // (rows)
                         int64_t *__restrict__ out_ptr,                    // (rows+1)
                         int64_t *__restrict__ count)                      // (CSP_IMPACTS_COUNTS)
{
    const int lane = (int)threadIdx.x;
    int64_t at = 0, clipped = 0;
    int32_t largest = 0;

    for (int64_t first = 0; first < w.rows; first += 32) {
        const int64_t r = first + lane;
        const row_count mine = r < w.rows ? row[r] : row_count { 0, 0, 0 };
        const int64_t sum = warp_running_sum(mine.kept);

        if (r < w.rows) {
            out_ptr[r + 1] = at + sum;
        }
        at += __shfl_sync(FULL_WARP, sum, 31);
        clipped += mine.clipped;
        largest = mine.largest > largest ? (int32_t)mine.largest : largest;
    }
    clipped = warp_sum(clipped);
    largest = __reduce_max_sync(FULL_WARP, largest);
    if (lane == 0) {
        out_ptr[0] = 0;
        count[CSP_IMPACTS_DROPPED] = w.row_ptr[w.rows] - w.row_ptr[0] - at;
        count[CSP_IMPACTS_CLIPPED] = clipped;
        count[CSP_IMPACTS_LARGEST] = largest;
    }
}

/* impact is as wide as bytes says. */
static __device__ __forceinline__ void put_impact(uint8_t *impact, int64_t place, int32_t value,
                                                  int32_t bytes)
{
    if (bytes == 1) {
        impact[place] = (uint8_t)value;
    } else if (bytes == 2) {
        ((uint16_t *)impact)[place] = (uint16_t)value;
    } else {
        ((int32_t *)impact)[place] = value;
    }
}

/* Any grid works: blocks stride over rows. */
static __global__ void __launch_bounds__(IMPACTS_THREADS)
    impacts_write_kernel(sparse_rows w, csp_quant quant,
                         const int64_t *__restrict__ out_ptr, // (rows+1)
                         const int64_t *__restrict__ count,   // (CSP_IMPACTS_COUNTS)
                         int32_t *__restrict__ out_term,      // (cap)
                         uint8_t *__restrict__ out_impact)    // (4 cap)
{
    SHARED(kept_of, int32_t[IMPACTS_WARPS]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const uint32_t lanes_below = (1u << lane) - 1;
    const int32_t bytes = csp_impact_bytes(count[CSP_IMPACTS_LARGEST]);
    bool clipped;

    for (int64_t r = blockIdx.x; r < w.rows; r += gridDim.x) {
        const int64_t first = w.row_ptr[r], n = w.row_ptr[r + 1] - first;
        const int64_t slice = ceil_div(ceil_div(n, 32), IMPACTS_WARPS) * 32;
        const int64_t from = first + (warp * slice < n ? warp * slice : n);
        const int64_t end = from + slice < first + n ? from + slice : first + n;
        int32_t kept = 0;
        int64_t at;

#pragma unroll 4
        for (int64_t i = from + lane; i < end; i += 32) {
            kept += csp_impact_stored(quant, w.weight[i], &clipped) > 0;
        }
        kept = __reduce_add_sync(FULL_WARP, kept);
        if (lane == 0) {
            kept_of[warp] = kept;
        }
        __syncthreads();
        at = out_ptr[r] + warp_sum(lane < warp ? kept_of[lane] : 0);
#pragma unroll 4
        for (int64_t i = from; i < end; i += 32) {
            const int32_t impact =
                i + lane < end ? csp_impact_stored(quant, w.weight[i + lane], &clipped) : 0;
            const uint32_t keeps = __ballot_sync(FULL_WARP, impact > 0);

            if (impact > 0) {
                const int64_t place = at + __popc(keeps & lanes_below);

                out_term[place] = w.term[i + lane];
                put_impact(out_impact, place, impact, bytes);
            }
            at += __popc(keeps);
        }
        __syncthreads();
    }
}

csp_status cuda_impacts(csp_backend *be, const csp_sparse *w, int64_t rows, const csp_quant *quant,
                        csp_impact_rows *out)
{
    const dim3 grid = stride_grid(rows, 1, (int64_t)cuda_state_of(be)->processors * 2);
    const sparse_rows from = sparse_rows_of(w, 0, rows);
    int64_t *out_ptr = (int64_t *)out->row_ptr.data, *count = (int64_t *)out->count.data;
    cudaStream_t stream = cuda_stream(be, "impacts");
    row_count *row;

    CSP_TRY(cuda_scratch(be, (size_t)rows * sizeof(*row), (void **)&row));
    CUDA_TRY(cu::launch(impacts_count_kernel, grid, IMPACTS_THREADS, 0, stream, from, *quant, row));
    CUDA_TRY(cu::launch(impacts_place_kernel, 1, 32, 0, stream, from, (const row_count *)row,
                        out_ptr, count));
    CUDA_TRY(cu::launch(impacts_write_kernel, grid, IMPACTS_THREADS, 0, stream, from, *quant,
                        (const int64_t *)out_ptr, (const int64_t *)count, (int32_t *)out->term.data,
                        (uint8_t *)out->impact.data));
    return CSP_OK;
}
