/*
 * sparse_pool_bwd.cu - CUDA side of ops/sparse_pool.h, backward of max pooling by lists of entries.
 *
 * The gradient of the logits has one non-zero for each stored entry, dz = dw exp(-w); what costs is
 * gathering rows of D numbers, one for each entry and direction.
 *
 *   dh   For a group of texts the entries are sorted by the token that won them: each text is cut
 *        into POOL_SLICES runs of entries, a warp counts its run's entries at each position, the
 *        counts are added up in order of (position, run), and the same warps put their entries in
 *        place, 32 at a time, entries of one position in order of lanes. So a token's list is in
 *        order of terms. Then a warp owns WIDTH columns a lane of one token's row and adds the rows
 *        of e in its list.
 *   de   For a block of the vocabulary the entries are spread into a table (terms,texts); a warp
 *        owns columns of one term's row, finds the texts that have the term by votes, 32 at a time,
 *        and adds the rows of h that won, in order of texts.
 *
 * Sums are in float32 whatever is stored; dh is rounded once. No floating-point atomics and one
 * owner of each sum: the same bits on every run. Streaming (sparse_pool_stream.cu) adds up dh to
 * the same bits, too, so both say fmaf: whether a product and a sum are rounded once or twice is
 * otherwise the compiler's choice, in each kernel anew. Entries whose dw is 0 are left out. Bound
 * by reading a row of D for each entry from the second-level cache or, rows of h, from memory. A
 * token that wins most terms of its text (the first, where BOS is an attention sink) is one long
 * list for a warp of each 512 bytes: the order of terms in the contract forbids cutting it.
 *
 * Where entries are many for the number of tokens, other ways are faster: sparse_pool_stream.cu,
 * sparse_pool_tiles.cu.
 *
 * Scratch: dh 8 bytes for each entry of a group (at most 64 MiB, or one full row) and 68 bytes for
 * each token; de 8 bytes for each (term, text) of a block, at most 64 MiB or one term. Not at once.
 */
#include "reduce.cuh"
#include "sparse_pool.cuh"
#include "vec.cuh"

#define GRAD_THREADS 128
#define GATHER_AHEAD 4 /* rows on their way at once */

/* Entries first .. end-1 of run s of text b. */
static __device__ __forceinline__ void entries_of_run(const pool_entries &p, int64_t b, int64_t s,
                                                      int64_t *first, int64_t *end)
{
    const int64_t row = p.row_ptr[b], entries = p.row_ptr[b + 1] - row;

    *first = row + entries * s / POOL_SLICES;
    *end = row + entries * (s + 1) / POOL_SLICES;
}

/* Counts, all zero before, of entries at each token. Any grid: warps stride over runs. */
static __global__ void __launch_bounds__(GRAD_THREADS)
    pool_token_count_kernel(pool_entries p, token_lists lists)
{
    const int lane = (int)(threadIdx.x % 32);

    for (int64_t i = grid_thread() / 32; i < p.texts * POOL_SLICES; i += grid_threads() / 32) {
        const int64_t b = i / POOL_SLICES, s = i % POOL_SLICES;
        int32_t *counts = lists.cursor + (int64_t)p.seq_start[b] * POOL_SLICES + s;
        int64_t first, end;

        entries_of_run(p, b, s, &first, &end);
        for (int64_t j = first + lane; j < end; j += 32) {
            if (is_listed(p, j)) {
                /* Whole numbers: any order gives the same. */
                atomicAdd(counts + (int64_t)p.argmax[j] * POOL_SLICES, 1);
            }
        }
    }
}

/*
 * Counts become places, in order of (token, run) from the text's first entry on, counted from the
 * group's first. Any grid: a warp for each text.
 */
static __global__ void __launch_bounds__(GRAD_THREADS)
    pool_token_place_kernel(pool_entries p, token_lists lists)
{
    const int lane = (int)(threadIdx.x % 32);

    for (int64_t b = grid_thread() / 32; b < p.texts; b += grid_threads() / 32) {
        const int64_t end = (int64_t)p.seq_start[b + 1] * POOL_SLICES;
        int32_t at = (int32_t)(p.row_ptr[b] - p.row_ptr[0]);

        for (int64_t i = (int64_t)p.seq_start[b] * POOL_SLICES; i < end; i += 32) {
            const bool mine = i + lane < end;
            const int32_t own = mine ? lists.cursor[i + lane] : 0;
            const int32_t sum = warp_running_sum(own);

            if (mine) {
                lists.cursor[i + lane] = at + sum - own;
            }
            if (mine && (i + lane) % POOL_SLICES == 0) {
                lists.start[(i + lane) / POOL_SLICES] = at + sum - own;
            }
            at += __shfl_sync(FULL_WARP, sum, 31);
        }
        if (b == p.texts - 1 && lane == 0) {
            lists.start[end / POOL_SLICES] = at;
        }
    }
}

/* Puts the entries into the lists; each cursor ends behind its run's last. Any grid: runs. */
static __global__ void __launch_bounds__(GRAD_THREADS)
    pool_token_fill_kernel(pool_entries p, token_lists lists)
{
    const int lane = (int)(threadIdx.x % 32);
    const uint32_t lanes_below = (1u << lane) - 1;

    for (int64_t i = grid_thread() / 32; i < p.texts * POOL_SLICES; i += grid_threads() / 32) {
        const int64_t b = i / POOL_SLICES, s = i % POOL_SLICES;
        int32_t *cursors = lists.cursor + (int64_t)p.seq_start[b] * POOL_SLICES + s;
        int64_t first, end;

        entries_of_run(p, b, s, &first, &end);
        for (int64_t j = first; j < end; j += 32) {
            const int64_t mine = j + lane;
            const bool listed = mine < end && is_listed(p, mine);
            const int32_t position = listed ? p.argmax[mine] : -1;
            const uint32_t same = __match_any_sync(FULL_WARP, position);
            const int before = __popc(same & lanes_below);
            int32_t *cursor = cursors + (listed ? (int64_t)position * POOL_SLICES : 0);
            const int32_t at = listed ? *cursor + before : 0;

            __syncwarp(); /* all have read before one moves the cursor */
            if (listed) {
                lists.term[at] = p.term[mine];
                lists.dz[at] = gradient_of(p, mine);
                if (before == 0) {
                    *cursor = at + __popc(same);
                }
            }
            __syncwarp();
        }
    }
}

/* WIDTH neighbouring f32 of de, at most 4 at once. */
template <int WIDTH>
static __device__ __forceinline__ void load_sums(const float *from, float (&x)[WIDTH])
{
    const int step = WIDTH < 4 ? WIDTH : 4;

#pragma unroll
    for (int c = 0; c < WIDTH; c += step) {
        float part[step];

        load_vec(from + c, part);
#pragma unroll
        for (int j = 0; j < step; j++) {
            x[c + j] = part[j];
        }
    }
}

template <int WIDTH>
static __device__ __forceinline__ void store_sums(float *to, const float (&x)[WIDTH])
{
    const int step = WIDTH < 4 ? WIDTH : 4;

#pragma unroll
    for (int c = 0; c < WIDTH; c += step) {
        float part[step];

#pragma unroll
        for (int j = 0; j < step; j++) {
            part[j] = x[c + j];
        }
        store_vec(to + c, part);
    }
}

/*
 * dh rows of the group's tokens. Any grid: a warp for each token and 32 WIDTH columns; a lane reads
 * WIDTH elements at once, 16 bytes or a single one.
 */
template <typename S, int WIDTH>
static __global__ void __launch_bounds__(GRAD_THREADS)
    pool_dh_kernel(pool_entries p, token_lists lists,
                   const S *__restrict__ e, // (V,D)
                   S *__restrict__ dh,      // (N,D)
                   int64_t D)
{
    const int64_t parts = ceil_div(D, 32 * WIDTH);
    const int64_t end = (int64_t)p.seq_start[p.texts] * parts;

    for (int64_t i = (int64_t)p.seq_start[0] * parts + grid_thread() / 32; i < end;
         i += grid_threads() / 32) {
        const int64_t n = i / parts, column = (i % parts * 32 + threadIdx.x % 32) * WIDTH;
        const int32_t stop = lists.cursor[n * POOL_SLICES + POOL_SLICES - 1];
        int32_t at = lists.start[n];
        float sum[WIDTH] = {};

        if (column >= D) {
            continue;
        }
        for (; at + GATHER_AHEAD <= stop; at += GATHER_AHEAD) {
            float x[GATHER_AHEAD][WIDTH];

#pragma unroll
            for (int j = 0; j < GATHER_AHEAD; j++) {
                load_vec(e + (int64_t)lists.term[at + j] * D + column, x[j]);
            }
#pragma unroll
            for (int j = 0; j < GATHER_AHEAD; j++) {
#pragma unroll
                for (int c = 0; c < WIDTH; c++) {
                    sum[c] = fmaf(lists.dz[at + j], x[j][c], sum[c]);
                }
            }
        }
        for (; at < stop; at++) {
            float x[WIDTH];

            load_vec(e + (int64_t)lists.term[at] * D + column, x);
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                sum[c] = fmaf(lists.dz[at], x[c], sum[c]);
            }
        }
        store_vec(dh + n * D + column, sum);
    }
}

/* Spreads the entries of terms v .. v+width-1 over table.dz, all zero before. Any grid: runs. */
static __global__ void __launch_bounds__(GRAD_THREADS)
    pool_term_spread_kernel(pool_entries p, term_table table)
{
    const int lane = (int)(threadIdx.x % 32);

    for (int64_t i = grid_thread() / 32; i < p.texts * POOL_SLICES; i += grid_threads() / 32) {
        const int64_t b = i / POOL_SLICES, s = i % POOL_SLICES;
        const int64_t first = entry_of_term(p.term, p.row_ptr[b], p.row_ptr[b + 1], table.v);
        const int64_t end = entry_of_term(p.term, first, p.row_ptr[b + 1], table.v + table.width);

        for (int64_t j = first + s * 32 + lane; j < end; j += 32 * POOL_SLICES) {
            const int64_t at = (p.term[j] - table.v) * p.texts + b;

            if (p.dw[j] != 0.0f) {
                table.dz[at] = gradient_of(p, j);
                table.row[at] = p.seq_start[b] + p.argmax[j];
            }
        }
    }
}

/* sum += factor x. */
template <typename S, int WIDTH>
static __device__ __forceinline__ void add_row(const vec_raw<S, WIDTH> &raw, float factor,
                                               float (&sum)[WIDTH])
{
    float x[WIDTH];

    unpack_raw(raw, x);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        sum[c] += factor * x[c];
    }
}

/*
 * de rows of the block += their texts' rows of h. Any grid: a warp for each term and columns.
 * 8 blocks: 64 registers a thread, so that GATHER_AHEAD rows have room.
 */
template <typename S, int WIDTH>
static __global__ void __launch_bounds__(GRAD_THREADS, 8)
    pool_de_kernel(term_table table,
                   const S *__restrict__ h, // (N,D)
                   float *__restrict__ de,  // (V,D)
                   int64_t texts, int64_t D)
{
    const int64_t parts = ceil_div(D, 32 * WIDTH);
    const int lane = (int)(threadIdx.x % 32);

    for (int64_t i = grid_thread() / 32; i < table.width * parts; i += grid_threads() / 32) {
        const int64_t j = i / parts, column = (i % parts * 32 + lane) * WIDTH;
        float *to = de + (table.v + j) * D + column;
        float sum[WIDTH] = {};
        bool read = false;

        for (int64_t b = 0; b < texts; b += 32) {
            const bool mine = b + lane < texts;
            const float dz = mine ? table.dz[j * texts + b + lane] : 0.0f;
            const int32_t row = dz != 0.0f ? table.row[j * texts + b + lane] : 0;
            uint32_t left = __ballot_sync(FULL_WARP, dz != 0.0f);

            if (left != 0 && !read && column < D) {
                load_sums(to, sum);
                read = true;
            }
            while (left != 0) {
                vec_raw<S, WIDTH> x[GATHER_AHEAD];
                float factor[GATHER_AHEAD];
                const int count = __popc(left) < GATHER_AHEAD ? __popc(left) : GATHER_AHEAD;

#pragma unroll
                for (int k = 0; k < GATHER_AHEAD; k++) {
                    const int from = left != 0 ? __ffs((int)left) - 1 : 0;
                    const int64_t n = __shfl_sync(FULL_WARP, row, from);

                    factor[k] = __shfl_sync(FULL_WARP, dz, from);
                    left &= left - 1;
                    if (k < count && column < D) {
                        x[k] = load_raw<S, WIDTH>(h + n * D + column);
                    }
                }
#pragma unroll
                for (int k = 0; k < GATHER_AHEAD; k++) {
                    if (k < count) {
                        add_row(x[k], factor[k], sum);
                    }
                }
            }
        }
        if (read) {
            store_sums(to, sum);
        }
    }
}

csp_status pool_lists_place(csp_arena *arena, int64_t N, int64_t entries, token_lists *out)
{
    CSP_TRY(pool_take(arena, N + 1, &out->start));
    CSP_TRY(pool_take(arena, N * POOL_SLICES, &out->cursor));
    CSP_TRY(pool_take(arena, entries, &out->term));
    return pool_take(arena, entries, &out->dz);
}

csp_status pool_lists_fill(csp_backend *be, const pool_entries *p, int64_t N,
                           const token_lists *lists)
{
    const dim3 runs = pool_grid(be, p->texts * POOL_SLICES * 32, GRAD_THREADS);
    cudaStream_t stream = cuda_stream(be, "sparse_pool_bwd");

    CUDA_TRY(
        cudaMemsetAsync(lists->cursor, 0, (size_t)(N * POOL_SLICES) * sizeof(int32_t), stream));
    CUDA_TRY(cu::launch(pool_token_count_kernel, runs, GRAD_THREADS, 0, stream, *p, *lists));
    CUDA_TRY(cu::launch(pool_token_place_kernel, pool_grid(be, p->texts * 32, GRAD_THREADS),
                        GRAD_THREADS, 0, stream, *p, *lists));
    CUDA_TRY(cu::launch(pool_token_fill_kernel, runs, GRAD_THREADS, 0, stream, *p, *lists));
    return CSP_OK;
}

/* dh of a group of texts. */
template <typename S>
static csp_status add_group(csp_backend *be, const pool_entries *p, const token_lists *lists,
                            const csp_head *head, csp_tensor *dh)
{
    const int64_t N = dh->dim[0], D = dh->dim[1];
    const int width = vec_width<S>::value;
    const S *e = (const S *)head->e.data;
    const bool wide = is_vec_row(e, D) && is_vec_row((const S *)dh->data, D);
    const int64_t rows = N * ceil_div(D, wide ? 32 * width : 32);

    CSP_TRY(pool_lists_fill(be, p, N, lists));
    CUDA_TRY(cu::launch(wide ? pool_dh_kernel<S, width> : pool_dh_kernel<S, 1>,
                        pool_grid(be, rows * 32, GRAD_THREADS), GRAD_THREADS, 0,
                        cuda_stream(be, "sparse_pool_bwd"), *p, *lists, e, (S *)dh->data, D));
    return CSP_OK;
}

template <typename S>
static csp_status form_dh(csp_backend *be, const pool_entries *all, const csp_head *head,
                          csp_tensor *dh)
{
    const int64_t V = head->e.dim[0], group = pool_at_once(all->texts, V);
    csp_arena scratch = {};
    token_lists lists;
    void *memory;

    CSP_TRY(pool_lists_place(&scratch, dh->dim[0], group * V, &lists));
    CSP_TRY(cuda_scratch(be, scratch.peak, &memory));
    scratch = { (char *)memory, scratch.peak, 0, 0 };
    CSP_TRY(pool_lists_place(&scratch, dh->dim[0], group * V, &lists));
    for (int64_t b = 0; b < all->texts; b += group) {
        pool_entries p = *all;

        p.texts = all->texts - b < group ? all->texts - b : group;
        p.row_ptr += b;
        p.seq_start += b;
        CSP_TRY(add_group<S>(be, &p, &lists, head, dh));
    }
    return CSP_OK;
}

csp_status pool_dh_lists(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    const pool_entries all = pool_entries_of(head, g);

    if (all.texts == 0) {
        CUDA_TRY(cudaMemsetAsync(g->dh.data, 0, csp_tensor_bytes(&g->dh),
                                 cuda_stream(be, "sparse_pool_bwd")));
        return CSP_OK;
    }
    return head->e.dtype == CSP_BF16 ? form_dh<__nv_bfloat16>(be, &all, head, &g->dh)
                                     : form_dh<float>(be, &all, head, &g->dh);
}

csp_status pool_table_place(csp_arena *arena, int64_t pairs, term_table *out)
{
    CSP_TRY(pool_take(arena, pairs, &out->dz));
    return pool_take(arena, pairs, &out->row);
}

csp_status pool_table_fill(csp_backend *be, const pool_entries *p, const term_table *table)
{
    cudaStream_t stream = cuda_stream(be, "sparse_pool_bwd");

    CUDA_TRY(
        cudaMemsetAsync(table->dz, 0, (size_t)(table->width * p->texts) * sizeof(float), stream));
    CUDA_TRY(cu::launch(pool_term_spread_kernel,
                        pool_grid(be, p->texts * POOL_SLICES * 32, GRAD_THREADS), GRAD_THREADS, 0,
                        stream, *p, *table));
    return CSP_OK;
}

template <typename S>
static csp_status add_de(csp_backend *be, const pool_entries *p, const csp_tensor *h,
                         csp_tensor *de)
{
    const int64_t V = de->dim[0], D = de->dim[1], block = pool_at_once(V, p->texts);
    const int width = vec_width<S>::value;
    const bool wide = is_vec_row((const S *)h->data, D) && is_vec_row((const float *)de->data, D);
    csp_arena scratch = {};
    term_table table;
    void *memory;

    CSP_TRY(pool_table_place(&scratch, block * p->texts, &table));
    CSP_TRY(cuda_scratch(be, scratch.peak, &memory));
    scratch = { (char *)memory, scratch.peak, 0, 0 };
    CSP_TRY(pool_table_place(&scratch, block * p->texts, &table));
    for (table.v = 0; table.v < V; table.v += block) {
        table.width = V - table.v < block ? V - table.v : block;

        const int64_t rows = table.width * ceil_div(D, wide ? 32 * width : 32);
        CSP_TRY(pool_table_fill(be, p, &table));
        CUDA_TRY(cu::launch(wide ? pool_de_kernel<S, width> : pool_de_kernel<S, 1>,
                            pool_grid(be, rows * 32, GRAD_THREADS), GRAD_THREADS, 0,
                            cuda_stream(be, "sparse_pool_bwd"), table, (const S *)h->data,
                            (float *)de->data, p->texts, D));
    }
    return CSP_OK;
}

csp_status pool_de_lists(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    const pool_entries all = pool_entries_of(head, g);

    if (all.texts == 0) {
        return CSP_OK;
    }
    return head->e.dtype == CSP_BF16 ? add_de<__nv_bfloat16>(be, &all, &g->h, &g->de)
                                     : add_de<float>(be, &all, &g->h, &g->de);
}
