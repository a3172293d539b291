/*
 * sparse_pool_kept.cu - the kept rows of a batch as a list, so that no product is formed for the
 * others: an echo keeps half of its rows.
 *
 * One block counts along the batch, a vote of each warp for 32 rows at a time. The host knows how
 * many are kept (csp_pool_texts) and need not wait. Where all are, there is nothing to do.
 */
#include "reduce.cuh"
#include "row_list.cuh"
#include "sparse_pool.cuh"

#define KEPT_THREADS 1024

static __global__ void __launch_bounds__(KEPT_THREADS)
    pool_kept_kernel(const uint8_t *__restrict__ keep,      // (N)
                     const int32_t *__restrict__ seq_start, // (B+1)
                     int64_t N, int64_t B, pool_kept out)
{
    SHARED(warp_count, int[KEPT_THREADS / 32]);
    const int warp = (int)(threadIdx.x / 32), lane = (int)(threadIdx.x % 32);
    int64_t before = 0;

    for (int64_t first = 0; first < N; first += KEPT_THREADS) {
        const int64_t n = first + threadIdx.x;
        const bool kept = n < N && keep[n] != 0;
        const uint32_t votes = __ballot_sync(FULL_WARP, kept);
        int64_t place = before + __popc(votes & ((1u << lane) - 1));

        if (lane == 0) {
            warp_count[warp] = __popc(votes);
        }
        __syncthreads();
        for (int w = 0; w < KEPT_THREADS / 32; w++) {
            place += w < warp ? warp_count[w] : 0;
            before += warp_count[w];
        }
        if (n < N) {
            out.place[n] = (int32_t)place;
        }
        if (kept && place < out.count) {
            out.row[place] = (int32_t)n;
        }
        __syncthreads();
    }
    for (int64_t b = threadIdx.x; b <= B; b += KEPT_THREADS) {
        out.start[b] = seq_start[b] < N ? out.place[seq_start[b]] : (int32_t)before;
    }
}

csp_status pool_kept_place(csp_arena *arena, const csp_pool_texts *texts, pool_kept *out)
{
    const int64_t N = texts->keep.dim[0];

    out->count = texts->kept;
    out->row = NULL;
    out->place = NULL;
    if (texts->kept == N) {
        out->start = (int32_t *)texts->seq_start.data;
        return CSP_OK;
    }
    CSP_TRY(pool_take(arena, texts->seq_start.dim[0], &out->start));
    CSP_TRY(pool_take(arena, texts->kept, &out->row));
    return pool_take(arena, N, &out->place);
}

csp_status pool_kept_list(csp_backend *be, const csp_pool_texts *texts, const pool_kept *kept)
{
    if (texts->kept == texts->keep.dim[0]) {
        return CSP_OK;
    }
    CUDA_TRY(cu::launch(pool_kept_kernel, 1, KEPT_THREADS, 0, cuda_stream(be, "sparse_pool"),
                        (const uint8_t *)texts->keep.data, (const int32_t *)texts->seq_start.data,
                        texts->keep.dim[0], texts->seq_start.dim[0] - 1, *kept));
    return CSP_OK;
}

csp_status pool_kept_rows(csp_backend *be, const pool_kept *kept, const void *h, int64_t from,
                          int64_t count, int64_t bytes, void *room, const void **out)
{
    if (kept->row == NULL) {
        *out = (const char *)h + from * bytes;
        return CSP_OK;
    }
    CSP_TRY(cuda_gather_rows(be, h, kept->row + from, room, count, bytes));
    *out = room;
    return CSP_OK;
}
