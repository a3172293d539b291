/*
 * row_list.cu - rows are copied in words of 16 bytes where they are cut so, else of 4 or 2. Memory
 * bound; neighbouring threads copy neighbouring words.
 */
#include "row_list.cuh"

#include "launch.cuh"
#include "vec.cuh"

#define COPY_THREADS 256

/* Any grid works: threads stride over words. */
template <typename word>
static __global__ void __launch_bounds__(COPY_THREADS)
    gather_rows_kernel(const word *__restrict__ from,    // (N,width)
                       const int32_t *__restrict__ list, // (n)
                       word *__restrict__ to,            // (n,width)
                       int64_t n, int64_t width)
{
    for (int64_t i = grid_thread(); i < n * width; i += grid_threads()) {
        to[i] = from[list[i / width] * width + i % width];
    }
}

template <typename word>
static __global__ void __launch_bounds__(COPY_THREADS)
    scatter_rows_kernel(const word *__restrict__ from,    // (n,width)
                        const int32_t *__restrict__ list, // (n)
                        word *__restrict__ to,            // (N,width)
                        int64_t n, int64_t width)
{
    for (int64_t i = grid_thread(); i < n * width; i += grid_threads()) {
        to[list[i / width] * width + i % width] = from[i];
    }
}

template <typename word>
static csp_status copy_words(csp_backend *be, bool gather, const void *from, const int32_t *list,
                             void *to, int64_t n, int64_t bytes)
{
    const int64_t width = bytes / (int64_t)sizeof(word);
    cuda_state *state = cuda_state_of(be);
    const dim3 grid = stride_grid(n * width, COPY_THREADS, (int64_t)state->processors * 8);

    CUDA_TRY(cu::launch(gather ? gather_rows_kernel<word> : scatter_rows_kernel<word>, grid,
                        COPY_THREADS, 0, state->stream, (const word *)from, list, (word *)to, n,
                        width));
    return CSP_OK;
}

static csp_status copy_rows(csp_backend *be, bool gather, const void *from, const int32_t *list,
                            void *to, int64_t n, int64_t bytes)
{
    const uint64_t cut = (uint64_t)(uintptr_t)from | (uint64_t)(uintptr_t)to | (uint64_t)bytes;

    if (cut % 16 == 0) {
        return copy_words<vec_of<float, 4>>(be, gather, from, list, to, n, bytes);
    }
    return cut % 4 == 0 ? copy_words<uint32_t>(be, gather, from, list, to, n, bytes)
                        : copy_words<uint16_t>(be, gather, from, list, to, n, bytes);
}

csp_status cuda_gather_rows(csp_backend *be, const void *from, const int32_t *list, void *to,
                            int64_t n, int64_t bytes)
{
    return copy_rows(be, true, from, list, to, n, bytes);
}

csp_status cuda_scatter_rows(csp_backend *be, const void *from, const int32_t *list, void *to,
                             int64_t n, int64_t bytes)
{
    return copy_rows(be, false, from, list, to, n, bytes);
}
