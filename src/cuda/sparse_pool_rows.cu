/*
 * sparse_pool_rows.cu - a table of pooled logits becomes sparse rows, in order of terms.
 *
 * A row is cut into slices of SLICE_TERMS, a warp for each: it counts its slice's entries, the
 * counts are added up along the rows and over them, and a warp writes its slice from there on, 32
 * terms at a time, each lane's place being the number of entries in the lanes below. No atomics,
 * one place for each entry. Memory bound: reads the table twice.
 */
#include "reduce.cuh"
#include "sparse_pool.cuh"
#include "vec.cuh"

#define ROWS_THREADS 128
#define SLICE_TERMS 512

csp_status pool_counts_place(csp_arena *arena, int64_t texts, int64_t V, pool_counts *out)
{
    CSP_TRY(pool_take(arena, texts + 1, &out->row_start));
    CSP_TRY(pool_take(arena, texts, &out->row_size));
    return pool_take(arena, texts * ceil_div(V, SLICE_TERMS), &out->slice);
}

/* What term v of row b stores, 0 or less: nothing. */
static __device__ __forceinline__ float value_of(const pool_table &table, int64_t b, int64_t v)
{
    const int64_t at = b * table.V + v;
    const float best =
        table.key != NULL ? __uint_as_float((uint32_t)table.key[at] & 0xFFFF0000u) : table.best[at];
    const float value = best * table.scale;

    return table.exclude != NULL && table.exclude[v] != 0 ? 0.0f : value;
}

/* So is a NaN, which must not get lost. */
static __device__ __forceinline__ bool is_stored(float value)
{
    return !(value <= 0.0f);
}

/* The position of what term v of row b stores. */
static __device__ __forceinline__ int32_t position_of(const pool_table &table, int64_t b, int64_t v)
{
    const int64_t at = b * table.V + v;
    const int32_t position = table.key != NULL ? 65535 - (table.key[at] & 0xFFFF) : table.arg[at];

    return table.row != NULL ? table.row[table.start[b] + position] - table.seq_start[b] : position;
}

/* Any grid works: warps stride over slices. */
static __global__ void __launch_bounds__(ROWS_THREADS)
    pool_count_kernel(pool_table table,             // (texts,V)
                      int32_t *__restrict__ counts, // (texts,slices)
                      int64_t slices)
{
    const int lane = (int)(threadIdx.x % 32);

    for (int64_t i = grid_thread() / 32; i < table.texts * slices; i += grid_threads() / 32) {
        const int64_t b = i / slices, first = i % slices * SLICE_TERMS;
        const int64_t end = first + SLICE_TERMS < table.V ? first + SLICE_TERMS : table.V;
        int entries = 0;

        for (int64_t v = first + lane; v < end; v += 32) {
            entries += is_stored(value_of(table, b, v));
        }
        entries = __reduce_add_sync(FULL_WARP, entries);
        if (lane == 0) {
            counts[i] = entries;
        }
    }
}

/* Counts become the entries of the same row before the slice. Any grid: a warp for each row. */
static __global__ void __launch_bounds__(ROWS_THREADS)
    pool_slice_kernel(int32_t *__restrict__ counts,   // (texts,slices)
                      int64_t *__restrict__ row_size, // (texts)
                      int64_t texts, int64_t slices)
{
    const int lane = (int)(threadIdx.x % 32);

    for (int64_t b = grid_thread() / 32; b < texts; b += grid_threads() / 32) {
        int32_t before = 0;

        for (int64_t s = 0; s < slices; s += 32) {
            const bool mine = s + lane < slices;
            const int32_t own = mine ? counts[b * slices + s + lane] : 0;
            const int32_t sum = warp_running_sum(own);

            if (mine) {
                counts[b * slices + s + lane] = before + sum - own;
            }
            before += __shfl_sync(FULL_WARP, sum, 31);
        }
        if (lane == 0) {
            row_size[b] = before;
        }
    }
}

/* One warp. */
static __global__ void __launch_bounds__(32)
    pool_start_kernel(const int64_t *__restrict__ before,   // (1) place of the first entry, NULL: 0
                      const int64_t *__restrict__ row_size, // (texts)
                      int64_t *__restrict__ row_start,      // (texts+1)
                      int64_t texts)
{
    const int lane = (int)threadIdx.x;
    int64_t at = before != NULL ? *before : 0;

    if (lane == 0) {
        row_start[0] = at;
    }
    for (int64_t b = 0; b < texts; b += 32) {
        const int64_t sum = warp_running_sum(b + lane < texts ? row_size[b + lane] : 0);

        if (b + lane < texts) {
            row_start[b + lane + 1] = at + sum;
        }
        at += __shfl_sync(FULL_WARP, sum, 31);
    }
}

csp_status pool_rows_count(csp_backend *be, const pool_table *table, const int64_t *before,
                           const pool_counts *counts)
{
    const int64_t slices = ceil_div(table->V, SLICE_TERMS);
    cudaStream_t stream = cuda_stream(be, "sparse_pool");

    CUDA_TRY(cu::launch(pool_count_kernel, pool_grid(be, table->texts * slices * 32, ROWS_THREADS),
                        ROWS_THREADS, 0, stream, *table, counts->slice, slices));
    CUDA_TRY(cu::launch(pool_slice_kernel, pool_grid(be, table->texts * 32, ROWS_THREADS),
                        ROWS_THREADS, 0, stream, counts->slice, counts->row_size, table->texts,
                        slices));
    CUDA_TRY(cu::launch(pool_start_kernel, 1, 32, 0, stream, before, counts->row_size,
                        counts->row_start, table->texts));
    return CSP_OK;
}

/* Any grid works: warps stride over slices. */
static __global__ void __launch_bounds__(ROWS_THREADS)
    pool_write_kernel(pool_table table,                      // (texts,V)
                      const int32_t *__restrict__ before,    // (texts,slices)
                      const int64_t *__restrict__ row_start, // (texts)
                      int32_t *__restrict__ term,            // (cap)
                      float *__restrict__ weight,            // (cap)
                      int32_t *__restrict__ argmax,          // (cap), not written for sum
                      int64_t slices)
{
    const bool is_max = table.key != NULL || table.arg != NULL;
    const int lane = (int)(threadIdx.x % 32);
    const uint32_t lanes_below = (1u << lane) - 1;

    for (int64_t i = grid_thread() / 32; i < table.texts * slices; i += grid_threads() / 32) {
        const int64_t b = i / slices, first = i % slices * SLICE_TERMS;
        const int64_t end = first + SLICE_TERMS < table.V ? first + SLICE_TERMS : table.V;
        int64_t at = row_start[b] + before[i];

        for (int64_t v = first; v < end; v += 32) {
            const int64_t mine = v + lane;
            const float value = mine < end ? value_of(table, b, mine) : 0.0f;
            const uint32_t stored = __ballot_sync(FULL_WARP, is_stored(value));

            if (is_stored(value)) {
                const int64_t place = at + __popc(stored & lanes_below);

                term[place] = (int32_t)mine;
                weight[place] = is_max ? log1pf(value) : value;
                if (is_max) {
                    argmax[place] = position_of(table, b, mine);
                }
            }
            at += __popc(stored);
        }
    }
}

csp_status pool_rows_write(csp_backend *be, const pool_table *table, int64_t first,
                           const pool_counts *counts, csp_sparse *out)
{
    const int64_t slices = ceil_div(table->V, SLICE_TERMS);

    CUDA_TRY(cu::launch(pool_write_kernel, pool_grid(be, table->texts * slices * 32, ROWS_THREADS),
                        ROWS_THREADS, 0, cuda_stream(be, "sparse_pool"), *table,
                        counts->slice + first * slices, counts->row_start + first,
                        (int32_t *)out->term.data, (float *)out->weight.data,
                        (int32_t *)out->argmax.data, slices));
    return CSP_OK;
}
